"""The command line. Each command is a thin call."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer.exceptions import TyperException

from polyvae import __version__, runs
from polyvae import study as studies
from polyvae.cli import tables
from polyvae.cli.listing import described, list_datasets, list_models
from polyvae.cli.options import Quiet, Run, Set, Trust
from polyvae.cli.sampling import sample
from polyvae.cli.tables import Device
from polyvae.config import RunConfig, read_config
from polyvae.data.custom import is_import, is_path
from polyvae.models import model_class
from polyvae.study.cluster import LOCAL
from polyvae.training.directory import RunDirectory
from polyvae.training.processes import is_first, is_reported_elsewhere
from polyvae.utils.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Multimodal variational autoencoders: train, evaluate and compare models; generate missing modalities.",
    epilog="Example: `polyvae demo`. Errors take one line; `--debug` adds the traceback. "
    "Exit codes: 0 success, 1 unexpected error, 2 invalid input, 130 interrupted.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"polyvae {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: `polyvae demo`")
def demo(
    out: Annotated[
        Path, typer.Option(help="The run directory; runs/demo is replaced, any other requires --force.")
    ] = Path("runs/demo"),
    force: Annotated[bool, typer.Option("--force", metavar="", help="Replace an existing run.")] = False,
    settings: Set = None,
    quiet: Quiet = False,
) -> None:
    """Train MMVAE+ on embedded data, evaluate it, and write a report. Works offline, in a few minutes on two cores."""
    config = _begun(read_config(runs.DEMO, settings or []))
    force = force or out == Path("runs/demo")
    _stop_if_interrupted(runs.train_run(config, out, force=force, show=not quiet).stopped, out, config)
    if is_first():
        _finish(out, quiet)


@app.command(
    epilog="Examples: `polyvae train --model mmvae+ --data polydigits --out runs/mine`, "
    "`polyvae train experiments/mine.toml --set train.epochs=5`, `polyvae train --resume --out runs/mine`"
)
def train(
    config: Annotated[
        Path | None,
        typer.Argument(help="A TOML file; by default, the default configuration.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A name from `polyvae models`, or module:Class.", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A name from `polyvae datasets`, a file, or module:function.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run directory; runs/MODEL-DATA by default.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training part.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of the initial weights, the order of samples, and the noise.", show_default=False
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.", show_default=False)] = None,
    hide: Annotated[
        float | None,
        typer.Option(help="Fraction of the modalities that are hidden in training.", show_default=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", metavar="", help="Resume from the newest checkpoint.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", metavar="", help="Replace an existing run.")] = False,
    settings: Set = None,
    trust: Trust = None,
    quiet: Quiet = False,
) -> None:
    """Train a model. Ctrl-C saves a checkpoint. --resume without a TOML file uses the configuration of the run; --trust allows its code."""
    given = {
        "model.name": model,
        "data.name": data,
        "train.epochs": epochs,
        "train.seed": seed,
        "train.device": device,
        "data.hide": hide,
    }
    changes = [f"{key}={value}" for key, value in given.items() if value is not None] + (settings or [])
    if resume and config is None:
        out = out or _place(model or "mmvae+", data or "polydigits")
        wanted = runs.stored_config(out, changes, trust or ())
    else:
        wanted = read_config(config, changes)
    wanted = wanted if resume else _begun(wanted)
    where = out or (
        Path("runs") / config.stem if config is not None else _place(wanted.model.name, wanted.data.name)
    )
    history = runs.train_run(wanted, where, resume=resume, force=force, show=not quiet)
    _stop_if_interrupted(history.stopped, where, wanted)
    if not is_first():
        return
    what = "nothing was left to do" if history.step == history.resumed else "trained"
    typer.echo(f"{what} ({history.stopped}, step {history.step}): {where}")


@app.command(epilog="Example: `polyvae evaluate runs/mine`")
def evaluate(
    run: Run, settings: Set = None, trust: Trust = None, device: Device = "cpu", quiet: Quiet = False
) -> None:
    """Evaluate a trained run on held-out data; writes evaluation.json."""
    _, config = runs.open_run(run)
    changed = read_config(RunDirectory(run).config, settings or []).evaluate if settings else config.evaluate
    result = runs.evaluate_run(
        run, overrides=changed.model_dump(), show=not quiet, trust=trust or (), device=device
    )
    Console().print(result.table())
    typer.echo(f"written: {RunDirectory(run).evaluation}")


app.command(
    epilog="Examples: `polyvae sample runs/mine -n 100 -o new.npz`, `polyvae sample runs/mine --given m0 -n 8 -o filled.npz`"
)(sample)


@app.command(
    epilog="Examples: `polyvae report runs/mine`, `polyvae report runs/mine runs/other -o compare.html`"
)
def report(
    run: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="A run directory; if several are given, they are compared.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            help="Path of the comparison; by default comparison.html next to the first run.",
            show_default=False,
        ),
    ] = None,
    trust: Trust = None,
    device: Device = "cpu",
) -> None:
    """Write report.html of a run, or one page that compares several runs; each page is one file."""
    if len(run) == 1 and out is not None:
        raise InputError(
            f"report: got -o {out} with one run; expected two or more runs; the report of one run is {run[0]}/report.html"
        )
    several, given = len(run) > 1, trust or ()
    typer.echo(
        f"written: {runs.compare_runs(run, out, given, device) if several else runs.report_run(run[0], given, device=device)}"
    )


@app.command(
    epilog="Examples: `polyvae study experiments/studies/compare_polydigits.toml`, "
    "`polyvae study STUDY.toml --seeds 1 --only MMVAE+`, `polyvae study STUDY.toml --ray`"
)
def study(
    config: Annotated[Path, typer.Argument(metavar="STUDY", help="A TOML file.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of the study; runs/study-NAME by default.", show_default=False),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Cells that run at the same time, with one thread each; by default as in the study.", min=1
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Run the cells on Ray (extra cluster): without ADDRESS, on this machine; HOST:PORT or auto: on that cluster.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="Only this contender; repeatable.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="This number of seeds (0, 1, ...) in place of those of the study.", min=1),
    ] = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report", metavar="", help="Do not train; write tables and page of the existing cells."
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", metavar="", help="Rerun cells that were made with other settings or that failed."
        ),
    ] = False,
    settings: Set = None,
    quiet: Quiet = False,
) -> None:
    """Train and evaluate a grid of runs; finished cells are skipped. Writes study.html, study.md, results.json, results.csv."""
    where = out or Path("runs") / f"study-{config.stem}"
    done = studies.run_study(
        config,
        where,
        jobs=jobs,
        ray=ray,
        changes=settings or [],
        only=only or [],
        seeds=seeds,
        report=report,
        force=force,
        show=not quiet,
    )
    if done.interrupted:
        typer.echo(
            f"interrupted with {sum(bool(one.numbers) for one in done.results)} of {len(done.results)} cells done; "
            "the same command resumes; with --report it writes tables of the finished cells",
            err=True,
        )
        raise typer.Exit(130)
    for one in done.failed:
        typer.echo(f"failed: {one.name}: {one.error}", err=True)
    typer.echo(f"written: {done.page}")
    if done.failed:
        raise typer.Exit(1)


@app.command(epilog="Examples: `polyvae models`, `polyvae models mmvae+`")
def models(
    name: Annotated[str | None, typer.Argument(help="Describe this model.", show_default=False)] = None,
) -> None:
    """List the models; when piped, one tab-separated line each. NAME: its formula, properties and options."""
    if name is not None:
        typer.echo("\n".join(described(model_class(name))))
        return
    list_models()


@app.command(epilog="Example: `polyvae datasets`")
def datasets() -> None:
    """List the data sets; when piped, one tab-separated line each."""
    list_datasets()


tables.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Exit codes: 0 success, 1 unexpected error, 2 invalid input, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = _with_address([word for word in given if word != "--debug"])
    try:
        done = app(args=given or ["--help"], standalone_mode=False, prog_name="polyvae")
        code = done if isinstance(done, int) else 0
    except TyperException as problem:
        code = 2
        typer.echo(
            f"error: {' '.join(problem.format_message().split())}; see polyvae --help",
            err=True,
        )
    except typer.Abort:
        code = 130
        typer.echo("interrupted", err=True)
    except Exception as problem:  # a traceback is shown only on request
        # A file that cannot be reached is an invalid input, too.
        file, why = (problem.filename, problem.strerror) if isinstance(problem, OSError) else (None, None)
        code = 2 if isinstance(problem, InputError) or file is not None else 1
        if is_reported_elsewhere(problem):
            sys.exit(code)
        if debug:
            traceback.print_exc()
        line = " ".join((str(problem) if file is None else f"{file}: {why}").split())
        typer.echo(
            f"error: {line}"
            if code == 2
            else f"error: unexpected {type(problem).__name__}: {line}; --debug shows where",
            err=True,
        )
    sys.exit(code)


def _with_address(words: Sequence[str]) -> list[str]:
    """The words with "local" after a ``--ray`` of ``study`` that has no address, because typer has no optional values."""
    found: list[str] = []
    for word, following in pairwise([*words, ""]):
        found.append(word)
        if (
            words[0] == "study"
            and word == "--ray"
            and (following[:1] in ("", "-") or following.endswith(".toml"))
        ):
            found.append(LOCAL)
    return found


def _finish(out: Path, quiet: bool) -> None:
    result = runs.evaluate_run(out, show=not quiet)
    page = runs.report_run(out)
    Console().print(result.table())
    typer.echo(f"the report: {page}")


def _stop_if_interrupted(stopped: str, out: Path, config: RunConfig) -> None:
    if stopped == "interrupted" and not is_first():
        raise typer.Exit(130)
    if stopped == "interrupted":
        packages = dict.fromkeys(
            path.partition(":")[0].partition(".")[0] for _, path in runs.imports_of(config)
        )
        trust = [word for package in packages if package != "polyvae" for word in ("--trust", package)]
        typer.echo(
            f"interrupted; resume with: {shlex.join(['polyvae', 'train', '--resume', '--out', str(out), *trust])}",
            err=True,
        )
        raise typer.Exit(130)


def _begun(config: RunConfig) -> RunConfig:
    """The configuration with the command that was typed."""
    return config.model_copy(update={"command": shlex.join(["polyvae", *sys.argv[1:]])})


def _place(model: str, data: str) -> Path:
    """The default run directory. A colon, as in an import path, is not allowed in names on some file systems."""
    data = data if is_import(data) or not is_path(data) else Path(data).stem
    return Path("runs") / f"{model}-{data}".replace(":", ".")

"""The command line. Each command is a thin call."""

from __future__ import annotations

import inspect
import json
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import TyperException

from polyvae import __version__, runs
from polyvae import study as studies
from polyvae.config import RunConfig, read_config
from polyvae.core.vae import MultimodalVAE
from polyvae.data import DATASETS
from polyvae.models import MODELS, model_class
from polyvae.models.bundles import load_model
from polyvae.training.directory import RunDirectory
from polyvae.utils.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Multimodal variational autoencoders: train, evaluate, compare; fill in what was not measured.",
    epilog="Example: `polyvae demo`. Errors are one line; `--debug` anywhere shows the traceback. "
    "Exit codes: 0 done, 1 unexpected, 2 bad input, 130 interrupted.",
)

_QUESTIONS = {
    "bound": "does the objective stay below log p(x), in expectation?",
    "density": "can likelihoods be estimated?",
    "per_sample": "is a batch the same as its rows?",
    "nested": "is a missing modality the same as a model built without it?",
    "symmetric": "are the modalities free in their order?",
}

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as train.epochs=5; repeatable."),
]
Run = Annotated[Path, typer.Argument(help="A run directory.", show_default=False)]
Trust = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="PACKAGE", help="A package whose code the run may import; repeatable."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"polyvae {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: `polyvae demo`")
def demo(
    out: Annotated[
        Path, typer.Option(help="The run directory; runs/demo is replaced, any other needs --force.")
    ] = Path("runs/demo"),
    force: Annotated[bool, typer.Option("--force", help="Replace the run that is there.")] = False,
    settings: Set = None,
    quiet: Quiet = False,
) -> None:
    """The whole road on embedded data: train MMVAE+, evaluate it, write a report. Offline, a few minutes on two cores."""
    config = _begun(read_config(runs.DEMO, settings or []))
    force = force or out == Path("runs/demo")
    _stop_if_interrupted(runs.train_run(config, out, force=force, show=not quiet).stopped, out, config)
    _finish(out, quiet)


@app.command(
    epilog="Examples: `polyvae train --model mmvae+ --data polydigits --out runs/mine`, "
    "`polyvae train experiments/mine.toml --set train.epochs=5`, `polyvae train --resume --out runs/mine`"
)
def train(
    config: Annotated[
        Path | None, typer.Argument(help="A TOML file; without one, the defaults.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A name that `polyvae models` lists, or module:Class.", show_default=False),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A name that `polyvae datasets` lists.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run directory; runs/MODEL-DATA by default.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training part.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of initial weights, order and noise.", show_default=False)
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.", show_default=False)] = None,
    hide: Annotated[
        float | None, typer.Option(help="Share of the modalities to hide from training.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run that is there.")] = False,
    settings: Set = None,
    trust: Trust = None,
    quiet: Quiet = False,
) -> None:
    """Train a model; Ctrl-C keeps a checkpoint. --resume without a TOML file takes the run's own, whose code --trust lets in."""
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
    typer.echo(f"trained ({history.stopped}, step {history.step}): {where}")


@app.command(epilog="Example: `polyvae evaluate runs/mine`")
def evaluate(run: Run, settings: Set = None, trust: Trust = None, quiet: Quiet = False) -> None:
    """Judge a trained run on held-out data; writes evaluation.json."""
    _, config = runs.open_run(run)
    changed = read_config(RunDirectory(run).config, settings or []).evaluate if settings else config.evaluate
    result = runs.evaluate_run(run, overrides=changed.model_dump(), show=not quiet, trust=trust or ())
    Console().print(result.table())
    typer.echo(f"written: {RunDirectory(run).evaluation}")


@app.command(
    epilog="Examples: `polyvae sample runs/mine -n 100 -o new.npz`, `polyvae sample runs/mine --given m0 -n 8 -o filled.npz`"
)
def sample(
    run: Run,
    count: Annotated[
        int, typer.Option("-n", help="How many samples; with --given, how many test rows.", min=1)
    ] = 16,
    out: Annotated[Path, typer.Option("-o", help="An .npz file: one array per modality.")] = Path(
        "samples.npz"
    ),
    prior: Annotated[str, typer.Option(help="own, or fitted (by evaluate).")] = "own",
    given: Annotated[
        list[str] | None, typer.Option(help="Condition on this modality of test rows; repeatable.")
    ] = None,
    draws: Annotated[int, typer.Option("-k", help="With --given: draws per row.", min=1)] = 1,
    noise: Annotated[
        bool, typer.Option("--noise", help="Draw from the likelihood, too, instead of taking its mean.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    trust: Trust = None,
) -> None:
    """New samples of every modality, or every modality given some of a test row's."""
    directory, config = runs.open_run(run)
    model = load_model(run, trust or ())
    if out.suffix != ".npz":
        raise InputError(
            f"sample: got -o {out}; expected a name that ends in .npz, for that is what is written"
        )
    if draws > 1 and not given:
        raise InputError(
            f"sample: got -k {draws} without --given; expected a modality to condition on; -n says how many new samples"
        )
    if prior not in ("own", "fitted"):
        raise InputError(f"sample: got --prior {prior!r}; expected 'own' or 'fitted'")
    if prior == "fitted" and not model.shared:
        raise InputError(
            f"sample: {config.model.name} has no shared code, so no prior can be fitted; expected --prior own"
        )
    fitted = runs.fitted_prior(directory) if prior == "fitted" else None
    if prior == "fitted" and fitted is None:
        raise InputError(
            f"sample: {run} has no fitted prior; expected fitted_prior.safetensors; make it with: polyvae evaluate {run}"
        )
    torch.manual_seed(seed)
    if given:
        test = runs.data_of(config)[0].test
        if count > len(test):
            raise InputError(
                f"sample: got -n {count} with --given; expected at most {len(test)}, the test rows there are"
            )
        batch = test.take(slice(0, count)).observe(*given)
        made = model.generate(batch, K=draws, sample=noise)
    else:
        made = model.sample(count, fitted, sample=noise)
    try:
        with out.open("wb") as file:
            np.savez_compressed(file, **{name: x.cpu().numpy() for name, x in made.items()})  # type: ignore[arg-type]
    except OSError as problem:
        raise InputError(
            f"sample: cannot write {out} ({problem.strerror}); expected a path in a folder that exists"
        ) from None
    typer.echo(f"written: {out} ({', '.join(f'{name} {tuple(x.shape)}' for name, x in made.items())})")


@app.command(
    epilog="Examples: `polyvae report runs/mine`, `polyvae report runs/mine runs/other -o compare.html`"
)
def report(
    run: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="A run directory; several: compare them.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            help="The page that compares; comparison.html beside the first run by default.",
            show_default=False,
        ),
    ] = None,
    trust: Trust = None,
) -> None:
    """Write a run's report.html, or one page that compares several: one file, to look at anywhere."""
    if len(run) == 1 and out is not None:
        raise InputError(
            f"report: got -o {out} with one run; expected two or more to compare; a run's own page is {run[0]}/report.html"
        )
    typer.echo(
        f"written: {runs.report_run(run[0], trust or ()) if len(run) == 1 else runs.compare_runs(run, out, trust or ())}"
    )


@app.command(
    epilog="Examples: `polyvae study experiments/studies/compare_polydigits.toml`, "
    "`polyvae study STUDY.toml --seeds 1 --only MMVAE+`"
)
def study(
    config: Annotated[Path, typer.Argument(metavar="STUDY", help="A TOML file.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Where it lives; runs/study-NAME by default.", show_default=False)
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Cells at a time, one thread each; as the study says by default.", min=1),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="This contender; repeatable.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Seeds 0, 1, ...: so many, instead of the study's.", min=1)
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Train nothing: tables and page of what is there.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Make cells anew that were made with other settings or fail.")
    ] = False,
    settings: Set = None,
    quiet: Quiet = False,
) -> None:
    """Train and judge a grid of runs; cells that are done are skipped. Writes study.html, study.md, results.json, results.csv."""
    where = out or Path("runs") / f"study-{config.stem}"
    done = studies.run_study(
        config,
        where,
        jobs=jobs,
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
            "the same command goes on; with --report it tells what is there",
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
    name: Annotated[
        str | None, typer.Argument(help="Print this model's description.", show_default=False)
    ] = None,
) -> None:
    """The models there are; one untruncated, tab-separated line each when piped. NAME: its formula, what it is, and its options."""
    if name is not None:
        typer.echo("\n".join(_described(model_class(name))))
        return
    head = ("name", "citation", "private codes", "missing data", "facts", "needs")
    _list(
        head,
        [
            (key, cls.citation, cls.private_latents, cls.facts.missing, _facts(key), cls.facts.needs or "-")
            for key, cls in MODELS.items()
        ],
    )


@app.command(epilog="Example: `polyvae datasets`")
def datasets() -> None:
    """The data sets there are; one untruncated, tab-separated line each when piped."""
    head = ("name", "modalities", "samples", "what", "licence", "needs")
    _list(
        head,
        [
            (name, entry.modalities, entry.samples, entry.what, entry.licence, entry.needed or "-")
            for name, entry in DATASETS.items()
        ],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: exit code 0 done, 1 unexpected, 2 bad input, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    try:
        done = app(args=given or ["--help"], standalone_mode=False, prog_name="polyvae")
        code = done if isinstance(done, int) else 0
    except TyperException as problem:
        code = 2
        typer.echo(
            f"error: {' '.join(problem.format_message().split())}; polyvae --help shows what there is",
            err=True,
        )
    except typer.Abort:
        code = 130
        typer.echo("interrupted", err=True)
    except Exception as problem:  # the last door: nobody sees a traceback who did not ask for it
        code = 2 if isinstance(problem, InputError) else 1
        if debug:
            traceback.print_exc()
        line = " ".join(str(problem).split())
        typer.echo(
            f"error: {line}"
            if code == 2
            else f"error: unexpected {type(problem).__name__}: {line}; --debug shows where",
            err=True,
        )
    sys.exit(code)


def _finish(out: Path, quiet: bool) -> None:
    result = runs.evaluate_run(out, show=not quiet)
    page = runs.report_run(out)
    Console().print(result.table())
    typer.echo(f"the report: {page}")


def _stop_if_interrupted(stopped: str, out: Path, config: RunConfig) -> None:
    if stopped == "interrupted":
        packages = dict.fromkeys(
            path.partition(":")[0].partition(".")[0] for _, path in runs.imports_of(config)
        )
        trust = [word for package in packages if package != "polyvae" for word in ("--trust", package)]
        typer.echo(
            f"interrupted; go on with: {shlex.join(['polyvae', 'train', '--resume', '--out', str(out), *trust])}",
            err=True,
        )
        raise typer.Exit(130)


def _begun(config: RunConfig) -> RunConfig:
    """The configuration with the command that was typed."""
    return config.model_copy(update={"command": shlex.join(["polyvae", *sys.argv[1:]])})


def _place(model: str, data: str) -> Path:
    """The run directory of a model on data; in an import path's colon some file systems see more than a letter."""
    return Path("runs") / f"{model.replace(':', '.')}-{data}"


def _facts(name: str) -> str:
    facts = model_class(name).facts
    return ", ".join(word.replace("_", " ") for word in _QUESTIONS if getattr(facts, word))


def _described(kind: type[MultimodalVAE]) -> Iterator[str]:
    """The lines that describe a model: its docstring, what the list says of it, and its options."""
    yield from (inspect.getdoc(kind) or "", "")
    facts = kind.facts
    told = {
        "citation": kind.citation,
        "private codes": kind.private_latents,
        "missing data": facts.missing,
        "needs": facts.needs or "-",
    }
    told |= {
        word.replace("_", " "): f"{'yes' if getattr(facts, word) else 'no '} ({question})"
        for word, question in _QUESTIONS.items()
    }
    yield from (f"{head:<13}  {value}" for head, value in told.items())
    yield from ("", "options, as [model] in a TOML file or --set model.NAME=VALUE, and their defaults:")
    for name, option in inspect.signature(kind).parameters.items():
        if name != "modalities":
            default = (
                "(to be given)"
                if option.default is option.empty
                else "(not set)"
                if option.default is None
                else ""
            )
            yield f"  {name} {default or f'= {json.dumps(option.default, default=str)}'}"  # TOML has these values as JSON does


def _list(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    if not sys.stdout.isatty():
        for row in rows:
            typer.echo("\t".join(row))
        return
    table, names = Table(), [row[0] for row in rows]
    table.add_column(
        head[0], no_wrap=True, min_width=max(map(len, names), default=0)
    )  # to copy; a narrow terminal folds the rest
    for title in head[1:]:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()

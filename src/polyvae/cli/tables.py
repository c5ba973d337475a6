"""Commands for tables with missing modalities: fit, impute, embed, predict, score."""

from __future__ import annotations

import math
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from polyvae import runs
from polyvae.utils.errors import InputError, reading


def _level(text: str) -> float:
    """A probability between 0 and 1 from text such as "0.9" or "90%"."""
    number, percent, rest = text.strip().partition("%")
    try:
        level = float(number) / (100 if percent else 1)
    except ValueError:
        level = math.nan
    if not 0 < level < 1 or rest:
        raise typer.BadParameter(f"got {text!r}; expected a probability between 0 and 1; such as 0.9 or 90%")
    return level


def _times(text: str | None) -> list[float]:
    """Numbers from text such as "365,730"."""
    with reading(f"--times {text}", "numbers with commas between them", "such as 365,730"):
        return [float(part) for part in text.split(",")] if text is not None else []


def _covariates(words: list[str] | None) -> list[str] | dict[str, str] | None:
    """Names of covariates, with their kinds where one is stated, from words such as "batch" or "batch=categorical"."""
    if not words:
        return None
    kinds = {name: kind or None for name, _, kind in (word.partition("=") for word in words)}
    return cast(Any, kinds) if any(kinds.values()) else list(words)


def _values(words: list[str] | None) -> dict[str, Any] | None:
    """Texts by name from words such as "batch=b" or "age=50"; of numbers, ``instead_of`` makes them numbers."""
    found: dict[str, Any] = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise InputError(
                f"--at {word}: got no NAME=VALUE; expected a covariate and its value; such as batch=b"
            )
        found[name] = value
    return found or None


FILES = {"ignore_unknown_options": True}  # --NAME FILE names a modality

Data = Annotated[
    list[str],
    typer.Argument(
        metavar="FILES...",
        help="csv, tsv, parquet, npy, npz or .h5ad files, one for each modality, or one .h5mu file. The name of a file names its modality; "
        "NAME=FILE and --NAME FILE give another name. Rows of npy files are in the order of a table with as many rows.",
        show_default=False,
    ),
]
Fitted = Annotated[Path, typer.Argument(metavar="RUN", help="A run of polyvae fit.", show_default=False)]
Id = Annotated[
    str | None,
    typer.Option("--id", metavar="COLUMN", help="The column with the ids of samples.", show_default=False),
]
Mask = Annotated[
    bool,
    typer.Option(
        "--mask",
        help="Take features that the files lack, and classes that the training data lacked, as missing; covariates have to be known.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what polyvae wrote there.")]
Device = Annotated[str, typer.Option("--device", help="Where to compute: auto, cpu, cuda or mps.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result.")]


def fit(
    files: Data,
    out: Annotated[Path, typer.Option(help="The run directory.", show_default=False)],
    id: Id = None,
    by_position: Annotated[
        bool, typer.Option("--by-position", help="Row i is the same sample in every table; there are no ids.")
    ] = False,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="A class or a number of each sample, to predict: a column of a table, or FILE:COLUMN. Of a time to event two: "
            "FILE:TIME,EVENT, where the event is 1 (or true, or yes) if it was observed and 0 if the time is censored.",
            show_default=False,
        ),
    ] = None,
    covariate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="A column that is known of every sample and conditioned on, such as its batch; repeatable. COLUMN=categorical takes "
            "numbers as levels.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A name from `polyvae models`; subset-poe by default.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds, initial weights and noise.")] = 0,
    max_seconds: Annotated[
        float | None, typer.Option(help="The largest training time of each ensemble.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A parameter of Estimator, such as latent=16; repeatable."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing run.")] = False,
    quiet: Quiet = False,
) -> None:
    """Learn to impute and embed tables with missing modalities; writes the estimator, its held-out scores and a report."""
    from polyvae.imputation.files import runs as fitted  # seconds of import
    from polyvae.imputation.files.sources import files_of

    given = files_of(
        files,
        (
            "--out",
            "--id",
            "--target",
            "--covariate",
            "--model",
            "--seed",
            "--max-seconds",
            "--set",
            "--force",
            "--by-position",
        ),
    )
    if by_position and id is not None:
        raise InputError("fit: got --id and --by-position; expected one of the two; leave out one")
    with _messages():
        estimator = fitted.estimator_of(
            settings or [],
            model=model,
            seed=seed,
            max_seconds=max_seconds,
            id=False if by_position else id,
            verbose=not quiet,
            covariates=_covariates(covariate),
        )
        run = fitted.fit_run(
            given, out, estimator, target=target, force=force, command=shlex.join(["polyvae", *sys.argv[1:]])
        )
        typer.echo(f"{run.estimator.scores_.table()}\n\n{run.estimator.scores_.sentence()}")
        if run.estimator._hazards is not None:
            typer.echo(f"\n{run.record.target}: {run.estimator._hazards.text()}")
        page = runs.report_run(out)
    typer.echo(f"the report: {page}")


def impute(
    run: Fitted,
    files: Data,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="A folder, which gets a file for each modality, or an .npz or .h5mu file.",
            show_default=False,
        ),
    ],
    interval: Annotated[
        float | None,
        typer.Option(
            parser=_level,
            metavar="LEVEL",
            help="Write intervals too that cover with this probability, such as 0.9 or 90%: NAME.low and NAME.high.",
            show_default=False,
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(help="Write completed data with draws too: NAME.draw1, ...", min=0)
    ] = 0,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Predict what is missing at this value of a covariate in place of that of each sample, such as batch=b; repeatable.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="csv, tsv, parquet or npz; by default that of the files.", show_default=False),
    ] = None,
    id: Id = None,
    mask: Mask = False,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Fill in the missing modalities and entries of samples; what was measured is not changed."""
    from polyvae.imputation.files import runs as fitted  # seconds of import
    from polyvae.imputation.files.sources import files_of

    given = files_of(
        files,
        ("--out", "--interval", "--draws", "--at", "--format", "--id", "--mask", "--device", "--force"),
    )
    with _messages():
        written = fitted.impute_run(
            fitted.open_fitted(run, device), given, out,
            interval=interval, draws=draws, format=format, id=id, mask=mask, force=force, covariates=_values(at),
        )  # fmt: skip
    for path in written:
        typer.echo(f"written: {path}")


def embed(
    run: Fitted,
    files: Data,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="A csv, tsv, parquet or npz file.", show_default=False)
    ],
    std: Annotated[
        bool, typer.Option("--std", help="Write the standard deviation of each column too.")
    ] = False,
    id: Id = None,
    mask: Mask = False,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Write the embedding of samples given what was observed of each."""
    from polyvae.imputation.files import runs as fitted  # seconds of import
    from polyvae.imputation.files.sources import files_of

    given = files_of(files, ("--out", "--std", "--id", "--mask", "--device", "--force"))
    with _messages():
        path = fitted.embed_run(
            fitted.open_fitted(run, device), given, out, std=std, id=id, mask=mask, force=force
        )
    typer.echo(f"written: {path}")


def predict(
    run: Fitted,
    files: Data,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="A csv, tsv, parquet or npy file.", show_default=False)
    ],
    interval: Annotated[
        float | None,
        typer.Option(
            parser=_level,
            metavar="LEVEL",
            help="Write intervals of numbers or sets of classes too that cover with this probability, such as 0.9 or 90%; of times "
            "quantiles of the survival curve.",
            show_default=False,
        ),
    ] = None,
    times: Annotated[
        str | None,
        typer.Option(
            metavar="T1,T2,...",
            help="Write the probabilities too that an event comes later than these times.",
            show_default=False,
        ),
    ] = None,
    id: Id = None,
    mask: Mask = False,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Write the predicted target of samples; of classes also their probabilities, of a time to event the risk and the median."""
    from polyvae.imputation.files import runs as fitted  # seconds of import
    from polyvae.imputation.files.sources import files_of

    given = files_of(files, ("--out", "--interval", "--times", "--id", "--mask", "--device", "--force"))
    with _messages():
        path = fitted.predict_run(
            fitted.open_fitted(run, device), given, out,
            interval=interval, times=_times(times), id=id, mask=mask, force=force,
        )  # fmt: skip
    typer.echo(f"written: {path}")


def score(
    run: Fitted,
    files: Data,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="The true target, as for fit: COLUMN, FILE:COLUMN or FILE:TIME,EVENT. By default the columns of FILES of these names.",
            show_default=False,
        ),
    ] = None,
    id: Id = None,
    mask: Mask = False,
    device: Device = "cpu",
) -> None:
    """Score new samples: each modality is hidden in turn and predicted from the others; and the target, where it is known."""
    from polyvae.imputation.files import runs as fitted  # seconds of import
    from polyvae.imputation.files.sources import files_of

    given = files_of(files, ("--target", "--id", "--mask", "--device"))
    with _messages():
        opened = fitted.open_fitted(run, device)
        found = fitted.score_run(opened, given, target=target, id=id, mask=mask)
    if len(found.scores):
        typer.echo(f"{found.scores.table()}\n\n{found.scores.sentence()}")
    else:
        typer.echo("no scores: no sample has two modalities, of which one could be hidden")
    if found.target is not None:
        typer.echo(f"{found.measure} of {opened.record.target}: {found.target:.3f}")
    elif opened.record.target is not None:
        typer.echo(
            f"no {found.measure} of {opened.record.target}: the files do not have it; --target FILE:COLUMN names it, "
            "FILE:TIME,EVENT a time"
        )


def extend(
    run: Fitted,
    files: Data,
    out: Annotated[Path, typer.Option("-o", "--out", help="The new run directory.", show_default=False)],
    id: Id = None,
    mask: Mask = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing run.")] = False,
) -> None:
    """Add levels of covariates, such as a new batch, whose effects are estimated from these files; nothing is trained again."""
    from polyvae.imputation.files import runs as fitted  # seconds of import
    from polyvae.imputation.files.sources import files_of

    given = files_of(files, ("--out", "--id", "--mask", "--force"))
    with _messages():
        opened = fitted.open_fitted(run)
        command = shlex.join(["polyvae", *sys.argv[1:]])
        more = fitted.extend_run(opened, given, out, id=id, mask=mask, force=force, command=command)
    for before, after in zip(
        opened.estimator.schema_.covariates, more.estimator.schema_.covariates, strict=True
    ):
        for level in after.added[len(before.added) :]:
            typer.echo(f"added: {after.name}={level}")
    typer.echo(f"written: {out}")


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    examples: dict[Callable[..., None], str] = {
        fit: "Example: `polyvae fit mrna.csv mirna.csv protein.csv --out runs/cohort`",
        impute: "Example: `polyvae impute runs/cohort --mrna new_mrna.csv -o filled --interval 0.9`",
        embed: "Example: `polyvae embed runs/cohort --mrna new_mrna.csv -o z.csv`",
        predict: "Example: `polyvae predict runs/cohort --mrna new_mrna.csv -o subtype.csv`",
        extend: "Example: `polyvae extend runs/cohort --mrna later_mrna.csv -o runs/cohort_and_later`",
        score: "Example: `polyvae score runs/cohort mrna.csv protein.csv`",
    }
    for command, example in examples.items():
        app.command(context_settings=FILES, epilog=example)(command)


_SPELLED = {
    "with id=": "with --id",
    "the labels with labels=": "the target with --target",
    "pass id=False": "pass --by-position",
    "(missing_columns='mask', --mask)": "with --mask",
    "kinds={NAME: {COLUMN: 'categorical'}}": "--set kinds.NAME.COLUMN=categorical",
    "kinds={NAME: {COLUMN: ['low', 'high']}}": """--set 'kinds.NAME.COLUMN=["low", "high"]'""",
    "with unseen_classes='mask'": "with --mask",
    "add it by extend": "add it by polyvae extend",
}
"""Remedies in messages of the library -> options of the command line."""


@contextmanager
def _messages() -> Iterator[None]:
    """Warnings as one line each on standard error, once; errors with the options of the command line."""
    shown: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        line = " ".join(str(message).split())
        if line not in shown:
            shown.add(line)
            typer.echo(f"warning: {line}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = cast(Any, show)
        try:
            yield
        except InputError as problem:
            text = str(problem)
            for python, option in _SPELLED.items():
                text = text.replace(python, option)
            raise InputError(text) from problem

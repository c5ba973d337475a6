"""Runs of the estimator: a directory with the fitted estimator, its scores and its schema, and results for new files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from polyvae.config import assignment
from polyvae.data.readers import Given
from polyvae.data.readers.classes import Asked
from polyvae.data.readers.columns import columns_of
from polyvae.data.schema import asked_of
from polyvae.imputation.advice import advise_of_new, warn_of_infinite
from polyvae.imputation.covariates.conditions import instead_of
from polyvae.imputation.estimator import Estimator
from polyvae.imputation.files.outputs import (
    Completed,
    check_columns,
    check_file,
    check_output,
    id_name,
    kind_of,
    write,
    write_columns,
)
from polyvae.imputation.files.sources import Files, Y, check_new, read_files, target_of
from polyvae.imputation.files.streaming import Reading, can_stream, impute_files, predict_files
from polyvae.imputation.filling.fill import Wanted, fill
from polyvae.imputation.scoring.scores import Scores
from polyvae.utils.errors import InputError, check_count, is_number, nearest
from polyvae.utils.files import json_text, read_object, short, unwritten, write_atomic
from polyvae.utils.locks import LOCK
from polyvae.utils.partial import sweep
from polyvae.utils.records import Record
from polyvae.utils.text import named

FIT, ESTIMATOR, REPORT = "fit.json", "estimator.polyvae", "report.html"
MADE = (FIT, ESTIMATOR, "scores.json", "schema.json", REPORT)
"""What ``polyvae fit`` writes to a run directory."""


LARGE = 2**26
"""Bytes of tables from which ``impute_run`` reads and writes them in blocks of rows; the results are the same."""


class FitRecord(Record):
    """How a run was made: the contents of fit.json.

    Args:
        command: The command.
        files: Modality -> file.
        samples: The number of training samples.
        target: The name of the target column, or TIME,EVENT; None: there was none.
        columns: The columns of a target of two; empty otherwise.
        seconds: How long the fit took.
    """

    command: str
    files: dict[str, str]
    samples: int
    target: str | None
    seconds: float
    columns: tuple[str, ...] | list[str] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns that are no features."""
        return tuple(self.columns) or (() if self.target is None else (self.target,))


class FittedRun(NamedTuple):
    """A run directory that ``fit_run`` wrote.

    Attributes:
        path: The directory.
        estimator: The fitted estimator.
        record: How it was made.
    """

    path: Path
    estimator: Estimator
    record: FitRecord


# ---- fit -----------------------------------------------------------------------------------------------------


def estimator_of(settings: Sequence[str], **given: Any) -> Estimator:
    """An unfitted estimator with the parameters ``given`` that are not None, and those of ``settings``.

    Args:
        settings: Such as "latent=16", or "network.dropout=0.1" for a key of a parameter that is a mapping; "kinds.clinical.stage=ordinal"
            for a column of a modality.
        **given: Parameters of ``Estimator``.

    Raises:
        InputError: An unknown parameter.
    """
    parameters: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    known = [name for name in Estimator().get_params() if name != "verbose"]
    for text in settings:
        key, value = assignment(text)
        first, dot, inner = key.partition(".")
        if first not in known or (dot and first not in ("options", "network", "units", "kinds")):
            raise InputError(
                f"--set {short(text, 80)!r}: there is no setting {key!r}; {nearest(first, known)}"
            )
        if dot and first == "kinds":
            name, _, column = inner.partition(".")
            own = dict(parameters.get(first, {}))
            parameters[first] = {**own, name: {**own.get(name, {}), column: value}}
        elif dot:
            parameters[first] = {**parameters.get(first, {}), inner: value}
        else:
            parameters[first] = value
    return Estimator(**parameters)


def fit_run(
    files: Files,
    out: Path,
    estimator: Estimator,
    *,
    target: str | None = None,
    force: bool = False,
    command: str = "",
) -> FittedRun:
    """Fit an estimator to files and write a run directory, without its report.

    Args:
        files: The files.
        out: The directory.
        estimator: The estimator.
        target: See ``target_of``; None: there is no target.
        force: Replace an existing run.
        command: The command, to store it.

    Raises:
        InputError: Files or parameters that cannot be used, or a directory that is not empty.
    """
    check_run(out, force)
    there = next(each for each in (out.absolute(), *out.absolute().parents) if each.is_dir())
    try:  # before a training whose result could not be written
        tempfile.TemporaryFile(dir=there).close()
    except OSError as problem:
        raise unwritten(out, problem) from None
    y = None if target is None else target_of(target, files, estimator.id)
    labels = () if y is None else y.columns
    given = read_files(
        files,
        id=estimator.id,
        nan=estimator.nan,
        labels=labels,
        asked=lambda name: Asked((estimator.kinds or {}).get(name, {})),
        covariates=estimator.covariates,
    )
    if len(labels) == 2:
        _as_time(estimator)
    estimator.fit(given.data, None if y is None else y.of(given.data.ids))
    record = FitRecord(
        command=command,
        files={name: str(path) for name, path in files.paths.items()},
        samples=len(given.data),
        target=None if y is None else y.column,
        seconds=round(estimator.seconds_, 3),
        columns=list(labels) if len(labels) == 2 else [],
    )
    return _written(FittedRun(out, estimator, record))


def extend_run(
    run: FittedRun,
    files: Files,
    out: Path,
    *,
    id: str | None = None,
    mask: bool = False,
    force: bool = False,
    command: str = "",
) -> FittedRun:
    """Write a run that also knows the levels of covariates that occur in the files alone, without its report; see ``Estimator.extend``.

    Args:
        run: The run, which is not changed.
        files: The files.
        out: The directory of the new run.
        id: See ``read_for``.
        mask: See ``read_for``.
        force: Replace an existing run.
        command: The command, to store it.

    Raises:
        InputError: Files without a new level, or a directory that is not empty.
    """
    if out.absolute() == run.path.absolute():
        raise InputError(
            f"{out}: got the run that is extended; expected another directory; choose another path"
        )
    check_run(out, force)
    record = run.record.model_copy(update={"command": command})
    extended = run.estimator.extend(read_for(run, files, id, mask).data)
    return _written(FittedRun(out, extended, record))


def _written(run: FittedRun) -> FittedRun:
    out, estimator, record = run
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in MADE:
            (out / name).unlink(missing_ok=True)
    except OSError as problem:
        raise unwritten(out, problem) from None
    _write_json(out / FIT, record.model_dump())
    estimator.save(out / ESTIMATOR)
    write_atomic(out / "scores.json", (estimator.scores_.to_json() + "\n").encode())
    _write_json(out / "schema.json", estimator.schema_.model_dump())
    return run


def _as_time(estimator: Estimator) -> None:
    """Two columns are a time to event, whatever their values, so that what is wrong with them is an error."""
    if estimator.target not in ("auto", "time"):
        raise InputError(
            f"target: got two columns with target={estimator.target!r}; expected one; name one, or set target=time"
        )
    estimator.set_params(target="time")


def check_run(out: Path, force: bool) -> None:
    """Raises InputError unless ``out`` is new, empty, or a run that ``force`` replaces.

    Args:
        out: The directory.
        force: Whether an existing run may be replaced.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise InputError(f"{out}: got a file; expected a new directory; choose another path")
    sweep(out)
    there = [entry for entry in out.iterdir() if entry.name != LOCK]
    if there and not is_run(out):
        raise InputError(
            f"{out}: got something that is not a run of polyvae fit; expected a run or an empty directory; choose another path"
        )
    if there and not force:
        raise InputError(f"{out}: got an existing run; expected an empty directory; --force replaces it")


def is_run(path: Path) -> bool:
    """Whether a directory was written by ``fit_run``."""
    return (path / FIT).is_file() and not (path / "config.toml").exists()


def runs_in(folder: Path) -> list[str]:
    """The names of the runs in a folder."""
    return [name for name in sorted(os.listdir(folder)) if is_run(folder / name)]


def open_fitted(path: Path, device: torch.device | str = "cpu") -> FittedRun:
    """A run that ``fit_run`` wrote.

    Args:
        path: The run directory.
        device: Where the members compute.

    Raises:
        InputError: There is none, its files are damaged, or the device is not there.
    """
    if path.is_file():
        raise InputError(
            f"{short(str(path), 1000)}: got a file; expected a run of polyvae fit first, and the files after it; write RUN before FILES"
        )
    if not is_run(path):
        if path.is_dir() and (inside := runs_in(path)):
            raise InputError(
                f"{path}: got a directory that contains runs; expected one of them; {named([str(path / name) for name in inside])}"
            )
        beside = path.absolute().parent
        runs = runs_in(beside) if beside.is_dir() else []
        what = "a directory that polyvae fit did not write" if path.is_dir() else "no such run"
        raise InputError(
            f"{short(str(path), 1000)}: got {what}; expected a run of polyvae fit; {short(nearest(path.name, runs), 200)}"
        )
    if not (path / ESTIMATOR).is_file():
        raise InputError(
            f"{path}: the run has no {ESTIMATOR}; expected a finished run; fit it again with --force"
        )
    remedy = "fit it again with --force"
    record = FitRecord.check(read_object(path / FIT, remedy), str(path / FIT), remedy)
    return FittedRun(path, Estimator.load(path / ESTIMATOR, device), record)


# ---- results for files ---------------------------------------------------------------------------------------


def read_for(run: FittedRun, files: Files, id: str | None = None, mask: bool = False) -> Given:
    """The data in files, as the run reads them.

    Args:
        run: The run.
        files: The files.
        id: The name of the id column; None: that of the fit.
        mask: Take features that the files lack, and classes that the training data did not have, as missing entries.
    """
    estimator = run.estimator
    if mask:
        estimator.set_params(missing_columns="mask", unseen_classes="mask")
    by = id or estimator.id
    given = read_files(
        files,
        id=by,
        nan=estimator.nan,
        labels=run.record.labels,
        overlap=False,
        asked=asked_of(estimator.schema_, estimator.unseen_classes),
        covariates=estimator.covariates,
    )
    names = estimator.schema_.names
    if not set(names) & set(given.data.names):
        file = next(iter(files.paths.values()))
        raise InputError(
            f"data: got modalities {named(given.data.names)}; expected some of {named(names)}, as in the training data; name them, such as "
            f"--{names[0]} {file}"
        )
    advise_of_new(given.data)
    return given


def impute_run(
    run: FittedRun,
    files: Files,
    out: Path,
    *,
    interval: float | None = None,
    draws: int = 0,
    format: str | None = None,
    id: str | None = None,
    mask: bool = False,
    force: bool = False,
    covariates: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Fill in what is missing in files, and write the result.

    Args:
        run: The run.
        files: The files.
        out: A folder, which gets a file for each modality, or an .npz, .h5mu or .h5ad file.
        interval: Write intervals that cover a missing value with this probability too, as NAME.low and NAME.high.
        draws: Write this many completed data sets too, as NAME.draw1, NAME.draw2, ...
        format: The format of the files of a folder; None: that of the data.
        id: See ``read_for``.
        mask: See ``read_for``.
        force: Replace results that polyvae wrote.
        covariates: Name -> one value for all samples in place of their own, at which predictions are made.

    Returns:
        The paths that were written.
    """
    if interval is not None and (not is_number(interval) or not 0 < interval < 1):
        raise InputError(
            f"impute: got interval={interval!r}; expected a probability between 0 and 1; such as 0.9"
        )
    check_count("impute", "draws", draws, 0)
    kind, estimator = kind_of(out, format), run.estimator
    schema, wanted = estimator.schema_, Wanted(level=interval, draws=draws, seed=estimator.seed)
    check_output(out, wanted.suffixes()[1:], force)
    check_new(files.paths, out)
    instead = instead_of(schema, covariates)
    if can_stream(files.paths, out, kind) and _size(files) >= LARGE:
        how = _reading(run, id, mask)
        return impute_files(
            schema, estimator._imputer, files.paths, out, wanted, how,
            format=format, force=force, covariates=instead,
        )  # fmt: skip
    given = read_for(run, files, id, mask)
    data = schema.align(given.data, missing=estimator.missing_columns, unseen=estimator.unseen_classes)
    filled = fill(schema, estimator._imputer, data, wanted, instead)
    warn_of_infinite(filled.infinite())
    shapes = {each.name: tuple(each.shape) for each in schema.modalities}
    return write(Completed(given, schema.columns, shapes, schema.groups, filled.parts()), out, kind)


def _size(files: Files) -> int:
    """The bytes of all files, those of compressed ones ten times."""
    return sum(
        path.stat().st_size * (10 if path.suffix == ".gz" else 1)
        for path in files.paths.values()
        if path.is_file()
    )


def embed_run(
    run: FittedRun,
    files: Files,
    out: Path,
    *,
    std: bool = False,
    id: str | None = None,
    mask: bool = False,
    force: bool = False,
) -> Path:
    """Write the embedding of the samples in files.

    Args:
        run: The run.
        files: The files.
        out: A csv, tsv, parquet or npz file; or an .h5ad or .h5mu file, for data of that kind.
        std: Write the standard deviation of each column too.
        id: See ``read_for``.
        mask: See ``read_for``.
        force: Replace an existing file.
    """
    check_file(out, force)
    check_new(files.paths, out)
    given = read_for(run, files, id, mask)
    z = run.estimator.transform(given.data, std=std)
    names = [str(name) for name in run.estimator.get_feature_names_out()]
    names += [f"{name}_std" for name in names] if std else []
    return given.layout.save_embedding(out, z, given.data.ids, names)


def predict_run(
    run: FittedRun,
    files: Files,
    out: Path,
    *,
    interval: float | None = None,
    times: Sequence[float] = (),
    id: str | None = None,
    mask: bool = False,
    force: bool = False,
) -> Path:
    """Write the predicted target of the samples in files.

    Of classes also their probabilities; of a time to event the risk, the median time and the probabilities that the event comes later
    than ``times``.

    Args:
        run: The run.
        files: The files.
        out: A csv, tsv or parquet file; or an npy file, of a number or a time.
        interval: Write intervals of numbers, or sets of classes, that cover with this probability too; see ``Estimator.predict``.
        times: Of a time to event.
        id: See ``read_for``.
        mask: See ``read_for``.
        force: Replace an existing file.
    """
    estimator, name = run.estimator, run.record.target
    if name is None:
        raise InputError(
            f"{run.path}: the run was fitted without a target; expected one; fit it with --target"
        )
    if len(times) and estimator._hazards is None:
        raise InputError(
            f"{run.path}: got times, and the target {name!r} is none; expected a run with time and event; leave them out"
        )
    check_file(out, force)
    check_columns(out)
    check_new(files.paths, out)
    predictor = estimator._predictor(interval, times)
    if can_stream(files.paths, out, "") and _size(files) >= LARGE:
        return predict_files(predictor, files.paths, out, _reading(run, id, mask), name, force=force)
    given = read_for(run, files, id, mask)
    data = estimator.schema_.align(
        given.data, missing=estimator.missing_columns, unseen=estimator.unseen_classes
    )
    first = id_name(given)
    columns = predictor.columns(predictor.numbers(data), name if name != first else "prediction")
    ids = range(len(data)) if data.ids is None else list(data.ids)
    write_columns(out, [columns], len(data), first, [ids])
    return out


def _reading(run: FittedRun, id: str | None, mask: bool) -> Reading:
    """How files of the run are read in blocks."""
    how, labels = run.estimator._reading(), run.record.labels
    how = how._replace(
        id=id or how.id, label=labels[-1] if labels else None
    )  # a column of times is numeric, and ignored
    return how._replace(missing="mask", unseen="mask") if mask else how


class NewScores(NamedTuple):
    """Scores of new samples.

    Attributes:
        scores: Of each modality hidden in turn.
        target: Accuracy of classes, R² of a number or C-index of times; None: there is no target in the files.
        measure: "accuracy", "R²" or "C-index".
    """

    scores: Scores
    target: float | None
    measure: str


def score_run(
    run: FittedRun, files: Files, *, target: str | None = None, id: str | None = None, mask: bool = False
) -> NewScores:
    """Scores of new samples: every modality hidden in turn and predicted from what else was observed.

    Args:
        run: The run.
        files: The files.
        target: See ``target_of``; None: the columns of the files that have the names of those in the fit.
        id: See ``read_for``.
        mask: See ``read_for``.

    Raises:
        InputError: A target for a run that has none.
    """
    if target is not None and run.record.target is None:
        raise InputError(f"{run.path}: got --target for a run without one; expected none; leave it out")
    given = read_for(run, files, id, mask)
    scores = run.estimator.scores(given.data)
    accuracy = None
    y = _known_target(run, files, id) if target is None else target_of(target, files, id or run.estimator.id)
    if y is not None:
        accuracy = run.estimator.score(given.data, y.of(given.data.ids))
    classes = run.estimator._target is not None and run.estimator._target.classes is not None
    measure = "C-index" if run.estimator._hazards is not None else "accuracy" if classes else "R²"
    return NewScores(scores, accuracy, measure)


def _known_target(run: FittedRun, files: Files, id: str | None) -> Y | None:
    """The target in the files; None: they have none."""
    column, by = run.record.target, id or run.estimator.id
    known = (
        {name for path in files.paths.values() for name in columns_of(path)} if column is not None else set()
    )
    if column is None or by is False or not known.issuperset(run.record.labels):
        return None
    found = target_of(column, files, by)
    known_values = [value for value in found.values.values() if value is not None and value != (None, None)]
    return found if any(value == value for value in known_values) else None


def _write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json_text(str(path), value, indent=2) + "\n").encode())


__all__ = [
    "MADE",
    "FitRecord",
    "FittedRun",
    "NewScores",
    "check_run",
    "embed_run",
    "estimator_of",
    "fit_run",
    "impute_run",
    "is_run",
    "open_fitted",
    "predict_run",
    "read_for",
    "runs_in",
    "score_run",
]

"""Imputation from files to files, of which no more than some thousands of samples are in memory at a time.

The samples are joined in a folder on disk, completed in their canonical order, and written in the order in which they came in. Blocks have
the samples that ``filling.fill`` gives them, so the results are the same bit for bit.
"""

from __future__ import annotations

import errno
import importlib.util
import sqlite3
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import Cells, Decoder, Unseen, original, taken
from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.asking import Nan, check_given_ids, check_id, check_nan
from polyvae.data.readers.classes import Ask, setting_aside
from polyvae.data.readers.covariates import check_there
from polyvae.data.readers.endings import PARQUET, TEXT, ending
from polyvae.data.readers.layout import ordered
from polyvae.data.readers.parts import Part
from polyvae.data.readers.tables import listed, table_parts
from polyvae.data.schema import Features, Schema, asked_of
from polyvae.imputation.advice import warn_of_infinite
from polyvae.imputation.covariates.conditions import names_of, with_kinds_of
from polyvae.imputation.files.outputs import (
    Streamed,
    check_columns,
    check_file,
    check_output,
    kind_of,
    write_columns,
    write_streamed,
)
from polyvae.imputation.files.spool import Index, Known, Matrix, Rows
from polyvae.imputation.filling.fill import BLOCK, ENDS, Wanted, block_size, fill_block, keys
from polyvae.imputation.imputer import Imputer
from polyvae.imputation.targets.predicting import TargetPredictor
from polyvae.utils.errors import InputError
from polyvae.utils.files import unwritten
from polyvae.utils.partial import claimed_folder, sweep
from polyvae.utils.text import counted, named


class Reading(NamedTuple):
    """How files are read.

    Attributes:
        id: The name of the id column; None: the first one; False: row i is the same sample in every table.
        nan: "missing", or "error".
        label: A column that is no feature, where a table has it.
        missing: What it means that a table lacks a feature: "error", or "mask".
        unseen: What classes are that the training data did not have: "error", or "mask".
        covariates: Those of the estimator, which are columns of the tables.
    """

    id: Any = None
    nan: Nan = "missing"
    label: str | None = None
    missing: Literal["error", "mask"] = "error"
    unseen: Unseen = "error"
    covariates: Any = None


class Column(NamedTuple):
    """The samples of one table on disk.

    Attributes:
        matrix: Their values, NaN where missing.
        here: For each sample, 1 where the table has it; shorter where it has none of the last samples.
        columns: Names of its columns.
        levels: Column of classes -> its classes.
    """

    matrix: Matrix
    here: bytearray
    columns: tuple[str, ...]
    levels: Mapping[str, tuple[Any, ...]]

    def read(self, rows: Rows) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The samples ``rows``: values [n, F], and which of them the table has, [n]."""
        known = np.frombuffer(self.here, np.bool_)
        there = np.zeros(len(rows), bool)
        there[rows < len(known)] = known[rows[rows < len(known)]]
        x = np.zeros((len(rows), self.matrix.width), self.matrix.kind)
        x[there] = self.matrix.read(rows[there])
        return x, there


class Spool:
    """The outer join of tables in files, on disk.

    Args:
        folder: An empty folder.
        files: Modality -> csv, tsv or parquet file.
        how: How they are read.
        kept: Modalities that are kept; of others the ids are read.
        check: Called with a row of all tables of which nothing is observed, before they are read; raises InputError where columns do not
            fit.
        asked: What is known of the columns of each table.

    Attributes:
        id: The name of the id column of the first table; None: the samples have no ids.
        size: The number of samples.
        written: Modality -> column -> how its text file has its cells.
    """

    def __init__(
        self,
        folder: Path,
        files: Mapping[str, Path],
        how: Reading,
        kept: Sequence[str],
        check: Callable[[MultimodalData], None],
        asked: Ask,
    ) -> None:
        check_id(how.id)
        check_nan(how.nan)
        self.names, self.kinds = names_of(how.covariates), how.covariates
        self.folder, self.index = folder, Index(folder / "index")
        self.columns, self.covariates = dict[str, Column](), [Known(name) for name in self.names]
        try:
            self._join(files, how, kept, check, asked)
        except BaseException:
            self.close()  # an open file cannot be removed on Windows
            raise

    def _join(
        self,
        files: Mapping[str, Path],
        how: Reading,
        kept: Sequence[str],
        check: Callable[[MultimodalData], None],
        asked: Ask,
    ) -> None:
        ask = setting_aside(asked, self.names)
        sheets = {
            name: table_parts(path, how.id, how.nan, how.label, BLOCK, ask(name))
            for name, path in files.items()
        }
        check_there(self.names, [column for sheet in sheets.values() for column in sheet.header])
        widths = {name: sheet.columns for name, sheet in sheets.items() if sheet.columns}
        if not widths:
            raise InputError(
                "data: got no modality; expected at least one with features; pass a mapping from names to tables"
            )
        levels = {name: sheets[name].levels for name in widths}
        check(
            _data({name: np.full((1, len(own)), np.nan) for name, own in widths.items()}, {}, widths, levels)
        )
        self.written = {name: sheet.written for name, sheet in sheets.items()}
        self.id = next(sheets[name].id for name in widths)
        self.by_position = all(sheet.id is None for sheet in sheets.values())
        texts = {name: ending(path) in TEXT for name, path in files.items()}
        lengths = {
            name: self._add(name, sheet.columns if name in kept else (), sheet.parts, number, texts[name])
            for number, (name, sheet) in enumerate(sheets.items())
        }
        if self.by_position and len(set(lengths.values())) > 1:
            raise InputError(
                f"data: got different numbers of rows without ids, {lengths}; expected ids, or one row per sample in every modality; "
                "name the samples"
            )
        self.size = next(iter(lengths.values())) if self.by_position else self.index.size
        for at, known in enumerate(self.covariates):
            known.check(self.index, at, self.size, self._shown)

    def _add(
        self, name: str, columns: tuple[str, ...], parts: Iterator[Part], number: int, text: bool
    ) -> int:
        """Read one table, of which ``columns`` are kept beside ids and covariates, and return the number of its rows."""
        count, here, twice = 0, bytearray(), list[str]()
        for part in parts:
            length = part.values.shape[0]
            rows = np.arange(count, count + length)
            if part.ids is not None:
                check_given_ids(f"modality {name!r}", part.ids)
                rows = self.index.rows(part.ids)
            count += length
            again = _marked(here, rows)
            twice += [str(part.ids[at]) for at in again] if part.ids is not None else []
            for at, known in enumerate(self.covariates):
                if known.name in part.beside:
                    known.add(self.index, at, rows, part, text)
            if columns:
                if name not in self.columns:
                    matrix = Matrix(self.folder / f"values.{number}", len(columns), part.values.dtype)
                    self.columns[name] = Column(matrix, here, columns, part.levels)
                seen = part.observed
                values = part.values if seen is None else np.where(seen, part.values, np.nan)
                self.columns[name].matrix.write(rows, values)
        if twice:
            raise InputError(
                f"modality {name!r}: got {counted(len(twice), 'id', 'ids')} more than once ({named(twice)}); expected one row per sample; "
                "average or drop the repeated rows"
            )
        return count

    def rows(self, rows: Rows) -> MultimodalData:
        """Some of the samples."""
        values, mask = {}, {}
        for name, column in self.columns.items():
            values[name], mask[name] = column.read(rows)
        columns = {name: column.columns for name, column in self.columns.items()}
        levels = {name: column.levels for name, column in self.columns.items()}
        given = {known.name: known.read(self.index, at, rows) for at, known in enumerate(self.covariates)}
        return with_kinds_of(_data(values, mask, columns, levels, given), self.kinds)

    def _shown(self, row: int) -> str:
        return str(row) if self.by_position else self.index.ids(row, row + 1)[0]

    def ids(self, start: int, stop: int) -> list[str] | None:
        """The ids of the samples ``start`` to ``stop``; None: they have none."""
        return None if self.by_position else self.index.ids(start, stop)

    def close(self) -> None:
        """Close the files."""
        self.index.close()
        for column in self.columns.values():
            column.matrix.close()


def _marked(here: bytearray, rows: Rows) -> list[int]:
    """Set the flags of ``rows`` to 1, and return the places in ``rows`` of those that were 1 before."""
    here.extend(bytes(max(0, int(rows.max()) + 1 - len(here))))
    flags = np.frombuffer(here, np.uint8)
    again: list[int] = np.flatnonzero(flags[rows]).tolist()
    flags[rows] = 1
    return again


def _data(
    values: Mapping[str, NDArray[Any]],
    mask: Mapping[str, NDArray[np.bool_]],
    columns: Mapping[str, tuple[str, ...]],
    levels: Mapping[str, Mapping[str, tuple[Any, ...]]],
    covariates: Mapping[str, NDArray[Any]] | None = None,
) -> MultimodalData:
    entries = {name: ~np.isnan(x) for name, x in values.items() if np.isnan(x).any()}
    filled = {name: np.where(entries[name], x, 0) if name in entries else x for name, x in values.items()}
    with warnings.catch_warnings():
        # A Schema standardises in float64, so that nothing is lost.
        warnings.filterwarnings("ignore", message="modality .* loses its variance in float32")
        return MultimodalData(
            filled,
            mask=mask or None,
            entries=entries or None,
            columns=columns,
            levels=levels,
            covariates=covariates or None,
        )


@contextmanager
def storing_beside(beside: Path) -> Iterator[None]:
    """Errors of the temporary folder beside a path as StorageError."""
    try:
        yield
    except OSError as problem:
        raise unwritten(beside, problem) from None
    except sqlite3.OperationalError as problem:
        raise unwritten(beside, OSError(errno.ENOSPC, str(problem))) from None


class Joined:
    """The samples of files in their canonical order, aligned with the training data, some thousands at a time.

    Args:
        schema: The schema of the training data.
        spool: The samples.
        how: How they were read.
        folder: Where results are stored.
        stack: Closes the files of results.
    """

    def __init__(self, schema: Schema, spool: Spool, how: Reading, folder: Path, stack: ExitStack) -> None:
        self.schema, self.spool, self.how, self.folder, self.stack = schema, spool, how, folder, stack
        self.size = block_size(schema)
        far = Counter[str]()
        for start in range(0, spool.size, self.size):
            data = self._aligned(np.arange(start, min(start + self.size, spool.size)))
            far.update(schema.far(data))
            spool.index.sort(keys(schema, data), start)
        schema.warn_of_far(far)

    def _aligned(self, rows: Rows) -> MultimodalData:
        return self.schema.align(
            self.spool.rows(rows), missing=self.how.missing, unseen=self.how.unseen, quiet=True
        )

    def blocks(self) -> Iterator[tuple[Rows, MultimodalData]]:
        """The blocks of the samples in their canonical order, with their numbers."""
        for rows in self.spool.index.ordered(self.size):
            yield rows, self._aligned(rows)

    def matrix(self, name: str, width: int, kind: np.dtype[Any]) -> Matrix:
        """A matrix of results on disk, with a row for each sample."""
        made = Matrix(self.folder / f"result.{name}", width, kind)
        self.stack.callback(made.close)
        return made

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The samples in the order in which they came in, by starts and stops."""
        for start in range(0, self.spool.size, self.size):
            yield start, min(start + self.size, self.spool.size)

    @property
    def id_name(self) -> str | None:
        """The header of the column of ids; None: the samples have none."""
        return None if self.spool.by_position else self.spool.id or "id"


@contextmanager
def spooled(schema: Schema, files: Mapping[str, Path], how: Reading, beside: Path) -> Iterator[Joined]:
    """Files in a temporary folder that is removed at the end.

    Args:
        schema: The schema of the training data.
        files: Modality -> csv, tsv or parquet file.
        how: How they are read.
        beside: The folder is made beside this path.

    Yields:
        The samples.

    Raises:
        InputError: Files that do not fit the training data.
        StorageError: No space for the folder, which takes that of the data and of each result.
    """
    with ExitStack() as stack:
        with storing_beside(beside):
            beside.absolute().parent.mkdir(parents=True, exist_ok=True)
            sweep(beside.absolute().parent)
            folder = stack.enter_context(claimed_folder(beside.absolute()))
            asked = asked_of(schema, how.unseen)
            spool = Spool(folder, files, how, schema.names, lambda data: _check(schema, data, how), asked)
            stack.callback(spool.close)
            joined = Joined(schema, spool, how, folder, stack)
        yield joined


@contextmanager
def completed(
    schema: Schema,
    imputer: Imputer,
    files: Mapping[str, Path],
    how: Reading,
    wanted: Wanted,
    beside: Path,
    covariates: Mapping[str, Any] | None = None,
) -> Iterator[Streamed]:
    """Files with what is missing filled in; see ``spooled``.

    Args:
        schema: The schema of the training data.
        imputer: The fitted methods.
        files: Modality -> csv, tsv or parquet file.
        how: How they are read.
        wanted: What to fill in.
        beside: A temporary folder is made beside this path.
        covariates: Name -> one value for all samples in place of their own, at which predictions are made.

    Yields:
        The completed samples.
    """
    with spooled(schema, files, how, beside) as joined:
        results: dict[str, dict[str, Matrix]] = {}
        infinite = set[str]()
        with storing_beside(beside):
            for number, (rows, data) in enumerate(joined.blocks()):
                at = None if covariates is None else schema.conditions(data, covariates)
                found = fill_block(schema, imputer, data, wanted, number, at)
                infinite |= set(found.infinite())
                _store(joined, results, found.parts(), rows)
        warn_of_infinite([name for name in schema.names if name in infinite])
        spool, known = joined.spool, {each.name: each for each in schema.modalities}
        order = {
            name: ordered(
                _came(known[name], spool.columns[name].columns if name in spool.columns else ()),
                each.originals,
            )
            for name, each in known.items()
        }

        def table(suffix: str, name: str) -> Iterator[tuple[Cells, list[str] | None]]:
            for start, stop in joined.ranges():
                decoder = Decoder(schema.groups, suffix in ENDS)
                cells = decoder.cells(name, results[suffix][name].read(np.arange(start, stop)))
                yield taken(cells, order[name]), spool.ids(start, stop)

        columns = {name: [known[name].originals[at] for at in own] for name, own in order.items()}
        yield Streamed(columns, list(results), joined.id_name, table, spool.written)


def _came(each: Features, columns: Sequence[str]) -> list[str]:
    """The columns of a table in the data, of those of numbers that were read."""
    levels = {group.name: group.levels for group in each.groups}
    return original(columns, levels)


def _store(
    joined: Joined,
    results: dict[str, dict[str, Matrix]],
    parts: Mapping[str, Mapping[str, NDArray[Any]]],
    rows: Rows,
) -> None:
    for suffix, part in parts.items():
        for number, (name, x) in enumerate(part.items()):
            own = results.setdefault(suffix, {})
            if name not in own:
                own[name] = joined.matrix(f"{number}{suffix}", x.shape[1], x.dtype)
            own[name].write(rows, x)


def _check(schema: Schema, data: MultimodalData, how: Reading) -> None:
    """Warnings and errors about modalities and columns, before anything is read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* far outside the range")
        schema.align(data, missing=how.missing)


def can_stream(files: Mapping[str, Path], out: Path, kind: str) -> bool:
    """Whether files of these kinds can be read and written in blocks of rows.

    Args:
        files: Modality -> file.
        out: A file, or a folder.
        kind: The format; "": that of the data.
    """
    needs = {*(ending(path) for path in files.values()), *([kind] if kind else [])}
    parquet = importlib.util.find_spec("pyarrow") is not None
    return needs <= {*TEXT, *(PARQUET if parquet else ())}


def impute_files(
    schema: Schema,
    imputer: Imputer,
    files: Any,
    out: Path,
    wanted: Wanted,
    how: Reading,
    *,
    format: str | None = None,
    force: bool = False,
    covariates: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Fill in what is missing in files, and write the result, with some thousands of samples in memory at a time.

    Args:
        schema: The schema of the training data.
        imputer: The fitted methods.
        files: Modality -> csv, tsv or parquet file; or a list of files whose names are those of modalities.
        out: A folder, which gets a file for each modality, or a csv, tsv or parquet file where there is one modality.
        wanted: What to fill in.
        how: How the files are read.
        format: Of the files of a folder; None: that of the data.
        force: Replace results that polyvae wrote.
        covariates: Name -> one value for all samples in place of their own, at which predictions are made.

    Returns:
        The paths that were written.

    Raises:
        InputError: Other kinds of files, files that do not fit the training data, or an existing ``out``.
        StorageError: A file could not be written.
    """
    paths, kind = listed(files), kind_of(out, format)
    check_output(out, wanted.suffixes()[1:], force)
    if not can_stream(paths, out, kind):
        raise InputError(
            f"{out}: got {named([str(path) for path in paths.values()])} and output {kind or 'as the files'}; expected csv, tsv or "
            "parquet files (with pyarrow installed) in and out; use impute for others"
        )
    if len(schema.modalities) > 1 and ending(out) in (*TEXT, *PARQUET):
        raise InputError(
            f"{out}: got one table for {len(schema.modalities)} modalities; expected a folder; choose another path"
        )
    with completed(schema, imputer, paths, how, wanted, out, covariates) as streamed:
        return write_streamed(streamed, out, kind or ending(next(iter(paths.values()))))


def predict_files(
    predictor: TargetPredictor,
    files: Any,
    out: Path,
    how: Reading,
    name: str = "prediction",
    *,
    force: bool = False,
) -> Path:
    """Predict the target of the samples in files, and write a table, with some thousands of samples in memory at a time.

    Args:
        predictor: What predicts.
        files: Modality -> csv, tsv or parquet file; or a list of files whose names are those of modalities.
        out: A csv, tsv, parquet or npy file.
        how: How the files are read.
        name: The name of the column of a class or a number.
        force: Replace an existing file.

    Returns:
        The path.

    Raises:
        InputError: Other kinds of files, files that do not fit the training data, or an existing ``out``.
        StorageError: The file could not be written.
    """
    check_file(out, force)
    check_columns(out)
    paths = listed(files)
    if not can_stream(paths, out, ""):
        raise InputError(
            f"{out}: got {named([str(path) for path in paths.values()])}; expected csv, tsv or parquet files (with pyarrow installed); use "
            "predict for others"
        )
    with spooled(predictor.schema, paths, how, out) as joined:
        stored = joined.matrix("numbers", predictor.width, np.dtype(np.float64))
        with storing_beside(out):
            for rows, data in joined.blocks():
                stored.write(rows, predictor.numbers(data))
        first = joined.id_name or "id"
        label = name if name != first else "prediction"
        write_columns(
            out,
            (predictor.columns(stored.read(np.arange(*ends)), label) for ends in joined.ranges()),
            joined.spool.size,
            first,
            (joined.spool.ids(*ends) or range(*ends) for ends in joined.ranges()),
        )
    return out

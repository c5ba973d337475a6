"""Tables written to files, by their ending."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from polyvae.data.groups import Cells, Columns, column
from polyvae.data.readers.layout import Ids, archive
from polyvae.data.readers.text import put_header, put_rows, write_sheet
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.files import atomic, write_npz

TEXT = (".csv", ".tsv", ".txt")
PARQUET = (".parquet", ".pq")
Put = Callable[[Cells, Ids], None]
ENDINGS = (*TEXT, *PARQUET, ".npz")


SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
"""Endings of spreadsheets, which are not read."""


def ending(path: Path) -> str:
    """The ending in lower case; without ".gz"."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def unknown_ending(path: Path, known: Sequence[str], where: str = "") -> InputError:
    """The error for a file of another kind.

    Args:
        path: The file.
        known: The endings that are read, or written.
        where: Such as "beside other tables".
    """
    kind = ending(path)
    remedy = "save each sheet as .csv" if kind in SHEETS else nearest(kind, known)
    expected = f"expected one of {', '.join(known)}{f' {where}' if where else ''}"
    return InputError(f"{path}: got a file that ends in {kind!r}; {expected}; {remedy}")


def stem(path: Path) -> str:
    """The name of a file without its ending."""
    return path.stem if path.suffix.lower() != ".gz" else Path(path.stem).stem


def target(out: Path, name: str, kind: str, count: int) -> Path:
    """The file for one modality: ``out`` where it names a file, else one in that folder."""
    if ending(out) in ENDINGS:
        if count > 1:
            raise InputError(
                f"{out}: got one file for {count} modalities; expected a folder, with a file for each; pass a folder"
            )
        return out
    out.mkdir(parents=True, exist_ok=True)
    return out / f"{name}{kind or '.csv'}"


def write_table(path: Path, values: Cells, columns: Sequence[str], ids: Ids, id: str = "id") -> None:
    """Write values [N, F] by the ending of ``path``: csv, tsv, parquet or npz."""
    kind = ending(path)
    if kind in TEXT:
        write_sheet(path, values, columns, ids, id, 0, "\t" if kind == ".tsv" else ",")
    elif kind == ".npz":
        if isinstance(values, Columns):
            raise InputError(
                f"{path}: got columns of classes for an npz file, which holds numbers; expected csv, tsv or parquet; choose another ending"
            )
        write_npz(path, archive({stem(path): values}, {stem(path): columns}, ids))
    elif kind in PARQUET:
        _write_parquet(path, values, columns, ids, id)
    else:
        raise unknown_ending(path, ENDINGS)


@contextmanager
def written_table(path: Path, columns: Sequence[str], id: str | None) -> Iterator[Put]:
    """A function that appends values [n, F] and their ids to a new csv, tsv or parquet file, which replaces ``path`` at the end.

    Args:
        path: The file; parquet needs pyarrow.
        columns: Names of columns.
        id: The header of the column of ids; None: there is none.
    """
    names, separator = [str(name) for name in columns], "\t" if ending(path) == ".tsv" else ","
    if ending(path) in TEXT:
        with atomic(path) as file:
            put_header(file, names, id, 0, separator)
            yield lambda values, ids: put_rows(file, values, None if id is None else ids, 0, separator)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic(path) as file, ExitStack() as stack:
        writers = list[Any]()

        def put(values: Cells, ids: Ids) -> None:
            cells = [] if id is None else [pa.array([str(value) for value in ids or ()], pa.string())]
            cells += [pa.array(np.ascontiguousarray(column(values, at))) for at in range(len(names))]
            table = pa.Table.from_arrays(cells, [*([] if id is None else [id]), *names])
            if not writers:  # no cell is missing, so that all blocks have the types of the first
                writers.append(stack.enter_context(pq.ParquetWriter(file, table.schema)))
            writers[0].write_table(table)

        yield put


def _write_parquet(path: Path, values: Cells, columns: Sequence[str], ids: Ids, id: str) -> None:
    cells: dict[str, Any] = {} if ids is None else {id: [str(value) for value in ids]}
    for at, name in enumerate(columns):
        x = column(values, at)
        cells[str(name)] = x.tolist() if x.dtype == object else x
    if importlib.util.find_spec("polars") is not None:
        import polars as pl

        with atomic(path) as file:
            pl.DataFrame(cells).write_parquet(file)
    elif importlib.util.find_spec("pyarrow") is not None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with atomic(path) as file:
            pq.write_table(pa.table(cells), file)
    else:
        raise InputError(
            f"{path}: no library that writes parquet is installed; expected polars or pyarrow; install one, or choose .csv"
        )

"""Tables written to files, by their ending."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from polyvae.data.groups import Cells, Columns, column
from polyvae.data.readers.endings import ENDINGS, PARQUET, TEXT, ending, stem, unknown_ending
from polyvae.data.readers.layout import Ids, archive
from polyvae.data.readers.types import Written, as_written
from polyvae.utils.errors import InputError
from polyvae.utils.files import atomic, write_npz

Put = Callable[[Cells, Ids], None]


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


def write_table(
    path: Path,
    values: Cells,
    columns: Sequence[str],
    ids: Ids,
    id: str = "id",
    written: Mapping[str, Written] | None = None,
) -> None:
    """Write values [N, F] by the ending of ``path``: csv, tsv, parquet or npz; to text as ``written`` has the columns."""
    kind = ending(path)
    if kind in TEXT:
        values = as_written(values, columns, written or {})
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
def written_table(
    path: Path, columns: Sequence[str], id: str | None, written: Mapping[str, Written] | None = None
) -> Iterator[Put]:
    """A function that appends values [n, F] and their ids to a new csv, tsv or parquet file, which replaces ``path`` at the end.

    Args:
        path: The file; parquet needs pyarrow.
        columns: Names of columns.
        id: The header of the column of ids; None: there is none.
        written: Column -> how text has its cells.
    """
    names, separator = [str(name) for name in columns], "\t" if ending(path) == ".tsv" else ","
    if ending(path) in TEXT:
        with atomic(path) as file:
            put_header(file, names, id, 0, separator)
            yield lambda values, ids: put_rows(
                file, as_written(values, columns, written or {}), None if id is None else ids, 0, separator
            )
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


def write_sheet(
    path: Path,
    values: Cells,
    columns: Sequence[str],
    ids: Sequence[Hashable] | None,
    id: str = "id",
    place: int = 0,
    separator: str = ",",
) -> None:
    """Write values [N, F] as csv or tsv, completely or not at all; an empty cell is a value that is missing."""
    with atomic(path) as file:
        put_header(file, columns, None if ids is None else id, place, separator)
        put_rows(file, values, ids, place, separator)


def put_header(
    file: BinaryIO, columns: Sequence[str], id: str | None, place: int = 0, separator: str = ","
) -> None:
    """Write the first line of a table; ``id`` None: it has no column of ids."""
    names = [str(name) for name in columns]
    if id is not None:
        names.insert(place, id)
    _put(file, names, separator)


def put_rows(
    file: BinaryIO,
    values: Cells,
    ids: Sequence[Hashable] | None,
    place: int = 0,
    separator: str = ",",
) -> None:
    """Write lines with values [n, F]; an empty cell is a value that is missing."""
    rows = values.rows() if isinstance(values, Columns) else (row.tolist() for row in np.asarray(values))
    for at, row in enumerate(rows):
        cells = [_cell(x) for x in row]
        if ids is not None:
            cells.insert(place, str(ids[at]))
        _put(file, cells, separator)


def _cell(x: Any) -> str:
    if isinstance(x, str | bool):
        return str(x)
    return "" if x is None or x != x else repr(x if isinstance(x, int) else float(x))


def _put(file: BinaryIO, cells: Sequence[str], separator: str) -> None:
    rows: list[str] = []
    csv.writer(_Lines(rows), delimiter=separator, lineterminator="\n").writerow(cells)
    file.write("".join(rows).encode())


class _Lines:
    """What ``csv.writer`` writes, as a list."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def write(self, text: str) -> int:
        """Append one line."""
        self.lines.append(text)
        return len(text)

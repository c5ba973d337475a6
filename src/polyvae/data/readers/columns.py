"""One column of a table beside its ids: labels and targets."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polyvae.data.readers.asking import check_file, check_given_ids
from polyvae.data.readers.endings import INPUTS, PARQUET, TEXT, ending, unknown_ending
from polyvae.data.readers.lines import header_and_rows, text_in
from polyvae.data.readers.opening import OMICS, has_index, open_file, opened, read_parquet
from polyvae.utils.errors import InputError, nearest, reading
from polyvae.utils.text import named, number_in


def columns_of(path: Path) -> list[str]:
    """The names of the columns of a table in a csv, tsv or parquet file; of the columns of obs in .h5ad and .h5mu; none of npy and npz.

    Raises:
        InputError: A file that cannot be read, or of another kind.
    """
    kind = ending(path)
    check_file(path)
    if kind in TEXT:
        header, rows, _ = header_and_rows(path)
        for _ in rows:  # an error of a row is one of the file
            pass
        return header
    if kind in PARQUET:
        return [*_texts(_frame(path, [])), *_stored(path)]
    if kind in OMICS:
        return [str(name) for name in open_file(path).obs.columns]
    if kind not in INPUTS:
        raise unknown_ending(path, (*INPUTS, *OMICS))
    return []


def column_of(path: Path, column: str, id: str | None = None) -> dict[str, Any]:
    """One column of a table in a file: id -> value, None where missing.

    Args:
        path: A csv, tsv, parquet, .h5ad or .h5mu file; of the last two the column is one of obs.
        column: Its name.
        id: The name of the id column; None: the first one.

    Raises:
        InputError: No such file or column, ids that are missing or repeated, or a file of another kind.
    """
    names = columns_of(path)
    for wanted in (column, *([] if id is None else [id])):
        if wanted not in names:
            hint = nearest(wanted, names)
            few = hint if hint.startswith("did") else f"known: {named(names, 6)}"
            raise InputError(f"{path}: there is no column {wanted!r}; {few}")
    kind = ending(path)
    if kind in OMICS:
        obs = open_file(path).obs
        ids, values = obs.index.tolist(), obs[column].tolist()
    elif kind in PARQUET:
        here, first = _stored(path), names[0] if id is None else id
        frame = _frame(path, [name for name in dict.fromkeys((first, column)) if name in here])
        texts = _texts(frame)
        ids, values = (frame[:, texts.index(name)].to_list() for name in (first, column))
    else:
        _, rows, separator = header_and_rows(path)
        place = names.index(id) if id is not None else 0
        at, pairs = names.index(column), list[tuple[str, str | None]]()
        for row in rows:
            pairs.append((row[place].strip(), text_in(row[at], separator)))
        ids, values = [one for one, _ in pairs], [value for _, value in pairs]
    return dict(zip(check_given_ids(str(path), ids), values, strict=True))


def plain(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The same values as numbers where all that are known are numbers or their text."""
    known = [value for value in values.values() if value is not None and value == value]
    try:
        numbers = np.array([number_in(value) if isinstance(value, str) else float(value) for value in known])
    except (TypeError, ValueError):
        return dict(values)
    if any(isinstance(value, bool) for value in known) or not np.isfinite(numbers).all():
        return dict(values)
    kind = int if all(number.is_integer() for number in numbers.tolist()) else float
    return {
        key: kind(float(value)) if value is not None and value == value else None
        for key, value in values.items()
    }


def _stored(path: Path) -> list[str]:
    """The names of the columns of a parquet file, without those of an index of pandas."""
    with reading(str(path), "a parquet file", "write it again"):
        if importlib.util.find_spec("pyarrow") is None:
            import polars as pl

            return list(pl.read_parquet_schema(path))
        import pyarrow.parquet as pq

        schema = pq.read_schema(path)
    own = (schema.pandas_metadata or {}) if importlib.util.find_spec("pandas") is not None else {}
    index = [name for name in own.get("index_columns", ()) if isinstance(name, str)]
    return [name for name in schema.names if name not in index]


def _texts(frame: Any) -> list[str]:
    return [str(name) for name in frame.columns]


def _frame(path: Path, columns: list[str]) -> Any:
    """Some columns of a parquet file, after those of its index."""
    check_file(path)
    with reading(str(path), "a parquet file", "write it again"):
        table = read_parquet(path, columns)
        return opened(str(path), table.reset_index() if has_index(table) else table)

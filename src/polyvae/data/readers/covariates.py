"""Covariates of samples that are joined on their ids: from mappings, data frames, columns of tables, and files."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import narwhals as nw

from polyvae.data.groups import is_absent, text_of
from polyvae.data.readers.asking import check_given_ids
from polyvae.data.readers.columns import column_of, columns_of, plain
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.text import named

Values = Mapping[str, Sequence[Any]]


def names_of(covariates: Any) -> tuple[str, ...] | None:
    """The names of columns, where covariates are given so; None for values."""
    if isinstance(covariates, Sequence) and not isinstance(covariates, str):
        names = tuple(covariates)
        if all(isinstance(name, str) for name in names):
            return names
    return None


def aligned(covariates: Any, ids: Sequence[Hashable] | None, count: int) -> dict[str, Any]:
    """Covariates in the order of the samples.

    Args:
        covariates: Name -> a mapping from ids to values, a pandas Series with ids as index, or values [N]; a pandas DataFrame with ids
            as index; or the path of a csv or tsv file with ids in its first column.
        ids: The ids of the samples; None: they have none.
        count: N.

    Raises:
        InputError: Something else, a sample without a value, or a file that is no table.
    """
    if isinstance(covariates, str | os.PathLike):
        covariates = _file(Path(covariates))
    if nw.dependencies.is_pandas_dataframe(covariates):
        covariates = {str(name): covariates[name] for name in covariates.columns}
    if names_of(covariates) is not None:
        raise InputError(
            f"covariates: got names of columns, {list(covariates)}; expected values, because these data have no table that contains them; "
            "pass a mapping from names to values by id"
        )
    if not isinstance(covariates, Mapping):
        raise InputError(
            f"covariates: got {type(covariates).__name__}; expected a mapping from names to values, a pandas DataFrame or a path; "
            "such as {'batch': ['a', 'b', 'b']}"
        )
    return {name: _in_order(str(name), x, ids, count) for name, x in covariates.items()}


def set_aside(
    tables: Mapping[str, nw.DataFrame[Any]], names: Sequence[str]
) -> tuple[dict[str, nw.DataFrame[Any]], dict[str, Values]]:
    """The tables without the columns ``names``, and table -> name -> values of those that it has.

    Raises:
        InputError: A name that no table has as a column.
    """
    own = {table: [str(name) for name in frame.columns] for table, frame in tables.items()}
    everything = [name for columns in own.values() for name in columns]
    for name in names:
        if name not in everything:
            raise InputError(
                f"covariates: no table has a column {name!r}; {nearest(name, everything)}; pass the table that has it"
            )
    found: dict[str, Values] = {}
    rest = {}
    for table, frame in tables.items():
        here = [name for name in frame.columns if str(name) in names]
        found[table] = {str(name): cells_of(frame[name]) for name in here}
        rest[table] = frame.drop(here) if here else frame
    return rest, found


def merged(found: Mapping[str, Values], ids: Mapping[str, Sequence[Hashable] | None]) -> dict[str, Any]:
    """Columns of several tables as name -> mapping from ids to values, or values where tables have no ids.

    Raises:
        InputError: Two tables disagree about a sample.
    """
    whole: dict[str, Any] = {}
    for table, columns in found.items():
        rows = ids[table]
        for name, values in columns.items():
            mapping = whole.setdefault(name, {})
            keys = range(len(values)) if rows is None else map(text_of, rows)
            for key, value in zip(keys, values, strict=True):
                before = mapping.setdefault(key, value)
                if before != value and not (is_absent(before) and is_absent(value)):
                    raise InputError(
                        f"covariate {name!r}: got {before!r} and {value!r} for sample {key!r}; expected the same in every table; "
                        "correct one"
                    )
    return {
        name: list(mapping.values()) if all(rows is None for rows in ids.values()) else mapping
        for name, mapping in whole.items()
    }


def cells_of(series: nw.Series[Any]) -> list[Any]:
    """The values of a column; those of categories as text, because they are levels, also where they look like numbers."""
    values = series.to_list()
    if series.dtype not in (nw.Categorical, nw.Enum):
        return values
    return [value if is_absent(value) else str(value) for value in values]


def of_obs(obs: Any, covariates: Any) -> Any:
    """Columns of obs of AnnData or MuData by name; anything else as it is."""
    names = names_of(covariates)
    if names is None:
        return covariates
    for name in names:
        if name not in obs.columns:
            raise InputError(
                f"covariates: obs has no column {name!r}; {nearest(name, map(str, obs.columns))}"
            )
    return {name: obs[name] for name in names}


def _in_order(name: str, x: Any, ids: Sequence[Hashable] | None, count: int) -> Any:
    where = f"covariate {name!r}"
    if nw.dependencies.is_pandas_series(x) and ids is not None:
        check_given_ids(where, x.index.tolist())
        x = dict(zip(x.index.tolist(), cells_of(nw.from_native(x, series_only=True)), strict=True))
    if not isinstance(x, Mapping):
        return x
    by_text = {text_of(key): value for key, value in x.items()}
    missing = [key for key in ids or () if text_of(key) not in by_text]
    if ids is None or missing:
        lacking = (
            f"{len(missing)} of {count} samples ({named(missing)})" if missing else "samples without ids"
        )
        raise InputError(
            f"{where}: got no value for {lacking}; expected one for each sample; add them, such as 'unknown'"
        )
    return [by_text[text_of(key)] for key in ids]


def _file(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> id -> value. A column is of numbers if all its values are."""
    return {name: plain(column_of(path, name)) for name in columns_of(path)[1:]}

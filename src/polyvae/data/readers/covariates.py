"""Covariates of samples that are joined on their ids: from mappings, data frames, columns of tables, and files."""

from __future__ import annotations

import os
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

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


def check_there(names: Sequence[str] | None, columns: Sequence[str]) -> None:
    """Raises InputError: a covariate that is none of the columns of the tables."""
    for name in names or ():
        if name not in columns:
            raise InputError(
                f"covariates: no table has a column {name!r}; {nearest(name, columns)}; pass the table that has it"
            )


class Beside(Protocol):
    """What ``merged`` needs of a ``Part``."""

    @property
    def ids(self) -> Sequence[Hashable] | None:
        """The names of the rows."""

    @property
    def beside(self) -> Values:
        """Covariate -> values."""


def merged(parts: Mapping[str, Beside], texts: Container[str] = ()) -> dict[str, Any]:
    """Covariates of several tables as name -> mapping from ids to values, or values where tables have no ids.

    Args:
        parts: The tables. A value that one of them lacks is taken from another.
        texts: The tables that were text files. What they have is of numbers if all of it is, and no other table has levels there.

    Raises:
        InputError: Two tables disagree about a sample.
    """
    names = dict.fromkeys(name for part in parts.values() for name in part.beside)
    plainly = all(part.ids is None for part in parts.values() if part.beside)
    found = {name: _merged(name, parts, texts) for name in names}
    return {name: list(values.values()) if plainly else values for name, values in found.items()}


def _merged(name: str, parts: Mapping[str, Beside], texts: Container[str]) -> dict[Any, Any]:
    tables = {table: part.beside[name] for table, part in parts.items() if name in part.beside}
    typed = {table: _plain(values) if table in texts else values for table, values in tables.items()}
    levels = any(isinstance(value, str) for values in typed.values() for value in values)
    if levels and any(table in texts for table in tables):
        typed = {table: [_level(value) for value in values] for table, values in tables.items()}
    whole: dict[Any, Any] = {}
    for table, values in typed.items():
        rows = parts[table].ids
        keys: Iterable[Any] = range(len(values)) if rows is None else map(text_of, rows)
        for key, value in zip(keys, values, strict=True):
            before = whole.get(key)
            if is_absent(before):
                whole[key] = value
            elif not is_absent(value) and text_of(before) != text_of(value):
                raise disagreement(name, before, value, key)
    return whole


def disagreement(name: str, before: Any, value: Any, key: Any) -> InputError:
    """The error where two tables have different values of a covariate for a sample."""
    return InputError(
        f"covariate {name!r}: got {before!r} and {value!r} for sample {key!r}; expected the same in every table; correct one"
    )


def _plain(values: Sequence[Any]) -> list[Any]:
    return list(plain(dict(enumerate(values))).values())


def _level(value: Any) -> Any:
    return value if is_absent(value) else text_of(value)


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

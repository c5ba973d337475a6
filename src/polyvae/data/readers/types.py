"""Tables of results, whose columns have the types in which they came in where their values allow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import BETWEEN, Cells, Columns, column, text_of

_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_EXACT = 2**53  # whole numbers up to it are the same in double precision


class Written(NamedTuple):
    """How a text file has the cells of a column.

    Attributes:
        whole: Whether whole numbers are without a decimal point, as 41.
        booleans: The texts of False and True.
    """

    whole: bool = False
    booleans: tuple[str, str] = ("False", "True")

    @classmethod
    def of(cls, text: str) -> Written:
        """How the first whole number or boolean of a column, which is ``text``, is written."""
        if text[:1].isalpha():
            style = str.upper if text.isupper() else str.lower if text.islower() else str.capitalize
            return cls(False, (style("false"), style("true")))
        return cls(text.lstrip("+-\u2212").isdecimal())


def integers_of(written: Mapping[str, Written]) -> dict[str, Any]:
    """The types of pandas of the columns of a text file that have whole numbers without a point."""
    return {name: np.dtype(np.int64) for name, how in written.items() if how.whole}


def as_written(cells: Cells, names: Sequence[str], written: Mapping[str, Written]) -> Cells:
    """Cells as the text file has them that came in: whole numbers without a point in columns of integers, booleans in their spelling."""
    if not any(name in written for name in names):
        return cells
    return Columns([_as_written(column(cells, at), written.get(name)) for at, name in enumerate(names)])


def _as_written(x: NDArray[Any], how: Written | None) -> NDArray[Any]:
    if how is None or (x.dtype.kind == "f" and not how.whole) or x.dtype.kind not in "fb":
        return x
    found = np.empty(len(x), object)
    if x.dtype.kind == "b":
        found[:] = [how.booleans[value] for value in x.tolist()]
    else:
        found[:] = [
            int(value) if value.is_integer() and abs(value) <= _EXACT else value for value in x.tolist()
        ]
    return found


def types_of(frame: nw.DataFrame[Any], kept: Sequence[int]) -> dict[str, Any]:
    """The types of the columns of integers, booleans and categories of a table, by name.

    Args:
        frame: The table.
        kept: The places of its columns of features.
    """
    native = frame.to_native()
    if not nw.dependencies.is_pandas_dataframe(native):
        kinds = list(frame.schema.items())
        return {kinds[at][0]: kinds[at][1] for at in kept if _is_typed(kinds[at][1])}
    import pandas as pd

    own = native.dtypes.to_numpy()
    return {
        str(native.columns[at]): own[at]
        for at in kept
        if isinstance(own[at], pd.CategoricalDtype)
        or (not isinstance(own[at], pd.SparseDtype) and own[at].kind in "iub")
    }


def _is_typed(kind: Any) -> bool:
    return (kind.is_integer() and str(kind).lower() in _INTEGERS) or isinstance(
        kind, nw.Categorical | nw.Enum
    )


def table_of(columns: Mapping[str, Any], types: Mapping[str, Any], backend: Any) -> Any:
    """A table of a library other than pandas.

    Args:
        columns: Name -> cells.
        types: Name -> type of narwhals.
        backend: The library.
    """
    cells = {
        name: _integers(x, str(types[name]).lower())
        if isinstance(x, np.ndarray) and name in types and types[name].is_integer()
        else x
        for name, x in columns.items()
    }
    frame = nw.from_dict({name: _plain(x) for name, x in cells.items()}, backend=backend)
    for name, kind in types.items():
        if name in cells and not kind.is_integer() and not _are_sets(cells[name]):
            frame = frame.with_columns(nw.col(name).cast(kind))
    return frame.to_native()


def pandas_table(
    x: Cells, labels: Sequence[Any], index: Any = None, types: Mapping[str, Any] | None = None
) -> Any:
    """A data frame of pandas.

    Args:
        x: Its cells.
        labels: The names of its columns.
        index: Its index; None: row numbers.
        types: The types of columns of integers, booleans and categories, by name.
    """
    import pandas as pd

    kinds = [(types or {}).get(str(label)) for label in labels]
    if not isinstance(x, Columns) and all(kind is None for kind in kinds):
        return pd.DataFrame(x, index=index, columns=pd.Index(labels))
    cells = {at: _in_type(column(x, at), kind) for at, kind in enumerate(kinds)}
    table = pd.DataFrame(cells, index=index)
    table.columns = pd.Index(labels)
    return table


def _in_type(x: NDArray[Any], kind: Any) -> Any:
    """A column in a type of pandas, as far as its values can have it."""
    import pandas as pd

    if kind is None:
        return x
    if isinstance(kind, pd.CategoricalDtype):
        return _categories(x, kind)
    if kind.kind == "b":
        return pd.array(x, dtype=kind) if x.dtype.kind == "b" else x
    if isinstance(kind, np.dtype):
        return _integers(x, kind)
    found = _integers(x, kind.numpy_dtype)
    return pd.array(found, dtype=kind) if found.dtype.kind in "iu" else found


def _integers(x: NDArray[Any], kind: Any) -> NDArray[Any]:
    """Whole numbers as integers of a type that can have them; all other cells as they are."""
    if x.dtype.kind not in "fiu" or not len(x):
        return x
    low, high = float(x.min()), float(x.max())
    ends = np.iinfo(kind)
    if not (max(ends.min, -_EXACT) <= low <= high <= min(ends.max, _EXACT)) or (x != np.floor(x)).any():
        return x
    return x.astype(kind)


def _categories(x: NDArray[Any], kind: Any) -> Any:
    """Cells as categories of the type in which they came in; with further categories where they contain others, as sets of them."""
    import pandas as pd

    by_text = {text_of(value): value for value in kind.categories}
    values = [by_text.get(text_of(value), value) for value in x.tolist()]
    more = [value for value in dict.fromkeys(values) if value not in set(kind.categories)]
    if more and (kind.ordered or any(BETWEEN in str(value) for value in more)):
        return x
    return pd.Categorical(values, [*kind.categories, *more], kind.ordered)


def _are_sets(cells: Any) -> bool:
    """Whether some cell is a set of classes as text."""
    return any(BETWEEN in str(cell) for cell in cells)


def _plain(x: Any) -> Any:
    """A column for a library that does not take objects of NumPy."""
    return x.tolist() if isinstance(x, np.ndarray) and x.dtype == object else x

"""Columns of classes: how they are stored as numbers, and back.

An unordered class is a group of columns of zeros and ones, one for each class, named "stage=ii". An ordered class, and a boolean, is one
column of ranks 0, 1, 2, ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Number
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from polyvae.utils.errors import InputError
from polyvae.utils.records import Record
from polyvae.utils.text import counted, named

Unseen = Literal["error", "mask"]
BETWEEN = " | "
"""What separates the classes of a prediction set."""


class Levels(NamedTuple):
    """The classes of a column.

    Attributes:
        names: The classes in order: texts, numbers or booleans.
        ranks: Whether they are stored as one column of ranks rather than as a column for each class.
    """

    names: tuple[Any, ...]
    ranks: bool

    def columns(self, name: str) -> list[str]:
        """The names of the columns of numbers for a column ``name``."""
        return [name] if self.ranks else [f"{name}={text_of(level)}" for level in self.names]

    def codes(self, where: str, name: str, values: Sequence[Any], unseen: Unseen = "error") -> Codes:
        """The number of the class of each value, −1 where it is missing.

        Args:
            where: The table, for errors.
            name: The column, for errors.
            values: Classes, None where missing; compared as text, so that 1, 1.0 and "1" are the same class.
            unseen: What other values are: "error", or "mask", which makes them missing.

        Raises:
            InputError: A value that is not one of the classes, unless ``unseen`` is "mask".
        """
        place = {text_of(level): at for at, level in enumerate(self.names)}
        texts = [None if value is None else text_of(value) for value in values]
        unknown = sorted({text for text in texts if text is not None and text not in place})
        if unknown and unseen == "error":
            raise InputError(
                f"{where}: got {counted(len(unknown), 'unknown class', 'unknown classes')} ({named(unknown)}) in column {name!r}; expected "
                f"{named(list(place), 10)}; correct them, or take them as missing with unseen_classes='mask'"
            )
        return np.array([-1 if text is None else place.get(text, -1) for text in texts], np.intp)

    def numbers(self, codes: Codes) -> NDArray[np.float64]:
        """Codes [n] as numbers [n, C] or [n, 1], NaN where missing."""
        known = (codes >= 0)[:, None]
        if self.ranks:
            return np.where(known, codes[:, None], np.nan).astype(np.float64)
        return np.where(known, codes[:, None] == np.arange(len(self.names)), np.nan).astype(np.float64)


Codes = NDArray[np.intp]


class Group(Record):
    """A column of classes among the columns of a modality.

    Args:
        name: Its name in the data.
        levels: The classes in order.
        start: The place of its first column of numbers.
        ranks: Whether it is one column of ranks.
    """

    name: str
    levels: Annotated[list[bool | int | float | str], Field(min_length=1)]
    start: Annotated[int, Field(ge=0)]
    ranks: bool

    @property
    def columns(self) -> slice:
        """Its columns of numbers."""
        return slice(self.start, self.start + (1 if self.ranks else len(self.levels)))

    @property
    def classes(self) -> Levels:
        """Its classes, as readers take them."""
        return Levels(tuple(self.levels), self.ranks)

    def codes(self, values: NDArray[Any]) -> Codes:
        """The most probable class of each sample: values [n, F] of all columns of the modality -> [n]."""
        own = values[:, self.columns]
        if self.ranks:
            rank = np.clip(np.rint(own[:, 0]), 0, len(self.levels) - 1)
            return np.asarray(rank, np.float64).astype(np.intp)
        return np.asarray(own.argmax(1), np.intp)

    def cells(self, values: NDArray[Any], sets: bool = False) -> NDArray[Any]:
        """The class of each sample, or the set of its classes as text: values [n, F] of all columns of the modality -> [n]."""
        if sets and not self.ranks:
            texts = [text_of(level) for level in self.levels]
            own = values[:, self.columns] > 0.5
            return _objects(
                [
                    BETWEEN.join(text for text, kept in zip(texts, row, strict=True) if kept)
                    for row in own.tolist()
                ]
            )
        chosen = [self.levels[code] for code in self.codes(values).tolist()]
        kinds = {type(level) for level in self.levels}
        for kind, array in ((bool, np.bool_), (int, np.int64)):
            if kinds == {kind}:
                return np.array(chosen, array)
        found: NDArray[Any] = np.array(chosen, np.float64) if kinds <= {int, float} else _objects(chosen)
        return found


class Columns:
    """N cells in F columns of several types; ``[N, F]`` arrays are the case of one type.

    Args:
        columns: F arrays [N].
    """

    def __init__(self, columns: Sequence[NDArray[Any]]) -> None:
        self.columns = tuple(columns)

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def numeric(self) -> bool:
        """Whether all cells are numbers."""
        return all(x.dtype.kind in "fiu" for x in self.columns)

    def array(self) -> NDArray[Any]:
        """[N, F]: numbers, or objects where there are others."""
        kind = np.float64 if self.numeric else object
        return np.stack([x.astype(kind) for x in self.columns], 1)

    def rows(self) -> Iterator[list[Any]]:
        """The cells of each sample."""
        for row in zip(*(x.tolist() for x in self.columns), strict=True):
            yield list(row)


Cells = NDArray[Any] | Columns
"""A table of results: numbers [N, F], or columns of several types."""


def taken(cells: Cells, order: Sequence[int]) -> Cells:
    """Some columns, in this order."""
    if isinstance(cells, Columns):
        return Columns([cells.columns[at] for at in order])
    return np.asarray(cells)[:, list(order)]


def column(cells: Cells, at: int) -> NDArray[Any]:
    """One column, [N]."""
    return cells.columns[at] if isinstance(cells, Columns) else np.asarray(cells)[:, at]


class Decoder(NamedTuple):
    """Numbers as the classes they are stored for.

    Attributes:
        groups: Modality -> its columns of classes.
        sets: Whether the numbers of an unordered class mark a set of its classes, as at the ends of intervals.
    """

    groups: Mapping[str, Sequence[Group]]
    sets: bool = False

    def columns(self, name: str, columns: Sequence[str]) -> list[str]:
        """The names of the columns in the data, of those of numbers."""
        first = {group.start: group for group in self.groups.get(name, ())}
        inside = {at for group in first.values() for at in range(len(columns))[group.columns]}
        return [
            first[at].name if at in first else text
            for at, text in enumerate(columns)
            if at in first or at not in inside
        ]

    def places(self, name: str, columns: Sequence[str], order: Sequence[int]) -> list[int]:
        """The places of the columns of numbers, for the columns of ``columns(name, columns)`` in another order."""
        groups = {group.name: group for group in self.groups.get(name, ())}
        own, at = self.columns(name, columns), {text: at for at, text in enumerate(columns)}
        found = list[int]()
        for place in order:
            group = groups.get(own[place])
            found += [at[own[place]]] if group is None else range(len(columns))[group.columns]
        return found

    def cells(self, name: str, values: NDArray[Any]) -> Cells:
        """The cells in the data, of numbers [N, F]; these numbers where there are no classes."""
        groups = {group.start: group for group in self.groups.get(name, ())}
        if not groups:
            return values
        found, at = list[NDArray[Any]](), 0
        while at < values.shape[1]:
            group = groups.get(at)
            found.append(values[:, at] if group is None else group.cells(values, self.sets))
            at = at + 1 if group is None else group.columns.stop
        return Columns(found)

    def tables(
        self, values: Mapping[str, NDArray[Any]], columns: Mapping[str, Sequence[str]]
    ) -> tuple[dict[str, Cells], dict[str, list[str]]]:
        """``cells`` and ``columns`` of all modalities."""
        return (
            {name: self.cells(name, x) for name, x in values.items()},
            {name: self.columns(name, own) for name, own in columns.items()},
        )


PLAIN = Decoder({})
"""Numbers stay numbers."""


def generated(name: str, size: int) -> list[str]:
    """Names of the features of a modality without names."""
    return [f"{name}_{place}" for place in range(size)]


def original(columns: Sequence[str], levels: Mapping[str, Sequence[Any]]) -> list[str]:
    """The names of the columns in the data, of those of numbers.

    Args:
        columns: Names of columns of numbers.
        levels: Column -> its classes.
    """
    own = set(columns)
    owner = {
        text: name
        for name, names in levels.items()
        if name not in own
        for text in Levels(tuple(names), False).columns(name)
    }
    return list(dict.fromkeys(owner.get(text, text) for text in columns))


def groups_of(columns: Sequence[str], levels: Mapping[str, Sequence[Any]]) -> list[Group]:
    """The columns of classes among columns of numbers.

    Args:
        columns: Names of columns of numbers.
        levels: Column -> its classes; see ``MultimodalData.levels``.
    """
    place = {text: at for at, text in enumerate(columns)}
    found = []
    for name, names in levels.items():
        ranks = name in place
        first = name if ranks else Levels(tuple(names), False).columns(name)[0]
        found.append(Group(name=name, levels=list(names), start=place[first], ranks=ranks))
    return sorted(found, key=lambda group: group.start)


def leaders(size: int, groups: Sequence[Group]) -> NDArray[np.intp]:
    """[F], the first column of the group of each column, which is itself where it is in none."""
    found = np.arange(size)
    for group in groups:
        found[group.columns] = group.start
    return found


def text_of(value: object) -> str:
    """A value as text: 1, 1.0 and "1" are the same."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def is_absent(value: object) -> bool:
    """Whether a cell marks what is missing: None, NaN, NA, NaT or empty text."""
    if value is None or (isinstance(value, str) and value == ""):
        return True
    # By name, because the text of an unknown object may take long to make.
    return type(value).__name__ in ("NAType", "NaTType") or (
        isinstance(value, Number | np.generic) and value != value
    )


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    found = np.empty(len(values), object)
    found[:] = values
    return found

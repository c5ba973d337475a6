"""Samples on disk: matrices whose rows are read and written by number, and an index of ids and of an order."""

from __future__ import annotations

import itertools
import math
import sqlite3
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import is_absent, text_of
from polyvae.data.readers.covariates import disagreement
from polyvae.data.readers.parts import Part
from polyvae.utils.errors import InputError
from polyvae.utils.text import named, number_in

_CACHE = 2**15  # KiB that SQLite keeps in memory

_SHOWN = 5  # samples that an error names

Rows = NDArray[np.intp]


class Matrix:
    """A matrix [*, F] on disk. Rows that were never written are zero.

    Not a memory map, because pages of a map that were read count as memory of the process.

    Args:
        path: A new file.
        width: F.
        kind: The type of the numbers.
    """

    def __init__(self, path: Path, width: int, kind: np.dtype[Any]) -> None:
        self.file = path.open("x+b", buffering=0)
        self.width, self.kind, self.size = width, kind, width * kind.itemsize

    def write(self, rows: Rows, values: NDArray[Any]) -> None:
        """Write values [n, F] to the rows ``rows``, [n]."""
        order = np.argsort(rows, kind="stable")
        held = np.ascontiguousarray(values[order], self.kind)
        for start, stop in _runs(rows[order]):
            self.file.seek(int(rows[order[start]]) * self.size)
            left = held[start:stop].data.cast("B")
            while left:
                left = left[self.file.write(left) :]

    def read(self, rows: Rows) -> NDArray[Any]:
        """The rows ``rows`` [n], as [n, F]."""
        order = np.argsort(rows, kind="stable")
        held = np.zeros((len(rows), self.width), self.kind)
        for start, stop in _runs(rows[order]):
            self.file.seek(int(rows[order[start]]) * self.size)
            left = held[start:stop].data.cast("B")
            while left and (got := self.file.readinto(left)):
                left = left[got:]
        result = np.empty_like(held)
        result[order] = held
        return result

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _runs(rows: Rows) -> list[tuple[int, int]]:
    """The parts of ``rows`` that count up by one: starts and stops."""
    edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if stop > start]


class Index:
    """Ids in the order of their first appearance, and an order of the samples by keys, in an SQLite file.

    Args:
        path: A new file.
    """

    def __init__(self, path: Path) -> None:
        self.base = sqlite3.connect(path, isolation_level=None)
        for line in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            f"PRAGMA cache_size = -{_CACHE}",
            "CREATE TABLE samples (number INTEGER PRIMARY KEY, text TEXT UNIQUE NOT NULL, shown TEXT NOT NULL)",
            "CREATE TABLE beside (number INTEGER, at INTEGER, value, PRIMARY KEY (number, at)) WITHOUT ROWID",
            "CREATE TABLE keys (key BLOB, number INTEGER, PRIMARY KEY (key, number)) WITHOUT ROWID",
            "BEGIN",
        ):
            self.base.execute(line)

    def rows(self, ids: Sequence[Hashable]) -> Rows:
        """The number of the sample of each id, a new one for each id that is new. 1, 1.0 and "1" are the same id."""
        texts = [text_of(value) for value in ids]
        self.base.executemany(
            "INSERT OR IGNORE INTO samples (text, shown) VALUES (?, ?)",
            zip(texts, (str(value) for value in ids), strict=True),
        )
        find = "SELECT number FROM samples WHERE text = ?"
        return np.array([self.base.execute(find, (text,)).fetchone()[0] - 1 for text in texts], np.intp)

    @property
    def size(self) -> int:
        """The number of samples."""
        return int(self.base.execute("SELECT COUNT(*) FROM samples").fetchone()[0])

    def ids(self, start: int, stop: int) -> list[str]:
        """The ids of the samples ``start`` to ``stop``, as they came in first."""
        find = "SELECT shown FROM samples WHERE number > ? AND number <= ? ORDER BY number"
        return [shown for (shown,) in self.base.execute(find, (start, stop))]

    def texts(self, start: int, stop: int) -> list[str]:
        """The ids of the samples ``start`` to ``stop`` as text by which they are compared: 1 and 1.0 are "1"."""
        find = "SELECT text FROM samples WHERE number > ? AND number <= ? ORDER BY number"
        return [text for (text,) in self.base.execute(find, (start, stop))]

    def put(self, at: int, rows: Rows, values: Sequence[Any]) -> Iterator[tuple[int, Any, Any]]:
        """Store value number ``at`` of the samples ``rows`` where they have none; yields the row, the stored value and the new one of the
        others. None is no value."""
        insert = "INSERT OR IGNORE INTO beside VALUES (?, ?, ?)"
        for row, value in zip(rows.tolist(), values, strict=True):
            if value is not None and self.base.execute(insert, (row, at, value)).rowcount == 0:
                yield row, self.get(at, [row])[0], value

    def get(self, at: int, rows: Sequence[int]) -> list[Any]:
        """Value number ``at`` of the samples ``rows``, None where there is none."""
        find = "SELECT value FROM beside WHERE number = ? AND at = ?"
        found = (self.base.execute(find, (row, at)).fetchone() for row in rows)
        return [None if one is None else one[0] for one in found]

    def known(self, at: int) -> int:
        """How many samples have value number ``at``."""
        return int(self.base.execute("SELECT COUNT(*) FROM beside WHERE at = ?", (at,)).fetchone()[0])

    def sort(self, keys: Sequence[bytes], start: int) -> None:
        """Give the samples ``start``, ``start + 1``, ... their keys."""
        pairs = sorted((key, start + at) for at, key in enumerate(keys))
        self.base.executemany("INSERT INTO keys VALUES (?, ?)", pairs)

    def ordered(self, count: int) -> Iterator[Rows]:
        """The numbers of all samples in the order of their keys, then of their numbers, ``count`` at a time."""
        found = self.base.execute("SELECT number FROM keys ORDER BY key, number")
        while part := found.fetchmany(count):
            yield np.array([number for (number,) in part], np.intp)

    def close(self) -> None:
        """Close the file."""
        self.base.close()


class Known:
    """What is known of a covariate whose values are in an ``Index``; they are those that ``readers.covariates.merged`` finds.

    Args:
        name: Its name.
    """

    def __init__(self, name: str) -> None:
        self.name, self.levels = name, False
        self._alike: tuple[Any, Any, Any] | None = None

    def add(self, index: Index, at: int, rows: Rows, part: Part, text: bool) -> None:
        """Store the values that a table has.

        Args:
            index: Where they are stored.
            at: The number of the covariate there.
            rows: The numbers of the samples.
            part: The table.
            text: Whether it is a text file, whose numbers are text.

        Raises:
            InputError: A table before had another value of a sample.
        """
        values = [None if is_absent(value) else _stored(value) for value in part.beside[self.name]]
        if not self.levels:
            known = [value for value in values if value is not None]
            self.levels = any(_number(value) is None if text else isinstance(value, str) for value in known)
        for row, before, value in index.put(at, rows, values):
            if text_of(before) != text_of(value):
                key = row if part.ids is None else index.texts(row, row + 1)[0]
                if _number(before) is None or _number(before) != _number(value):
                    raise disagreement(self.name, before, value, key)
                self._alike = before, value, key

    def check(self, index: Index, at: int, count: int, shown: Callable[[int], str]) -> None:
        """Check the values of ``count`` samples, whose ids ``shown`` returns.

        Raises:
            InputError: A sample without a value, or two spellings of one number where there are levels.
        """
        if self.levels and self._alike is not None:
            raise disagreement(self.name, *self._alike)
        lacking = count - index.known(at)
        if lacking:
            first = (row for row in range(count) if index.get(at, [row])[0] is None)
            names = named([shown(row) for row in itertools.islice(first, min(lacking, _SHOWN))])
            more = f" and {lacking - _SHOWN} more" if lacking > _SHOWN else ""
            raise InputError(
                f"covariate {self.name!r}: got no value for {lacking} of {count} samples ({names}{more}); expected one for each sample; "
                "add them, such as 'unknown'"
            )

    def read(self, index: Index, at: int, rows: Rows) -> NDArray[Any]:
        """The values of the samples ``rows``: [n], levels as text, or numbers."""
        values = index.get(at, rows.tolist())
        return np.array([text_of(value) if self.levels else _number(value) for value in values])


def _stored(value: Any) -> str | float:
    """A value of a covariate as text or a number."""
    return str(value) if isinstance(value, str | bool | np.bool_) else float(value)


def _number(value: str | float) -> float | None:
    """The number that a value is, None where it is none."""
    try:
        number = number_in(value) if isinstance(value, str) else float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

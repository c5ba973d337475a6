"""Samples on disk: matrices whose rows are read and written by number, and an index of ids and of an order."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import text_of

_CACHE = 2**15  # KiB that SQLite keeps in memory

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

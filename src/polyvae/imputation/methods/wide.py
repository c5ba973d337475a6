"""Wide tables: the members see their principal components, so that time and memory do not grow with the number of columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.methods.simple import components
from polyvae.imputation.tables import Floats, Tables, pieces

WIDE = 1000
"""Columns above which a table is wide."""

_MOST = 512  # components of a wide table
_CELLS = 2**25  # values of a table that are in memory at a time


class Basis(NamedTuple):
    """The principal axes of a wide table.

    Attributes:
        axes: [P, C], orthonormal.
        scale: One number by which all coordinates are divided, so that their mean variance is 1. With a number for each of them,
            coordinates of little variance would count as much as the others.
    """

    axes: Floats
    scale: np.float32


class Wide:
    """Coordinates of wide tables in the principal axes of their training samples; other tables are unchanged.

    With fewer training samples than columns the axes span all of them, and nothing is lost. Missing entries are at their mean.

    Args:
        tables: The training samples.
    """

    def __init__(self, tables: Tables) -> None:
        self.bases: dict[str, Basis] = {}
        self.spans: dict[str, list[tuple[Floats, Floats] | None]] = {}
        for name, x in tables.values.items():
            if x.shape[1] <= WIDE:
                continue
            rows = np.flatnonzero(tables.observed[name].any(1))
            rows = rows[:: -(-len(rows) // max(_MOST, _CELLS // x.shape[1]))] if len(rows) else rows
            if len(rows) > 2:
                pca = components(x[rows], _MOST)
                variance = max(float(pca.explained_variance_.mean()), 1e-12)
                self.bases[name] = Basis(pca.components_.T.astype(np.float32), np.float32(np.sqrt(variance)))

    def leave_out(self, tables: Tables, fold: NDArray[np.intp], count: int) -> None:
        """Find what each member knows of the coordinates: the span of the samples that it does not leave out.

        Its weights outside this span are as they were initialised. A sample that it left out has a part there, which is large because
        the axes were found with this sample too; a new sample has none. ``known_to`` removes it from both.

        Args:
            tables: The training samples.
            fold: [N], the member that leaves out each sample.
            count: Members.
        """
        down = self.down(tables)
        for name in self.bases:
            x, there = down.values[name], down.observed[name][:, 0]
            self.spans[name] = [_span(x[there & (fold != member)]) for member in range(count)]

    def known_to(self, member: int, tables: Tables) -> Tables:
        """Coordinates without the part of which a member knows nothing."""
        values = dict(tables.values)
        for name, spans in self.spans.items():
            span = spans[member]
            if span is not None:
                mean, axes = span
                values[name] = np.asarray(mean + ((tables.values[name] - mean) @ axes) @ axes.T, np.float32)
        return tables._replace(values=values)

    def size(self, name: str, columns: int) -> int:
        """The number of coordinates of a table of ``columns`` columns."""
        return self.bases[name].axes.shape[1] if name in self.bases else columns

    def down(self, tables: Tables) -> Tables:
        """The coordinates of samples; all of a wide table are observed where any of its entries is."""
        values, observed = dict(tables.values), dict(tables.observed)
        for name, basis in self.bases.items():
            parts = [(x @ basis.axes) / basis.scale for _, x in pieces(tables.values[name], _CELLS)]
            values[name] = np.concatenate(parts)
            row = np.asarray(tables.observed[name].any(1), bool)
            observed[name] = np.repeat(row[:, None], basis.axes.shape[1], 1)
        return tables._replace(values=values, observed=observed)

    def up(self, values: Mapping[str, Floats]) -> dict[str, Floats]:
        """Columns from coordinates: name -> [N, P]."""
        result = dict(values)
        for name, basis in self.bases.items():
            result[name] = np.asarray((values[name] * basis.scale) @ basis.axes.T, np.float32)
        return result


def _span(x: Floats) -> tuple[Floats, Floats] | None:
    """The mean of the rows of x [n, C], and an orthonormal basis of their differences from it: [C] and [C, r]. None: r is C."""
    if not len(x):
        return np.zeros(x.shape[1], np.float32), np.zeros((x.shape[1], 0), np.float32)
    mean = x.mean(0, dtype=np.float64)
    w, v = np.linalg.eigh((x - mean).T @ (x - mean))
    kept = w > max(float(w[-1]), 0.0) * 1e-8
    return None if kept.all() else (mean.astype(np.float32), v[:, kept].astype(np.float32))

"""Wide tables: the members see their principal components, so that time and memory do not grow with the number of columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from polyvae.imputation.simple import components
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
        for name, x in tables.values.items():
            if x.shape[1] <= WIDE:
                continue
            rows = np.flatnonzero(tables.observed[name].any(1))
            rows = rows[:: -(-len(rows) // max(_MOST, _CELLS // x.shape[1]))] if len(rows) else rows
            if len(rows) > 2:
                pca = components(x[rows], _MOST)
                variance = max(float(pca.explained_variance_.mean()), 1e-12)
                self.bases[name] = Basis(pca.components_.T.astype(np.float32), np.float32(np.sqrt(variance)))

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
        return Tables(values, observed)

    def up(self, values: Mapping[str, Floats]) -> dict[str, Floats]:
        """Columns from coordinates: name -> [N, P]."""
        result = dict(values)
        for name, basis in self.bases.items():
            result[name] = np.asarray((values[name] * basis.scale) @ basis.axes.T, np.float32)
        return result

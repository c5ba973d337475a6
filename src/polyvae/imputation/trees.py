"""Extremely randomised trees that predict each column of a table from all others, for tables that are narrow enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from polyvae.imputation.tables import Flags, Floats

_TREES = 50
_LEAF = 3  # samples in a leaf, at least
_SHARE = 0.4  # of the columns, that are candidates for a split
_FEWEST = 80  # samples
_AFFORDABLE = 2**21


def affordable(samples: int, columns: int) -> bool:
    """Whether trees are one of the methods: 80 samples or more, and samples · columns² up to 2²¹, such as 500 samples of 64 columns.

    All of them are then fitted in about a minute.
    """
    return samples >= _FEWEST and samples * columns**2 <= _AFFORDABLE


class Trees:
    """A forest for each column of a modality, or for the columns of a class together (Geurts et al. 2006).

    As in missForest (Stekhoven & Bühlmann 2012), missing entries of the inputs are filled in first, here by factors.

    Args:
        filled: [N, P], all columns of all modalities that are encoded, standardised, with missing entries filled in.
        seen: [N, P] bool, which entries were observed.
        columns: The columns of the modality, F of the P.
        leader: [F], the first column of the class of each column among these columns; itself where it is in none.
        seed: Of the trees.
    """

    def __init__(
        self, filled: Floats, seen: Flags, columns: slice, leader: NDArray[np.intp], seed: int
    ) -> None:
        self.width, self.start = len(leader), columns.start
        self.forests: list[tuple[NDArray[np.intp], ExtraTreesRegressor]] = []
        for first in np.unique(leader):
            own = np.flatnonzero(leader == first)
            rows = seen[:, columns.start + first]
            y = filled[rows][:, columns.start + own]
            if len(y) < 2 * _LEAF or not (y != y[0]).any():
                continue  # the mean, which is 0, predicts as well
            forest = ExtraTreesRegressor(
                _TREES, min_samples_leaf=_LEAF, max_features=_SHARE, random_state=seed
            )
            self.forests.append(
                (own, forest.fit(self._inputs(filled[rows], own), y if len(own) > 1 else y[:, 0]))
            )

    def predict(self, filled: Floats) -> Floats:
        """The columns of the modality: [n, P], with missing entries filled in -> [n, F]."""
        found = np.zeros((len(filled), self.width), np.float32)
        for own, forest in self.forests:
            if len(filled):
                found[:, own] = forest.predict(self._inputs(filled, own)).reshape(len(filled), -1)
        return found

    def _inputs(self, filled: Floats, own: NDArray[np.intp]) -> Floats:
        return np.delete(filled, self.start + own, 1)

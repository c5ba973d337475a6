"""Extremely randomised trees that predict each column of a table from all others, for tables that are narrow enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from polyvae.imputation.tables import Flags, Floats

_TREES = (30, 50)  # of a forest, in each round
_LEAF = 3  # samples in a leaf, at least
_SHARE = 0.4  # of the columns, that are candidates for a split
_FEWEST = 80  # samples
_AFFORDABLE = 2**21


def affordable(samples: int, columns: int) -> bool:
    """Whether trees are one of the methods: 80 samples or more, and samples · columns² up to 2²¹, such as 500 samples of 64 columns.

    All of them are then fitted in about two minutes.
    """
    return samples >= _FEWEST and samples * columns**2 <= _AFFORDABLE


class Forest(NamedTuple):
    """What predicts some columns from all others.

    Attributes:
        columns: These columns.
        trees: The trees.
    """

    columns: NDArray[np.intp]
    trees: ExtraTreesRegressor

    def predict(self, filled: Floats) -> Floats:
        """[n, P], with missing entries filled in -> the columns."""
        inputs = np.delete(filled, self.columns, 1)
        return np.asarray(self.trees.predict(inputs), np.float32).reshape(len(filled), -1)


class Trees:
    """A forest for each column, or for the columns of a class together (Geurts et al. 2006), fitted in two rounds.

    As in missForest (Stekhoven & Bühlmann 2012), missing entries of the inputs are filled in first: in the first round by what is given,
    here predictions by factors, and then by the trees of the first round.

    Args:
        x: [N, P], all columns of all modalities that are encoded, standardised.
        seen: [N, P] bool, which entries were observed.
        first: [N, P], predictions of all entries.
        leader: [P], the first column of the class of each column; itself where it is in none.
        seed: Of the trees.
    """

    def __init__(self, x: Floats, seen: Flags, first: Floats, leader: NDArray[np.intp], seed: int) -> None:
        self.rounds: list[list[Forest]] = []
        filled = np.where(seen, x, first)
        for number, count in enumerate(_TREES):
            forests = []
            for place in np.unique(leader):
                own = np.flatnonzero(leader == place)
                rows = seen[:, place]
                y = x[rows][:, own]
                if len(y) < 2 * _LEAF or not (y != y[0]).any():
                    continue  # what is given predicts as well
                trees = ExtraTreesRegressor(
                    count, min_samples_leaf=_LEAF, max_features=_SHARE, random_state=(seed + number) % 2**32
                )
                inputs = np.delete(filled[rows], own, 1)
                forests.append(Forest(own, trees.fit(inputs, y if len(own) > 1 else y[:, 0])))
            self.rounds.append(forests)
            if number + 1 < len(_TREES):
                filled = np.where(seen, x, _predicted(forests, filled, seen))

    def predict(self, x: Floats, seen: Flags, first: Floats, columns: slice) -> Floats:
        """Some columns from all others: [n, F].

        Args:
            x: [n, P].
            seen: [n, P] bool.
            first: [n, P], predictions of all entries, where ``Trees`` was given those of the training samples.
            columns: The F columns.
        """
        filled = np.where(seen, x, first)
        for forests in self.rounds[:-1]:
            filled = np.where(seen, x, _predicted(forests, filled, seen))
        wanted = np.zeros(seen.shape, bool)
        wanted[:, columns] = True
        return _predicted(self.rounds[-1], filled, ~wanted)[:, columns]


def _predicted(forests: Sequence[Forest], filled: Floats, seen: Flags) -> Floats:
    """The entries that were not seen, by the forests of one round; all others as they are."""
    found = filled.copy()
    for forest in forests:
        rows = np.flatnonzero(~seen[:, forest.columns].all(1))
        if len(rows):
            found[np.ix_(rows, forest.columns)] = forest.predict(filled[rows])
    return found

"""The methods. Each is ``fit(train) -> predictor``, and ``predictor(inputs, target) -> [N, F]``; all values are standardised."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.neighbors import NearestNeighbors

from benchmarks.imputation.factors import Mofa
from benchmarks.imputation.linear import Ridge, gaussian, stacked
from benchmarks.imputation.stack import Stack
from benchmarks.imputation.tables import Skipped, Views, pick, present

Array = NDArray[np.floating]
NEIGHBOURS = (5, 10, 20)
MOST_COLUMNS = 200  # of IterativeImputer, which fits one regression per column and round


class Predictor(Protocol):
    def __call__(self, inputs: Views, target: str) -> Array: ...


class Mean:
    """The mean of the training rows, which is zero."""

    def __init__(self, train: Views) -> None:
        self.columns = {name: x.shape[1] for name, (x, _) in train.items()}

    def __call__(self, inputs: Views, target: str) -> Array:
        return np.zeros((len(next(iter(inputs.values()))[0]), self.columns[target]))


class Neighbours:
    """k nearest neighbours on at most 32 principal components of the other modalities; k by leave-one-out per target modality."""

    def __init__(self, train: Views) -> None:
        self.models = {target: self._fit(train, target) for target in train}

    def _fit(self, train: Views, target: str) -> tuple[PCA, NearestNeighbors, Array]:
        y, seen = train[target]
        inputs = {name: one for name, one in train.items() if name != target}
        rows = present((y, seen)) & np.any([present(one) for one in inputs.values()], 0)
        x, y = stacked(inputs)[rows], np.where(seen, y, 0)[rows]
        pca = PCA(min(32, *x.shape), svd_solver="full").fit(x)
        search = NearestNeighbors().fit(pca.transform(x))
        errors = {}
        for k in NEIGHBOURS:
            if k < len(x):
                errors[k] = float(((y[search.kneighbors(n_neighbors=k)[1]].mean(1) - y) ** 2).mean())
        k = min(errors, key=lambda k: errors[k]) if errors else len(x)
        return pca, search.set_params(n_neighbors=k), y

    def __call__(self, inputs: Views, target: str) -> Array:
        pca, search, y = self.models[target]
        return y[search.kneighbors(pca.transform(stacked(inputs)))[1]].mean(1)


class Iterative:
    """scikit-learn's IterativeImputer with its defaults, for few columns."""

    def __init__(self, train: Views) -> None:
        self.train = dict(train)
        columns = sum(x.shape[1] for x, _ in train.values())
        if columns > MOST_COLUMNS:
            raise Skipped(f"{columns} columns; IterativeImputer runs up to {MOST_COLUMNS}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.imputer = IterativeImputer(random_state=0, keep_empty_features=True).fit(self._gaps(train))

    def __call__(self, inputs: Views, target: str) -> Array:
        rows = len(next(iter(inputs.values()))[0])
        given = {
            name: inputs.get(name, (np.zeros((rows, x.shape[1])), np.zeros((rows, x.shape[1]), bool)))
            for name, (x, _) in self.train.items()
        }
        start = 0
        for name, (x, _) in self.train.items():
            if name == target:
                return self.imputer.transform(self._gaps(given))[:, start : start + x.shape[1]]
            start += x.shape[1]
        raise KeyError(target)

    @staticmethod
    def _gaps(views: Views) -> Array:
        return np.concatenate([np.where(observed, x, np.nan) for x, observed in views.values()], 1)


def complete(train: Views) -> Views:
    """The rows that have every modality."""
    rows = np.flatnonzero(np.all([present(one) for one in train.values()], 0))
    if len(rows) < 3:
        raise Skipped(f"{len(rows)} complete rows; hide fewer modalities")
    return pick(train, rows)


METHODS: dict[str, Callable[[Views], Predictor]] = {
    "mean": Mean,
    "knn": Neighbours,
    "ridge": Ridge,
    "ridge-complete": lambda train: Ridge(train, complete=True),
    "kernel": lambda train: Ridge(train, fit=gaussian),
    "iterative": Iterative,
    "mofa": Mofa,
    "stack": Stack,
    "stack-complete": lambda train: Stack(complete(train)),
}
SIMPLE = ("mean", "knn", "ridge", "ridge-complete", "kernel", "iterative")
BASELINES = (*SIMPLE, "mofa")

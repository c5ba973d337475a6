"""Ridge and kernel ridge with one penalty for all columns, chosen by exact leave-one-out from one eigendecomposition."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.spatial.distance import cdist

from benchmarks.imputation.tables import Views, pick, present, without

Array = NDArray[np.float64]
PENALTIES = np.logspace(-5, 3, 33)  # times the mean eigenvalue of the centred kernel
SCALES = (0.1, 0.2, 0.4, 0.8, 1.6)  # of an RBF kernel, over the median squared distance
NULL = 1e-12  # eigenvalues below this share of the largest are zero


def stacked(inputs: Views) -> Array:
    """All columns side by side, zero (their mean) where missing: [N, P]."""
    return np.concatenate([np.where(observed, x, 0) for x, observed in inputs.values()], 1, dtype=np.float64)


class Dual(NamedTuple):
    """A fit in dual form."""

    weights: Array  # [N, F], of the rows of the centred kernel
    offset: Array  # [F], the mean of the target
    residuals: Array  # [N, F], each row predicted from all others
    error: float  # their mean square
    penalty: float


def fit_dual(values: Array, vectors: Array, y: Array) -> Dual:
    """Ridge with intercept, given the eigenvectors [N, R] and eigenvalues [R] of the centred kernel, those above zero.

    The residual of a row left out is its residual over 1 − its leverage. No clamp: 1 − leverage is the row's part outside the span of all
    eigenvectors and the intercept, plus Σ u² a / (s + a), and such a sum of positive terms loses no digits where the penalty a is small.
    """
    count, offset = len(y), y.mean(0)
    turned, squared = vectors.T @ (y - offset), vectors**2
    rest, outside = y - offset - vectors @ turned, np.clip(1 - 1 / count - squared.sum(1), 0, None)

    def left_out(penalty: float) -> Array:
        shrunk = penalty / (values + penalty)
        return (rest + vectors @ (shrunk[:, None] * turned)) / (outside + squared @ shrunk)[:, None]

    level = values.sum() / count or 1.0
    errors = {float(a): float((left_out(a) ** 2).mean()) for a in PENALTIES * level}
    penalty = min(errors, key=lambda a: errors[a])
    weights = vectors @ (turned / (values + penalty)[:, None])
    return Dual(weights, offset, left_out(penalty), errors[penalty], penalty)


def decomposed(kernel: Array) -> tuple[Array, Array]:
    """Eigenvalues above zero, and their eigenvectors."""
    values, vectors = linalg.eigh(kernel, check_finite=False)
    kept = values > NULL * max(values[-1], 0)
    return values[kept], vectors[:, kept]


class Model(NamedTuple):
    """The regression of one target modality."""

    dual: Dual
    predict: Callable[[Array], Array]  # [n, P] -> [n, F]


def linear(x: Array, y: Array) -> Model:
    """Ridge. The smaller of the two Gram matrices is decomposed, with the same result."""
    mean = x.mean(0)
    centred = x - mean
    if len(x) <= x.shape[1]:
        values, vectors = decomposed(centred @ centred.T)
    else:
        values, axes = decomposed(centred.T @ centred)
        vectors = centred @ axes / np.sqrt(values)
    dual = fit_dual(values, vectors, y)
    weights = centred.T @ dual.weights
    return Model(dual, lambda new: dual.offset + (new - mean) @ weights)


def gaussian(x: Array, y: Array) -> Model:
    """Kernel ridge with a Gaussian kernel whose width is chosen by leave-one-out together with the penalty."""
    distances = cdist(x, x, "sqeuclidean")
    median = float(np.median(distances[np.triu_indices(len(x), 1)]))
    fits: list[tuple[Dual, float]] = []
    for gamma in (scale / median for scale in SCALES):
        kernel = np.exp(-gamma * distances)
        means = kernel.mean(0)
        fits.append((fit_dual(*decomposed(kernel - means - means[:, None] + means.mean()), y), gamma))
    dual, gamma = min(fits, key=lambda fit: fit[0].error)
    means = np.exp(-gamma * distances).mean(0)

    def predict(new: Array) -> Array:
        kernel = np.exp(-gamma * cdist(new, x, "sqeuclidean"))
        return dual.offset + (kernel - kernel.mean(1, keepdims=True) - means + means.mean()) @ dual.weights

    return Model(dual, predict)


class Ridge:
    """Regression on all other modalities, one per target modality.

    Rows that lack the target are left out; with ``complete``, so are rows that lack any modality.
    """

    def __init__(
        self, train: Views, complete: bool = False, fit: Callable[[Array, Array], Model] = linear
    ) -> None:
        self.models: dict[str, Model] = {}
        whole = np.all([present(one) for one in train.values()], 0)
        for target, (y, seen) in train.items():
            inputs = without(train, target)
            usable = present((y, seen)) & np.any([present(one) for one in inputs.values()], 0)
            rows = np.flatnonzero(whole if complete else usable)
            if len(rows) < 3:
                raise SystemExit(f"{len(rows)} rows to learn {target} from; hide fewer modalities")
            known = np.where(seen, y, 0)[rows].astype(np.float64)
            self.models[target] = fit(stacked(pick(inputs, rows)), known)

    def __call__(self, inputs: Views, target: str) -> Array:
        return self.models[target].predict(stacked(inputs))

    def residuals(self, target: str) -> Array:
        """Leave-one-out residuals of the training rows: [N, F]."""
        return self.models[target].dual.residuals


def conformal_halfwidth(residuals: Array, level: float) -> Array:
    """The order statistic ceil((n + 1) level) of n absolute residuals, per column: [F]. Infinite where n is too small."""
    count = len(residuals)
    rank = int(np.ceil((count + 1) * level))
    if rank > count:
        return np.full(residuals.shape[1], np.inf)
    return np.sort(np.abs(residuals), 0)[rank - 1]

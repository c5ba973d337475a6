"""Probabilistic PCA of data with missing entries, fitted by expectation maximisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.tables import Flags, Floats

_STEPS = 40
_LEAST = 0.005  # the smallest variance of the noise of a column, of which 1 is the variance
_PIECE = 2**24  # numbers of the second moments that are computed at a time


class Factors:
    """x = W u + ε, u ~ N(0, I), ε ~ N(0, σ²), of standardised columns (Tipping & Bishop 1999).

    Missing entries are no part of the likelihood, so each sample is predicted from what was observed of it, whatever that is. A normal
    prior on W, of variance 1 / ``shrink``, keeps columns with few observed entries from fitting noise (Ilin & Raiko 2010).

    Args:
        x: [N, P], zero where missing.
        seen: [N, P] bool.
        count: Columns of u.
        shrink: Precision of the prior on W.
        each: A variance of the noise for each column, as in factor analysis (Rubin & Thayer 1982), instead of one for all.

    Attributes:
        weights: W, [P, C].
        noises: [P], the variance of the noise of each column.
    """

    def __init__(self, x: Floats, seen: Flags, count: int, shrink: float = 1.0, each: bool = False) -> None:
        draws = np.random.default_rng(0).standard_normal((x.shape[1], count))
        self.weights = 0.1 * draws
        self.noises = np.ones(x.shape[1])
        number, squares = seen.sum(0), (x.astype(np.float64) ** 2).sum(0)
        for _ in range(_STEPS):
            first = np.zeros((x.shape[1], count))
            second = np.zeros((x.shape[1], count * count))
            for rows in _pieces(len(x), count):
                mean, covariance = self._posterior(x[rows], seen[rows])
                moments = covariance + mean[:, :, None] * mean[:, None]
                first += x[rows].T.astype(np.float64) @ mean
                second += seen[rows].T.astype(np.float64) @ moments.reshape(len(mean), -1)
            square = second.reshape(-1, count, count)
            penalty = shrink * self.noises[:, None, None] * np.eye(count)
            self.weights = np.asarray(np.linalg.solve(square + penalty, first[..., None])[..., 0], np.float64)
            errors = squares - 2 * (first * self.weights).sum(1)
            errors += np.einsum("pi,pij,pj->p", self.weights, square, self.weights)
            if each:  # a column whose noise vanished would be a factor of its own
                self.noises = np.maximum(errors / np.maximum(number, 1), _LEAST)
            else:
                self.noises[:] = max(float(errors.sum()) / max(1, int(number.sum())), 1e-6)

    def predict(self, x: Floats, seen: Flags) -> Floats:
        """E[x | observed entries], for every entry: [N, P]."""
        result = np.empty(x.shape, np.float32)
        for rows in _pieces(len(x), self.weights.shape[1]):
            result[rows] = self._posterior(x[rows], seen[rows])[0] @ self.weights.T
        return result

    def variance(self, seen: Flags, columns: slice) -> NDArray[np.float64]:
        """The variances of W u in some columns given the observed entries, without noise: [N, F]."""
        weights, result = self.weights[columns], np.zeros((len(seen), columns.stop - columns.start))
        for rows in _pieces(len(seen), self.weights.shape[1]):
            root = np.linalg.cholesky(self._covariance(seen[rows]))
            result[rows] = ((weights @ root) ** 2).sum(-1)
        return result

    def draw(self, seen: Flags, columns: slice, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """Draws of W u in some columns given the observed entries, less their mean and without noise: [N, F].

        Args:
            seen: [N, P] bool.
            columns: The F columns.
            u: Standard normal numbers, [N, C or more]; the same ones for two tables make their draws joint.
        """
        weights, count = self.weights[columns], self.weights.shape[1]
        result = np.zeros((len(seen), len(weights)))
        for rows in _pieces(len(seen), count):
            root = np.linalg.cholesky(self._covariance(seen[rows]))
            result[rows] = np.einsum("bij,bj->bi", root, u[rows, :count]) @ weights.T
        return result

    def _posterior(self, x: Floats, seen: Flags) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """E[u] [B, C] and Cov[u] [B, C, C] given the observed entries."""
        covariance = self._covariance(seen)
        mean = np.einsum("bij,bj->bi", covariance, x @ (self.weights / self.noises[:, None]))
        return mean, covariance

    def _covariance(self, seen: Flags) -> NDArray[np.float64]:
        """Cov[u] [B, C, C] given the observed entries."""
        count = self.weights.shape[1]
        outer = (self.weights[:, :, None] * self.weights[:, None]).reshape(len(self.weights), -1)
        precision = (seen @ (outer / self.noises[:, None])).reshape(-1, count, count) + np.eye(count)
        return np.asarray(np.linalg.inv(precision), np.float64)


def _pieces(size: int, count: int) -> list[slice]:
    step = max(1, _PIECE // count**2 // 8)
    return [slice(start, start + step) for start in range(0, size, step)]

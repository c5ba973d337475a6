"""Group factor analysis: linear factors of several tables, each of which may be active in some of the tables only."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.tables import Doubles, Flags, Floats

_STEPS = 500  # updates, at most
_TOLERANCE = 1e-6  # nats per observed entry and update, below which the fit ends
_EVERY = 5  # updates between two rotations
_LEAST = 0.005  # the smallest variance of the noise of a column, of which 1 is the variance
_POINT = 1e-6  # the variances of q(U) at the start
_PIECE = 2**22  # numbers of posterior covariances that are computed at a time


class GroupFactors(NamedTuple):
    """x = μ + W u + ε of standardised columns, u ~ N(0, I), ε_f ~ N(0, σ²_f), w_fk ~ N(0, 1 / α_gk) for column f of table g.

    A precision α of each factor in each table lets a factor vanish from the tables in which it is not active, which fixes the rotation
    that factor analysis leaves open (group factor analysis, Virtanen et al. 2012 and Klami et al. 2015; the model of MOFA, Argelaguet et
    al. 2018, without its spikes). q(U) q(W) is fitted by mean-field variational inference in closed form, with the maxima of the bound for
    μ, σ² and α. Missing entries are no part of the likelihood. Now and then the factors are transformed by the K × K matrix R that
    maximises the bound, which updates of U and W alone would approach slowly. The bound never falls.

    Attributes:
        mean: μ, [P].
        weights: E[W], [P, K].
        second: E[w_f w_fᵀ] of each column, [P, K, K].
        noises: σ², [P].
        bounds: The lower bound of log p(x), in nats, after each update.
    """

    mean: Doubles
    weights: Doubles
    second: Doubles
    noises: Doubles
    bounds: tuple[float, ...]

    @classmethod
    def fit(
        cls, x: Floats, seen: Flags, groups: NDArray[np.intp], start: Doubles, steps: int = _STEPS
    ) -> Self:
        """Fit to samples.

        Args:
            x: [N, P], standardised.
            seen: [N, P] bool, which entries were observed.
            groups: [P], the number of the table of each column.
            start: [N, K], the values of the factors to begin with.
            steps: Updates, at most.
        """
        state = _State(x, seen, groups, start)
        state.update()
        state.infer()
        bounds = [state.update()]
        for step in range(1, steps):
            if step % _EVERY == 0 and start.shape[1]:
                state.rotate()
            state.infer()
            bounds.append(state.update())
            if step % _EVERY and bounds[-1] - bounds[-2] < _TOLERANCE * state.total:
                break
        return cls(state.mean, state.weights, state.second, state.noises, tuple(bounds))

    @property
    def width(self) -> int:
        """K."""
        return self.weights.shape[1]

    def of(self, x: Floats, seen: Flags) -> tuple[Doubles, Doubles]:
        """The mean and the standard deviation of the factors given what was observed of each sample: [N, K] and [N, K]."""
        centred = np.where(seen, x - self.mean, 0)
        mean, deviation = np.zeros((2, len(x), self.width))
        step = max(1, _PIECE // max(1, self.width**2))
        for rows in (slice(at, at + step) for at in range(0, len(x), step)):
            covariance = _covariances(self.second, self.noises, seen[rows])
            mean[rows] = _means(covariance, centred[rows] / self.noises @ self.weights)
            deviation[rows] = np.sqrt(np.einsum("nkk->nk", covariance))
        return mean, deviation

    def keep(self, columns: NDArray[np.intp], signs: Doubles) -> Self:
        """The model with some of its factors, in this order, multiplied by ``signs``."""
        turned = self.second[:, columns][:, :, columns] * signs[:, None] * signs
        return self._replace(weights=self.weights[:, columns] * signs, second=turned)


class _State:
    """The parameters while they are fitted; ``total`` is the number of observed entries."""

    def __init__(self, x: Floats, seen: Flags, groups: NDArray[np.intp], start: Doubles) -> None:
        patterns, which = np.unique(seen, axis=0, return_inverse=True)
        order = np.argsort(which.reshape(-1), kind="stable")
        self.patterns, self.repeats = patterns, np.bincount(which.reshape(-1), minlength=len(patterns))
        self.seen, self.which = seen[order], which.reshape(-1)[order]
        self.starts = np.concatenate([[0], np.cumsum(self.repeats)[:-1]])
        self.x = np.where(self.seen, x[order], 0).astype(np.float64)
        self.counts, self.total = seen.sum(0), int(seen.sum())
        self.groups, self.sizes = groups, np.bincount(groups)
        self.mean = self.x.sum(0) / np.maximum(self.counts, 1)
        spread = np.maximum(start.std(0), 1e-12)
        self.u = ((start - start.mean(0)) / spread)[order]
        self.covariance = np.tile(_POINT * np.eye(start.shape[1]), (len(patterns), 1, 1))
        self.noises, self.precisions = np.ones(x.shape[1]), np.ones((len(self.sizes), start.shape[1]))
        self.weights = np.zeros((x.shape[1], start.shape[1]))

    def infer(self) -> None:
        """q(U), which is the same covariance for all samples with the same observed entries."""
        self.covariance = _covariances(self.second, self.noises, self.patterns)
        centred = np.where(self.seen, self.x - self.mean, 0)
        self.u = _means(self.covariance[self.which], centred / self.noises @ self.weights)

    def update(self) -> float:
        """μ, q(W), α and σ², in turn; returns the bound."""
        sums = self.x.sum(0) - ((self.seen.T @ self.u) * self.weights).sum(1)
        self.mean = sums / np.maximum(self.counts, 1)
        centred = np.where(self.seen, self.x - self.mean, 0)
        each = np.add.reduceat(self.u[:, :, None] * self.u[:, None], self.starts)  # [patterns, K, K]
        each += self.repeats[:, None, None] * self.covariance
        first, squares = centred.T @ self.u, (centred**2).sum(0)
        moments = np.tensordot(self.patterns.T.astype(np.float64), each, 1)  # [P, K, K]
        inverse = moments / self.noises[:, None, None]
        diagonal = np.arange(self.u.shape[1])
        inverse[:, diagonal, diagonal] += self.precisions[self.groups]
        spread = np.linalg.inv(inverse)
        self.weights = _means(spread, first / self.noises[:, None])
        self.second = spread + self.weights[:, :, None] * self.weights[:, None]
        self._precisions()
        errors = squares - 2 * (first * self.weights).sum(1) + (self.second * moments).sum((1, 2))
        self.noises = np.maximum(errors / np.maximum(self.counts, 1), _LEAST)
        return self._bound(errors, each.sum(0), spread)

    def _precisions(self) -> None:
        powers = np.zeros_like(self.precisions)
        np.add.at(powers, self.groups, np.einsum("fkk->fk", self.second))
        self.precisions = self.sizes[:, None] / np.maximum(powers, 1e-12)

    def _bound(self, errors: Doubles, moment: Doubles, spread: Doubles) -> float:
        """E log p(x, U, W) plus the entropies of q(U) and q(W), at the maximum for α."""
        likelihood = -0.5 * (self.counts * np.log(2 * np.pi * self.noises) + errors / self.noises).sum()
        of_w = (
            0.5 * (self.sizes[:, None] * np.log(self.precisions)).sum()
            + 0.5 * np.linalg.slogdet(spread)[1].sum()
        )
        of_u = 0.5 * (self.repeats * np.linalg.slogdet(self.covariance)[1]).sum() + 0.5 * self.u.size
        return float(likelihood + of_w + of_u - 0.5 * np.trace(moment))

    def rotate(self) -> None:
        """Transform W to W R, and U to U R⁻ᵀ, by the R that maximises the bound; W Uᵀ is as before (Virtanen et al. 2012)."""
        from scipy.optimize import minimize

        width, tables = self.u.shape[1], len(self.sizes)
        moment = self.u.T @ self.u + np.tensordot(self.repeats, self.covariance, 1)
        power = np.zeros((tables, width, width))
        np.add.at(power, self.groups, self.second)
        free = len(self.groups) - len(self.u)

        def loss(flat: Doubles) -> tuple[float, Doubles]:
            turn = flat.reshape(width, width)
            back = np.linalg.inv(turn)
            turned = power @ turn  # [G, K, K]
            lengths = np.maximum((turn * turned).sum(1), 1e-300)  # [G, K]
            value = -0.5 * np.trace(back @ moment @ back.T) + free * np.linalg.slogdet(turn)[1]
            value -= 0.5 * (self.sizes[:, None] * np.log(lengths)).sum()
            slope = back.T @ back @ moment @ back.T + free * back.T
            slope -= (self.sizes[:, None, None] * turned / lengths[:, None]).sum(0)
            return -float(value), -slope.reshape(-1)

        identity = np.eye(width).reshape(-1)
        found = minimize(loss, identity, jac=True, method="L-BFGS-B")
        if not found.fun < loss(identity)[0]:
            return
        turn = found.x.reshape(width, width)
        self.weights, self.second = self.weights @ turn, turn.T @ self.second @ turn
        self._precisions()


def _covariances(second: Doubles, noises: Doubles, seen: Flags) -> Doubles:
    """Cov[u] given the observed entries, of each row of ``seen`` [B, P]: [B, K, K]."""
    precision = np.tensordot(seen / noises, second, 1) + np.eye(second.shape[1])
    return np.asarray(np.linalg.inv(precision), np.float64)


def _means(covariance: Doubles, linear: Doubles) -> Doubles:
    """[B, K, K] and [B, K] -> [B, K]."""
    return np.asarray((covariance @ linear[..., None])[..., 0], np.float64)

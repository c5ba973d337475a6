"""Group factor analysis: linear factors of several tables, each of which may be active in some of the tables only."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.tables import Doubles, Flags

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
        cls, x: Doubles, seen: Flags, groups: NDArray[np.intp], start: Doubles, steps: int = _STEPS
    ) -> Self:
        """Fit to samples.

        Args:
            x: [N, P], standardised.
            seen: [N, P] bool, which entries were observed.
            groups: [P], the number of the table of each column.
            start: [N, K], the values of the factors to begin with.
            steps: Updates, at most.
        """
        state, total = _State(x, seen, groups, start), int(seen.sum())
        state.update()
        state.infer()
        bounds = [state.update()]
        for step in range(1, steps):
            if step % _EVERY == 0 and start.shape[1]:
                state.rotate()
            state.infer()
            bounds.append(state.update())
            if step % _EVERY and bounds[-1] - bounds[-2] < _TOLERANCE * total:
                break
        return cls(state.mean, state.weights, state.second, state.noises, tuple(bounds))

    @property
    def width(self) -> int:
        """K."""
        return int(self.weights.shape[1])

    def of(self, x: Doubles, seen: Flags) -> tuple[Doubles, Doubles]:
        """The mean and the standard deviation of the factors given what was observed of each sample: [N, K] and [N, K]."""
        mean, deviation = np.zeros((2, len(x), self.width))
        step = max(1, _PIECE // max(1, self.width**2))
        for rows in (slice(at, at + step) for at in range(0, len(x), step)):
            patterns, which = _patterns(seen[rows])
            covariance = _covariances(self.second, self.noises, patterns)
            linear = np.where(seen[rows], x[rows] - self.mean, 0) @ (self.weights / self.noises[:, None])
            mean[rows] = _times(covariance[which], linear)
            deviation[rows] = np.sqrt(np.einsum("nkk->nk", covariance))[which]
        return mean, deviation

    def turned(self, by: Doubles) -> Self:
        """The model of the factors Rᵀ u, for a matrix R [K, L] with orthonormal columns; with L = K it predicts the same."""
        return self._replace(weights=self.weights @ by, second=by.T @ self.second @ by)


class _State:
    """Parameters while they are fitted.

    There are U patterns of observed entries, and V kinds of columns: those of a kind are in one table and observed together.
    """

    def __init__(self, x: Doubles, seen: Flags, groups: NDArray[np.intp], start: Doubles) -> None:
        width = start.shape[1]
        patterns, which = _patterns(seen)
        order = np.argsort(which, kind="stable")
        self.which, self.repeats = which[order], np.bincount(which)
        self.starts = np.concatenate([[0], np.cumsum(self.repeats)[:-1]])
        self.patterns = patterns.astype(np.float64)  # [U, P]
        kinds, self.kind = _patterns(np.concatenate([groups[:, None], patterns.T], 1))
        self.table, self.among = kinds[:, 0], kinds[:, 1:].astype(np.float64)  # [V] and [V, U]
        self.x = np.where(seen, x, 0)[order]
        self.sums, self.squares, self.counts = self.x.sum(0), (self.x**2).sum(0), seen.sum(0)
        self.groups, self.sizes = groups, np.bincount(groups)
        self.tables = (groups == np.arange(len(self.sizes))[:, None]).astype(np.float64)  # [G, P]
        self.mean = self.sums / np.maximum(self.counts, 1)
        self.u = ((start - start.mean(0)) / np.maximum(start.std(0), 1e-12))[order]
        self.covariance = np.tile(_POINT * np.eye(width), (len(patterns), 1, 1))
        self.noises, self.precisions = np.ones(x.shape[1]), np.ones((len(self.sizes), width))
        self.weights = np.zeros((x.shape[1], width))
        self.second = np.zeros((x.shape[1], width, width))

    def infer(self) -> None:
        """q(U), whose covariance is the same for all samples with the same observed entries."""
        scaled = self.weights / self.noises[:, None]
        self.covariance = _covariances(self.second, self.noises, self.patterns)
        linear = self.x @ scaled - (self.patterns @ (self.mean[:, None] * scaled))[self.which]
        self.u = _times(self.covariance[self.which], linear)

    def update(self) -> float:
        """μ, q(W), α and σ², in turn; returns the bound."""
        mass = (self.among @ np.add.reduceat(self.u, self.starts))[
            self.kind
        ]  # Σ u of observed entries, [P, K]
        self.mean = (self.sums - (mass * self.weights).sum(1)) / np.maximum(self.counts, 1)
        each = np.add.reduceat(self.u[:, :, None] * self.u[:, None], self.starts)  # [U, K, K]
        each += self.repeats[:, None, None] * self.covariance
        first = self.x.T @ self.u - self.mean[:, None] * mass
        moments = np.tensordot(self.among, each, 1)  # [V, K, K]
        entropy = self._weights(first, moments)
        self._precisions()
        errors = self.squares - 2 * self.mean * self.sums + self.counts * self.mean**2
        errors += (self.second * moments[self.kind]).sum((1, 2)) - 2 * (first * self.weights).sum(1)
        self.noises = np.maximum(errors / np.maximum(self.counts, 1), _LEAST)
        likelihood = -0.5 * (self.counts * np.log(2 * np.pi * self.noises) + errors / self.noises).sum()
        of_w = 0.5 * (self.sizes[:, None] * np.log(self.precisions)).sum() + entropy
        of_u = 0.5 * (self.repeats * np.linalg.slogdet(self.covariance)[1]).sum() + 0.5 * self.u.size
        return float(likelihood + of_w + of_u - 0.5 * np.trace(each.sum(0)))

    def _weights(self, first: Doubles, moments: Doubles) -> float:
        """q(W), from Σ x u [P, K] and Σ u uᵀ [V, K, K]; returns its entropy, but for a constant.

        The covariance of w_f is (Σ u uᵀ / σ²_f + diag α)⁻¹. With the eigenvectors of α^-½ Σ u uᵀ α^-½ it is diagonal for all f of a kind.
        """
        root = self.precisions[self.table] ** -0.5  # [V, K]
        values, vectors = np.linalg.eigh(root[:, :, None] * moments * root[:, None])
        turn = (root[:, :, None] * vectors)[self.kind]  # [P, K, K]
        spread = 1 / (1 + np.maximum(values, 0)[self.kind] / self.noises[:, None])  # [P, K]
        covariance = (turn * spread[:, None]) @ turn.swapaxes(1, 2)
        self.weights = _times(covariance, first / self.noises[:, None])
        self.second = covariance + self.weights[:, :, None] * self.weights[:, None]
        return float(0.5 * np.log(spread).sum() - 0.5 * np.log(self.precisions[self.groups]).sum())

    def _precisions(self) -> None:
        powers = self.tables @ np.einsum("fkk->fk", self.second)
        self.precisions = self.sizes[:, None] / np.maximum(powers, 1e-12)

    def rotate(self) -> None:
        """Transform W to W R, and U to U R⁻ᵀ, by the R that maximises the bound; W Uᵀ is as before (Virtanen et al. 2012)."""
        from scipy.optimize import minimize

        width, tables = self.u.shape[1], len(self.sizes)
        moment = self.u.T @ self.u + np.tensordot(self.repeats, self.covariance, 1)
        power = (self.tables @ self.second.reshape(-1, width * width)).reshape(tables, width, width)
        free = len(self.groups) - len(self.u)

        def loss(flat: Doubles) -> tuple[float, Doubles]:
            turn = flat.reshape(width, width)
            sign, size = np.linalg.slogdet(turn)
            if not sign > 0:  # beyond a singular R, at which the bound is −∞
                return np.inf, np.zeros_like(flat)
            back = np.linalg.inv(turn)
            turned = power @ turn  # [G, K, K]
            lengths = np.maximum((turn * turned).sum(1), 1e-300)  # [G, K]
            value = -0.5 * np.trace(back @ moment @ back.T) + free * size
            value -= 0.5 * (self.sizes[:, None] * np.log(lengths)).sum()
            slope = back.T @ back @ moment @ back.T + free * back.T
            slope -= (self.sizes[:, None, None] * turned / lengths[:, None]).sum(0)
            return -float(value), -slope.reshape(-1)

        identity = np.eye(width).reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):  # steps that come near to a singular R
            found = minimize(loss, identity, jac=True, method="L-BFGS-B")
        if found.fun < loss(identity)[0]:
            turn = found.x.reshape(width, width)
            self.weights, self.second = self.weights @ turn, turn.T @ self.second @ turn
            self._precisions()


def _patterns(x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The distinct rows of x [N, C], and the number of the one that each row is, [N]."""
    # np.unique sorts rows, which is slow where they are wide
    rows = [row.tobytes() for row in np.ascontiguousarray(x)]
    numbers = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    which = np.array([numbers[row] for row in rows], np.intp)
    return x[np.unique(which, return_index=True)[1]], which


def _covariances(second: Doubles, noises: Doubles, seen: NDArray[Any]) -> Doubles:
    """Cov[u] given the observed entries, of each row of ``seen`` [B, P]: [B, K, K]."""
    precision = np.tensordot(seen / noises, second, 1) + np.eye(second.shape[1])
    return np.asarray(np.linalg.inv(precision), np.float64)


def _times(matrices: Doubles, vectors: Doubles) -> Doubles:
    """[B, K, K] and [B, K] -> [B, K]."""
    return np.asarray((matrices @ vectors[..., None])[..., 0], np.float64)

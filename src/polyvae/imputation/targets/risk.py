"""Cox ridge regressions of several inputs, each with the penalty of the best cross-validated likelihood, and their combination."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from polyvae.imputation.methods.simple import components
from polyvae.imputation.tables import Doubles, Floats
from polyvae.imputation.targets.cox import Partial, Survival, cox

FOLDS = 5
_REPEATS = 3
_REPEATED_TO = 1000  # samples, up to which the folds are drawn several times
_COMPONENTS = 64
_PENALTIES = np.logspace(2, -2, 9)
_ROUNDS = 30


class Linear(NamedTuple):
    """A log relative hazard that is linear in its inputs.

    Attributes:
        centre: [P], the means of the training samples.
        weights: [P].
    """

    centre: Floats
    weights: Floats

    def of(self, x: Floats) -> Doubles:
        """The log relative hazards [N] of inputs [N, P]."""
        return np.asarray((x - self.centre).astype(np.float64) @ self.weights.astype(np.float64))


def folds(given: Survival, seed: int) -> list[NDArray[np.intp]]:
    """The folds [N] of one or more repeats of cross-validation; each has the same share of events."""
    n = len(given.time)
    repeats = _REPEATS if n <= _REPEATED_TO else 1
    made = []
    for repeat in range(repeats):
        order = np.random.default_rng([seed, repeat]).permutation(n)
        order = order[np.argsort(~given.event[order], kind="stable")]
        fold = np.empty(n, np.intp)
        fold[order] = np.arange(n) % min(FOLDS, n)
        made.append(fold)
    return made


def cox_ridge(x: Floats, given: Survival, repeats: Sequence[NDArray[np.intp]]) -> tuple[Linear, Doubles]:
    """Cox regression on x [N, P], or on its first 64 principal components if it has more columns, with a ridge penalty.

    The penalty has the largest cross-validated partial likelihood (Verweij & van Houwelingen 1993): the sum over folds of the
    likelihood of all samples minus that of the samples that were fitted, both by the coefficients without the fold.

    Returns:
        The regression on all samples, and the log relative hazards of samples left out, [N, repeats].
    """
    centre = x.mean(0)
    z, axes = _coordinates(x - centre)
    scale = given.events * float(z.var(0).mean())
    none = Linear(centre, np.zeros(x.shape[1], np.float32))
    left_out = np.zeros((len(z), len(repeats)))
    if not scale > 0:
        return none, left_out
    whole = Partial(given)
    paths = np.stack(
        [_paths(z, given, whole, fold, scale) for fold in repeats], 1
    )  # [penalties, repeats, 1 + N]
    gains = paths[:, :, 0].mean(1)
    best = int(gains.argmax())
    if gains[best] <= 0:
        return none, left_out
    beta = None
    for penalty in _PENALTIES[: best + 1]:
        beta = cox(z, whole, penalty * scale, beta)
    assert beta is not None
    weights = beta if axes is None else axes @ beta
    return Linear(centre, weights.astype(np.float32)), paths[best, :, 1:].T


def _coordinates(x: Floats) -> tuple[Doubles, Doubles | None]:
    """Centred x, or its principal components where it has more columns, and their axes (None: x itself).

    The penalty is the same for every rotation, so few columns need none.
    """
    if x.shape[1] <= _COMPONENTS:
        return x.astype(np.float64), None
    axes = components(x, _COMPONENTS).components_.T.astype(np.float64)
    return x.astype(np.float64) @ axes, axes


def _paths(z: Doubles, given: Survival, whole: Partial, fold: NDArray[np.intp], scale: float) -> Doubles:
    """Of each penalty the gain in cross-validated likelihood, and the log relative hazards of samples left out: [penalties, 1 + N]."""
    found = np.zeros((len(_PENALTIES), 1 + len(z)))
    nothing = np.zeros(len(z))
    for e in np.unique(fold):
        out = fold == e
        part, inside, beta = Partial(given.rows(~out)), z[~out], None
        null = whole.log_likelihood(nothing) - part.log_likelihood(nothing[~out])
        for number, penalty in enumerate(_PENALTIES):
            beta = cox(inside, part, penalty * scale, beta)
            eta = z @ beta
            found[number, 0] += whole.log_likelihood(eta) - part.log_likelihood(eta[~out]) - null
            found[number, 1:][out] = eta[out]
    return found


def stacked(left_out: Doubles, given: Survival, most: float = 1.0) -> Doubles:
    """Weights of the log relative hazards of samples left out [N, M] that maximise the partial likelihood, each from 0 to 1: [M].

    Without the upper end, a regression that is almost constant could get any weight.
    """
    partial, w = Partial(given), np.full(left_out.shape[1], 1 / left_out.shape[1])
    for _ in range(_ROUNDS):
        eta = left_out @ w
        found = partial.slopes(left_out, eta)
        step = _bounded(found.information, found.information @ w + found.gradient, most) - w
        scale, value = 1.0, partial.log_likelihood(eta)
        while (new := partial.log_likelihood(left_out @ (w + scale * step))) < value and scale > 1e-6:
            scale /= 2
        if new - value < 1e-9:
            break
        w = w + scale * step
    return w


def _bounded(gram: Doubles, target: Doubles, most: float) -> Doubles:
    """The w from 0 to ``most`` with the smallest w' G w / 2 − t' w."""
    values, u = np.linalg.eigh(gram)
    kept = values > max(float(values[-1]), 0.0) * 1e-12
    if not kept.any():
        return np.zeros(len(target))
    root = np.sqrt(values[kept])
    found = lsq_linear((u[:, kept] * root).T, (u[:, kept] / root).T @ target, (0, most), method="bvls").x
    return np.asarray(np.clip(found, 0, most), np.float64)

"""The combination that predicts one modality: weights of each method by its errors on samples that it did not see.

For every pattern of observed modalities and every modality to predict, the members of the VAE and the simple methods are combined by
non-negative least squares on their predictions of samples left out. The residuals of the combination on those samples give the intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from polyvae.imputation.simple import GAMMAS, KernelRidge, Neighbours, Predictor, Ridge, Spectra
from polyvae.imputation.tables import Flags, Floats

CURVED_FROM = 500  # samples, from which kernel ridge is one of the methods
FEWEST = 100  # calibration samples of a pattern, below which they are pooled with those of coarser patterns


class Known(NamedTuple):
    """What the training samples say about one prediction.

    Attributes:
        rows: Row numbers of the training samples, [n].
        x: The inputs with missing entries filled in, [n, P].
        y: The modality to predict, zero where missing, [n, F].
        seen: [n, F] bool.
        fold: [n], the fold in which each sample is left out.
        matched: [n] bool, whether all modalities of the pattern were observed.
        by_members: Name -> the predictions of samples left out, by the members of each ensemble, [n, F].
        typical: Returns [F], the variance that factors leave the entries of a sample given its other entries, a mean over calibration
            samples; None for predictions from other modalities alone.
        shift: What covariates add to y, and what they would if each sample had been left out of their estimate, [n, F] each; None: there
            are none.
    """

    rows: NDArray[np.intp]
    x: Floats
    y: Floats
    seen: Flags
    fold: NDArray[np.intp]
    matched: Flags
    by_members: Mapping[str, Floats]
    typical: Callable[[], NDArray[np.float64]] | None = None
    shift: tuple[Floats, Floats] | None = None


class Once:
    """A value that is computed when it is first used. Unlike a function with ``functools.cache``, it can be pickled."""

    def __init__(self, make: Callable[[], NDArray[np.float64]]) -> None:
        self.make = make
        self.value: NDArray[np.float64] | None = None

    def __call__(self) -> NDArray[np.float64]:
        if self.value is None:
            self.value = self.make()
        return self.value


class Combination:
    """The methods that predict one modality from a pattern of others, their weights and the residuals of samples left out.

    Attributes:
        weights: Name of the method -> its weight.
        left_out: Name of the method, or "stack" -> predictions of the calibration samples, each left out, [c, F]; with what covariates
            add to them, which ``predict`` leaves out.
        y: The calibration samples, [c, F].
        seen: [c, F] bool, their observed entries.
        fold: [c], the folds in which they are left out.
        typical: See ``Known``.
        pooled: Whether calibration samples lack a modality of the pattern, because fewer than 100 have all of them.
    """

    def __init__(
        self, known: Known, gammas: tuple[float, ...] | None = None, spectra: Spectra | None = None
    ) -> None:
        self.simple: dict[str, Predictor] = {}
        self.typical = known.typical
        y = known.y
        if known.x.shape[1] and len(y) > 2:
            next_to = next(iter(known.by_members.values()), None)
            y = y if next_to is None else np.where(known.seen, y, next_to)
            self.simple["ridge"] = Ridge(known.x, y)
            self.simple["k-NN"] = Neighbours(known.x, y)
            if len(y) >= CURVED_FROM:
                self.simple["kernel ridge"] = KernelRidge(known.x, y, gammas or GAMMAS, spectra)
        left_out = {**{name: part.left_out for name, part in self.simple.items()}, **known.by_members}
        rows = known.matched
        self.pooled = int(rows.sum()) < min(FEWEST, len(rows))
        rows = np.ones_like(rows) if self.pooled else rows
        self.y, self.seen, self.fold = known.y[rows], known.seen[rows], known.fold[rows]
        self.left_out = {name: x[rows] for name, x in left_out.items()}
        self.weights, self.left_out["stack"] = _stacked(self.left_out, self.y, self.seen, self.fold)
        if known.shift is not None:
            shift, without = (x[rows] for x in known.shift)
            self.y = np.where(self.seen, self.y + shift, 0)
            self.left_out = {name: x + without for name, x in self.left_out.items()}

    @property
    def cells(self) -> int:
        """The number of values that are kept in memory, but for the parameters of the simple methods."""
        return self.y.size + sum(x.size for x in self.left_out.values())

    @property
    def gamma(self) -> tuple[float, ...] | None:
        """The parameter of the kernel that was chosen, for the combinations of other patterns."""
        kernel = self.simple.get("kernel ridge")
        return (kernel.gamma,) if isinstance(kernel, KernelRidge) else None

    @property
    def residuals(self) -> Floats:
        """The residuals of the calibration samples, NaN where nothing was observed: [c, F]."""
        return np.where(self.seen, self.y - self.left_out["stack"], np.nan).astype(np.float32)

    def predict(self, x: Floats, by_members: Mapping[str, Floats]) -> dict[str, Floats]:
        """The prediction of each method with a weight, and of the combination ("stack").

        Args:
            x: The inputs, [N, P].
            by_members: Name -> the predictions of the members of each ensemble, [N, F].

        Returns:
            Name -> [N, F].
        """
        parts = {name: x_m for name, x_m in by_members.items() if name in self.weights}
        parts |= {name: part.predict(x) for name, part in self.simple.items() if self.weights[name] > 0}
        total = np.zeros((len(x), self.y.shape[1]), np.float32)
        for name, part in parts.items():
            total += np.float32(self.weights[name]) * part
        return {**parts, "stack": total}

    def half_widths(self, level: float) -> NDArray[np.float64]:
        """[F], the half-widths of split-conformal intervals around the combination; infinite where too few samples were observed."""
        return half_widths(self.residuals, level)

    def crossed_widths(self, level: float) -> NDArray[np.float64]:
        """[c, F], the half-widths for the calibration samples, each by residuals of the other folds."""
        residuals = self.residuals
        width = np.zeros(residuals.shape)
        for e in np.unique(self.fold):
            width[self.fold == e] = half_widths(residuals[self.fold != e], level)
        return width


def half_widths(residuals: NDArray[np.floating], level: float) -> NDArray[np.float64]:
    """Half-widths of split-conformal intervals: the ceil((n + 1) level)-th smallest of n absolute residuals, for each column.

    With fewer than level / (1 − level) residuals there is no such number, and only an infinite interval covers with this probability
    (Vovk et al. 2005; Lei et al. 2018).

    Args:
        residuals: [n, F], NaN where missing.
        level: The probability to cover, between 0 and 1.

    Returns:
        [F].
    """
    size = np.sort(np.abs(residuals.astype(np.float64)), axis=0)  # NaN last
    count = (~np.isnan(size)).sum(0)
    rank = np.ceil((count + 1) * level - 1e-9).astype(np.intp)
    enough = (rank <= count) & (count > 0)
    place = np.where(enough, np.maximum(rank, 1) - 1, 0)
    if not len(size):
        return np.full(size.shape[1], np.inf)
    return np.where(enough, np.take_along_axis(size, place[None], 0)[0], np.inf)


def _stacked(
    left_out: Mapping[str, Floats], y: Floats, seen: Flags, fold: NDArray[np.intp]
) -> tuple[dict[str, float], Floats]:
    """Weights by non-negative least squares, and the combination of each sample by weights of the other folds."""
    names = list(left_out)
    if not names or not seen.any():
        return dict.fromkeys(names, 0.0), np.zeros_like(y)
    moments = {}
    for e in np.unique(fold):
        rows = fold == e
        flat = np.stack([left_out[name][rows][seen[rows]] for name in names], 1).astype(np.float64)
        moments[e] = flat.T @ flat, flat.T @ y[rows][seen[rows]].astype(np.float64)
    combined = np.zeros_like(y)
    for e in moments:
        others = [pair for key, pair in moments.items() if key != e] or list(moments.values())
        for weight, name in zip(_solve(others), names, strict=True):
            combined[fold == e] += np.float32(weight) * left_out[name][fold == e]
    return dict(zip(names, _solve(list(moments.values())).tolist(), strict=True)), combined


def _solve(moments: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> NDArray[np.float64]:
    gram = np.sum([pair[0] for pair in moments], 0)
    target = np.sum([pair[1] for pair in moments], 0)
    # |A v - b|² = v'Gv - 2 t'v + const with A the root of G: as many rows as methods, whatever the number of samples.
    w, u = np.linalg.eigh(gram)
    kept = w > max(float(w[-1]), 0.0) * 1e-12
    if not kept.any():
        return np.zeros(len(target))
    root = (u[:, kept] * np.sqrt(w[kept])).T
    found: NDArray[np.float64] = nnls(root, (u[:, kept] / np.sqrt(w[kept])).T @ target)[0]
    return found

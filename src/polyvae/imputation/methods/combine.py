"""The combination that predicts one modality: weights of each method by its errors on samples that it did not see.

For every pattern of observed modalities and every modality to predict, the members of the VAE and the simple methods are combined by
non-negative least squares on their predictions of samples left out. The residuals of the combination on those samples give the intervals.
Missing entries of an observed table are predicted with weights of each column, which are shrunk to those of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from polyvae.imputation.methods.simple import GAMMAS, KernelRidge, Neighbours, Predictor, Ridge, Spectra
from polyvae.imputation.tables import Flags, Floats

Places = NDArray[np.intp]

FEWEST = 100  # calibration samples of a pattern, below which they are pooled with those of coarser patterns
_SHARES = (10.0, 30.0, 100.0, 300.0, np.inf)  # entries of all columns that are counted with those of each


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
        leader: [F], columns with the same number have the same weights, and others their own; None: all columns have the same.
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
    leader: NDArray[np.intp] | None = None
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


_PANELS = 8  # panels, at most, for which the simple methods are fitted apart
_OF_PANEL = 50  # samples of a panel, at least


class Panel(NamedTuple):
    """Columns that the same training samples have: row numbers [n], column numbers [f]."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]


def panels_of(seen: Flags) -> list[Panel]:
    """The columns of a table by the samples in which they were observed: seen [n, F].

    Panels of few samples, and all of them where there are many, are one panel with all samples, whose missing entries are filled in.
    """
    patterns, inverse = np.unique(seen, axis=1, return_inverse=True)
    whole = np.arange(len(seen))
    rest = np.ones(patterns.shape[1], bool)
    if patterns.shape[1] <= _PANELS:
        rest = (patterns.sum(0) < _OF_PANEL) | patterns.all(0)
    place = inverse.reshape(-1)
    own = [
        Panel(np.flatnonzero(patterns[:, number]), np.flatnonzero(place == number))
        for number in np.flatnonzero(~rest)
    ]
    others = np.flatnonzero(rest[place])
    return [*own, Panel(whole, others)] if len(others) else own


class Panels:
    """A method that is fitted to each panel."""

    def __init__(
        self, make: Callable[[Floats, Floats], Predictor], x: Floats, y: Floats, panels: Sequence[Panel]
    ) -> None:
        self.parts = [(columns, make(x[rows], y[np.ix_(rows, columns)])) for rows, columns in panels]
        self.left_out, self.size = y.copy(), y.shape[1]
        for (rows, columns), (_, part) in zip(panels, self.parts, strict=True):
            self.left_out[np.ix_(rows, columns)] = part.left_out

    def predict(self, x: Floats) -> Floats:
        """[N, inputs] -> [N, F]."""
        found = np.empty((len(x), self.size), np.float32)
        for columns, part in self.parts:
            found[:, columns] = part.predict(x)
        return found


def fitted(
    make: Callable[[Floats, Floats], Predictor], x: Floats, y: Floats, panels: Sequence[Panel]
) -> Predictor:
    """A method fitted to all samples, or to those of each panel."""
    return make(x, y) if len(panels) == 1 and len(panels[0].rows) == len(y) else Panels(make, x, y, panels)


class Combination:
    """The methods that predict one modality from a pattern of others, their weights and the residuals of samples left out.

    Attributes:
        weights: Name of the method -> its weight; where columns have their own, the mean over them.
        by_column: Name of the method -> its weight in each column, [F].
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
            panels = panels_of(known.seen)

            def curved(x: Floats, own: Floats) -> KernelRidge:
                return KernelRidge(x, own, gammas or GAMMAS, spectra if len(x) == len(y) else None)

            self.simple["ridge"] = fitted(Ridge, known.x, y, panels)
            self.simple["k-NN"] = fitted(Neighbours, known.x, y, panels)
            self.simple["kernel ridge"] = fitted(curved, known.x, y, panels)
        left_out = {**{name: part.left_out for name, part in self.simple.items()}, **known.by_members}
        rows = known.matched
        self.pooled = int(rows.sum()) < min(FEWEST, len(rows))
        rows = np.ones_like(rows) if self.pooled else rows
        self.y, self.seen, self.fold = known.y[rows], known.seen[rows], known.fold[rows]
        self.left_out = {name: x[rows] for name, x in left_out.items()}
        self.by_column, self.left_out["stack"] = _stacked(
            self.left_out, self.y, self.seen, self.fold, known.leader
        )
        self.weights = {name: float(weight.mean()) for name, weight in self.by_column.items()}
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
        """The parameters of the kernels that were chosen, for the combinations of other patterns."""
        kernel = self.simple.get("kernel ridge")
        parts = [part for _, part in kernel.parts] if isinstance(kernel, Panels) else [kernel]
        return tuple(sorted({part.gamma for part in parts if isinstance(part, KernelRidge)})) or None

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
            total += self.by_column[name].astype(np.float32) * part
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


class _Moments(NamedTuple):
    """Sums over entries, of all columns of each of G groups: of products of M predictions, of their products with the truth, of 1.

    Attributes:
        gram: [G, M, M].
        target: [G, M].
        entries: [G].
    """

    gram: NDArray[np.float64]
    target: NDArray[np.float64]
    entries: NDArray[np.float64]

    def __add__(self, other: _Moments) -> _Moments:  # type: ignore[override]
        return _Moments(*(a + b for a, b in zip(self, other, strict=True)))

    def weights(self, share: float) -> NDArray[np.float64]:
        """Weights of each group: [G, M], with as much evidence added from the mean over all entries as ``share`` entries have."""
        gram, target = self.gram.sum(0), self.target.sum(0)
        if not np.isfinite(share) or len(self.gram) == 1:
            return np.repeat(_solve(gram, target)[None], len(self.gram), 0)
        more = share / max(float(self.entries.sum()), 1.0)
        return np.stack(
            [_solve(g + more * gram, t + more * target) for g, t in zip(self.gram, self.target, strict=True)]
        )

    def error(self, weights: NDArray[np.float64]) -> float:
        """The squared error of these weights [G, M], less the sum of squares of the truth."""
        own = np.einsum("gm,gmk,gk->", weights, self.gram, weights)
        return float(own - 2 * (weights * self.target).sum())


def _stacked(
    left_out: Mapping[str, Floats], y: Floats, seen: Flags, fold: NDArray[np.intp], leader: Places | None
) -> tuple[dict[str, NDArray[np.float64]], Floats]:
    """Weights by non-negative least squares, and the combination of each sample by weights of the other folds.

    Of columns with weights of their own, the share of the evidence of all columns has the smallest error on the folds left out.
    """
    names, width = list(left_out), y.shape[1]
    if not names or not seen.any():
        return {name: np.zeros(width) for name in names}, np.zeros_like(y)
    group = np.zeros(width, np.intp) if leader is None else np.unique(leader, return_inverse=True)[1]
    moments = {
        e: _moments([x[fold == e] for x in left_out.values()], y[fold == e], seen[fold == e], group)
        for e in np.unique(fold)
    }
    total = reduce(_Moments.__add__, moments.values())
    without = {
        e: reduce(_Moments.__add__, [own for key, own in moments.items() if key != e] or [total])
        for e in moments
    }
    shares = _SHARES if len(total.gram) > 1 else _SHARES[-1:]
    crossed = {share: {e: own.weights(share) for e, own in without.items()} for share in shares}
    best = min(shares, key=lambda share: sum(own.error(crossed[share][e]) for e, own in moments.items()))
    combined = np.zeros_like(y)
    for e, weights in crossed[best].items():
        for weight, x in zip(weights.T.astype(np.float32), left_out.values(), strict=True):
            combined[fold == e] += weight[group] * x[fold == e]
    return dict(zip(names, total.weights(best).T[:, group], strict=True)), combined


def _moments(left_out: Sequence[Floats], y: Floats, seen: Flags, group: Places) -> _Moments:
    """The sums over the entries that were observed, of the columns of each group."""
    groups = int(group.max()) + 1
    if groups == 1:
        flat, truth = np.stack([x[seen] for x in left_out], 1).astype(np.float64), y[seen].astype(np.float64)
        return _Moments((flat.T @ flat)[None], (flat.T @ truth)[None], np.array([float(len(flat))]))
    x = np.stack([np.where(seen, x, 0) for x in left_out], -1).astype(np.float64)
    each = (
        np.einsum("nfm,nfk->fmk", x, x),
        np.einsum("nfm,nf->fm", x, y.astype(np.float64)),
        seen.sum(0).astype(np.float64),
    )
    sums = [np.zeros((groups, *one.shape[1:])) for one in each]
    for into, one in zip(sums, each, strict=True):
        np.add.at(into, group, one)
    return _Moments(*sums)


def _solve(gram: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    # |A v - b|² = v'Gv - 2 t'v + const with A the root of G: as many rows as methods, whatever the number of samples.
    w, u = np.linalg.eigh(gram)
    kept = w > max(float(w[-1]), 0.0) * 1e-12
    if not kept.any():
        return np.zeros(len(target))
    root = (u[:, kept] * np.sqrt(w[kept])).T
    found: NDArray[np.float64] = nnls(root, (u[:, kept] / np.sqrt(w[kept])).T @ target)[0]
    return found

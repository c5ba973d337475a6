"""Residuals that are drawn for imputed entries, in place of those that are not known, and effects of covariates that are not known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from polyvae.data.logscale import LARGEST
from polyvae.data.schema import Features
from polyvae.imputation.imputer import Imputed, Imputer
from polyvae.imputation.tables import Doubles, Flags, Floats
from polyvae.utils.seeds import fold_in


def joint_residual(
    imputer: Imputer, found: Imputed, u: NDArray[np.float64], other: np.random.Generator
) -> tuple[Floats, Doubles | None]:
    """Residuals of entries of a sample of which other entries were observed, and their ranks: [n, F] each; no ranks without residuals.

    They depend on each other as the factors do, given which entries were observed. The noise of a column is what its residuals on the
    calibration samples vary more than the factors. Ranks of such draws choose among these residuals (a Gaussian copula), and their
    variance, relative to that on the calibration samples, scales them.
    """
    assert found.given is not None
    assert found.combination.typical is not None
    residuals = np.sort(found.combination.residuals, axis=0)  # NaN last
    if not len(residuals):
        return np.zeros_like(found.values), None
    model, (seen, columns), typical = imputer.spread(), found.given, found.combination.typical()
    count = (~np.isnan(residuals)).sum(0)
    square = np.nansum(residuals.astype(np.float64) ** 2, 0) / np.maximum(count, 1)
    noise = np.maximum(square - typical, 1e-6)
    variance = model.variance(seen, columns) + noise
    drawn = model.draw(seen, columns, u) + np.sqrt(noise) * other.standard_normal(found.values.shape)
    rank = ndtr(drawn / np.sqrt(variance))
    place = np.minimum((rank * count).astype(np.intp), np.maximum(count - 1, 0))
    chosen = np.take_along_axis(residuals, place, 0)
    scale = np.sqrt(variance / (typical + noise))
    return np.where(count > 0, chosen * scale, 0).astype(np.float32), rank


def whole_residual(found: Imputed, lot: NDArray[np.float64], other: np.random.Generator) -> Floats:
    """A residual vector of a random calibration sample for each sample: [n, F].

    The lot of a sample is the same for all its modalities, so that modalities whose calibration samples are the same get the residuals
    of one sample. Entries that this sample lacks get those of another, which ``other`` chooses.
    """
    residuals = found.combination.residuals
    if not len(residuals):
        return np.zeros_like(found.values)
    drawn = residuals[(lot * len(residuals)).astype(np.intp)]
    missing: Flags = np.isnan(drawn)
    if missing.any():
        for column in np.flatnonzero(missing.any(0)):
            known = residuals[~np.isnan(residuals[:, column]), column]
            lacking = missing[:, column]
            drawn[lacking, column] = other.choice(known, lacking.sum()) if len(known) else 0
    return drawn


def mean_of_amounts(each: Features, found: Imputed) -> Doubles:
    """What is added to predictions of logarithms so that they are logarithms of means: [n, F]; 0 for other columns.

    Over the residuals of samples left out, E[1 + x] = exp(prediction) · mean of exp(residual) (Duan 1983). Few samples with large residuals
    make this mean vary more than the amounts do, so it is followed by the line through the amounts of samples left out, with a slope from 0
    to 1, by least squares.
    """
    values, residuals, logs = found.values.astype(np.float64), found.combination.residuals, each.logs
    if not len(residuals) or not logs.any():
        return np.zeros_like(values)
    known, scale, centre = ~np.isnan(residuals) & logs, np.asarray(each.scale), np.asarray(each.center)
    count = np.maximum(known.sum(0), 1)
    size = np.where(known, np.exp(np.where(known, residuals, 0) * scale), 0).sum(0) / count

    def amount(x: Floats | Doubles, more: Doubles | float = 1.0) -> Doubles:
        return np.asarray(np.exp(np.minimum(x * scale + centre, LARGEST)) * more * logs, np.float64)

    y = found.combination.y.astype(np.float64)
    left, true = (np.where(known, x, 0) for x in (amount(y - np.where(known, residuals, 0), size), amount(y)))
    means = left.sum(0) / count, true.sum(0) / count
    around = np.where(known, left - means[0], 0)
    square = (around**2).sum(0)
    slope = np.clip((around * (true - means[1])).sum(0) / np.where(square > 0, square, 1), 0, 1)
    expected = np.maximum(means[1] + slope * (amount(values, size) - means[0]), 1)
    return np.where(logs & (size > 0), (np.log(expected) - centre) / scale - values, 0)


# ---- effects of covariates that are not known, of levels in which a feature was never observed ---------------------


def wider(
    ends: tuple[Doubles, Doubles], variance: Floats | None, rows: NDArray[np.intp], level: float | None
) -> tuple[Doubles, Doubles]:
    """Ends of intervals relative to the prediction, [F] or [n, F] each, that include the variance of effects [N, F]."""
    if variance is None or level is None:
        return ends
    more = ndtri((1 + level) / 2) ** 2 * variance[rows].astype(np.float64)
    return -_further(-ends[0], more), _further(ends[1], more)


def _further(end: Doubles, more: Doubles) -> Doubles:
    """An upper end, further from the prediction; also where it is below the prediction, as quantiles of draws may be."""
    width = np.where(np.isfinite(end), np.maximum(end, 0), 0)
    return np.asarray(np.where(more > 0, end + np.sqrt(width**2 + more) - width, end), np.float64)


def unknown_effects(
    imputer: Imputer, found: Imputed, at: Floats | None, draws: int, seed: int
) -> list[Floats | float]:
    """For each draw what is not known of the effects of covariates ``at`` [N, C]: the same for all samples of a level, [n, F]."""
    if at is None or imputer.effects.variance_of(found.name, at) is None:
        return [0.0] * draws
    key, columns = imputer.tables.names.index(found.name), at[found.rows]
    return [
        imputer.effects.drawn(
            found.name, columns, np.random.default_rng(fold_in(seed, "effects of levels", key, draw))
        )
        for draw in range(draws)
    ]

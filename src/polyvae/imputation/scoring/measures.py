"""Measures of an imputation, on NumPy arrays [N, F] with a mask of what was observed.

Every function gives one value per feature, [F], and NaN where the measure is undefined: nothing observed, a constant feature, one class
only. ``Scores`` has no row for such a value. ``truth`` may contain anything where ``observed`` is False.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from sklearn.metrics import roc_auc_score

from polyvae.utils.errors import InputError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Interval(NamedTuple):
    """Lower and upper ends, [N, F] each; infinite where there are too few samples to calibrate."""

    low: ArrayLike
    high: ArrayLike


def rmse(truth: ArrayLike, prediction: ArrayLike, observed: ArrayLike | None = None) -> Floats:
    """Root mean squared error of each feature: [F]."""
    truth, prediction, seen = _arrays(truth, prediction, observed)
    return np.sqrt(_mean((truth - prediction) ** 2, seen))


def squares(
    truth: ArrayLike, prediction: ArrayLike, mean: ArrayLike, observed: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """Squared error, and squared deviation from ``mean`` [F], summed over the observed samples: [F] each.

    The deviation is NaN for features of which fewer than two values were observed or all are equal.
    """
    truth, prediction, seen = _arrays(truth, prediction, observed)
    center = np.asarray(mean, np.float64)
    error = np.where(seen, (truth - prediction) ** 2, 0).sum(0)
    deviation = np.where(seen, (truth - center) ** 2, 0).sum(0)
    return error, np.where(_varies(truth, seen), deviation, np.nan)


def fvu(
    truth: ArrayLike, prediction: ArrayLike, mean: ArrayLike, observed: ArrayLike | None = None
) -> Floats:
    """Fraction of variance unexplained of each feature: squared error over squared deviation from ``mean``, [F].

    Imputation of ``mean``, the mean of the training samples, gives 1.
    """
    error, deviation = squares(truth, prediction, mean, observed)
    return _ratio(error, deviation)


def pooled_fvu(
    truth: ArrayLike,
    prediction: ArrayLike,
    mean: ArrayLike,
    observed: ArrayLike | None = None,
    scale: ArrayLike | None = None,
) -> float | None:
    """Fraction of variance unexplained of a modality: both sums are over all features of which two distinct values were observed.

    Args:
        truth: [N, F].
        prediction: [N, F].
        mean: [F], of the training samples.
        observed: [N, F] bool. None: all.
        scale: [F], what each feature is divided by first, such as its standard deviation in the training samples. None: 1.

    Returns:
        The fraction, or None where no feature has two distinct values.
    """
    error, deviation = squares(truth, prediction, mean, observed)
    weight = 1 / np.asarray(1.0 if scale is None else scale, np.float64) ** 2
    known = np.isfinite(deviation) & np.isfinite(np.broadcast_to(weight, deviation.shape))
    below = float((deviation * weight)[known].sum())
    return float((error * weight)[known].sum()) / below if below > 0 else None


def r2(truth: ArrayLike, prediction: ArrayLike, mean: ArrayLike, observed: ArrayLike | None = None) -> Floats:
    """1 − ``fvu``: [F]."""
    return 1 - fvu(truth, prediction, mean, observed)


def pearson(truth: ArrayLike, prediction: ArrayLike, observed: ArrayLike | None = None) -> Floats:
    """Pearson correlation of each feature with its prediction: [F]. Undefined where either is constant."""
    truth, prediction, seen = _arrays(truth, prediction, observed)
    a = np.where(seen, truth - _mean(truth, seen), 0)
    b = np.where(seen, prediction - _mean(prediction, seen), 0)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    defined = _varies(truth, seen) & _varies(prediction, seen)
    return _ratio((a * b).sum(0), np.where(defined, scale, np.nan))


def crps(truth: ArrayLike, draws: ArrayLike, observed: ArrayLike | None = None) -> Floats:
    """Continuous ranked probability score of draws, mean over samples: [F].

    The fair estimator E|X − y| − ½ E|X − X'| over distinct pairs, whose expectation does not depend on the number of draws (Ferro 2014,
    Fair scores for ensemble forecasts).

    Args:
        truth: [N, F].
        draws: [S, N, F], two or more.
        observed: [N, F] bool. None: all.
    """
    drawn = np.sort(np.asarray(draws, np.float64), 0)
    if drawn.ndim != 3 or len(drawn) < 2:
        raise InputError(
            f"crps: got draws of shape {drawn.shape}; expected [S, N, F] with S of at least 2; draw more"
        )
    truth, _, seen = _arrays(truth, drawn[0], observed)
    count = len(drawn)
    rank = (
        2 * np.arange(1, count + 1) - count - 1
    )  # the sum of |X_i − X_j| over pairs i < j is that of rank · X_(i)
    spread = np.tensordot(rank, drawn, 1) / (count * (count - 1))
    return _mean(np.abs(drawn - truth).mean(0) - spread, seen)


def normal_crps(
    truth: ArrayLike, mean: ArrayLike, std: ArrayLike, observed: ArrayLike | None = None
) -> Floats:
    """Continuous ranked probability score of normal distributions, mean over samples: [F].

    In closed form (Gneiting and Raftery 2007, equation 21). With ``std`` = 0 it is the absolute error.

    Args:
        truth: [N, F].
        mean: [N, F].
        std: [N, F], standard deviations.
        observed: [N, F] bool. None: all.
    """
    truth, mean, seen = _arrays(truth, mean, observed)
    std = np.broadcast_to(np.asarray(std, np.float64), truth.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(std > 0, (truth - mean) / std, 0)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    score = std * (z * (2 * special.ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))
    return _mean(np.where(std > 0, score, np.abs(truth - mean)), seen)


def coverage(truth: ArrayLike, interval: Interval, observed: ArrayLike | None = None) -> Floats:
    """Share of the observed values inside their interval, its ends included: [F]."""
    low, high = (np.asarray(end, np.float64) for end in interval)
    truth, low, seen = _arrays(truth, low, observed)
    return _mean(((truth >= low) & (truth <= high)).astype(np.float64), seen)


def width(truth: ArrayLike, interval: Interval, observed: ArrayLike | None = None) -> Floats:
    """Mean width of the intervals of the observed values: [F]; infinite where one of them is."""
    low, high = (np.asarray(end, np.float64) for end in interval)
    _, low, seen = _arrays(truth, low, observed)
    return _mean(high - low, seen)


def log_loss(classes: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Mean negative log probability of the true class, in nats.

    Args:
        classes: [N] integers, −1 where missing.
        probabilities: [N, C].

    Returns:
        None where no class is given.
    """
    known, chances = _classes(classes, probabilities)
    if not len(known):
        return None
    chosen = chances[np.arange(len(known)), known] / chances.sum(1)
    return float(-np.log(np.clip(chosen, np.finfo(np.float64).tiny, None)).mean())


def auroc(classes: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Area under the receiver operating characteristic, by scikit-learn; of several classes the mean over one-versus-rest areas.

    Args:
        classes: [N] integers, −1 where missing.
        probabilities: [N, C].

    Returns:
        None where fewer than two classes occur. A class that does not occur has no area and is left out of the mean.
    """
    known, chances = _classes(classes, probabilities)
    present = np.unique(known)
    if len(present) < 2:
        return None
    chosen = present[1:] if chances.shape[1] == 2 else present
    return float(np.mean([roc_auc_score(known == label, chances[:, label]) for label in chosen]))


def _classes(classes: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    labels, chances = np.asarray(classes), np.asarray(probabilities, np.float64)
    if chances.ndim != 2 or labels.shape != chances.shape[:1] or (labels >= chances.shape[1]).any():
        raise InputError(
            f"scores: got classes of shape {labels.shape} and probabilities of shape {chances.shape}; expected [N] below C and "
            "[N, C]; give one column per class"
        )
    known = labels >= 0
    return labels[known].astype(np.int64), chances[known]


def _arrays(
    truth: ArrayLike, prediction: ArrayLike, observed: ArrayLike | None
) -> tuple[Floats, Floats, Bools]:
    """In double precision; zero where not observed, for NaN times zero is NaN."""
    true, predicted = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    seen = np.ones(true.shape, bool) if observed is None else np.asarray(observed, bool)
    if true.ndim != 2 or true.shape != predicted.shape or true.shape != seen.shape:
        raise InputError(
            f"scores: got arrays of shapes {true.shape}, {predicted.shape} and {seen.shape}; expected [N, F] for the truth, the "
            "prediction and the mask; give them for the same samples and features"
        )
    if not np.isfinite(true[seen]).all():
        raise InputError(
            f"scores: got {int((~np.isfinite(true[seen])).sum())} observed values that are NaN or infinite; expected finite "
            "ones; mark them as not observed"
        )
    return np.where(seen, true, 0), np.where(seen, predicted, 0), seen


def _varies(x: Floats, seen: Bools) -> Bools:
    """Which features have two distinct observed values: [F]."""
    if not len(x):
        return np.zeros(x.shape[1:], bool)
    low = np.where(seen, x, np.inf).min(0)
    high = np.where(seen, x, -np.inf).max(0)
    varies: Bools = low < high
    return varies


def _mean(x: Any, seen: Bools) -> Floats:
    return _ratio(np.where(seen, x, 0).sum(0), seen.sum(0).astype(np.float64))


def _ratio(above: Floats, below: Floats) -> Floats:
    defined = below > 0
    return np.where(defined, above / np.where(defined, below, 1), np.nan)

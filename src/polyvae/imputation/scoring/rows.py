"""The rows of a table of scores, from arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polyvae.imputation.scoring.measures import (
    Interval,
    auroc,
    coverage,
    crps,
    fvu,
    log_loss,
    normal_crps,
    pearson,
    pooled_fvu,
    r2,
    rmse,
    width,
)
from polyvae.utils.errors import InputError

IN_UNITS = ("rmse", "crps", "width")
"""Scores in the unit of a feature; for all features of a modality, in standard deviations of the training samples."""


class Row(NamedTuple):
    """One score.

    Attributes:
        modality: The modality that was imputed.
        feature: One of its features; None: all of them.
        pattern: The modalities from which it was imputed, such as "mrna+protein"; None: whatever was observed.
        method: Such as "ridge".
        score: A key of ``SCORES``.
        value: Finite, or infinite for a width. Of the scores in IN_UNITS: in the unit of the feature; for all of them, in standard
            deviations of the training samples.
        n: The number of samples.
    """

    modality: str
    feature: str | None
    pattern: str | None
    method: str
    score: str
    value: float
    n: int


def numeric_rows(
    modality: str,
    method: str,
    truth: ArrayLike,
    prediction: ArrayLike,
    mean: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    observed: ArrayLike | None = None,
    pattern: str | None = None,
    features: Sequence[str] | None = None,
    draws: ArrayLike | None = None,
    std: ArrayLike | None = None,
    interval: Interval | None = None,
) -> list[Row]:
    """The scores of one modality imputed by one method, per feature and for all features.

    For all features, RMSE, Pearson correlation, CRPS, coverage and width are means over the features for which they are defined, RMSE, CRPS
    and width of features divided by ``scale``, because their units differ; of one feature they are in its unit. FVU is squared error over
    squared deviation, both summed over features divided by ``scale``, and R² is 1 − FVU: a mean of ratios would be dominated by features
    that hardly vary in the test samples.

    Args:
        modality: Its name.
        method: The name of the method.
        truth: [N, F].
        prediction: [N, F], means.
        mean: [F], of the training samples.
        scale: [F], standard deviations of the training samples. None: 1.
        observed: [N, F] bool, which values of ``truth`` are known. None: all.
        pattern: The modalities from which it was imputed.
        features: F names. None: rows for all features only.
        draws: [S, N, F], for CRPS.
        std: [N, F], standard deviations of normal predictions, for CRPS where there are no draws.
        interval: Lower and upper ends, [N, F] each.

    Raises:
        InputError: Shapes that differ, or known values that are not finite.
    """
    values: dict[str, NDArray[np.float64]] = {
        "r2": r2(truth, prediction, mean, observed),
        "fvu": fvu(truth, prediction, mean, observed),
        "rmse": rmse(truth, prediction, observed),
        "pearson": pearson(truth, prediction, observed),
    }
    if draws is not None:
        values["crps"] = crps(truth, draws, observed)
    elif std is not None:
        values["crps"] = normal_crps(truth, prediction, std, observed)
    if interval is not None:
        values["coverage"] = coverage(truth, interval, observed)
        values["width"] = width(truth, interval, observed)
    unit = np.asarray(1.0 if scale is None else scale, np.float64)
    whole: dict[str, float | None] = {
        name: _mean(found / unit if name in IN_UNITS else found) for name, found in values.items()
    }
    whole["fvu"] = pooled_fvu(truth, prediction, mean, observed, scale)
    whole["r2"] = None if whole["fvu"] is None else 1 - whole["fvu"]
    seen = np.ones(np.shape(truth), bool) if observed is None else np.asarray(observed, bool)
    return _rows(modality, method, pattern, features, values, whole, seen)


def binary_rows(
    modality: str,
    method: str,
    truth: ArrayLike,
    probability: ArrayLike,
    *,
    observed: ArrayLike | None = None,
    pattern: str | None = None,
    features: Sequence[str] | None = None,
) -> list[Row]:
    """Log loss and AUROC of a modality of features that are 0 or 1, per feature and as their means.

    Args:
        modality: Its name.
        method: The name of the method.
        truth: [N, F], 0 or 1.
        probability: [N, F], of 1.
        observed: [N, F] bool. None: all.
        pattern: The modalities from which it was imputed.
        features: F names. None: rows for all features only.
    """
    true, chance = np.asarray(truth), np.asarray(probability, np.float64)
    seen = np.ones(true.shape, bool) if observed is None else np.asarray(observed, bool)
    both = np.stack([1 - chance, chance], -1)
    classes = np.where(seen, np.where(seen, true, 0), -1).astype(np.int64)
    columns = range(true.shape[1])
    values = {
        "log_loss": np.array([_nan(log_loss(classes[:, f], both[:, f])) for f in columns]),
        "auroc": np.array([_nan(auroc(classes[:, f], both[:, f])) for f in columns]),
    }
    whole = {name: _mean(found) for name, found in values.items()}
    return _rows(modality, method, pattern, features, values, whole, seen)


def class_rows(
    modality: str, method: str, classes: ArrayLike, probabilities: ArrayLike, *, pattern: str | None = None
) -> list[Row]:
    """Log loss and AUROC of one classification.

    Args:
        modality: Its name.
        method: The name of the method.
        classes: [N] integers, −1 where missing.
        probabilities: [N, C].
        pattern: The modalities from which it was imputed.
    """
    found = {"log_loss": log_loss(classes, probabilities), "auroc": auroc(classes, probabilities)}
    count = int((np.asarray(classes) >= 0).sum())
    return [
        Row(modality, None, pattern, method, name, value, count)
        for name, value in found.items()
        if value is not None
    ]


def _rows(
    modality: str,
    method: str,
    pattern: str | None,
    features: Sequence[str] | None,
    values: Mapping[str, NDArray[np.float64]],
    whole: Mapping[str, float | None],
    seen: NDArray[np.bool_],
) -> list[Row]:
    if features is not None and len(features) != seen.shape[1]:
        raise InputError(
            f"scores: got {len(features)} names for {seen.shape[1]} features of {modality!r}; expected one per feature; check them"
        )
    samples, counts = int(seen.any(1).sum()), seen.sum(0).tolist()
    rows = [
        Row(modality, None, pattern, method, name, value, samples)
        for name, value in whole.items()
        if value is not None
    ]
    for name, found in values.items():
        for feature, value, count in zip(features or (), found.tolist(), counts, strict=features is not None):
            if not math.isnan(value):
                rows.append(Row(modality, feature, pattern, method, name, value, count))
    return rows


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _nan(value: float | None) -> float:
    return math.nan if value is None else value

"""Scores of columns of classes: accuracy, Brier score and log loss, and the coverage of prediction sets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import Group
from polyvae.data.schema import Features
from polyvae.imputation.classes import Calibration, chances, restored, sets, threshold, true_codes
from polyvae.imputation.combine import Combination
from polyvae.imputation.rows import Row
from polyvae.imputation.tables import Doubles, Flags, Floats

_LEAST = 0.001  # the smallest probability that a class is taken to have in a log loss


class Ends(NamedTuple):
    """What covers the values of a modality.

    Attributes:
        low: Lower ends of intervals, standardised, [n, F].
        high: Upper ends.
        limits: Unordered class -> the largest 1 − probability of a class in the sets, [n].
    """

    low: NDArray[np.floating]
    high: NDArray[np.floating]
    limits: Mapping[str, Doubles]


def crossed_limits(each: Features, combination: Combination, level: float) -> dict[str, Doubles]:
    """The limits of calibration samples, each by the scores of the other folds: class -> [c]."""
    found = {}
    for group in _unordered(each):
        known = Calibration.of(each, group, combination)
        limit = np.full(len(combination.y), np.inf)
        for e in np.unique(combination.fold):
            limit[combination.fold == e] = threshold(known.scores[known.fold != e], level)
        found[group.name] = limit
    return found


def limits_of(each: Features, combination: Combination, level: float) -> dict[str, float]:
    """The limits of new samples: class -> one number."""
    return {
        group.name: threshold(Calibration.of(each, group, combination).scores, level)
        for group in _unordered(each)
    }


def _unordered(each: Features) -> list[Group]:
    return [group for group in each.groups if not group.ranks]


def rows_of_classes(
    each: Features,
    method: str,
    truth: Floats,
    predicted: Floats,
    seen: Flags,
    ends: Ends | None,
    features: bool,
    pattern: str | None,
) -> list[Row]:
    """The scores of the classes of one modality: of all of them their means, and of single ones where ``features``.

    Args:
        each: The features of the modality.
        method: The name of the method.
        truth: Standardised, [n, F].
        predicted: Standardised, [n, F].
        seen: [n, F] bool.
        ends: What covers them; None: coverage is not scored.
        features: Whether to score single columns too.
        pattern: The modalities from which they were imputed.
    """
    single: list[Row] = []
    for group in each.groups:
        known = np.flatnonzero(seen[:, group.start])
        if not len(known) or set(each.columns[group.columns]) <= set(each.constant):
            continue
        codes = true_codes(group, restored(each, group, truth[known]))
        found = chances(group, restored(each, group, predicted[known]))
        limits = None if ends is None or group.ranks else ends.limits[group.name][known]
        single += [
            Row(each.name, group.name, pattern, method, score, value, len(known))
            for score, value in _scores(group, found, codes, limits).items()
        ]
    rows = []
    for score in dict.fromkeys(row.score for row in single):
        own = [row for row in single if row.score == score]
        mean = float(np.mean([row.value for row in own]))
        rows.append(Row(each.name, None, pattern, method, score, mean, max(row.n for row in own)))
    return rows + (single if features else [])


def _scores(
    group: Group, found: Doubles, codes: NDArray[np.intp], limits: Doubles | None
) -> dict[str, float]:
    at = np.arange(len(codes)), codes
    scores = {"accuracy": float((found.argmax(1) == codes).mean())}
    if group.ranks and len(group.levels) > 2:
        return scores
    indicator = codes[:, None] == np.arange(found.shape[1])
    scores["brier"] = float(((found - indicator) ** 2).sum(1).mean())
    if group.ranks:  # the log loss of a column of 0 and 1 is among the scores of numbers
        return scores
    chance = np.clip(found, _LEAST, None)
    scores["log_loss"] = -float(np.log(chance[at] / chance.sum(1)).mean())
    if limits is not None:
        inside = sets(found, limits)
        scores |= {"set_coverage": float(inside[at].mean()), "set_size": float(inside.sum(1).mean())}
    return {score: value for score, value in scores.items() if not math.isnan(value)}

"""Scores of columns of classes: R², accuracy, AUROC, Brier score and log loss, and the coverage of prediction sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import Group
from polyvae.data.schema import Features
from polyvae.imputation.filling.classes import Calibration, chances, in_units, sets, threshold, true_codes
from polyvae.imputation.methods.combine import Combination
from polyvae.imputation.scoring.measures import auroc, pooled_fvu
from polyvae.imputation.scoring.rows import Row
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
    pattern: str | None,
) -> list[Row]:
    """The scores of each column of classes of one modality, under its name in the data.

    Args:
        each: The features of the modality.
        method: The name of the method.
        truth: Standardised, [n, F].
        predicted: Standardised, [n, F].
        seen: [n, F] bool.
        ends: What covers them; None: coverage is not scored.
        pattern: The modalities from which they were imputed.
    """
    single: list[Row] = []
    for group in each.groups:
        known = np.flatnonzero(seen[:, group.start])
        if not len(known) or set(each.columns[group.columns]) <= set(each.constant):
            continue
        codes = true_codes(group, in_units(each, group, truth[known]))
        found = chances(group, in_units(each, group, predicted[known]))
        limits = None if ends is None or group.ranks else ends.limits[group.name][known]
        scores = _scores(group, found, codes, limits)
        if not group.ranks:  # ranks have the R² of a number
            scores |= _explained(each, group, truth[known], predicted[known])
        single += [
            Row(each.name, group.name, pattern, method, score, value, len(known))
            for score, value in scores.items()
        ]
    return single


def means_of(rows: Sequence[Row], count: int) -> list[Row]:
    """The mean of each score over the columns that have it, as rows of a modality.

    Args:
        rows: Of single columns of one modality.
        count: The number of samples.
    """
    found = []
    for score in dict.fromkeys(row.score for row in rows if row.score not in ("r2", "fvu")):
        own = [row for row in rows if row.score == score]
        mean = float(np.mean([row.value for row in own]))
        found.append(own[0]._replace(feature=None, value=mean, n=count))
    return found


def _explained(each: Features, group: Group, truth: Floats, predicted: Floats) -> dict[str, float]:
    """R² of the indicators of a class, pooled as those of a modality are."""
    centre, scale = (np.asarray(x)[group.columns] for x in (each.center, each.deviations))
    error = pooled_fvu(in_units(each, group, truth), in_units(each, group, predicted), centre, None, scale)
    return {} if error is None else {"r2": 1 - error, "fvu": error}


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
    area = auroc(codes, found)
    if area is not None:
        scores["auroc"] = area
    chance = np.clip(found, _LEAST, None)
    scores["log_loss"] = -float(np.log(chance[at] / chance.sum(1)).mean())
    if limits is not None:
        inside = sets(found, limits)
        scores |= {"set_coverage": float(inside[at].mean()), "set_size": float(inside.sum(1).mean())}
    return {score: value for score, value in scores.items() if not math.isnan(value)}

"""Classes from predictions of their indicators: the most probable one, sets that cover it, and draws.

The prediction of the indicators of a class is close to the probabilities of its classes, because least squares on indicators is a proper
score (Brier 1950). Negative ones are set to 0, and all are divided by their sum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import Codes, Group
from polyvae.data.schema import Features
from polyvae.imputation.methods.combine import Combination, half_widths
from polyvae.imputation.tables import Doubles, Flags, Floats

_NEAR = 1e-9  # rounding errors of single precision, relative to ranks


def in_units(each: Features, group: Group, values: Floats) -> Doubles:
    """The columns of a group in units: standardised values [n, F] of all columns -> [n, C]."""
    own = group.columns
    return np.asarray(values[:, own] * np.asarray(each.scale)[own] + np.asarray(each.center)[own], np.float64)


def chances(group: Group, values: Doubles) -> Doubles:
    """The probability of each class: predictions [n, C] of the columns of a group, in units -> [n, classes].

    Of ranks of two classes the rank is the probability of the second. Ranks of more have no probabilities: 1 for the nearest.
    """
    count = len(group.levels)
    if group.ranks:
        rank = np.clip(values[:, 0], 0, count - 1)
        if count == 2:
            return np.stack([1 - rank, rank], 1)
        return np.asarray(np.rint(rank)[:, None] == np.arange(count), np.float64)
    found = np.clip(values, 0, None)
    total = found.sum(1, keepdims=True)
    return np.asarray(np.where(total > 0, found / np.where(total > 0, total, 1), 1 / count), np.float64)


def true_codes(group: Group, values: Doubles) -> Codes:
    """The class of each sample of which it was observed: [n, C] in units -> [n]."""
    return np.asarray(np.rint(values[:, 0]) if group.ranks else values.argmax(1), np.intp)


class Calibration(NamedTuple):
    """The calibration samples of which a class was observed.

    Attributes:
        chances: [c, classes], of samples left out.
        codes: [c], the classes that were observed.
        known: [calibration samples] bool, of which it was observed.
        fold: [c], the fold in which each is left out.
        distances: [c, classes], of the same predictions.
    """

    chances: Doubles
    codes: Codes
    known: Flags
    fold: NDArray[np.intp]
    distances: Doubles

    @classmethod
    def of(cls, each: Features, group: Group, combination: Combination) -> Calibration:
        """Of one group of the modality that a combination predicts."""
        known: Flags = np.asarray(combination.seen[:, group.start], bool)
        stack, y = combination.left_out["stack"][known], combination.y[known]
        values = in_units(each, group, stack)
        return cls(
            chances(group, values),
            true_codes(group, in_units(each, group, y)),
            known,
            combination.fold[known],
            distances(group, values),
        )

    @property
    def scores(self) -> Doubles:
        """1 − the probability of the class that was observed, [c]."""
        return np.asarray(1 - self.chances[np.arange(len(self.codes)), self.codes], np.float64)


def threshold(scores: Doubles, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of n scores; infinite where there are fewer (Sadinle et al. 2019; Vovk et al. 2005)."""
    return float(half_widths(scores[:, None], level)[0])


def sets(found: Doubles, limit: float | Doubles) -> Flags:
    """Which classes are in the set of each sample: those with 1 − probability up to the limit, and the most probable one.

    Args:
        found: [n, classes], probabilities.
        limit: One for all samples, or [n].
    """
    limits = np.broadcast_to(np.asarray(limit, np.float64), (len(found),))
    best = found.argmax(1)[:, None] == np.arange(found.shape[1])
    return np.asarray((1 - found <= limits[:, None] + _NEAR) | best, bool)


def probable_sets(found: Doubles, level: float) -> Flags:
    """The smallest sets of classes whose probabilities add to ``level``: [n, classes]."""
    order = np.argsort(-found, axis=1, kind="stable")
    ranked = np.take_along_axis(found, order, 1)
    before = np.cumsum(ranked, 1) - ranked
    result = np.zeros(found.shape, bool)
    np.put_along_axis(result, order, before < level - _NEAR, 1)
    return result


def rank_ends(group: Group, centre: Doubles, below: Doubles, above: Doubles) -> tuple[Doubles, Doubles]:
    """The lowest and the highest rank in intervals around predicted ranks: [n] each; the nearest rank where none is inside."""
    most = len(group.levels) - 1
    low, high = np.ceil(centre + below - _NEAR * 1e3), np.floor(centre + above + _NEAR * 1e3)
    nearest = np.clip(np.rint(centre), 0, most)
    low, high = np.clip(low, 0, most), np.clip(high, 0, most)
    none = low > high
    return np.where(none, nearest, low), np.where(none, nearest, high)


def distances(group: Group, values: Doubles) -> Doubles:
    """How far each class is from a prediction in units [n, C]: 1 − its probability, of ranks the distance from the rank; [n, classes]."""
    if not group.ranks:
        return 1 - chances(group, values)
    most = len(group.levels) - 1
    return np.abs(np.arange(most + 1) - np.clip(values[:, :1], 0, most))


def limits_by_class(known: Doubles, codes: Codes, level: float) -> Doubles:
    """The limit of each class, by the distances of its own samples alone (label-conditional: Vovk et al. 2005; Sadinle et al. 2019).

    Args:
        known: [c, classes], the distances of calibration samples.
        codes: [c], their classes.
        level: The probability with which sets contain the true class, whichever class it is.

    Returns:
        [classes]; infinite where a class has too few samples.
    """
    own = np.where(codes[:, None] == np.arange(known.shape[1]), known, np.nan)
    return half_widths(own, level)


def sets_by_class(found: Doubles, limits: Doubles) -> Flags:
    """Which classes are up to their limit, and the nearest one: distances [n, classes], limits [classes] -> [n, classes]."""
    nearest = found.argmin(1)[:, None] == np.arange(found.shape[1])
    return np.asarray((found <= limits + _NEAR * 1e3) | nearest, bool)


def places(calibration: Calibration, v: Doubles) -> Doubles:
    """Where the class of each calibration sample is in the distribution that was predicted for it: uniform numbers [c], if it is right.

    Args:
        calibration: The samples.
        v: [c], uniform numbers.
    """
    upper = np.cumsum(calibration.chances, 1)
    at = np.arange(len(calibration.codes)), calibration.codes
    return np.asarray(upper[at] - v * calibration.chances[at], np.float64)


def classes_at(found: Doubles, u: Doubles) -> Codes:
    """The class at each place of its distribution: probabilities [n, classes] and uniform numbers [n] -> [n]."""
    upper = np.cumsum(found, 1)
    passed = (upper <= u[:, None] * upper[:, -1:]).sum(1)
    return np.asarray(np.minimum(passed, found.shape[1] - 1), np.intp)


def classes_of_ranks(found: Doubles, rank: Doubles) -> Codes:
    """Draws of a class that depend on other columns as the rank of its most probable indicator does.

    Args:
        found: [n, classes], probabilities.
        rank: [n, classes], the ranks of draws of the indicators: uniform numbers.
    """
    rows, best = np.arange(len(found)), found.argmax(1)
    order = np.argsort(
        np.arange(found.shape[1]) != best[:, None], axis=1, kind="stable"
    )  # the best first, then the others in order
    place = classes_at(np.take_along_axis(found, order, 1), 1 - rank[rows, best])
    return np.asarray(order[rows, place], np.intp)

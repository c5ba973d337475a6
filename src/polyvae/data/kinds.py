"""Likelihoods of the columns of a table, inferred from its values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.core.likelihoods.continuous import Scaled
from polyvae.core.likelihoods.mixed import PARTS, check_column
from polyvae.utils.errors import InputError, check_count, is_number

_USUAL = (
    30.0  # the largest mean of counts: networks start near 0 and a rate is about as large as their output
)
_SPREAD = (0.5, 1.5)  # variance over mean of a Poisson distribution, about
_MANY = 50  # columns of counts from which they are proportions of a total, as in sequencing
_NEARLY = 0.9  # share of the columns of more than two values that are counts in a panel of counts
_LOW = 0.1  # of the mean: counts that vary more than amounts come down to it
Block = tuple[NDArray[np.float64], NDArray[np.bool_]]


def infer_parts(
    values: Any,
    observed: Any = None,
    groups: Sequence[tuple[int, int]] = (),
    ranks: Mapping[int, int] | None = None,
    overrides: Mapping[int, Sequence[Any]] | None = None,
) -> list[list[Any]]:
    """The ``parts`` of a likelihood "mixed" for a table, from its observed values.

    By default, a column of values 0 and 1 is "bernoulli". Whole numbers from 0 of more than two values and a mean of at most 30 are
    "negative_binomial", or "poisson" where their variance is at most 1.5 times their mean, each with its own rate (``library="none"``);
    where it is below half their mean, they are no counts. All other columns are "normal" with a learned scale for each: standardise those.

    Args:
        values: [N, F].
        observed: [N, F] bool; None: all values but NaN.
        groups: (first column, number of columns) of each one-hot variable, which becomes "categorical".
        ranks: Column -> number of levels, for columns of ranks from 0, which become "ordinal".
        overrides: Column -> [likelihood] or [likelihood, params], in place of what is inferred.

    Returns:
        [name, number of columns, params], or [name, number of columns] without parameters, in the order of the columns.

    Raises:
        InputError: Values that are no table, a mask of another shape, columns outside the table or in two groups, or unknown likelihoods.

    Example:
        >>> import numpy as np
        >>> from polyvae.data.kinds import infer_parts
        >>> x = np.array([[0.3, 0.7, 1, 0, 0], [1.2, -1.0, 0, 1, 2], [0.1, 0.4, 1, 0, 1]])
        >>> infer_parts(x, groups=[(2, 2)], ranks={4: 3})
        [['normal', 2, {'scale': 'per_entry'}], ['categorical', 2], ['ordinal', 1, {'levels': 3}]]
    """
    block = _table(values, observed)
    return parts_of(
        summary(lambda: [block]),
        groups,
        {} if ranks is None else ranks,
        {} if overrides is None else overrides,
    )


class Summary(NamedTuple):
    """What the observed values of each of F columns are; arrays are [F].

    Attributes:
        known: How many there are.
        low: The smallest, infinity where there are none.
        high: The largest.
        whole: Whether all are whole numbers.
        several: Whether there are more than two different ones.
        mean: Their mean.
        variance: Their variance, with divisor n.
    """

    known: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    whole: NDArray[np.bool_]
    several: NDArray[np.bool_]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def summary(blocks: Callable[[], Iterable[Block]]) -> Summary:
    """Of rows in blocks, which are read twice: values and which were observed, both [n, F]."""
    columns = [_first(x, seen) for x, seen in blocks()]
    known, total = (np.sum([each[at] for each in columns], 0) for at in (0, 1))
    low = np.min([each[2] for each in columns], 0)
    high = np.max([each[3] for each in columns], 0)
    whole = np.all([each[4] for each in columns], 0)
    mean = total / np.maximum(known, 1)
    squares, several = np.zeros_like(mean), np.zeros_like(whole)
    for x, seen in blocks():
        squares += np.where(seen, (x - mean) ** 2, 0).sum(0)
        several |= (seen & (x != low) & (x != high)).any(0)
    return Summary(known, low, high, whole, several, mean, squares / np.maximum(known, 1))


def _first(x: NDArray[np.float64], seen: NDArray[np.bool_]) -> tuple[NDArray[Any], ...]:
    """Of each column: the number of observed values, their sum, the smallest, the largest, and whether all are whole."""
    return (
        seen.sum(0).astype(np.float64),
        np.where(seen, x, 0).sum(0),
        np.where(seen, x, np.inf).min(0),
        np.where(seen, x, -np.inf).max(0),
        ((x == np.floor(x)) | ~seen).all(0),
    )


def parts_of(
    found: Summary,
    groups: Sequence[tuple[int, int]],
    ranks: Mapping[int, int],
    overrides: Mapping[int, Sequence[Any]],
) -> list[list[Any]]:
    """``infer_parts`` for columns with this summary."""
    size = len(found.mean)
    starts = _starts(groups, size, _checked(ranks, overrides))
    parts: list[list[Any]] = []
    column = 0
    while column < size:
        count = starts.get(column, 1)
        if column in starts:
            own: list[Any] = ["categorical"]
        elif column in overrides:
            own = list(overrides[column])
        elif column in ranks:
            own = ["ordinal", {"levels": int(ranks[column])}]
        else:
            own = _inferred(found, column)
        part = [own[0], count, *own[1:]]
        # Several columns of classes are several variables.
        if parts and own[0] != "categorical" and [parts[-1][0], *parts[-1][2:]] == own:
            parts[-1][1] += count
        else:
            parts.append(part)
        column += count
    return parts


def panel_of(found: Summary, others: Collection[int], classes: int, least: int) -> dict[int, list[Any]]:
    """The one likelihood of the columns of a panel of counts: column -> [likelihood] or [likelihood, params]; empty: it is none.

    In a panel nearly all columns are counts. Those of few counts alone (0 and 1, or one value) belong to it. "negative_binomial" without
    params stands for one with the usual total of the panel as ``library``. Counts that are large and nowhere near 0 are like amounts:
    "normal".

    Args:
        found: The summary of the table.
        others: Columns of classes, and those whose likelihood is stated.
        classes: The number of variables that are classes.
        least: The number of columns from which counts are a panel.
    """
    known, free = found.known > 0, np.ones(len(found.known), bool)
    free[list(others)] = False
    whole = free & known & found.whole & (found.low >= 0)
    spread = found.variance / np.where(found.mean > 0, found.mean, 1)
    counts = whole & found.several & (spread >= _SPREAD[0])
    varying = free & known & (found.low < found.high)
    several = int((varying & found.several).sum()) + classes
    wide = (
        not others and len(known) >= _MANY and bool((whole | ~known).all() and (found.high[known] > 1).any())
    )
    nearly = counts.sum() >= max(least, varying.sum() / 2, _NEARLY * several)
    if not (wide or nearly):
        return {}
    large = counts & (found.mean > _USUAL)
    reaching = (found.low <= _LOW * found.mean)[large]
    if wide or counts.sum() >= _MANY or (len(reaching) and reaching.mean() >= 0.5):
        chosen: list[Any] = ["negative_binomial"]
    elif len(reaching):
        return {int(at): ["normal", {"scale": "per_entry"}] for at in np.flatnonzero(counts)}
    else:
        name = "negative_binomial" if (spread[counts] > _SPREAD[1]).any() else "poisson"
        chosen = [name, {"library": "none"}]
    return {int(at): chosen for at in np.flatnonzero(whole | (free & ~known))}


def standardised(parts: Sequence[Sequence[Any]], found: Summary) -> list[list[Any]]:
    """The same parts; those of real numbers have the means and standard deviations of their columns as ``center`` and ``std``.

    Parts whose ``scale`` is a number, or which have one of both, are as they were stated.

    Args:
        parts: As ``infer_parts`` returns them.
        found: The summary of the table.
    """
    varies = (found.known > 0) & (found.variance > 0) & (found.low < found.high)
    center = np.where(varies, found.mean, np.where(found.known > 0, found.low, 0))
    std = np.sqrt(np.where(varies, found.variance, 1))
    result, at = list[list[Any]](), 0
    for name, count, *rest in parts:
        params = dict(rest[0]) if rest else {}
        stated = is_number(params.get("scale")) or bool({"center", "std"} & params.keys())
        if issubclass(PARTS[name], Scaled) and not stated:
            own = slice(at, at + count)
            params |= {"center": _short(center[own]), "std": _short(std[own])}
        result.append([name, count, params] if params else [name, count])
        at += count
    return result


def _short(x: NDArray[np.float64]) -> list[float]:
    """Numbers as they are stored: nine digits are more than single precision has."""
    return [float(f"{value:.9g}") for value in x]


def _inferred(found: Summary, at: int) -> list[Any]:
    """The likelihood of one column, by its observed values."""
    low, high = float(found.low[at]), float(found.high[at])
    if (low, high) == (0, 1) and bool(found.whole[at]):
        return ["bernoulli"]
    if bool(found.several[at]) and low >= 0 and bool(found.whole[at]):
        mean, spread = float(found.mean[at]), float(found.variance[at]) / float(found.mean[at])
        if mean <= _USUAL and spread >= _SPREAD[0]:
            return ["poisson" if spread <= _SPREAD[1] else "negative_binomial", {"library": "none"}]
    return ["normal", {"scale": "per_entry"}]


def _table(values: Any, observed: Any) -> Block:
    try:
        x = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        x = np.empty(0)
    if x.ndim != 2 or not x.size:
        raise InputError(
            f"infer_parts: got values of shape {np.shape(values)}; expected numbers [N, F]; give one table of columns"
        )
    seen = ~np.isnan(x) if observed is None else np.asarray(observed)
    if seen.shape != x.shape or seen.dtype != bool:
        raise InputError(
            f"infer_parts: got observed of shape {seen.shape} and {seen.dtype}; expected bool of shape {x.shape}, as values; "
            "pass the mask of these values"
        )
    if not bool(np.isfinite(x[seen]).all()):
        raise InputError(
            "infer_parts: got observed values that are infinite or NaN; expected numbers; mark them as missing in observed"
        )
    return np.where(seen, x, 0), seen


def _checked(ranks: object, overrides: object) -> list[int]:
    """The columns that are named. Raises InputError: something else than columns with their levels and likelihoods."""
    for what, given in {"ranks": ranks, "overrides": overrides}.items():
        if not isinstance(given, Mapping) or not all(_is_column(column) for column in given):
            expected = (
                "levels, such as {4: 3}" if what == "ranks" else "likelihoods, such as {4: ['student_t']}"
            )
            raise InputError(
                f"infer_parts: got {what}={given!r}; expected numbers of columns with {expected}; correct them"
            )
    assert isinstance(ranks, Mapping)
    assert isinstance(overrides, Mapping)
    for column, levels in ranks.items():
        check_count("infer_parts", f"ranks[{column}]", levels, 2)
    for column, part in overrides.items():
        check_column(f"infer_parts: overrides[{column}]", part)
    return [*ranks, *overrides]


def _is_column(x: object) -> bool:
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


def _starts(groups: object, columns: int, others: Sequence[int]) -> dict[int, int]:
    """First column -> number of columns of each one-hot variable."""
    taken: set[int] = set(others)
    for column in taken:
        if not 0 <= column < columns:
            raise InputError(
                f"infer_parts: got column {column!r}; expected columns from 0 to {columns - 1}; correct it"
            )
    starts = dict[int, int]()
    for group in groups if isinstance(groups, Sequence) else [groups]:
        pair = tuple(group) if isinstance(group, Sequence) else ()
        if len(pair) != 2 or not all(_is_column(each) for each in pair):
            raise InputError(
                f"infer_parts: got the group {group!r}; expected (first column, number of columns), such as (2, 3)"
            )
        start, count = pair
        own = set(range(start, start + count))
        if count < 1 or start < 0 or start + count > columns:
            raise InputError(
                f"infer_parts: got the group {(start, count)!r}; expected (first column, number of columns) within {columns} columns; "
                "correct it"
            )
        if own & taken:
            raise InputError(
                f"infer_parts: column {min(own & taken)} is in the group {(start, count)!r} and given a second time; expected each "
                "column once; leave one out"
            )
        taken |= own
        starts[int(start)] = int(count)
    return starts

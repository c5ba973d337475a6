"""Likelihoods of the columns of a table, inferred from its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyvae.utils.errors import InputError

_USUAL = (
    30.0  # the largest mean of counts: networks start near 0 and a rate is about as large as their output
)
_SPREAD = (0.5, 1.5)  # variance over mean of a Poisson distribution, about


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
        InputError: Values that are no table, a mask of another shape, or columns outside the table or in two groups.

    Example:
        >>> import numpy as np
        >>> from polyvae.data.kinds import infer_parts
        >>> x = np.array([[0.3, 0.7, 1, 0, 0], [1.2, -1.0, 0, 1, 2], [0.1, 0.4, 1, 0, 1]])
        >>> infer_parts(x, groups=[(2, 2)], ranks={4: 3})
        [['normal', 2, {'scale': 'per_entry'}], ['categorical', 2], ['ordinal', 1, {'levels': 3}]]
    """
    x, seen = _table(values, observed)
    chosen = dict(overrides or {})
    starts = _starts(groups, x.shape[1], {**(ranks or {}), **chosen})
    parts: list[list[Any]] = []
    column = 0
    while column < x.shape[1]:
        count = starts.get(column, 1)
        if column in starts:
            own: list[Any] = ["categorical"]
        elif column in chosen:
            own = list(chosen[column])
        elif column in (ranks or {}):
            own = ["ordinal", {"levels": int((ranks or {})[column])}]
        else:
            own = _inferred(x[seen[:, column], column])
        part = [own[0], count, *own[1:]]
        # Several columns of classes are several variables.
        if parts and own[0] != "categorical" and [parts[-1][0], *parts[-1][2:]] == own:
            parts[-1][1] += count
        else:
            parts.append(part)
        column += count
    return parts


def _inferred(x: NDArray[np.float64]) -> list[Any]:
    """The likelihood of one column, by its observed values."""
    distinct = np.unique(x)
    if distinct.tolist() == [0, 1]:
        return ["bernoulli"]
    if len(distinct) > 2 and distinct[0] >= 0 and bool((distinct == distinct.round()).all()):
        mean, spread = float(x.mean()), float(x.var()) / float(x.mean())
        if mean <= _USUAL and spread >= _SPREAD[0]:
            return ["poisson" if spread <= _SPREAD[1] else "negative_binomial", {"library": "none"}]
    return ["normal", {"scale": "per_entry"}]


def _table(values: Any, observed: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
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
            f"infer_parts: got observed of shape {seen.shape} and {seen.dtype}; expected bool of shape {x.shape}, as values"
        )
    if not bool(np.isfinite(x[seen]).all()):
        raise InputError(
            "infer_parts: got observed values that are infinite or NaN; expected numbers; mark them as missing in observed"
        )
    return x, seen


def _starts(groups: Sequence[tuple[int, int]], columns: int, others: Mapping[int, Any]) -> dict[int, int]:
    """First column -> number of columns of each one-hot variable."""
    taken: set[int] = set(others)
    for column in taken:
        if not 0 <= column < columns:
            raise InputError(f"infer_parts: got column {column!r}; expected columns from 0 to {columns - 1}")
    for start, count in groups:
        own = set(range(start, start + count))
        if count < 1 or start < 0 or start + count > columns:
            raise InputError(
                f"infer_parts: got the group {(start, count)!r}; expected (first column, number of columns) within {columns} columns"
            )
        if own & taken:
            raise InputError(
                f"infer_parts: column {min(own & taken)} is in the group {(start, count)!r} and given a second time; expected each "
                "column once; leave one out"
            )
        taken |= own
    return dict(groups)

"""Coverage and width of 90 % intervals per pattern of observed modalities: the Estimator's, and ridge's own conformal ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.imputation.linear import Ridge, conformal_halfwidth
from benchmarks.imputation.protocol import Fold, Folds, folds
from benchmarks.imputation.stack import Filled, Stack
from benchmarks.imputation.tables import Skipped, Table, Views, pick, present
from polyvae.imputation.scoring.measures import Interval, coverage, width

LEVEL = 0.9


def patterns(names: list[str], target: str) -> Iterator[tuple[str, ...]]:
    """What the target is predicted from: all other modalities, all but one of them, and each alone."""
    others = tuple(name for name in names if name != target)
    every = [others]
    every += [tuple(name for name in others if name != left) for left in others]
    every += [(name,) for name in others]
    yield from dict.fromkeys(one for one in every if one)


def ridge_interval(model: Ridge, inputs: Views, target: str, level: float) -> Filled:
    """Split-conformal per column, with ridge's leave-one-out residuals as the residuals of the calibration rows."""
    values, reach = model(inputs, target), conformal_halfwidth(model.residuals(target), level)
    return Filled(values, values - reach, values + reach)


def most_frequent(y: NDArray[np.floating], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The share of the most frequent value of each column: [F], NaN where nothing was observed.

    Where it is above the level, an interval that contains this value covers more often than the level.
    """
    shares = np.full(y.shape[1], np.nan)
    for column in np.flatnonzero(seen.any(0)):
        counts = np.unique(y[seen[:, column], column], return_counts=True)[1]
        shares[column] = counts.max() / counts.sum()
    return shares


def calibrate(
    table: Table, methods: list[str], how: Folds, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One entry per method, fold, modality and pattern: the means of coverage and width over columns, and test rows.

    "least" is the coverage of intervals that cover with the level and contain the most frequent value of each column.
    """
    entries: list[dict[str, Any]] = []
    count, rate = how.count, how.rate
    for fold in folds(table, how):
        for name in methods:
            try:
                found = _of_method(name, fold)
            except Skipped as reason:
                say(f"{table.name}: intervals of {name} skipped: {reason}")
                continue
            entries += [
                {"data": table.name, "missing": rate, "fold": fold.number, "method": name} | one
                for one in found
            ]
            mean = np.mean([one["coverage"] for one in found])
            say(f"{table.name}, fold {fold.number + 1} of {count}: mean coverage of {name} {mean:.3f}")
    return entries


def _of_method(name: str, fold: Fold) -> list[dict[str, Any]]:
    ridge, stack = (Ridge(fold.train), None) if name == "ridge" else (None, Stack(fold.train))
    found = []
    for target, (y, seen) in fold.test.items():
        for pattern in patterns(list(fold.test), target):
            inputs = {key: fold.test[key] for key in pattern}
            rows = np.flatnonzero(present((y, seen)) & np.all([present(one) for one in inputs.values()], 0))
            if not len(rows):
                continue
            given = pick(inputs, rows)
            if ridge is not None:  # a regression on all modalities, of which the others are at their mean
                rest = {key: fold.train[key][0].shape[1] for key in fold.train if key != target}
                full = {
                    key: given.get(
                        key, (np.zeros((len(rows), size), np.float32), np.zeros((len(rows), size), bool))
                    )
                    for key, size in rest.items()
                }
                filled = ridge_interval(ridge, full, target, LEVEL)
            else:
                assert stack is not None
                filled = stack.interval(given, target, LEVEL)
            ends = Interval(filled.low, filled.high)
            inside, wide = coverage(y[rows], ends, seen[rows]), width(y[rows], ends, seen[rows])
            one = most_frequent(y[rows], seen[rows])
            found.append(
                {
                    "view": target,
                    "pattern": "+".join(pattern),
                    "coverage": float(np.nanmean(inside)),
                    "width": float(np.nanmean(wide)),
                    "least": float(np.nanmean(np.maximum(one, LEVEL))),
                    "n": len(rows),
                }
            )
    return found

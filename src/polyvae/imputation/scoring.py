"""Held-out scores of every method: of the training samples, each left out, and of new samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polyvae.data.schema import Schema
from polyvae.imputation.combine import Combination, half_widths
from polyvae.imputation.imputer import Imputer
from polyvae.imputation.rows import numeric_rows
from polyvae.imputation.scores import Interval, Row, Scores
from polyvae.imputation.tables import Floats, Pattern, Tables

LEVEL = 0.9


def held_out(schema: Schema, imputer: Imputer) -> Scores:
    """Scores of each modality predicted from all others, for training samples that the methods did not see.

    Ridge, kernel ridge and k-NN are scored by leave-one-out, the VAE by the member that left the sample out, and the combination and its
    intervals by weights and residuals of the other folds. Choices by cross-validation (penalty, kernel, neighbours, the step at which
    training stopped) were made on these samples too.
    """
    rows: list[Row] = []
    encoded = [name for name in imputer.tables.names if name not in imputer.targets]
    for name in imputer.tables.names:
        pattern = imputer.others(name)
        if not any(pattern):  # one modality is predicted from its own entries
            pattern = tuple(other in encoded for other in imputer.tables.names)
        if name in schema.names:
            rows += _of(schema, imputer, pattern, name)
    return Scores(rows)


def _of(schema: Schema, imputer: Imputer, pattern: Pattern, name: str) -> list[Row]:
    combination = imputer.combination(pattern, name)
    truth = schema.restore(name, combination.y)
    methods: dict[str, Floats] = {"mean": np.zeros_like(combination.y), **combination.left_out}
    low, high = _crossed(combination)
    rows: list[Row] = []
    for method, predicted in methods.items():
        stack = method == "stack"
        rows += _rows(
            schema, name, method, truth, schema.restore(name, predicted), combination.seen,
            interval=Interval(schema.restore(name, low), schema.restore(name, high)) if stack else None,
            features=stack,
        )  # fmt: skip
    return rows


def _crossed(combination: Combination) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Intervals of calibration samples, each by the residuals of the other folds: [c, F] each."""
    centre, residuals = combination.left_out["stack"], combination.residuals
    width = np.zeros(centre.shape)
    for e in np.unique(combination.fold):
        inside = combination.fold == e
        width[inside] = half_widths(residuals[~inside], LEVEL)
    return centre - width, centre + width


def on_new(schema: Schema, imputer: Imputer, tables: Tables) -> Scores:
    """Scores of new samples: every modality hidden in turn and predicted from what else was observed, whatever the pattern."""
    rows: list[Row] = []
    for m, name in enumerate(tables.names):
        if name not in schema.names:
            continue
        kept = tuple(other != m for other in range(len(tables.names)))
        given = tables.only(kept)
        chosen = np.flatnonzero(tables.observed[name].any(1) & given.mask.any(1))
        if not len(chosen):
            continue
        given, truth = given.rows(chosen), tables.values[name][chosen]
        found: dict[str, Floats] = {"mean": np.zeros_like(truth), "stack": np.zeros_like(truth)}
        width = np.zeros(truth.shape)
        for each in imputer.impute(given, methods=True):
            if each.name != name:
                continue
            width[each.rows] = each.combination.half_widths(LEVEL)
            for method, x in each.parts.items():
                found.setdefault(method, np.full_like(truth, np.nan))[each.rows] = x
        seen = tables.observed[name][chosen]
        for method, x in found.items():
            if np.isnan(x).any():  # not one of the methods for some pattern
                continue
            stack = method == "stack"
            ends = (
                Interval(schema.restore(name, x - width), schema.restore(name, x + width)) if stack else None
            )
            rows += _rows(
                schema, name, method, schema.restore(name, truth), schema.restore(name, x), seen, ends, stack
            )
    return Scores(rows)


def _rows(
    schema: Schema,
    name: str,
    method: str,
    truth: NDArray[np.float64],
    predicted: NDArray[np.float64],
    seen: NDArray[np.bool_],
    interval: Interval | None,
    features: bool,
) -> list[Row]:
    each = schema[name]
    varying = [place for place, column in enumerate(each.columns) if column not in set(each.constant)]
    if not varying:
        return []
    ends = None if interval is None else Interval(*(np.asarray(end)[:, varying] for end in interval))
    return numeric_rows(
        name,
        method,
        truth[:, varying],
        predicted[:, varying],
        np.asarray(each.center)[varying],
        scale=np.asarray(each.scale)[varying],
        observed=seen[:, varying],
        features=[each.columns[place] for place in varying] if features else None,
        interval=ends,
    )

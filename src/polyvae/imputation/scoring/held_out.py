"""Held-out scores of every method: of the training samples, each left out, and of new samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polyvae.data.schema import Features, Schema
from polyvae.imputation.imputer import Imputer
from polyvae.imputation.methods.combine import FEWEST, Combination
from polyvae.imputation.scoring.class_scores import Ends, crossed_limits, limits_of, means_of, rows_of_classes
from polyvae.imputation.scoring.measures import Interval, pooled_fvu
from polyvae.imputation.scoring.rows import Row, binary_rows, numeric_rows
from polyvae.imputation.scoring.scores import Scores
from polyvae.imputation.tables import Floats, Pattern, Tables, patterns
from polyvae.utils.seeds import fold_in

LEVEL = 0.9
_PATTERNS = 8  # patterns that are scored, at most
_LEAST = 0.001  # the smallest probability that a prediction of an indicator is taken as


def held_out(schema: Schema, imputer: Imputer) -> Scores:
    """Scores of each modality predicted from all others, for training samples that the methods did not see.

    Ridge, kernel ridge and k-NN are scored by leave-one-out, the VAE by the member that left the sample out, and the combination and its
    intervals by weights and residuals of the other folds. Choices by cross-validation (penalty, kernel, neighbours, the step at which
    training stopped) were made on these samples too. The combination is also scored for the most frequent patterns of observed
    modalities. CRPS is that of a normal distribution with the standard deviation of the residuals of each feature.
    """
    rows: list[Row] = []
    encoded = [name for name in imputer.tables.names if name not in imputer.targets]
    for name in schema.names:
        pattern = imputer.others(name)
        if not any(pattern):  # one modality is predicted from its own entries
            pattern = tuple(other in encoded for other in imputer.tables.names)
        rows += _of(schema, imputer, pattern, name)
    for pattern in _frequent(imputer):
        for m, name in enumerate(imputer.tables.names):
            given = tuple(kept and other != m for other, kept in enumerate(pattern))
            if pattern[m] and name in schema.names and any(given) and given != imputer.others(name):
                rows += _of_pattern(schema, imputer, given, name)
    return Scores(rows)


def _frequent(imputer: Imputer) -> list[Pattern]:
    """The patterns of at least 100 training samples, or a tenth of fewer than 1,000, most frequent first."""
    found = patterns(imputer.tables.only(imputer.encoded).mask)
    fewest = min(FEWEST, imputer.tables.size // 10)
    often = sorted(found, key=lambda pattern: -len(found[pattern]))[:_PATTERNS]
    return [pattern for pattern in often if len(found[pattern]) >= fewest]


def _of(schema: Schema, imputer: Imputer, pattern: Pattern, name: str) -> list[Row]:
    combination = imputer.combination(pattern, name)
    methods: dict[str, Floats] = {"mean": np.zeros_like(combination.y), **combination.left_out}
    rows: list[Row] = []
    for method, predicted in methods.items():
        stack = method == "stack"
        ends = _crossed(schema[name], combination) if stack else None
        rows += _rows(schema, name, method, combination.y, predicted, combination.seen, ends, stack)
    return rows


def _of_pattern(schema: Schema, imputer: Imputer, pattern: Pattern, name: str) -> list[Row]:
    combination = imputer.combination(pattern, name)
    label = "+".join(other for other, kept in zip(imputer.tables.names, pattern, strict=True) if kept)
    predicted, ends = combination.left_out["stack"], _crossed(schema[name], combination)
    return _rows(schema, name, "stack", combination.y, predicted, combination.seen, ends, False, label)


def _crossed(each: Features, combination: Combination) -> Ends:
    """Intervals and sets of calibration samples, each by the residuals of the other folds."""
    centre, width = combination.left_out["stack"], combination.crossed_widths(LEVEL)
    return Ends(centre - width, centre + width, crossed_limits(each, combination, LEVEL))


def on_hidden(schema: Schema, imputer: Imputer, tables: Tables) -> Scores:
    """Scores of new samples of one modality, of which a share of the observed entries is hidden; each sample keeps one at least."""
    name, tables = schema.names[0], tables.rows(slice(None))
    truth, seen = tables.values[name], tables.observed[name]
    draws = np.random.default_rng(fold_in(imputer.seed, "hidden entries of new samples"))
    hidden = seen & imputer.chosen(name, draws.random(seen.shape))
    hidden &= (hidden != seen).any(1, keepdims=True)
    rows = np.flatnonzero(hidden.any(1))
    if not len(rows):
        return Scores([])
    given = tables._replace(
        values={**tables.values, name: np.where(hidden, 0, truth).astype(np.float32)},
        observed={**tables.observed, name: seen & ~hidden},
    )
    return _compared(schema, imputer, name, given.rows(rows), truth[rows], hidden[rows])


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
        truth, seen = tables.values[name][chosen], tables.observed[name][chosen]
        rows += _compared(schema, imputer, name, given.rows(chosen), truth, seen).rows
    return Scores(rows)


def _compared(
    schema: Schema, imputer: Imputer, name: str, given: Tables, truth: Floats, seen: NDArray[np.bool_]
) -> Scores:
    """The scores of every method that predicts one modality of all samples ``given``, at the entries ``seen``."""
    found: dict[str, Floats] = {"mean": np.zeros_like(truth), "stack": np.zeros_like(truth)}
    width = np.zeros(truth.shape)
    limits = {group.name: np.full(len(truth), np.inf) for group in schema[name].groups if not group.ranks}
    for each in imputer.impute(given, methods=True):
        if each.name != name:
            continue
        width[each.rows] = each.combination.half_widths(LEVEL)
        for key, limit in limits_of(schema[name], each.combination, LEVEL).items():
            limits[key][each.rows] = limit
        for method, x in each.parts.items():
            found.setdefault(method, np.full_like(truth, np.nan))[each.rows] = x
    rows: list[Row] = []
    for method, x in found.items():
        if np.isnan(x).any():  # not one of the methods for some pattern
            continue
        stack = method == "stack"
        ends = Ends(x - width, x + width, limits) if stack else None
        rows += _rows(schema, name, method, truth, x, seen, ends, stack)
    return Scores(rows)


def _rows(
    schema: Schema,
    name: str,
    method: str,
    truth: Floats,
    predicted: Floats,
    seen: NDArray[np.bool_],
    ends: Ends | None,
    features: bool,
    pattern: str | None = None,
) -> list[Row]:
    """The scores of standardised predictions, in units or on the scale log(1 + x), without columns that were constant in training.

    R² and FVU of a modality are those of all its columns, indicators of classes among them. AUROC, log loss and scores of classes are
    means over the columns that have them; all others are of numbers, ranks included.
    """
    each = schema[name]
    varying = np.flatnonzero(~np.isin(each.columns, each.constant))
    if not len(varying):
        return []
    numbers = np.array([place for place in varying if each.kinds[place] != "categorical"], np.intp)
    rows, single = [], rows_of_classes(each, method, truth, predicted, seen, ends, pattern)
    if len(numbers):
        rows += _numeric(schema, name, method, truth, predicted, seen, ends, features, pattern, numbers)
        single = _of_flags(schema, name, method, truth, predicted, seen, pattern, numbers) + single
    if len(numbers) < len(varying):
        rows = [row for row in rows if row.feature is not None or row.score not in ("r2", "fvu")]
        true, guess = (schema.unstandardise(name, x)[:, varying] for x in (truth, predicted))
        centre, scale = (np.asarray(x)[varying] for x in (each.center, each.deviations))
        error = pooled_fvu(true, guess, centre, seen[:, varying], scale)
        count = int(seen[:, varying].any(1).sum())
        if error is not None:
            rows.append(Row(name, None, pattern, method, "fvu", error, count))
            rows.append(Row(name, None, pattern, method, "r2", 1 - error, count))
    flags = [place for place in varying if each.kinds[place] not in ("real", "count")]
    rows += means_of(single, int(seen[:, flags].any(1).sum()))
    return rows + (single if features else [])


def _numeric(
    schema: Schema,
    name: str,
    method: str,
    truth: Floats,
    predicted: Floats,
    seen: NDArray[np.bool_],
    ends: Ends | None,
    features: bool,
    pattern: str | None,
    places: NDArray[np.intp],
) -> list[Row]:
    """The scores of some columns as numbers."""
    each = schema[name]
    true, guess = (schema.unstandardise(name, x)[:, places] for x in (truth, predicted))
    known = seen[:, places]
    spread = _spread(true, guess, known)
    names = [each.columns[place] for place in places] if features else None
    return numeric_rows(
        name,
        method,
        true,
        guess,
        np.asarray(each.center)[places],
        scale=np.asarray(each.deviations)[places],
        observed=known,
        pattern=pattern,
        features=names,
        std=np.broadcast_to(spread, true.shape),
        interval=None
        if ends is None
        else Interval(*(schema.unstandardise(name, end)[:, places] for end in (ends.low, ends.high))),
    )


def _of_flags(
    schema: Schema,
    name: str,
    method: str,
    truth: Floats,
    predicted: Floats,
    seen: NDArray[np.bool_],
    pattern: str | None,
    places: NDArray[np.intp],
) -> list[Row]:
    """Log loss and AUROC of each of some columns that has no other values than 0 and 1."""
    each = schema[name]
    flags = np.array([place for place in places if each.kinds[place] == "binary"], np.intp)
    if not len(flags):
        return []
    true, guess = (schema.restore(name, x)[:, flags] for x in (truth, predicted))
    rows = binary_rows(
        name,
        method,
        np.round(true),
        np.clip(guess, _LEAST, 1 - _LEAST),
        observed=seen[:, flags],
        pattern=pattern,
        features=[each.columns[place] for place in flags],
    )
    return [row for row in rows if row.feature is not None]


def _spread(
    true: NDArray[np.float64], guess: NDArray[np.float64], known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """[F], the root mean squared residual of each column."""
    squares = np.where(known, (true - guess) ** 2, 0).sum(0)
    return np.asarray(np.sqrt(squares / np.maximum(known.sum(0), 1)), np.float64)

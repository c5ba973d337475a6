"""Levels of covariates that an estimator did not see in training: their effects, estimated from new samples, with all else as it is.

Let r be what the known covariates leave of a feature in the new samples, r = D b + ε, with a column of zeros and ones in D for each new
level. The effects are the best linear predictions b = (DᵀD + σ² T⁻¹)⁻¹ Dᵀ r (Henderson 1975), with the variances τ² of levels in T and σ²
of the residuals as in training. A new level of n samples gets the mean of r, shrunk by τ² / (τ² + σ² / n). The methods are not trained
again: to them a new level is no level at all, whose columns are 0.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from polyvae.data.covariates import Known, with_levels_of
from polyvae.data.multimodal import MultimodalData
from polyvae.data.schema import Schema
from polyvae.imputation.covariates.conditions import advise_of_levels, unmeasured
from polyvae.imputation.covariates.effects import Effects, Estimated, alike, estimated
from polyvae.imputation.filling.fill import whole
from polyvae.imputation.imputer import Imputer
from polyvae.imputation.tables import Doubles, Flags, Floats, SparseRows, Tables
from polyvae.utils.errors import InputError

_LEAST = 1e-12  # the smallest variance of levels, relative to that of the residuals
_FAR = 4.0  # standard errors of the mean of a feature that shrinkage takes
_SHOWN = 5  # levels that a warning names
_MANY = 0.02  # the share of such features in a modality, above which a warning names the level


def extended(schema: Schema, imputer: Imputer, data: MultimodalData) -> tuple[Schema, Imputer]:
    """The schema and the imputer with the levels that occur in ``data`` alone.

    Args:
        schema: The schema of the training data.
        imputer: The fitted imputer. It is not changed; members and calibration are shared.
        data: New samples, aligned with the schema; only those of new levels are used.

    Raises:
        InputError: No level is new, or one of a covariate that had a single level in training.
    """
    known = with_levels_of(schema.covariates, data)
    for before, now in zip(schema.covariates, known, strict=True):
        if now.added != before.added and len(before.levels or ()) == 1:
            raise InputError(
                f"extend: got new levels of {before.name!r}, which had one level in training; expected two or more, from which follows how "
                "much levels differ; fit to the samples of all levels"
            )
    after = schema.model_copy(update={"covariates": known})
    tables = whole(after, data, np.arange(len(data)))
    _advise(schema, known, tables)
    other = copy.copy(imputer)
    other.effects = _with_levels(imputer, schema.covariates, known, tables)
    return after, other


def _advise(schema: Schema, known: Sequence[Known], tables: Tables) -> None:
    """Warn of new levels in which a modality, or some of its columns, was not measured, as ``fit`` does."""
    start, old = sum(one.covariate.columns for one in schema.covariates), _added(schema.covariates)
    assert tables.covariates is not None
    found = [
        (known[one].name, level, lacking)
        for at, (one, level) in enumerate(_added(known))
        if (one, level) not in old
        and (lacking := unmeasured(tables, schema.names, tables.covariates[:, start + at] > 0))
    ]
    advise_of_levels("extend", found, stacklevel=4)


def _added(known: Sequence[Known]) -> list[tuple[int, str]]:
    """The covariate and the name of each level that was added, in the order of their columns."""
    return [(at, level) for at, one in enumerate(known) for level in one.added]


def _with_levels(
    imputer: Imputer, before: Sequence[Known], after: Sequence[Known], tables: Tables
) -> Effects:
    sizes = [one.covariate.columns for one in before]
    old, labels = _added(before), _added(after)
    c, start = tables.covariates, sum(sizes)
    assert c is not None
    new = [start + at for at, label in enumerate(labels) if label not in old]
    far = {labels[at - start]: 0.0 for at in new}
    # The columns of the known levels, in the order before: a level that is added to an earlier covariate comes between them.
    rest = c[:, [*range(start), *(start + labels.index(label) for label in old)]]
    rows = np.flatnonzero(c[:, new].any(1))
    given, added = tables.rows(rows), c[rows][:, new]
    shifts, leverages, variances = {}, {}, {}
    for name, shift in imputer.effects.shifts.items():
        x, seen = given.values[name], given.observed[name]
        left = np.where(seen, x - imputer.effects.of(name, rest[rows]), 0)
        trained = _training(imputer, name, sizes)
        of = [labels[at - start][0] for at in new]
        b, unknown = _predicted(left, seen, added, trained, of)
        for label, share in zip(far, _lost(left, seen, added, trained.noise, b), strict=True):
            far[label] = max(far[label], share)
        shifts[name] = _joined(shift, b, 1 + start, old, labels)
        leverages[name] = _joined(imputer.effects.leverages[name], np.zeros_like(b), 1 + start, old, labels)
        earlier = imputer.effects.variances.get(name, np.zeros_like(shift[1:]))
        variances[name] = _joined(earlier, unknown, start, old, labels)
    if apart := [f"{level!r} of {before[at].name!r}" for (at, level), share in far.items() if share > _MANY]:
        more = f" and {len(apart) - _SHOWN} more" if len(apart) > _SHOWN else ""
        warnings.warn(
            f"extend: new levels differ from the known ones by much more than these from each other ({', '.join(apart[:_SHOWN])}{more}), "
            "so that shrinkage takes a part of their effects; fit again with these samples",
            stacklevel=4,
        )
    return Effects(shifts, leverages, variances)


def _joined(known: Floats, new: Doubles, start: int, old: Sequence[Any], labels: Sequence[Any]) -> Floats:
    """Rows of what is known, and then those of all added levels in the order of ``labels``."""
    rows = {label: known[start + at] for at, label in enumerate(old)}
    rows |= dict(zip([label for label in labels if label not in rows], new.astype(np.float32), strict=True))
    return np.concatenate([known[:start], np.stack([rows[label] for label in labels])])


def _training(imputer: Imputer, name: str, sizes: Sequence[int]) -> Estimated:
    """What is estimated of the training samples, whose effects are added again for this."""
    known = imputer.tables
    assert known.covariates is not None
    x, seen = known.values[name], known.observed[name]
    if isinstance(x, SparseRows):
        full: Floats | SparseRows = SparseRows(x.matrix, x.seen, x.standardise)
    else:
        full = np.where(seen, x + imputer.effects.of(name, known.covariates), 0)
    return estimated(full, seen, known.covariates.astype(np.float64), sizes)


def _predicted(
    left: Floats, seen: Flags, design: Floats, trained: Estimated, of: Sequence[int]
) -> tuple[Doubles, Doubles]:
    """The effects of new levels and the variances of those that were never observed, [A, F] each.

    Args:
        left: What known covariates leave of the new samples, zero where missing, [n, F].
        seen: [n, F] bool.
        design: The columns of the new levels, [n, A].
        trained: What is estimated of the training samples.
        of: [A], the covariate of each level.
    """
    variance, d = trained.levels.variance()[of], design.astype(np.float64)
    penalty = trained.noise / np.maximum(variance, _LEAST * np.maximum(trained.noise, _LEAST))
    b = np.zeros(variance.shape)
    for columns, there in alike(left, seen):
        gram = d[there].T @ d[there]
        target = d[there].T @ left[there][:, columns]
        own = gram[None] + np.einsum("af,ab->fab", np.maximum(penalty[:, columns], _LEAST), np.eye(len(gram)))
        b[:, columns] = np.linalg.solve(own, target.T[:, :, None])[:, :, 0].T
    never = d.T @ seen == 0
    return np.where(never, 0, b), np.where(never, variance * trained.levels.grow[of], 0)


def _lost(left: Floats, seen: Flags, design: Floats, noise: Doubles, b: Doubles) -> Doubles:
    """Of each new level the share of features, [A], whose mean is further from the effect than errors of means are.

    Were the new level one of those that training levels are drawn from, what shrinkage takes from a mean would be at most its standard
    error, as a root mean square.
    """
    d = design.astype(np.float64)
    count = d.T @ seen
    rest = d.T @ np.where(seen, left - d @ b, 0)
    measured = (count > 0) & (noise > _LEAST)
    far = measured & (rest**2 > _FAR**2 * count * noise)
    return np.asarray(far.sum(1) / np.maximum(measured.sum(1), 1), np.float64)

"""What the embedding of an estimator explains of each feature, and how its outputs depend on the inputs.

The embedding z is a linear map of what the members expect of all features, x̂ = mean + z axesᵀ (see ``embedding``), so the share of a
feature's variance that column k explains is

    R²_k = a_k (2 Cov(z_k, x) − Cov(z_k, x̂)) / Var(x),

for its loading a_k, over the samples in which the feature was observed. The shares add up to 1 − Var(x − x̂) / Var(x). Where the columns
are uncorrelated, R²_k is 1 − Var(x − z_k a_k) / Var(x), that of one factor in MOFA. Training samples are embedded by the members that left
them out, given everything that was observed of them, the feature included.

The columns are principal components, in which factors are mixed, and their values are shrunken. Factors that can be interpreted are those
of a group factor analysis of the observed values, which begins with the columns of the embedding (see ``group_factors``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.vae import MultimodalVAE
from polyvae.data.schema import Schema
from polyvae.imputation.imputer import Imputer
from polyvae.imputation.methods.members import Members
from polyvae.imputation.scoring.scores import Scores
from polyvae.imputation.tables import Doubles, Flags, Tables, conditions
from polyvae.imputation.understanding.embedding import Embedding, at_means, joined, members_of, sampled
from polyvae.imputation.understanding.group_factors import GroupFactors
from polyvae.metrics.attribution import Attribution, checked, column_of, integrate, posterior_means
from polyvae.metrics.explained import SHOWN, VarianceExplained, pooled
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.text import named

_TURNS = 500  # iterations of varimax, at most
_VALUES = 2**25  # of the samples to which a group factor analysis is fitted, at most
_MOST = 25  # factors with which a group factor analysis begins
_MORE = 5  # of these, more than there are columns of the embedding that explain something
_FIRST = 60  # its updates until factors that explain little are left out
_CELLS = 2**23  # numbers of the second moments of the weights of a group factor analysis, at most


# ---- variance explained ------------------------------------------------------------------------------------------


def variance_explained(
    schema: Schema,
    imputer: Imputer,
    embedding: Embedding,
    scores: Scores,
    tables: Tables | None = None,
    rotate: bool = False,
) -> VarianceExplained:
    """R² by column of the embedding, modality and feature.

    Args:
        schema: The names of modalities and features.
        imputer: The members and the training samples.
        embedding: The embedding.
        scores: Held-out scores, from which the part "others" is taken.
        tables: New samples. None: the training samples, each embedded by the member that left it out.
        rotate: Rotate the columns that explain 1 % of a modality or more of the training samples by varimax, as their loadings ask for.
    """
    given, z = _embedded(imputer, embedding, tables)
    names, loadings = _columns("z", embedding.width), embedding.axes.astype(np.float64)
    if rotate:
        known, own = (given, z) if tables is None else _embedded(imputer, embedding, None)
        kept = np.flatnonzero(_shares(schema, known, own, loadings).max(1) >= SHOWN)
        if len(kept):
            size = np.maximum(own[:, kept].std(0), 1e-12)
            turn = varimax(loadings[:, kept] * size)
            z, loadings = (z[:, kept] / size) @ turn, loadings[:, kept] * size @ turn
            order, signs = _arranged(loadings, (loadings**2).sum(0))
            z, loadings, names = z[:, order] * signs, loadings[:, order] * signs, _columns("f", len(kept))
    return _table(schema, scores, given, names, z, loadings)


def factors_of(
    schema: Schema, imputer: Imputer, model: GroupFactors, scores: Scores, tables: Tables | None = None
) -> VarianceExplained:
    """R² by factor, modality and feature.

    Args:
        schema: The names of modalities and features.
        imputer: The training samples.
        model: The factors, see ``fit_factors``.
        scores: Held-out scores, from which the part "others" is taken.
        tables: New samples. None: the training samples.
    """
    given = imputer.tables.rows(sampled(imputer)) if tables is None else imputer.admit(tables)
    z, _ = model.of(*_side_by_side(schema, given))
    return _table(schema, scores, given, _columns("f", model.width), z, model.weights)


def factor_values(
    schema: Schema, imputer: Imputer, model: GroupFactors, tables: Tables
) -> tuple[Doubles, Doubles]:
    """The factors of new samples given what was observed of them, and their standard deviations: [N, K] and [N, K]."""
    return model.of(*_side_by_side(schema, imputer.admit(tables)))


def fit_factors(schema: Schema, imputer: Imputer, embedding: Embedding) -> GroupFactors:
    """The factors of the training samples that explain 1 % of a modality or more, the one that explains most in all first.

    The fit begins with columns of the embedding, as they are without the member that saw the sample.
    """
    columns = sum(len(schema[name].columns) for name in schema.names)
    every = max(1, -(-len(imputer.calibration) * columns // _VALUES))
    rows = imputer.calibration[::every]
    given, z = _embedded(imputer, embedding, None, rows)
    shares = _shares(schema, given, z, embedding.axes.astype(np.float64)).max(1)
    x, seen = _side_by_side(schema, given)
    groups = np.repeat(np.arange(len(schema.names)), [len(schema[name].columns) for name in schema.names])
    largest = min(_MOST, int((_CELLS / x.shape[1]) ** 0.5))
    count = max(1, min(int((shares >= SHOWN).sum()) + _MORE, largest))
    start = z[:, np.argsort(-shares, kind="stable")[:count]]
    model = GroupFactors.fit(x, seen, groups, start, _FIRST)
    values, _ = model.of(x, seen)
    active = _shares(schema, given, values, model.weights) >= SHOWN
    whole = False  # whether the fit was not cut short, after which all factors are active
    while not (whole and active.any(1).all()):
        model, whole = GroupFactors.fit(x, seen, groups, values[:, active.any(1)]), True
        values, _ = model.of(x, seen)
        active = _shares(schema, given, values, model.weights) >= SHOWN
    model = model.turned(alike(model.weights, active))
    shares = _shares(schema, given, model.of(x, seen)[0], model.weights)
    order, signs = _arranged(model.weights, shares.sum(1))
    return model.turned(np.eye(model.width)[:, order] * signs)


def alike(weights: Doubles, active: Flags) -> Doubles:
    """The rotation [K, K] by varimax of the factors that are active in the same modalities, among themselves.

    Precisions of each table do not separate such factors; that each feature depends on few of them does.

    Args:
        weights: [P, K].
        active: [K, M], which factor is active in which modality.
    """
    turn = np.eye(weights.shape[1])
    for pattern in np.unique(active, axis=0):
        block = np.flatnonzero((active == pattern).all(1))
        turn[np.ix_(block, block)] = varimax(weights[:, block])
    return turn


def _embedded(
    imputer: Imputer, embedding: Embedding, tables: Tables | None, rows: Any = None
) -> tuple[Tables, Doubles]:
    """Samples and their embedding [N, D]; without ``tables`` training samples, each by the member that left it out."""
    if tables is None:
        rows = sampled(imputer) if rows is None else rows
        tables = at_means(imputer, imputer.tables.rows(rows))
        expected = members_of(imputer).predict_left_out(tables, imputer.fold[rows])
    else:
        tables = at_means(imputer, imputer.admit(tables))
        expected = members_of(imputer).predict(tables)
    centred = (joined(imputer, expected) - embedding.mean).astype(np.float64)
    return tables, centred @ embedding.axes.astype(np.float64)


def _side_by_side(schema: Schema, tables: Tables) -> tuple[Doubles, Flags]:
    """The values of all modalities [N, P], and which were observed."""
    values = [tables.values[name].astype(np.float64) for name in schema.names]
    return np.concatenate(values, 1), np.concatenate([tables.observed[name] for name in schema.names], 1)


def _columns(letter: str, count: int) -> tuple[str, ...]:
    return tuple(f"{letter}{column}" for column in range(count))


def _arranged(loadings: Doubles, explained: Doubles) -> tuple[NDArray[np.intp], Doubles]:
    """The order of columns by what they explain [K], and the signs, in this order, that make their largest loadings positive."""
    order = np.argsort(-explained, kind="stable")
    largest = loadings[np.abs(loadings).argmax(0), np.arange(loadings.shape[1])]
    return order, np.where(largest < 0, -1.0, 1.0)[order]


def _table(
    schema: Schema, scores: Scores, tables: Tables, names: Sequence[str], z: Doubles, loadings: Doubles
) -> VarianceExplained:
    shares, variance = _by_feature(schema, tables, z, loadings)
    r2 = {
        name: np.concatenate([each, each.sum(0)[None], _others(schema, scores, name)[None]])
        for name, each in shares.items()
    }
    held = {name: scores.value(name, "stack", "r2") for name in schema.names}
    whole = {name: np.nan if value is None else value for name, value in held.items()}
    features = {name: tuple(map(str, schema[name].columns)) for name in schema.names}
    weights = dict(zip(schema.names, np.split(loadings, _ends(schema)), strict=True))
    return VarianceExplained(
        tuple(names), ("all", "others"), features, r2, variance, z, {"others": whole}, weights
    )


def _shares(schema: Schema, tables: Tables, z: Doubles, loadings: Doubles) -> Doubles:
    """The share of each column in the variance of each modality, [K, M]; 0 where a modality does not vary."""
    shares, variance = _by_feature(schema, tables, z, loadings)
    found = [[pooled(row, variance[name]) for row in shares[name]] for name in schema.names]
    return np.asarray(np.nan_to_num(np.array(found).T), np.float64)


def _by_feature(
    schema: Schema, tables: Tables, z: Doubles, loadings: Doubles
) -> tuple[dict[str, Doubles], dict[str, Doubles]]:
    """The shares of columns, and the sums of squares: modality -> [K, F] and [F]."""
    parts = zip(schema.names, np.split(loadings, _ends(schema)), strict=True)
    found = {
        name: shares_of(z, own, tables.values[name].astype(np.float64), tables.observed[name])
        for name, own in parts
    }
    return {name: each[0] for name, each in found.items()}, {name: each[1] for name, each in found.items()}


def _ends(schema: Schema) -> NDArray[np.intp]:
    """Where the columns of each modality but the last end, among those of all."""
    return np.asarray(np.cumsum([len(schema[name].columns) for name in schema.names])[:-1])


def shares_of(z: Doubles, loadings: Doubles, x: Doubles, seen: NDArray[np.bool_]) -> tuple[Doubles, Doubles]:
    """The share of each column of z [N, K] with loadings [F, K] in the variance of x [N, F], and its sum of squares: [K, F], [F].

    NaN for a feature that does not vary, or was not observed twice.
    """
    count = np.maximum(seen.sum(0), 1)
    centred = np.where(seen, x - np.where(seen, x, 0).sum(0) / count, 0)
    fitted = z @ loadings.T
    target = 2 * centred - np.where(
        seen, fitted - np.where(seen, fitted, 0).sum(0) / count, 0
    )  # sums to 0 in each column
    total = (centred**2).sum(0)
    varies = (seen.sum(0) > 1) & (total > 1e-9 * count)
    shares = loadings.T * (z.T @ target) / np.where(varies, total, 1)
    return np.where(varies, shares, np.nan), np.where(varies, total, 0)


def varimax(loadings: Doubles) -> Doubles:
    """The rotation [K, K] that maximises the variance of the squared loadings [P, K] of each column (Kaiser 1958)."""
    turn = np.eye(loadings.shape[1])
    last = 0.0
    for _ in range(_TURNS):
        turned = loadings @ turn
        u, s, v = np.linalg.svd(loadings.T @ (turned**3 - turned * (turned**2).mean(0)))
        turn = u @ v
        if s.sum() <= last * (1 + 1e-10):
            break
        last = float(s.sum())
    return turn


def _others(schema: Schema, scores: Scores, name: str) -> Doubles:
    """The held-out R² of each feature given the other modalities, [F]; NaN where there is none. Indicators have that of their class."""
    found = {
        row.feature: row.value
        for row in scores.rows
        if (row.modality, row.pattern, row.method, row.score) == (name, None, "stack", "r2")
        and row.feature is not None
    }
    columns = np.array([found.get(column, np.nan) for column in schema[name].columns], np.float64)
    for group in schema[name].groups:
        if not group.ranks:
            columns[group.columns] = found.get(group.name, np.nan)
    return columns


# ---- attribution -------------------------------------------------------------------------------------------------


def attribute(
    schema: Schema,
    imputer: Imputer,
    embedding: Embedding,
    tables: Tables,
    of: Any,
    to: Sequence[str] | None,
    steps: int,
) -> Attribution:
    """Integrated gradients of a column of the embedding, or of the ensemble's prediction of a feature; see ``Estimator.attribute``."""
    label, own, at, read = _output(schema, imputer, embedding, of)
    encoded = [name for name in schema.names if name not in imputer.targets]
    chosen = (
        [name for name in encoded if name != own] if to is None else [to] if isinstance(to, str) else list(to)
    )
    for name in chosen:
        if name not in encoded:
            raise InputError(f"attribute: {name!r} is not a modality; {nearest(str(name), encoded)}")
    if not chosen:
        raise InputError("attribute: got one modality; expected another as input; name it in to=")
    tables = imputer.admit(tables).only(tuple(name in chosen for name in tables.names))
    tables = at_means(imputer, tables) if own is None else tables
    ends = {name: torch.from_numpy(np.ascontiguousarray(tables.values[name])).double() for name in chosen}
    starts = {name: torch.zeros_like(x) for name, x in ends.items()}
    values, first, last = integrate(partial(_predicted, imputer, tables, read), starts, ends, steps)
    if own is not None and own in imputer.effects.shifts:
        shift = imputer.effects.of(own, tables.at)[:, at].astype(np.float64) * schema[own].scale[at]
        first, last = first + torch.from_numpy(shift), last + torch.from_numpy(shift)
    return checked(
        Attribution(
            label, values, last, first, {name: tuple(map(str, schema[name].columns)) for name in chosen}
        ),
        steps,
    )


def _output(
    schema: Schema, imputer: Imputer, embedding: Embedding, of: Any
) -> tuple[str, str | None, int, Any]:
    """The label, the modality whose feature it is and its place there (None and 0), and the function of what the members expect."""
    if isinstance(of, str) and of == "risk":
        raise InputError(
            "attribute: got of='risk', which is a combination of Cox regressions and no output of the VAE; expected a column of the "
            "embedding such as 'z0', or (modality, feature); risk_scores_ compares the modalities"
        )
    if isinstance(of, str):
        latents = [f"z{column}" for column in range(embedding.width)]
        if of not in latents:
            raise InputError(f"attribute: {of!r} is not a column of the embedding; {nearest(of, latents)}")
        column = latents.index(of)
        axis, mean = (
            torch.from_numpy(part).double() for part in (embedding.axes[:, column].copy(), embedding.mean)
        )
        names = [name for name in imputer.tables.names if name not in imputer.targets]
        return of, None, 0, lambda expected: (torch.cat([expected[name] for name in names], 1) - mean) @ axis
    if not isinstance(of, tuple) or len(of) != 2 or of[0] not in schema.names:
        raise InputError(
            f"attribute: got of={of!r}; expected a column of the embedding such as 'z0', or (modality, feature); modalities: "
            f"{', '.join(schema.names)}"
        )
    name, each = of[0], schema[of[0]]
    features = tuple(map(str, each.columns))
    group = next((group for group in each.groups if group.name == str(of[1]) and not group.ranks), None)
    if group is not None:
        names = [str(column) for column in features[group.columns]]
        raise InputError(
            f"attribute: got {group.name!r} of {name!r}, a column of classes; expected one of its classes; such as "
            f"{(name, names[0])!r} (classes: {named(names)})"
        )
    at = column_of("attribute", of[1], features, (len(features),))
    scale, centre = float(each.scale[at]), float(each.center[at])
    return f"{name} {features[at]}", name, at, lambda expected: expected[name][:, at] * scale + centre


def _predicted(imputer: Imputer, tables: Tables, read: Any, values: Mapping[str, Tensor]) -> Tensor:
    """``read`` of the mean over members of what they expect, with gradients: name -> [B, F] -> [B]."""
    members = members_of(imputer)
    total: dict[str, Tensor] = {}
    for member in range(members.count):
        for name, x in _expected(members, member, tables, values).items():
            total[name] = total[name] + x if member else x
    output: Tensor = read({name: x / members.count for name, x in total.items()})
    return output


def _expected(
    members: Members, member: int, tables: Tables, values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What one member expects of all modalities at its posterior means, with gradients in the standardised ``values``."""
    wide, device = members.wide, members.device
    coordinates, seen = {}, {}
    for name in tables.names:
        observed = torch.from_numpy(np.ascontiguousarray(tables.observed[name]))
        x = torch.where(observed, values[name].float(), 0) if name in values else torch.zeros(observed.shape)
        if name in wide.bases:
            basis = wide.bases[name]
            x = (x @ torch.from_numpy(basis.axes)) / float(basis.scale)
            span = wide.spans[name][member]
            if span is not None:
                mean, axes = (torch.from_numpy(part) for part in span)
                x = mean + (x - mean) @ axes @ axes.T
            observed = observed.any(1, keepdim=True).expand(x.shape)
        coordinates[name], seen[name] = x.to(device), observed.to(device)
    mask = torch.stack([each.any(1) for each in seen.values()])
    given = conditions(tables.covariates, device)
    batch = Batch(coordinates, mask, seen if members.entries else {}, {}, False, given)
    found = members.call(member, _at_posterior_means, batch, tables.like(batch))
    result = {name: x.cpu().double() for name, x in found.items()}
    for name, basis in wide.bases.items():
        result[name] = (result[name] * float(basis.scale)) @ torch.from_numpy(basis.axes).double().T
    return result


def _at_posterior_means(model: MultimodalVAE, batch: Batch, like: Batch) -> dict[str, Tensor]:
    given = Batch({}, like.mask, covariates=like.covariates) if like.covariates.values else None
    return model.modalities.decode(*posterior_means(model, batch), like=given)

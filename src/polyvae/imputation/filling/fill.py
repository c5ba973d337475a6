"""Missing entries of data in their own units: means, medians, intervals and draws."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.data.groups import Codes, Group
from polyvae.data.multimodal import MultimodalData
from polyvae.data.schema import Features, Schema
from polyvae.imputation.filling.classes import (
    Calibration,
    chances,
    classes_at,
    classes_of_ranks,
    distances,
    in_units,
    limits_by_class,
    places,
    probable_sets,
    rank_ends,
    sets,
    sets_by_class,
    threshold,
)
from polyvae.imputation.filling.residuals import (
    joint_residual,
    mean_of_amounts,
    unknown_effects,
    whole_residual,
    wider,
)
from polyvae.imputation.imputer import MOST_FACTORS, Imputed, Imputer
from polyvae.imputation.methods.combine import half_widths
from polyvae.imputation.methods.wide import WIDE
from polyvae.imputation.tables import Doubles, Flags, Floats, SparseRows, Tables
from polyvae.utils.errors import InputError, check_count, is_number
from polyvae.utils.seeds import fold_in

Values = NDArray[np.floating[Any]]
Statistic = Literal["mean", "median"]
Kind = Literal["conformal", "class-conditional", "predictive"]
KINDS: tuple[Kind, ...] = ("conformal", "class-conditional", "predictive")

BLOCK = 4096
"""Samples that are completed at a time, at most; see ``block_size``."""

ENDS = (".low", ".high")
"""What is appended to the names of the files of the ends of intervals."""

_WIDEST = 2**24  # values of all modalities in a block
_PREDICTIVE = 200  # draws whose quantiles are a predictive interval
_CELLS = 2**25  # drawn numbers that are in memory at a time


class Wanted(NamedTuple):
    """What to fill in.

    Attributes:
        statistic: "mean" or "median" of what is missing.
        level: The probability that an interval covers; None: no intervals.
        kind: "conformal": from residuals of samples left out. "class-conditional": of classes, and of numbers that are 0 or 1, from those
            of samples of each class apart. "predictive": quantiles of draws from the VAE around the prediction.
        draws: Number of draws; 0: none.
        seed: Of the draws.
    """

    statistic: Statistic = "mean"
    level: float | None = None
    kind: Kind = "conformal"
    draws: int = 0
    seed: int = 0

    def suffixes(self) -> list[str]:
        """What is appended to the names of the files: "" for predictions, ".low" and ".high", ".draw1", ..."""
        ends = [] if self.level is None else list(ENDS)
        return ["", *ends, *draw_names(self.draws)]


def wanted(seed: int, interval: Any, draws: Any, statistic: Any, kind: Any, both: bool = False) -> Wanted:
    """What the arguments of ``impute`` ask for; ``both``: draws and intervals may be asked for together.

    Raises InputError: an argument out of range.
    """
    check_level("impute", interval)
    if draws is not None:
        check_count("impute", "draws", draws)
    if draws is not None and interval is not None and not both:
        raise InputError("impute: got draws and interval; expected one of the two; call it twice")
    for name, value, known in (
        ("statistic", statistic, ("mean", "median")),
        ("kind", kind, KINDS),
    ):
        if value not in known:
            raise InputError(f"impute: got {name}={value!r}; expected one of {', '.join(known)}; choose one")
    if kind != "conformal" and interval is None:
        raise InputError(
            f"impute: got kind={kind!r} without interval; expected a probability to cover; such as interval=0.9"
        )
    if statistic != "mean" and draws is not None and not both:
        raise InputError(
            f"impute: got statistic={statistic!r} with draws, which are no medians; expected one of the two; call it twice"
        )
    return Wanted(statistic, interval, kind, int(draws or 0), seed)


def check_level(where: str, interval: Any) -> None:
    """Raises InputError unless this is None or a probability between 0 and 1."""
    if interval is not None and (not is_number(interval) or not 0 < interval < 1):
        raise InputError(
            f"{where}: got interval={interval!r}; expected a probability between 0 and 1; such as 0.9"
        )


class Filled(NamedTuple):
    """Completed data, in units: name -> [N, F] each.

    Attributes:
        values: Measured values as they were given, and predictions.
        low: Lower ends; equal to ``values`` where measured. None without intervals.
        high: Upper ends.
        draws: Completed data with draws in place of predictions.
    """

    values: dict[str, Values]
    low: dict[str, Values] | None
    high: dict[str, Values] | None
    draws: list[dict[str, Values]]

    def parts(self) -> dict[str, dict[str, Values]]:
        """All of them by the suffix that their files have: "" for the values, ".low", ".high", ".draw1", ..."""
        found = {"": self.values} | dict(zip(draw_names(len(self.draws)), self.draws, strict=True))
        if self.low is not None and self.high is not None:
            found |= {".low": self.low, ".high": self.high}
        return found

    def infinite(self) -> list[str]:
        """The modalities of which some interval of numbers is infinite; sets of classes have all of them there."""
        return [name for name, x in (self.high or {}).items() if np.isinf(x).any()]


def tables_of(schema: Schema, data: MultimodalData) -> Tables:
    """Aligned data, standardised."""
    found = schema.standardise(data)
    return Tables(
        {name: x.values for name, x in found.items()},
        {name: x.observed for name, x in found.items()},
        schema.conditions(data),
    )


def keys(schema: Schema, data: MultimodalData) -> list[bytes]:
    """What samples are sorted by: their pattern, then a digest of their values. Equal keys have equal values."""
    parts = []
    for name in schema.names:
        seen = data.observed(name).flatten(1).cpu().numpy()
        parts += [np.where(seen, data.values(name).flatten(1).cpu().numpy(), 0).astype(np.float64), seen]
    conditions = schema.conditions(data)
    conditions = np.zeros((len(data), 0), np.float32) if conditions is None else conditions
    known = sum(one.covariate.columns for one in schema.covariates)
    parts.append(conditions[:, :known])
    added = conditions[
        :, known:
    ]  # without these levels a sample has the key that it had before they were added
    pattern = data.mask.cpu().numpy()
    return [
        pattern[:, row].tobytes()
        + hashlib.blake2b(
            b"".join(part[row].tobytes() for part in (*parts, *([added] if added[row].any() else []))),
            digest_size=16,
        ).digest()
        for row in range(len(data))
    ]


def canonical(schema: Schema, data: MultimodalData) -> NDArray[np.intp]:
    """An order of the samples that depends on their values alone: by pattern, then by a digest of the values.

    Results then do not depend, not even in the last bit, on the order in which samples are given, and samples of one pattern are together.
    """
    found, size = list[bytes](), block_size(schema)
    for start in range(0, len(data), size):
        found += keys(schema, data.rows(slice(start, start + size)))
    return np.array(sorted(range(len(data)), key=found.__getitem__), dtype=np.intp)


def block_size(schema: Schema) -> int:
    """Samples that are completed at a time: fewer where there are more than 4,096 columns."""
    columns = sum(len(each.columns) for each in schema.modalities)
    return max(1, min(BLOCK, _WIDEST // columns))


def whole(schema: Schema, data: MultimodalData, order: NDArray[np.intp]) -> Tables:
    """All samples in this order, standardised. A wide sparse modality stays sparse."""
    sparse = [
        each
        for each in schema.modalities
        if each.name in data.sparse and len(each.columns) > WIDE and _count(data, each.name) > 2
    ]
    values: dict[str, Any] = {}
    observed: dict[str, Flags] = {}
    for each in schema.modalities:
        if each in sparse:
            matrix = data.sparse[each.name][order] * data.scale.get(each.name, 1)
            seen = data.mask[data.names.index(each.name)].cpu().numpy()[order]
            table = SparseRows(matrix, seen, partial(standardised, each))
            values[each.name], observed[each.name] = table, table.observed
        else:
            shape = len(order), len(each.columns)
            values[each.name], observed[each.name] = np.empty(shape, np.float32), np.empty(shape, bool)
    dense = [name for name in schema.names if isinstance(values[name], np.ndarray)]
    some = data.select(*[name for name in dense if name in data.names]) if dense else data
    for start in range(0, len(order), BLOCK):
        rows = order[start : start + BLOCK]
        for name, x in schema.standardise(some.rows(torch.from_numpy(rows)), dense).items():
            values[name][start : start + BLOCK] = x.values
            observed[name][start : start + BLOCK] = x.observed
    conditions = schema.conditions(data)
    return Tables(values, observed, None if conditions is None else conditions[order])


def _count(data: MultimodalData, name: str) -> int:
    return int(data.mask[data.names.index(name)].sum())


def standardised(each: Features, values: Doubles) -> Floats:
    """Values in units, standardised: [n, F]."""
    return each.standardised(values).astype(np.float32)


def blocks(schema: Schema, data: MultimodalData) -> Iterator[tuple[NDArray[np.intp], Tables]]:
    """The samples in their canonical order, standardised, some thousands at a time, with their row numbers."""
    order, size = canonical(schema, data), block_size(schema)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        yield rows, tables_of(schema, data.rows(torch.from_numpy(rows)))


def fill(
    schema: Schema,
    imputer: Imputer,
    data: MultimodalData,
    wanted: Wanted,
    covariates: Mapping[str, Any] | None = None,
) -> Filled:
    """Fill in what is missing, and nothing else.

    Args:
        schema: The schema of the training data.
        imputer: The fitted methods.
        data: Aligned data.
        wanted: What to fill in.
        covariates: Name -> one value for all samples or [N], at which predictions are made in place of their own.

    Returns:
        The data in units, in the order of the samples and of the schema.
    """
    order, parts, size = canonical(schema, data), {}, block_size(schema)
    at = None if covariates is None else schema.conditions(data, covariates)
    for number, start in enumerate(range(0, len(order), size)):
        rows = order[start : start + size]
        own = None if at is None else at[rows]
        found = fill_block(schema, imputer, data.rows(torch.from_numpy(rows)), wanted, number, own)
        for suffix, part in found.parts().items():
            if suffix not in parts:
                parts[suffix] = {name: np.empty((len(data), x.shape[1]), x.dtype) for name, x in part.items()}
            for name, x in part.items():
                parts[suffix][name][rows] = x
    return Filled(
        parts[""], parts.get(".low"), parts.get(".high"), [parts[name] for name in draw_names(wanted.draws)]
    )


def draw_names(count: int) -> list[str]:
    """The names of completed data with draws: ".draw1", ".draw2", ..."""
    return [f".draw{number}" for number in range(1, count + 1)]


def fill_block(
    schema: Schema,
    imputer: Imputer,
    data: MultimodalData,
    wanted: Wanted,
    number: int,
    at: Floats | None = None,
) -> Filled:
    """Fill in one block of samples: ``fill`` for the samples of one block in their canonical order.

    Args:
        schema: The schema of the training data.
        imputer: The fitted methods.
        data: The samples of the block, aligned.
        wanted: What to fill in.
        number: The number of the block, from which draws are seeded.
        at: [n, C], the columns of covariates at which predictions are made; None: their own.
    """
    part, rows = tables_of(schema, data)._replace(wanted=at), np.arange(len(data))
    values = {name: _copied(data.values(name).flatten(1)) for name in schema.names}
    ends = (
        None
        if wanted.level is None
        else ({k: x.copy() for k, x in values.items()}, {k: x.copy() for k, x in values.items()})
    )
    drawn = [{name: x.copy() for name, x in values.items()} for _ in range(wanted.draws)]
    spread = (
        _spread(imputer, part, wanted) if wanted.level is not None and wanted.kind == "predictive" else None
    )
    residual_rows = np.random.default_rng(fold_in(wanted.seed, "residuals", number))
    lots = residual_rows.random((wanted.draws, len(rows)))
    factors = np.random.default_rng(fold_in(wanted.seed, "factors of residuals", number))
    u = factors.standard_normal((wanted.draws, len(rows), MOST_FACTORS))
    others = [
        np.random.default_rng(fold_in(wanted.seed, "entries of residuals", number, draw))
        for draw in range(wanted.draws)
    ]
    for found in imputer.impute(part):
        put, classes = _Put(schema, found, rows), _Classes(schema, found, wanted)
        each = schema[found.name]
        centre = found.values + (
            _median(found) if wanted.statistic == "median" else mean_of_amounts(each, found)
        )
        put(values, centre, classes.most_probable)
        if ends is not None:
            variance = imputer.effects.variance_of(found.name, part.at)
            below, above = _interval(each, found, wanted, spread, variance)
            put(ends[0], found.values + below, classes.ends(below, above, 0))
            put(ends[1], found.values + above, classes.ends(below, above, 1))
        more = unknown_effects(imputer, found, part.at, wanted.draws, wanted.seed)
        for lot, factor, other, one, effect in zip(lots, u, others, drawn, more, strict=True):
            if found.given is not None:
                residual, rank = joint_residual(imputer, found, factor[found.rows], other)
                put(one, found.values + residual + effect, classes.of_ranks(rank, other))
            else:
                residual = whole_residual(found, lot[found.rows], other)
                put(one, found.values + residual + effect, classes.of_lots(lot[found.rows], other))
    low, high = (None, None) if ends is None else ends
    return Filled(values, low, high, drawn)


def _copied(x: Tensor) -> Values:
    """An array in the precision of the data: double where single precision would change a value, as of large integers."""
    exact = x.dtype in (torch.float64, torch.int64, torch.int32)
    return x.cpu().numpy().astype(np.float64 if exact else np.float32)


class _Put:
    """Writes standardised predictions to the missing entries of arrays in units, within the range of their kind."""

    def __init__(self, schema: Schema, found: Imputed, rows: NDArray[np.intp]) -> None:
        self.schema, self.name, self.wanted = schema, found.name, found.wanted
        self.rows = rows[found.rows]
        kinds = np.array(schema[found.name].kinds)
        self.groups = schema[found.name].groups
        self.constant = np.isin(schema[found.name].columns, schema[found.name].constant)
        # What was never negative in training, such as an amount, is not predicted to be.
        never = np.array(schema[found.name].low) >= 0
        self.low = np.where(never, 0.0, -np.inf)
        self.high = np.where(kinds == "binary", 1.0, np.inf)

    def __call__(
        self,
        arrays: dict[str, Values],
        values: NDArray[np.floating],
        of: Callable[[Group, Doubles], Doubles],
    ) -> None:
        """Write predictions; ``of`` returns the columns of a class, [n, C], given their predictions in units."""
        target = arrays[self.name]
        values = np.where(self.constant, 0, values)  # the mean, which is its only value
        restored = np.clip(self.schema.restore(self.name, values), self.low, self.high)
        for group in self.groups:
            restored[:, group.columns] = of(group, restored[:, group.columns])
        target[self.rows] = np.where(self.wanted, restored, target[self.rows])


class _Classes:
    """The columns of classes of one prediction."""

    def __init__(self, schema: Schema, found: Imputed, wanted: Wanted) -> None:
        self.each, self.found, self.wanted = schema[found.name], found, wanted
        groups = self.each.groups
        self.centre = {group.name: in_units(self.each, group, found.values) for group in groups}
        self.chances = {group.name: chances(group, self.centre[group.name]) for group in groups}
        drawn = groups if wanted.draws or (wanted.level is not None and wanted.kind != "predictive") else []
        self.known = {group.name: Calibration.of(self.each, group, found.combination) for group in drawn}

    def most_probable(self, group: Group, own: Doubles) -> Doubles:
        codes = np.rint(own[:, 0]) if group.ranks else self.chances[group.name].argmax(1)
        return _numbers(group, np.clip(codes, 0, len(group.levels) - 1).astype(np.intp))

    def ends(self, below: Doubles, above: Doubles, end: int) -> Callable[[Group, Doubles], Doubles]:
        """The lower or upper rank; of an unordered class ones for all classes of the set, at both ends."""

        def of(group: Group, own: Doubles) -> Doubles:
            if self.wanted.kind == "class-conditional":
                return self._by_class(group, end)
            if group.ranks:
                at, scale = group.start, self.each.scale[group.start]
                shape = len(own), below.shape[-1]
                low, high = (np.broadcast_to(x, shape)[:, at] * scale for x in (below, above))
                return rank_ends(group, self.centre[group.name][:, 0], low, high)[end][:, None]
            assert self.wanted.level is not None
            if self.wanted.kind == "predictive":
                return probable_sets(self.chances[group.name], self.wanted.level).astype(np.float64)
            limit = threshold(self.known[group.name].scores, self.wanted.level)
            return sets(self.chances[group.name], limit).astype(np.float64)

        return of

    def _by_class(self, group: Group, end: int) -> Doubles:
        """As ``ends``; of ranks the lowest and the highest of the set."""
        assert self.wanted.level is not None
        known = self.known[group.name]
        limits = limits_by_class(known.distances, known.codes, self.wanted.level)
        inside = sets_by_class(distances(group, self.centre[group.name]), limits)
        if not group.ranks:
            return inside.astype(np.float64)
        last = inside.shape[1] - 1
        return np.asarray(last - inside[:, ::-1].argmax(1) if end else inside.argmax(1), np.float64)[:, None]

    def of_ranks(
        self, rank: Doubles | None, other: np.random.Generator
    ) -> Callable[[Group, Doubles], Doubles]:
        """Draws that depend on the other columns as the ranks [n, F] of draws of all columns do."""

        def of(group: Group, own: Doubles) -> Doubles:
            found = self.chances[group.name]
            if group.ranks and len(group.levels) > 2:
                return self.most_probable(group, own)
            if rank is None:
                return _numbers(group, classes_at(found, other.random(len(found))))
            ranks = rank[:, group.columns]
            both = np.concatenate([1 - ranks, ranks], 1) if group.ranks else ranks
            return _numbers(group, classes_of_ranks(found, both))

        return of

    def of_lots(
        self, lot: NDArray[np.float64], other: np.random.Generator
    ) -> Callable[[Group, Doubles], Doubles]:
        """Draws that depend on the other columns as the class of a calibration sample does on its residuals."""

        def of(group: Group, own: Doubles) -> Doubles:
            if group.ranks and len(group.levels) > 2:
                return self.most_probable(group, own)
            known, u = self.known[group.name], other.random(len(lot))
            if len(known.known):
                place = np.full(len(known.known), np.nan)
                place[known.known] = places(known, other.random(len(known.codes)))
                chosen = place[(lot * len(place)).astype(np.intp)]
                u = np.where(np.isnan(chosen), u, chosen)
            return _numbers(group, classes_at(self.chances[group.name], u))

        return of


def _numbers(group: Group, codes: Codes) -> Doubles:
    return group.classes.numbers(codes)


def _median(found: Imputed) -> Doubles:
    """The medians of the residuals of samples left out: [F]."""
    residuals = found.combination.residuals
    known = ~np.isnan(residuals)
    filled = np.where(known.any(0), residuals, 0)
    return np.nanmedian(filled, axis=0) if len(filled) else np.zeros(found.values.shape[1])


def _interval(
    each: Features,
    found: Imputed,
    wanted: Wanted,
    spread: Mapping[str, tuple[Floats, Floats]] | None,
    variance: Floats | None,
) -> tuple[Doubles, Doubles]:
    """The ends of the interval relative to the prediction: [F] or [n, F] each. Sets of classes do not include the variance of effects."""
    assert wanted.level is not None
    if spread is not None:
        low, high = (x[found.rows].astype(np.float64) for x in spread[found.name])
        return wider((low, high), variance, found.rows, wanted.level)
    width = found.combination.half_widths(wanted.level)
    ends = wider((-width, width), variance, found.rows, wanted.level)
    flags = np.flatnonzero(np.array(each.kinds) == "binary")
    if wanted.kind != "class-conditional" or not len(flags):
        return ends
    below, above = (np.broadcast_to(x, found.values.shape).copy() for x in ends)
    below[:, flags], above[:, flags] = _of_flags(each, found, wanted.level, flags)
    return below, above


def _of_flags(
    each: Features, found: Imputed, level: float, flags: NDArray[np.intp]
) -> tuple[Doubles, Doubles]:
    """The ends of sets of the numbers 0 and 1, from residuals of samples with a 0 and with a 1 apart, relative to the prediction."""
    centre, scale = (np.asarray(x)[flags] for x in (each.center, each.scale))
    guess, known, new = (
        np.clip(x[:, flags] * scale + centre, 0, 1)
        for x in (found.combination.left_out["stack"], found.combination.y, found.values)
    )
    ones, seen = known > 0.5, found.combination.seen[:, flags]
    of_zero = half_widths(np.where(seen & ~ones, guess, np.nan), level)
    of_one = half_widths(np.where(seen & ones, 1 - guess, np.nan), level)
    zero, one = (new <= of_zero) | (new < 0.5), (1 - new <= of_one) | (new >= 0.5)
    low, high = np.where(zero, 0.0, 1.0), np.where(one, 1.0, 0.0)
    below, above = ((end - centre) / scale - found.values[:, flags] for end in (low, high))
    return below, above


def _spread(imputer: Imputer, part: Tables, wanted: Wanted) -> dict[str, tuple[Floats, Floats]]:
    """Quantiles of draws from the VAE less their mean, name -> [n, F] each."""
    part = imputer.admit(imputer.complete(part))
    step = max(1, _CELLS // (_PREDICTIVE * sum(x.shape[1] for x in part.values.values())))
    found = [
        _quantiles(imputer, part.rows(slice(start, start + step)), wanted, start)
        for start in range(0, part.size, step)
    ]
    return {
        name: (
            np.concatenate([each[name][0] for each in found]),
            np.concatenate([each[name][1] for each in found]),
        )
        for name in part.names
    }


def _quantiles(
    imputer: Imputer, part: Tables, wanted: Wanted, start: int
) -> dict[str, tuple[Floats, Floats]]:
    assert wanted.level is not None
    members = next(iter(imputer.ensembles.values()))
    draws = [
        members.draw(part, fold_in(wanted.seed, "predictive", start, number)) for number in range(_PREDICTIVE)
    ]
    result = {}
    for name in part.names:
        each = np.stack([draw[name] for draw in draws])
        each -= each.mean(0)
        low, high = np.quantile(each, [(1 - wanted.level) / 2, (1 + wanted.level) / 2], axis=0)
        result[name] = low.astype(np.float32), high.astype(np.float32)
    return result

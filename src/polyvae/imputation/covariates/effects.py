"""Effects of covariates on features: what a batch, a site or an age adds to each, which is subtracted before anything is imputed.

A feature x of the training samples is x = a + c b + ε, with the columns c of the covariates. The coefficients are those of least squares
on the samples in which the feature was observed, shrunk towards 0 as James & Stein (1961) do: those of the levels of one covariate by
τ² / (τ² + σ² / n) for a level of n samples, where τ² is the variance of its levels beyond that of their errors. A feature that does not
depend on a covariate hardly gets the noise of an estimate. The methods then see x − a − c b, and what they predict gets a + c b of
the sample, or of other values of its covariates.

A level in which a feature was never observed has no coefficient: its effect is 0, the mean over the other levels, and its variance is
τ² (1 + Σ_l w_l²), for the shares w_l of the samples in the other levels. There τ² is the estimate of moments (DerSimonian & Laird 1986),
(Σ_l w_l b_l² − (L − 1) σ² / n) / (1 − Σ_l w_l²) of L levels, and because L is often two or three it is moderated by the mean over features
(as in Smyth 2004, with a fixed number of degrees of freedom). Intervals and draws include this variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.data.schema import Features, Schema
from polyvae.imputation.tables import Doubles, Flags, Floats, SparseRows, Tables, pieces

_RIDGE = 1e-3  # samples that a penalty counts for: levels add up to the intercept, so that without one there is no single solution
_CELLS = 2**22  # values of a table that are in memory at a time
_MOST = 0.9  # the largest leverage of a sample
_PRIOR = 4.0  # degrees of freedom that the variance of levels, a mean over features, counts for beside the L − 1 of a feature
_LEAST = 1e-3  # the smallest standard deviation of what is left of a feature, relative to that of the feature


class Effects(NamedTuple):
    """The effects of covariates on standardised features.

    Attributes:
        shifts: Modality -> [1 + C, F], the intercept and the coefficients of the columns of covariates. Empty: there are no covariates.
        leverages: Modality -> [1 + C, F], which times the squares of these columns give the leverage of a training sample.
        variances: Modality -> [C, F], the variances of the effects of levels in which a feature was never observed; 0 for all others.
    """

    shifts: Mapping[str, Floats] = {}
    leverages: Mapping[str, Floats] = {}
    variances: Mapping[str, Floats] = {}

    @classmethod
    def fit(cls, tables: Tables, names: Sequence[str], sizes: Sequence[int]) -> Effects:
        """Estimate the effects.

        Args:
            tables: The training samples, standardised, with their covariates.
            names: The modalities.
            sizes: Columns of each covariate, C in all.
        """
        assert tables.covariates is not None
        c = tables.covariates.astype(np.float64)
        found = {name: estimated(tables.values[name], tables.observed[name], c, sizes) for name in names}
        return cls(
            {name: each.shifts for name, each in found.items()},
            {name: each.leverages for name, each in found.items()},
            {name: each.levels.of_unmeasured(sizes) for name, each in found.items()},
        )

    def of(self, name: str, columns: Floats | None) -> Floats:
        """What samples with these columns of covariates [n, C] have of a modality: [n, F]. The last columns, if left out, are 0."""
        assert columns is not None
        shift = self.shifts[name]
        return np.asarray(shift[0] + _product(columns, shift[1:]), np.float32)

    def variance_of(self, name: str, columns: Floats | None) -> Floats | None:
        """The variance of the effects [n, F] of samples with these columns of covariates [n, C]; None where all effects are known."""
        if columns is None or name not in self.variances or not self.variances[name].any():
            return None
        return _product(columns, self.variances[name])

    def drawn(self, name: str, columns: Floats, rng: np.random.Generator) -> Floats:
        """One draw of what is not known of the effects, the same for all samples of a level: [n, F]."""
        variances = self.variances[name]
        return _product(
            columns, (np.sqrt(variances) * rng.standard_normal(variances.shape)).astype(np.float32)
        )

    def left_out(self, name: str, columns: Floats, left: Floats) -> Floats:
        """What ``of`` would be for training samples if each had been left out of the estimate: [n, F].

        As of every linear fit, y − ŷ without sample i is (y − ŷ)_i / (1 − h_i) (Allen 1974), with the shrinkage as it is.

        Args:
            name: The modality.
            columns: Their covariates, [n, C].
            left: Their values without the effects, zero where missing, [n, F].
        """
        lever = self.leverages[name]
        h = np.minimum(lever[0] + _product(columns**2, lever[1:]), _MOST)
        return np.asarray(self.of(name, columns) - left * h / (1 - h), np.float32)

    def shift_of(self, name: str, columns: Floats) -> Callable[[NDArray[Any] | slice], Floats]:
        """A function of rows of ``columns`` [N, C] that returns ``of`` these."""
        return partial(_at, self, name, columns)

    def removed(self, tables: Tables) -> Tables:
        """The samples without the effects."""
        if not self.shifts:
            return tables
        assert tables.covariates is not None
        values: dict[str, Any] = dict(tables.values)
        for name in self.shifts:
            x = tables.values[name]
            if isinstance(x, SparseRows):
                shift = self.shift_of(name, tables.covariates)
                values[name] = SparseRows(x.matrix, x.seen, x.standardise, shift)
            else:
                values[name] = np.empty_like(x)
                for rows, part in pieces(x):
                    less = part - self.of(name, tables.covariates[rows])
                    values[name][rows] = np.where(tables.observed[name][rows], less, 0)
        return tables._replace(values=values)

    def rescaled(self, schema: Schema, tables: Tables) -> tuple[Schema, Effects]:
        """The schema whose scale is the standard deviation of what the covariates leave, and the effects in this scale.

        Args:
            schema: The schema, with the standard deviations of the features.
            tables: The training samples in its scale.
        """
        left, features = self.removed(tables), list[Features]()
        shifts, variances = dict(self.shifts), dict(self.variances)
        for each in schema.modalities:
            size = _deviations(left.values[each.name], tables.observed[each.name])
            constant = np.isin(each.columns, each.constant)
            if (together := each.logs & ~constant).any():  # they have one scale, see ``Features``
                size[together] = np.sqrt((size[together] ** 2).mean())
            size = np.where(constant | ~(size > 0), 1, np.maximum(size, _LEAST))
            features.append(
                each.model_copy(
                    update={"scale": (np.asarray(each.scale) * size).tolist(), "deviation": each.scale}
                )
            )
            shifts[each.name] = (self.shifts[each.name] / size).astype(np.float32)
            variances[each.name] = (self.variances[each.name] / size**2).astype(np.float32)
        return schema.model_copy(update={"modalities": features}), Effects(shifts, self.leverages, variances)


def _at(effects: Effects, name: str, columns: Floats, rows: NDArray[Any] | slice) -> Floats:
    return effects.of(name, columns[rows])


def _product(a: Floats, b: Floats) -> Floats:
    """a [n, C] times the first C rows of b, which do not depend, not even in the last bit, on which other samples there are."""
    total = np.zeros((len(a), b.shape[1]), np.float32)
    for column, row in zip(a.T, b[: a.shape[1]], strict=True):
        at = np.flatnonzero(column)
        total[at] += column[at, None] * row
    return total


def _deviations(x: Floats | SparseRows, seen: Flags) -> Doubles:
    """The root of the mean square of each column, [F], over the samples in which it was observed."""
    squares = np.zeros(x.shape[1])
    for _, part in pieces(x):
        squares += (part.astype(np.float64) ** 2).sum(0)
    return np.asarray(np.sqrt(squares / np.maximum(seen.sum(0), 1)), np.float64)


class _Levels(NamedTuple):
    """The variance of the effects of levels: one row for each covariate, 0 for those that are numbers.

    Attributes:
        spread: [V, F], τ² by moments, which may be negative.
        freedom: [V, F], the number of levels in which the feature was observed, less one.
        grow: [V, F], 1 + Σ w².
        unseen: [C, F] bool, levels in which the feature was never observed.
    """

    spread: Doubles
    freedom: Doubles
    grow: Doubles
    unseen: Flags

    def variance(self) -> Doubles:
        """τ² of each covariate and feature, moderated, [V, F]."""
        evidence = self.freedom.sum(1, keepdims=True)
        typical = (self.freedom * self.spread).sum(1, keepdims=True) / np.maximum(evidence, 1)
        moderated = (self.freedom * self.spread + _PRIOR * typical) / (self.freedom + _PRIOR)
        return np.asarray(np.maximum(moderated, 0), np.float64)

    def of_unmeasured(self, sizes: Sequence[int]) -> Floats:
        """The variances of the effects that are not known, [C, F]."""
        variance = self.variance() * self.grow
        return np.where(self.unseen, np.repeat(variance, sizes, 0), 0).astype(np.float32)


class Estimated(NamedTuple):
    """What is estimated of one table.

    Attributes:
        shifts: [1 + C, F]; see ``Effects``.
        leverages: [1 + C, F].
        levels: The variance of levels.
        noise: [F], the variance of what covariates leave.
    """

    shifts: Floats
    leverages: Floats
    levels: _Levels
    noise: Doubles


def estimated(x: Floats | SparseRows, seen: Flags, c: Doubles, sizes: Sequence[int]) -> Estimated:
    """The effects in one table x [N, F] of columns of covariates c [N, C]."""
    noises = np.zeros(x.shape[1])
    found, levers = (np.zeros((1 + c.shape[1], x.shape[1]), np.float32) for _ in range(2))
    spread, freedom = np.zeros((2, len(sizes), x.shape[1]))
    grow, unseen = np.ones_like(spread), np.zeros((c.shape[1], x.shape[1]), bool)
    levels = np.repeat([size > 1 for size in sizes], sizes)
    for columns, there in alike(x, seen):
        rows = np.flatnonzero(there)
        counts = c[rows].sum(0)
        unseen[:, columns] = (levels & (counts <= _RIDGE))[:, None]
        if len(rows) < 3:
            continue
        design = np.concatenate([np.ones((len(rows), 1)), c[rows]], 1)
        sums, squares = np.zeros((design.shape[1], len(columns))), np.zeros(len(columns))
        step = max(1, _CELLS // len(columns))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            own = x[some] if isinstance(x, SparseRows) else x[some[:, None], columns]
            values = own.astype(np.float64)
            sums += design[start : start + step].T @ values
            squares += (values**2).sum(0)
        b, noise = _least_squares(design, sums, squares, sizes)
        for at, (size, own_columns) in enumerate(zip(sizes, spans(sizes), strict=True)):
            weight = counts[own_columns] / len(rows)
            lost = 1 - (weight**2).sum()
            if size > 1 and lost > _RIDGE:
                there_too = (weight > 0).sum() - 1
                squared = weight @ (b[1:][own_columns] ** 2)
                spread[at, columns] = (squared - there_too * noise / len(rows)) / lost
                freedom[at, columns], grow[at, columns] = there_too, 2 - lost
        noises[columns] = noise
        found[:, columns], levers[:, columns] = _shrunk(design, sums, b, noise, sizes)
    return Estimated(found, levers, _Levels(spread, freedom, grow, unseen), noises)


def spans(sizes: Sequence[int]) -> Iterator[slice]:
    """The columns of each covariate."""
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size


def alike(x: Floats | SparseRows, seen: Flags) -> Iterator[tuple[NDArray[np.intp], Flags]]:
    """Columns that were observed in the same samples, and which these are, [N]."""
    if isinstance(x, SparseRows):
        yield np.arange(x.shape[1]), x.seen
        return
    groups: dict[bytes, list[int]] = {}
    for at in range(x.shape[1]):
        groups.setdefault(np.packbits(seen[:, at]).tobytes(), []).append(at)
    for columns in groups.values():
        yield np.array(columns, np.intp), seen[:, columns[0]]


def _least_squares(
    design: Doubles, sums: Doubles, squares: Doubles, sizes: Sequence[int]
) -> tuple[Doubles, Doubles]:
    """Coefficients of the columns of ``design`` [n, 1 + C], those of levels with mean 0, [1 + C, F]; the variance of the residuals [F].

    Args:
        design: Ones, and the columns of the covariates.
        sums: ``design``' x, [1 + C, F].
        squares: The sums of x², [F].
        sizes: Columns of each covariate.
    """
    n = len(design)
    gram = design.T @ design
    penalty = np.full(len(gram), _RIDGE)
    penalty[0] = 0
    b = np.linalg.solve(gram + np.diag(penalty), sums)
    left = squares - 2 * (b * sums).sum(0) + np.einsum("cf,cd,df->f", b, gram, b, optimize=True)
    freedom = n - 1 - sum(size - 1 if size > 1 else 1 for size in sizes)
    for size, own in zip(sizes, spans(sizes), strict=True):
        if size > 1:
            b[1:][own] -= gram[0, 1:][own] / n @ b[1:][own]
    return np.asarray(b, np.float64), np.asarray(np.maximum(left, 0) / max(freedom, 1), np.float64)


def _shrunk(
    design: Doubles, sums: Doubles, b: Doubles, noise: Doubles, sizes: Sequence[int]
) -> tuple[Doubles, Doubles]:
    """The coefficients ``b``, shrunk, and the leverages of samples with these columns: [1 + C, F] each.

    Args:
        design: Ones, and the columns of the covariates, [n, 1 + C].
        sums: ``design``' x, [1 + C, F].
        b: The coefficients of least squares, [1 + C, F].
        noise: The variance of the residuals, [F].
        sizes: Columns of each covariate.
    """
    n = len(design)
    total, mean = design.sum(0), design.mean(0)[1:]
    b, levers = b.copy(), np.full(b.shape, 1 / n)
    for size, span in zip(sizes, spans(sizes), strict=True):
        own = slice(1 + span.start, 1 + span.stop)
        if size > 1:  # levels, of which each has its number of samples
            count, weight = total[own], total[own] / n
        else:
            number = design[:, own.start]
            count, weight = np.array([number @ number - n * mean[span.start] ** 2]), np.ones(1)
        error = noise / np.maximum(count, _RIDGE)[:, None]
        there = (count > _RIDGE)[:, None]
        spread = np.maximum((np.where(there, weight[:, None] * (b[own] ** 2 - error), 0)).sum(0), 0)
        kept = np.where(there, spread / np.maximum(spread + error, 1e-300), 0)
        b[own] = b[own] * kept
        levers[own] = kept * (1 / np.maximum(count, 1) - (1 / n if size > 1 else 0))[:, None]
    b[0] = (sums[0] - total[1:] @ b[1:]) / n
    return b, levers

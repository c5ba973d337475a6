"""Effects of covariates on features: what a batch, a site or an age adds to each, which is subtracted before anything is imputed.

A feature x of the training samples is x = a + c b + ε, with the columns c of the covariates. The coefficients are those of least squares
on the samples in which the feature was observed, shrunk towards 0 as James & Stein (1961) do: those of the levels of one covariate by
τ² / (τ² + σ² / n) for a level of n samples, where τ² is the variance of its levels beyond that of their errors. A feature that does not
depend on a covariate hardly gets the noise of an estimate. The methods then see x − a − c b, and what they predict gets a + c b of
the sample, or of other values of its covariates. A level in which a feature was never observed has no coefficient: its effect is 0.
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
_LEAST = 1e-3  # the smallest standard deviation of what is left of a feature, relative to that of the feature


class Effects(NamedTuple):
    """The effects of covariates on standardised features.

    Attributes:
        shifts: Modality -> [1 + C, F], the intercept and the coefficients of the columns of covariates. Empty: there are no covariates.
        leverages: Modality -> [1 + C, F], which times the squares of these columns give the leverage of a training sample.
    """

    shifts: Mapping[str, Floats] = {}
    leverages: Mapping[str, Floats] = {}

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
        found = {name: _coefficients(tables.values[name], tables.observed[name], c, sizes) for name in names}
        return cls({name: b for name, (b, _) in found.items()}, {name: h for name, (_, h) in found.items()})

    def of(self, name: str, columns: Floats | None) -> Floats:
        """What samples with these columns of covariates [n, C] have of a modality: [n, F]."""
        assert columns is not None
        shift = self.shifts[name]
        return np.asarray(shift[0] + _product(columns, shift[1:]), np.float32)

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
        left, features, shifts = self.removed(tables), list[Features](), dict(self.shifts)
        for each in schema.modalities:
            size = _deviations(left.values[each.name], tables.observed[each.name])
            constant = np.isin(each.columns, each.constant)
            size = np.where(constant | ~(size > 0), 1, np.maximum(size, _LEAST))
            features.append(
                each.model_copy(
                    update={"scale": (np.asarray(each.scale) * size).tolist(), "deviation": each.scale}
                )
            )
            shifts[each.name] = (self.shifts[each.name] / size).astype(np.float32)
        return schema.model_copy(update={"modalities": features}), Effects(shifts, self.leverages)


def _at(effects: Effects, name: str, columns: Floats, rows: NDArray[Any] | slice) -> Floats:
    return effects.of(name, columns[rows])


def _product(a: Floats, b: Floats) -> Floats:
    """a [n, C] times b [C, F], whose rows do not depend, not even in the last bit, on which others there are."""
    total = np.zeros((len(a), b.shape[1]), np.float32)
    for column, row in zip(a.T, b, strict=True):
        at = np.flatnonzero(column)
        total[at] += column[at, None] * row
    return total


def _deviations(x: Floats | SparseRows, seen: Flags) -> Doubles:
    """The root of the mean square of each column, [F], over the samples in which it was observed."""
    squares = np.zeros(x.shape[1])
    for _, part in pieces(x):
        squares += (part.astype(np.float64) ** 2).sum(0)
    return np.asarray(np.sqrt(squares / np.maximum(seen.sum(0), 1)), np.float64)


def _coefficients(
    x: Floats | SparseRows, seen: Flags, c: Doubles, sizes: Sequence[int]
) -> tuple[Floats, Floats]:
    """The intercept and the coefficients of one table, and the leverages: [1 + C, F] each."""
    found, levers = (np.zeros((1 + c.shape[1], x.shape[1]), np.float32) for _ in range(2))
    for columns, there in _alike(x, seen):
        rows = np.flatnonzero(there)
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
        found[:, columns], levers[:, columns] = _shrunk(design, sums, squares, sizes)
    return found, levers


def _alike(x: Floats | SparseRows, seen: Flags) -> Iterator[tuple[NDArray[np.intp], Flags]]:
    """Columns that were observed in the same samples, and which these are, [N]."""
    if isinstance(x, SparseRows):
        yield np.arange(x.shape[1]), x.seen
        return
    groups: dict[bytes, list[int]] = {}
    for at in range(x.shape[1]):
        groups.setdefault(np.packbits(seen[:, at]).tobytes(), []).append(at)
    for columns in groups.values():
        yield np.array(columns, np.intp), seen[:, columns[0]]


def _shrunk(
    design: Doubles, sums: Doubles, squares: Doubles, sizes: Sequence[int]
) -> tuple[Doubles, Doubles]:
    """Coefficients of the columns of ``design`` [n, 1 + C], shrunk, and the leverages of samples with these columns: [1 + C, F] each.

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
    noise = np.maximum(left, 0) / max(freedom, 1)
    mean, start, levers = gram[0, 1:] / n, 1, np.full(b.shape, 1 / n)
    for size in sizes:
        own = slice(start, start + size)
        if size > 1:  # levels, of which each has its number of samples
            count, weight = gram[0, own], gram[0, own] / n
            b[own] -= weight @ b[own]
        else:
            count, weight = np.array([gram[start, start] - n * mean[start - 1] ** 2]), np.ones(1)
        error = noise / np.maximum(count, _RIDGE)[:, None]
        there = (count > _RIDGE)[:, None]
        spread = np.maximum((np.where(there, weight[:, None] * (b[own] ** 2 - error), 0)).sum(0), 0)
        kept = np.where(there, spread / np.maximum(spread + error, 1e-300), 0)
        b[own] = b[own] * kept
        levers[own] = kept * (1 / np.maximum(count, 1) - (1 / n if size > 1 else 0))[:, None]
        start += size
    b[0] = (sums[0] - gram[0, 1:] @ b[1:]) / n
    return np.asarray(b, np.float64), np.asarray(levers, np.float64)

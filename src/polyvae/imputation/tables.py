"""Standardised tables: the form in which imputation computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.covariates import Covariates

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
Pattern = tuple[bool, ...]


class SparseRows:
    """A wide sparse table [N, F], whose rows become dense and standardised as they are taken: ``x[rows]`` is [n, F] float32.

    Args:
        matrix: SciPy matrix in compressed rows [N, F], not standardised.
        seen: [N] bool, which samples have the modality; the rows of others are zero.
        standardise: Standardises values [n, F].
        shift: Returns what is subtracted from these of some rows, [n, F]; None: nothing.
    """

    def __init__(
        self,
        matrix: Any,
        seen: Flags,
        standardise: Callable[[Doubles], Floats],
        shift: Callable[[NDArray[Any] | slice], Floats] | None = None,
    ) -> None:
        self.matrix, self.seen, self.standardise, self.shift = matrix, seen, standardise, shift
        self.shape: tuple[int, int] = tuple(matrix.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: NDArray[Any] | slice) -> Floats:
        values = self.standardise(self.matrix[index].toarray().astype(np.float64))
        values = values if self.shift is None else values - self.shift(index)
        return np.asarray(np.where(self.seen[index][:, None], values, 0), np.float32)

    @property
    def observed(self) -> Flags:
        """[N, F] bool, without the memory of so many flags."""
        return np.broadcast_to(self.seen[:, None], self.shape)


class Tables(NamedTuple):
    """N samples in M tables, standardised.

    Attributes:
        values: Name -> [N, F] float32, zero where missing. Of all training samples a wide sparse table is a ``SparseRows``, which can
            be indexed by rows as an array can, and nothing else; ``rows`` returns arrays.
        observed: Name -> [N, F] bool.
        covariates: [N, C] float32, the columns of covariates; None: there are none.
        wanted: [N, C], those at which predictions are made; None: ``covariates``.
    """

    values: Mapping[str, Floats]
    observed: Mapping[str, Flags]
    covariates: Floats | None = None
    wanted: Floats | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, in order."""
        return tuple(self.values)

    @property
    def size(self) -> int:
        """N."""
        return len(next(iter(self.values.values())))

    @property
    def mask(self) -> Flags:
        """[N, M], which modalities have an observed entry."""
        return np.stack([seen.any(1) for seen in self.observed.values()], 1)

    @property
    def gaps(self) -> bool:
        """Whether a modality that was observed lacks an entry."""
        return any(bool((seen.any(1) & ~seen.all(1)).any()) for seen in self.observed.values())

    @property
    def at(self) -> Floats | None:
        """[N, C], the columns of covariates at which predictions are made; None: there are none."""
        return self.covariates if self.wanted is None else self.wanted

    def rows(self, index: NDArray[np.intp] | slice) -> Tables:
        """Some of the samples."""
        return Tables(
            {name: x[index] for name, x in self.values.items()},
            {name: seen[index] for name, seen in self.observed.items()},
            None if self.covariates is None else self.covariates[index],
            None if self.wanted is None else self.wanted[index],
        )

    def only(self, pattern: Pattern) -> Tables:
        """The same samples, of which no more than the modalities of ``pattern`` were observed, as arrays where they were not."""
        values, observed = {}, {}
        for name, kept in zip(self.names, pattern, strict=True):
            shape = self.values[name].shape
            values[name] = self.values[name] if kept else np.zeros(shape, np.float32)
            observed[name] = self.observed[name] if kept else np.zeros(shape, bool)
        return self._replace(values=values, observed=observed)

    def batch(self, device: torch.device, entries: bool) -> Batch:
        """The samples as a batch; ``entries``: with the observed entries of every modality."""
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(x)).to(device) for name, x in self.values.items()
        }
        mask = torch.from_numpy(self.mask.T.copy()).to(device)
        seen: dict[str, Tensor] = {}
        if entries:
            seen = {
                name: torch.from_numpy(np.ascontiguousarray(x)).to(device)
                for name, x in self.observed.items()
            }
        return Batch(tensors, mask, seen, {}, False, conditions(self.covariates, device))

    def like(self, batch: Batch) -> Batch:
        """The batch of these samples with the covariates at which predictions are made."""
        if self.wanted is None:
            return batch
        return batch._replace(covariates=conditions(self.wanted, batch.device))


def conditions(columns: Floats | None, device: torch.device) -> Covariates:
    """The columns of covariates [N, C] as those of a batch, each a number."""
    if columns is None:
        return Covariates()
    return Covariates(
        {str(at): torch.from_numpy(column.copy()).to(device) for at, column in enumerate(columns.T)}
    )


def pieces(x: Floats | SparseRows, cells: int = 2**22) -> Iterator[tuple[slice, Floats]]:
    """The rows of a table, some at a time, with their numbers: every pass over all samples of a table that may be wide."""
    step = max(1, cells // max(1, x.shape[1]))
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        yield rows, x[rows]


def patterns(mask: Flags) -> dict[Pattern, NDArray[np.intp]]:
    """The patterns of observed modalities and their rows: mask [N, M] -> pattern -> row numbers."""
    kinds, inverse = np.unique(mask, axis=0, return_inverse=True)
    return {
        tuple(bool(flag) for flag in kind): np.flatnonzero(inverse.reshape(-1) == number)
        for number, kind in enumerate(kinds)
    }

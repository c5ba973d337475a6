"""Standardised tables: the form in which imputation computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.core.batch import Batch

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Pattern = tuple[bool, ...]


class Tables(NamedTuple):
    """N samples in M tables, standardised.

    Attributes:
        values: Name -> [N, F] float32, zero where missing.
        observed: Name -> [N, F] bool.
    """

    values: Mapping[str, Floats]
    observed: Mapping[str, Flags]

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

    def rows(self, index: NDArray[np.intp] | slice) -> Tables:
        """Some of the samples."""
        return Tables(
            {name: x[index] for name, x in self.values.items()},
            {name: seen[index] for name, seen in self.observed.items()},
        )

    def only(self, pattern: Pattern) -> Tables:
        """The same samples, of which no more than the modalities of ``pattern`` were observed."""
        values, observed = {}, {}
        for name, kept in zip(self.names, pattern, strict=True):
            values[name] = self.values[name] if kept else np.zeros_like(self.values[name])
            observed[name] = self.observed[name] if kept else np.zeros_like(self.observed[name])
        return Tables(values, observed)

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
        return Batch(tensors, mask, seen, {}, False)


def patterns(mask: Flags) -> dict[Pattern, NDArray[np.intp]]:
    """The patterns of observed modalities and their rows: mask [N, M] -> pattern -> row numbers."""
    kinds, inverse = np.unique(mask, axis=0, return_inverse=True)
    return {
        tuple(bool(flag) for flag in kind): np.flatnonzero(inverse.reshape(-1) == number)
        for number, kind in enumerate(kinds)
    }

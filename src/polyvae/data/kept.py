"""Modalities that stay where they are, in sparse matrices and in files, of which only the rows of a batch become dense."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.core.batch import Batch, agreeing
from polyvae.data.checks import check_precision
from polyvae.data.sparse import is_sparse, shared, spread
from polyvae.utils.arrays import whole_tensor
from polyvae.utils.devices import to_device
from polyvae.utils.errors import InputError, reading
from polyvae.utils.text import counted

_SOME = 1000  # rows from which precision is judged
_PIECE = 1_000_000  # values that are read together where a whole modality is passed over
_FILES = {"h5py": ("Dataset",), "zarr": ("Array",), "anndata": ("CSRDataset", "_CSRDataset")}


def is_file(x: Any) -> bool:
    """Whether ``x`` is an array on disk whose rows can be read: a NumPy memory map, a dataset of h5py, zarr, or CSR of AnnData."""
    if isinstance(x, np.memmap):
        return x.ndim > 1
    kind = type(x)
    if kind.__name__ not in _FILES.get(kind.__module__.partition(".")[0], ()):
        return False
    if kind.__module__.startswith("h5py") and not x:
        raise InputError("data: got a dataset of a closed file; expected an open one; open it again")
    return x.shape is not None and len(x.shape) > 1


class Kept:
    """One modality of which rows are read when they are taken.

    Args:
        array: A SciPy matrix in compressed rows, or an array on disk (``is_file``). It is shared, never copied or modified.
        index: [N] the row of the array for each sample, −1 where it has none. None: its rows in order.
        kind: The type of the values that are read; None: see ``dtype``.
    """

    def __init__(
        self, array: Any, index: NDArray[np.int64] | None = None, kind: np.dtype[Any] | None = None
    ) -> None:
        self.array, self.index, self.kind = array, index, kind
        self.shape = (len(index) if index is not None else array.shape[0], *array.shape[1:])
        self.sparse = is_sparse(array)

    @property
    def ndim(self) -> int:
        """Axes, that of the samples included."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values that are read: that of a file; for sparse matrices single precision, unless they are double."""
        if self.kind is not None:
            return self.kind
        own = np.dtype(self.array.dtype)
        if self.sparse or type(self.array).__module__.startswith("anndata"):
            return np.dtype(np.float64 if own == np.float64 else np.float32)
        native: np.dtype[Any] = own.newbyteorder("=")
        return native

    @property
    def matrix(self) -> Any:
        """The rows of a sparse matrix, in floating point."""
        whole = self.array
        if self.index is not None:
            there = self.index >= 0
            whole = self.array[self.index[there]]
            whole = whole if there.all() else spread(whole, np.flatnonzero(there), len(self.index))
        return whole if whole.dtype == self.dtype else whole.astype(self.dtype)

    def part(self, rows: NDArray[np.int64]) -> Kept:
        """The samples ``rows``, of the same array."""
        return Kept(self.array, rows if self.index is None else self.index[rows], self.kind)

    def placed(self, rows: NDArray[np.int64], count: int) -> Kept:
        """``count`` samples, of which ``rows`` are these, in order; the others have no row."""
        index = np.full(count, -1, np.int64)
        index[rows] = np.arange(self.shape[0]) if self.index is None else self.index
        return Kept(self.array, index, self.kind)

    def read(self, rows: NDArray[np.int64] | slice) -> NDArray[Any]:
        """[B, *shape], 0 where there is no row; always memory of its own."""
        index = self._own(rows)
        there = index >= 0
        with reading("data", "a file that is open and unchanged", "open it again, and make the data again"):
            if len(index) and there.all():
                return self._rows(index)
            x = np.zeros((len(index), *self.shape[1:]), self.dtype)
            if there.any():
                x[there] = self._rows(index[there])
        return x

    def dense(self, rows: Tensor | slice | None, mask: Tensor, entries: Tensor | None = None) -> Tensor:
        """[B, *shape], zero where missing. ``mask``: [B] bool, and ``entries``, [B, *shape] bool, are on the device of the result."""
        index = slice(None) if rows is None else rows if isinstance(rows, slice) else rows.cpu().numpy()
        values = to_device(torch.from_numpy(self.read(index)), mask.device)
        observed = mask.view(-1, *[1] * (values.ndim - 1)) if entries is None else entries
        return torch.where(observed, values, torch.zeros((), dtype=values.dtype, device=values.device))

    def pieces(self) -> Iterator[slice]:
        """All samples, some at a time."""
        step = max(1, _PIECE // max(1, math.prod(self.shape[1:])))
        return (slice(start, start + step) for start in range(0, self.shape[0], step))

    def stored(self) -> Iterator[NDArray[Any]]:
        """The arrays of a sparse matrix, by pieces: row pointers, columns, values."""
        lengths = np.diff(self.array.indptr).astype(np.int64)
        chosen = lengths if self.index is None else np.where(self.index < 0, 0, lengths[self.index])
        yield np.concatenate([np.zeros(1, np.int64), np.cumsum(chosen)])
        for part in ("indices", "data"):
            for piece in self.pieces():
                own = self._own(piece)
                found = getattr(self.array[own[own >= 0]], part)
                yield found.astype(np.int64 if part == "indices" else self.dtype)

    def _own(self, rows: NDArray[np.int64] | slice) -> NDArray[np.int64]:
        """The rows of the array."""
        if self.index is not None:
            return self.index[rows]
        return np.arange(*rows.indices(self.shape[0])) if isinstance(rows, slice) else rows

    def _rows(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of the array, all of which exist."""
        first, last = int(index[0]), int(index[-1])
        if self.sparse:
            return np.asarray(self.array[index].toarray(), self.dtype)
        if last - first + 1 == len(index) and bool((np.diff(index) == 1).all()):
            return self._dense(self.array[first : last + 1])
        if isinstance(self.array, np.memmap):
            return self._dense(self.array[index])
        # h5py and zarr read increasing row numbers only.
        ordered, back = np.unique(index, return_inverse=True)
        found = self.array.oindex[ordered] if type(self.array).__name__ == "Array" else self.array[ordered]
        return self._dense(found)[back]

    def _dense(self, x: Any) -> NDArray[Any]:
        values = np.asarray(x.toarray() if is_sparse(x) else x, self.dtype).view(np.ndarray)
        mapped = isinstance(self.array, np.memmap) and np.may_share_memory(values, self.array)
        return values.copy() if mapped else values  # a slice of a map is the file itself


def kept_of(data: Mapping[str, Any]) -> dict[str, Kept]:
    """The modalities among ``data`` that stay where they are.

    Raises InputError: not real numbers, or a sparse matrix with a value that is not finite.
    """
    found = {}
    for name, x in data.items():
        where = f"modality {name!r}"
        if isinstance(x, Kept):
            found[name] = x
        elif is_sparse(x):
            found[name] = Kept(shared(where, x))
        elif is_file(x):
            found[name] = on_disk(where, x)
    for name, one in found.items():
        if one.sparse and (bad := int((~np.isfinite(one.array.data)).sum())):
            raise InputError(
                f"modality {name!r}: got {counted(bad, 'value', 'values')} NaN or infinite in a sparse matrix; expected finite values; "
                "make it dense, and mark them as missing in entries="
            )
    return found


def on_disk(where: str, x: Any, floating: bool = False) -> Kept:
    """An array on disk; ``floating``: read in single precision unless it is double. Raises InputError: no real numbers."""
    own = np.dtype(x.dtype)
    if own.kind not in "iufb" or own.itemsize > 8:
        raise InputError(
            f"{where}: got a file of {x.dtype}; expected real numbers; convert it first, text to one-hot columns"
        )
    single = own.kind == "b" or (floating and own.newbyteorder("=") != np.float64)
    return Kept(x, kind=np.dtype(np.float32) if single else None)


def stand_ins(kept: Mapping[str, Kept], data: Mapping[str, Any]) -> dict[str, Tensor]:
    """The rows of ``kept`` without columns, on the device of the other tensors."""
    device = next((x.device for x in data.values() if isinstance(x, Tensor)), torch.device("cpu"))
    return {
        name: torch.from_numpy(np.zeros((one.shape[0], 0), one.dtype)).to(device)
        for name, one in kept.items()
    }


def with_gaps(
    stored: Batch, kept: Mapping[str, Kept], entries: Mapping[str, Any], data: Mapping[str, Any]
) -> Batch:
    """The batch with entry masks of modalities that stay where they are.

    Raises:
        InputError: A mask for a sparse modality or of another shape; a value in a file that is not finite where it is marked as observed.
            Files of floating-point numbers are read once for it, by pieces; those that ``data`` have as Kept were read before.
    """
    if not kept:
        return stored
    gaps = {}
    for name, given in entries.items():
        if kept[name].sparse:
            raise InputError(
                f"entries: got a mask for modality {name!r}, which is sparse; expected none; make the modality dense"
            )
        gap = whole_tensor(f"entries[{name!r}]", given)
        if gap.dtype != torch.bool or tuple(gap.shape) != kept[name].shape:
            raise InputError(
                f"entries[{name!r}]: got {gap.dtype} of shape {tuple(gap.shape)}; expected bool {kept[name].shape}; True where observed"
            )
        row = stored.mask[stored.names.index(name)]
        gaps[name] = gap.to(row.device) & row.view(-1, *[1] * (gap.ndim - 1))
    mask, gaps = agreeing(stored.mask, gaps, stored.names)
    for name, one in kept.items():
        row = mask[stored.names.index(name)]
        if data[name] is not one:
            _check_finite(name, one, row, gaps.get(name))
        _check_some(name, one, row, gaps.get(name))
    return stored._replace(entries={**stored.entries, **gaps}, mask=mask, complete=bool(mask.all()))


def _check_some(name: str, one: Kept, mask: Tensor, gap: Tensor | None) -> None:
    """Warn of columns whose variance single precision would lose, from some of the rows."""
    rows = torch.linspace(0, one.shape[0] - 1, min(_SOME, one.shape[0])).long()
    there = rows.to(mask.device)
    own = None if gap is None else gap[there]
    entries = {} if own is None else {name: own}
    check_precision(Batch({name: one.dense(rows, mask[there], own)}, mask[there][None], entries))


def _check_finite(name: str, one: Kept, mask: Tensor, gap: Tensor | None) -> None:
    bad = 0
    for piece in one.pieces() if not one.sparse and one.dtype.kind == "f" else ():
        x = one.dense(piece, mask[piece], None if gap is None else gap[piece])
        bad += int((~x.isfinite()).sum())
    if bad:
        raise InputError(
            f"modality {name!r}: got {bad} values that are NaN or infinite where the mask marks them as observed; expected finite "
            "values; mark them as missing in mask= or entries=, or pass nan='missing' to MultimodalData.from_arrays"
        )

"""Modalities that stay sparse in memory: matrices of counts, of which only the rows of a batch become dense."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.utils.devices import to_device
from polyvae.utils.errors import InputError
from polyvae.utils.text import counted


def is_sparse(x: Any) -> bool:
    """Whether ``x`` is a sparse matrix of scipy."""
    loaded = sys.modules.get(
        "scipy.sparse"
    )  # without it there is no such object, and importing it takes time
    return loaded is not None and bool(loaded.issparse(x))


def compact(where: str, x: Any) -> Any:
    """A matrix in compressed rows with sorted columns, in single precision unless it is double. Raises InputError: not real numbers."""
    if x.dtype.kind not in "iufb":
        raise InputError(
            f"{where}: got a sparse matrix of {x.dtype}; expected real numbers; convert it first"
        )
    if len(x.shape) != 2:
        raise InputError(f"{where}: got a sparse array of shape {x.shape}; expected [N, F]; give it two axes")
    from scipy import sparse

    rows = sparse.csr_array(x, dtype=x.dtype if x.dtype == np.float64 else np.float32, copy=True)
    rows.sum_duplicates()
    return rows


def check_sparse(data: Mapping[str, Any]) -> dict[str, Any]:
    """The sparse matrices among ``data``. Raises InputError: a value that is not finite."""
    found = {name: compact(f"modality {name!r}", x) for name, x in data.items() if is_sparse(x)}
    for name, x in found.items():
        if bad := int((~np.isfinite(x.data)).sum()):
            raise InputError(
                f"modality {name!r}: got {counted(bad, 'value', 'values')} NaN or infinite in a sparse matrix; expected finite values; "
                "make it dense, and mark them as missing in entries="
            )
    return found


def dense_rows(x: Any, rows: Tensor | slice | None, mask: Tensor) -> Tensor:
    """[B, F], zero where the modality is missing. ``mask``: [B] bool, on the device of the result."""
    index = slice(None) if rows is None else rows if isinstance(rows, slice) else rows.cpu().numpy()
    values = to_device(torch.from_numpy(np.ascontiguousarray(x[index].toarray())), mask.device)
    return values * mask[:, None]


def spread(x: Any, rows: NDArray[np.int64], count: int) -> Any:
    """The rows of ``x`` at the places ``rows`` among ``count``; the other rows are empty."""
    from scipy import sparse

    places = sparse.csr_array(
        (np.ones(len(rows), dtype=x.dtype), (rows, np.arange(len(rows)))), shape=(count, len(rows))
    )
    return places @ x


def columns_of(x: Any, index: Sequence[int]) -> Any:
    """The columns ``index``, in that order."""
    from scipy import sparse

    found = sparse.csr_array(x[:, list(index)])
    found.sum_duplicates()
    return found

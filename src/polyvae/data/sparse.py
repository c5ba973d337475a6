"""Sparse matrices of SciPy: which there are, in compressed rows, their rows and columns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyvae.utils.errors import InputError


def is_sparse(x: Any) -> bool:
    """Whether ``x`` is a sparse matrix of scipy."""
    loaded = sys.modules.get(
        "scipy.sparse"
    )  # without it there is no such object, and importing it takes time
    return loaded is not None and bool(loaded.issparse(x))


def shared(where: str, x: Any) -> Any:
    """A matrix in compressed rows with sorted columns, which shares the memory of ``x`` if it is one.

    Raises InputError: not real numbers, or another number of axes.
    """
    if x.dtype.kind not in "iufb":
        raise InputError(
            f"{where}: got a sparse matrix of {x.dtype}; expected real numbers; convert it first"
        )
    if len(x.shape) != 2:
        raise InputError(f"{where}: got a sparse array of shape {x.shape}; expected [N, F]; give it two axes")
    from scipy import sparse

    if x.dtype == np.float16 or x.dtype.itemsize > 8:
        x = x.astype(np.float32 if x.dtype == np.float16 else np.float64)
    rows = sparse.csr_array(x)
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    return rows


def compact(where: str, x: Any) -> Any:
    """As ``shared``, in single precision unless it is double."""
    rows = shared(where, x)
    return rows if rows.dtype == np.float64 else rows.astype(np.float32, copy=False)


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

"""Arrays of other libraries as tensors, with the values that they mark as missing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.utils.errors import InputError


@runtime_checkable
class Table(Protocol):
    """What DataFrame, Series and the arrays of pandas have in common."""

    def isna(self) -> Any:
        """True where a value is missing."""

    def to_numpy(self, dtype: Any = None, copy: bool = False, na_value: Any = None) -> NDArray[Any]:
        """The values."""


def observed_array(what: str, x: Any) -> tuple[Any, NDArray[np.bool_] | None]:
    """The plain values of a NumPy masked array or of a pandas object, and which of them were observed.

    Args:
        what: Subject of the error.
        x: Anything. In other objects nothing is marked as missing, and they are returned as they are.

    Returns:
        The values, and a bool array of the same shape; None: all were observed.

    Raises:
        InputError: A pandas object with values that are not numbers.
    """
    if type(x).__name__ in ("AnnData", "MuData"):  # converting one takes minutes where it is backed
        raise InputError(
            f"{what}: got {type(x).__name__}; expected an array; pass its X, or read it with MultimodalData.from_{type(x).__name__.lower()}"
        )
    if isinstance(x, np.ma.MaskedArray):
        missing = np.ma.getmaskarray(x)
        return x.data, ~missing if missing.any() else None
    if not isinstance(x, Table):
        return x, None
    missing = np.asarray(x.isna(), dtype=bool)
    try:
        if not missing.any():
            values = x.to_numpy()
            # Columns of several types, and nullable ones, make an array of objects.
            return (np.asarray(values.tolist()) if values.dtype.kind == "O" else values), None
        values = np.zeros(missing.shape)
        values[~missing] = x.to_numpy(dtype=object)[~missing].astype(np.float64)
    except (TypeError, ValueError) as problem:
        raise _not_numbers(what, x, problem) from None
    return values, ~missing


def observed_tensor(what: str, x: Any) -> tuple[Tensor, Tensor | None]:
    """A tensor of real numbers without a graph, and which of its values were observed.

    Args:
        what: Subject of the error.
        x: A tensor, an array, nested lists of numbers, a NumPy masked array or a pandas object.

    Returns:
        The values, and a bool tensor of the same shape; None: nothing is marked as missing.

    Raises:
        InputError: Not real numbers in a dense array.
    """
    if torch.masked.is_masked_tensor(x):
        return _dense(what, x.get_data()), x.get_mask()  # type: ignore[no-untyped-call]
    values, observed = observed_array(what, x)
    try:
        with warnings.catch_warnings():  # of arrays that cannot be written to, which nothing writes to
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError, LookupError) as problem:  # LookupError: row 0 of a table
        raise _not_numbers(what, x, problem) from None
    return _dense(what, tensor), None if observed is None else torch.from_numpy(observed)


def whole_tensor(what: str, x: Any) -> Tensor:
    """A tensor of which no value may be marked as missing, such as a mask.

    Raises InputError: see ``observed_tensor``; a missing value.
    """
    _check_whole(what, x)
    return observed_tensor(what, x)[0]


def whole_array(what: str, x: Any) -> Any:
    """``x`` as something that NumPy can convert. Raises InputError: a value that is marked as missing."""
    _check_whole(what, x)
    values = x.to_numpy() if isinstance(x, Table) else x
    return _dense(what, values).cpu().numpy() if isinstance(values, Tensor) else values


def numpy_array(what: str, x: Any) -> NDArray[Any]:
    """``x`` as a NumPy array. Raises InputError: a value that is marked as missing, or lists of different lengths."""
    values = whole_array(what, x)
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as problem:
        raise InputError(
            f"{what}: got {type(x).__name__} that is no array ({' '.join(str(problem).split())[:120]}); expected numbers or names in "
            "lists of equal length; convert it first"
        ) from None


def _check_whole(what: str, x: Any) -> None:
    missing = np.ma.getmaskarray(x) if isinstance(x, np.ma.MaskedArray) else None
    if isinstance(x, Table):
        missing = np.asarray(x.isna(), dtype=bool)
    if missing is not None and missing.any():
        raise InputError(
            f"{what}: got {int(missing.sum())} values that are marked as missing; expected none; fill them in first"
        )


def _dense(what: str, x: Tensor) -> Tensor:
    kinds = {
        "a nested tensor": (x.is_nested, "pad it to one shape, and mark the padding as missing in entries="),
        "a quantised tensor": (x.is_quantized, "convert it with .dequantize()"),
        "a sparse tensor": (not x.is_nested and x.layout != torch.strided, "convert it with .to_dense()"),
        "a tensor without values (device 'meta')": (x.is_meta, "load its values first"),
        f"dtype {x.dtype}": (x.is_complex(), "split it into real and imaginary parts"),
    }
    for kind, (found, remedy) in kinds.items():
        if found:
            raise InputError(
                f"{what}: got {kind}; expected real numbers in a dense array, [B, *shape]; {remedy}"
            )
    return x.detach()


def _not_numbers(what: str, x: Any, problem: Exception) -> InputError:
    if _strings(x):
        return InputError(
            f"{what}: got {type(x).__name__} of strings; expected numbers, [B, *shape]; "
            "encode sentences with polyvae.text, categories as columns of 0, 1"
        )
    if isinstance(x, tuple) and x and isinstance(x[0], np.ma.MaskedArray):
        return InputError(
            f"{what}: got {type(x).__name__}; expected numbers, [B, *shape]; give its ids alone, x.ids"
        )
    return InputError(
        f"{what}: got {type(x).__name__}; expected numbers, [B, *shape]; convert it to an array of numbers first "
        f"({' '.join(str(problem).split())[:200]})"
    )


def _strings(x: Any) -> bool:
    """Whether this is a column with strings."""
    values = x.to_numpy() if isinstance(x, Table) else x
    if isinstance(values, np.ndarray):
        values = values.tolist() if values.ndim == 1 and values.dtype.kind in "OUT" else ()
    return isinstance(values, list | tuple) and any(isinstance(value, str) for value in values)


def scaled(x: Tensor, factor: float | None) -> Tensor:
    """x times a factor, in floating point; None: x."""
    if factor is None:
        return x
    if not x.is_floating_point():
        return x.to(torch.get_default_dtype()).mul_(factor)
    return x.to(torch.promote_types(x.dtype, torch.float32)) * factor  # half precision would overflow


def rows_within(shapes: Iterable[Sequence[int]], most: int, values: int = 4_000_000) -> int:
    """How many samples with arrays of these shapes to take together: at most ``most``, with at most ``values`` values, at least one."""
    width = sum(math.prod(shape) for shape in shapes)
    return max(1, min(most, values // max(1, width)))

"""Arrays, with or without ids."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polyvae.core.batch import check_mapping
from polyvae.data.kept import is_file, on_disk
from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.asking import Nan, check_columns, check_nan
from polyvae.data.readers.layout import ArrayLayout
from polyvae.data.readers.parts import Part, checked, joined
from polyvae.data.sparse import compact, is_sparse
from polyvae.utils.arrays import numpy_array, observed_array
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.levels import mixes_booleans


def from_arrays(
    arrays: Mapping[str, Any],
    *,
    ids: Mapping[str, Sequence[Hashable]] | Sequence[Hashable] | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
    nan: Nan = "error",
    labels: Any = None,
    overlap: bool = True,
    **settings: Any,
) -> tuple[MultimodalData, ArrayLayout]:
    """See ``MultimodalData.from_arrays``; also the layout."""
    check_nan(nan)
    check_mapping("from_arrays", arrays)
    for what, own in {"ids": ids, "columns": columns}.items():
        for name in own if isinstance(own, Mapping) else ():
            if name not in arrays:
                raise InputError(
                    f"{what}: modality {name!r} is not in the data; {nearest(str(name), arrays)}"
                )
    given = {name: (ids.get(name) if isinstance(ids, Mapping) else ids) for name in arrays}
    parts = {
        name: array_part(f"modality {name!r}", x, nan, own=given[name], columns=(columns or {}).get(name))
        for name, x in arrays.items()
    }
    data = joined(parts, labels=labels, overlap=overlap, **settings)
    shapes = {name: part.values.shape[1:] for name, part in parts.items()}
    return data, ArrayLayout(False, data.columns, shapes)


def array_part(
    where: str,
    x: Any,
    nan: Nan,
    own: Sequence[Hashable] | None = None,
    columns: Sequence[str] | None = None,
) -> Part:
    """An array of numbers [n, *shape] as a part. Raises InputError: no numbers, or a number of ids other than n."""
    if is_file(x):
        return _whole(where, checked(where, on_disk(where, x), columns, nan), columns, own)
    values, observed = (
        (compact(where, x), None) if is_sparse(x) else observed_array(where, x.float() if _half(x) else x)
    )
    values = values if is_sparse(values) else numeric(where, numpy_array(where, values))
    if values.ndim < 2:
        raise InputError(
            f"{where}: got shape {values.shape}; expected [N, *shape], a size after the number of samples; give a column of numbers the "
            "shape [N, 1]"
        )
    part = checked(where, values, columns if values.ndim == 2 else None, nan)
    if observed is not None:
        both = observed if part.observed is None else observed & part.observed
        part = part._replace(observed=both)
    return _whole(where, part, columns, own)


def _whole(where: str, part: Part, columns: Sequence[str] | None, own: Sequence[Hashable] | None) -> Part:
    """The part with its columns and ids."""
    if columns is not None:
        check_columns(where, columns)
    ids = None if own is None else _listed(f"{where}: ids", own)
    if ids is not None and len(ids) != part.values.shape[0]:
        raise InputError(
            f"{where}: got {len(ids)} ids for {part.values.shape[0]} rows; expected one for each row; check which rows they belong to"
        )
    return part._replace(columns=None if columns is None else tuple(columns), ids=ids)


def _listed(where: str, ids: Any) -> list[Hashable]:
    """Names as they are: NumPy would make texts of numbers that stand beside texts."""
    if isinstance(ids, list | tuple):
        return list(ids)
    return list(numpy_array(where, ids).tolist())


def _half(x: Any) -> bool:
    """Whether this is a tensor of a type that NumPy does not have."""
    return isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16


def numeric(where: str, values: NDArray[Any]) -> NDArray[Any]:
    """Booleans as 0 and 1; other numbers as they are. Raises InputError: no real numbers."""
    if values.dtype.kind == "b":
        return values.astype(np.float32)
    if values.dtype == object and all(isinstance(each, Real | Decimal | None) for each in values.flat):
        if mixes_booleans(values.ravel().tolist()):
            raise InputError(
                f"{where}: got booleans beside numbers; expected one of both; write True as 1 and False as 0 where they are numbers"
            )
        return values.astype(np.float64)  # None becomes NaN
    if values.dtype.kind not in "iuf":
        raise InputError(
            f"{where}: got an array of {values.dtype}; expected real numbers; convert it first, text to one-hot columns"
        )
    if values.dtype.itemsize > 8:
        return values.astype(np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)

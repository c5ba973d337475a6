"""Validation of what MultimodalData is given, apart from what ``Batch.of`` validates. Every error is one line."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.modality import Modality
from polyvae.data.groups import Levels, text_of
from polyvae.utils.arrays import numpy_array, observed_array, whole_array
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.text import named

MOST_CLASSES = 2**20
_ROWS = 1000  # rows from which precision is estimated
_LOST = 0.1  # the rounding error, as a share of the standard deviation, at which a column is of little use


def check_labels(labels: Any, count: int) -> Tensor:
    """[N] int64; −1 where a label is marked as missing."""
    values, observed = observed_array("labels", labels)
    given = values.detach().cpu().numpy() if isinstance(values, Tensor) else numpy_array("labels", values)
    if (
        observed is not None
    ):  # a column of integers with missing values is often one of floating-point numbers
        known = given[observed]
        if given.dtype.kind == "f" and bool((known == known.round()).all()):
            given = np.where(observed, given, 0).astype(np.int64)
        if given.dtype.kind in "iub":
            given = np.where(observed, given.astype(np.int64), -1)
    if given.dtype.kind not in "iub":
        raise InputError(
            f"labels: got {given.dtype}; expected integers, one per sample; number the classes first, as "
            "numpy.unique(labels, return_inverse=True) does"
        )
    one_each("labels", given.shape, count)
    if given.size and int(given.max()) > MOST_CLASSES:
        raise InputError(
            f"labels: got {int(given.max())}; expected class numbers of at most {MOST_CLASSES:,}; number the classes "
            "first, as numpy.unique(labels, return_inverse=True) does"
        )
    return torch.from_numpy(given.astype(np.int64))


def check_factors(
    factors: Mapping[str, Mapping[str, Any]] | None, names: Sequence[str], count: int
) -> dict[str, dict[str, Tensor]]:
    """Modality -> name -> [N], on the host: int64 for classes, float64 for amounts."""
    checked: dict[str, dict[str, Tensor]] = {}
    for owner, own in (factors or {}).items():
        if owner not in names:
            raise InputError(f"factors: modality {owner!r} is not in the data; {nearest(owner, names)}")
        for name, values in own.items():
            what = f"factor {name!r} of modality {owner!r}"
            given = numpy_array(what, values)
            if given.dtype.kind not in "iubf":
                raise InputError(
                    f"{what}: got {given.dtype}; expected integers (classes) or floating-point numbers (amounts); number "
                    "the classes first, as numpy.unique(factor, return_inverse=True) does"
                )
            one_each(what, given.shape, count)
            if given.dtype.kind == "f" and not np.isfinite(given).all():
                raise InputError(
                    f"{what}: got {int((~np.isfinite(given)).sum())} values that are NaN or infinite; expected finite ones; "
                    "give a sample that lacks the modality any number"
                )
            checked.setdefault(owner, {})[name] = torch.from_numpy(
                given.astype(np.float64 if given.dtype.kind == "f" else np.int64)
            )
    return checked


def check_ids(ids: Any, count: int) -> list[Hashable] | None:
    """N distinct names."""
    if ids is None:
        return None
    ids = whole_array("ids", ids)
    try:
        given = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        one_each("ids", (len(given),), count)
        twice = [name for name, times in Counter(given).items() if times > 1]
    except TypeError:  # neither a sequence, nor names that can be compared
        raise InputError(
            f"ids: got {type(ids).__name__}; expected a sequence of {count} names, such as strings or numbers; pass one for each sample"
        ) from None
    if twice:
        raise InputError(
            f"ids: got {len(twice)} that occur more than once, such as {twice[0]!r}; expected a different one per sample; "
            "drop or rename the repeated rows"
        )
    return given


def check_specs(
    modalities: Sequence[Modality] | None, data: Mapping[str, Tensor], own: Mapping[str, Modality]
) -> tuple[Modality, ...]:
    """One specification per array, in the order of the arrays. ``own``: those of arrays that come with one."""
    for name, x in data.items():
        if x.ndim < 2:
            raise InputError(
                f"modality {name!r}: got shape {tuple(x.shape)}; expected [N, *shape], a size after the number of samples; "
                "give a column of numbers the shape [N, 1]"
            )
    if modalities is None:
        return tuple(own.get(name) or Modality(name, tuple(x.shape[1:])) for name, x in data.items())
    given = {**own, **{spec.name: spec for spec in modalities}}
    if len({spec.name for spec in modalities}) != len(modalities):
        raise InputError(
            f"modalities: got a name twice among {[spec.name for spec in modalities]}; expected one specification per array; "
            "rename one"
        )
    for name in given:
        if name not in data:
            raise InputError(f"modalities: {name!r} is not in the data; {nearest(name, data)}")
    for name, x in data.items():
        if name not in given:
            raise InputError(
                f"modalities: got none for {name!r}; expected one specification per array; add Modality({name!r}, "
                f"{tuple(x.shape[1:])})"
            )
        if given[name].shape != tuple(x.shape[1:]):
            raise InputError(
                f"modality {name!r}: got values of shape {tuple(x.shape[1:])}; expected {given[name].shape} as its "
                "specification; correct one of them"
            )
    return tuple(given[name] for name in data)


def check_scale(scale: Mapping[str, float] | None, names: Sequence[str]) -> dict[str, float]:
    """Name -> factor, finite and above zero."""
    checked = {}
    for name, factor in (scale or {}).items():
        if name not in names:
            raise InputError(f"scale: modality {name!r} is not in the data; {nearest(name, names)}")
        if (
            isinstance(factor, bool)
            or not isinstance(factor, int | float)
            or not math.isfinite(factor)
            or factor <= 0
        ):
            raise InputError(
                f"scale: got {factor!r} for modality {name!r}; expected a finite number above 0; "
                "1/255 turns bytes into [0, 1]"
            )
        checked[name] = float(factor)
    return checked


def check_columns(
    columns: Mapping[str, Sequence[str]] | None, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[str, ...]]:
    """Modality -> distinct names of its features."""
    checked = {}
    for name, given in (columns or {}).items():
        if name not in shapes:
            raise InputError(f"columns: modality {name!r} is not in the data; {nearest(name, shapes)}")
        if isinstance(given, str) or not all(isinstance(column, str) for column in given):
            raise InputError(
                f"columns: got {type(given).__name__} for modality {name!r}; expected a sequence of strings; name each feature"
            )
        if shapes[name] != (len(given),):
            raise InputError(
                f"columns: got {len(given)} names for modality {name!r} of shape {shapes[name]}; expected one for each feature, in a "
                "modality of one axis; correct them"
            )
        twice = [column for column, times in Counter(given).items() if times > 1]
        if twice:
            raise InputError(
                f"columns: got {len(twice)} names more than once for modality {name!r}, such as {twice[0]!r}; expected distinct names; "
                "rename them"
            )
        checked[name] = tuple(given)
    return checked


def check_levels(
    levels: Mapping[str, Mapping[str, Sequence[Any]]] | None, columns: Mapping[str, tuple[str, ...]]
) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Modality -> column of classes -> its classes, of which the columns of numbers exist."""
    checked: dict[str, dict[str, tuple[Any, ...]]] = {}
    for name, own in (levels or {}).items():
        if name not in columns:
            raise InputError(f"levels: modality {name!r} has no named columns; {nearest(name, columns)}")
        places = {column: at for at, column in enumerate(columns[name])}
        for column, names in own.items():
            needed = Levels(tuple(names), column in places).columns(column)
            start = places.get(needed[0], -1) if needed else -1
            adjacent = columns[name][start : start + len(needed)] == tuple(needed)
            texts = {text_of(level) for level in names}
            if start < 0 or not adjacent or len(texts) < len(names):
                raise InputError(
                    f"levels: got {len(names)} classes of column {column!r} of modality {name!r}; expected distinct ones, and adjacent "
                    f"columns {named(needed)}; name them so in columns="
                )
            checked.setdefault(name, {})[column] = tuple(names)
    return checked


def check_precision(stored: Batch) -> None:
    """Warn of columns of float64 or integers whose variance is lost when a model converts them to float32."""
    for row, (name, x) in zip(stored.mask, stored.data.items(), strict=True):
        if x.dtype not in (torch.float64, torch.int64, torch.int32) or not bool(row.any()):
            continue
        some = torch.linspace(0, int(row.sum()) - 1, min(_ROWS, int(row.sum()))).long().to(x.device)
        index = row.nonzero()[:, 0][some]
        entries = stored.entries.get(name)
        values, rounded = (y.double().flatten(1) for y in (x[index], x[index].float()))
        seen = torch.ones_like(values, dtype=torch.bool) if entries is None else entries[index].flatten(1)
        count = seen.sum(0).clamp(min=1)
        mean = torch.where(seen, values, 0).sum(0) / count
        spread = torch.where(seen, (values - mean).square(), 0).sum(0).div(count).sqrt()
        error = torch.where(seen, (values - rounded).square(), 0).sum(0).div(count).sqrt()
        high = torch.where(seen, values, -math.inf).amax(0)
        constant = high == torch.where(seen, values, math.inf).amin(0)  # of which nothing is lost
        lost = ((error > _LOST * spread) & ~(constant & error.isfinite())).nonzero()[:, 0].tolist()
        if lost:
            warnings.warn(
                f"modality {name!r}: column {lost[0]}{f' and {len(lost) - 1} more' if lost[1:] else ''} (mean "
                f"{float(mean[lost[0]]):.6g}, standard deviation {float(spread[lost[0]]):.3g}) loses its variance in "
                "float32; subtract the mean before, or train with precision='fp64'",
                stacklevel=3,
            )


def one_each(what: str, shape: tuple[int, ...], count: int) -> None:
    """Raises InputError unless ``shape`` is (count,)."""
    if shape != (count,):
        raise InputError(
            f"{what}: got shape {shape}; expected ({count},), one per sample; check which rows they belong to"
        )


def row_numbers(index: Tensor | NDArray[Any] | Sequence[int], count: int) -> Tensor:
    """The rows that ``index`` selects among ``count``: [B] int64, on the host."""
    rows = torch.as_tensor(index if isinstance(index, Tensor) else numpy_array("rows", index)).cpu()
    if rows.dtype == torch.bool and rows.shape == (count,):
        return rows.nonzero()[:, 0]
    if rows.ndim != 1 or (rows.dtype.is_floating_point and len(rows)) or rows.dtype == torch.bool:
        raise InputError(
            f"rows: got {rows.dtype} of shape {tuple(rows.shape)}; expected row numbers [B], or bool ({count},); "
            "give one integer per sample"
        )
    rows = rows.long()
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        raise InputError(
            f"rows: got row numbers from {int(rows.min())} to {int(rows.max())}; expected 0 to {count - 1}; "
            "number the rows of this very data"
        )
    return rows


def gaps_of(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Which rows lack a modality, on the host: [N] bool; and the mask on the host, if the data are on another device."""
    mask = batch.mask.cpu()
    return ~mask.all(0), None if batch.device.type == "cpu" else mask

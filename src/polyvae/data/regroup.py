"""Columns of data in memory as those of classes: integer codes, and classes in another order or number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polyvae.core.batch import Batch
from polyvae.data.groups import Codes, Levels, Unseen, generated, groups_of, original, text_of
from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.classes import Ask, Asked
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.text import named

KINDS = ("categorical", "ordinal", "real", "count", "binary")
_MOST = 1000  # classes of a column


def check_kinds(kinds: Any) -> None:
    """Raises InputError unless ``kinds`` is modality -> column -> one of ``KINDS``, or the classes of an ordinal in order."""
    if kinds is None:
        return
    nested = isinstance(kinds, Mapping) and all(isinstance(own, Mapping) for own in kinds.values())
    if not nested:
        raise InputError(
            f"kinds: got {kinds!r}; expected modality -> column -> kind; such as {{'clinical': {{'stage': 'ordinal'}}}}"
        )
    for own in kinds.values():
        for column, kind in own.items():
            if isinstance(kind, str) and kind not in KINDS:
                raise InputError(f"kinds: got {kind!r} for column {column!r}; {nearest(kind, KINDS)}")
            levels = [] if isinstance(kind, str) else list(kind) if isinstance(kind, list | tuple) else None
            plain = levels is not None and all(
                isinstance(level, str | bool | int | float) for level in levels
            )
            if not isinstance(kind, str) and (
                not levels or not plain or len(set(map(text_of, levels))) < len(levels)
            ):
                raise InputError(
                    f"kinds: got {kind!r} for column {column!r}; expected one of {', '.join(KINDS)}, or the distinct classes of an ordinal "
                    "in order; choose one"
                )


def asked_for(kinds: Mapping[str, Mapping[str, Any]] | None) -> Ask:
    """What a person stated of the columns of each modality.

    Args:
        kinds: Modality -> column -> kind, or the classes of an ordinal in order; None: nothing is known.

    Raises:
        InputError: See ``check_kinds``.
    """
    check_kinds(kinds)
    return lambda name: Asked((kinds or {}).get(name, {}))


def with_kinds(data: MultimodalData, kinds: Mapping[str, Mapping[str, Any]] | None) -> MultimodalData:
    """The same data with columns of codes as columns of classes.

    Args:
        data: The data.
        kinds: Modality -> column -> kind, or the classes of an ordinal in order.

    Raises:
        InputError: An unknown modality or column; codes that are not whole numbers, or too many.
    """
    wanted: dict[str, dict[str, Levels]] = {}
    for name, own in (kinds or {}).items():
        if name not in data.names:
            raise InputError(f"kinds: modality {name!r} is not in the data; {nearest(name, data.names)}")
        columns = _columns(data, name)
        known = original(columns, data.levels.get(name, {}))
        for column, kind in own.items():
            if column not in known:
                raise InputError(
                    f"kinds: modality {name!r} has no column {column!r}; {nearest(column, known)}"
                )
            if not isinstance(kind, str):
                wanted.setdefault(name, {})[column] = Levels(tuple(kind), True)
            elif kind in ("categorical", "ordinal") and column not in data.levels.get(name, {}):
                wanted.setdefault(name, {})[column] = _of_codes(
                    data, name, columns.index(column), column, kind
                )
    return regrouped(data, wanted, "error")


def _columns(data: MultimodalData, name: str) -> list[str]:
    shape = data.observed(name).shape[1:]
    return list(data.columns.get(name, generated(name, math.prod(shape))))


def _of_codes(data: MultimodalData, name: str, place: int, column: str, kind: str) -> Levels:
    """The classes of a column of numbers: the values that occur, in order."""
    seen = data.observed(name).flatten(1)[:, place]
    values = np.unique(data.values(name).flatten(1)[:, place][seen].cpu().double().numpy())
    if not len(values) or len(values) > _MOST:
        raise InputError(
            f"kinds: got {len(values)} values in column {column!r} of modality {name!r}; expected 1 to {_MOST} classes; take it as 'real'"
        )
    whole = bool((values == np.floor(values)).all())
    return Levels(
        tuple(int(value) if whole else float(value) for value in values.tolist()), kind == "ordinal"
    )


def regrouped(
    data: MultimodalData, wanted: Mapping[str, Mapping[str, Levels]], unseen: Unseen
) -> MultimodalData:
    """The same data, whose columns of classes have the classes ``wanted``.

    Args:
        data: Data with columns of these names, as numbers or with other classes; columns that they lack are not added.
        wanted: Modality -> column -> its classes.
        unseen: What other classes are: "error", or "mask", which makes them missing.

    Raises:
        InputError: Other classes; a modality that is sparse or in a file.
    """
    changes = {name: _changed(data, name, own, unseen) for name, own in wanted.items() if name in data.names}
    changes = {name: change for name, change in changes.items() if change is not None}
    if not changes:
        return data
    stored, specs = dict[str, Any](), []
    columns, levels = dict(data.columns), {name: dict(own) for name, own in data.levels.items()}
    mask, entries = data.mask.clone(), dict(data.entries)
    for spec in data.modalities():
        name = spec.name
        change = changes.get(name)
        if change is None:
            stored[name] = torch.zeros(len(data), 0) if name in data.kept else data.values(name)
            specs.append(spec)
            continue
        values, own, names = change
        seen = torch.from_numpy(~np.isnan(values)).to(data.device)
        stored[name] = torch.from_numpy(np.nan_to_num(values)).to(data.device)
        mask[data.names.index(name)] = seen.any(1)
        entries.pop(name, None)
        if not bool((seen.all(1) | ~seen.any(1)).all()):
            entries[name] = seen
        columns[name], levels[name] = tuple(own), names
        specs.append(dataclasses.replace(spec, shape=(len(own),)))
    return data.replaced(
        Batch(stored, mask, entries, {}, bool(mask.all())), specs, columns, data.kept, levels
    )


def _changed(
    data: MultimodalData, name: str, wanted: Mapping[str, Levels], unseen: Unseen
) -> tuple[NDArray[np.float64], list[str], dict[str, tuple[Any, ...]]] | None:
    """Values with NaN where missing, names of columns and classes of one modality; None where they are as wanted."""
    columns, levels = _columns(data, name), data.levels.get(name, {})
    groups = {group.name: group for group in groups_of(columns, levels)}
    todo = {
        column: own
        for column, own in wanted.items()
        if (column in groups and groups[column].classes != own)
        or (column in columns and column not in groups)
    }
    if not todo:
        return None
    if name in data.kept:
        raise InputError(
            f"kinds: got columns of classes ({named(list(todo))}) in modality {name!r}, which is sparse or in a file; expected "
            "an array in memory; make it one"
        )
    seen = data.observed(name).flatten(1).cpu().numpy()
    values = data.values(name).flatten(1).cpu().double().numpy()
    starts = {group.start: group for group in groups.values()}
    parts, texts, names, at = list[NDArray[np.float64]](), list[str](), dict[str, tuple[Any, ...]](), 0
    while at < len(columns):
        group = starts.get(at)
        own = columns[at] if group is None else group.name
        span = slice(at, at + 1) if group is None else group.columns
        if own in todo:
            codes = _codes(values[:, span], seen[:, span], group.classes if group is not None else None)
            new = todo[own]
            parts.append(new.numbers(new.codes(f"modality {name!r}", own, codes, unseen)))
            texts += new.columns(own)
            names[own] = new.names
        else:
            parts.append(np.where(seen[:, span], values[:, span], np.nan))
            texts += columns[span]
            names |= {} if group is None else {own: group.classes.names}
        at = span.stop
    return np.concatenate(parts, 1), texts, names


def _codes(values: NDArray[np.float64], seen: NDArray[np.bool_], own: Levels | None) -> Sequence[Any]:
    """The classes of a column as they are in the data, None where missing."""
    known: list[bool] = np.asarray(seen.all(1), bool).tolist()
    if own is None:
        return [value if there else None for value, there in zip(values[:, 0].tolist(), known, strict=True)]
    places: Codes = (np.rint(values[:, 0]) if own.ranks else values.argmax(1)).astype(np.intp)
    return [own.names[at] if there else None for at, there in zip(places.tolist(), known, strict=True)]

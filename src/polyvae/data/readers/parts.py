"""One modality as it came in, and the outer join of several on their ids."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import is_absent, original, text_of
from polyvae.data.kept import Kept
from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.asking import Nan, check_given_ids
from polyvae.data.readers.covariates import aligned
from polyvae.data.sparse import is_sparse
from polyvae.utils.errors import InputError
from polyvae.utils.levels import mixes_booleans, warn_of_spellings
from polyvae.utils.text import counted, named

MOST = 2**31
"""Values of one sparse matrix that may become dense: 8 GiB in single precision."""


_SEVERAL = 5  # rows from which their numbers are compared


class Part(NamedTuple):
    """The rows of one modality.

    Args:
        values: [n, *shape] numbers, finite where observed; an array, a sparse matrix, or rows of a file.
        observed: [n, *shape] bool; None: all.
        columns: The names of the features, for values of one axis; None: unnamed.
        ids: n names of rows; None: rows are paired by position.
        labels: n labels that were a column beside the features.
        levels: Column of classes -> its classes; see ``polyvae.data.groups``.
        beside: Covariate -> n values that were a column beside the features; of text files as text, None where missing.
    """

    values: Any
    observed: NDArray[np.bool_] | None = None
    columns: tuple[str, ...] | None = None
    ids: list[Hashable] | None = None
    labels: list[Any] | None = None
    levels: Mapping[str, tuple[Any, ...]] = {}
    beside: Mapping[str, list[Any]] = {}


def checked(
    where: str,
    values: Any,
    columns: Sequence[str] | None,
    nan: Nan,
    levels: Mapping[str, tuple[Any, ...]] | None = None,
) -> Part:
    """Values with their missing entries. Raises InputError: an infinite value, or NaN where it is an error; columns are named."""
    if values.shape[0] == 0:
        raise InputError(
            f"{where}: got no rows; expected at least one sample; leave out a modality that nothing was measured of"
        )
    if values.ndim > 1 and values.shape[1] == 0:
        raise InputError(
            f"{where}: got no columns of numbers; expected at least one feature; check which columns were read"
        )
    if isinstance(values, Kept):
        return _on_disk(where, values, columns, nan)
    if is_sparse(values):
        if np.isfinite(values.data).all():
            return Part(values)
        values = dense(where, values)
    if values.dtype.kind != "f":
        return Part(values)
    finite = np.isfinite(values)
    if finite.all():
        return Part(values)
    missing = np.isnan(values)
    if (wrong := ~finite & ~missing).any():
        raise InputError(
            f"{where}: got {counted(int(wrong.sum()), 'infinite value', 'infinite values')} {_located(wrong, columns)}; expected finite "
            "numbers; replace them, by NaN where they were not measured"
        )
    if nan == "error":
        where_missing = _located(missing, columns)
        if levels and columns is not None:
            lacking = [columns[at] for at in np.flatnonzero(missing.any(0)).tolist()]
            names = original(lacking, levels)
            where_missing = f"in {counted(len(names), 'column', 'columns')} ({named(names)})"
        raise InputError(
            f"{where}: got {counted(int(missing.sum()), 'value', 'values')} NaN or null {where_missing}; expected numbers; "
            "pass nan='missing' where they mark entries that were not measured"
        )
    return Part(np.where(missing, 0, values), ~missing)


def _on_disk(where: str, values: Kept, columns: Sequence[str] | None, nan: Nan) -> Part:
    """As ``checked``, by pieces. There is a mask of entries only where one is missing."""
    observed: NDArray[np.bool_] | None = None
    for piece in values.pieces() if values.dtype.kind == "f" else ():
        x = values.read(piece)
        if np.isfinite(x).all():
            continue
        found = checked(where, x, columns, nan).observed
        observed = np.ones(values.shape, bool) if observed is None else observed
        observed[piece] = found
    return Part(values, observed)


def _located(wrong: NDArray[np.bool_], columns: Sequence[str] | None) -> str:
    if wrong.ndim != 2:
        return f"in {counted(int(wrong.reshape(len(wrong), -1).any(1).sum()), 'row', 'rows')}"
    where = np.flatnonzero(wrong.any(0)).tolist()
    names = [columns[place] if columns is not None else place for place in where]
    return f"in {counted(len(names), 'column', 'columns')} ({named(names)})"


def dense(where: str, x: Any) -> NDArray[np.float32]:
    """A sparse matrix [n, F] as an array. Raises InputError: it is too large."""
    if x.shape[0] * x.shape[1] > MOST:
        raise InputError(
            f"{where}: got missing values in a sparse matrix of {x.shape[0]:,} x {x.shape[1]:,}; expected at most {MOST:,} values, because "
            "it becomes dense; select features first, such as highly variable genes"
        )
    return np.asarray(x.astype(np.float32).toarray())


def joined(
    parts: Mapping[str, Part],
    *,
    labels: Any = None,
    order: Sequence[Hashable] | None = None,
    overlap: bool = True,
    **settings: Any,
) -> MultimodalData:
    """The outer join of the parts on their ids, or by position where they have none.

    Args:
        parts: Name -> part. Either all have ids, or none.
        labels: See ``MultimodalData.from_frames``; None: the labels of the parts, if any.
        order: The order of the samples; None: of first appearance.
        overlap: Whether some sample must have two modalities, where there are two or more.
        **settings: Arguments of MultimodalData.

    Raises:
        InputError: No modality, ids that are missing or repeated, different lengths without ids, no overlap.
    """
    features = {name: part for name, part in parts.items() if part.values.ndim < 2 or part.values.shape[1]}
    if not features:
        raise InputError(
            "data: got no modality; expected at least one with features; pass a mapping from names to tables"
        )
    places, ids = _places(parts, order)
    count = len(ids) if ids is not None else next(iter(parts.values())).values.shape[0]
    own = _own_labels(parts, places, count)
    if labels is not None and own is not None:
        raise InputError("labels: got them twice; expected one source; drop the column or the argument")
    if overlap and ids is not None and len(features) > 1:
        _check_overlap(
            {name: parts[name] for name in features}, {name: places[name] for name in features}, count
        )
    values, mask, entries = {}, {}, {}
    for name, part in features.items():
        values[name], present, gaps = _spread(part, places[name], count)
        if not present.all():
            mask[name] = present
        if gaps is not None:
            entries[name] = gaps
    numbers, classes = numbered(labels if own is None else own, ids, count)
    if classes is not None:
        settings["card"] = {**(settings.get("card") or {}), "classes": classes}
    if settings.get("covariates") is not None:
        settings["covariates"] = aligned(settings["covariates"], ids, count)
    columns = {name: part.columns for name, part in features.items() if part.columns is not None}
    levels = {name: part.levels for name, part in features.items() if part.levels}
    return MultimodalData(
        values,
        mask=mask or None,
        entries=entries or None,
        ids=ids,
        labels=numbers,
        columns=columns or None,
        levels=levels or None,
        **settings,
    )


def _places(
    parts: Mapping[str, Part], order: Sequence[Hashable] | None
) -> tuple[dict[str, NDArray[np.int64]], list[Hashable] | None]:
    """The row of each row of each part in the joined data, and the ids."""
    without = [name for name, part in parts.items() if part.ids is None]
    if len(without) == len(parts):
        lengths = {name: part.values.shape[0] for name, part in parts.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"data: got different numbers of rows without ids, {lengths}; expected ids, or one row per sample in every modality; "
                "name the samples"
            )
        return {name: np.arange(length) for name, length in lengths.items()}, None
    if without:
        raise InputError(
            f"data: got ids for some modalities and none for {named(without)}; expected ids for all or none; name the samples of each"
        )
    found: dict[str, int] = {}
    ids: list[Hashable] = []
    for value in order or ():
        found[text_of(value)] = len(ids)
        ids.append(value)
    places = {}
    for name, part in parts.items():
        own: list[Hashable] = part.ids or []
        rows = []
        for text, value in zip(check_given_ids(f"modality {name!r}", own), own, strict=True):
            if text not in found:
                found[text] = len(ids)
                ids.append(value)
            rows.append(found[text])
        places[name] = np.asarray(rows, dtype=np.int64)
    return places, ids


def _check_overlap(parts: Mapping[str, Part], places: Mapping[str, NDArray[np.int64]], count: int) -> None:
    """Raises InputError where no sample has two modalities; warns of transposed tables and of ids that differ in their spelling alone."""
    seen = np.zeros(count, dtype=np.int64)
    for rows in places.values():
        seen[rows] += 1
    alike, turned, shifted = _alike(parts), _transposed(parts), _shifted(parts)
    if int(seen.max()) < 2:
        hint = "".join(f"; {text}" for text in (alike, turned or _both_transposed(parts), shifted) if text)
        first = {name: text_of((part.ids or [""])[0]) for name, part in parts.items()}
        raise InputError(
            f"data: got no sample with two modalities (first ids: {first}){hint}; expected ids in common; correct them, or choose the id "
            "column with id="
        )
    if alike:
        warnings.warn(f"data: {alike}; they are different samples here; correct the ids", stacklevel=4)
    if turned:
        warnings.warn(f"data: {turned}", stacklevel=4)
    if shifted:
        warnings.warn(
            f"data: {shifted}; they are joined by these numbers; correct the ids if rows are the same samples",
            stacklevel=4,
        )


def _transposed(parts: Mapping[str, Part]) -> str:
    """A hint where the columns of a table, and none of its rows, are samples of the others."""
    ids = {name: {text_of(value) for value in part.ids or []} for name, part in parts.items()}
    for name, part in parts.items():
        others = set().union(*(own for other, own in ids.items() if other != name))
        swapped = len(others.intersection(part.columns or ()))
        if swapped > 1 and not ids[name] & others:
            return f"modality {name!r} has {swapped} ids of samples of the others as names of columns, and none as a row: transpose it"
    return ""


def _both_transposed(parts: Mapping[str, Part]) -> str:
    """A hint where the tables have column names in common and no ids."""
    common = set.intersection(*(set(part.columns or ()) for part in parts.values()))
    if len(common) < 2:
        return ""
    return (
        f"{counted(len(common), 'column name is', 'column names are')} in common ({named(sorted(common), 3)}): if columns are samples, "
        "transpose the tables"
    )


def _alike(parts: Mapping[str, Part]) -> str:
    """How many ids would be in common if case, white space and leading zeros did not matter."""
    texts = {name: {text_of(value) for value in part.ids or []} for name, part in parts.items()}
    spelled: dict[str, set[str]] = {}
    for own in texts.values():
        for text in own:
            spelled.setdefault(text.strip().casefold().lstrip("0") or "0", set()).add(text)
    pairs = []
    for several in spelled.values():
        # Ids that differ inside one modality are meant to differ.
        if len(several) > 1 and all(len(several & own) < 2 for own in texts.values()):
            pairs.append(sorted(several))
    if not pairs:
        return ""
    return (
        f"{counted(len(pairs), 'id differs', 'ids differ')} between modalities in case, white space or leading zeros alone, such as "
        f"{pairs[0][0]!r} and {pairs[0][1]!r}"
    )


def _shifted(parts: Mapping[str, Part]) -> str:
    """A hint where two tables of as many rows number them from different starts, as from 0 and from 1."""
    starts: dict[int, dict[int, str]] = {}
    for name, part in parts.items():
        first, count = text_of((part.ids or [""])[0]), len(part.ids or ())
        if count >= _SEVERAL and first.isascii() and first.isdecimal():
            start = int(first)
            if all(text_of(value) == str(start + at) for at, value in enumerate(part.ids or ())):
                starts.setdefault(count, {}).setdefault(start, name)
    for count, own in starts.items():
        if len(own) > 1:
            (a, one), (b, other), *_ = own.items()
            return f"the rows of modality {one!r} are numbered from {a} and those of {other!r} from {b}, {count} in each, as if shifted"
    return ""


def _spread(
    part: Part, rows: NDArray[np.int64], count: int
) -> tuple[Any, NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Values, mask and entry mask for all samples."""
    mask = np.zeros(count, dtype=bool)
    mask[rows] = True
    if len(rows) == count and bool((rows == np.arange(count)).all()):
        return part.values, mask, part.observed
    if is_sparse(part.values) or isinstance(part.values, Kept):
        one = part.values if isinstance(part.values, Kept) else Kept(part.values)
        return one.placed(rows, count), mask, _placed(part.observed, rows, count)
    values = np.zeros((count, *part.values.shape[1:]), dtype=part.values.dtype)
    values[rows] = part.values
    return values, mask, _placed(part.observed, rows, count)


def _placed(
    observed: NDArray[np.bool_] | None, rows: NDArray[np.int64], count: int
) -> NDArray[np.bool_] | None:
    if observed is None:
        return None
    gaps = np.zeros((count, *observed.shape[1:]), dtype=bool)
    gaps[rows] = observed
    return gaps


def _own_labels(
    parts: Mapping[str, Part], places: Mapping[str, NDArray[np.int64]], count: int
) -> list[Any] | None:
    """[N] labels that were columns. Raises InputError where two modalities disagree."""
    if all(part.labels is None for part in parts.values()):
        return None
    found: list[Any] = [None] * count
    for name, part in parts.items():
        for row, label in zip(
            places[name].tolist(), part.labels or [None] * part.values.shape[0], strict=True
        ):
            if is_absent(label):
                continue
            if found[row] is not None and text_of(found[row]) != text_of(label):
                raise InputError(
                    f"labels: got {found[row]!r} and {label!r} for one sample; expected the same label in every table; correct one"
                )
            found[row] = label
    return found


def numbered(labels: Any, ids: Sequence[Hashable] | None, count: int) -> tuple[Any, list[Any] | None]:
    """Labels as class numbers [N], −1 where missing, and the names of the classes; None where numbers were given.

    Args:
        labels: A mapping from ids to classes, or a sequence [N].
        ids: The ids of the samples.
        count: N.
    """
    if labels is None:
        return None, None
    if isinstance(labels, Mapping):
        by_text = {text_of(key): value for key, value in labels.items()}
        if ids is None or not any(text_of(key) in by_text for key in ids):
            raise InputError(
                "labels: got a mapping that names no sample of the data; expected ids of samples as keys; check their spelling"
            )
        labels = [by_text.get(text_of(key)) for key in ids]
    given = list(labels)
    if len(given) != count:
        raise InputError(
            f"labels: got {len(given)}; expected {count}, one per sample; pass a mapping from ids to classes"
        )
    known = [label for label in given if not is_absent(label)]
    if mixes_booleans(known):
        raise InputError(
            "labels: got booleans beside numbers; expected one of both; write True as 1 and False as 0 where they are numbers"
        )
    if all(isinstance(label, Real) for label in known):
        wrong = [label for label in known if not math.isfinite(label) or label != int(label)]
        if wrong:
            raise InputError(
                f"labels: got {wrong[0]!r}; expected classes, as whole numbers or texts; divide amounts into classes, or write the names "
                "of classes as text"
            )
        return np.asarray([-1 if is_absent(label) else int(label) for label in given]), None
    classes = sorted({text_of(label) for label in known})
    warn_of_spellings("labels", classes)
    number = {name: place for place, name in enumerate(classes)}
    return np.asarray([-1 if is_absent(label) else number[text_of(label)] for label in given]), classes

"""Warnings of columns of a table that are read, and hardly mean what they are read as: one line for a table and a reason."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import Levels, text_of
from polyvae.utils.levels import warn_of_spellings
from polyvae.utils.text import counted, named

FEW = 10
"""Values from which anything is concluded."""
AS_CLASSES = "take them as classes with kinds={NAME: {COLUMN: 'categorical'}}"
_FEW_CODES = (
    "they are few with a gap between them, or two that are not 0 and 1, as codes are; take them as classes with "
    "kinds={NAME: {COLUMN: 'categorical'}}, as ranks with 'ordinal', or state that they are amounts with 'real' or counts with 'count'"
)
_LOOK = 50  # rows that are looked at in every column
_LARGE = 10_000  # whole numbers from it that repeat are codes rather than counts
_SMALL = 100  # the largest number of few that are taken for codes
_DISTINCT = 10  # so many different values are few
_OFTEN = (3, 0.02)  # rows, and share of the rows, in which each of few codes occurs
_CHANCE = 0.05  # share of the columns of whole numbers of a table below which some have gaps by chance, as in wide tables of counts
_STEP = 10  # the largest common divisor of the differences of codes; prices and the like are rounded to more
MARKS = {"-", "--", "---", ".", "..", "?", "*", "–", "—", "na", "n/a", "n.a.", "n.a", "n.d.", "#n/a", "#value!", "#ref!", "#div/0!", "nan",
         "null", "none", "<na>", "missing", "unknown", "[not available]", "not available", "[unknown]", "[not applicable]",
         "not applicable", "not reported"}  # fmt: skip
_ID = {
    "", "id", "ids", "index", "sample", "samples", "patient", "subject", "participant", "cell", "barcode", "name", "row", "rowname",
    "rownames", "unnamed: 0", "donor", "case", "key",
}  # fmt: skip


def is_id(header: str) -> bool:
    """Whether a column of this name contains ids, by its name."""
    plain = header.strip().lower().replace(" ", "_")
    return plain in _ID or plain.endswith(("_id", "_ids")) or plain in ("sampleid", "patientid", "unnamed:_0")


def warn_of_numbers(
    where: str, names: Sequence[str], values: NDArray[Any], known: Collection[str] = ()
) -> None:
    """Warn of columns of whole numbers that look like dates, ids or codes.

    Args:
        where: The table.
        names: Its columns.
        values: [n, F], NaN where missing.
        known: Columns of which a person stated what they are.
    """
    reasons: dict[str, dict[str, str]] = {}
    places, few = _whole(values), dict[str, str]()
    for at in places:
        x = values[:, at]
        x = x[~np.isnan(x)]
        whole = bool((np.isfinite(x) & (x == np.floor(x))).all())
        if names[at] in known or not whole:
            continue
        if reason := _reason(names[at], x):
            reasons.setdefault(reason, {})[names[at]] = str(int(x[0]))
        elif found := _few_codes(x):
            few[names[at]] = ", ".join(map(str, found))
    if few and len(few) >= _CHANCE * len(places):
        reasons[_FEW_CODES] = few
    for reason, own in reasons.items():
        first = next(iter(own.values()))
        warnings.warn(
            f"{where}: {counted(len(own), 'column', 'columns')} of whole numbers ({named(list(own))}; such as {first}) "
            f"{'is' if len(own) == 1 else 'are'} taken as numbers; {reason}",
            stacklevel=4,
        )


def _whole(values: NDArray[Any]) -> list[int]:
    """Columns that contain whole numbers alone, by their first rows."""
    some = values[:_LOOK]
    with np.errstate(invalid="ignore"):
        return np.flatnonzero(
            ((some == np.floor(some)) | np.isnan(some)).all(0) & np.isfinite(some).any(0)
        ).tolist()


def _reason(name: str, x: NDArray[Any]) -> str:
    """What whole numbers look like, with the remedy; "" where they are inconspicuous."""
    if len(x) < 3:
        return ""
    low, high = float(x.min()), float(x.max())
    days = x % 100
    if (
        _within(1900_01_01, 2100_12_31, low, high)
        and _months(x // 100)
        and 1 <= days.min() <= days.max() <= 31
    ):
        return "the values look like dates; convert them to a number of days, or drop them"
    if len(x) < FEW or low == high or high >= 2**53:
        return ""
    if _within(1900_01, 2100_12, low, high) and _months(x):
        return "the values look like years and months; convert them to a number of months, or drop them"
    steps = bool((np.diff(x) == 1).all())
    if steps or (high - low == len(x) - 1 and len(x) >= 2 * FEW and _all_differ(x)):
        return "the values number the rows, as ids do; name the id column with id=, or drop them"
    if is_id(name) and _all_differ(x):
        return "the values are all different, as ids are; name the id column with id=, or drop them"
    if low >= _LARGE and _are_codes(np.unique(x), len(x)):
        return f"the values are large and repeat, as codes do; {AS_CLASSES}, or drop them"
    return ""


def _few_codes(x: NDArray[Any]) -> list[int]:
    """The values of whole numbers that are few, each of them frequent, with a gap between them that counts would not have; else none."""
    if len(x) < FEW or float(x.max()) > _SMALL or float(x.min()) < 0 or len(np.unique(x[:_LOOK])) > _DISTINCT:
        return []
    distinct, times = np.unique(x, return_counts=True)
    steps = np.diff(distinct)
    if not 1 < len(distinct) <= _DISTINCT or times.min() < max(_OFTEN[0], _OFTEN[1] * len(x)):
        return []
    if np.gcd.reduce(distinct.astype(np.int64)) > 1 and np.gcd.reduce(steps.astype(np.int64)) > 1:
        return []  # doses, percentages and other amounts that are rounded
    gap = bool((steps > 1).any()) or (len(distinct) == 2 and float(distinct[0]) > 0)
    return distinct.astype(np.int64).tolist() if gap else []


def _within(first: float, last: float, low: float, high: float) -> bool:
    return first <= low <= high <= last


def _all_differ(x: NDArray[Any]) -> bool:
    return len(np.unique(x)) == len(x)


def _are_codes(distinct: NDArray[Any], count: int) -> bool:
    """Whether large whole numbers repeat, and are not rounded as amounts are."""
    if not 2 < len(distinct) <= count // 2:
        return False
    return int(np.gcd.reduce(np.diff(distinct).astype(np.int64))) < _STEP


def _months(x: NDArray[Any]) -> bool:
    """Whether these are years and months, such as 201912."""
    return bool(((x % 100 >= 1) & (x % 100 <= 12)).all())


def warn_of_classes(
    where: str,
    levels: Mapping[str, Levels],
    cells: Mapping[str, Sequence[Any]],
    known: Collection[str] = (),
) -> None:
    """Warn of classes that look like marks of missing values, that differ in their spelling alone, or of which there is only one.

    Args:
        where: The table.
        levels: Column -> its classes.
        cells: Column -> its cells, None where missing.
        known: Columns of which a person stated what they are.
    """
    _warn_of_marks(where, levels)
    for name, own in levels.items():
        warn_of_spellings(f"{where}: classes of column {name!r}", own.names)
    single = {}
    for name in levels:
        present = [text_of(value) for value in cells[name] if value is not None]
        if name not in known and len(present) >= FEW and len(set(present)) == 1:
            single[name] = present[0]
    if single:
        warnings.warn(
            f"{where}: {counted(len(single), 'column', 'columns')} of classes ({named(list(single))}; such as "
            f"{next(iter(single.values()))!r}) {'has' if len(single) == 1 else 'have'} the same class in all rows; expected two classes or "
            "more; drop what does not vary",
            stacklevel=4,
        )


def _warn_of_marks(where: str, levels: Mapping[str, Levels]) -> None:
    """Warn of classes that look like marks of missing values."""
    found = {
        name: level
        for name, own in levels.items()
        for level in own.names
        if isinstance(level, str) and level.strip().lower() in MARKS
    }
    if found:
        name, level = next(iter(found.items()))
        warnings.warn(
            f"{where}: {level!r} of column {name!r}{f' and {len(found) - 1} more' if len(found) > 1 else ''} is taken as a class and looks "
            "like a mark of missing values; replace it by an empty cell or NaN",
            stacklevel=4,
        )


def warn_of_zeros(where: str, found: Mapping[str, str], known: Collection[str] = ()) -> None:
    """Warn of columns of numbers that are written with leading zeros, as codes are.

    Args:
        where: The table.
        found: Column -> such a cell.
        known: Columns of which a person stated what they are.
    """
    codes = {name: cell for name, cell in found.items() if name not in known}
    if codes:
        warnings.warn(
            f"{where}: {counted(len(codes), 'column', 'columns')} of numbers with leading zeros ({named(list(codes))}; such as "
            f"{next(iter(codes.values()))!r}) {'is' if len(codes) == 1 else 'are'} taken as numbers; codes are written so; "
            f"{AS_CLASSES}, or drop them",
            stacklevel=4,
        )

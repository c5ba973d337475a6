"""y as times to an event, some of them censored: tables with two columns, structured arrays, pairs.

The time is the first of the two columns, and the event the second. Where the first alone consists of events (see ``flag_of``), as in the
structured arrays of scikit-survival, it is the event. The order and the values decide, and no name does, in Python as on the command line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import text_of
from polyvae.imputation.tables import Doubles, Flags
from polyvae.imputation.targets.cox import Survival
from polyvae.imputation.targets.target import Ids, Target, is_known, is_number, plain_value, values_of
from polyvae.utils.errors import InputError
from polyvae.utils.text import counted

_TEXTS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_DEAD = ("dead", "deceased", "died", "event", "relapse", "progression")
_LISTED = 4  # values that an error lists


class Times(NamedTuple):
    """Times to an event of N samples.

    Attributes:
        time: [N], zero where not known.
        event: [N] bool, whether the event was observed.
        known: [N] bool.
    """

    time: Doubles
    event: Flags
    known: Flags

    @classmethod
    def of(cls, y: Any, ids: Ids, count: int) -> Self:
        """Read two columns, time and event.

        Raises InputError: no two columns, one of two values missing, events that are not 0 and 1, negative or infinite times, no event.
        """
        given = _columns(y, count)
        if given is None or len(given) != 2:
            raise InputError(
                f"y: got {_found(given)}; expected two, time and event (0 or 1), or one of classes or numbers; select them, such as "
                "clinical[['days', 'died']]"
            )
        if event_first(*(column.values for column in given)):
            given = given[::-1]
        (times, has_time), (events, has_event) = (values_of(column.values, ids, count) for column in given)
        half = np.flatnonzero(has_time != has_event)
        if len(half):
            lacking, there = given[::-1] if has_time[half[0]] else given
            raise InputError(
                f"y: got a value in {there.name} without one in {lacking.name} for {counted(len(half), 'sample', 'samples')}, such as "
                f"{_which(half[0], ids)}; expected both or neither; complete them, or leave both out"
            )
        if not has_time.any():
            raise InputError("y: got no known time; expected one for some samples; leave y out")
        flags = _flags(events, has_event, given)
        found = cls(_numbers(times, has_time, given[0].name, ids), flags, has_time)
        if not found.event.any():
            raise InputError(
                f"y: got {int(has_time.sum())} times, all of them censored; expected an event (1, or True) for some; are 0 and 1 swapped?"
            )
        return found

    def rows(self, index: NDArray[np.intp]) -> Times:
        """Some of the samples."""
        return Times(self.time[index], self.event[index], self.known[index])

    def survival(self) -> Survival:
        """The times of the samples of which they are known."""
        return Survival(self.time[self.known], self.event[self.known])


class Column(NamedTuple):
    """One of several columns of y: its name in errors, such as "column 'days'", and its values."""

    name: str
    values: Any


def columns_in(y: Any, count: int) -> int:
    """The number of columns of y; classes and numbers have one, times to an event two.

    Args:
        y: What ``fit`` was given.
        count: The number of samples.
    """
    given = _columns(y, count)
    return 1 if given is None else len(given)


def event_first(first: Any, second: Any) -> bool:
    """Whether the first of two columns consists of events, and the second does not.

    Args:
        first: Values in the order of the samples, or a mapping from ids.
        second: As ``first``.
    """
    return _are_flags(first) and not _are_flags(second)


def flag_of(value: Any) -> bool | None:
    """Whether an event was observed: of booleans, of 0 and 1, and of the texts true, false, yes, no, 0 and 1 in any case; else None."""
    value = plain_value(value)
    if isinstance(value, str):
        return _TEXTS.get(value.strip().lower())
    return bool(value) if is_number(value, True) and value in (0, 1) else None


def _are_flags(values: Any) -> bool:
    every = list(values.values()) if isinstance(values, Mapping) else np.asarray(values, object).ravel()
    known = [value for value in every if is_known(value)]
    return bool(known) and all(flag_of(value) is not None for value in known)


# ---- columns ---------------------------------------------------------------------------------------------------


def _columns(y: Any, count: int) -> list[Column] | None:
    """The columns of a table, a mapping to tuples, or a sequence of them; None: one value for each sample."""
    if isinstance(y, Mapping):
        size = _size(y.values())
        parts = [{key: None if v is None else v[at] for key, v in y.items()} for at in range(size)]
        return _numbered(parts) if size else None
    if isinstance(y, np.ndarray) and y.dtype.names is not None:
        return _named(y.dtype.names, [y[name] for name in y.dtype.names])
    frame = nw.from_native(y, eager_only=True, pass_through=True)
    if not isinstance(frame, nw.DataFrame):
        return _rows(y, count)
    native = frame.to_native()
    if nw.dependencies.is_pandas_dataframe(native):
        columns = [native.iloc[:, at] for at in range(native.shape[1])]
        return _named([str(name) for name in native.columns], columns)
    return _named(frame.columns, [frame[name].to_list() for name in frame.columns])


def _rows(y: Any, count: int) -> list[Column] | None:
    """The columns of an array [N, C], or of a list of tuples, of which some may be None."""
    if isinstance(y, list | tuple):
        size = _size(y) if len(y) == count else 0
        table = np.array(
            [(None,) * size if each is None else tuple(each) for each in y] if size else [], object
        )
    else:
        table = np.asarray(y, dtype=object)
    if table.ndim != 2 or len(table) != count or table.shape[1] < 2:
        return None
    return _numbered([table[:, at] for at in range(table.shape[1])])


def _size(values: Iterable[Any]) -> int:
    """The length of tuples that all have the same, of which some may be None; 0: other values."""
    sizes = {_length(value) for value in values if value is not None}
    size = sizes.pop() if len(sizes) == 1 else 0
    return size if size > 1 else 0


def _length(value: Any) -> int:
    if isinstance(value, np.void) and value.dtype.names is not None:
        return len(value.dtype.names)
    return len(value) if isinstance(value, tuple | list | np.ndarray) and np.ndim(value) == 1 else 0


def _named(names: Sequence[str], values: Sequence[Any]) -> list[Column] | None:
    columns = [Column(f"column {name!r}", each) for name, each in zip(names, values, strict=True)]
    return columns if len(columns) > 1 else None


def _numbered(values: Sequence[Any]) -> list[Column]:
    ordinals = ["the first column", "the second column"]
    return [Column(ordinals[at] if at < 2 else f"column {at + 1}", each) for at, each in enumerate(values)]


def _found(given: list[Column] | None) -> str:
    if given is None:
        return "one column"
    named = [column.name.removeprefix("column ") for column in given if "'" in column.name]
    listed = f" ({', '.join(named[:_LISTED])}{', …' if len(named) > _LISTED else ''})" if named else ""
    return f"{len(given)} columns{listed}"


def _which(at: int, ids: Ids) -> str:
    """A sample, by its id or its place."""
    return f"sample {int(at) + 1}" if ids is None else f"sample {str(ids[at])!r}"


# ---- values ----------------------------------------------------------------------------------------------------


def _numbers(values: NDArray[Any], known: Flags, name: str, ids: Ids) -> Doubles:
    """Times [N]. Raises InputError: others than numbers of 0 or more; it names those that are wrong, and not texts of numbers beside."""
    found, wrong, texts = np.zeros(len(values)), [], []
    for at in np.flatnonzero(known).tolist():
        value = plain_value(values[at])
        number = _number(value)
        if number is None or not np.isfinite(number) or number < 0:
            wrong.append(at)
        elif isinstance(value, str):
            texts.append(at)
        else:
            found[at] = number
    if bad := wrong or texts:
        more = f" and {counted(len(bad) - 1, 'other', 'others')}" if len(bad) > 1 else ""
        shown = plain_value(values[bad[0]])
        raise InputError(
            f"y: got {shown!r} as the time of {_which(bad[0], ids)}{more}, in {name}; expected numbers of 0 or more, time first and event "
            f"second; {'correct them, or leave the samples out' if wrong else 'convert the texts to numbers'}"
        )
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return float(value) if is_number(value) else None


def _flags(values: NDArray[Any], known: Flags, given: Sequence[Column]) -> Flags:
    found = np.zeros(len(values), bool)
    flags = {int(at): flag_of(values[at]) for at in np.flatnonzero(known)}
    if None in flags.values():
        counts = Counter(text_of(plain_value(values[at])) for at in flags)
        often = ", ".join(f"{text!r} ({n})" for text, n in counts.most_common(_LISTED))
        raise InputError(
            f"y: got {counted(len(counts), 'value', 'values')} as events in {given[1].name}: {often}"
            f"{', …' if len(counts) > _LISTED else ''}; expected 0 (censored) and 1 (observed), booleans, or the texts true and false or "
            f"yes and no, after the times in {given[0].name}; convert them, such as status == {_likely(counts)}"
        )
    for at, flag in flags.items():
        found[at] = bool(flag)
    return found


def _likely(counts: Mapping[str, int]) -> str:
    """What the event may be called, for an example: the last of few values in order."""
    dead = [text for text in counts if text.lower() in _DEAD]
    last = dead[0] if dead else sorted(counts)[-1] if len(counts) <= _LISTED else "1"
    return last if last.lstrip("-").isdigit() else repr(last)


def of_y(y: Any, ids: Ids, count: int, kind: str) -> tuple[Target | None, Times | None]:
    """y as classes or numbers, or as times; both None without y.

    Args:
        y: What ``Estimator.fit`` takes.
        ids: The ids of the samples, if they have any.
        count: The number of samples.
        kind: "auto", or what the target is.

    Raises:
        InputError: Several columns where one is expected.
    """
    if y is None:
        return None, None
    columns = columns_in(y, count)
    if kind == "time" or (kind == "auto" and columns > 1):
        return None, Times.of(y, ids, count)
    if columns > 1:
        raise InputError(
            f"y: got {columns} columns with target={kind!r}; expected one; select it, or set target='time' for time and event"
        )
    return Target.fit(y, ids, count, kind), None

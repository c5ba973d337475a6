"""y as times to an event, some of them censored: tables with two columns, structured arrays, pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.cox import Survival
from polyvae.imputation.tables import Doubles, Flags
from polyvae.imputation.target import Ids, is_known, is_number, plain_value, values_of
from polyvae.utils.errors import InputError
from polyvae.utils.text import counted

_EVENTS = ("event", "status", "events")
_TEXTS = {"true": True, "false": False}


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
        pair = _pair(y, count)
        if pair is None:
            raise InputError(
                "y: got no two columns with target='time'; expected time and event, such as a data frame with these columns or a mapping "
                "from ids to (time, event); pass both"
            )
        (times, has_time), (events, has_event) = (values_of(column, ids, count) for column in pair.ordered())
        half = np.flatnonzero(has_time != has_event)
        if len(half):
            which = half[0] if ids is None else repr(ids[half[0]])
            lacking, there = ("event", "time") if has_time[half[0]] else ("time", "event")
            raise InputError(
                f"y: got {there} without {lacking} for {counted(len(half), 'sample', 'samples')}, such as {which}; "
                "expected both or neither; complete them, or leave both out"
            )
        if not has_time.any():
            raise InputError("y: got no known time; expected one for some samples; leave y out")
        found = cls(_numbers(times, has_time), _flags(events, has_event), has_time)
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


class _Pair(NamedTuple):
    """Two columns of y; ``swapped``: the event comes first."""

    first: Any
    second: Any
    swapped: bool

    def ordered(self) -> tuple[Any, Any]:
        """Time and event."""
        return (self.second, self.first) if self.swapped else (self.first, self.second)


def are_times(y: Any, count: int) -> bool:
    """Whether y has two columns, of which one has no other values than booleans, or 0 and 1, and the other has.

    Args:
        y: What ``fit`` was given.
        count: The number of samples.
    """
    pair = _pair(y, count)
    if pair is None:
        return False
    time, event = pair.ordered()
    return _is_event(event) and not _is_event(time)


def _pair(y: Any, count: int) -> _Pair | None:
    """The two columns; None: there are not two."""
    if isinstance(y, Mapping):
        values = list(y.values())
        if not values or not all(value is None or _is_two(value) for value in values):
            return None
        first, second = ({key: None if v is None else v[at] for key, v in y.items()} for at in (0, 1))
        return _Pair(first, second, False)
    if isinstance(y, np.ndarray) and y.dtype.names is not None:
        if len(y.dtype.names) != 2:
            return None
        return _named(y.dtype.names, [y[name] for name in y.dtype.names])
    frame = nw.from_native(y, eager_only=True, pass_through=True)
    if isinstance(frame, nw.DataFrame):
        if len(frame.columns) != 2:
            return None
        native = frame.to_native()
        if nw.dependencies.is_pandas_dataframe(native):
            return _named([str(name) for name in native.columns], [native.iloc[:, at] for at in (0, 1)])
        return _named(frame.columns, [frame[name].to_list() for name in frame.columns])
    return _rows(y, count)


def _rows(y: Any, count: int) -> _Pair | None:
    """The columns of an array [N, 2], or of a list of pairs, of which some may be None."""
    if isinstance(y, list | tuple):
        if len(y) != count or not any(_is_two(each) for each in y):
            return None
        if not all(each is None or _is_two(each) for each in y):
            return None
        table = np.array([(None, None) if each is None else tuple(each) for each in y], dtype=object)
    else:
        table = np.asarray(y, dtype=object)
    return _Pair(table[:, 0], table[:, 1], False) if table.shape == (count, 2) else None


def _is_two(value: Any) -> bool:
    if isinstance(value, np.void):
        return value.dtype.names is not None and len(value.dtype.names) == 2
    return isinstance(value, tuple | list | np.ndarray) and len(value) == 2


def _named(names: Sequence[str], columns: Sequence[Any]) -> _Pair:
    """Columns with names: the event is the one with no other values than 0 and 1; of two such, the one that is named so."""
    flags = [_is_event(column) for column in columns]
    swapped = (
        flags[0] if flags[0] != flags[1] else names[0].lower() in _EVENTS and names[1].lower() not in _EVENTS
    )
    return _Pair(columns[0], columns[1], swapped)


def _is_event(column: Any) -> bool:
    values = list(column.values()) if isinstance(column, Mapping) else np.asarray(column, object).ravel()
    known = [value for value in map(plain_value, values) if is_known(value)]
    return bool(known) and all(
        str(value).lower() in _TEXTS if isinstance(value, str) else is_number(value, True) and value in (0, 1)
        for value in known
    )


def _numbers(values: NDArray[Any], known: Flags) -> Doubles:
    found = np.zeros(len(values))
    for at in np.flatnonzero(known):
        value = plain_value(values[at])
        if not is_number(value) or not np.isfinite(value) or value < 0:
            raise InputError(
                f"y: got {value!r} as a time; expected numbers of 0 or more, the first of two columns; correct it, or leave the sample out"
            )
        found[at] = value
    return found


def _flags(values: NDArray[Any], known: Flags) -> Flags:
    found = np.zeros(len(values), bool)
    for at in np.flatnonzero(known):
        value = plain_value(values[at])
        value = _TEXTS.get(value.lower(), value) if isinstance(value, str) else value
        if not is_number(value, True) or value not in (0, 1):
            raise InputError(
                f"y: got {value!r} as an event; expected booleans, or 1 where the event was observed and 0 where not; convert them"
            )
        found[at] = bool(value)
    return found

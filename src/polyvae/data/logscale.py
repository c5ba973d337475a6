"""The scale log(1 + x) of counts and other amounts, and which tables are described on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.utils.errors import InputError, nearest
from polyvae.utils.text import counted, named

Asking = Literal["auto"] | bool
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

_FEWEST = 5  # columns of counts
_SKEWED = 1.0  # the median skewness of counts, from which they may be on this scale; that of a Poisson distribution is its mean^-½
_SHARE = 0.9  # of the columns, whose skewness this scale has to reduce
LARGEST = 69.0  # the logarithm of 1e30


class Moments(NamedTuple):
    """Means, variances (with divisor n) and skewnesses of the observed values of columns: [F] each; zero where nothing varies."""

    mean: Doubles
    variance: Doubles
    skewness: Doubles


def asked_for(log_scale: Any, names: Sequence[str]) -> dict[str, Asking]:
    """Modality -> whether it is described on the scale log(1 + x), or "auto".

    Args:
        log_scale: "auto", or some of the modalities.
        names: All of them.

    Raises:
        InputError: Anything else.
    """
    if isinstance(log_scale, str) and log_scale == "auto":
        return dict.fromkeys(names, "auto")
    if not isinstance(log_scale, (list, tuple)):
        raise InputError(
            f"log_scale: got {log_scale!r}; expected 'auto' or a list of modalities; such as {list(names[:1])!r}"
        )
    for name in log_scale:
        if name not in names:
            raise InputError(f"log_scale: there is no modality {name!r}; {nearest(str(name), names)}")
    return {name: name in log_scale for name in names}


def on_logs(kinds: Sequence[str]) -> Flags:
    """Which features of these kinds can be on the scale log(1 + x): numbers that are not 0 and 1 alone, [F]."""
    return np.isin(kinds, ("count", "real"))


def refuse_negative(name: str, columns: Sequence[str], negative: Flags) -> None:
    """Raises InputError: a column on the scale log(1 + x) has values below 0, [F]."""
    if negative.any():
        found = [columns[place] for place in np.flatnonzero(negative).tolist()]
        count = counted(len(found), "column", "columns")
        raise InputError(
            f"modality {name!r}, on the scale log(1 + x): got values below 0 in {count} ({named(found)}); "
            "expected amounts; correct them, or leave the modality out of log_scale"
        )


def logarithms(values: Doubles, columns: Flags) -> Doubles:
    """log(1 + x) in some columns, whose values are not negative, and x in the others: [..., F]."""
    return np.where(columns, np.log1p(np.where(columns, values, 0)), values)


def amounts(values: Doubles, columns: Flags) -> Doubles:
    """The inverse of ``logarithms``: [..., F]."""
    return np.where(columns, np.expm1(np.minimum(values, LARGEST)), values)


def moments(pieces: Iterable[tuple[Flags, Doubles]], size: int) -> Moments:
    """The moments of columns, from pieces of which entries were observed, and their values.

    Sums of powers are enough here: counts are small, or on the scale of their logarithms.

    Args:
        pieces: [n, F] and [n, F] each.
        size: F.
    """
    count, sums = np.zeros(size), np.zeros((3, size))
    for seen, x in pieces:
        kept = np.where(seen, x, 0)
        count += seen.sum(0)
        for power in range(3):
            sums[power] += (kept ** (power + 1)).sum(0)
    mean, second, third = sums / np.maximum(count, 1)
    variance = np.maximum(second - mean**2, 0)
    varies = variance > 1e-12 * np.maximum(second, 1e-300)
    variance = np.where(varies, variance, 0)
    cubes = third - 3 * mean * second + 2 * mean**3
    return Moments(mean, variance, np.where(varies, cubes, 0) / np.where(varies, variance, 1) ** 1.5)


def better(raw: Moments, logs: Moments, columns: Flags) -> bool:
    """Whether counts in these columns are closer to a symmetric distribution on the scale log(1 + x).

    So are counts of molecules. It takes five columns or more with a median skewness above 1, of which nine in ten have a smaller
    skewness in logarithms; ages and the grey levels of images have not.
    """
    varying = columns & (raw.variance > 0)
    if varying.sum() < _FEWEST or np.median(raw.skewness[varying]) <= _SKEWED:
        return False
    smaller = np.abs(logs.skewness[varying]) < np.abs(raw.skewness[varying])
    return bool(smaller.mean() >= _SHARE)


def chosen(
    name: str,
    columns: Sequence[str],
    kinds: Sequence[str],
    low: Sequence[float],
    asked: Asking,
    pieces: Callable[[], Iterable[tuple[Flags, Doubles]]],
) -> Moments | None:
    """The moments of a modality on the scale log(1 + x); None where it is not described on it.

    Args:
        name: The modality.
        columns: Its features.
        kinds: Their kinds.
        low: Their smallest values.
        asked: Whether it is asked for, or "auto".
        pieces: Returns which entries were observed and the values in units, some samples at a time.

    Raises:
        InputError: It is asked for, and there are values below 0.
    """
    logs = on_logs(kinds)
    if asked is False or (asked == "auto" and not set(kinds) <= {"count", "binary"}):
        return None
    refuse_negative(name, columns, logs & (np.asarray(low) < 0))
    found = moments(((seen, logarithms(x, logs)) for seen, x in pieces()), len(columns))
    if asked == "auto" and not better(moments(pieces(), len(columns)), found, logs):
        return None
    return found

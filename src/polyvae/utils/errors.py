"""Errors of one line: what, got, expected, remedy."""

from __future__ import annotations

import difflib
import math
import re
import reprlib
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real

SELECT = "data.only chooses modalities (in Python data.select(...))"
LABELS = "data.target makes the labels a target modality (in Python data.with_labels_as(...))"


class InputError(ValueError):
    """An argument, a file or a setting is invalid.

    The message is one line: what is invalid, what was got, what was expected, and a remedy.

    Example:
        >>> import polyvae as pv
        >>> try:
        ...     pv.Modality("image", (0, 28))
        ... except pv.InputError as problem:
        ...     print(problem)
        modality 'image': got shape (0, 28); expected positive sizes without the batch axis, such as (200,) or (3, 32, 32)
    """


_MOST = 40  # names in a message; there are some thirty models, and thousands of genes


def nearest(got: str, known: Iterable[str]) -> str:
    """The hint that ends an error about an unknown name: the nearest known one, else all of them.

    Upper and lower case, hyphens and the spelling of "+" do not matter.
    """
    names = [str(name) for name in known]
    by_plain = {_plain(name): name for name in reversed(names)}
    plain = _plain(str(got))
    close = [plain] if plain in by_plain else difflib.get_close_matches(plain, by_plain, n=1, cutoff=0.5)
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    listed = f"known: {', '.join(names[:_MOST]) or 'none'}{more}"
    if not close:
        return listed
    return f"did you mean {by_plain[close[0]]!r}?" + (f" ({listed})" if len(names) <= 6 else "")


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower().replace("+", "plus"))


def check_count(where: str, key: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Raises InputError unless ``value`` is a whole number, of Python or NumPy, of at least ``least`` and at most ``most``."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise InputError(
            f"{where}: got {key}={value!r}; expected a whole number, {least} or more; such as {max(least, 1)}"
        )
    if most is not None and int(value) > most:
        raise InputError(
            f"{where}: got {key}={reprlib.repr(value)}; expected a whole number from {least} to {most:,}; such as {max(least, 1)}"
        )


@contextmanager
def reading(where: str, expected: str, remedy: str) -> Iterator[None]:
    """Around calls of libraries with the contents of a file: whatever they raise becomes one InputError, with that error as its cause."""
    try:
        yield
    except InputError:
        raise
    except Exception as problem:
        why = textwrap.shorten(f"{type(problem).__name__}: {problem}", 200, placeholder=" ...")
        raise InputError(
            f"{where}: got contents that cannot be used ({why}); expected {expected}; {remedy}"
        ) from problem

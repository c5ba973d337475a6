"""Errors of one line: what, got, expected, remedy."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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


def nearest(got: str, known: Iterable[str]) -> str:
    """The hint that ends an error about an unknown name: the nearest known one, else all of them."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(str(got), names, n=1, cutoff=0.5)
    known = f"known: {', '.join(names) or 'none'}"
    if not close:
        return known
    return f"did you mean {close[0]!r}?" + (f" ({known})" if len(names) <= 6 else "")


def check_count(where: str, key: str, value: object, least: int = 1) -> None:
    """Raises InputError unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{where}: got {key}={value!r}; expected a whole number, {least} or more")


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

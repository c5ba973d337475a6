"""A value for each sample, as numbers, or as the levels that it takes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyvae.utils.arrays import Table, numpy_array, whole_array
from polyvae.utils.errors import InputError, is_number
from polyvae.utils.text import named

_TRUTH = ("False", "True")


def column(what: str, x: Any, count: int) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    """Values of ``count`` samples: [count] float64, or int64 numbers of levels and the names of these.

    Args:
        what: Subject of the error.
        x: [count] or one value for all. Texts, booleans and a Categorical of pandas are levels.
        count: The number of samples.

    Warns:
        UserWarning: Levels that differ in case or white space alone.

    Raises:
        InputError: Another number of values, a missing value, values that are neither texts nor numbers, or both.
    """
    if isinstance(x, str | bool) or is_number(x):
        x = [x] * count
    ordered = _categories(x)
    given = numpy_array(what, _present(what, x))
    if given.shape != (count,):
        raise InputError(
            f"{what}: got shape {given.shape}; expected ({count},), one per sample; check which rows they belong to"
        )
    if given.dtype.kind == "O":
        given = _alike(what, given, ordered is not None)
    if ordered is None and given.dtype.kind in "iuf":
        return _numbers(what, given), None
    if ordered is None and given.dtype.kind not in "UTb":
        raise InputError(f"{what}: got {given.dtype}; expected texts, booleans or numbers; convert them")
    texts = [str(value) for value in given.tolist()]
    names = ordered or (_TRUTH if given.dtype.kind == "b" else tuple(sorted(set(texts))))
    warn_of_spellings(what, names)
    place = {name: at for at, name in enumerate(names)}
    return np.array([place[text] for text in texts], dtype=np.int64), names


def warn_of_spellings(what: str, names: Sequence[Any]) -> None:
    """Warn of levels that differ in case or white space alone, such as "male" and " Male".

    Args:
        what: Subject of the warning.
        names: The levels; those that are no texts are no concern.
    """
    if several := spellings(names):
        warnings.warn(
            f"{what}: {named(several)} differ in case or white space alone and are different classes here; write them the same "
            "way, as with .str.strip().str.lower()",
            stacklevel=3,
        )


def spellings(names: Sequence[Any]) -> list[str]:
    """The texts among ``names`` that are equal but for case and white space; empty where there are none."""
    alike: dict[str, list[str]] = {}
    for name in names:
        if isinstance(name, str):
            alike.setdefault(" ".join(name.casefold().split()), []).append(name)
    return [name for own in alike.values() if len(own) > 1 for name in own]


def mixes_booleans(values: Sequence[Any]) -> bool:
    """Whether there are booleans and numbers, so that it is not known which of both the values are."""
    kinds = {isinstance(value, bool | np.bool_) for value in values if isinstance(value, Real | np.bool_)}
    return len(kinds) > 1


def _alike(what: str, given: NDArray[Any], categories: bool) -> NDArray[Any]:
    """Python objects of one type as an array of it."""
    values = given.tolist()
    kinds = {type(value) for value in values}
    for found, made in (((str,), str), ((bool, np.bool_), bool)):
        if all(issubclass(kind, found) for kind in kinds):
            return given.astype(made)
    if categories:
        return given
    if all(isinstance(value, Real) for value in values) and not mixes_booleans(values):
        return given.astype(np.float64)
    raise InputError(
        f"{what}: got values of types {', '.join(sorted(kind.__name__ for kind in kinds))}; expected texts, booleans or "
        "numbers, and none missing; convert them, and give missing ones a level of their own"
    )


def _numbers(what: str, given: NDArray[Any]) -> NDArray[Any]:
    bad = int((~np.isfinite(given)).sum())
    if bad:
        raise InputError(
            f"{what}: got {bad} values that are NaN or infinite; expected finite numbers; fill them in, such as with their mean"
        )
    return given.astype(np.float64)


def _present(what: str, x: Any) -> Any:
    """``x``, none of which is missing."""
    values = x.tolist() if isinstance(x, np.ndarray) and x.dtype.kind == "O" else x
    if isinstance(values, list | tuple):
        missing = sum(value is None or (isinstance(value, float) and math.isnan(value)) for value in values)
        if missing:
            raise InputError(
                f"{what}: got {missing} missing values; expected one for each sample; give missing levels a name such as 'unknown', "
                "and fill in missing numbers"
            )
        unlike = any(isinstance(value, str) for value in values) or mixes_booleans(values)
        return np.asarray(values, dtype=object) if unlike else values
    return whole_array(what, x)


def _categories(x: Any) -> tuple[str, ...] | None:
    """The levels of a Categorical of pandas, in its order; None: ``x`` is none."""
    if not isinstance(x, Table):
        return None
    categories = getattr(getattr(x, "dtype", None), "categories", None)
    return None if categories is None else tuple(str(level) for level in categories)

"""What ``predict`` predicts: a class or a number of each sample, as one more table that is decoded and never encoded."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import r2_score

from polyvae.imputation.methods.combine import Combination, half_widths
from polyvae.imputation.tables import Tables
from polyvae.utils.errors import InputError
from polyvae.utils.levels import warn_of_spellings
from polyvae.utils.text import named

TARGET = "(target)"
"""The name of that table among those of the modalities."""

_MOST_CLASSES = 50
_MANY_CLASSES = 10  # of numbers, above which a warning states that they are taken as classes

Ids = Sequence[Hashable] | None


class Target:
    """The values of y and their scaling.

    Args:
        classes: The classes in order; None: y is a number.
        center: [W], means of the known values (of the indicators of the classes).
        scale: [W], their standard deviations; 1 where constant.

    Attributes:
        values: [N, W] standardised, zero where not known; of the samples of ``fit`` alone.
        known: [N] bool.
    """

    def __init__(
        self, classes: list[Any] | None, center: NDArray[np.float64], scale: NDArray[np.float64]
    ) -> None:
        self.classes, self.center, self.scale = classes, center, scale
        self.values = np.zeros((0, len(center)), np.float32)
        self.known = np.zeros(0, bool)

    @classmethod
    def fit(cls, y: Any, ids: Ids, count: int, kind: str) -> Self:
        """Read y. Raises InputError: another length, no known value, one class only, or values that are neither classes nor numbers."""
        given, known = values_of(y, ids, count)
        if not known.any():
            raise InputError("fit: got y without a known value; expected one for some samples; leave y out")
        as_classes = _are_classes(given, known, kind)
        if as_classes:
            classes = _sorted({plain_value(value) for value in given[known]}, kind)
            if len(classes) < 2:
                raise InputError(
                    f"fit: got one class only in y, {classes[0]!r}; expected two or more; leave y out"
                )
            place = {value: at for at, value in enumerate(classes)}
            raw = np.zeros((count, len(classes)))
            raw[np.flatnonzero(known), [place[plain_value(value)] for value in given[known]]] = 1
        else:
            classes = None
            raw = np.where(known, given, 0).astype(np.float64)[:, None]
        center, scale = raw[known].mean(0), raw[known].std(0)
        target = cls(classes, center, np.where(scale > 0, scale, 1))
        target.values = np.where(known[:, None], (raw - center) / target.scale, 0).astype(np.float32)
        target.known = known
        return target

    @property
    def width(self) -> int:
        """W."""
        return len(self.center)

    def beside(self, tables: Tables, rows: NDArray[np.intp]) -> Tables:
        """The tables with y as one more; ``rows``: their row numbers in the data of ``fit``.

        Raises InputError: a modality that has this name, or no known y in these rows.
        """
        if TARGET in tables.values:
            raise InputError(
                f"fit: got a modality named {TARGET!r}, which is the name of y; expected another; rename it"
            )
        if not self.known[rows].any():
            raise InputError(
                "fit: got no known y of a training sample, of which something was observed and which max_samples keeps; expected one or "
                "more; add y, or leave it out"
            )
        known = np.repeat(self.known[rows][:, None], self.width, 1)
        return tables._replace(
            values={**tables.values, TARGET: self.values[rows]}, observed={**tables.observed, TARGET: known}
        )

    def missing_beside(self, tables: Tables) -> Tables:
        """The tables with y missing."""
        shape = tables.size, self.width
        return tables._replace(
            values={**tables.values, TARGET: np.zeros(shape, np.float32)},
            observed={**tables.observed, TARGET: np.zeros(shape, bool)},
        )

    def read(self, predicted: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
        """Standardised predictions [N, W] as numbers, or as classes and their probabilities."""
        raw = predicted.astype(np.float64) * self.scale + self.center
        if self.classes is None:
            return raw[:, 0], None
        chances = np.clip(raw, 0, None)
        total = chances.sum(1, keepdims=True)
        chances = np.where(total > 0, chances / np.where(total > 0, total, 1), 1 / self.width)
        return np.array(self.classes)[chances.argmax(1)], chances

    def reach(self, combination: Combination, level: float) -> float:
        """What a prediction of a number may differ by, or how far from 1 the probability of a class in the set may be.

        Both are split-conformal, by predictions of samples left out; infinite where there are too few of them. The sets are those of
        Sadinle et al. (2019): of each sample left out, 1 − the probability of its class is the residual.
        """
        if self.classes is None:
            return float(combination.half_widths(level)[0] * self.scale[0])
        known = combination.seen.any(1)
        _, chances = self.read(combination.left_out["stack"][known])
        if chances is None or not len(chances):
            return float("inf")
        true = np.take_along_axis(chances, combination.y[known].argmax(1)[:, None], 1)
        return float(half_widths(1 - true, level)[0])

    def score(self, predicted: NDArray[Any], y: Any, ids: Ids, count: int) -> float:
        """The accuracy of classes, or R² of numbers, over the samples of which y is known."""
        given, known = values_of(y, ids, count)
        if not known.any():
            raise InputError("score: got y without a known value; expected one for some samples; leave y out")
        if self.classes is not None:
            same = [
                plain_value(a) == plain_value(b) for a, b in zip(predicted[known], given[known], strict=True)
            ]
            return float(np.mean(same))
        if not all(is_number(value) for value in given[known]):
            raise InputError("score: got y that are not numbers; expected numbers, as in fit; correct them")
        return float(r2_score(given[known].astype(np.float64), predicted[known]))


def values_of(y: Any, ids: Ids, count: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """y in the order of the samples, as objects or numbers, and which of it is known."""
    if isinstance(y, Mapping) or (ids is not None and _indexed(y)):
        if ids is None:
            raise InputError(
                "y: got values by id for samples without ids; expected a sequence in their order; pass one"
            )
        pairs = (
            list(y.items())
            if isinstance(y, Mapping)
            else list(zip(y.index, _column(y.to_numpy()), strict=True))
        )
        table = {str(key): value for key, value in pairs}
        if len(table) < len(pairs):
            twice = next(key for key, times in Counter(str(key) for key, _ in pairs).items() if times > 1)
            raise InputError(
                f"y: got id {twice!r} more than once; expected one value for each sample; remove the others"
            )
        if table and not any(str(name) in table for name in ids):
            raise InputError(
                f"y: got ids none of which is a sample, such as {named(list(table), 3)}; expected ids of the data, such as "
                f"{named(list(ids), 3)}; check their spelling"
            )
        given = np.array([table.get(str(name)) for name in ids], dtype=object)
    else:
        given = _column(np.asarray(y, dtype=object))
    if given.shape != (count,):
        raise InputError(
            f"y: got shape {given.shape}; expected one value for each of {count} samples, or two, time and event; pass them in the order "
            "of X"
        )
    return given, np.array([is_known(value) for value in given], dtype=bool)


def _column(values: NDArray[Any]) -> NDArray[Any]:
    """[N] of [N, 1]; all else as it is."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def is_known(value: Any) -> bool:
    """Whether a value is not missing."""
    same = value == value  # not so of NaN and NaT; neither true nor false of pandas' NA
    return value is not None and isinstance(same, bool | np.bool_) and bool(same)


def _indexed(y: Any) -> bool:
    """Whether this is a pandas Series with ids as its index."""
    index = getattr(y, "index", None)
    return index is not None and not callable(index) and type(index).__name__ != "RangeIndex"


def plain_value(value: Any) -> Any:
    """A number of NumPy as one of Python; all else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def is_number(value: Any, booleans: bool = False) -> bool:
    """Whether this is a number; a boolean is one with ``booleans``."""
    value = plain_value(value)
    return isinstance(value, int | float) and (booleans or not isinstance(value, bool))


def _sorted(values: Collection[Any], kind: str) -> list[Any]:
    """Classes in order. Raises InputError: values of other types, or of several."""
    numbers = all(is_number(value) for value in values)
    if not numbers and not any(all(type(value) is type_ for value in values) for type_ in (str, bool)):
        found = sorted({type(value).__name__ for value in values})
        raise InputError(
            f"fit: got y of type {', '.join(found)}; expected texts, booleans or numbers; convert it"
        )
    if numbers and kind == "auto" and len(values) > _MANY_CLASSES:
        warnings.warn(
            f"fit: y has {len(values)} whole numbers, which are taken as classes; target='number' takes them as a number, and "
            "target='class' takes them as classes without this warning",
            stacklevel=4,
        )
    classes = sorted(values)
    warn_of_spellings("y", classes)
    return classes


def _are_classes(given: NDArray[Any], known: NDArray[np.bool_], kind: str) -> bool:
    values = [plain_value(value) for value in given[known]]
    numbers = all(is_number(value) for value in values)
    if kind == "number" and not numbers:
        raise InputError(
            "fit: got y that are not numbers with target='number'; expected numbers; use target='class'"
        )
    if numbers and not np.isfinite(np.array(values, np.float64)).all():
        raise InputError("fit: got infinite y; expected finite numbers; remove them")
    if kind != "auto":
        return kind == "class"
    whole = all(float(value).is_integer() for value in values) if numbers else True
    return not numbers or (whole and len(set(values)) <= _MOST_CLASSES)

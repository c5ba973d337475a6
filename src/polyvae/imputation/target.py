"""What ``predict`` predicts: a class or a number of each sample, as one more table that is decoded and never encoded."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.tables import Tables
from polyvae.utils.errors import InputError

TARGET = "(target)"
"""The name of that table among those of the modalities."""

_MOST_CLASSES = 50

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
        given, known = _values(y, ids, count)
        if not known.any():
            raise InputError("fit: got y without a known value; expected one for some samples; leave y out")
        as_classes = _are_classes(given, known, kind)
        if as_classes:
            classes = sorted(
                {_plain(value) for value in given[known]}, key=lambda value: (str(type(value)), value)
            )
            if len(classes) < 2:
                raise InputError(
                    f"fit: got one class only in y, {classes[0]!r}; expected two or more; leave y out"
                )
            place = {value: at for at, value in enumerate(classes)}
            raw = np.zeros((count, len(classes)))
            raw[np.flatnonzero(known), [place[_plain(value)] for value in given[known]]] = 1
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
        """The tables with y as one more; ``rows``: their row numbers in the data of ``fit``."""
        known = np.repeat(self.known[rows][:, None], self.width, 1)
        return Tables({**tables.values, TARGET: self.values[rows]}, {**tables.observed, TARGET: known})

    def missing_beside(self, tables: Tables) -> Tables:
        """The tables with y missing."""
        shape = tables.size, self.width
        return Tables(
            {**tables.values, TARGET: np.zeros(shape, np.float32)},
            {**tables.observed, TARGET: np.zeros(shape, bool)},
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

    def score(self, predicted: NDArray[Any], y: Any, ids: Ids, count: int) -> float:
        """The accuracy of classes, or R² of numbers, over the samples of which y is known."""
        given, known = _values(y, ids, count)
        if self.classes is not None:
            return float(
                np.mean([_plain(a) == _plain(b) for a, b in zip(predicted[known], given[known], strict=True)])
            )
        true = given[known].astype(np.float64)
        return float(1 - ((true - predicted[known]) ** 2).sum() / ((true - true.mean()) ** 2).sum())


def _values(y: Any, ids: Ids, count: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """y in the order of the samples, as objects or numbers, and which of it is known."""
    if isinstance(y, Mapping) or (ids is not None and _indexed(y)):
        if ids is None:
            raise InputError(
                "y: got values by id for samples without ids; expected a sequence in their order; pass one"
            )
        table = {
            str(key): value
            for key, value in (
                y.items() if isinstance(y, Mapping) else zip(y.index, y.to_numpy(), strict=True)
            )
        }
        if not any(str(name) in table for name in ids):
            raise InputError(
                "y: got ids none of which is a sample; expected ids of the data; check their spelling"
            )
        given = np.array([table.get(str(name)) for name in ids], dtype=object)
    else:
        given = np.asarray(y, dtype=object)
        given = given[:, 0] if given.ndim == 2 and given.shape[1] == 1 else given
    if given.shape != (count,):
        raise InputError(
            f"y: got shape {given.shape}; expected one value for each of {count} samples; pass them in the order of X"
        )
    known = np.array([value is not None and value == value for value in given], dtype=bool)
    return given, known


def _indexed(y: Any) -> bool:
    """Whether this is a pandas Series with ids as its index."""
    index = getattr(y, "index", None)
    return index is not None and not callable(index) and type(index).__name__ != "RangeIndex"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _are_classes(given: NDArray[Any], known: NDArray[np.bool_], kind: str) -> bool:
    values = [_plain(value) for value in given[known]]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
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

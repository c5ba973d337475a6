"""Warnings about training data that can be used, but are probably not what was meant."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polyvae.data.multimodal import MultimodalData
from polyvae.data.schema import Schema
from polyvae.imputation.tables import Tables, pieces
from polyvae.utils.text import counted, named

_FEW = 10
_SKEWED = 3.0  # the skewness of an exponential distribution is 2, that of a normal one 0
_SHARE = 0.3  # of the columns


def advise(schema: Schema, tables: Tables) -> None:
    """Warn of modalities that few samples have, of columns without a value, and of strongly skewed amounts.

    Args:
        schema: The schema of the training data.
        tables: The training samples, standardised.
    """
    for name in schema.names:
        x, seen = tables.values[name], tables.observed[name]
        count = int(seen.any(1).sum())
        if count < _FEW:
            _warn(
                f"modality {name!r}: {counted(count, 'sample has', 'samples have')} it, too few to learn how to predict it"
            )
        empty = [schema[name].columns[place] for place in np.flatnonzero(~seen.any(0))]
        if empty:
            _warn(
                f"modality {name!r}: {counted(len(empty), 'column has', 'columns have')} no value ({named(empty)}); "
                "they are filled with 0; leave them out"
            )
        skewed = _skewed(schema, name, x, seen)
        if count >= _FEW and skewed > _SHARE * x.shape[1]:
            _warn(
                f"modality {name!r}: {skewed} of {x.shape[1]} columns are strongly skewed amounts, as raw counts and concentrations are; "
                "log2(x + 1) is usually predicted better"
            )


def _skewed(schema: Schema, name: str, x: np.ndarray, seen: np.ndarray) -> int:
    """The number of columns that are never negative, not indicators, and have a skewness above 3."""
    each = schema[name]
    amounts = (np.array(each.low) >= 0) & (np.array(each.kinds) != "binary")
    cubes = np.zeros(len(amounts))  # of standardised values
    for rows, part in pieces(x):
        cubes += np.where(seen[rows], part.astype(np.float64) ** 3, 0).sum(0)
    return int((amounts & (cubes / np.maximum(seen.sum(0), 1) > _SKEWED)).sum())


def advise_of_training_samples(known: Tables, given: Tables, names: tuple[str, ...]) -> None:
    """Warn where samples to be scored are among the training samples.

    Args:
        known: The training samples.
        given: The samples to be scored.
        names: Their modalities.
    """
    same = np.zeros(given.size, bool)
    for name in names:
        if known.values[name].shape[1] < 2:  # one number may be equal by chance
            continue
        there = set(_digests(known, name)) - {None}
        same |= np.array([digest in there for digest in _digests(given, name)])
    if same.any():
        _warn(
            f"scores: {int(same.sum())} of {given.size} samples were in the training data, so their scores are too good; "
            "score samples that fit did not see"
        )


def _digests(tables: Tables, name: str) -> list[bytes | None]:
    """A digest of the values of each sample; None where one is missing."""
    whole: NDArray[np.bool_] = np.asarray(tables.observed[name].all(1), bool)
    found: list[bytes | None] = []
    for rows, part in pieces(tables.values[name]):
        found += [
            hashlib.blake2b(x.tobytes(), digest_size=16).digest() if ok else None
            for x, ok in zip(part, whole[rows], strict=True)
        ]
    return found


def advise_of_classes(data: MultimodalData, classes: int) -> None:
    """Warn of a target that has nearly as many classes as there are samples."""
    if classes > max(2, len(data) // 4):
        _warn(
            f"target: {classes} classes for {len(data)} samples; a class has too few of them to be learnt; is this an id?"
        )


def warn_of_infinite(names: Sequence[str]) -> None:
    """Warn of modalities whose intervals are infinite."""
    if names:
        _warn(
            f"impute: intervals of {', '.join(names)} are infinite where too few training samples were observed to calibrate them; "
            "a lower probability needs fewer"
        )


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)

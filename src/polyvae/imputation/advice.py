"""Warnings about training data that can be used, but are probably not what was meant."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Sequence

import numpy as np

from polyvae.data.multimodal import MultimodalData
from polyvae.data.schema import Schema
from polyvae.imputation.tables import Flags, Floats, Tables, patterns, pieces
from polyvae.utils.text import counted, named

_FEW = 10
_ENTRIES = 20  # of one table, in which samples do not coincide by chance
_LISTED = 3  # columns that a warning lists with their values
_SKEWED = 3.0  # the skewness of an exponential distribution is 2, that of a normal one 0
_SHARE = 0.3  # of the columns
_CODES = tuple(sign * float(digit * length) for sign in (-1, 1) for digit in "789" for length in (2, 3, 4, 5))
"""Numbers that tables from surveys and instruments contain where nothing was measured."""


def advise(schema: Schema, tables: Tables, asked: str | Sequence[str] = ()) -> None:
    """Warn of modalities that few samples have, of columns without a value or with codes for missing values, of strongly skewed amounts,
    of counts whose scale was chosen by their values, of a single modality, and of one modality given twice.

    Args:
        schema: The schema of the training data.
        tables: The training samples, standardised; with the target, if there is one.
        asked: The parameter ``log_scale`` of the estimator.
    """
    if len(tables.names) == 1:
        _warn(
            f"data: one modality ({tables.names[0]!r}), so there is no other to impute it from; only missing entries are imputed, from the "
            "other columns; fit several tables together to impute a whole one"
        )
    for first, second in itertools.combinations(schema.names, 2):
        if _same(tables, first, second):
            _warn(
                f"modalities {first!r} and {second!r}: their values are the same, so each predicts the other without error; is it one file "
                "under two names? leave one out"
            )
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
        if coded := _coded(schema, name, x, seen):
            shown = ", ".join(f"{column}: {code:g} in {n} samples" for column, code, n in coded[:_LISTED])
            more = f" and {len(coded) - _LISTED} more" if len(coded) > _LISTED else ""
            _warn(
                f"modality {name!r}: {counted(len(coded), 'column has a value', 'columns have a value')} that repeats far outside the "
                f"others ({shown}{more}) and looks like a code for missing; replace it by NaN"
            )
        if schema[name].log_scale and asked == "auto":
            _warn(
                f"modality {name!r}: {int(schema[name].logs.sum())} columns of skewed counts are described on the scale log(1 + x), and so "
                "are their scores; imputed values are counts; log_scale=[] leaves counts as they are"
            )
        skewed = _skewed(schema, name, x, seen)
        if count >= _FEW and skewed > _SHARE * x.shape[1]:
            _warn(
                f"modality {name!r}: {skewed} of {x.shape[1]} columns are strongly skewed amounts, as raw counts and concentrations are; "
                f"log2(x + 1) is usually predicted better; give that, or log_scale=[{name!r}]"
            )


def _same(tables: Tables, first: str, second: str) -> bool:
    """Whether two modalities have the same values, of samples of which some differ."""
    a, b = tables.observed[first], tables.observed[second]
    x, y = tables.values[first], tables.values[second]
    if a.shape != b.shape or not np.array_equal(a, b):
        return False
    some = False
    for (_, one), (_, other) in zip(pieces(x), pieces(y), strict=True):
        if not np.array_equal(one, other):
            return False
        some = some or bool(one.any())
    return some


def _coded(schema: Schema, name: str, x: Floats, seen: Flags) -> list[tuple[str, float, int]]:
    """Column, code and the number of its samples, where the smallest or the largest value looks like a code for missing values.

    It is a number such as −99 or 9999 that occurs twice or more; its distance to the other values is at least their range, and half its
    size.
    """
    each, found = schema[name], []
    suspects = [
        (place, ends[place])
        for ends in (each.low, each.high)
        for place in np.flatnonzero(np.isin(ends, _CODES)).tolist()
    ]
    some = sorted({place for place, _ in suspects})
    if some:
        columns = np.concatenate([schema.restore(name, part)[:, some] for _, part in pieces(x)])
        for place, code in suspects:
            values = columns[seen[:, place], some.index(place)]
            same = np.isclose(values, code, rtol=1e-5)
            others = values[~same]
            if same.sum() < 2 or not len(others):
                continue
            distance = float(np.abs(others - code).min())
            if distance >= max(float(np.ptp(others)), abs(code) / 2):
                found.append((each.columns[place], code, int(same.sum())))
    return found


def _skewed(schema: Schema, name: str, x: np.ndarray, seen: np.ndarray) -> int:
    """The number of columns that are never negative, not indicators, and have a skewness above 3."""
    each = schema[name]
    if each.log_scale:
        return 0
    amounts = (np.array(each.low) >= 0) & (np.array(each.kinds) != "binary")
    cubes = np.zeros(len(amounts))  # of standardised values
    for rows, part in pieces(x):
        cubes += np.where(seen[rows], part.astype(np.float64) ** 3, 0).sum(0)
    return int((amounts & (cubes / np.maximum(seen.sum(0), 1) > _SKEWED)).sum())


def advise_of_training_samples(known: Tables, given: Tables, names: tuple[str, ...]) -> None:
    """Warn where samples to be scored are among the training samples.

    A sample counts where one training sample has the same observed entries with the same values in all tables that it has, two or more;
    or where one has them in a table of which it has 20 entries or more. In one small table, such as one of age and sex, samples
    coincide by chance.

    Args:
        known: The training samples.
        given: The samples to be scored.
        names: Their modalities.
    """
    digests = {name: (_digests(known, name), _digests(given, name)) for name in names}
    count = np.stack([given.observed[name].sum(1) for name in names], 1)
    same = np.zeros(given.size, bool)
    for m, (there, own) in enumerate(digests.values()):
        before = set(there)
        same |= np.array([digest in before for digest in own]) & (count[:, m] >= _ENTRIES)
    for pattern, rows in patterns(count > 0).items():
        chosen = [pair for pair, kept in zip(digests.values(), pattern, strict=True) if kept]
        if len(chosen) > 1:
            together = set(zip(*(there for there, _ in chosen), strict=True))
            same[rows] |= [tuple(own[row] for _, own in chosen) in together for row in rows]
    if same.any():
        _warn(
            f"scores: {int(same.sum())} of {given.size} samples have the same values as a training sample, in all their tables or in one "
            f"with {_ENTRIES} entries or more; fit has probably seen them, and their scores are too good; score samples that it did not see"
        )


def _digests(tables: Tables, name: str) -> list[bytes]:
    """A digest of the observed entries of each sample and their values."""
    found: list[bytes] = []
    for rows, part in pieces(tables.values[name]):
        seen = tables.observed[name][rows]
        values = np.where(seen, part, 0).astype(np.float32)
        found += [
            hashlib.blake2b(x.tobytes() + flags.tobytes(), digest_size=16).digest()
            for x, flags in zip(values, seen, strict=True)
        ]
    return found


def advise_of_classes(data: MultimodalData, classes: int) -> None:
    """Warn of a target that has nearly as many classes as there are samples."""
    if classes > max(2, len(data) // 4):
        _warn(
            f"target: {classes} classes for {len(data)} samples; a class has too few of them to be learnt; is this an id?"
        )


def advise_of_new(data: MultimodalData) -> None:
    """Warn of new samples in files of which nothing was observed, and of files that share no sample.

    Args:
        data: The samples.
    """
    seen = data.mask.cpu().numpy()  # without rows that have no entry
    lacking = int((~seen.any(0)).sum())
    if lacking:
        _warn(
            f"data: {lacking} of {len(data)} samples have no observed entry, so that means of the training data are predicted; "
            "leave them out"
        )
    if data.ids is not None and len(data.names) > 1 and not (seen.sum(0) > 1).any():
        _warn(
            f"data: no sample is in two of {', '.join(map(repr, data.names))}, so each is predicted from one; check the ids if rows are "
            "the same samples"
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

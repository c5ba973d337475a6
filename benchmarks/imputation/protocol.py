"""The protocol: folds, hidden training modalities, and the error of predicting each modality from all others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from benchmarks.imputation.methods import METHODS, Predictor
from benchmarks.imputation.tables import Skipped, Table, View, Views, pick, present, without
from polyvae.imputation.scoring.measures import pooled_fvu

Rows = NDArray[np.int64]


class Fold(NamedTuple):
    """Training and test views, standardised by what is observed in the training rows, of which some modalities are hidden."""

    number: int
    train: dict[str, View]
    test: dict[str, View]
    rows: tuple[Rows, Rows]  # of the training and of the test part


class Folds(NamedTuple):
    """How samples are divided: ``count`` folds, the rate of hidden training modalities, a seed, and the folds to take (1, ...; all)."""

    count: int
    rate: float = 0.0
    seed: int = 0
    only: tuple[int, ...] = ()


def folds(table: Table, how: Folds) -> Iterator[Fold]:
    """Shuffled folds; labels play no part. The same seed hides the same modalities, whatever the methods."""
    count, rate, seed, only = how
    parts = KFold(count, shuffle=True, random_state=seed).split(np.empty(table.rows))
    for number, (train, test) in enumerate(parts):
        if only and number + 1 not in only:
            continue
        given = hide(
            pick(table.views, train), rate, np.random.default_rng([seed, number, round(1000 * rate)])
        )
        scaled = standardise(given, pick(table.views, test))
        yield Fold(number, *scaled, (train, test))


def hide(views: Views, rate: float, rng: np.random.Generator) -> dict[str, View]:
    """Each modality of each row hidden with probability ``rate``; a row that would lose all keeps one of them, at random."""
    there = np.stack([present(one) for one in views.values()])
    kept = there & (rng.random(there.shape) >= rate)
    lot = np.where(there, rng.random(there.shape), -1).argmax(0)
    lost = ~kept.any(0) & there.any(0)
    kept[lot[lost], np.flatnonzero(lost)] = True
    return {
        name: (np.where(row[:, None], x, 0), seen & row[:, None])
        for row, (name, (x, seen)) in zip(kept, views.items(), strict=True)
    }


def standardise(train: Views, test: Views) -> tuple[dict[str, View], dict[str, View]]:
    """By mean and standard deviation of the observed training entries. Columns that are constant there are dropped."""
    scaled: tuple[dict[str, View], dict[str, View]] = ({}, {})
    for name, (x, seen) in train.items():
        count = np.maximum(seen.sum(0), 1)
        values = x.astype(np.float64)
        mean = np.where(seen, values, 0).sum(0) / count
        std = np.sqrt((np.where(seen, values - mean, 0) ** 2).sum(0) / count)
        varies = std > 1e-6 * np.maximum(1, np.abs(mean))
        for out, (part, known) in zip(scaled, (train[name], test[name]), strict=True):
            z = (part[:, varies] - mean[varies]) / std[varies]
            out[name] = np.where(known[:, varies], z, 0).astype(np.float32), known[:, varies]
    return scaled


def score(predictor: Predictor, test: Views) -> dict[str, dict[str, float]]:
    """Each modality hidden in turn and predicted from all others: FVU over the rows that have it and another one."""
    scores = {}
    for target, (y, seen) in test.items():
        inputs = without(test, target)
        rows = np.flatnonzero(present((y, seen)) & np.any([present(one) for one in inputs.values()], 0))
        found = predictor(pick(inputs, rows), target)
        value = pooled_fvu(y[rows], found, np.zeros(y.shape[1]), seen[rows])
        if value is not None:
            scores[target] = {"fvu": value, "n": len(rows)}
    return scores


def measure(
    table: Table, methods: Sequence[str], how: Folds, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One entry per method, fold and modality: FVU, rows and seconds of the fit."""
    entries: list[dict[str, Any]] = []
    skipped: set[str] = set()
    silent: set[str] = set()
    count, rate = how.count, how.rate
    for fold in folds(table, how):
        for name in methods:
            if name in skipped:
                continue
            start = time.perf_counter()
            try:
                predictor = METHODS[name](fold.train)
            except Skipped as reason:
                say(f"{table.name}: {name} skipped: {reason}")
                skipped.add(name)
                continue
            seconds = round(time.perf_counter() - start, 3)
            scores = score(predictor, fold.test)
            undefined = [view for view in fold.test if view not in scores and view not in silent]
            silent.update(undefined)
            if undefined:
                say(
                    f"{table.name}: no FVU of {', '.join(undefined)}: no column varies in the test rows of a fold"
                )
            key = {
                "data": table.name,
                "missing": rate,
                "fold": fold.number,
                "method": name,
                "seconds": seconds,
            }
            entries += [key | {"view": view} | found for view, found in scores.items()]
            mean = np.mean([found["fvu"] for found in scores.values()])
            say(
                f"{table.name}, {rate:.0%} missing, fold {fold.number + 1} of {count}: {name} {mean:.3f} in {seconds:.1f} s"
            )
    return entries


def fit_time(table: Table, how: Folds, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Seconds of ``Estimator.fit`` with its defaults on all samples."""
    rng = np.random.default_rng([how.seed, round(1000 * how.rate)])
    given, _ = standardise(hide(table.views, how.rate, rng), table.views)
    start = time.perf_counter()
    try:
        METHODS["stack"](given)
    except Skipped as reason:
        say(f"{table.name}: time of stack skipped: {reason}")
        return []
    seconds = round(time.perf_counter() - start, 1)
    say(f"{table.name}, {how.rate:.0%} missing: fit of all {table.rows} samples in {seconds} s")
    return [{"data": table.name, "missing": how.rate, "rows": table.rows, "seconds": seconds}]

"""Linear probes: a logistic regression on the embedding of all views and of each view alone, beside principal components."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.imputation.linear import stacked
from benchmarks.imputation.protocol import Folds, folds
from benchmarks.imputation.stack import Stack
from benchmarks.imputation.tables import Skipped, Table, Views, present

Array = NDArray[np.floating]


def accuracy(train: Array, labels: Array, test: Array, truth: Array) -> float:
    """Of a logistic regression on standardised columns."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(probe.fit(train, labels).score(test, truth))


def components(train: Views, test: Views, size: int) -> tuple[Array, Array]:
    """Principal components of the standardised columns, at most ``size``."""
    x = stacked(train)
    pca = PCA(min(size, *x.shape), svd_solver="full").fit(x)
    return pca.transform(x), pca.transform(stacked(test))


def probe(table: Table, how: Folds, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One entry per fold and set of views: accuracies of the embedding, of as many components, and of the columns."""
    if table.labels is None:
        say(f"{table.name}: linear probe skipped: no labels")
        return []
    entries: list[dict[str, Any]] = []
    count, rate = how.count, how.rate
    for fold in folds(table, how):
        labels, truth = (table.labels[rows] for rows in fold.rows)
        model: Stack | None = None
        try:
            model = Stack(fold.train)
        except Skipped as reason:
            say(f"{table.name}: probe of the embedding skipped: {reason}")
        for name in ("all", *table.views):
            chosen = list(table.views) if name == "all" else [name]
            train, test = ({key: part[key] for key in chosen} for part in (fold.train, fold.test))
            at = [
                np.flatnonzero(np.any([present(one) for one in part.values()], 0)) for part in (train, test)
            ]
            size = 64
            found = {
                "columns": accuracy(stacked(train)[at[0]], labels[at[0]], stacked(test)[at[1]], truth[at[1]])
            }
            if model is not None:
                embedded = model.embed(train)[at[0]], model.embed(test)[at[1]]
                size = embedded[0].shape[1]
                found["embedding"] = accuracy(embedded[0], labels[at[0]], embedded[1], truth[at[1]])
            reduced = components(train, test, size)
            found["pca"] = accuracy(reduced[0][at[0]], labels[at[0]], reduced[1][at[1]], truth[at[1]])
            key = {"data": table.name, "missing": rate, "fold": fold.number, "views": name, "width": size}
            entries += [key | {"method": method, "accuracy": value} for method, value in found.items()]
        say(f"{table.name}: probes of fold {fold.number + 1} of {count}")
    return entries

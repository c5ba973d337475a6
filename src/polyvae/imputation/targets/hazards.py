"""Time to event: Cox regressions of the imputed columns, of each modality and of the embedding, combined; survival curves."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.imputer import Imputer
from polyvae.imputation.scoring.rows import Row
from polyvae.imputation.scoring.scores import Scores
from polyvae.imputation.tables import Doubles, Floats, Tables
from polyvae.imputation.targets.cox import Concordance, Curve, Survival, breslow, concordance
from polyvae.imputation.targets.risk import Linear, cox_ridge, folds, stacked
from polyvae.imputation.targets.target import TARGET
from polyvae.imputation.targets.times import Times
from polyvae.imputation.understanding.embedding import Embedding, at_means, members_of
from polyvae.utils.errors import InputError
from polyvae.utils.seeds import fold_in

COLUMNS, EQUAL, EMBEDDING, STACK = "(all columns)", "(modalities of one weight)", "(embedding)", "stack"
COVARIATES = "(covariates)"
"""Names of inputs beside those of modalities, and of the combination. Files contain them; ``method_name`` has those that are printed.

EQUAL is all columns, each divided by the root of the number of columns of its modality, so that modalities have the same total variance.
"""

_PIECE = 2048  # samples whose inputs are in memory at a time
_FEW = 20  # events, below which a warning states that the regressions are uncertain


class Hazards(NamedTuple):
    """A fitted model of time to event.

    Attributes:
        regressions: Input -> its Cox regression; an input is a modality, ``COVARIATES``, ``COLUMNS``, ``EQUAL`` or ``EMBEDDING``.
        weights: Input -> its weight in the combination.
        given: The times of the training samples of which they are known, n of them.
        left_out: Input, or ``STACK`` -> log relative hazards of these samples, each left out, [n].
    """

    regressions: Mapping[str, Linear]
    weights: Mapping[str, float]
    given: Survival
    left_out: Mapping[str, Doubles]

    @classmethod
    def fit(cls, imputer: Imputer, embedding: Embedding, times: Times) -> Hazards:
        """Fit to the training samples of an imputer.

        Args:
            imputer: A fitted imputer. What a training sample lacks is filled in by the member that left it out.
            embedding: Its embedding.
            times: Of its training samples, in their order.

        Raises:
            InputError: Events of samples alone of which nothing was observed.
        """
        rows = imputer.calibration[times.known[imputer.calibration]]
        given = times.rows(rows).survival()
        if not given.event.any():
            raise InputError(
                "fit: got events of samples alone of which nothing was observed; expected one for others; leave y out"
            )
        if given.events < _FEW:
            warnings.warn(
                f"fit: y has {given.events} events, too few to learn much from; intervals of the C-index are wide",
                stacklevel=4,
            )
        repeats = folds(given, fold_in(imputer.seed, "folds of times"))
        regressions, left_out = {}, {}
        for name, x in _inputs(imputer, embedding, imputer.tables.rows(rows), imputer.fold[rows]).items():
            regressions[name], left_out[name] = cox_ridge(x, given, repeats)
        names = list(regressions)
        means = {name: left_out[name].mean(1) for name in names}
        every = np.stack(list(means.values()), 1)  # [n, inputs]
        w = stacked(every, given)
        stack = np.mean([_crossed(every, given, fold) for fold in repeats], 0)
        return cls(regressions, dict(zip(names, w.tolist(), strict=True)), given, {**means, STACK: stack})

    @property
    def curve(self) -> Curve:
        """The cumulative baseline hazard, by Breslow's estimator and the hazards of samples left out."""
        return breslow(self.given, self.left_out[STACK])

    def risk(self, imputer: Imputer, embedding: Embedding, tables: Tables) -> Doubles:
        """The log relative hazards of samples, [N]."""
        tables, found = imputer.admit(tables), np.zeros(tables.size)
        for start in range(0, tables.size, _PIECE):
            rows = slice(start, start + _PIECE)
            for name, x in _inputs(imputer, embedding, tables.rows(rows)).items():
                if self.weights[name] > 0:
                    found[rows] += self.weights[name] * self.regressions[name].of(x)
        return found

    def concordances(self) -> Iterator[tuple[str, Concordance]]:
        """The inputs and the combination, with the C-index of samples left out."""
        for name, eta in self.left_out.items():
            yield name, concordance(self.given, eta)

    def scores(self) -> Scores:
        """The C-index of samples left out with its 95 % interval, of each input and the combination; no row if no pair is comparable."""
        try:
            found = list(self.concordances())
        except InputError:
            return Scores()
        n, rows = len(self.given.time), []
        for name, each in found:
            low, high = each.interval(0.95)
            for score, value in (("c_index", each.value), ("c_index_low", low), ("c_index_high", high)):
                rows.append(Row(TARGET, None, None, method_name(name), score, value, n))
        return Scores(rows)

    def text(self) -> str:
        """The C-index of the combination and of the best regression, for a terminal."""
        scores = self.scores()
        found = {row.method: row.value for row in scores.select(score="c_index").rows}
        if not found:
            return "no C-index: of no pair of samples it is known which event came first"
        low, high = (scores.value(TARGET, STACK, f"c_index_{end}") for end in ("low", "high"))
        best = max((name for name in found if name != STACK), key=lambda name: found[name])
        return (
            f"C-index of samples left out {found[STACK]:.3f} ({low:.3f} to {high:.3f}; {self.given.events} events); "
            f"the best single method: {best}, {found[best]:.3f}"
        )


def method_name(name: str) -> str:
    """The name of a method in scores, by its input."""
    if name == STACK:
        return name
    inputs = {
        COLUMNS: "all columns",
        EQUAL: "equally weighted modalities",
        EMBEDDING: "embedding",
        COVARIATES: "covariates",
    }
    return f"Cox of {inputs.get(name, name)}"


def _crossed(left_out: Doubles, given: Survival, fold: NDArray[np.intp]) -> Doubles:
    """The combination of each sample by weights of the other folds: [n, inputs] -> [n]."""
    found = np.zeros(len(left_out))
    for e in np.unique(fold):
        out = fold == e
        found[out] = left_out[out] @ stacked(left_out[~out], given.rows(~out))
    return found


def _inputs(
    imputer: Imputer, embedding: Embedding, tables: Tables, fold: NDArray[np.intp] | None = None
) -> dict[str, Floats]:
    """Input -> [N, P]: the modalities with what is missing filled in, the covariates, all of them, and the embedding.

    Args:
        imputer: The imputer, whose first ensemble fills in.
        embedding: The embedding.
        tables: Samples, N of them.
        fold: [N], the members that left them out. None: all members fill in.
    """
    members, tables = members_of(imputer), at_means(imputer, tables)
    expected = members.predict(tables) if fold is None else members.predict_left_out(tables, fold)
    filled = {
        name: np.where(tables.observed[name], tables.values[name], expected[name]) for name in tables.names
    }
    if tables.covariates is not None and imputer.tables.covariates is not None:
        filled[COVARIATES] = tables.covariates[:, : imputer.tables.covariates.shape[1]]
    z = embedding.project(imputer, expected)
    if len(filled) == 1:
        return {**filled, EMBEDDING: z}
    equal = [x / np.float32(np.sqrt(x.shape[1])) for x in filled.values()]
    whole = {COLUMNS: np.concatenate(list(filled.values()), 1), EQUAL: np.concatenate(equal, 1)}
    return {**whole, **filled, EMBEDDING: z}

"""Imputation of standardised tables: ensembles of VAEs and simple methods, combined for each pattern of observed modalities."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from polyvae.core.covariates import Covariate
from polyvae.core.modality import Modality
from polyvae.imputation.covariates.effects import Effects
from polyvae.imputation.methods.combine import Combination, Known, Once
from polyvae.imputation.methods.factors import Factors
from polyvae.imputation.methods.members import Members, Schedule
from polyvae.imputation.methods.simple import Spectra
from polyvae.imputation.methods.trees import Trees, affordable
from polyvae.imputation.methods.wide import WIDE, Wide
from polyvae.imputation.tables import Flags, Floats, Pattern, Tables, patterns, pieces
from polyvae.utils.progress import Reporter
from polyvae.utils.seeds import fold_in

_PIECE = 2048  # samples that are imputed at a time
_KEPT = 64  # combinations that stay in memory
HIDDEN = 0.2
"""Share of the observed entries that are hidden to calibrate the imputation of entries."""
_FACTORS = (2, 5, 10, 20, 40)
MOST_FACTORS = max(_FACTORS)
_LARGEST_TABLE = 2**24  # values of a table that the simple methods and the calibration use
_CELLS = 2**28  # values of all combinations that stay in memory, beyond two
_TYPICAL = 200  # calibration samples whose spread is computed
_HIDDEN_OF_EACH = 200  # hidden entries of a column, for which few samples take several rounds
_LARGEST_CALIBRATION = 5000  # training samples that the simple methods and the calibration use


class Design(NamedTuple):
    """One ensemble.

    Attributes:
        label: Its name in scores.
        model: A name in MODELS.
        options: Options of the model.
        network: Parameters of the networks of all modalities; "network" names them.
        schedule: How it is trained.
    """

    label: str
    model: str
    options: Mapping[str, Any]
    network: Mapping[str, Any]
    schedule: Schedule


class Imputed(NamedTuple):
    """Predictions of the samples ``rows`` for one modality.

    Attributes:
        name: The modality.
        rows: Row numbers, [n].
        values: Standardised predictions, [n, F].
        wanted: [n, F] bool, the entries that were missing.
        combination: What predicted them; None where nothing was observed and there is nothing to learn from.
        parts: Name of a method -> its predictions, [n, F].
        given: Which entries of all modalities that are encoded were observed, [n, P], and the columns of this one among them; None where
            it is predicted from other modalities alone.
    """

    name: str
    rows: NDArray[np.intp]
    values: Floats
    wanted: Flags
    combination: Combination
    parts: Mapping[str, Floats]
    given: tuple[Flags, slice] | None = None


class Imputer:
    """Predicts the missing modalities and entries of standardised tables.

    Args:
        tables: The training samples. They are kept, because neighbours, kernels and calibration refer to them.
        designs: The ensembles.
        count: Members of each ensemble; each leaves out one fold.
        seed: Of folds, initial weights, batches and noise.
        device: Where the members compute.
        targets: Modalities that are decoded and never encoded.
        wide: The coordinates of wide tables; None: those of ``tables`` are computed.
        leaders: Modality -> [F], for each column the first of those that are observed together with it; those of a modality that is not
            named are observed one by one.
        effects: What covariates add to features, which ``tables`` are without; new samples have it. None: there are no covariates.

    Attributes:
        fold: [N], the fold in which each training sample is left out.
        calibration: The rows of training samples that the simple methods and the calibration use, rising.
    """

    def __init__(
        self,
        tables: Tables,
        designs: Sequence[Design],
        count: int,
        seed: int,
        device: torch.device,
        targets: Sequence[str] = (),
        wide: Wide | None = None,
        leaders: Mapping[str, NDArray[np.intp]] | None = None,
        effects: Effects | None = None,
    ) -> None:
        self.leaders, self.effects = dict(leaders or {}), Effects() if effects is None else effects
        self.tables, self.designs, self.count, self.seed = tables, tuple(designs), count, seed
        self.targets = tuple(targets)
        size = tables.size
        order = np.random.default_rng(fold_in(seed, "folds")).permutation(size)
        self.fold = np.empty(size, np.intp)
        self.fold[order] = np.arange(size) % min(count, size)
        self.entries = _entries(tables, targets)
        self.wide = Wide(tables) if wide is None else wide
        self.wide.leave_out(tables, self.fold, count)
        self.ensembles: dict[str, Members] = {
            design.label: Members(
                design.model,
                specs(tables, design, targets, self.wide),
                design.options,
                count,
                fold_in(seed, design.label),
                device,
                self.wide,
                self.leaders,
            )
            for design in designs
        }
        self._combinations: OrderedDict[tuple[Pattern, str], Combination] = OrderedDict()
        self._gammas: dict[str, tuple[float, ...]] = {}
        self._spectra: tuple[Any, Spectra] = None, {}
        self._factors: dict[int | None, Factors] = {}
        self._spread: Factors | None = None
        self._trees: dict[int | None, Trees] = {}
        widest = max(x.shape[1] for x in tables.values.values())
        largest = min(_LARGEST_CALIBRATION, _LARGEST_TABLE // widest)
        chosen = np.random.default_rng(fold_in(seed, "calibration")).permutation(size)[:largest]
        self.calibration = np.sort(chosen)
        self._range = {name: _range(tables.values[name], tables.observed[name]) for name in tables.names}

    def fit(self, report: Reporter | None = None) -> Imputer:
        """Train the ensembles.

        Args:
            report: Receives the progress. None: it is not reported.
        """
        for design in self.designs:
            self.ensembles[design.label].fit(self.tables, self.fold, design.schedule, report, design.label)
        return self

    # ---- combinations ----------------------------------------------------------------------------------------

    @property
    def encoded(self) -> Pattern:
        """The pattern of all modalities that can be encoded."""
        return tuple(name not in self.targets for name in self.tables.names)

    def others(self, name: str) -> Pattern:
        """The pattern of all modalities that can be encoded, without ``name``."""
        return tuple(other != name and other not in self.targets for other in self.tables.names)

    def combination(self, pattern: Pattern, name: str) -> Combination:
        """What predicts ``name`` where the modalities of ``pattern`` were observed.

        If ``name`` is in the pattern, its missing entries are predicted from its own observed entries too.
        """
        key = pattern, name
        if key not in self._combinations:
            inside = pattern[self.tables.names.index(name)]
            known = self._within(pattern, name) if inside else self._between(pattern, name)
            full = self.others(name)
            if not inside and name not in self._gammas and pattern != full and any(full):
                self.combination(full, name)
            same = pattern, known.rows.tobytes()
            if self._spectra[0] != same:
                self._spectra = same, {}
            made = Combination(known, self._gammas.get(name), self._spectra[1])
            if pattern == full and made.gamma is not None:
                self._gammas[name] = made.gamma
            self._combinations[key] = made
            while len(self._combinations) > _KEPT or (
                len(self._combinations) > 2 and sum(x.cells for x in self._combinations.values()) > _CELLS
            ):
                self._combinations.popitem(last=False)
        self._combinations.move_to_end(key)
        return self._combinations[key]

    def _between(self, pattern: Pattern, name: str) -> Known:
        rows = self.calibration[self.tables.observed[name][self.calibration].any(1)]
        # A sample of which nothing else was observed carries no information on how well the others predict.
        informed = self.tables.mask[rows][:, list(pattern)].any(1)
        rows = rows[informed] if informed.any() else rows
        part, fold = self.tables.rows(rows), self.fold[rows]
        given = part.only(pattern)
        by_members = {label: each.predict_left_out(given, fold) for label, each in self.ensembles.items()}
        return Known(
            rows,
            self._inputs(given, pattern, by_members),
            part.values[name],
            part.observed[name],
            fold,
            _whole(part, pattern),
            {label: x[name] for label, x in by_members.items()} if any(pattern) else {},
            shift=self._known_shift(part, name),
        )

    def _within(self, pattern: Pattern, name: str) -> Known:
        rows = self.calibration[self.tables.observed[name][self.calibration].any(1)]
        part, fold, count = self.tables.rows(rows), self.fold[rows], len(rows)
        seen, values = part.observed[name], part.values[name]
        draws = np.random.default_rng(fold_in(self.seed, "hidden entries", self.tables.names.index(name)))
        rounds = _rounds(count)
        turn = self.turns(name, draws.random(seen.shape))
        hidden = np.concatenate([seen & (turn == number) for number in range(rounds)])
        # All rounds at once, because trees take the same time for few samples as for many.
        given = part.only(pattern).rows(np.tile(np.arange(count), rounds))
        given = given._replace(
            values={
                **given.values,
                name: np.where(hidden, 0, np.tile(values, (rounds, 1))).astype(np.float32),
            },
            observed={**given.observed, name: np.tile(seen, (rounds, 1)) & ~hidden},
        )
        folds = np.tile(fold, rounds)
        found = {label: each.predict_left_out(given, folds)[name] for label, each in self.ensembles.items()}
        for e in np.unique(folds):
            left = np.flatnonzero(folds == e)
            for label, x in self._inside(int(e), given.rows(left), name).items():
                found.setdefault(label, np.zeros((len(folds), values.shape[1]), np.float32))[left] = x
        last = np.minimum(turn, rounds - 1)[None]  # the round in which each entry is hidden
        left_out = {
            label: np.take_along_axis(x.reshape(rounds, *values.shape), last, 0)[0]
            for label, x in found.items()
        }
        few = slice(min(_TYPICAL, count))
        typical = partial(self._typical, *self._entries_of(given.rows(few), name), hidden[few])
        return Known(
            rows,
            np.zeros((count, 0), np.float32),
            values,
            seen & (turn < rounds),
            fold,
            _whole(part, pattern),
            left_out,
            Once(typical),
            self.leaders.get(name, np.arange(values.shape[1])) if values.shape[1] <= WIDE else None,
            self._known_shift(part, name),
        )

    def _known_shift(self, part: Tables, name: str) -> tuple[Floats, Floats] | None:
        """What covariates add to training samples, and what they would if each had been left out, [n, F] each; None: nothing."""
        if name not in self.effects.shifts or part.covariates is None:
            return None
        left = self.effects.left_out(name, part.covariates, part.values[name])
        return self.effects.of(name, part.covariates), left

    def _shift(self, tables: Tables, name: str) -> Floats | None:
        """What covariates add to predictions of a modality, [n, F]; None: nothing."""
        return self.effects.of(name, tables.at) if name in self.effects.shifts else None

    def turns(self, name: str, draws: NDArray[np.float64]) -> NDArray[np.intp]:
        """The round in which each entry of a modality is hidden, of random numbers [n, F]: that of the columns of a class is the same."""
        leader = self.leaders.get(name)
        return np.asarray((draws if leader is None else draws[:, leader]) / HIDDEN, np.intp)

    def chosen(self, name: str, draws: NDArray[np.float64]) -> Flags:
        """Which entries of a modality to hide, of random numbers [n, F]: the columns of a class together."""
        return np.asarray(self.turns(name, draws) == 0, bool)

    def _typical(self, seen: Flags, columns: slice, hidden: Flags) -> NDArray[np.float64]:
        """[F], the mean over samples of the variance that factors leave their hidden entries (all entries of columns without any)."""
        variance = self.spread().variance(seen, columns)
        weight = np.where(hidden.any(0), hidden, True)
        return np.asarray((variance * weight).sum(0) / np.maximum(weight.sum(0), 1), np.float64)

    def _entries_of(self, tables: Tables, name: str) -> tuple[Flags, slice]:
        """Which entries of the modalities that factors describe were observed, and the columns of one of them."""
        names = [each for each in tables.names if each not in self.targets]
        start = sum(tables.values[each].shape[1] for each in names[: names.index(name)])
        stop = start + tables.values[name].shape[1]
        return np.concatenate([tables.observed[each] for each in names], 1), slice(start, stop)

    def _inputs(
        self, given: Tables, pattern: Pattern, by_members: Mapping[str, Mapping[str, Floats]]
    ) -> Floats:
        """The columns of the pattern's modalities, missing entries filled in by the first ensemble, and those of covariates: [N, P]."""
        filled = next(iter(by_members.values()))
        parts = [
            np.where(given.observed[name], given.values[name], filled[name])
            for name, kept in zip(given.names, pattern, strict=True)
            if kept
        ]
        known = self.tables.covariates  # levels that were added after the training have no columns there
        beside = [] if given.at is None or known is None else [given.at[:, : known.shape[1]]]
        return np.concatenate(parts + beside, 1) if parts else np.zeros((given.size, 0), np.float32)

    def _inside(self, left_out: int | None, tables: Tables, name: str) -> dict[str, Floats]:
        """One modality from what was observed of all, by the simple methods that predict entries: method -> [n, F].

        They are fitted without one fold (None: to all samples).
        """
        x, seen = _joined(tables, [each for each in tables.names if each not in self.targets])
        factors, (_, columns) = self.factors(left_out).predict(x, seen), self._entries_of(tables, name)
        found = {"factors": factors[:, columns]}
        if affordable(len(self.calibration), x.shape[1]):
            found["trees"] = self.trees(left_out).predict(x, seen, factors, columns)
        return found

    def trees(self, left_out: int | None = None) -> Trees:
        """The trees that predict the columns of all modalities that are encoded, fitted without one fold (None: to all samples)."""
        if left_out not in self._trees:
            x, seen = self._described()
            kept = np.ones(len(x), bool) if left_out is None else self.fold[self.calibration] != left_out
            x, seen = x[kept], seen[kept]
            seed = fold_in(self.seed, "trees")
            first = self.factors(left_out).predict(x, seen)
            self._trees[left_out] = Trees(x, seen, first, self._leader(), seed)
        return self._trees[left_out]

    def _leader(self) -> NDArray[np.intp]:
        """[P], of the columns of all modalities that are encoded the first of those that are observed together with each."""
        found, start = list[NDArray[np.intp]](), 0
        for name in (each for each in self.tables.names if each not in self.targets):
            width = self.tables.values[name].shape[1]
            found.append(start + self.leaders.get(name, np.arange(width)))
            start += width
        return np.concatenate(found)

    def factors(self, left_out: int | None = None) -> Factors:
        """The factors of all modalities that are encoded, fitted without one fold (None: to all samples)."""
        if left_out not in self._factors:
            if left_out is not None:
                self.factors()  # chooses their number
            x, seen = self._described()
            kept = np.ones(len(x), bool) if left_out is None else self.fold[self.calibration] != left_out
            count = self._factor_count(x, seen) if left_out is None else self._factors[None].weights.shape[1]
            self._factors[left_out] = Factors(x[kept], seen[kept], count)
        return self._factors[left_out]

    def spread(self) -> Factors:
        """Factors with a noise for each column, from which draws are made: made once, at their first use."""
        if self._spread is None:
            x, seen = self._described()
            self._spread = Factors(x, seen, self.factors().weights.shape[1], each=True)
        return self._spread

    def _described(self) -> tuple[Floats, Flags]:
        """The calibration samples in all modalities that are encoded, side by side."""
        names = [each for each in self.tables.names if each not in self.targets]
        return _joined(self.tables.rows(self.calibration), names)

    def _factor_count(self, x: Floats, seen: Flags) -> int:
        """The number of factors that predicts entries best which were hidden from the fit."""
        draws = np.random.default_rng(fold_in(self.seed, "number of factors"))
        lots = draws.random(seen.shape)[:, self._leader()]
        hidden = seen & (lots < HIDDEN)
        limit = max(1, min(len(x) // 2, x.shape[1] - 1))
        given = np.where(hidden, 0, x).astype(np.float32)
        errors: dict[int, float] = {}
        for count in sorted({min(count, limit) for count in _FACTORS}):
            predicted = Factors(given, seen & ~hidden, count).predict(given, seen & ~hidden)
            errors[count] = float(((predicted - x)[hidden] ** 2).sum())
        return min(errors, key=lambda count: errors[count])

    # ---- new samples -----------------------------------------------------------------------------------------

    def admit(self, tables: Tables) -> Tables:
        """New samples without the effects of covariates, and with each value at most one width of the training range outside it.

        A column that was constant in training, or nearly so, has no scale, and one new value in it would outweigh all other columns.
        """
        tables = self.effects.removed(tables)
        return tables._replace(
            values={name: np.clip(x, *self._range[name]) for name, x in tables.values.items()}
        )

    def complete(self, tables: Tables) -> Tables:
        """The tables in the order of the training samples, with the targets that they lack as missing."""
        values, observed = {}, {}
        for name, x in self.tables.values.items():
            shape = tables.size, x.shape[1]
            absent = name in self.targets and name not in tables.values
            values[name] = np.zeros(shape, np.float32) if absent else tables.values[name]
            observed[name] = np.zeros(shape, bool) if absent else tables.observed[name]
        return tables._replace(values=values, observed=observed)

    def sample(self, n: int, seed: int) -> dict[str, Floats]:
        """New samples from the prior of the first ensemble, with covariates of random training samples: name -> [n, F], standardised."""
        nothing = Tables(
            {name: np.zeros((n, x.shape[1]), np.float32) for name, x in self.tables.values.items()},
            {name: np.zeros((n, x.shape[1]), bool) for name, x in self.tables.values.items()},
        )
        if self.tables.covariates is not None:
            rows = np.random.default_rng(fold_in(seed, "covariates")).integers(self.tables.size, size=n)
            nothing = nothing._replace(covariates=self.tables.covariates[rows])
        drawn = next(iter(self.ensembles.values())).draw(nothing, seed)
        return drawn | {name: drawn[name] + self.effects.of(name, nothing.at) for name in self.effects.shifts}

    # ---- imputation ------------------------------------------------------------------------------------------

    def impute(self, tables: Tables, methods: bool = False) -> Iterator[Imputed]:
        """Predict what is missing.

        Args:
            tables: Samples with the modalities of the training samples.
            methods: Return the predictions of each method too.

        Yields:
            For groups of samples with one pattern, and each modality that lacks an entry, the predictions.
        """
        asked = tables.names
        tables = self.admit(self.complete(tables))
        for pattern, rows in patterns(tables.mask).items():
            seen = tuple(
                kept and name not in self.targets for name, kept in zip(tables.names, pattern, strict=True)
            )
            for start in range(0, len(rows), _PIECE):
                piece = rows[start : start + _PIECE]
                yield from self._piece(tables.rows(piece), piece, seen, methods, asked)

    def _piece(
        self, part: Tables, rows: NDArray[np.intp], pattern: Pattern, methods: bool, asked: Sequence[str]
    ) -> Iterator[Imputed]:
        lacking = {name: ~seen for name, seen in part.observed.items() if name in asked and not seen.all()}
        if not lacking:
            return
        given = part.only(pattern)
        by_members = {label: each.predict(given) for label, each in self.ensembles.items()}
        x = self._inputs(given, pattern, by_members)
        for name, wanted in lacking.items():
            inside = pattern[part.names.index(name)]
            some = wanted.any(1)  # within a pattern, samples may be complete in this modality
            combination = self.combination(pattern, name)
            found = {label: each[name][some] for label, each in by_members.items()}
            entries = None
            if inside:
                own = given.rows(np.flatnonzero(some))
                found |= self._inside(None, own, name)
                entries = self._entries_of(own, name)
            parts = combination.predict(x[some], found)
            shift = self._shift(part, name)
            if shift is not None:
                parts = {method: each + shift[some] for method, each in parts.items()}
            shown = parts if methods else {}
            yield Imputed(name, rows[some], parts["stack"], wanted[some], combination, shown, entries)


def specs(tables: Tables, design: Design, targets: Sequence[str], wide: Wide) -> list[Modality]:
    """The modalities of the members of an ensemble.

    Args:
        tables: The training samples.
        design: The ensemble.
        targets: Modalities that are decoded and never encoded.
        wide: The coordinates of wide tables.
    """
    network = dict(design.network)
    columns = 0 if tables.covariates is None else tables.covariates.shape[1]
    kind, entries = network.pop("network", "auto"), _entries(tables, targets)
    return [
        Modality(
            name,
            (wide.size(name, x.shape[1]),),
            network=kind,
            params={"scale": "per_entry", **network},
            role="target" if name in targets else "both",
            entries=entries and name not in targets,
            covariates=tuple(Covariate(str(at)) for at in range(columns)),
        )
        for name, x in tables.values.items()
    ]


def _entries(tables: Tables, targets: Sequence[str]) -> bool:
    """Whether entries are hidden in training: one modality can be predicted only from its own entries."""
    return tables.gaps or len(tables.names) - len(targets) < 2


def _rounds(count: int) -> int:
    """In how many rounds a share of the entries of ``count`` samples is hidden, each entry once at most."""
    return int(min(1 / HIDDEN, max(1, -(-_HIDDEN_OF_EACH // (HIDDEN * count)))))


def _whole(tables: Tables, pattern: Pattern) -> Flags:
    """[N], whether all modalities of the pattern were observed."""
    whole: Flags = np.asarray(tables.mask[:, np.flatnonzero(pattern)].all(1), bool)
    return whole


def _range(values: Floats, observed: Flags) -> tuple[Floats, Floats]:
    """The ends of the range that ``admit`` allows for each column: [F] each."""
    low, high = (np.full(values.shape[1], sign * np.inf, np.float32) for sign in (1, -1))
    for rows, x in pieces(values):
        low = np.minimum(low, np.where(observed[rows], x, np.inf).min(0))
        high = np.maximum(high, np.where(observed[rows], x, -np.inf).max(0))
    known = observed.any(0)
    low, high = np.where(known, low, 0), np.where(known, high, 0)
    return low - (high - low), high + (high - low)


def _joined(tables: Tables, names: Sequence[str]) -> tuple[Floats, Flags]:
    """The tables side by side: [N, P] and which entries were observed."""
    return (
        np.concatenate([tables.values[name] for name in names], 1),
        np.concatenate([tables.observed[name] for name in names], 1),
    )

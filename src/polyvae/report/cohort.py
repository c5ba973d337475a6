"""The report of a fitted estimator: the samples and what is missing, scores, calibration, embedding, measured against imputed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.combine import Combination, half_widths
from polyvae.imputation.estimator import Estimator
from polyvae.imputation.runs import REPORT, FittedRun
from polyvae.imputation.scores import Scores
from polyvae.imputation.tables import Tables, patterns
from polyvae.imputation.target import TARGET
from polyvae.report.metrics import number
from polyvae.report.plots import (
    Pair,
    curves_figure,
    embedding_figure,
    pairs_figure,
    patterns_figure,
    scores_figure,
)
from polyvae.report.sections import Section, Table
from polyvae.report.templates import render
from polyvae.utils.files import write_atomic
from polyvae.utils.text import counted

_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_POINTS = 1500  # samples in a scatter plot
_LISTED = 5  # features with the highest, and with the lowest R²


class Card(NamedTuple):
    """A headline number: its value, title and meaning."""

    value: str
    title: str
    meaning: str


class View(NamedTuple):
    """What the sections show.

    Attributes:
        estimator: The fitted estimator.
        tables: The training samples without the target, standardised.
        held: Modality -> the combination of which its held-out scores are.
        target: The name of the target; None: there is none.
    """

    estimator: Estimator
    tables: Tables
    held: Mapping[str, Combination]
    target: str | None

    @property
    def scores(self) -> Scores:
        """The held-out scores."""
        return self.estimator.scores_

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities."""
        return self.estimator.schema_.names


def write_fit_report(run: FittedRun) -> Path:
    """Write ``report.html`` of a run of the estimator: one page that stands alone.

    Args:
        run: The run.

    Returns:
        The path of the page.

    Raises:
        StorageError: If the file cannot be written. The old page is unchanged.
    """
    view = _view(run)
    makers = (
        _samples_section,
        _scores_section,
        _features_section,
        _calibration_section,
        _embedding_section,
        _pairs_section,
        _target_section,
    )
    sections = [section for make in makers if (section := make(view)) is not None]
    now = datetime.now().astimezone()
    page = render(
        "cohort.html.jinja",
        title=run.path.resolve().name,
        summary="Imputation and embedding of samples with missing modalities.",
        facts=_facts(view, run),
        cards=_cards(view),
        sections=sections,
        command=run.record.command,
        protocol=_protocol(view, run),
        date=f"{now.day} {now:%B %Y, %H:%M}",
        version=metadata.version("polyvae"),
    )
    write_atomic(run.path / REPORT, page.encode())
    return run.path / REPORT


def _view(run: FittedRun) -> View:
    estimator = run.estimator
    imputer, names = estimator._imputer, estimator.schema_.names
    tables = Tables(
        {name: imputer.tables.values[name] for name in names},
        {name: imputer.tables.observed[name] for name in names},
    )
    held = {}
    for name in names:
        pattern = imputer.others(name)
        if not any(pattern):  # one modality is predicted from its own entries
            pattern = tuple(other not in imputer.targets for other in imputer.tables.names)
        held[name] = imputer.combination(pattern, name)
    return View(estimator, tables, held, run.record.target)


def _facts(view: View, run: FittedRun) -> list[str]:
    return [
        counted(view.tables.size, "sample", "samples"),
        counted(len(view.names), "modality", "modalities"),
        counted(view.estimator.n_features_in_, "feature", "features"),
        f"fitted in {number(run.record.seconds, 0)} s",
    ]


def _cards(view: View) -> list[Card]:
    mask = view.tables.mask
    complete = int(mask.all(1).sum())
    cards = [
        Card(
            f"{complete:,} of {len(mask):,}",
            "Complete samples",
            "They have every modality. The others are used for training too.",
        )
    ]
    found = {
        score: [
            row.value
            for row in view.scores.rows
            if (row.feature, row.method, row.score) == (None, "stack", score)
        ]
        for score in ("r2", "coverage")
    }
    if found["r2"]:
        cards.append(
            Card(
                number(float(np.mean(found["r2"]))),
                "Mean R² of imputations",
                "Over the modalities, each predicted for samples that were left out. 0: no better than the mean of each feature; 1: exact.",
            )
        )
    if found["coverage"]:
        cards.append(
            Card(
                f"{100 * float(np.mean(found['coverage'])):.0f} %",
                "Coverage of 90 % intervals",
                "How many measured values of samples left out are inside their interval. It should be close to 90 %.",
            )
        )
    return cards


# ---- samples -------------------------------------------------------------------------------------------------


def _samples_section(view: View) -> Section:
    rows, size = [], view.tables.size
    for each in view.estimator.schema_.modalities:
        seen = view.tables.observed[each.name]
        present = seen.any(1)
        gaps = int((~seen[present]).sum())
        kinds = [kind for kind in ("real", "count", "binary") if kind in each.kinds]
        rows.append(
            [
                each.name,
                f"{len(each.columns):,}",
                ", ".join(kinds),
                f"{int(present.sum()):,} ({_share(present.mean())})",
                f"{gaps:,} ({_share(gaps / max(1, present.sum() * seen.shape[1]))})",
                f"{len(each.constant):,}",
            ]
        )
    found = patterns(view.tables.mask)
    counts = sorted(
        ((pattern, len(at)) for pattern, at in found.items()), key=lambda pair: (-pair[1], pair[0])
    )
    names = view.names
    said = "; ".join(f"{_named(names, pattern)}: {count}" for pattern, count in counts[:20])
    return Section(
        "samples",
        "Samples and what is missing",
        f"{counted(size, 'sample', 'samples')} in {counted(len(names), 'modality', 'modalities')}. A sample may lack a whole modality, or "
        "single entries of one that was measured.",
        figures=[patterns_figure(names, counts, f"Samples by measured modalities. {said}.")]
        if len(names) > 1
        else [],
        tables=[
            Table(
                ["modality", "features", "kind", "samples with it", "missing entries", "constant features"],
                rows,
                "Missing entries are those of samples that have the modality. Constant features are not scored.",
            )
        ],
    )


def _share(value: float) -> str:
    return f"{100 * float(value):.1f} %" if 0 < value < 0.1 else f"{100 * float(value):.0f} %"


def _named(names: Sequence[str], pattern: Sequence[bool]) -> str:
    return " + ".join(name for name, kept in zip(names, pattern, strict=True) if kept) or "nothing"


# ---- scores --------------------------------------------------------------------------------------------------


def _scores_section(view: View) -> Section:
    whole = view.scores.select(feature=None, pattern=None)
    methods = [method for method in whole.methods if method != "stack"] + ["stack"]
    values = {
        name: {method: value for method in methods if (value := whole.value(name, method, "r2")) is not None}
        for name in whole.modalities
    }
    values = {name: each for name, each in values.items() if each}
    lead = (
        f"{_capital(view.scores.sentence())} “stack” is what impute returns: the other methods, combined by weights for each pattern of "
        "observed modalities."
    )
    if not values:
        return Section(
            "scores",
            "How well missing values are imputed",
            "Too few values were observed to measure an error.",
        )
    shown = [method for method in methods if any(method in each for each in values.values())]
    table = Table(
        ["R²", *shown],
        [[name, *(number(each[m]) if m in each else "–" for m in shown)] for name, each in values.items()],
        "Each modality predicted from all others that a sample has, for samples that were left out.",
    )
    return Section(
        "scores",
        "How well missing values are imputed",
        lead,
        figures=[
            scores_figure(
                {
                    name: {m: each[m] for m in shown if m in each and m != "mean"}
                    for name, each in values.items()
                },
                [method for method in shown if method != "mean"],
                "R² of each method by modality; the numbers are in the table.",
                "",
            )
        ],
        tables=[table, _intervals(view)],
    )


def _intervals(view: View) -> Table:
    rows = []
    for name in view.scores.modalities:
        found = [
            view.scores.value(name, "stack", score) for score in ("rmse", "pearson", "coverage", "width")
        ]
        at = next((row.n for row in view.scores.rows if row[:4] == (name, None, None, "stack")), 0)
        combination = view.held[name]
        share = _share(found[2]) if found[2] is not None else "–"
        rows.append(
            [
                name,
                f"{at:,}",
                *(_number(value) for value in found[:2]),
                share,
                _number(found[3]),
                _weights(combination),
            ]
        )
    return Table(
        ["stack", "samples", "RMSE", "correlation", "coverage", "width", "weights"],
        rows,
        "Means over features, in their units. Coverage and width: of 90 % intervals. An infinite width: too few samples were measured to "
        "calibrate some feature. Weights: of the methods in the stack.",
    )


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return number(value) if np.isfinite(value) else "infinite"


def _weights(combination: Combination) -> str:
    found = sorted(combination.weights.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{name} {weight:.2f}" for name, weight in found if weight >= 0.005) or "the mean"


# ---- features ------------------------------------------------------------------------------------------------


def _features_section(view: View) -> Section | None:
    curves: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    tables = []
    for each in view.estimator.schema_.modalities:
        ranked = _ranked(view, each.name)
        if not ranked:
            continue
        values = np.array([value for _, value in ranked])
        curves[each.name] = np.linspace(0, 100, len(values)) if len(values) > 1 else np.array([0.0]), values
        split = len(ranked) > 2 * _LISTED
        listed = [*ranked[:_LISTED], *ranked[-_LISTED:]] if split else ranked
        rows = [[feature, each.units.get(feature, ""), number(value)] for feature, value in listed]
        if split:
            rows.insert(_LISTED, [f"{len(ranked) - 2 * _LISTED:,} others", "", "…"])
        if not each.units:
            rows = [[row[0], row[2]] for row in rows]
        tables.append(Table([each.name, *(["unit"] if each.units else []), "R²"], rows))
    if not curves:
        return None
    low = min(float(y.min()) for _, y in curves.values())
    figure = curves_figure(
        "features",
        {name: (x, np.maximum(y, -0.5)) for name, (x, y) in curves.items()},
        diagonal=False,
        xlabel="features, from the best to the worst (%)",
        ylabel="R²",
        alt="R² of the features of each modality, sorted.",
        caption="Features sorted by R², for each modality."
        + (f" Values below −0.5 are drawn there; the lowest is {number(low)}." if low < -0.5 else ""),
    )
    return Section(
        "features",
        "Features",
        "R² of single features of samples left out. A feature with an R² near 0 cannot be predicted from the other modalities, and its "
        "imputed values are close to its mean.",
        figures=[figure],
        tables=tables,
    )


def _ranked(view: View, name: str) -> list[tuple[str, float]]:
    """The features of a modality and their R², the best first."""
    found = [
        (row.feature, row.value)
        for row in view.scores.rows
        if row.modality == name and row.method == "stack" and row.score == "r2" and row.feature is not None
    ]
    return sorted(found, key=lambda pair: -pair[1])


# ---- calibration ---------------------------------------------------------------------------------------------


def _calibration_section(view: View) -> Section | None:
    curves = {}
    for name, combination in view.held.items():
        curve = _coverage(combination)
        if curve is not None:
            curves[name] = np.array(_LEVELS), curve
    if not curves:
        return None
    worst = max(float(np.abs(x - y).max()) for x, y in curves.values())
    figure = curves_figure(
        "calibration",
        curves,
        diagonal=True,
        xlabel="nominal coverage of the interval",
        ylabel="observed coverage",
        alt="Observed against nominal coverage for each modality; the numbers of 90 % intervals are in the table of scores.",
        caption=f"On the dashed line, intervals cover as often as they claim. The largest difference is {worst:.2f}.",
    )
    return Section(
        "calibration",
        "Calibration",
        "Intervals of samples left out, by residuals of the other folds: how many measured values are inside. Infinite intervals count as "
        "covering.",
        figures=[figure],
    )


def _coverage(combination: Combination) -> NDArray[np.float64] | None:
    """The observed coverage at each level; None where nothing was observed."""
    residuals, fold = combination.residuals, combination.fold
    known = ~np.isnan(residuals)
    if not known.any():
        return None
    found = []
    for level in _LEVELS:
        inside = 0
        for e in np.unique(fold):
            rows = fold == e
            width = half_widths(residuals[~rows], level)
            inside += int((np.abs(residuals[rows]) <= width)[known[rows]].sum())
        found.append(inside / int(known.sum()))
    return np.array(found)


# ---- embedding -----------------------------------------------------------------------------------------------


def _embedding_section(view: View) -> Section | None:
    estimator = view.estimator
    kept = _some(view.tables.size)
    imputer = estimator._imputer
    part = estimator._with_target(view.tables.rows(kept))
    z, _ = estimator._embedding.of(imputer, part)
    if z.shape[1] < 2 or len(z) < 3:
        return None
    lacking = [_named(view.names, row) for row in view.tables.mask[kept].tolist()]
    every = _named(view.names, [True] * len(view.names))
    figures = [
        embedding_figure(
            "embedding_patterns",
            z[:, :2],
            ["all" if text == every else text for text in lacking],
            "measured modalities",
            "The embedding, coloured by measured modalities.",
        )
    ]
    if estimator._target is not None:
        known = imputer.tables.observed[TARGET][kept][:, 0]
        read, _ = estimator._target.read(imputer.tables.values[TARGET][kept])
        if estimator._target.classes is None:
            groups: Sequence[str] | NDArray[np.float64] = np.where(known, read.astype(np.float64), np.nan)
        else:
            groups = [
                str(value) if seen else "" for value, seen in zip(read.tolist(), known.tolist(), strict=True)
            ]
        title = view.target or "target"
        figures.insert(
            0,
            embedding_figure(
                "embedding_target", z[:, :2], groups, title, f"The embedding, coloured by {title}."
            ),
        )
    more = (
        f" {len(kept):,} of {view.tables.size:,} samples are shown." if len(kept) < view.tables.size else ""
    )
    return Section(
        "embedding",
        "Embedding",
        "The first two columns of the embedding of the training samples, given what was measured of each. If samples group by what was "
        f"measured rather than by what they are, distances between patterns should not be interpreted.{more}",
        figures=figures,
        wide=False,
    )


def _some(size: int) -> NDArray[np.intp]:
    """At most ``_POINTS`` row numbers, drawn with a fixed seed."""
    return np.sort(np.random.default_rng(0).permutation(size)[:_POINTS])


# ---- measured against imputed --------------------------------------------------------------------------------


def _pairs_section(view: View) -> Section | None:
    figures = []
    for place, each in enumerate(view.estimator.schema_.modalities):
        ranked = _ranked(view, each.name)
        if not ranked:
            continue
        chosen = [ranked[at] for at in sorted({0, len(ranked) // 2, len(ranked) - 1})]
        pairs = [_pair(view, each.name, feature, value) for feature, value in chosen]
        figures.append(
            pairs_figure(
                f"pairs_{place}",
                each.name,
                pairs,
                f"Measured against imputed values of {', '.join(pair.title for pair in pairs)} of {each.name}.",
                "",
            )
        )
    if not figures:
        return None
    return Section(
        "pairs",
        "Measured against imputed",
        "For each modality the features with the highest, the middle and the lowest R². Each point is a sample that was left out; the band "
        "is the 90 % interval around the imputed value.",
        figures=figures,
    )


def _pair(view: View, name: str, feature: str, r2: float) -> Pair:
    schema, combination = view.estimator.schema_, view.held[name]
    column = schema[name].columns.index(feature)
    seen = np.flatnonzero(combination.seen[:, column])
    rows = seen[_some(len(seen))[:400]] if len(seen) > 400 else seen
    measured = schema.restore(name, combination.y)[rows, column]
    imputed = schema.restore(name, combination.left_out["stack"])[rows, column]
    half = float(combination.half_widths(0.9)[column]) * schema[name].scale[column]
    return Pair(feature, schema[name].units.get(feature, ""), measured, imputed, half, f"R² {number(r2, 2)}")


# ---- target --------------------------------------------------------------------------------------------------


def _target_section(view: View) -> Section | None:
    estimator = view.estimator
    target, imputer = estimator._target, estimator._imputer
    if target is None:
        return None
    combination = imputer.combination(imputer.others(TARGET), TARGET)
    known = combination.seen.any(1)
    if not known.any():
        return None
    true, _ = target.read(combination.y[known])
    found, _ = target.read(combination.left_out["stack"][known])
    name = view.target or "target"
    if target.classes is None:
        true, found = true.astype(np.float64), found.astype(np.float64)
        total = float(((true - true.mean()) ** 2).sum())
        r2 = 1 - float(((true - found) ** 2).sum()) / total if total > 0 else 0.0
        text = f"R² {number(r2)}"
        rows = [["R²", number(r2), "0"]]
    else:
        share = max(float(np.mean(true == value)) for value in np.unique(true))
        accuracy = float(np.mean(true == found))
        text = f"accuracy {number(accuracy)}"
        rows = [["accuracy", number(accuracy), number(share)]]
    return Section(
        "target",
        f"Prediction of {name}",
        f"{name} predicted from all modalities, for {counted(int(known.sum()), 'sample', 'samples')} left out: {text}.",
        tables=[Table(["score", "predicted", "most frequent class" if target.classes else "mean"], rows)],
    )


# ---- protocol ------------------------------------------------------------------------------------------------


def _protocol(view: View, run: FittedRun) -> list[tuple[str, str]]:
    estimator = view.estimator
    labels = ", ".join(
        f"{design.label} ({design.model}, {estimator.members} members)"
        for design in estimator._imputer.designs
    )
    pooled = [name for name, combination in view.held.items() if combination.pooled]
    found = [
        ("Files", "; ".join(f"{name}: {path}" for name, path in run.record.files.items())),
        (
            "Methods",
            f"Ensembles of VAEs: {labels}. Simple methods: ridge regression, k-nearest neighbours on principal components, and from 500 "
            "samples kernel ridge regression. They are combined by non-negative least squares.",
        ),
        (
            "Samples left out",
            "Every member of an ensemble leaves out one fold, and predicts it. The simple methods are scored by leave-one-out, and weights "
            "and intervals by the other folds. Choices such as penalties and the time of stopping were made on these samples, so errors on "
            "new samples can be slightly higher.",
        ),
        (
            "Intervals",
            "Split-conformal, for each feature and each pattern of observed modalities. They assume that new samples come from the same "
            "population as the training samples and that what is missing does not depend on its value.",
        ),
        (
            "Privacy",
            "The file estimator.polyvae contains the standardised training data. This page shows values of single samples.",
        ),
        ("Seed", str(estimator.seed)),
    ]
    if pooled:
        found.insert(
            4,
            (
                "Pooled",
                f"Fewer than 100 samples have {', '.join(pooled)} and all other modalities, so the calibration also uses samples that lack "
                "some.",
            ),
        )
    return found


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

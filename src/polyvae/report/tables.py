"""Sections of the report of a fitted estimator: samples and what is missing, scores, features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.covariates.conditions import by_level
from polyvae.imputation.estimator import Estimator
from polyvae.imputation.methods.combine import Combination
from polyvae.imputation.scoring.scores import Scores
from polyvae.imputation.tables import Tables, patterns
from polyvae.report.metrics import number
from polyvae.report.plots import curves_figure, patterns_figure, scores_figure
from polyvae.report.sections import Section, Table
from polyvae.utils.text import counted

_LEVELS = 30  # levels of covariates that are listed
_LISTED = 5  # features with the highest, and with the lowest R²


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


# ---- samples ----------------------------------------


def samples_section(view: View) -> Section:
    """How many samples, modalities and features there are, and the patterns of missing modalities."""
    rows, size = [], view.tables.size
    for each in view.estimator.schema_.modalities:
        seen = view.tables.observed[each.name]
        present = seen.any(1)
        gaps = int((~seen[present]).sum())
        kinds = [kind for kind in ("real", "count", "binary", "ordinal", "categorical") if kind in each.kinds]
        rows.append(
            [
                each.name,
                f"{len(each.originals):,}",
                ", ".join(kinds),
                f"{int(present.sum()):,} ({share_text(present.mean())})",
                f"{gaps:,} ({share_text(gaps / max(1, present.sum() * seen.shape[1]))})",
                f"{len(each.constant):,}",
            ]
        )
    found = patterns(view.tables.mask)
    counts = sorted(
        ((pattern, len(at)) for pattern, at in found.items()), key=lambda pair: (-pair[1], pair[0])
    )
    names = view.names
    said = "; ".join(f"{pattern_name(names, pattern)}: {count}" for pattern, count in counts[:20])
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
            ),
            *_covariates(view),
        ],
    )


def _covariates(view: View) -> list[Table]:
    """The covariates, with the samples of each level and what was never measured there."""
    schema = view.estimator.schema_
    if not schema.covariates:
        return []
    rows = [
        [name, level, f"{size:,}", lacking.replace("'", "") or "–"]
        for name, level, size, lacking in by_level(schema, view.tables)
    ]
    numbers = [[one.name, "number", "", ""] for one in schema.covariates if one.levels is None]
    return [
        Table(
            ["covariate", "level", "samples", "never measured there"],
            [*rows[:_LEVELS], *numbers],
            "Covariates are known for every sample: what they add to each feature is estimated and subtracted. Scores are of the values as "
            "measured, so R² includes what covariates explain. What was never measured in a level is predicted as at an average level, "
            "with wider intervals; coverage cannot be checked there."
            + (f" Not shown: {len(rows) - _LEVELS} levels." if len(rows) > _LEVELS else ""),
        )
    ]


def share_text(value: float) -> str:
    """A share in per cent."""
    return f"{100 * float(value):.1f} %" if 0 < value < 0.1 else f"{100 * float(value):.0f} %"


def pattern_name(names: Sequence[str], pattern: Sequence[bool]) -> str:
    """The measured modalities of a pattern, in words; those that are missing, where they are fewer."""
    measured = [name for name, kept in zip(names, pattern, strict=True) if kept]
    missing = [name for name, kept in zip(names, pattern, strict=True) if not kept]
    if not missing:
        return "all"
    if len(measured) > len(missing):
        return f"without {', '.join(missing)}"
    return f"{' + '.join(measured)} only" if measured else "nothing"


# ---- scores ----------------------------------------


def scores_section(view: View) -> Section:
    """Held-out scores of each method."""
    whole = view.scores.select(feature=None, pattern=None)
    methods = [method for method in whole.methods if method != "stack"] + ["stack"]
    values = {
        name: {method: value for method in methods if (value := whole.value(name, method, "r2")) is not None}
        for name in whole.modalities
    }
    values = {name: each for name, each in values.items() if each}
    lead = (
        f"{capital(view.scores.sentence())} “stack” is what impute returns: the other methods, combined by weights for each pattern of "
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
        share = share_text(found[2]) if found[2] is not None else "–"
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
        "Means over features. RMSE and width are in standard deviations of the training samples, because the units of features differ; "
        "scores.json has them for each feature in its unit. Coverage and width: of 90 % intervals. An infinite width: too few samples were "
        "measured to calibrate some feature. Weights: of the methods in the stack, by least squares, the mean over columns where each has "
        "its own. They need not add up to 1: with a sum below 1, imputed values are closer to the mean than those of the methods, and with "
        "a sum above 1 farther from it.",
        prose=True,
    )


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return number(value) if np.isfinite(value) else "infinite"


def _weights(combination: Combination) -> str:
    found = sorted(combination.weights.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{name} {weight:.2f}" for name, weight in found if weight >= 0.005) or "the mean"


# ---- features ----------------------------------------


def features_section(view: View) -> Section | None:
    """R² of single features; None where none was measured."""
    curves: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    tables = []
    for each in view.estimator.schema_.modalities:
        found = ranked(view, each.name)
        if not found:
            continue
        values = np.array([value for _, value in found])
        curves[each.name] = np.linspace(0, 100, len(values)) if len(values) > 1 else np.array([0.0]), values
        split = len(found) > 2 * _LISTED
        listed = [*found[:_LISTED], *found[-_LISTED:]] if split else found
        rows = [[feature, each.units.get(feature, ""), number(value)] for feature, value in listed]
        if split:
            rows.insert(_LISTED, [f"{len(found) - 2 * _LISTED:,} others", "", "…"])
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
        "imputed values are close to its mean. R² of a column of classes is that of its indicators, columns of zeros and ones.",
        figures=[figure],
        tables=tables,
    )


def ranked(view: View, name: str) -> list[tuple[str, float]]:
    """The features of a modality and their R², the best first."""
    found = [
        (row.feature, row.value)
        for row in view.scores.rows
        if row.modality == name and row.method == "stack" and row.score == "r2" and row.feature is not None
    ]
    return sorted(found, key=lambda pair: -pair[1])


def capital(text: str) -> str:
    """The text with a capital letter."""
    return text[:1].upper() + text[1:]

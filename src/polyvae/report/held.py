"""Sections of the report of a fitted estimator: calibration, embedding, measured against imputed values, the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.methods.combine import Combination
from polyvae.imputation.tables import patterns
from polyvae.imputation.targets.target import TARGET
from polyvae.report.classes import class_figures
from polyvae.report.metrics import number
from polyvae.report.plots import Pair, curves_figure, embedding_figure, pair_figure
from polyvae.report.sections import Section, Table
from polyvae.report.survival import survival_section
from polyvae.report.tables import View, pattern_name, ranked
from polyvae.utils.text import counted

_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_POINTS = 1500  # samples in a scatter plot
_JOBS = 8  # rows of the table of patterns


# ---- calibration ----------------------------------------


def calibration_section(view: View) -> Section | None:
    """Observed against nominal coverage; None where nothing was measured."""
    curves = {}
    for name, combination in view.held.items():
        curve = coverage(combination)
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
        tables=[table] if (table := _by_pattern(view)) is not None else [],
    )


def _by_pattern(view: View) -> Table | None:
    """R² and coverage of the missing modalities of the most frequent patterns; None where no modality is missing."""
    imputer, rows = view.estimator._imputer, []
    found = [(seen, name, len(at)) for seen, at in patterns(view.tables.mask).items() for name in view.names]
    jobs = [(seen, name, n) for seen, name, n in found if any(seen) and not seen[view.names.index(name)]]
    for seen, name, count in sorted(jobs, key=lambda job: -job[2])[:_JOBS]:
        given = dict(zip(view.names, seen, strict=True))
        pattern = tuple(given.get(other, False) for other in imputer.tables.names)
        combination = imputer.combination(pattern, name)
        observed = coverage(combination, (0.9,))
        if observed is None:
            continue
        y, known = combination.y, combination.seen
        left, whole = ((combination.left_out["stack"] - y)[known] ** 2).sum(), (y[known] ** 2).sum()
        r2 = number(float(1 - left / whole)) if whole > 0 else "–"
        used = f"{len(y):,}{' (pooled)' if combination.pooled else ''}"
        rows.append(
            [pattern_name(view.names, seen), name, f"{count:,}", used, r2, f"{100 * observed[0]:.0f} %"]
        )
    if not rows:
        return None
    return Table(
        ["measured", "imputed", "samples", "calibrated on", "R²", "coverage of 90 % intervals"],
        rows,
        "The most frequent patterns: what was measured, what was imputed, in how many samples, and how well it is predicted for samples "
        "left out that have the same modalities. Pooled: fewer than 100 have them, so samples that lack some are used too.",
    )


def coverage(combination: Combination, levels: Sequence[float] = _LEVELS) -> NDArray[np.float64] | None:
    """The observed coverage at each level; None where nothing was observed."""
    size, known = np.abs(combination.residuals), combination.seen
    if not known.any():
        return None
    return np.array([float((size <= combination.crossed_widths(level))[known].mean()) for level in levels])


# ---- embedding ----------------------------------------


def embedding_section(view: View) -> Section | None:
    """The first two columns of the embedding, by target and by pattern; None with fewer than two columns or three samples."""
    estimator = view.estimator
    kept = _some(view.tables.size)
    imputer = estimator._imputer
    part = estimator._with_target(view.tables.rows(kept))
    z = estimator._embedding.of_admitted(imputer, part)
    if z.shape[1] < 2 or len(z) < 3:
        return None
    lacking = [pattern_name(view.names, row) for row in view.tables.mask[kept].tolist()]
    figures = [
        embedding_figure(
            "embedding_patterns",
            z[:, :2],
            lacking,
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


# ---- measured against imputed ------------------------------


def pairs_section(view: View) -> Section | None:
    """Measured against imputed values of a few features; None where none was measured."""
    figures = []
    for place, each in enumerate(view.estimator.schema_.modalities):
        classes = {group.name for group in each.groups}
        found = [pair for pair in ranked(view, each.name) if pair[0] not in classes]
        chosen = [found[at] for at in sorted({0, len(found) // 2, len(found) - 1})] if found else []
        for number_of, (feature, value) in enumerate(chosen):
            pair = _pair(view, each.name, feature, value)
            alt = f"Measured against imputed values of {feature} of {each.name}, {pair.note}."
            figures.append(pair_figure(f"pair_{place}_{number_of}", each.name, pair, alt))
        figures += class_figures(view, place)
    if not figures:
        return None
    return Section(
        "pairs",
        "Measured against imputed",
        "For each modality the features with the highest, the middle and the lowest R², numbers and classes apart. Each point is a sample "
        "that was left out; the band is the 90 % interval around the imputed value. Squares count samples left out by measured and "
        "imputed class; their tint is the share of the measured class.",
        figures=figures,
        wide=False,
    )


def _pair(view: View, name: str, feature: str, r2: float) -> Pair:
    schema, combination = view.estimator.schema_, view.held[name]
    column = schema[name].columns.index(feature)
    seen = np.flatnonzero(combination.seen[:, column])
    rows = seen[_some(len(seen))[:400]] if len(seen) > 400 else seen
    measured = schema.unstandardise(name, combination.y)[rows, column]
    imputed = schema.unstandardise(name, combination.left_out["stack"])[rows, column]
    half = float(combination.half_widths(0.9)[column]) * schema[name].scale[column]
    unit = schema[name].units.get(feature, "")
    if schema[name].logs[column]:
        unit = f"log(1 + {unit or 'x'})"
    return Pair(feature, unit, measured, imputed, half, f"R² {number(r2, 2)}")


# ---- target ----------------------------------------


def target_section(view: View) -> Section | None:
    """How well the target is predicted; None where there is no target."""
    estimator = view.estimator
    target, imputer = estimator._target, estimator._imputer
    if estimator._hazards is not None:
        return survival_section(estimator._hazards, (view.target or "time").partition(",")[0])
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

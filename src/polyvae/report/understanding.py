"""Sections about what latent dimensions explain and about what is wrong, for the reports of runs and of estimators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polyvae.metrics.explained import PARTS, SHOWN
from polyvae.report.drawing import Figure
from polyvae.report.figures import heat_map
from polyvae.report.metrics import number
from polyvae.report.sections import Page, Section, Table
from polyvae.report.tables import View, capital
from polyvae.utils.text import counted

_ROWS = 16  # latent dimensions in the heat map
_TOP = 6  # features listed for each
_FULL = 0.2  # the smallest R² of the full tint
_LEAST = 0.01  # R² of a feature that is listed, but for the first
_LISTED = 12  # latent dimensions whose features are listed


def variance_section(page: Page) -> Section | None:
    """Variance explained by latent dimension and modality, of a run; None without these numbers."""
    found = page.evaluation.get("variance")
    if not found:
        return None
    parts = {key: {n: by[key] for n, by in found["parts"].items() if key in by} for key in PARTS}
    lead = (
        "R² of the means decoded with one latent dimension at its posterior mean and all others at their means over "
        f"{found['rows']:,} held-out samples. With a nonlinear decoder the dimensions need not add up to “{PARTS['all']}”. Last row: R² of "
        "each modality predicted from the others."
    )
    figure, shown = _map("variance_explained", found["latents"], parts, "latent dimension")
    return Section(
        "variance", "Variance explained", lead, [figure], _features(shown, found["top"], "latent dimension")
    )


def cohort_variance_section(view: View) -> Section | None:
    """Variance explained by factor and modality, of an estimator; and by column of its embedding."""
    factors, own = view.estimator.factors(), view.estimator.variance_explained()
    if not own.active() and not factors.latents:
        return None
    figures, shown = list[Figure](), list[str]()
    for name, table, title in (
        ("variance_embedding", own, "column of the embedding"),
        ("variance_explained", factors, "factor"),
    ):
        shares = {modality: table.by_latent(modality) for modality in table.modalities}
        parts = {
            key: {
                modality: value
                for modality in table.modalities
                if not np.isnan(value := table.value(modality, key))
            }
            for key in table.parts
        }
        figure, shown = _map(name, shares, parts, title)
        figures.insert(0, figure)
    lead = (
        "The share of each factor in the variance of each modality, whose features are standardised. Factors are those of a group factor "
        "analysis of the measured values, the linear model of MOFA: each may be active in some modalities only. Those that explain less "
        "than 1 % of every modality are left out. Below, the same for the columns of the embedding, which are principal components of what "
        "the VAE expects, so that factors are mixed in them; training samples are embedded by the members that left them out, given all "
        "that was measured. Last row: R² of each modality predicted from the others."
    )
    names = [
        column
        for each in view.estimator.schema_.modalities
        for group in each.groups
        if not group.ranks
        for column in each.columns[group.columns]
    ]
    if names:
        lead += f" A column of classes has a share for each of its classes, such as {names[0]}."
    top = {name: factors.top(name, _TOP) for name in shown}
    return Section(
        "variance", "Variance explained", lead, figures, _features(shown, top, "factor"), wide=False
    )


def _map(
    name: str, shares: Mapping[str, Mapping[str, float]], parts: Mapping[str, Mapping[str, float]], title: str
) -> tuple[Figure, list[str]]:
    """The heat map of R², latent dimension by modality, and the dimensions that it shows."""
    largest: dict[str, float] = {}
    for by in shares.values():
        for latent, value in by.items():
            largest[latent] = max(value, largest.get(latent, value))
    active = [latent for latent, value in largest.items() if value >= SHOWN]
    kept = sorted(active, key=lambda latent: -largest[latent])[:_ROWS]
    active = [latent for latent in active if latent in kept]
    rows = {
        latent: _rounded({each: by[latent] for each, by in shares.items() if latent in by})
        for latent in active
    }
    below = {PARTS[key]: _rounded(by) for key, by in parts.items() if key not in ("all", "others") and by}
    below[PARTS["all"]] = _rounded(parts.get("all", {}))
    last = _rounded(parts.get("others", {}))
    full = max(
        (value for by in (*rows.values(), *below.values(), last) for value in by.values()), default=1.0
    )
    hidden = len(largest) - len(active)
    more = f" Not shown: {counted(hidden, 'dimension', 'dimensions')} below these." if hidden else ""
    said = "; ".join(
        f"{latent}: " + ", ".join(f"{each} {value:.3f}" for each, value in by.items())
        for latent, by in rows.items()
    )
    figure = heat_map(
        name,
        rows | below,
        [*rows, *below],
        list(shares),
        (0.0, max(full, _FULL)),
        last or None,
        PARTS["others"],
        f"Heat map of R² by {title} and modality. {said}.",
        f"R² by {title} and modality.{more}",
        above="modality",
    )
    return figure, active


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Without a minus sign before 0.000."""
    return {name: round(value, 3) or 0.0 for name, value in values.items()}


def _features(latents: Sequence[str], top: Mapping[str, Sequence[Sequence[Any]]], title: str) -> list[Table]:
    """The features of which each latent dimension explains most."""
    rows = []
    for latent in list(latents)[:_LISTED]:
        by: dict[str, list[str]] = {}
        for at, (name, feature, value) in enumerate(list(top.get(latent, ()))[:_TOP]):
            if at and value < _LEAST:
                continue
            by.setdefault(str(name), []).append(f"{feature} {number(float(value), 2)}")
        if by:
            rows.append([latent, "; ".join(f"{name}: {', '.join(each)}" for name, each in by.items())])
    return [Table([title, "features of which it explains most, with R²"], rows, prose=True)] if rows else []


def diagnosis_section(page: Page) -> Section | None:
    """Findings of a run; None without a diagnosis."""
    found = page.evaluation.get("diagnosis")
    return None if found is None else _diagnosed(found["findings"], found["measures"], _MEASURES)


def cohort_diagnosis_section(view: View) -> Section:
    """Findings about an estimator."""
    found = view.estimator.diagnose()
    return _diagnosed([each._asdict() for each in found.findings], found.measures, _COHORT)


_MEASURES = {
    "kl": "KL of its expert (nats)",
    "influence": "influence on z",
    "r2": "R², all given",
    "r2 others": "R², others given",
    "r2 ridge": "R², ridge regression",
    "nats": "nats per sample",
    "share": "share of gradient",
}
_COHORT = {
    "samples": "samples",
    "r2": "R² of the stack",
    "r2 vae": "R² of the VAE",
    "r2 simple": "R² of the best simple method",
    "coverage": "coverage of 90 % intervals",
}


def _diagnosed(
    findings: Sequence[Mapping[str, Any]],
    measures: Mapping[str, Mapping[str, float]],
    titles: Mapping[str, str],
) -> Section:
    lead = "Nothing was found: every number below is on the right side of its threshold."
    tables = []
    if findings:
        lead = f"{counted(len(findings), 'finding', 'findings')}, each with the number that shows it, its threshold, and a remedy."
        rows = [
            [
                each["modality"] or "z",
                number(float(each["number"])),
                number(float(each["threshold"])),
                f"{capital(each['what'])}. Remedy: {each['remedy']}.",
            ]
            for each in findings
        ]
        tables.append(Table(["modality", "number", "threshold", "what, and what to do"], rows, prose=True))
    names = list(dict.fromkeys(name for what in titles for name in measures.get(what, {})))
    shown = [what for what in titles if measures.get(what)]
    rows = [[name, *(_shown(what, measures[what].get(name)) for what in shown)] for name in names]
    if rows:
        tables.append(Table(["modality", *(titles[what] for what in shown)], rows))
    return Section("diagnosis", "Diagnosis", lead, tables=tables)


def _shown(what: str, value: float | None) -> str:
    if value is None:
        return "–"
    if what == "samples":
        return f"{value:,.0f}"
    return number(round(value, 3) or 0.0)

"""Sections about what latent dimensions explain and about what is wrong, for the reports of runs and of estimators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polyvae.metrics.explained import PARTS, SHOWN, VarianceExplained
from polyvae.report.figures import heat_map
from polyvae.report.metrics import number
from polyvae.report.sections import Page, Section, Table
from polyvae.report.tables import View
from polyvae.utils.text import counted

_ROWS = 24  # latent dimensions in the heat map
_TOP = 6  # features listed for each
_LISTED = 12  # latent dimensions whose features are listed


def variance_section(page: Page) -> Section | None:
    """Variance explained by latent dimension and modality, of a run; None without these numbers."""
    found = page.evaluation.get("variance")
    if not found:
        return None
    shares, parts = found["latents"], found["parts"]
    others = {name: by["others"] for name, by in parts.items() if "others" in by}
    lead = (
        "R² of the means decoded with one latent dimension at its posterior mean and all others at their means over "
        f"{found['rows']:,} held-out samples. Below: R² with z alone, with w alone, with all latents, and of each modality predicted from "
        "the others. With a nonlinear decoder the dimensions need not add up."
    )
    return _section(
        shares,
        {key: {n: by[key] for n, by in parts.items() if key in by} for key in PARTS},
        others,
        found["top"],
        lead,
    )


def cohort_variance_section(view: View) -> Section | None:
    """Variance explained by column of the embedding and modality, of an estimator."""
    table = view.estimator.variance_explained()
    shares = {name: table.by_latent(name) for name in table.modalities}
    if not any(shares.values()):
        return None
    parts = {
        key: {name: value for name in table.modalities if not np.isnan(value := table.value(name, key))}
        for key in table.parts
    }
    lead = (
        "The share of each column of the embedding in the variance of each modality, whose features are standardised. Training samples are "
        "embedded by the members that left them out, given all that was measured. The columns add up to “all latents”. Last row: R² of "
        "each modality predicted from the others."
    )
    return _section(shares, parts, parts.get("others", {}), _top(table), lead)


def _top(table: VarianceExplained) -> dict[str, list[tuple[str, str, float]]]:
    return {name: table.top(name, _TOP) for name in table.active()}


def _section(
    shares: Mapping[str, Mapping[str, float]],
    parts: Mapping[str, Mapping[str, float]],
    others: Mapping[str, float],
    top: Mapping[str, Sequence[Sequence[Any]]],
    lead: str,
) -> Section:
    modalities = list(shares)
    largest: dict[str, float] = {}
    for by in shares.values():
        for latent, value in by.items():
            largest[latent] = max(value, largest.get(latent, value))
    active = [latent for latent, value in largest.items() if value >= SHOWN]
    if len(active) > _ROWS:
        kept = sorted(active, key=lambda latent: -largest[latent])[:_ROWS]
        active = [latent for latent in active if latent in kept]
    rows = {latent: {name: by[latent] for name, by in shares.items() if latent in by} for latent in active}
    below = {PARTS[key]: dict(by) for key, by in parts.items() if key not in ("all", "others") and by}
    below |= {PARTS["all"]: dict(parts.get("all", {}))}
    hidden = len(largest) - len(active)
    more = (
        f" {counted(hidden, 'dimension', 'dimensions')} not shown, each below {SHOWN:.0%} or among the smallest."
        if hidden
        else ""
    )
    said = "; ".join(
        f"{latent}: " + ", ".join(f"{n} {value:.3f}" for n, value in by.items())
        for latent, by in rows.items()
    )
    figure = heat_map(
        "variance_explained",
        rows | below,
        [*rows, *below],
        modalities,
        (0.0, 1.0),
        others or None,
        PARTS["others"],
        f"Heat map of R² by latent dimension and modality. {said}.",
        f"R² by latent dimension and modality.{more}",
        above="modality",
    )
    tables = []
    listed = [latent for latent in active if top.get(latent)][:_LISTED]
    if listed:
        lines = [
            [
                latent,
                ", ".join(
                    f"{feature} ({name}) {number(float(value), 2)}"
                    for name, feature, value in top[latent][:_TOP]
                ),
            ]
            for latent in listed
        ]
        tables.append(Table(["latent", "features of which it explains most, with R²"], lines, prose=True))
    return Section("variance", "Variance explained", lead, [figure], tables)


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
                f"{each['what']}. Remedy: {each['remedy']}.",
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
    return f"{value:,.0f}" if what == "samples" else number(value)

"""Diagnosis of a fitted estimator, from its held-out scores and from what was observed."""

from __future__ import annotations

import numpy as np

from polyvae.data.schema import Schema
from polyvae.imputation.imputer import Imputer
from polyvae.imputation.scoring.scores import Scores
from polyvae.metrics.diagnosis import Diagnosis, Finding

LEAST_R2 = 0.02
BEHIND = 0.1
"""By how much R² of the VAE may be below that of the best simple method."""
COVERED = 0.05
"""By how much the coverage of 90 % intervals may differ from it."""
FEWEST = 30
"""Samples of a modality below which its numbers are uncertain."""


def diagnose(schema: Schema, imputer: Imputer, scores: Scores) -> Diagnosis:
    """Findings about single modalities.

    A modality that no method predicts from the others; one that the VAE predicts worse than the best simple method; intervals that do not
    cover as they claim; too few samples. ``measures`` has the R² of the combination, of the VAE and of the best simple method, the coverage
    and the number of samples.
    """
    findings: list[Finding] = []
    measures: dict[str, dict[str, float]] = {
        what: {} for what in ("r2", "r2 vae", "r2 simple", "coverage", "samples")
    }
    labels = set(imputer.ensembles)
    for name in schema.names:
        found = {
            row.method: row.value
            for row in scores.rows
            if (row.modality, row.feature, row.pattern, row.score) == (name, None, None, "r2")
        }
        simple = {key: value for key, value in found.items() if key not in labels | {"stack", "mean"}}
        vae = max((found[label] for label in labels if label in found), default=np.nan)
        covered = scores.value(name, "stack", "coverage")
        count = int(imputer.tables.observed[name].any(1).sum())
        measures["samples"][name] = count
        for what, value in (
            ("r2", found.get("stack", np.nan)),
            ("r2 vae", vae),
            ("r2 simple", max(simple.values(), default=np.nan)),
            ("coverage", np.nan if covered is None else covered),
        ):
            if np.isfinite(value):
                measures[what][name] = float(value)
        findings += _of(name, measures, count)
    return Diagnosis(tuple(findings), measures)


def _of(name: str, measures: dict[str, dict[str, float]], count: int) -> list[Finding]:
    found: list[Finding] = []
    r2, vae, simple, covered = (
        measures[what].get(name, np.nan) for what in ("r2", "r2 vae", "r2 simple", "coverage")
    )
    if count < FEWEST:
        remedy = "add samples that have it; intervals and scores are uncertain"
        found.append(Finding("few samples have it: their number", name, count, FEWEST, remedy))
    if r2 < LEAST_R2:
        remedy = "its imputed values are close to its means: rely on measured ones, or leave it out"
        found.append(Finding("it cannot be predicted from the others: R²", name, r2, LEAST_R2, remedy))
    elif vae < simple - BEHIND:
        remedy = "imputed values come mostly from the simple method; more steps or a larger network= may help the embedding"
        what = "the VAE predicts it worse than the best simple method: the difference in R²"
        found.append(Finding(what, name, vae - simple, -BEHIND, remedy))
    if abs(covered - 0.9) > COVERED:
        remedy = "its samples differ between folds, or are few: add samples, or take wider intervals"
        found.append(
            Finding(
                "its 90 % intervals do not cover as they claim: their coverage", name, covered, 0.9, remedy
            )
        )
    return found

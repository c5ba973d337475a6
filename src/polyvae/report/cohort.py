"""The report of a fitted estimator: the samples and what is missing, scores, calibration, embedding, measured against imputed."""

from __future__ import annotations

from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from polyvae.imputation.files.runs import REPORT, FittedRun
from polyvae.report.classes import classes_section
from polyvae.report.held import calibration_section, embedding_section, pairs_section, target_section
from polyvae.report.metrics import number
from polyvae.report.tables import View, features_section, samples_section, scores_section
from polyvae.report.templates import render
from polyvae.report.understanding import cohort_diagnosis_section, cohort_variance_section
from polyvae.utils.files import write_atomic
from polyvae.utils.text import counted


class Card(NamedTuple):
    """A headline number: its value, title and meaning."""

    value: str
    title: str
    meaning: str


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
        samples_section,
        scores_section,
        features_section,
        classes_section,
        calibration_section,
        embedding_section,
        cohort_variance_section,
        pairs_section,
        target_section,
        cohort_diagnosis_section,
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
    tables = imputer.tables._replace(
        values={name: imputer.tables.values[name] for name in names},
        observed={name: imputer.tables.observed[name] for name in names},
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
    whole = view.scores.select(feature=None, pattern=None)
    found = {
        score: [row.value for row in whole.select(method="stack", score=score).rows]
        for score in ("r2", "coverage", "accuracy")
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
    if found["accuracy"]:
        frequent = [row.value for row in whole.select(method="mean", score="accuracy").rows]
        cards.append(
            Card(
                f"{100 * float(np.mean(found['accuracy'])):.0f} %",
                "Accuracy of imputed classes",
                "Mean over columns of classes, for samples that were left out. The most frequent class alone would be right in "
                f"{100 * float(np.mean(frequent)):.0f} %.",
            )
        )
    return cards


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
            f"Ensembles of VAEs: {labels}. Simple methods: ridge regression, kernel ridge regression, and k-nearest neighbours on "
            "principal components. They are combined by non-negative least squares.",
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

"""The sections of a report: each is made by one function of a Page, and one that does not apply is a sentence that says why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from polyvae.core.vae import MultimodalVAE
from polyvae.report.drawing import Figure
from polyvae.report.figures import bars, heat_map
from polyvae.report.gallery import Scene
from polyvae.report.metrics import classes, number


class Table(NamedTuple):
    """``header`` and ``rows`` of text; the first column names the row. ``prose``: the last one is words."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    prose: bool = False


class Section(NamedTuple):
    """One heading of the page. ``wide``: its figures stand below one another instead of side by side."""

    anchor: str
    title: str
    lead: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    wide: bool = True


@dataclass(frozen=True)
class Page:
    """What sections are made from. ``evaluation`` is empty where there was none."""

    scene: Scene
    evaluation: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]

    @property
    def model(self) -> MultimodalVAE:
        return self.scene.model

    @property
    def classes(self) -> int:
        """How many classes the judges know; 0 where there are none."""
        return classes(self.evaluation)


def coherence_section(page: Page) -> Section:
    """The matrix, and coherence by number of observed modalities."""
    title, values = "Coherence", page.evaluation
    matrix = values.get("coherence_matrix") or {}
    if not any(matrix.values()):
        return Section(
            "coherence",
            title,
            "Left out: the evaluation has no coherence (it needs labelled images, and two modalities).",
        )
    accuracy = values.get("judge_accuracy") or {}
    columns = [name for name in page.model.modalities if any(name in row for row in matrix.values())]
    figures = [
        heat_map(
            "coherence_matrix",
            matrix,
            list(matrix),
            columns,
            (1 / max(page.classes, 2), 1.0),
            accuracy,
            "real images",
            "Heat map of conditional coherence, observed modality by generated one: "
            + "; ".join(
                f"{source} to {target} {value:.3f}"
                for source, row in matrix.items()
                for target, value in row.items()
            ),
            "Rows: the observed modality. Columns: the generated one, and how often its judge sees the sample’s class in it. "
            "Last row: the same judges on real held-out images, the most that can be expected.",
        )
    ]
    kinds = values.get("judge_kind") or {}
    judges = (
        Table(
            ("modality", "judge", "accuracy on real held-out images"),
            [(name, kinds.get(name, "–"), number(value)) for name, value in accuracy.items()],
        )
        if kinds
        else None
    )
    by_number = values.get("coherence_by_observed") or {}
    if len(by_number) > 1:
        chance = 1 / page.classes if page.classes else None
        figures.append(
            bars(
                "coherence_by_observed",
                {"coherence": by_number},
                chance,
                "chance",
                "modalities observed",
                1.0,
                "Bars of coherence by number of observed modalities: "
                + ", ".join(f"{n}: {value:.3f}" for n, value in by_number.items()),
                "By how many modalities were observed. Rising: evidence adds up. Flat: one expert decides.",
            )
        )
    lead = "The share of generated images in which a judge sees the class of what was observed."
    return Section("coherence", title, lead, figures, [judges] if judges else [], wide=False)


def histogram_section(page: Page) -> Section:
    """Which classes the unconditional draws show."""
    title, values = "Classes drawn from nothing", page.evaluation
    found = [
        (label, suffix, _shares(values, suffix))
        for label, suffix in (("own prior", ""), ("fitted prior", "_fitted"))
        if values.get(f"unconditional_histogram{suffix}")
    ]
    if not found:
        return Section("classes", title, "Left out: the evaluation has no unconditional coherence.")
    table = Table(
        ("prior", "all judges agree", "evenness of classes"),
        [
            (
                label,
                number(_float(values, f"unconditional_coherence{suffix}")),
                number(_float(values, f"unconditional_entropy{suffix}")),
            )
            for label, suffix, _ in found
        ],
    )
    figure = bars(
        "classes",
        {label: shares for label, _, shares in found},
        1 / page.classes,
        "even and always agreed",
        "class",
        None,
        "Bars of the share of draws on which all judges agree, by class. "
        + " ".join(
            f"{label}: " + ", ".join(f"{name} {share:.3f}" for name, share in shares.items()) + "."
            for label, _, shares in found
        ),
        "Share of draws on which all judges agree, by the class they agree on. The bars of a prior add up to its coherence.",
    )
    lead = (
        "A constant output agrees with itself, so agreement counts only beside the classes that were drawn. "
        "Evenness 1: all classes alike; 0: one alone."
    )
    return Section("classes", title, lead, [figure], [table])


def likelihood_section(page: Page) -> Section:
    """Estimates of log p(x), with what they are worth."""
    title, values = "Log-likelihood", page.evaluation
    joint = values.get("log_likelihood_joint")
    if not joint:
        return Section(
            "likelihood",
            title,
            "Left out: the evaluation has no likelihood (not asked for, or there is no joint density).",
        )
    samples = values.get("log_likelihood_samples", 0)
    lines = [
        ("all, jointly", joint),
        *(values.get("log_likelihood_by_modality") or {}).items(),
        *(
            (_condition(name, values), line)
            for name, line in (values.get("log_likelihood_by_condition") or {}).items()
        ),
    ]
    rows = [
        (
            name,
            *(number(line[key], 2) for key in ("mean", "standard_error", "sampling_error")),
            f"{line['effective_samples']:.1f} of {samples:,}",
            f"{line['rows']:,}",
        )
        for name, line in lines
    ]
    header = (
        "modality",
        "nats per datum",
        "standard error over data",
        "standard error of sampling",
        "effective samples (median)",
        "data",
    )
    lead = "Estimated by importance sampling: in expectation a lower bound, and far below the truth where few samples are effective."
    if values.get("log_likelihood_by_condition"):
        lead += " A conditional is the difference of two estimates, so no bound."
    return Section("likelihood", title, lead, tables=[Table(header, rows)])


def _condition(name: str, values: Mapping[str, Any]) -> str:
    """ "m0|m1,m2" in words."""
    target, _, given = name.partition("|")
    others = set(values.get("log_likelihood_by_modality") or {}) - {target}
    return f"{target}, given {'all others' if len(others) > 1 and set(given.split(',')) == others else given.replace(',', ', ')}"


def _shares(values: Mapping[str, Any], suffix: str) -> dict[str, float]:
    """The histogram as shares of all draws: they add up to the coherence."""
    counts, coherence = (
        values[f"unconditional_histogram{suffix}"],
        _float(values, f"unconditional_coherence{suffix}"),
    )
    total = sum(counts.values())
    return {name: coherence * count / total if total else 0.0 for name, count in counts.items()}


def _float(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    return math.nan if value is None else float(value)

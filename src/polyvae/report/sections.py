"""The sections of a report about generation and likelihood. A section that does not apply is one sentence with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from polyvae.core.vae import MultimodalVAE
from polyvae.report.drawing import Figure
from polyvae.report.figures import bars, heat_map
from polyvae.report.gallery import Scene
from polyvae.report.metrics import UNRELIABLE, by_attribute, classes, number, span, unreliable
from polyvae.report.partial import Partial

_CONSTANT = (
    "A constant output always agrees, so agreement is meaningful only together with the classes that were drawn. "
    "Normalised class entropy: 1 if all classes are equally frequent, 0 if there is only one."
)


_CONSTANT_ATTRIBUTES = (
    "Share of attributes in which all modalities that state them agree. A constant output always agrees, so agreement is meaningful only "
    "together with the classes of each attribute that were drawn. Normalised class entropy: 1 if all classes of an attribute are equally "
    "frequent, 0 if there is only one."
)


class Table(NamedTuple):
    """``header`` and ``rows`` of text. The first column is the name of the row. ``prose``: the last column contains sentences."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    prose: bool = False


class Section(NamedTuple):
    """A section of the page. ``wide``: its figures are placed below one another instead of side by side."""

    anchor: str
    title: str
    lead: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    wide: bool = True

    @property
    def omitted(self) -> bool:
        """Whether there is nothing to show but the reason why."""
        return not self.figures and not self.tables


@dataclass(frozen=True)
class Page:
    """What sections are made from.

    ``evaluation`` is empty if there was none. ``step``: that of the last checkpoint, if there is one. ``partial``: samples of which a
    modality states only a part, if there are any.
    """

    scene: Scene
    evaluation: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    step: int | None = None
    partial: Partial | None = None

    @property
    def model(self) -> MultimodalVAE:
        return self.scene.model

    @property
    def classes(self) -> int:
        """The number of classes of the judges; 0 if there are no judges."""
        return classes(self.evaluation)


def coherence_section(page: Page) -> Section:
    """The matrix, and coherence by number of observed modalities."""
    title, values = "Coherence", page.evaluation
    matrix = values.get("coherence_matrix") or {}
    if not any(matrix.values()):
        return Section(
            "coherence",
            title,
            "Left out: the evaluation has no coherence (it was not requested, or there are no labelled images, or only one modality).",
        )
    accuracy = values.get("judge_accuracy") or {}
    figures, tables = [], [_pairs(matrix, values.get("coherence_intervals") or {})]
    large = len(page.model.modalities) > 2  # a map of two pairs repeats the table
    if large:
        figures.append(_matrix(page, "coherence_matrix", ""))
    fitted = values.get("coherence_matrix_fitted") or {}
    if any(fitted.values()):
        how = "With private latents from the fitted prior."
        if large:
            figures.append(_matrix(page, "coherence_matrix_fitted", f" {how}"))
        else:
            tables.append(_pairs(fitted, {})._replace(caption=how))
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
        fitted = values.get("coherence_by_observed_fitted") or {}
        chance = 1 / page.classes if page.classes else None
        figures.append(
            bars(
                "coherence_by_observed",
                {"coherence": by_number} | ({"fitted prior": fitted} if fitted else {}),
                chance,
                "chance",
                "modalities observed",
                1.0,
                "Bars of coherence by number of observed modalities: "
                + ", ".join(f"{n}: {value:.3f}" for n, value in by_number.items())
                + (
                    f"; with the fitted prior {', '.join(f'{n}: {value:.3f}' for n, value in fitted.items())}"
                    if fitted
                    else ""
                ),
                "By the number of observed modalities. A rise: the model combines modalities. A flat line: one expert dominates.",
            )
        )
    lead = "The share of generated images that a judge assigns to the class of the observed sample."
    if by_attribute(values):
        lead = (
            "The share of the attributes stated by the observed modality that are right in the generated one. Images are read by judges, "
            "sentences by a parser."
        )
    return Section("coherence", title, lead, figures, [*tables, *([judges] if judges else [])], wide=False)


def _pairs(matrix: Mapping[str, Any], intervals: Mapping[str, Any]) -> Table:
    """The cells of the matrix with their intervals."""
    rows = []
    for observed, row in matrix.items():
        for target, value in row.items():
            ends = intervals.get(observed, {}).get(target)
            rows.append(
                (
                    f"{observed} → {target}",
                    number(value),
                    span(ends) if ends else "–",
                )
            )
    return Table(("observed → generated", "coherence", "95 % interval"), rows)


def _matrix(page: Page, name: str, how: str) -> Figure:
    """The heat map of a table of conditional coherence."""
    matrix = page.evaluation[name]
    share = (
        "the share of the attributes stated by the observed one that are right"
        if by_attribute(page.evaluation)
        else "the share of images that its judge assigns to the class of the sample"
    )
    return heat_map(
        name,
        matrix,
        list(matrix),
        [column for column in page.model.modalities if any(column in row for row in matrix.values())],
        (1 / max(page.classes, 2), 1.0),
        page.evaluation.get("judge_accuracy") or {},
        "real images",
        "Heat map of conditional coherence, observed modality by generated one: "
        + "; ".join(
            f"{observed} to {target} {value:.3f}"
            for observed, row in matrix.items()
            for target, value in row.items()
        ),
        f"Rows: the observed modality. Columns: the generated modality, with {share}. "
        f"Last row: the same judges on real held-out images, an upper limit in practice.{how}",
    )


def histogram_section(page: Page) -> Section:
    """The classes of the unconditional draws."""
    title, values = "Classes of unconditional draws", page.evaluation
    if by_attribute(values):
        title, table = "Attributes of unconditional draws", _agreements(values)
        if not table.rows:
            return Section("classes", title, "Left out: no attribute was read in unconditional draws.")
        return Section("classes", title, _CONSTANT_ATTRIBUTES, tables=[table])
    found = [
        (label, suffix, _shares(values, suffix))
        for label, suffix in (("prior of the model", ""), ("fitted prior", "_fitted"))
        if values.get(f"unconditional_histogram{suffix}")
    ]
    if not found:
        return Section("classes", title, "Left out: the evaluation has no unconditional coherence.")
    table = Table(
        ("prior", "all judges agree", "class entropy (normalised)"),
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
        "uniform, all agree",
        "class",
        None,
        "Bars of the share of draws on which all judges agree, by class. "
        + " ".join(
            f"{label}: " + ", ".join(f"{name} {share:.3f}" for name, share in shares.items()) + "."
            for label, _, shares in found
        ),
        "Share of draws on which all judges agree, by class. The bars of a prior add up to its unconditional coherence.",
    )
    return Section("classes", title, _CONSTANT, [figure], [table])


def _agreements(values: Mapping[str, Any]) -> Table:
    """Agreement of unconditional draws and its entropy, by prior and attribute; agreement is absent where one modality can be read."""
    rows = []
    for label, suffix in (("prior of the model", ""), ("fitted prior", "_fitted")):
        for name, own in (values.get(f"unconditional_by_attribute{suffix}") or {}).items():
            ends = own.get("interval")
            rows.append(
                (
                    f"{label}: {name}",
                    number(_float(own, "agreement")),
                    span(ends) if ends else "–",
                    number(own["entropy"]),
                )
            )
    return Table(
        ("prior and attribute", "all modalities agree", "95 % interval", "class entropy (normalised)"), rows
    )


def likelihood_section(page: Page) -> Section:
    """Estimates of log p(x), with their errors and effective sample sizes."""
    title, values = "Log-likelihood", page.evaluation
    joint = values.get("log_likelihood_joint")
    if not joint:
        return Section(
            "likelihood",
            title,
            "Left out: the evaluation has no likelihood (it was not requested, or the model has no joint density).",
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
            f"{line['effective_samples']:.1f} of {samples:,}{' (not reliable)' if unreliable(line) else ''}",
            f"{line['rows']:,}",
        )
        for name, line in lines
    ]
    header = (
        "modality",
        "nats per sample",
        "standard error over samples",
        "standard error of sampling",
        "effective samples (median)",
        "samples",
    )
    lead = "Estimated by importance sampling: a lower bound in expectation, which is loose where the effective sample size is small."
    if any(unreliable(line) for _, line in lines):
        lead += f" With fewer than {UNRELIABLE} effective samples, an estimate is not reliable: more importance samples are needed."
    if values.get("log_likelihood_by_condition"):
        lead += " A conditional log-likelihood is the difference of two estimates, so it is not a bound."
    return Section("likelihood", title, lead, tables=[Table(header, rows)])


def _condition(name: str, values: Mapping[str, Any]) -> str:
    """ "m0|m1,m2" in words."""
    target, _, given = name.partition("|")
    others = set(values.get("log_likelihood_by_modality") or {}) - {target}
    return f"{target}, given {'all others' if len(others) > 1 and set(given.split(',')) == others else given.replace(',', ', ')}"


def _shares(values: Mapping[str, Any], suffix: str) -> dict[str, float]:
    """The histogram as shares of all draws, which add up to the coherence, or to 1 with one judge, which always agrees."""
    counts, coherence = (
        values[f"unconditional_histogram{suffix}"],
        1.0
        if values.get(f"unconditional_coherence{suffix}") is None
        else _float(values, f"unconditional_coherence{suffix}"),
    )
    total = sum(counts.values())
    return {name: coherence * count / total if total else 0.0 for name, count in counts.items()}


def _float(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    return math.nan if value is None else float(value)

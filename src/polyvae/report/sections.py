"""The sections of a report: each is made by one function of a Page, and one that does not apply is a sentence that says why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from polyvae.core.vae import MultimodalVAE
from polyvae.report.figures import Curve, Figure, Trace, bars, curves, heat_map, traces
from polyvae.report.gallery import Scene, cross_generation, unconditional, walk
from polyvae.report.metrics import classes, metric, number


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


NO_HISTORY = "training ended within its first epoch, and history is written at the end of each."


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


# ---- sections --------------------------------------------------------------------------------------------------------------------


def cross_section(page: Page) -> Section:
    """The grid from each modality to the others."""
    title = "From one modality to the others"
    if not page.model.shared:
        return Section(
            "cross",
            title,
            f"Left out: {page.model.name} has no shared code (D = 0); nothing passes between modalities.",
        )
    if not page.scene.sources or not page.scene.targets:
        return Section(
            "cross",
            title,
            "Left out: no modality here is both observed and of a shape that a small picture can show.",
        )
    lead = "Does what is generated show what was observed, and does it vary in everything else?"
    return Section("cross", title, lead, [cross_generation(page.scene)])


def unconditional_section(page: Page) -> Section:
    """Draws from the priors."""
    title, scene = "Drawn from nothing", page.scene
    if not scene.targets:
        return Section(
            "unconditional", title, "Left out: no modality has a shape that a small picture can show."
        )
    lead = "Each column is one draw, all its modalities stacked: down a column they should agree, along a row they should differ."
    if not page.model.shared:
        lead += f" {page.model.name} has no shared code (D = 0): its modalities are drawn independently, and there is no fitted prior."
    elif scene.prior is None:
        lead += " No fitted prior was given, so only the model’s own is shown."
    fitted = page.model.shared > 0 and scene.prior is not None
    return Section(
        "unconditional",
        title,
        lead,
        [unconditional(scene, which) for which in ([False, True] if fitted else [False])],
    )


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


def learning_section(page: Page) -> Section:
    """The bound and its terms over seconds and steps."""
    title, records = "Learning", page.history
    if not records:
        return Section("learning", title, f"Left out: {NO_HISTORY}")
    seconds, steps = [float(r["seconds"]) for r in records], [int(r["step"]) for r in records]
    kinds = [kind for kind in ("train", "validation") if all(kind in r for r in records)]

    def panel(key: str) -> Curve:
        return Curve(
            term(key),
            {("training" if kind == "train" else kind): [r[kind][key] for r in records] for kind in kinds},
        )

    terms = [key for key in records[-1]["train"] if key != "bound"]
    last = records[-1][kinds[-1]]
    caption = "The terms of the bound, in nats per datum, in the same colours. A KL near 0 means a code that is not used."
    figures = [
        curves(
            "learning_bound",
            [panel("bound")],
            seconds,
            steps,
            1,
            190,
            f"Curves of the bound over {seconds[-1]:.0f} seconds and {steps[-1]} steps, ending at {last['bound']:.2f}.",
            "The objective, mean over data, in nats per datum. Below: seconds of training; above: steps.",
        )
    ]
    if terms:
        ends = ", ".join(f"{term(key)} {last[key]:.2f}" for key in terms)
        figures.append(
            curves(
                "learning_terms",
                [panel(key) for key in terms],
                seconds,
                steps,
                4,
                112,
                f"Curves of each term; at the end: {ends}.",
                caption,
            )
        )
    figures += curve_figures(page.model.name, watched(records))
    return Section(
        "learning",
        title,
        f"{len(records)} epochs, {steps[-1]:,} steps, {seconds[-1]:,.0f} seconds of training.",
        figures,
    )


def curve_figures(label: str, curve: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """What was measured during training, if anything was."""
    panels = {metric(name).title: [trace(0, label, curve, name)] for name in curve_names([curve])}
    ends = ", ".join(f"{title} {number(lines[0].values[-1])}" for title, lines in panels.items())
    return (
        [
            traces(
                "learning_curve",
                panels,
                f"Curves of what was measured during training; at the end: {ends}.",
                "Looks at held-out data during training; the clock of training stood still meanwhile.",
            )
        ]
        if panels
        else []
    )


def watched(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was measured while training, a record for each time: seconds, step, and numbers by name."""
    return [
        {"seconds": record["seconds"], "step": record["step"], **record["watched"]}
        for record in history
        if record.get("watched")
    ]


def curve_names(curves: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """The numbers that were measured during training, of any of these."""
    return list(
        dict.fromkeys(
            name
            for curve in curves
            for record in curve
            for name, value in record.items()
            if isinstance(value, float) and name not in ("seconds", "lr", "judge_agreement")
        )
    )


def trace(place: int, label: str, records: Sequence[Mapping[str, Any]], name: str) -> Trace:
    """One number of the records that have it, over time."""
    having = [record for record in records if isinstance(record.get(name), float)]
    return Trace(
        place,
        label,
        [float(r["seconds"]) for r in having],
        [int(r["step"]) for r in having],
        [r[name] for r in having],
    )


def walk_section(page: Page) -> Section:
    """Walks through z and through w."""
    title, scene, model = "Walks through the codes", page.scene, page.model
    if not scene.targets or scene.batch.size < 2:
        return Section(
            "walks",
            title,
            "Left out: a walk needs two samples, and modalities that a small picture can show.",
        )
    figures, lead = [], "From one sample’s code to another’s, one part moving while the other stands still."
    if model.seen:
        figures.append(
            walk(scene, "z")._replace(
                caption="z moves, w stands still: what is shared should change, and only that. Outermost: the two samples, as observed."
            )
        )
    else:
        lead += f" No walk through z: the decoders of {model.name} see private codes only."
    if len(model.owner):
        figures.append(
            walk(scene, "w")._replace(
                caption="w moves, z stands still: each modality’s own style should change, and what is shared should not."
            )
        )
    else:
        lead += f" No walk through w: {model.name} has no private codes here (W = 0)."
    return Section("walks", title, lead, figures)


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


def term(key: str) -> str:
    """What a term of the bound is called."""
    kind, _, name = key.partition("/")
    return {"log_likelihood": f"log p of {name}", "kl": f"KL of {name}"}.get(kind, key.replace("_", " "))

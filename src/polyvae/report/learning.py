"""The section about training, and curves over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyvae.report.drawing import Figure
from polyvae.report.figures import Curve, Trace, curves, traces
from polyvae.report.metrics import metric, number
from polyvae.report.sections import Page, Section

NO_HISTORY = "training ended within the first epoch, and the history is written at the end of each epoch."


def learning_section(page: Page) -> Section:
    """The bound and its terms over seconds and steps."""
    title, records = "Training", page.history
    if not records:
        taken = f" The model was trained for {page.step:,} steps." if page.step else ""
        return Section("learning", title, f"Left out: {NO_HISTORY}{taken}")
    seconds, steps = [float(r["seconds"]) for r in records], [int(r["step"]) for r in records]
    kinds = [kind for kind in ("train", "validation") if all(kind in r for r in records)]

    def panel(key: str) -> Curve:
        return Curve(
            term(key),
            {("training" if kind == "train" else kind): [r[kind][key] for r in records] for kind in kinds},
        )

    terms = [key for key in records[-1]["train"] if key != "bound"]
    last = records[-1][kinds[-1]]
    caption = "The terms of the bound, in nats per sample, in the same colours. A KL near 0 means a latent that is not used."
    figures = [
        curves(
            "learning_bound",
            [panel("bound")],
            seconds,
            steps,
            1,
            190,
            f"Curves of the bound over {seconds[-1]:.0f} seconds and {steps[-1]} steps, ending at {last['bound']:.2f}.",
            "The objective, mean over samples, in nats per sample. Lower axis: seconds of training; upper axis: steps.",
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
        f"{len(records)} epochs, {steps[-1]:,} steps, {seconds[-1]:,.0f} seconds of training.{_beyond(page)}",
        figures,
    )


def _beyond(page: Page) -> str:
    """Where training ended within an epoch: the steps of the model itself."""
    if page.step is None or page.step <= int(page.history[-1]["step"]):
        return ""
    return f" These are of the last complete epoch. Training ended within the next one: the model was trained for {page.step:,} steps."


def curve_figures(label: str, curve: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """The curves of what was measured during training, if anything was."""
    panels = {metric(name).title: [trace(0, label, curve, name)] for name in curve_names([curve])}
    ends = ", ".join(f"{title} {number(lines[0].values[-1])}" for title, lines in panels.items())
    return (
        [
            traces(
                "learning_curve",
                panels,
                f"Curves of what was measured during training; at the end: {ends}.",
                "Measured on held-out data during training. The time of measuring is not counted.",
            )
        ]
        if panels
        else []
    )


def watched(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was measured during training, one record for each time: seconds, step, and numbers by name."""
    return [
        {"seconds": record["seconds"], "step": record["step"], **record["watched"]}
        for record in history
        if record.get("watched")
    ]


def curve_names(curves: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """The names of the numbers in any of these curves."""
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
    """One number over time, from the records that have it."""
    having = [record for record in records if isinstance(record.get(name), float)]
    return Trace(
        place,
        label,
        [float(r["seconds"]) for r in having],
        [int(r["step"]) for r in having],
        [r[name] for r in having],
    )


def term(key: str) -> str:
    """The name of a term of the bound."""
    kind, _, name = key.partition("/")
    return {"log_likelihood": f"log p of {name}", "kl": f"KL of {name}"}.get(kind, key.replace("_", " "))

"""The section of the report of an estimator whose target is a time to event: curves by risk, and the C-index of every method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.targets.cox import Survival, kaplan_meier
from polyvae.imputation.targets.hazards import STACK, Hazards, method_name
from polyvae.imputation.targets.target import TARGET
from polyvae.report.drawing import MUTED, RULE, SERIES, Drawing, Figure
from polyvae.report.metrics import number
from polyvae.report.sections import Section, Table
from polyvae.utils.text import counted

_THIRDS = ("low risk", "middle risk", "high risk")
_FEWEST = 6  # samples, below which no curves are drawn


class Third(NamedTuple):
    """The samples of a third of the risks: their times, and the mean of their predicted survival curves at them."""

    given: Survival
    predicted: tuple[NDArray[np.float64], NDArray[np.float64]]


def survival_section(hazards: Hazards, name: str) -> Section:
    """Kaplan–Meier curves of samples left out by thirds of their risk, and the C-index of every regression.

    Args:
        hazards: The fitted model.
        name: The name of the target.
    """
    thirds = _thirds(hazards)
    figures = [] if thirds is None else [_figure(thirds, name)]
    tables = [_table(hazards)]
    if thirds is not None:
        tables.append(_calibration(thirds))
    events, n = hazards.given.events, len(hazards.given.time)
    return Section(
        "survival",
        f"Risk and {name}",
        f"Cox regressions with a ridge penalty, for {counted(n, 'sample', 'samples')} with {counted(events, 'event', 'events')}. Each "
        "sample is predicted by regressions that were fitted without it. The C-index is the share of pairs of samples in which the one "
        "with the higher risk had the event first; 0.5 is chance.",
        figures=figures,
        tables=tables,
        wide=False,
    )


def _thirds(hazards: Hazards) -> dict[str, Third] | None:
    """The thirds of the risks; None: too few samples, or all risks are the same."""
    eta, given = hazards.left_out[STACK], hazards.given
    if len(eta) < _FEWEST or np.ptp(eta) <= 1e-9:
        return None
    place = np.searchsorted(np.quantile(eta, [1 / 3, 2 / 3]), eta, side="right")
    curve, found = hazards.curve, {}
    for at, name in enumerate(_THIRDS):
        rows = np.flatnonzero(place == at)
        if len(rows):
            own = given.rows(rows)
            until = np.r_[0.0, curve.time[curve.time <= own.time.max()]]
            found[name] = Third(own, (until, curve.survival(eta[rows], until).mean(0)))
    return found


def _figure(thirds: Mapping[str, Third], name: str) -> Figure:
    with Drawing("survival", 460, 330) as drawing:
        ax = drawing.axes(54, 40, 386, 236)
        for (label, third), colour in zip(thirds.items(), (SERIES[0], MUTED, SERIES[1]), strict=False):
            time, alive = kaplan_meier(third.given)
            ax.step(
                time,
                alive,
                where="post",
                color=colour,
                linewidth=1.8,
                label=f"{label} ({len(third.given.time)})",
            )
            ax.step(*third.predicted, where="post", color=colour, linewidth=1, linestyle=(0, (4, 3)))
            censored = np.sort(third.given.time[~third.given.event])
            at = alive[np.searchsorted(time, censored, side="right") - 1]
            ax.plot(censored, at, "|", color=colour, markersize=6, markeredgewidth=1)
        ax.set(ylim=(0, 1.03), xlabel=name, ylabel="without the event")
        ax.set_xlim(left=0)
        ax.grid(axis="y", color=RULE, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(length=0)
        drawing.canvas.legend(
            *ax.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.02, 1.0), ncols=3, handlelength=1.4, columnspacing=1.2
        )  # fmt: skip
        shares = "; ".join(f"{label}: {third.given.events} events" for label, third in thirds.items())
        return drawing.done(
            f"Survival curves of samples left out by thirds of their risk. {shares}.",
            "Solid: observed (Kaplan–Meier), with a mark for each censored sample. Dashed: the mean of the predicted curves.",
        )


def _table(hazards: Hazards) -> Table:
    scores, weights = hazards.scores(), dict(hazards.weights)
    rows = []
    for name in hazards.left_out:
        method = method_name(name)
        found = [scores.value(TARGET, method, score) for score in ("c_index", "c_index_low", "c_index_high")]
        if found[0] is None:
            continue
        value, low, high = (number(x) if x is not None else "–" for x in found)
        rows.append([method, value, f"{low} to {high}", number(weights[name], 2) if name in weights else "–"])
    return Table(
        ["method", "C-index", "95 % interval", "weight"],
        rows,
        "What is missing of a modality is filled in before a regression. The combination weights the log relative hazards of the "
        "regressions. Penalties and weights were chosen on these samples, by cross-validation.",
    )


def _calibration(thirds: Mapping[str, Third]) -> Table:
    """Observed and predicted shares without the event, at the median time of all samples."""
    at = float(np.median(np.concatenate([third.given.time for third in thirds.values()])))
    rows = []
    for name, third in thirds.items():
        time, alive = kaplan_meier(third.given)
        observed = alive[np.searchsorted(time, at, side="right") - 1]
        when, predicted = third.predicted
        expected = predicted[np.searchsorted(when, at, side="right") - 1]
        rows.append(
            [
                name,
                f"{len(third.given.time):,}",
                f"{third.given.events:,}",
                number(float(observed), 2),
                number(float(expected), 2),
            ]
        )
    return Table(
        ["risk", "samples", "events", f"without the event at {number(at, 0)}, observed", "predicted"],
        rows,
        "Observed by Kaplan and Meier's estimator, and the mean of predictions.",
    )

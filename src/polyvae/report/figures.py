"""Charts: heat maps, bars and curves.

Sizes are in pixels of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.report.drawing import ACCENT, INK, MUTED, PAPER, SERIES, Drawing, Figure, label_width, short
from polyvae.report.metrics import number as shown

if TYPE_CHECKING:  # matplotlib takes a third of a second that only drawing should pay
    from matplotlib.axes import Axes


Array = NDArray[np.float64]


def heat_map(
    name: str,
    values: Mapping[str, Mapping[str, float]],
    rows: Sequence[str],
    columns: Sequence[str],
    span: tuple[float, float],
    last: Mapping[str, float] | None,
    last_name: str,
    alt: str,
    caption: str,
    *,
    above: str = "generated",
) -> Figure:
    """Numbers on tinted squares. The tint rises from the first value of ``span`` to the second, which may be the smaller.

    Missing values are dashes. ``last``: a row set apart. ``above``: the title of the columns.
    """
    floor, full = span
    cell, left, top = 62, label_width([*rows, last_name]), 46
    with Drawing(
        name, left + cell * len(columns) + 12, top + 40 * (len(rows) + (last is not None)) + 22
    ) as drawing:
        ax = drawing.board()
        ax.text(left + cell * len(columns) / 2, 10, above, color=MUTED, ha="center", va="center", fontsize=10)
        for number, column in enumerate(columns):
            ax.text(left + cell * (number + 0.5), 32, short(column, 8), ha="center", va="center")
        lines = [(row, values.get(row, {}), top + 40 * number) for number, row in enumerate(rows)]
        if last is not None:
            lines.append((last_name, last, top + 40 * len(rows) + 12))
        for row, found, y in lines:
            ax.text(
                left - 10,
                y + 20,
                short(row),
                ha="right",
                va="center",
                color=MUTED if row == last_name else INK,
            )
            for number, column in enumerate(columns):
                x, value = left + cell * number, found.get(column)
                if value is None:
                    ax.text(x + cell / 2, y + 20, "–", color=MUTED, ha="center", va="center")
                    continue
                strength = min(1.0, max(0.0, (value - floor) / (full - floor or 1.0))) * (
                    0.25 if row == last_name else 0.92
                )
                edges = [x + 1, x + cell - 1, x + cell - 1, x + 1], [y + 1, y + 1, y + 39, y + 39]
                ax.fill(*edges, color=ACCENT, alpha=strength, linewidth=0)
                ax.text(
                    x + cell / 2,
                    y + 20,
                    shown(value),
                    ha="center",
                    va="center",
                    color=PAPER if strength > 0.5 else INK,
                )
        return drawing.done(alt, caption)


def bars(
    name: str,
    series: Mapping[str, Mapping[str, float]],
    line: float | None,
    line_name: str,
    xlabel: str,
    top: float | None,
    alt: str,
    caption: str,
) -> Figure:
    """Groups of bars, the last series in the accent colour. ``line``: a level to compare with. ``top``: the upper end of the axis."""
    groups = list(next(iter(series.values())))
    with Drawing(name, max(340, 110 + 56 * len(groups)), 262) as drawing:
        ax = drawing.axes(58, 40, drawing.width - 78, 178)
        wide = 0.76 / len(series)
        for number, (label, values) in enumerate(series.items()):
            colour = ACCENT if number == len(series) - 1 else MUTED
            place = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * wide
            drawn = ax.bar(
                place,
                [values.get(group, 0.0) for group in groups],
                wide * 0.92,
                color=colour,
                label=label,
                linewidth=0,
            )
            if len(series) == 1 and len(groups) <= 8:
                ax.bar_label(drawn, fmt="%.3f", padding=3, fontsize=10)
        if line is not None:
            ax.axhline(line, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=line_name)
        ax.set_xticks(range(len(groups)), [short(group) for group in groups])
        ax.set(xlabel=xlabel, ylim=(0, top))
        ax.tick_params(length=0)
        ax.yaxis.grid(True)
        ax.set_axisbelow(True)
        ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, handlelength=1.2, borderaxespad=0.2)
        return drawing.done(alt, caption)


class Curve(NamedTuple):
    """One panel: name -> values over time, the last in the accent colour."""

    title: str
    lines: Mapping[str, Sequence[float]]


def curves(
    name: str,
    panels: Sequence[Curve],
    seconds: Sequence[float],
    steps: Sequence[int],
    columns: int,
    tall: float,
    alt: str,
    caption: str,
) -> Figure:
    """Panels over seconds of training. Panels of full width also show the steps and a legend."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    across = 900 / columns
    with Drawing(name, 900, rows * (tall + 62) + (26 if columns == 1 else 4)) as drawing:
        for number, panel in enumerate(panels):
            row, column = divmod(number, columns)
            ax = drawing.axes(
                column * across + 58, (46 if columns == 1 else 24) + row * (tall + 62), across - 78, tall
            )
            for index, (label, values) in enumerate(panel.lines.items()):
                last = index == len(panel.lines) - 1
                ax.plot(
                    seconds,
                    values,
                    color=ACCENT if last else MUTED,
                    linewidth=1.8 if last else 1.2,
                    label=label,
                    marker="o" if len(seconds) < 12 else "",
                    markersize=3.5,
                )
            ax.set_title(short(panel.title, 26 if columns > 2 else 80), pad=22 if columns == 1 else 8)
            ax.yaxis.grid(True)
            ax.tick_params(length=0)
            ax.locator_params(axis="y", nbins=4)
            ax.locator_params(axis="x", nbins=5 if columns > 2 else 10)
            ax.ticklabel_format(useOffset=False, style="plain")
            if row == rows - 1 or number + columns >= len(panels):
                ax.set_xlabel("seconds")
            if columns == 1:  # small panels have no room for it, and use the same colours
                _steps(ax, seconds, steps)
                if len(panel.lines) > 1:
                    ax.legend(loc="lower right")
        return drawing.done(alt, caption)


def _steps(ax: Axes, seconds: Sequence[float], steps: Sequence[int]) -> None:
    """Step numbers along the upper edge, at the corresponding seconds."""
    from matplotlib.ticker import MaxNLocator

    ticks = [
        tick
        for tick in MaxNLocator(8, integer=True).tick_values(steps[0], steps[-1])
        if steps[0] <= tick <= steps[-1]
    ]
    places = np.interp(ticks, steps, seconds)
    twin = ax.secondary_xaxis("top")
    twin.set_xticks(places.tolist(), [f"{tick:,.0f}".replace(",", "\u202f") for tick in ticks])
    twin.tick_params(length=0, labelsize=9)
    twin.spines["top"].set_visible(False)
    ax.annotate(
        "step",
        (1, 1),
        (0, 4),
        "axes fraction",
        "offset points",
        ha="right",
        va="bottom",
        color=MUTED,
        fontsize=9,
    )


class Trace(NamedTuple):
    """The values of a run over time. ``run``: its number, which sets the colour; ``faint``: a second line of that run."""

    run: int
    label: str
    seconds: Sequence[float]
    steps: Sequence[int]
    values: Sequence[float]
    faint: bool = False


def traces(
    name: str, panels: Mapping[str, Sequence[Trace]], alt: str, caption: str, tall: float = 190
) -> Figure:
    """One row for each panel (title -> the lines of all runs), over seconds at the left and over steps at the right."""
    labels = list(
        dict.fromkeys(trace.label for lines in panels.values() for trace in lines if not trace.faint)
    )
    top = 8 + 18 * -(-len(labels) // 3)
    with Drawing(name, 900, top + len(panels) * (tall + 78)) as drawing:
        for row, (title, lines) in enumerate(panels.items()):
            for column, axis in enumerate(("seconds", "steps")):
                ax = drawing.axes(column * 450 + 58, top + 22 + row * (tall + 78), 372, tall)
                for trace in lines:
                    ax.plot(
                        getattr(trace, axis),
                        trace.values,
                        color=SERIES[trace.run % len(SERIES)],
                        label=trace.label,
                        linewidth=1 if trace.faint else 1.8,
                        alpha=0.5 if trace.faint else 1,
                        linestyle=("-", (0, (5, 2)), (0, (1, 1.5)))[trace.run // len(SERIES) % 3],
                        marker="o" if len(trace.values) < 12 and not trace.faint else "",
                        markersize=3.5,
                    )
                ax.set_ylim(*_span(lines))
                ax.set_title(title if column == 0 else "", pad=8)
                ax.set_xlabel(axis)
                ax.yaxis.grid(True)
                ax.tick_params(length=0)
                ax.locator_params(axis="y", nbins=5)
                ax.locator_params(axis="x", nbins=6)
                ax.ticklabel_format(useOffset=False, style="plain")
        found: dict[str, Any] = {}
        for ax in drawing.canvas.axes:
            for line in ax.get_lines():
                if line.get_alpha() == 1:
                    found.setdefault(str(line.get_label()), line)
        drawing.canvas.legend(
            list(found.values()),
            [short(label, 34) for label in found],
            loc="upper left",
            ncols=min(3, len(found)),
            bbox_to_anchor=(52 / drawing.width, 1.0),
            borderaxespad=0,
            handlelength=1.6,
        )
        return drawing.done(alt, caption)


def _span(lines: Sequence[Trace]) -> tuple[float, float]:
    """The range of an axis. It leaves out the first twentieth of long lines, whose steep rise would flatten the rest."""
    values = [
        value for trace in lines for value in trace.values[len(trace.values) // 20 :] if np.isfinite(value)
    ] or [0.0]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


class Columns(NamedTuple):
    """One panel: a value for each latent dimension, and whether it is ``used``."""

    title: str
    values: Sequence[float]
    used: Sequence[bool]


def column_bars(name: str, panels: Sequence[Columns], alt: str, caption: str, tall: float = 96) -> Figure:
    """Small bar charts, two in a row, on a common scale."""
    top = max((value for panel in panels for value in panel.values), default=1.0)
    with Drawing(name, 900, -(-len(panels) // 2) * (tall + 52) + 6) as drawing:
        for number, panel in enumerate(panels):
            row, column = divmod(number, 2)
            ax = drawing.axes(column * 450 + 58, 26 + row * (tall + 52), 372, tall)
            for used, alpha in ((True, 1.0), (False, 0.3)):
                places = [place for place, one in enumerate(panel.used) if one is used]
                ax.bar(
                    places,
                    [panel.values[place] for place in places],
                    0.8,
                    color=ACCENT,
                    alpha=alpha,
                    linewidth=0,
                )
            ax.set(xlim=(-0.7, max(len(panel.values), 8) - 0.3), ylim=(0, 1.05 * top), xticks=[])
            ax.set_title(short(panel.title, 52), pad=8)
            ax.yaxis.grid(True)
            ax.set_axisbelow(True)
            ax.tick_params(length=0)
            ax.locator_params(axis="y", nbins=3)
        return drawing.done(alt, caption)

"""Figures of a report about tables: patterns of missing modalities, scores, calibration, embeddings, measured against imputed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.report.drawing import (
    ACCENT,
    INK,
    MUTED,
    PAPER,
    RULE,
    SERIES,
    Drawing,
    Figure,
    label_width,
    short,
)

if TYPE_CHECKING:  # matplotlib takes a third of a second that only drawing should pay
    from matplotlib.axes import Axes

Array = NDArray[np.floating]

_PATTERNS = 20
"""Patterns in a figure; the rarest are counted in its caption."""
_GROUPS = 6
"""Groups with a colour each; ten where their names are short."""
_BRIEF = 12  # characters of a short name
_PLAIN = (1e-3, 1e5)  # sizes of numbers whose ticks fit as they are
_COLOURS = (*SERIES, "#3d6fd1", "#c0392b", "#8a5a44", "#12948a")


def patterns_figure(names: Sequence[str], counts: Sequence[tuple[tuple[bool, ...], int]], alt: str) -> Figure:
    """How many samples have each pattern of modalities: bars above, and dots for the modalities that were observed.

    Args:
        names: M modalities.
        counts: Pattern of M flags and its number of samples, the most frequent first.
        alt: The figure in words.
    """
    shown = list(counts)[:_PATTERNS]
    rest = list(counts)[_PATTERNS:]
    total = {
        name: sum(count for pattern, count in counts if pattern[place]) for place, name in enumerate(names)
    }
    side, step, row = 130, 40, 30
    left = side + label_width(names) + 20
    top, tall = 28, 150
    height = top + tall + 18 + row * len(names) + 28
    with Drawing("patterns", left + step * len(shown) + 30, height) as drawing:
        ax = drawing.board()
        largest, widest = max(count for _, count in shown), max(total.values())
        floor = top + tall
        for place, (pattern, count) in enumerate(shown):
            x = left + step * (place + 0.5)
            high = tall * count / largest
            complete = all(pattern)
            _box(ax, x - 11, floor - high, 22, high, ACCENT if complete else MUTED)
            ax.text(x, floor - high - 9, f"{count:,}", ha="center", va="center", fontsize=10)
            rows = [floor + 18 + row * (m + 0.5) for m in range(len(names))]
            seen = [y for y, kept in zip(rows, pattern, strict=True) if kept]
            ax.scatter([x] * len(rows), rows, s=70, color=RULE, linewidths=0)
            if len(seen) > 1:
                ax.plot([x, x], [min(seen), max(seen)], color=INK, linewidth=2)
            ax.scatter([x] * len(seen), seen, s=70, color=ACCENT if complete else INK, linewidths=0, zorder=3)
        for m, name in enumerate(names):
            y = floor + 18 + row * (m + 0.5)
            ax.text(left - 12, y, short(name), ha="right", va="center")
            long = (side - 50) * total[name] / widest
            _box(ax, side - long, y - 8, long, 16, MUTED)
            ax.text(side - long - 6, y, f"{total[name]:,}", ha="right", va="center", fontsize=10)
        ax.text(
            left - 12,
            floor - 8,
            "samples with the pattern",
            color=MUTED,
            ha="right",
            va="center",
            fontsize=10,
        )
        ax.text(side, height - 12, "samples with it", color=MUTED, ha="right", va="center", fontsize=10)
        ax.text(left, height - 12, "filled: measured", color=MUTED, ha="left", va="center", fontsize=10)
        more = (
            f" {len(rest)} rarer patterns, of {sum(n for _, n in rest):,} samples, are not shown."
            if rest
            else ""
        )
        caption = (
            "Each column is one pattern of measured modalities. The bar above is the number of samples that have it; "
            f"samples with every modality are in colour.{more}"
        )
        return drawing.done(alt, caption)


def scores_figure(
    values: Mapping[str, Mapping[str, float]], methods: Sequence[str], alt: str, caption: str
) -> Figure:
    """R² of each method, a row for each modality.

    Args:
        values: Modality -> method -> R².
        methods: The methods in order; the last one is in the accent colour.
        alt: The figure in words.
        caption: Below it.
    """
    left, row = label_width(list(values)) + 6, 38
    with Drawing("scores", 560, 62 + row * len(values) + 44) as drawing:
        ax = drawing.axes(left, 54, drawing.width - left - 20, row * len(values))
        rows = np.arange(len(values))
        every = [value for each in values.values() for value in each.values()]
        low, high = min(0.0, *every), max(0.0, *every)
        colours = dict(zip(methods[:-1], SERIES[1:], strict=False)) | {methods[-1]: ACCENT}
        for place, method in enumerate(methods):
            here = [
                (y, each[method]) for y, each in zip(rows, values.values(), strict=True) if method in each
            ]
            last = place == len(methods) - 1
            ax.scatter(
                [value for _, value in here],
                [y for y, _ in here],
                s=110 if last else 58,
                marker="D" if last else "o",
                color=colours.get(method, MUTED),
                alpha=1 if last else 0.85,
                linewidths=0,
                label=method,
                zorder=3 if last else 2,
            )
        ax.set_yticks(rows, [short(name) for name in values])
        ax.set_ylim(len(values) - 0.5, -0.5)
        pad = 0.04 * (high - low or 1)
        ax.set_xlim(low - pad, high + pad)
        ax.axvline(0, color=MUTED, linewidth=1)
        ax.set_xlabel("R² of samples left out (1: exact, 0: the mean of each feature)")
        _quiet(ax, "x")
        ax.tick_params(axis="y", labelcolor=INK)
        drawing.canvas.legend(
            *ax.get_legend_handles_labels(),
            loc="upper left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=6,
            handletextpad=0.3,
            columnspacing=1.2,
        )
        return drawing.done(alt, caption)


def curves_figure(
    name: str,
    curves: Mapping[str, tuple[Array, Array]],
    *,
    diagonal: bool,
    xlabel: str,
    ylabel: str,
    alt: str,
    caption: str,
) -> Figure:
    """Curves of several modalities, each in a colour.

    Args:
        name: Of the figure.
        curves: Modality -> x and y.
        diagonal: Draw the line y = x, and both axes from 0 to 1.
        xlabel: Of the horizontal axis.
        ylabel: Of the vertical axis.
        alt: The figure in words.
        caption: Below it.
    """
    wide = 3 if all(len(label) <= _BRIEF for label in curves) else 2
    rows = -(-len(curves) // wide)
    with Drawing(name, 380, 310 + 20 * rows) as drawing:
        ax = drawing.axes(54, 20 + 20 * rows, 306, 236)
        if diagonal:
            ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            ax.set(xlim=(0, 1), ylim=(0, 1))
        for place, (label, (x, y)) in enumerate(curves.items()):
            ax.plot(
                x, y,
                color=SERIES[place % len(SERIES)],
                linestyle="-" if place < len(SERIES) else (0, (4, 2)),
                linewidth=1.8,
                marker="o" if diagonal else None,
                markersize=4,
                label=short(label),
            )  # fmt: skip
        ax.set(xlabel=xlabel, ylabel=ylabel)
        _quiet(ax, "both")
        drawing.canvas.legend(
            *ax.get_legend_handles_labels(),
            loc="upper left",
            bbox_to_anchor=(0.02, 1.0),
            ncols=wide,
            handlelength=1.4,
            columnspacing=1.2,
        )
        return drawing.done(alt, caption)


def embedding_figure(
    name: str, z: Array, groups: Sequence[str] | Array, title: str, alt: str, caption: str = ""
) -> Figure:
    """The first two columns of an embedding, coloured by a group or a number.

    Args:
        name: Of the figure.
        z: [N, 2].
        groups: N names, or [N] numbers; NaN and "" where not known.
        title: Of the colours.
        alt: The figure in words.
        caption: Below it.
    """
    numeric = isinstance(groups, np.ndarray) and groups.dtype.kind == "f"
    texts = [] if numeric else [str(group) for group in groups]
    counted = sorted({text for text in texts if text}, key=lambda text: (-texts.count(text), text))
    brief = all(len(text) <= _BRIEF for text in counted)
    chosen = counted[: len(_COLOURS) if brief else _GROUPS]
    # Figures side by side have their axes at one height, whatever the length of their legends.
    with Drawing(name, 380, 410) as drawing:
        ax = drawing.axes(46, 112, 320, 250)
        size = 26 if len(z) <= 400 else 12
        drawing.canvas.text(
            0.02, 1 - 14 / drawing.height, title, color=INK, ha="left", va="center", fontsize=11
        )
        if numeric:
            values = np.asarray(groups, np.float64)
            known = ~np.isnan(values)
            ax.scatter(z[~known, 0], z[~known, 1], s=size, color=RULE, linewidths=0)
            drawn = ax.scatter(
                z[known, 0], z[known, 1], s=size, c=values[known], cmap="viridis", alpha=0.9, linewidths=0
            )
            bar = drawing.axes(46, 34, 200, 8)
            drawing.canvas.colorbar(drawn, cax=bar, orientation="horizontal")
            bar.tick_params(labelsize=10, length=2)
        else:
            kinds = [(text if text in ("", *chosen) else None) for text in texts]
            for label, colour in [("", RULE), *zip(chosen, _COLOURS, strict=False), (None, MUTED)]:
                rows = np.array([kind == label for kind in kinds], bool)
                if rows.any():
                    shown = "other" if label is None else short(label, 24) or "not known"
                    ax.scatter(
                        z[rows, 0],
                        z[rows, 1],
                        s=size,
                        color=colour,
                        alpha=0.85,
                        linewidths=0,
                        label=f"{shown} ({rows.sum():,})",
                    )
            drawing.canvas.legend(
                *ax.get_legend_handles_labels(),
                loc="upper left",
                bbox_to_anchor=(0.0, 1 - 22 / drawing.height),
                ncols=3 if brief else 2,
                handletextpad=0.2,
                columnspacing=1.2,
                borderaxespad=0.2,
            )
        ax.set(xlabel="z0", ylabel="z1")
        _quiet(ax, "both")
        return drawing.done(alt, caption)


class Pair(NamedTuple):
    """Measured and imputed values of one feature.

    Attributes:
        title: Its name.
        unit: Its unit; "" where not known.
        measured: [n].
        imputed: [n].
        half: The half-width of the 90 % interval, as a rule of thumb; infinite where there is none.
        note: Such as "R² 0.42".
    """

    title: str
    unit: str
    measured: Array
    imputed: Array
    half: float
    note: str


def pair_figure(name: str, title: str, pair: Pair, alt: str) -> Figure:
    """Measured against imputed values of one feature, with the line of equality and the 90 % interval.

    Args:
        name: Of the figure.
        title: The modality.
        pair: The feature.
        alt: The figure in words.
    """
    with Drawing(name, 310, 320) as drawing:
        _heading(drawing, pair.title, title, pair.note)
        ax = drawing.axes(56, 46, 240, 222)
        low = float(min(pair.measured.min(), pair.imputed.min()))
        high = float(max(pair.measured.max(), pair.imputed.max()))
        pad = 0.05 * (high - low or 1)
        ends = np.array([low - pad, high + pad])
        if np.isfinite(pair.half):
            ax.fill_between(ends, ends - pair.half, ends + pair.half, color=ACCENT, alpha=0.12, linewidth=0)
        ax.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        ax.scatter(pair.imputed, pair.measured, s=16, color=ACCENT, alpha=0.7, linewidths=0)
        unit = f" ({short(pair.unit, 12)})" if pair.unit else ""
        ax.set(xlim=ends, ylim=ends, xlabel=f"imputed{unit}", ylabel=f"measured{unit}")
        ax.locator_params(nbins=5)
        if (
            not _PLAIN[0] <= max(abs(low), abs(high)) < _PLAIN[1]
        ):  # else a factor of all ticks is above the axes
            from matplotlib.ticker import EngFormatter

            ax.locator_params(nbins=3)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(EngFormatter(sep=""))
        _quiet(ax, "both")
        return drawing.done(alt)


def confusion_figure(
    name: str, modality: str, title: str, note: str, counts: Mapping[str, Mapping[str, int]], alt: str
) -> Figure:
    """Measured against imputed classes: how many samples, tinted by their share of the measured class.

    Args:
        name: Of the figure.
        modality: The modality.
        title: The column of classes.
        note: Such as "accuracy 0.84".
        counts: Measured class -> imputed class -> samples.
        alt: The figure in words.
    """
    size = len(counts)
    with Drawing(name, 310, 320) as drawing:
        _heading(drawing, title, modality, note)
        ax = drawing.axes(96, 84, 200, 184)
        for y, found in enumerate(counts.values()):
            total = max(1, sum(found.values()))
            for x, count in enumerate(found.values()):
                share = count / total
                edges = [x + 0.03, x + 0.97, x + 0.97, x + 0.03], [y + 0.03, y + 0.03, y + 0.97, y + 0.97]
                ax.fill(*edges, color=ACCENT, alpha=0.92 * share, linewidth=0)
                colour = PAPER if share > 0.5 else INK if count else MUTED
                ax.text(x + 0.5, y + 0.5, f"{count:,}", ha="center", va="center", color=colour, fontsize=10)
        labels, middle = [short(label, 9) for label in counts], np.arange(size) + 0.5
        wide = max(len(label) for label in labels) * 6.5 * size > 200
        ax.set_yticks(middle, labels)
        ax.set_xticks(middle, labels, rotation=90 if wide else 0)
        ax.set(xlim=(0, size), ylim=(size, 0), xlabel="imputed", ylabel="measured")
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        return drawing.done(alt)


def _heading(drawing: Drawing, title: str, modality: str, note: str) -> None:
    """Two lines above a figure of one feature."""
    left, first = 8 / drawing.width, 1 - 14 / drawing.height
    style: dict[str, Any] = {"color": INK, "ha": "left", "va": "center", "fontsize": 11}
    drawing.canvas.text(left, first, short(title, 38), **style)
    below = f"{short(modality, 28)} · {note}"
    drawing.canvas.text(left, first - 18 / drawing.height, below, **style | {"color": MUTED})


def _box(ax: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    ax.fill([x, x + width, x + width, x], [y, y, y + height, y + height], color=colour, linewidth=0)


def _quiet(ax: Axes, axis: Any) -> None:
    """No ticks, and a grid behind."""
    ax.tick_params(length=0)
    ax.grid(True, axis=axis, linewidth=0.7)
    ax.set_axisbelow(True)

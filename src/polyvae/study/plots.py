"""The plots of a study: curves over an axis, and trade-offs between two numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from polyvae.report.drawing import INK, MUTED, RULE, SERIES, Drawing, Figure, short
from polyvae.report.metrics import metric, number
from polyvae.study.config import Plot
from polyvae.study.labels import label as write_labels
from polyvae.study.tables import Point, Result, points, summarise, text_of, title_of, value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
_MARKERS = ("o", "s", "^", "D", "v")
_NAMED = len(SERIES)  # single marks that are labelled with their names; more are numbered as in the legend
_Place = tuple[float, float]


class Style(NamedTuple):
    """How a path is drawn. Colours repeat after six paths, with other lines and other marks."""

    colour: str
    dash: Any
    marker: str


def draw(plot: Plot, name: str, results: Sequence[Result]) -> Figure | None:
    """The plot, or None if nothing of it was measured. Values of an axis keep their order."""
    all_points = [point for point in points(results) if point.table == plot.table]
    references = [
        (side, point, summary)
        for side, label, key in (("x", plot.reference_x, plot.x), ("y", plot.reference_y, plot.y))
        for point in all_points
        if label and point.label == label and (summary := point.summary(key))
    ]
    here = [
        point
        for point in all_points
        if point.label not in {plot.reference_x, plot.reference_y}
        and point.values(plot.y)
        and (plot.kind == "curve" or point.values(plot.x))
    ]
    places = (
        {value_text(point.at[plot.x]): point.at[plot.x] for point in here if plot.x in point.at}
        if plot.kind == "curve"
        else {}
    )
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in places.values()):
        places = {text: place for place, text in enumerate(places)}  # categories, side by side
        plot = plot.model_copy(update={"log_x": False})
    out = [point for point in here if _no_logarithm(plot, point, places)]
    here = [point for point in here if point not in out]
    if not here:
        return None
    paths = _paths(plot, here)
    with Drawing(name, 900, 470) as drawing:
        ax = drawing.axes(62, 34, 610, 376)
        styles = {path: _style(place) for place, path in enumerate(paths)}
        notes: list[tuple[_Place, str]] = []
        if plot.kind == "curve":
            lines = _curve(ax, plot, places, paths, styles)
        else:
            numbers = _numbers(paths)
            lines = _tradeoff(ax, plot, paths, styles, numbers)
            notes = _notes(plot, paths, numbers)
        for side, point, summary in references:
            if summary.mean <= 0 and (plot.log_x if side == "x" else plot.log_y):
                out.append(point)
                continue
            line, band = (ax.axvline, ax.axvspan) if side == "x" else (ax.axhline, ax.axhspan)
            line(summary.mean, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label=_name(point))
            if math.isfinite(summary.half):
                band(
                    summary.mean - summary.half,
                    summary.mean + summary.half,
                    color=INK,
                    alpha=0.08,
                    linewidth=0,
                )
            lines.append(f"{_name(point)}: {text_of(summary)}")
        ax.set(
            xlabel=plot.x.rpartition(".")[2] if plot.kind == "curve" else title_of(plot.x),
            ylabel=title_of(plot.y),
        )
        ax.set_title(plot.title or f"{title_of(plot.y)} over {title_of(plot.x)}", pad=12)
        ax.grid(True)
        ax.set_axisbelow(True)
        ax.tick_params(length=0, which="both")
        for side, log in (("x", plot.log_x), ("y", plot.log_y)):
            if log:
                _logarithmic(ax, side, sorted({*places.values()}) if side == "x" else ())
        if any(text != value_text(value) for text, value in places.items()):
            ax.set_xticks([*places.values()], [short(text) for text in places])
        write_labels(ax, notes, _covered(plot, here) if notes else [])
        handles, names = ax.get_legend_handles_labels()
        known = dict(zip(names, handles, strict=True))
        drawing.canvas.legend(
            known.values(),
            [short(label, 29) for label in known],
            loc="upper left",
            handlelength=2.2,
            bbox_to_anchor=(690 / drawing.width, 1 - 28 / drawing.height),
            borderaxespad=0,
        )
        left = (
            [f"left out, because a logarithmic axis needs values above 0: {'; '.join(map(_name, out))}"]
            if out
            else []
        )
        alt = f"{plot.title or title_of(plot.y)}: {'; '.join([*lines, *left])}."
        caption = "Mean over seeds with its 95 % t-interval."
        if plot.kind == "tradeoff":
            caption += " Faint dots: single seeds. Grey: the Pareto front. Dashed: the part of the convex hull on the better side."
            lines = [part for part in lines if part.startswith("on the ")]
        return drawing.done(alt, f"{caption} {_sentence([*lines, *left])}".strip())


def _style(place: int) -> Style:
    colour, around = SERIES[place % len(SERIES)], place // len(SERIES)
    return Style(colour, _DASHES[around % len(_DASHES)], _MARKERS[around % len(_MARKERS)])


def _numbers(paths: Mapping[str, Sequence[Point]]) -> dict[str, str]:
    """Path -> the number that stands beside its mark and in the legend; empty where there is room for names."""
    single = [label for label, path in paths.items() if len(path) == 1]
    return {label: str(n) for n, label in enumerate(single, 1)} if len(single) > _NAMED else {}


def _no_logarithm(plot: Plot, point: Point, places: Mapping[str, Any]) -> bool:
    """Whether the point is at or below zero on a logarithmic axis."""
    across = [places[value_text(point.at[plot.x])]] if plot.x in point.at else point.values(plot.x)
    pairs = ((plot.log_x, across), (plot.log_y, point.values(plot.y)))
    return any(log and values and statistics.fmean(values) <= 0 for log, values in pairs)


def _paths(plot: Plot, here: Sequence[Point]) -> dict[str, list[Point]]:
    """The points that a line joins: one contender, differing in one axis (``x`` of a curve, ``along`` or the first of a trade-off)."""
    found: dict[tuple[str, str], list[Point]] = {}
    for point in here:
        axis = plot.x if plot.kind == "curve" else plot.along or next(iter(point.at), "")
        found.setdefault(
            (point.label, _name(Point("", "", {k: v for k, v in point.at.items() if k != axis}, ()))), []
        ).append(point)
    labels = [label for label, _ in found]
    return {
        label + (others if labels.count(label) > 1 else ""): path for (label, others), path in found.items()
    }


def _name(point: Point) -> str:
    return ", ".join(
        [point.label, *(f"{axis.rpartition('.')[2]} {value_text(value)}" for axis, value in point.at.items())]
    )


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _curve(
    ax: Axes,
    plot: Plot,
    places: Mapping[str, Any],
    paths: Mapping[str, Sequence[Point]],
    styles: Mapping[str, Style],
) -> list[str]:
    lines = []
    for label, path in paths.items():
        colour, dash, _ = styles[label]
        along = sorted(
            (point for point in path if plot.x in point.at),
            key=lambda point: places[value_text(point.at[plot.x])],
        )
        level = [point for point in path if plot.x not in point.at]
        for point in level:
            ax.axhline(
                summarise(point.values(plot.y)).mean, color=colour, linestyle=dash, linewidth=1.2, label=label
            )
        if along:
            xs, sums = (
                [places[value_text(point.at[plot.x])] for point in along],
                [summarise(point.values(plot.y)) for point in along],
            )
            ax.plot(
                xs,
                [one.mean for one in sums],
                color=colour,
                linestyle=dash,
                linewidth=1.8,
                marker="o",
                markersize=4,
                label=label,
            )
            known = [(x, one) for x, one in zip(xs, sums, strict=True) if math.isfinite(one.half)]
            ax.fill_between(
                [x for x, _ in known],
                [one.mean - one.half for _, one in known],
                [one.mean + one.half for _, one in known],
                color=colour,
                alpha=0.13,
                linewidth=0,
            )
        means = [summarise(point.values(plot.y)).mean for point in along or level]
        lines.append(
            f"{label} from {number(means[0])} to {number(means[-1])}, spread {number(max(means) - min(means))}"
        )
    return lines


def _tradeoff(
    ax: Axes,
    plot: Plot,
    paths: Mapping[str, Sequence[Point]],
    styles: Mapping[str, Style],
    numbers: Mapping[str, str],
) -> list[str]:
    where: dict[_Place, str] = {}
    for label, path in paths.items():
        colour, dash, marker = styles[label]
        xs, ys = ([summarise(point.values(name)) for point in path] for name in (plot.x, plot.y))
        for point in path:
            ax.plot(
                *zip(*_seeds(plot, point), strict=True),
                color=colour,
                linestyle="",
                marker=marker,
                markersize=3,
                alpha=0.35,
                markeredgewidth=0,
            )
        ax.errorbar(
            [x.mean for x in xs],
            [y.mean for y in ys],
            [_known(y.half) for y in ys],
            [_known(x.half) for x in xs],
            color=colour,
            linestyle=dash if len(path) > 1 else "",
            linewidth=1.8,
            marker=marker,
            markersize=5,
            elinewidth=0.7,
            label=f"{numbers[label]}  {label}" if label in numbers else label,
        )
        where |= {(x.mean, y.mean): _name(point) for x, y, point in zip(xs, ys, path, strict=True)}
    signs = [{"higher": 1, "lower": -1}.get(metric(name).better, 0) for name in (plot.x, plot.y)]
    if 0 in signs:
        return [f"{len(where)} points"]
    front = pareto(list(where), signs)
    scales = [(lambda v: math.log(v)) if log else (lambda v: v) for log in (plot.log_x, plot.log_y)]
    outer = hull(front, signs, scales)
    ax.plot(*zip(*front, strict=True), color=RULE, linewidth=7, solid_capstyle="round", zorder=0.6)
    ax.plot(*zip(*outer, strict=True), color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=0.7)
    return [
        f"{label} reaches {_best_of(plot.y, path)} in {title_of(plot.y)}" for label, path in paths.items()
    ] + [
        f"on the Pareto front: {'; '.join(where[place] for place in front)}",
        f"on the hull: {'; '.join(where[place] for place in outer)}",
    ]


def _seeds(plot: Plot, point: Point) -> list[_Place]:
    """The places of its single seeds."""
    found = [result.numbers for result in point.results]
    return [(each[plot.x], each[plot.y]) for each in found if plot.x in each and plot.y in each]


def _marks(plot: Plot, here: Sequence[Point]) -> list[_Place]:
    """The places of all means."""
    return [tuple(summarise(point.values(name)).mean for name in (plot.x, plot.y)) for point in here]  # type: ignore[misc]


def _covered(plot: Plot, here: Sequence[Point]) -> list[_Place]:
    """Places that no label is to cover: the means, and six along each interval."""
    found = _marks(plot, here)
    for point in here:
        x, y = (summarise(point.values(name)) for name in (plot.x, plot.y))
        for share in (-1, -0.6, -0.3, 0.3, 0.6, 1):
            found += [(x.mean + share * _known(x.half), y.mean), (x.mean, y.mean + share * _known(y.half))]
    return [(x, y) for x, y in found if (x > 0 or not plot.log_x) and (y > 0 or not plot.log_y)]


def _notes(
    plot: Plot, paths: Mapping[str, Sequence[Point]], numbers: Mapping[str, str]
) -> list[tuple[_Place, str]]:
    """The texts beside marks: the axis at the ends of a path; beside a single mark its number, or its name."""
    notes = []
    for label, path in paths.items():
        axis = plot.along or next(iter(path[0].at), "")
        for end in sorted({0, len(path) - 1}):
            single = numbers.get(label, short(label))
            text = (
                f"{axis.rpartition('.')[2]} {value_text(path[end].at.get(axis))}" if len(path) > 1 else single
            )
            notes.append((_marks(plot, [path[end]])[0], text))
    return notes


def _best_of(name: str, path: Sequence[Point]) -> str:
    means = [summarise(point.values(name)).mean for point in path]
    return number(max(means) if metric(name).better == "higher" else min(means))


def pareto(places: Sequence[_Place], signs: Sequence[int]) -> list[_Place]:
    """The Pareto-optimal places, from left to right. ``signs``: 1 if a higher value is better, else -1."""

    def beaten(one: _Place) -> bool:
        return any(
            other != one and all(sign * (b - a) >= 0 for a, b, sign in zip(one, other, signs, strict=True))
            for other in places
        )

    return sorted(place for place in {*places} if not beaten(place))


def hull(
    front: Sequence[_Place], signs: Sequence[int], scales: Sequence[Callable[[float], float]]
) -> list[_Place]:
    """The places of a Pareto front (from left to right) that are on its convex hull, on these scales."""

    def turn(*places: _Place) -> float:
        return _turn(
            *([scale(value) for scale, value in zip(scales, place, strict=True)] for place in places)
        )

    kept: list[_Place] = []
    for place in front:
        while len(kept) > 1 and signs[1] * turn(kept[-2], kept[-1], place) >= 0:
            kept.pop()
        kept.append(place)
    return kept


def _turn(a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> float:
    """Positive if the path over a, b, c turns left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _known(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _logarithmic(ax: Axes, side: str, ticks: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    (ax.set_xscale if side == "x" else ax.set_yscale)("log")
    lines = ax.xaxis if side == "x" else ax.yaxis
    if ticks:
        lines.set_ticks(ticks)
    else:
        lines.set_major_locator(LogLocator(10, (1, 2, 5)))
    lines.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    lines.set_minor_formatter(NullFormatter())

"""The results of a study as tables: means over seeds with their 95 % t-intervals, as Markdown, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from polyvae.report.drawing import Figure
from polyvae.report.metrics import metric, number
from polyvae.utils.files import finite_json, write_atomic

_NONE = "–"


@dataclass(frozen=True)
class Result:
    """The result of a cell: its ``numbers``, or the ``error`` in one line, or neither if it was not run."""

    name: str
    label: str
    table: str
    at: Mapping[str, Any]
    seed: int
    epochs: int | None
    numbers: Mapping[str, float]
    error: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


class Summary(NamedTuple):
    """The ``mean`` over ``seeds`` seeds, and the half-width ``half`` of its 95 % t-interval (nan for fewer than two seeds)."""

    mean: float
    half: float
    seeds: int

    def apart(self, other: Summary) -> bool:
        """Whether the intervals do not overlap."""
        return abs(self.mean - other.mean) > self.half + other.half


class Point(NamedTuple):
    """A contender at one setting of the axes (``at``), with the results of its seeds."""

    label: str
    table: str
    at: Mapping[str, Any]
    results: Sequence[Result]

    def values(self, name: str) -> list[float]:
        return [x for result in self.results if math.isfinite(x := result.numbers.get(name, math.nan))]

    def summary(self, name: str) -> Summary | None:
        """The summary of a number; None if no seed has it."""
        return summarise(self.values(name)) if self.values(name) else None


class Cell(NamedTuple):
    text: str
    best: bool = False


class Table(NamedTuple):
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def summarise(values: Sequence[float]) -> Summary:
    """Mean and half-width of the 95 % interval by Student's t."""
    from scipy.special import stdtrit  # a slow import

    count = len(values)
    half = (
        float(stdtrit(count - 1, 0.975)) * statistics.stdev(values) / math.sqrt(count)
        if count > 1
        else math.nan
    )
    return Summary(statistics.fmean(values), half, count)


def points(results: Sequence[Result]) -> list[Point]:
    """The results, grouped by contender and settings, in their order."""
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault((result.label, result.table, json.dumps(dict(result.at), default=str)), []).append(
            result
        )
    return [Point(ones[0].label, ones[0].table, ones[0].at, ones) for ones in groups.values()]


def tables(results: Sequence[Result], columns: Sequence[str]) -> list[Table]:
    """One table for each title in the contenders, with a row for each point: mean ± half-width.

    The best of a column is bold if its interval overlaps with no other.
    """
    made, all_points = [], points(results)
    for title in dict.fromkeys(point.table for point in all_points):
        rows = [point for point in all_points if point.table == title]
        axes = list(dict.fromkeys(axis for point in rows for axis in point.at))
        shown = [column for column in columns if any(point.values(column) for point in rows)]
        best = {
            column: leader([point.summary(column) for point in rows], metric(column).better)
            for column in shown
        }
        lines = []
        for place, point in enumerate(rows):
            given = {result.epochs for result in point.results if result.epochs is not None}
            counts = {summary.seeds for column in shown if (summary := point.summary(column))}
            head = [
                point.label,
                *(value_text(point.at.get(axis)) for axis in axes),
                "/".join(map(str, sorted(given))) or _NONE,
                "/".join(map(str, sorted(counts))) or "0",
            ]
            lines.append(
                [
                    *map(Cell, head),
                    *(Cell(text_of(point.summary(column)), best[column] == place) for column in shown),
                ]
            )
        header = [
            "contender",
            *(axis.rpartition(".")[2] for axis in axes),
            "epochs",
            "n",
            *map(title_of, shown),
        ]
        made.append(Table(title, header, lines))
    return made


def leader(summaries: Sequence[Summary | None], better: str) -> int | None:
    """The place of the best, if its interval overlaps with no other; else None, also if an interval is not known."""
    known = {place: summary for place, summary in enumerate(summaries) if summary is not None}
    if not better or len(known) < 2:
        return None
    first = (max if better == "higher" else min)(known, key=lambda place: known[place].mean)
    return (
        first if all(known[first].apart(other) for place, other in known.items() if place != first) else None
    )


def text_of(summary: Summary | None) -> str:
    """A summary as text. At least one significant digit of the half-width is shown, or of the mean if there is no half-width."""
    if summary is None:
        return _NONE
    size = summary.half if math.isfinite(summary.half) and summary.half else abs(summary.mean)
    decimals = max(1 if abs(summary.mean) >= 10 else 3, min(8, -math.floor(math.log10(size))) if size else 0)
    mean = number(summary.mean, decimals)
    return mean if math.isnan(summary.half) else f"{mean} ± {number(summary.half, decimals)}"


def title_of(column: str) -> str:
    """The title of a column."""
    base = metric(column.removesuffix("_fitted")).title
    return (
        f"{base}, fitted prior"
        if column.endswith("_fitted") and column in _OF_FITTED
        else metric(column).title
    )


_OF_FITTED = (
    "conditional_coherence_fitted",
    "unconditional_coherence_fitted",
    "unconditional_entropy_fitted",
)


def value_text(value: Any) -> str:
    return _NONE if value is None else value if isinstance(value, str) else json.dumps(value)


def write_numbers(
    out: str | Path, title: str, results: Sequence[Result], plan: Mapping[str, Any] | None = None
) -> None:
    """Write results.json and results.csv to ``out``, which is created. Numbers that are not finite become null. Raises StorageError."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "title": title,
        "polyvae": metadata.version("polyvae"),
        "plan": plan or {},
        "cells": [asdict(result) for result in results],
    }
    write_atomic(
        out / "results.json",
        (json.dumps(finite_json(content), indent=2, default=str, allow_nan=False) + "\n").encode(),
    )
    write_atomic(
        out / "results.csv",
        _csv(results, list(dict.fromkeys(name for result in results for name in result.numbers))).encode(),
    )


def _csv(results: Sequence[Result], names: Sequence[str]) -> str:
    axes = list(dict.fromkeys(axis for result in results for axis in result.at))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["table", "contender", *axes, "seed", "epochs", *names, "error"])
    for result in results:
        lines.writerow(
            [
                result.table,
                result.label,
                *(result.at.get(axis, "") for axis in axes),
                result.seed,
                result.epochs,
                *(result.numbers.get(name, "") for name in names),
                result.error,
            ]
        )
    return text.getvalue()


def markdown(
    title: str,
    about: str,
    state: str,
    made: Sequence[Table],
    figures: Sequence[Figure],
    failed: Sequence[Result],
    notes: Sequence[str],
) -> str:
    lines = [
        f"# {title}",
        "",
        *([about, ""] if about else []),
        f"{state}. Mean over n seeds ± half-width of its 95 % t-interval. Bold: best of a column, if its interval overlaps with no other.",
        "",
    ]
    for table in made:
        lines += [f"## {table.title}", ""] if table.title else []
        lines += [f"| {' | '.join(table.header)} |", "|" + "---|" * len(table.header)]
        lines += [
            f"| {' | '.join(f'**{cell.text}**' if cell.best else cell.text for cell in row)} |"
            for row in table.rows
        ] + [""]
    for figure in figures:
        lines += [f"![{figure.alt}](figures/{figure.name}.svg)", "", figure.caption, ""]
    lines += [f"* {result.name}: {result.error}" for result in failed] + [f"* {note}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"

"""The measurements as a page in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.imputation.methods import SIMPLE

MEASURED = {
    "stream": "6 tables, from files to files",
    "whole": "6 tables, in memory",
    "sparse": "fit of a sparse matrix of counts",
}
Entry = Mapping[str, Any]


def page(results: Mapping[str, Any]) -> str:
    """All sections, from the JSON alone."""
    conditions = ", ".join(f"{name} {value}" for name, value in results["conditions"].items())
    parts = ["# Imputation of hidden modalities", f"Conditions: {conditions}."]
    for data, missing, entries in groups(results["errors"]):
        parts += [
            f"## {data}, {missing:.0%} of training modalities missing",
            errors(entries),
            by_view(entries),
        ]
    for data, missing, entries in groups(results["intervals"]):
        head = f"## {data}, {missing:.0%} missing: intervals of nominal 90 %"
        parts += [head, intervals(entries), by_pattern(entries)]
    for data, missing, entries in groups(results["probes"]):
        parts += [f"## {data}, {missing:.0%} missing: accuracy of a linear probe", probes(entries)]
    if results.get("times"):
        head = ["data", "missing", "samples", "seconds of Estimator.fit"]
        rows = [
            [e["data"], f"{e['missing']:.0%}", str(e["rows"]), f"{e['seconds']:.1f}"]
            for e in results["times"]
        ]
        parts += ["## Time", markdown(head, rows)]
    if results.get("memory"):
        head = ["what", "rows", "peak above the level before, MB", "seconds"]
        rows = [
            [MEASURED[e["what"]], str(e["rows"]), f"{e['megabytes']:.0f}", f"{e['seconds']:.0f}"]
            for e in results["memory"]
        ]
        parts += ["## Memory", markdown(head, rows)]
    return "\n\n".join(parts) + "\n"


def groups(entries: Sequence[Entry]) -> list[tuple[str, float, list[Entry]]]:
    keys = dict.fromkeys((entry["data"], entry["missing"]) for entry in entries)
    return [
        (data, missing, [e for e in entries if (e["data"], e["missing"]) == (data, missing)])
        for data, missing in keys
    ]


def per_fold(entries: Iterable[Entry], method: str) -> np.ndarray:
    """The mean over modalities of each fold: [folds]."""
    mine = [entry for entry in entries if entry["method"] == method]
    numbers = sorted({entry["fold"] for entry in mine})
    return np.array([np.mean([e["fvu"] for e in mine if e["fold"] == number]) for number in numbers])


def paired(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The mean difference over folds, and its standard error; NaN where there is one fold."""
    difference = a - b
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.nan
    return float(difference.mean()), float(error)


def errors(entries: Sequence[Entry]) -> str:
    """Mean FVU of each method, its paired difference from ridge and from the best simple method, and seconds of a fit."""
    means = {name: per_fold(entries, name) for name in methods(entries)}
    simple = [name for name in means if name in SIMPLE]
    best = min(simple, key=lambda name: means[name].mean()) if simple else None
    anchors = [name for name in dict.fromkeys(("ridge", best)) if name in means]
    head = ["method", "mean FVU", *(f"less {name}" for name in anchors), "seconds of fit"]
    rows = []
    for name, values in means.items():
        against = [
            "" if anchor == name else "{:+.3f} ± {:.3f}".format(*paired(values, means[anchor]))
            for anchor in anchors
        ]
        seconds = np.median([entry["seconds"] for entry in entries if entry["method"] == name])
        rows.append([name, f"{values.mean():.3f}", *against, f"{seconds:.1f}"])
    return markdown(head, rows)


def by_view(entries: Sequence[Entry]) -> str:
    """FVU by modality and method, mean over folds, and the best simple method less each of the others."""
    names = methods(entries)
    rows = []
    for view in dict.fromkeys(entry["view"] for entry in entries):
        found = [
            np.mean([e["fvu"] for e in entries if (e["view"], e["method"]) == (view, name)]) for name in names
        ]
        rows.append([view, *(f"{value:.3f}" for value in found)])
    return markdown(["FVU of", *names], rows)


def intervals(entries: Sequence[Entry]) -> str:
    """Coverage and width by modality: from all others, the lowest and the highest over patterns, and the mean width.

    The least possible coverage, from all others, is above 90 % where the most frequent value of columns is more frequent than that.
    """
    head, rows = (
        [
            "modality",
            "method",
            "coverage from all others",
            "width",
            "least possible coverage",
            "lowest coverage",
            "highest",
            "mean width",
        ],
        [],
    )
    for view in dict.fromkeys(entry["view"] for entry in entries):
        for name in methods(entries):
            mine = [entry for entry in entries if (entry["view"], entry["method"]) == (view, name)]
            by = {
                key: [
                    np.mean([e[what] for e in mine if e["pattern"] == key])
                    for what in ("coverage", "width", "least")
                ]
                for key in dict.fromkeys(entry["pattern"] for entry in mine)
            }
            if by:
                whole, every = by[max(by, key=lambda key: key.count("+"))], np.array(list(by.values()))
                cells = [*whole, every[:, 0].min(), every[:, 0].max(), every[:, 1].mean()]
                rows.append([view, name, *(f"{cell:.3f}" for cell in cells)])
    return markdown(head, rows)


def by_pattern(entries: Sequence[Entry]) -> str:
    """Coverage and width of every modality, pattern and method: means over folds weighted by test rows, and the rows of all folds."""
    rows = []
    for view, pattern, name in dict.fromkeys((e["view"], e["pattern"], e["method"]) for e in entries):
        mine = [e for e in entries if (e["view"], e["pattern"], e["method"]) == (view, pattern, name)]
        counts = [e["n"] for e in mine]
        found = [np.average([e[what] for e in mine], weights=counts) for what in ("coverage", "width")]
        rows.append([view, pattern, name, *(f"{value:.3f}" for value in found), str(sum(counts))])
    return markdown(["modality", "from", "method", "coverage", "width", "test rows"], rows)


def probes(entries: Sequence[Entry]) -> str:
    """Accuracy by set of views and method, mean over folds."""
    names, rows = methods(entries), []
    for views in dict.fromkeys(entry["views"] for entry in entries):
        mine = [entry for entry in entries if entry["views"] == views]
        found = [[e["accuracy"] for e in mine if e["method"] == name] for name in names]
        rows.append([views, *(f"{np.mean(values):.3f}" if values else "–" for values in found)])
    return markdown(["views", *names], rows)


def methods(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(entry["method"] for entry in entries))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

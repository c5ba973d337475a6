"""Columns of classes in the report of a fitted estimator: their scores, and measured against imputed classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polyvae.data.groups import Group, text_of
from polyvae.imputation.filling.classes import Calibration
from polyvae.report.drawing import Figure
from polyvae.report.metrics import number
from polyvae.report.plots import confusion_figure
from polyvae.report.sections import Section, Table
from polyvae.report.tables import View, share_text

_LISTED = 10  # columns of classes in the table of a modality
_MOST = 8  # classes in a figure; the rarest are drawn as one


class Column(NamedTuple):
    """A column of classes, and its scores for samples left out.

    Attributes:
        group: The column.
        frequent: The share of the most frequent class.
        found: Score -> value.
    """

    group: Group
    frequent: float
    found: dict[str, float]


def class_columns(view: View, name: str) -> list[Column]:
    """The columns of classes of a modality that have scores, that with the highest R² first."""
    each, combination = view.estimator.schema_[name], view.held[name]
    rows = [
        row for row in view.scores.select(modality=name, method="stack", pattern=None).rows if row.feature
    ]
    columns = []
    for group in each.groups:
        found = {row.score: row.value for row in rows if row.feature == group.name}
        codes = Calibration.of(each, group, combination).codes
        if "accuracy" in found and len(codes):
            columns.append(Column(group, float(np.bincount(codes).max() / len(codes)), found))
    return sorted(columns, key=lambda column: -column.found.get("r2", -np.inf))


def classes_section(view: View) -> Section | None:
    """The scores of columns of classes; None where there are none."""
    found = {name: class_columns(view, name) for name in view.names}
    tables = [_table(name, columns) for name, columns in found.items() if columns]
    if not tables:
        return None
    return Section(
        "classes",
        "Columns of classes",
        "The most probable class of samples left out. Most frequent class: the accuracy of that class alone. AUROC: the mean of each class "
        "against the others; 0.5 is chance. Coverage of sets: how many 90 % sets contain the measured class. Booleans and ordered classes "
        "have intervals instead of sets, and more than two ordered classes have no AUROC, for they are predicted as ranks.",
        tables=tables,
    )


def _table(name: str, columns: Sequence[Column]) -> Table:
    shown = columns if len(columns) <= _LISTED else [*columns[: _LISTED // 2], *columns[-_LISTED // 2 :]]
    rows = [
        [
            column.group.name,
            f"{len(column.group.levels):,}",
            number(column.found["accuracy"], 2),
            number(column.frequent, 2),
            _shown(column, "auroc"),
            share_text(column.found["set_coverage"]) if "set_coverage" in column.found else "–",
            _shown(column, "set_size"),
        ]
        for column in shown
    ]
    if len(columns) > len(shown):
        rows.insert(_LISTED // 2, [f"{len(columns) - _LISTED:,} others", *["…"] * 6])
    header = ["classes", "accuracy", "most frequent class", "AUROC", "coverage of sets", "classes in a set"]
    return Table([name, *header], rows)


def _shown(column: Column, score: str) -> str:
    return number(column.found[score], 3 if score == "auroc" else 2) if score in column.found else "–"


def class_figures(view: View, place: int) -> list[Figure]:
    """Measured against imputed classes of the columns with the highest, the middle and the lowest R² of a modality.

    Args:
        view: What the page shows.
        place: The place of the modality.
    """
    each = view.estimator.schema_.modalities[place]
    columns = class_columns(view, each.name)
    figures = []
    for at in sorted({0, len(columns) // 2, len(columns) - 1}) if columns else []:
        column = columns[at]
        known = Calibration.of(each, column.group, view.held[each.name])
        counts = _counts(column.group, known)
        note = f"accuracy {number(column.found['accuracy'], 2)}"
        alt = f"Measured against imputed values of {column.group.name} of {each.name}, {note}."
        title = column.group.name
        figures.append(confusion_figure(f"classes_{place}_{at}", each.name, title, note, counts, alt))
    return figures


def _counts(group: Group, known: Calibration) -> dict[str, dict[str, int]]:
    """Measured class -> imputed class -> samples; the rarest of many classes are taken together, last."""
    names = [text_of(level) for level in group.levels]
    if len(names) > _MOST:
        often = np.argsort(-np.bincount(known.codes, minlength=len(names)), kind="stable")[: _MOST - 1]
        names = [name if at in often else "(others)" for at, name in enumerate(names)]
    shown = [name for name in dict.fromkeys(names) if name != "(others)"]
    shown += ["(others)"] if "(others)" in names else []
    counts = {measured: dict.fromkeys(shown, 0) for measured in shown}
    for code, imputed in zip(known.codes.tolist(), known.chances.argmax(1).tolist(), strict=True):
        counts[names[code]][names[imputed]] += 1
    return counts

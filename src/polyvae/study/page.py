"""The files of a study: page, Markdown, JSON, CSV and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from polyvae.report.metrics import metric
from polyvae.report.templates import render
from polyvae.study.config import Plot
from polyvae.study.plots import draw
from polyvae.study.tables import Result, markdown, tables, title_of, write_numbers
from polyvae.utils.errors import nearest
from polyvae.utils.files import write_atomic


def write_study(
    out: str | Path,
    title: str,
    results: Sequence[Result],
    columns: Sequence[str],
    plots: Sequence[Plot],
    *,
    about: str = "",
    source: str = "",
    plan: Mapping[str, Any] | None = None,
    named: bool = True,
) -> Path:
    """Write results.json, results.csv, study.md, study.html and figures/*.svg to ``out``; return the path of the page.

    The numbers are written first. A plot that cannot be drawn becomes a note on the page, and so does a number that no cell has; a column
    without numbers does so only if the columns were ``named`` in the study.

    Raises:
        StorageError: If a file cannot be written.
    """
    out = Path(out)
    write_numbers(out, title, results, plan)
    known = dict.fromkeys(name for result in results for name in result.numbers)
    drawn = [name for plot in plots for name in ([plot.x] if plot.kind == "tradeoff" else []) + [plot.y]]
    asked = dict.fromkeys([*(columns if named else ()), *drawn])
    notes = [
        f"{name}: no cell has it; {nearest(name, known)}" for name in asked if known and name not in known
    ]
    made, figures = tables(results, columns), []
    for place, plot in enumerate(plots, 1):
        try:
            figure = draw(plot, f"{place}-{plot.kind}-{plot.y}", results)
        except Exception as problem:  # a plot that fails must not cost the tables
            notes.append(
                f"plot {place}, {plot.y} over {plot.x}: not drawn, {type(problem).__name__}: {' '.join(str(problem).split())}"
            )
        else:
            figures += [figure] if figure is not None else []
    (out / "figures").mkdir(exist_ok=True)
    for old in out.glob("figures/[0-9]*-*.svg"):
        if old.stem not in [figure.name for figure in figures]:
            old.unlink()
    for figure in figures:
        write_atomic(out / "figures" / f"{figure.name}.svg", figure.svg)
    done, failed = (
        [result for result in results if result.numbers],
        [result for result in results if result.error],
    )
    meanings = [
        (title_of(name), metric(name).meaning, metric(name).better) for name in columns if name in known
    ]
    state = f"{len(done)} of {len(results)} cells"
    write_atomic(out / "study.md", markdown(title, about, state, made, figures, failed, notes).encode())
    write_atomic(
        out / "study.html",
        render(
            "study.html.jinja",
            title=title,
            about=about,
            state=state,
            tables=made,
            figures=figures,
            failed=failed,
            notes=notes,
            source=source,
            columns=meanings,
            version=metadata.version("polyvae"),
        ).encode(),
    )
    return out / "study.html"

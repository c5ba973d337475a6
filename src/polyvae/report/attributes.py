"""The section about attributes: which are right in what is generated, and whether what was not stated varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyvae.report.metrics import KNOWN, metric, number, span, worth
from polyvae.report.sections import Page, Section, Table


def attributes_section(page: Page) -> Section | None:
    """Headline numbers with their intervals, accuracy by attribute for each input and target, and what was not stated."""
    values = page.evaluation
    table = values.get("attributes") or {}
    if not any(table.values()):
        return None
    tables = [_headlines(values)]
    for suffix, which in (("", ""), ("_fitted", ", fitted prior")):
        tables += [
            _pair(observed, f"{target}{which}", found)
            for observed, row in (values.get(f"attributes{suffix}") or {}).items()
            for target, found in row.items()
        ]
        unsaid = values.get(f"unsaid{suffix}") or {}
        if any(unsaid.values()):
            tables.append(_unsaid(unsaid, values.get("unsaid_settings") or {}, which))
    lead = (
        "What a sentence or an image states, read from what was generated given one other modality. Images are read by judges, sentences "
        "by a parser. A model that always draws the same image can be right in all that was stated, so accuracy is shown beside the "
        "variety of what was not."
    )
    return Section("attributes", "Attributes", lead, tables=tables)


def _headlines(values: Mapping[str, Any]) -> Table:
    return Table(
        ("number", "value", "meaning"),
        [
            (
                metric(name).title,
                number(values[name]),
                ". ".join(
                    part[:1].upper() + part[1:]
                    for part in (*worth(name, values), metric(name).meaning)
                    if part
                ),
            )
            for name in dict.fromkeys([*KNOWN, *values])
            if name.startswith(("attribute_", "sentence_", "unsaid_")) and isinstance(values.get(name), float)
        ],
        prose=True,
    )


def _pair(observed: str, target: str, found: Mapping[str, Any]) -> Table:
    columns = [
        (key, title)
        for key, title in (
            ("said", "stated and right"),
            ("chance", "most frequent class"),
            ("all", "right, stated or not"),
            ("stated", "stated in what was generated"),
        )
        if key in found and (key != "stated" or "grammatical" in found)
    ]
    rows = [
        (name, *(_share(found[key].get(name)) for key, _ in columns))
        for name in dict.fromkeys(name for key, _ in columns for name in found[key])
    ]
    whole = [
        f" {title}: {_share(found[key])}."
        for key, title in (
            ("exact", f"Share of samples of “{target}” with everything stated right"),
            ("grammatical", "Share of sentences that are grammatical"),
        )
        if key in found
    ]
    return Table(
        (f"{observed} → {target}", *(title for _, title in columns)),
        rows,
        f"The numbers are shares of samples, with intervals of 95 %.{''.join(whole)}"
        + (
            " Most frequent class: the share right if the class most frequent in training is always guessed."
            if "chance" in found
            else ""
        ),
    )


def _unsaid(unsaid: Mapping[str, Any], settings: Mapping[str, Any], which: str) -> Table:
    rows = [
        (
            f"{observed} → {target}: {name}",
            _number(own["entropy"], own["entropy_interval"]),
            _number(own["diversity"], own["diversity_interval"]),
            f"{own['samples']:,}",
        )
        for observed, row in unsaid.items()
        for target, found in row.items()
        for name, own in found.items()
    ]
    draws = f", from {settings['draws']} draws for each sample" if "draws" in settings else ""
    return Table(
        (f"not stated{which}", "entropy, relative", "diversity, relative", "samples"),
        rows,
        f"The numbers are relative to the training samples that agree in what was stated{draws}; with intervals of 95 %. 1: as varied as "
        "the data.",
    )


def _share(found: Mapping[str, Any] | None) -> str:
    return "–" if found is None else _number(found["share"], found["interval"])


def _number(value: float, ends: Sequence[float]) -> str:
    return f"{number(value)} ({span(ends)})"

"""The section about attributes: which are right in what is generated, and whether what was not stated varies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from polyvae.report.metrics import KNOWN, metric, number, span
from polyvae.report.sections import Page, Section, Table

_OWN = ("attribute_", "sentence_", "unsaid_")  # how the names of these numbers begin
CARDS = ("attribute_accuracy", "sentence_accuracy", "unsaid_entropy")  # those that have a card too


def attributes_section(page: Page) -> Section | None:
    """Headline numbers with their intervals, accuracy by attribute for each input and target, and what was not stated."""
    values = page.evaluation
    table = values.get("attributes") or {}
    if not any(table.values()):
        return None
    fitted = values.get("attributes_fitted") or {}
    tables = [_headlines(values, bool(fitted))]
    real = values.get("judge_accuracy_by_attribute") or {}
    for observed, row in table.items():
        for target, found in row.items():
            beside = (fitted.get(observed) or {}).get(target)
            tables.append(_pair(f"{observed} → {target}", found, beside, real.get(target) or {}))
    if any((values.get("unsaid") or {}).values()):
        tables.append(_unsaid(values))
    lead = (
        "What a sentence or an image states, read from what was generated given one other modality. Images are read by judges "
        "(classifiers used for evaluation), sentences by a parser. A model that always draws the same image can be right in all that "
        "was stated, so accuracy is shown beside the variety of what was not."
    )
    if fitted:
        lead += (
            " Model alone: latents are drawn from its posterior given the input. Fitted prior: the latents of what is missing are drawn "
            "from a distribution that was fitted after training, given those of the input."
        )
    return Section("attributes", "Attributes", lead, tables=tables)


def _headlines(values: Mapping[str, Any], fitted: bool) -> Table:
    """One row for each number, with its interval: of the model alone, with the fitted prior, and by guessing."""
    rows = [
        (
            f"{metric(name).title}: {metric(name).meaning[:1].lower()}{metric(name).meaning[1:]}",
            _headline(name, values),
            *([_headline(f"{name}_fitted", values)] if fitted else []),
            _guess(name, values),
        )
        for name in dict.fromkeys([*KNOWN, *values])
        if name.startswith(_OWN)
        and isinstance(values.get(name), float)
        and not name.endswith(("_fitted", "_chance"))
    ]
    columns = ["model alone", "fitted prior"] if fitted else ["value"]
    return Table(
        ("number", *columns, "guessing"),
        rows,
        "With intervals of 95 %. Guessing: always the class that is most frequent in training; of what was not stated, always the same.",
    )


def _headline(name: str, values: Mapping[str, Any]) -> str:
    if not isinstance(values.get(name), float):
        return "–"
    ends = (values.get("intervals") or {}).get(name)
    return _number(values[name], ends) if ends else number(values[name])


def _guess(name: str, values: Mapping[str, Any]) -> str:
    """The value of the simplest baseline, where there is one."""
    if name in ("unsaid_entropy", "unsaid_diversity"):
        return number(0.0)
    chance = values.get(f"{name.removesuffix('_accuracy')}_chance") if name.endswith("_accuracy") else None
    return number(chance) if isinstance(chance, float) else "–"


def _pair(
    title: str, found: Mapping[str, Any], fitted: Mapping[str, Any] | None, real: Mapping[str, float]
) -> Table:
    """Shares by attribute for one input and target: of the model alone, with the fitted prior, by guessing, and of real images."""
    sentences = "grammatical" in found
    more = ("stated", "stated in what was generated") if sentences else ("all", "right, stated or not")
    columns = [(found, "said", "stated and right")]
    if fitted is not None:
        columns.append((fitted, "said", "fitted prior: stated and right"))
    elif more[0] in found:
        columns.append((found, *more))
    names = list(dict.fromkeys(name for own, key, _ in columns for name in own[key]))
    guess = {name: float(own["share"]) for name, own in (found.get("chance") or {}).items()}
    rows = [
        (
            name,
            *(_share(own[key].get(name)) for own, key, _ in columns),
            *([number(guess.get(name, math.nan))] if guess else []),
            *([number(real.get(name, math.nan))] if real else []),
        )
        for name in names
    ]
    return Table(
        (
            title,
            *(what for _, _, what in columns),
            *(["guessing"] if guess else []),
            *(["judge on real images"] if real else []),
        ),
        rows,
        f"Shares of samples, with intervals of 95 %.{_whole(found, '')}"
        f"{_whole(fitted, ', with the fitted prior') if fitted is not None else ''}",
    )


def _whole(found: Mapping[str, Any], which: str) -> str:
    """The shares of samples that are right as a whole, in a sentence each."""
    return "".join(
        f" {title}{which}: {_share(found[key])}."
        for key, title in (("exact", "Everything right"), ("grammatical", "Grammatical"))
        if key in found
    )


def _unsaid(values: Mapping[str, Any]) -> Table:
    """By attribute, how much of what was not stated varies."""
    own, fitted = values["unsaid"], values.get("unsaid_fitted") or {}
    columns = [(own, "entropy", "entropy"), (own, "diversity", "diversity")]
    if any(fitted.values()):  # four columns with intervals are wider than the page
        columns[1:] = [(fitted, "entropy", "fitted prior: entropy")]
    rows = []
    for observed, row in own.items():
        for target, found in row.items():
            for name in found:
                each = [(kind.get(observed, {}).get(target, {}).get(name), key) for kind, key, _ in columns]
                cells = [_number(x[key], x[f"{key}_interval"]) if x else "–" for x, key in each]
                rows.append((f"{observed} → {target}: {name}", *cells, f"{found[name]['samples']:,}"))
    settings = values.get("unsaid_settings") or {}
    draws = f", from {settings['draws']} draws for each sample" if "draws" in settings else ""
    return Table(
        ("not stated", *(title for _, _, title in columns), "samples"),
        rows,
        f"Relative to the training samples that agree in what was stated{draws}; with intervals of 95 %. 1: as varied as the data. "
        "0: always the same.",
    )


def _share(found: Mapping[str, Any] | None) -> str:
    return "–" if found is None else _number(found["share"], found["interval"])


def _number(value: float, ends: Sequence[float]) -> str:
    return f"{number(value)} ({span(ends)})"

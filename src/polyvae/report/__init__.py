"""A run -> one self-contained page: numbers beside what they are worth, pictures, curves, and how all of it was made."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jinja2 import Environment, StrictUndefined

from polyvae.data import MultimodalData
from polyvae.evaluate import Evaluation
from polyvae.priors import FittedPrior
from polyvae.report.figures import Figure
from polyvae.report.gallery import stage
from polyvae.report.protocol import protocol
from polyvae.report.sections import SECTIONS, Page, number
from polyvae.storage import RunDirectory, StorageError, write_atomic
from polyvae.vae import MultimodalVAE

__all__ = ["number", "write_report"]


class Card(NamedTuple):
    """A headline number: what it is called, what it means, and what to hold it against."""

    value: str
    title: str
    meaning: str
    beside: str = ""


def write_report(
    run: RunDirectory | str | Path, model: MultimodalVAE, data: MultimodalData, evaluation: Mapping[str, Any] | None = None, *,
    prior: FittedPrior | None = None, command: str | None = None, seed: int = 0,
) -> Path:
    """Write ``report.html`` of a run, and its figures (SVG and PNG) beside it; the path of the page.

    ``data``       held-out data to show: a part such as ``data.test``, or data whose test split is taken.
    ``evaluation`` what ``evaluate`` answered, or the contents of evaluation.json; None: a page without those numbers.
    ``prior``      the fitted prior to draw from; None: that of ``evaluation``, if it has one.
    ``command``    what made the run, to print. ``seed`` of the samples shown and of their draws.

    The model's mode and the global generator are left as they were. Raises StorageError: a full disk; the old page is unchanged.
    """
    run = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    if prior is None and isinstance(evaluation, Evaluation):
        prior = evaluation.prior
    if prior is not None:
        prior = copy.deepcopy(prior).to(next(model.parameters()))          # a copy: the caller's stays on its device
    part = data.test if "test" in data.splits else data
    config = run.config.read_text("utf-8") if run.config.is_file() else ""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            page = Page(stage(model, part, prior, seed), evaluation or {}, [r for r in run.read_history() if "train" in r])
            sections = [make(page) for make in SECTIONS]
            how = protocol(model, part, page.evaluation, mixed=page.scene.mixed, config=config, seed=seed)
    finally:
        model.train(training)
    figures = [figure for section in sections for figure in section.figures]
    _save(run, figures)
    name = str(data.card.get("name") or "custom data")
    run.write_text(run.report.name, _render(
        title=f"{model.name} on {name}", facts=_facts(page, part), cards=_cards(page), sections=sections, config=config, command=command,
        protocol=how, citation=model.citation, summary=_summary(model),
        origin=[str(data.card[key]) for key in ("source", "licence") if key in data.card],
        date=_date(datetime.now().astimezone()), version=metadata.version("polyvae")))
    return run.report


# ---- the head of the page --------------------------------------------------------------------------------------------------------


def _cards(page: Page) -> list[Card]:
    values, classes = page.evaluation, page.classes
    accuracy = list((values.get("judge_accuracy") or {}).values())
    judges = f"judges on real images {number(sum(accuracy) / len(accuracy))}, weakest {number(min(accuracy))}" if accuracy else ""
    chance = f"chance {number(1 / classes)}" if classes else ""
    # All judges agree by accident: C classes, M judges, C · C^-M.
    luck = f"chance {classes ** (1 - len(accuracy)):.2g}" if classes and accuracy else ""
    joint = values.get("log_likelihood_joint") or {}
    worth = ([f"standard error {number(joint['standard_error'])}",
              f"effective samples {joint['effective_samples']:.1f} of {values.get('log_likelihood_samples', 0):,}"] if joint else [])
    known = {name: Card("", title, meaning, " · ".join(part for part in beside if part)) for name, title, meaning, *beside in (
        ("conditional_coherence", "conditional coherence", "Given one modality, how often another that is generated shows the same class.",
         judges, chance),
        ("unconditional_coherence", "unconditional coherence", "Drawn from p(z), how often all modalities show one class.",
         judges, luck, "a constant would score 1"),
        ("unconditional_coherence_fitted", "… with the fitted prior",
         f"The same, with z from a mixture fitted after training ({values.get('fitted_prior') or 'fitted'}).",
         judges, luck, "a constant would score 1"),
        ("judge_agreement", "judges agree on real data", "How often all judges agree on a real held-out sample: what to hold the two "
         "before against.", judges),
        ("log_likelihood", "log-likelihood", "Nats per datum, all modalities jointly; an importance-sampled lower bound.", *worth))}
    elsewhere = ("unconditional_entropy", "unconditional_entropy_fitted")           # beside their histogram
    cards = [card._replace(value=number(values[name])) for name, card in known.items() if isinstance(values.get(name), float)]
    return cards + [Card(number(value), name.replace("_", " "), "") for name, value in values.items()
                    if isinstance(value, float) and name not in known and name not in elsewhere]


def _facts(page: Page, part: MultimodalData) -> list[str]:
    model = page.model
    weights = sum(parameter.numel() for parameter in model.parameters())
    codes = [f"shared code z of {model.seen}" if model.seen else "no shared code",
             f"private codes w of {len(model.owner)} in all" if len(model.owner) else "no private codes"]
    return [f"{len(model.modalities)} modalities", *codes, f"{weights:,} weights", f"{len(part):,} held-out samples"]


def _date(now: datetime) -> str:
    return f"{now.day} {now:%B %Y, %H:%M}"


def _summary(model: MultimodalVAE) -> str:
    return (type(model).__doc__ or "").strip().partition("\n")[0]


# ---- the page --------------------------------------------------------------------------------------------------------------------


def _save(run: RunDirectory, figures: Sequence[Figure]) -> None:
    try:
        run.figures.mkdir(exist_ok=True)
    except OSError as problem:
        raise StorageError(f"{run.figures}: cannot be made ({problem.strerror}); expected a writable run directory; "
                           "free space or set permissions") from None
    for figure in figures:
        write_atomic(run.figures / f"{figure.name}.svg", figure.svg)
        write_atomic(run.figures / f"{figure.name}.png", figure.png)


def _render(**values: Any) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = resources.files(__name__).joinpath("report.html.jinja").read_text("utf-8")
    return environment.from_string(template).render(**values)

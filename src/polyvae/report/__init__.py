"""Reports: one self-contained page for a run, or for several runs, with numbers, samples, curves, and how they were made."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from polyvae.core.fitted import FittedPrior
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.metrics import Evaluation
from polyvae.report.attributes import CARDS, attributes_section
from polyvae.report.compare import Contender, labels, write_comparison
from polyvae.report.drawing import Figure
from polyvae.report.gallery import stage
from polyvae.report.learning import learning_section
from polyvae.report.measures import conflict_section, latents_section, quality_section, reconstruction_section
from polyvae.report.metrics import KNOWN, by_size, metric, number, quality, worth
from polyvae.report.partial import partial_samples
from polyvae.report.protocol import protocol
from polyvae.report.samples import cross_section, partial_section, traversal_section, unconditional_section
from polyvae.report.sections import Page, Section, coherence_section, histogram_section, likelihood_section
from polyvae.report.templates import render
from polyvae.report.understanding import diagnosis_section, variance_section
from polyvae.training.directory import RunDirectory

__all__ = ["Contender", "labels", "number", "write_comparison", "write_report"]

SECTIONS: tuple[Callable[[Page], Section | None], ...] = (
    cross_section,
    partial_section,
    unconditional_section,
    coherence_section,
    histogram_section,
    attributes_section,
    quality_section,
    reconstruction_section,
    learning_section,
    traversal_section,
    variance_section,
    latents_section,
    likelihood_section,
    conflict_section,
    diagnosis_section,
)

# Key of the evaluation -> headline numbers that a section shows when the key is present; they get no card.
_SHOWN = {
    "unconditional_histogram": ("unconditional_entropy",),
    "attributes": ("attribute_", "sentence_"),
    "unsaid": ("unsaid_",),
    "probes": ("probe_",),
    "units": ("active_units_", "kl_"),
    "gradients": ("gradient_",),
    "variance": ("variance_explained",),
    "reconstruction": ("reconstruction_error", "cross_reconstruction_error", "diversity"),
}

_AGAIN = (
    "The same, with the latents of what is missing drawn from a distribution that was fitted after training."
)


class Card(NamedTuple):
    """A headline number: its value, title and meaning, and ``beside``, what to compare it with."""

    value: str
    title: str
    meaning: str
    beside: str = ""


def write_report(
    run: RunDirectory | str | Path,
    model: MultimodalVAE,
    data: MultimodalData,
    evaluation: Mapping[str, Any] | None = None,
    *,
    prior: FittedPrior | None = None,
    command: str | None = None,
    seed: int = 0,
) -> Path:
    """Write the report of a run.

    The mode of the model and the global random generator keep their state.

    Args:
        run: The run directory.
        model: The trained model.
        data: Held-out data such as ``data.test``, or a data set, whose test part is used.
        evaluation: The result of ``evaluate``, or the contents of evaluation.json; None: a page without these numbers.
        prior: The fitted prior; None: that of ``evaluation``, if it has one.
        command: The command that made the run, to print it.
        seed: Seed of the choice of samples and of their draws.

    Returns:
        The path of ``report.html``. Its figures are next to it, as SVG and PNG.

    Raises:
        StorageError: If a file cannot be written. The old page is unchanged.
    """
    run = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    if prior is None and isinstance(evaluation, Evaluation):
        prior = evaluation.prior
    if prior is not None:
        prior = copy.deepcopy(prior).to(
            next(model.parameters())
        )  # the prior of the caller stays on its device
    part = data.test if "test" in data.splits else data
    config = run.config.read_text("utf-8") if run.config.is_file() else ""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            page = Page(
                stage(model, part, prior, seed),
                evaluation or {},
                [r for r in run.read_history() if "train" in r],
                run.last_step(),
                partial_samples(model, part, seed),
            )
            sections = [section for make in SECTIONS if (section := make(page)) is not None]
            how = protocol(model, part, page.evaluation, mixed=page.scene.mixed, config=config, seed=seed)
    finally:
        model.train(training)
    figures = [figure for section in sections for figure in section.figures]
    _save(run, figures)
    name = str(data.card.get("name") or "custom data")
    run.write_text(
        run.report.name,
        render(
            "report.html.jinja",
            title=f"{model.name} on {name}",
            facts=_facts(page, part),
            cards=_cards(page),
            sections=[section for section in sections if not section.omitted],
            omitted=[section for section in sections if section.omitted],
            evaluated=bool(page.evaluation),
            config=config,
            command=command,
            protocol=how,
            citation=model.citation,
            summary=_summary(model),
            what=data.card.get("what"),
            origin=[str(data.card[key]) for key in ("source", "licence") if key in data.card],
            date=_date(datetime.now().astimezone()),
            version=metadata.version("polyvae"),
        ),
    )
    return run.report


# ---- the head of the page --------------------------------------------------------------------------------------------------------


def _cards(page: Page) -> list[Card]:
    values = page.evaluation
    elsewhere = tuple(start for key, starts in _SHOWN.items() if values.get(key) for start in starts)
    names = [
        name
        for name in dict.fromkeys([*KNOWN, *(f"{known}_fitted" for known in KNOWN), *values])
        if isinstance(values.get(name), float)
        and (not name.startswith(elsewhere) or name.removesuffix("_fitted") in CARDS)
        and (not values.get("quality") or quality(name) in (None, "frechet_distance", "fid"))
        and not name.startswith("real_")
        and not by_size(name)
    ]
    return [
        Card(
            number(values[name]),
            about.title,
            _AGAIN if name.removesuffix("_fitted") in {*CARDS} - {name} else about.meaning,
            " · ".join(worth(name, values)),
        )
        for name in names
        for about in [metric(name, values)]
    ]


def _facts(page: Page, part: MultimodalData) -> list[str]:
    model = page.model
    weights = sum(parameter.numel() for parameter in model.parameters())
    latents = [
        f"shared latent z of {model.shared} dimensions" if model.shared else "no shared latent",
        f"private latents w of {len(model.owner)} dimensions in total"
        if len(model.owner)
        else "no private latents",
    ]
    return [
        f"{len(model.modalities)} modalities",
        *latents,
        f"{weights:,} parameters",
        f"{len(part):,} held-out samples",
    ]


def _date(now: datetime) -> str:
    return f"{now.day} {now:%B %Y, %H:%M}"


def _summary(model: MultimodalVAE) -> str:
    return (type(model).__doc__ or "").strip().partition("\n")[0]


# ---- figures --------------------------------------------------------------------------------------------------------------------


def _save(run: RunDirectory, figures: Sequence[Figure]) -> None:
    files: dict[str, bytes] = {}
    for figure in figures:
        files |= {f"{figure.name}.svg": figure.svg, f"{figure.name}.png": figure.png()}
    run.write_figures(files)

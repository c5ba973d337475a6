"""The sections that show generated samples."""

from __future__ import annotations

from polyvae.report.gallery import cross_generation, traverse, unconditional
from polyvae.report.partial import partial_figure
from polyvae.report.sections import Page, Section


def cross_section(page: Page) -> Section:
    """Every modality, generated given each one."""
    title = "Conditional generation"
    prior = page.scene.conditional
    if not page.model.shared and prior is None:
        return Section(
            "cross",
            title,
            f"Left out: {page.model.name} has no shared latent (D = 0), so no information passes between modalities. A prior fitted "
            'to all latents can pass it: evaluate with fitted_prior.latents = "all".',
        )
    if not page.scene.inputs or not page.scene.targets:
        return Section(
            "cross",
            title,
            "Left out: no modality is both observed and of a shape that a small picture can show.",
        )
    lead = "The generated modalities should agree with the observed one in what is shared, and vary in everything else."
    if not page.model.shared:
        lead += f" {page.model.name} has no shared latent (D = 0): all information passes through the fitted prior."
    kinds = ([None] if page.model.shared else []) + ([prior] if prior is not None else [])
    return Section("cross", title, lead, [cross_generation(page.scene, kind) for kind in kinds])


def partial_section(page: Page) -> Section | None:
    """Draws given a sentence that states only a part; None for data in which nothing is left open."""
    found = page.partial
    figure = None if found is None else partial_figure(page.scene, found)
    if found is None or figure is None:
        return None
    lead = (
        f"A {found.given} that states only a part fits many samples. What it states should be right in every draw, and what it leaves open "
        "should vary."
    )
    return Section("open", f"What the {found.given} leaves open", lead, [figure])


def unconditional_section(page: Page) -> Section:
    """Draws from the priors."""
    title, scene = "Unconditional generation", page.scene
    if not scene.targets:
        return Section(
            "unconditional", title, "Left out: no modality has a shape that a small picture can show."
        )
    lead = "Each column is one draw of all modalities. Within a column, modalities should agree; along a row, draws should differ."
    if not page.model.shared:
        lead += (
            f" {page.model.name} has no shared latent (D = 0): its own prior draws modalities independently."
        )
    if not scene.fitted:
        lead += " There is no fitted prior, so only the prior of the model is shown."
    return Section(
        "unconditional",
        title,
        lead,
        [unconditional(scene, which) for which in ([False, True] if scene.fitted else [False])],
    )


def traversal_section(page: Page) -> Section:
    """Latent traversals through z and through w."""
    title, scene, model = "Latent traversals", page.scene, page.model
    if not scene.targets or scene.batch.size < 2:
        return Section(
            "traversals",
            title,
            "Left out: a traversal needs two samples, and modalities that a small picture can show.",
        )
    figures, lead = (
        [],
        "From the latents of one sample to those of another: one of z and w changes, the other is fixed.",
    )
    if model.seen:
        figures.append(
            traverse(scene, "z")._replace(
                caption="z changes, w is fixed: only what is shared should change. At either end: the observed samples."
            )
        )
    else:
        lead += f" There is no traversal of z: the decoders of {model.name} use private latents only."
    if len(model.owner):
        figures.append(
            traverse(scene, "w")._replace(
                caption="w changes, z is fixed: the style of each modality should change, and what is shared should not."
            )
        )
    else:
        lead += f" There is no traversal of w: {model.name} has no private latents here (W = 0)."
    return Section("traversals", title, lead, figures)

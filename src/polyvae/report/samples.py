"""The sections that show generated samples."""

from __future__ import annotations

from polyvae.report.gallery import cross_generation, unconditional, walk
from polyvae.report.sections import Page, Section


def cross_section(page: Page) -> Section:
    """The grid from each modality to the others."""
    title = "From one modality to the others"
    if not page.model.shared:
        return Section(
            "cross",
            title,
            f"Left out: {page.model.name} has no shared code (D = 0); nothing passes between modalities.",
        )
    if not page.scene.sources or not page.scene.targets:
        return Section(
            "cross",
            title,
            "Left out: no modality here is both observed and of a shape that a small picture can show.",
        )
    lead = "Does what is generated show what was observed, and does it vary in everything else?"
    return Section("cross", title, lead, [cross_generation(page.scene)])


def unconditional_section(page: Page) -> Section:
    """Draws from the priors."""
    title, scene = "Drawn from nothing", page.scene
    if not scene.targets:
        return Section(
            "unconditional", title, "Left out: no modality has a shape that a small picture can show."
        )
    lead = "Each column is one draw, all its modalities stacked: down a column they should agree, along a row they should differ."
    if not page.model.shared:
        lead += f" {page.model.name} has no shared code (D = 0): its modalities are drawn independently, and there is no fitted prior."
    elif scene.prior is None:
        lead += " No fitted prior was given, so only the model’s own is shown."
    fitted = page.model.shared > 0 and scene.prior is not None
    return Section(
        "unconditional",
        title,
        lead,
        [unconditional(scene, which) for which in ([False, True] if fitted else [False])],
    )


def walk_section(page: Page) -> Section:
    """Walks through z and through w."""
    title, scene, model = "Walks through the codes", page.scene, page.model
    if not scene.targets or scene.batch.size < 2:
        return Section(
            "walks",
            title,
            "Left out: a walk needs two samples, and modalities that a small picture can show.",
        )
    figures, lead = [], "From one sample’s code to another’s, one part moving while the other stands still."
    if model.seen:
        figures.append(
            walk(scene, "z")._replace(
                caption="z moves, w stands still: what is shared should change, and only that. Outermost: the two samples, as observed."
            )
        )
    else:
        lead += f" No walk through z: the decoders of {model.name} see private codes only."
    if len(model.owner):
        figures.append(
            walk(scene, "w")._replace(
                caption="w moves, z stands still: each modality’s own style should change, and what is shared should not."
            )
        )
    else:
        lead += f" No walk through w: {model.name} has no private codes here (W = 0)."
    return Section("walks", title, lead, figures)

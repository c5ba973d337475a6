"""Sections about attributes state what is counted: not classes, and nothing that one modality alone cannot show."""

from __future__ import annotations

import dataclasses

import torch

from polyvae import Modality, build
from polyvae.core.batch import Batch
from polyvae.report.gallery import Scene
from polyvae.report.sections import Page, Section, coherence_section, histogram_section


def page(evaluation) -> Page:
    torch.manual_seed(0)
    model = build("mvae", [Modality("image", 2), Modality("caption", 2)], latent=2).eval()
    batch = Batch.of({name: torch.zeros(2, 2) for name in ("image", "caption")})
    return Page(Scene(model, batch, None, {}, None, 0), evaluation, [])


def words(section: Section) -> str:
    cells = [cell for table in section.tables for row in table.rows for cell in row]
    return " ".join([section.lead, *(figure.caption for figure in section.figures), *cells])


def test_coherence_of_attributes_is_no_coherence_of_classes():
    """Captions are parsed, so there need be no judge."""
    values = {"coherence_matrix": {"image": {"caption": 0.5}}, "unconditional_by_attribute": {}}
    text = words(coherence_section(page(values)))
    assert "the share of the attributes stated by the observed one that are right" in text
    assert "class of" not in text
    assert "class of the sample" in words(
        coherence_section(page({"coherence_matrix": values["coherence_matrix"]}))
    )


def test_a_missing_label_is_no_class():
    scene = page({}).scene
    assert scene.title(1) == "sample 2"
    assert [dataclasses.replace(scene, labels=[-1, 3]).title(row) for row in (0, 1)] == [
        "sample 1",
        "sample 2, class 3",
    ]


def test_unconditional_draws_of_attributes_have_a_table():
    both = {"agreement": 0.25, "interval": [0.2, 0.3], "entropy": 0.75, "histogram": {"0": 1}}
    values = {
        "unconditional_by_attribute": {"shape": both},
        "unconditional_by_attribute_fitted": {"size": {"entropy": 0.5, "histogram": {"0": 1}}},
    }
    found = histogram_section(page(values)).tables[0].rows
    assert found == [
        ("prior of the model: shape", "0.250", "0.200 to 0.300", "0.750"),
        ("fitted prior: size", "–", "–", "0.500"),
    ]
    assert "no attribute was read" in histogram_section(page({"unconditional_by_attribute": {}})).lead

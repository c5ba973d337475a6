"""The sections on variance explained and diagnosis of a run."""

from __future__ import annotations

import numpy as np
import torch

from polyvae import Modality, build
from polyvae.core.batch import Batch
from polyvae.report.gallery import Scene
from polyvae.report.plots import Pair, pair_figure
from polyvae.report.sections import Page
from polyvae.report.understanding import diagnosis_section, variance_section

VARIANCE = {
    "rows": 500,
    "parts": {"rna": {"all": 0.6, "shared": 0.5, "private": 0.125, "others": 0.25}, "image": {"all": 0.75}},
    "latents": {"rna": {"z0": 0.375, "z1": 0.004, "rna.w0": 0.125}, "image": {"z0": 0.625, "z1": 0.003}},
    "top": {"z0": [["rna", "TP53", 0.875], ["rna", "MYC", 0.5], ["rna", "not listed", 0.004]]},
    "features": {},
}
DIAGNOSIS = {
    "findings": [
        {
            "what": "its decoder ignores <z>",
            "modality": "image",
            "number": 0.001,
            "threshold": 0.02,
            "remedy": "raise its weight",
        },
        {"what": "z is not used", "modality": "", "number": 0.0625, "threshold": 0.1, "remedy": "lower beta"},
    ],
    "measures": {"kl": {"rna": 3.5, "z": 4.25}, "r2": {"image": 0.001}, "cosine rna": {"image": 0.1}},
}


def page(evaluation) -> Page:
    torch.manual_seed(0)
    names = ("rna", "image")
    model = build("mvae", [Modality(name, 2) for name in names], latent=2).eval()
    batch = Batch.of({name: torch.zeros(2, 2) for name in names})
    return Page(Scene(model, batch, None, {}, None, 0), evaluation, [])


def test_the_map_shows_the_dimensions_that_explain_something_and_the_parts():
    section = variance_section(page({"variance": VARIANCE}))
    (figure,), (table,) = section.figures, section.tables
    for text in (
        "z0",
        "rna.w0",
        "z alone",
        "w alone",
        "all latents",
        "given the others",
        "0.375",
        "0.625",
        "0.125",
        "0.600",
        "0.250",
    ):
        assert f">{text}<" in figure.body, text
    assert ">z1<" not in figure.body
    assert "1 dimension below these" in figure.caption
    assert table.rows == [["z0", "rna: TP53 0.88, MYC 0.50"]]
    assert "500 held-out samples" in section.lead


def test_findings_are_a_table_with_their_remedies():
    section = diagnosis_section(page({"diagnosis": DIAGNOSIS}))
    findings, measures = section.tables
    assert section.lead.startswith("2 findings")
    assert findings.rows[0] == [
        "image",
        "0.001",
        "0.020",
        "Its decoder ignores <z>. Remedy: raise its weight.",
    ]
    assert findings.rows[1][0] == "z"
    assert list(measures.header) == ["modality", "KL of its expert (nats)", "R², all given"]
    assert measures.rows == [["rna", "3.500", "–"], ["z", "4.250", "–"], ["image", "–", "0.001"]]


def test_without_findings_the_section_says_so_and_without_numbers_there_is_none():
    section = diagnosis_section(page({"diagnosis": {"findings": [], "measures": {"kl": {"rna": 1.0}}}}))
    assert section.lead.startswith("Nothing was found")
    assert len(section.tables) == 1
    assert variance_section(page({})) is None
    assert diagnosis_section(page({})) is None


def test_ticks_of_large_numbers_have_no_factor_above_the_axes():
    days = np.array([20_230_101.0, 20_231_231.0, 20_240_601.0])
    figure = pair_figure("visit", "clinical", Pair("visit", "", days, days[::-1], 900.0, "R² 0.1"), "Visits.")
    assert "20.235M<" in figure.body
    assert "1e7" not in figure.body

"""The report: one file that stands alone, says every number, and says what it leaves out."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from polyvae.core.fitted import FittedMixture
from polyvae.core.modality import Modality
from polyvae.data import MultimodalData
from polyvae.metrics import evaluate
from polyvae.models import build
from polyvae.report import number, write_report
from polyvae.report.drawing import Figure
from polyvae.report.gallery import stage
from polyvae.report.measures import (
    _panel,
    conflict_section,
    latents_section,
    quality_section,
    reconstruction_section,
)
from polyvae.report.protocol import protocol
from polyvae.report.sections import Page
from polyvae.training.directory import RunDirectory
from tests.helpers.pages import ODD, Elements, run_of, small_evaluation, vectors


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A run on two small images and a one-hot label, with an evaluation, a fitted prior, and its page."""
    draws = torch.Generator().manual_seed(0)
    count, labels = 64, torch.arange(64) % 2
    data = MultimodalData(
        {
            "m<0>": torch.rand(count, 3, 8, 8, generator=draws),
            ODD: torch.rand(count, 1, 8, 8, generator=draws),
            "label": torch.nn.functional.one_hot(labels, 2).float(),
        },
        labels=labels,
        splits={"train": range(32), "test": range(32, 64)},
        card={"name": "pairs & <co>"},
        modalities=[
            Modality("m<0>", (3, 8, 8)),
            Modality(ODD, (1, 8, 8)),
            Modality("label", (2,), likelihood="categorical"),
        ],
    )
    folder = tmp_path_factory.mktemp("runs") / "images"
    torch.manual_seed(0)
    model = run_of(folder, "mmvae+", data)
    prior = FittedMixture.fit(torch.randn(64, 2), 3)
    evaluation = small_evaluation(("m<0>", ODD))
    state, training = torch.get_rng_state(), model.train().training
    page = write_report(
        folder, model, data, evaluation, prior=prior, command="polyvae demo --out '<here>'", seed=3
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training == training
    return page, evaluation, data, model, prior


def test_the_page_asks_for_nothing_from_outside(images):
    """No request leaves the page: every reference is a fragment of it, or data inside it."""
    found = Elements(images[0].read_text("utf-8"))
    assert not {"link", "script", "iframe", "object", "embed", "base"} & {tag for tag, _ in found.tags}
    for _, attributes in found.tags:
        for key in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert re.match(r"#|data:image/png;base64,", attributes.get(key, "#")), attributes
        assert not any(key.startswith("on") for key in attributes)
    assert not re.search(r"@import|url\((?!#)", images[0].read_text("utf-8"))


def test_references_inside_the_page_lead_to_one_place(images):
    """Drawings share a page, so no id may stand twice, and none that is used may be missing."""
    page = images[0].read_text("utf-8")
    found = Elements(page)
    assert len(found.ids) == len(set(found.ids))
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | {
        attributes[key][1:]
        for _, attributes in found.tags
        for key in ("href", "xlink:href")
        if attributes.get(key, "").startswith("#")
    }
    assert used <= set(found.ids)


def test_every_headline_number_stands_on_the_page(images):
    page, evaluation, *_ = images
    words = Elements(page.read_text("utf-8")).words
    for name, value in evaluation.items():
        if isinstance(value, float):
            assert number(value) in words, name
    assert words.count("judges on real images 0.975, weakest 0.970") == 4  # beside every coherence
    assert number(-1234.5) == "−1,234.5"
    assert "1,000 draws" in words  # 432 agreed draws are a share of .4321


def test_the_bars_of_the_histogram_add_up_to_the_coherence(images):
    alt = [
        attributes["aria-label"]
        for _, attributes in Elements(images[0].read_text("utf-8")).tags
        if "aria-label" in attributes
    ]
    own = (
        next(text for text in alt if text.startswith("Bars of the share of draws"))
        .split("prior of the model: ")[1]
        .split(". fitted")[0]
    )
    assert sum(float(share) for share in re.findall(r"\d\.\d+", own)) == pytest.approx(0.4321, abs=2e-3)


def test_names_cannot_become_markup(images):
    page = images[0].read_text("utf-8")
    found = Elements(page)
    assert ("b", {}) not in found.tags
    assert "<here>" in found.words
    assert "mmvae+ on pairs & <co>" in found.words
    assert "m<0>" in found.words


def test_every_figure_says_what_it_shows_and_is_kept(images):
    page = images[0]
    labels = [
        attributes["aria-label"] for tag, attributes in Elements(page.read_text("utf-8")).tags if tag == "svg"
    ]
    names = {file.stem for file in (page.parent / "figures").iterdir() if not file.name.startswith(".")}
    assert names == {
        "cross_generation",
        "unconditional",
        "unconditional_fitted",
        "coherence_matrix",
        "coherence_by_observed",
        "classes",
        "learning_bound",
        "learning_terms",
        "walk_z",
        "walk_w",
    }
    assert len(labels) == len(names)
    assert all(len(label) > 20 for label in labels)
    for name in names:
        assert ElementTree.parse(page.parent / "figures" / f"{name}.svg").getroot().tag.endswith("svg")
        assert (page.parent / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


@pytest.fixture
def without_png(monkeypatch, images):
    """PNG files are empty. They take half the time of a report, and those of ``images``, made before, are tested above."""
    monkeypatch.setattr(Figure, "png", lambda figure: b"")


@pytest.mark.usefixtures("without_png")
def test_the_same_seed_draws_the_same_pictures(images):
    page, evaluation, data, model, prior = images
    files = [
        page.parent / "figures" / f"{name}.svg"
        for name in ("cross_generation", "unconditional_fitted", "walk_z")
    ]
    before = [file.read_bytes() for file in files]
    torch.rand(7)
    write_report(
        RunDirectory(page.parent),
        model,
        data.test,
        evaluation,
        prior=prior,
        command="polyvae demo --out '<here>'",
        seed=3,
    )
    assert before == [file.read_bytes() for file in files]


@pytest.mark.parametrize(
    ("name", "absent", "present", "sentence"),
    [
        (
            "vae",
            {"cross_generation", "walk_z", "unconditional_fitted"},
            {"walk_w", "unconditional"},
            "vae has no shared latent (D = 0)",
        ),
        (
            "mvae",
            {"walk_w"},
            {"cross_generation", "walk_z", "unconditional"},
            "mvae has no private latents here (W = 0)",
        ),
    ],
)
@pytest.mark.usefixtures("without_png")
def test_what_a_model_lacks_is_said_not_drawn(tmp_path, name, absent, present, sentence):
    data = vectors()
    page = write_report(tmp_path / "run", run_of(tmp_path / "run", name, data), data)
    drawn = {file.stem for file in (tmp_path / "run" / "figures").iterdir()}
    assert present <= drawn
    assert not absent & drawn
    assert sentence in Elements(page.read_text("utf-8")).words


def test_a_prior_of_all_latents_lets_independent_vaes_generate_across_modalities(tmp_path):
    """Its draws and its numbers are shown; of the model's own there are no conditional draws."""
    data = vectors()
    model = run_of(tmp_path / "run", "vae", data)
    prior = FittedMixture.fit(torch.randn(64, sum(model.blocks)), 2, blocks=model.blocks)
    matrix = {"a": {"b": 0.8125}, "b": {"a": 0.75}}
    evaluation = small_evaluation(("a", "b")) | {
        "fitted_prior": prior.summary,
        "conditional_coherence_fitted": 0.78125,
        "coherence_matrix_fitted": matrix,
        "coherence_by_observed_fitted": {"1": 0.78125, "2": 0.9},
        "coherence_by_observed": {"1": 0.1, "2": 0.1},
    }
    page = write_report(tmp_path / "run", model, data, evaluation, prior=prior)
    drawn = {file.stem for file in (tmp_path / "run" / "figures").iterdir()}
    assert {"cross_generation_fitted", "unconditional_fitted"} <= drawn
    assert "coherence_matrix_fitted" not in drawn  # of two modalities, a table
    assert "cross_generation" not in drawn
    found = Elements(page.read_text("utf-8"))
    assert "all latents from the fitted prior" in found.words
    assert "vae has no shared latent (D = 0): all information passes through the fitted prior" in found.words
    assert "Gaussian mixture, 2 components, full, over all latents" in found.words
    labels = " ".join(attributes.get("aria-label") or "" for _, attributes in found.tags)
    assert "a → b 0.812" in found.words
    assert "b → a 0.750" in found.words
    assert "with the fitted prior 1: 0.781, 2: 0.900" in labels
    assert number(0.78125) in found.words


@pytest.mark.usefixtures("without_png")
def test_two_vectors_without_labels_or_evaluation_make_a_page(tmp_path):
    data = vectors((ODD, "b"))
    model = run_of(tmp_path / "run", "mmvae+", data)
    page = write_report(tmp_path / "run", model, data).read_text("utf-8")
    words = Elements(page).words
    assert "This run has not been evaluated" in words
    assert (
        page.index('id="omitted"') < page.index("the evaluation has no likelihood") < page.index('id="made"')
    )
    assert 'id="coherence"' not in page
    shares = {"b": {"size": {"share": 0.5, "interval": [0.25, 0.75]}}}
    numbers = {"attribute_accuracy": 0.5, "attribute_accuracy_fitted": 0.75, "attribute_chance": 0.25}
    found = {"attributes": {"a": {"b": {"said": shares["b"]}}}, **numbers}
    evaluated = Elements(write_report(tmp_path / "run", model, data, found).read_text("utf-8")).words
    assert "not been evaluated" not in evaluated
    assert (
        "stated attributes right in images, fitted prior 0.750 The same, with the latents of what is missing drawn"
        in evaluated
    )
    assert "sample 1" in words
    assert "sample 1, class" not in words
    assert "Left out: the evaluation has no likelihood" in words


def test_the_page_says_whose_private_codes_were_shared(images):
    """As the evaluation drew them: each modality its own, or under the protocol of 2023 one draw for all, where sizes allow it."""
    _, evaluation, data, model, _ = images
    uneven = build(
        "mmvae+", [replace(spec, private=1 + place) for place, spec in enumerate(data.modalities())], latent=2
    )
    for judged, name, shared in (
        (model, "sound", False),
        (model, "published", True),
        (uneven, "published", False),
    ):
        said = dict(
            protocol(
                judged, data.test, evaluation | {"protocol": {"name": name}}, mixed=True, config="", seed=0
            )
        )
        assert ("w from p(w), one draw for all modalities" in said["Unconditional generation"]) == shared
        assert ("w from p(w), one draw for each modality" in said["Unconditional generation"]) != shared
        assert ("one draw for all of them" in said["Conditional generation"]) == shared
        assert "to one posterior draw per training sample (" in said["Unconditional generation"]
    changes = {"fitted_prior": "score network, 9 steps, over all latents", "unconditional_by_attribute": {}}
    said = dict(protocol(judged, data.test, evaluation | changes, mixed=True, config="", seed=0))
    text = said["Unconditional generation"]
    assert "to ten posterior draws per complete training sample (score network" in text
    assert "the share of attributes in which all modalities that state them agree" in text


@pytest.mark.usefixtures("without_png")
def test_what_was_never_observed_is_no_source_and_the_real_evaluation_fits(tmp_path):
    """One of two modalities hidden in the data that is shown; numbers straight from evaluate."""
    whole = vectors(labels=torch.arange(64) % 3)
    model = run_of(tmp_path / "run", "mmvae", whole)
    shown = whole.test.observe("a")
    evaluation = evaluate(
        model,
        whole.test,
        likelihood_samples=20,
        likelihood_rows=8,
        draws=50,
        fitted_prior={"components": 2},
        show=False,
    )
    found = Elements(write_report(tmp_path / "run", model, shown, evaluation).read_text("utf-8"))
    words = found.words
    assert any(
        "Rows: 1 observed modalities" in attributes.get("aria-label", "") for _, attributes in found.tags
    )
    assert number(evaluation["log_likelihood"]) in words
    assert "z from the fitted prior" in words  # evaluation hands its prior along
    assert "Left out: the evaluation has no coherence" in words


def full_evaluation(a, b):
    """What the metrics about images, codes and gradients add, for modalities a and b."""

    def image(base):
        return {
            "frechet_distance": base,
            "kernel_distance": base / 100,
            "kernel_distance_std": base / 1000,
            "precision": 0.61,
            "recall": 0.52,
            "density": 1.13,
            "coverage": 0.74,
            "images": 320,
            "real_images": 311,
        }

    def probe(score):
        return {"score": score, "chance": 0.131, "kind": "accuracy", "rows": 29, "converged": True}

    def unit(*kl):
        return {
            "active": len(kl) - 1,
            "columns": len(kl),
            "kl_total": sum(kl),
            "kl": list(kl),
            "variance": [0.5] * (len(kl) - 1) + [0.001],
            "how": "exact",
        }

    def errors(mse):
        return {"mse": mse, "mae": 0.2, "baseline_mse": 0.08, "baseline_mae": 0.3, "entries": 64}

    line = {
        "mean": -77.25,
        "standard_error": 1.5,
        "sampling_error": 0.5,
        "effective_samples": 3.5,
        "rows": 31,
    }
    return {
        "quality": {
            "unconditional": {a: image(12.34), b: image(7.891)},
            "real": {a: image(1.234), b: image(0.987)},
            "conditional": {a: {b: image(8.765)}, b: {a: image(9.876)}},
        },
        "quality_settings": {"features": {a: "judge:a", b: "judge:b"}, "kept": 5000},
        "unconditional_frechet_distance": 10.1155,
        "unconditional_recall": 0.5216,
        "conditional_frechet_distance": 9.3205,
        "real_frechet_distance": 1.1105,
        "reconstruction": {a: {a: errors(0.01), b: errors(0.05)}, b: {a: errors(0.06), b: errors(0.02)}},
        "reconstruction_error": 0.0151,
        "cross_reconstruction_error": 0.0552,
        "diversity": 0.1234,
        "diversity_real": 0.2345,
        "diversity_matrix": {a: {b: 0.111}, b: {a: 0.135}},
        "diversity_by_modality": {a: 0.222, b: 0.247},
        "probes": {
            "z": {
                a: {"label": probe(0.911), f"{a}/slant": probe(0.222)},
                f"{a},{b}": {"label": probe(0.955)},
            },
            "w": {a: {"label": probe(0.333), f"{a}/slant": probe(0.444)}},
        },
        "probed": "posterior samples",
        "probe_rows": 1234,
        "probe_z_shared": 0.9112,
        "probe_w_shared": 0.3332,
        "active_units_z": 2.0,
        "kl_z": 3.7512,
        "kl_w": 1.2512,
        "units": {"z": {a: unit(1.0, 0.5, 0.1), f"{a},{b}": unit(2.5, 1.25, 0.0)}, "w": {a: unit(1.0, 0.25)}},
        "gradient_conflict": 0.2718,
        "gradient_cosine": 0.1618,
        "gradients": {
            "norm": {a: 2.0, b: 6.0},
            "share": {a: 0.257, b: 0.743},
            "cosine": {a: {b: -0.162}, b: {a: -0.162}},
            "negative": {a: {b: 0.272}, b: {a: 0.272}},
        },
        "log_likelihood_by_condition": {f"{a}|{b}": line},
        "log_likelihood_conditional": -77.25,
    }


NEW = {
    "quality": "Image quality",
    "reconstruction": "Reconstruction and diversity",
    "latents": "Latent representations",
    "conflict": "Gradient conflict",
}


@pytest.mark.usefixtures("without_png")
def test_sections_appear_with_their_numbers_and_say_them(images, tmp_path):
    page, small, data, model, prior = images
    assert not set(NEW) & set(Elements(page.read_text("utf-8")).ids)
    run = RunDirectory.create(tmp_path / "run")
    run.append_history(
        {
            "step": 1,
            "epoch": 1,
            "seconds": 2.0,
            "train": {"bound": -3.0},
            "watched": {"conditional_coherence": 0.4567},
        }
    )
    evaluation = small | full_evaluation("m<0>", ODD) | {"judge_kind": {"m<0>": "released", ODD: "trained"}}
    found = Elements(write_report(run, model, data, evaluation, prior=prior).read_text("utf-8"))
    words = found.words + " ".join(attributes.get("aria-label", "") for _, attributes in found.tags)
    assert set(NEW) < set(found.ids)
    assert all(title in words for title in NEW.values())
    for name, value in evaluation.items():
        if isinstance(value, float):
            assert number(value) in words, name
    for said in (
        "judge:a",
        "prior of the model judge:a 12.3 0.123 ± 0.012 0.610 0.520 1.130 0.740 320 and 311",
        f"m<0> to {ODD} 8.765",
        f"m<0> to {ODD} 0.625",
        "m<0> slant 0.222 0.444 0.131 w 29",
        "m<0> label 0.911 0.333 0.131 z 29",
        "all label 0.955 – 0.131 z 29",
        "fitted on 1,234 training samples",
        "z: 2 of 3 used, KL 3.750",
        "w of m<0>: 1 of 2 used, KL 1.250",
        f"{ODD}: 0.743",
        f"m<0>, given {ODD} −77.25",
        "so there is no FID",
        "released 0.970",
        "conditional coherence 0.457",
    ):
        assert said in words, said
    assert words.count("judges (1 released, 1 trained) on real images 0.975, weakest 0.970") == 4


@pytest.mark.parametrize("key", ["quality", "reconstruction", "probes", "units", "gradients"])
def test_any_of_the_new_numbers_may_be_absent(images, key):
    _, small, data, model, _ = images
    evaluation = small | full_evaluation("m<0>", ODD)
    del evaluation[key]
    page = Page(stage(model.eval(), data.test, None, 0), evaluation, [])
    made = [
        make(page) for make in (quality_section, reconstruction_section, latents_section, conflict_section)
    ]
    gone = {"quality": "quality", "reconstruction": "reconstruction", "gradients": "conflict"}.get(key)
    assert [section.anchor for section in made if section] == [name for name in NEW if name != gone]


def test_the_bars_of_a_divergence_are_in_its_order():
    """Largest first, each with its own mark for use."""
    unit = {
        "active": 2,
        "columns": 4,
        "kl_total": 3.1,
        "kl": [0.1, 2.0, 0.4, 0.6],
        "variance": [0.5, 0.001, 0.2, 0.0],
    }
    panel = _panel("z", unit)
    assert list(panel.values) == [2.0, 0.6, 0.4, 0.1]
    assert list(panel.used) == [False, False, True, True]

"""The report: one file that stands alone, says every number, and says what it leaves out."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch

from polyvae.data import MultimodalData
from polyvae.evaluate import evaluate
from polyvae.modality import Modality
from polyvae.models import build
from polyvae.priors import FittedPrior
from polyvae.report import number, write_report
from polyvae.storage import RunDirectory
from polyvae.train import fit

ODD = "<b>rna & 'co'</b>"


class Elements(HTMLParser):
    """Every tag with its attributes, every id, and the text between tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)
        self.ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def vectors(names=("a", "b"), count=64, labels=None):
    draws = torch.Generator().manual_seed(1)
    return MultimodalData({name: torch.rand(count, 5, generator=draws) for name in names}, labels=labels,
                          splits={"train": range(count // 2), "test": range(count // 2, count)}, card={"name": "vectors"})


def run_of(folder, name, data, modalities=None, **options):
    model = build(name, modalities or data.modalities(), latent=2, **options)
    fit(model, data.train, epochs=2, batch_size=16, out=folder, show=False, validation=0.2)
    return model


def small_evaluation(names):
    """What evaluate answers, in the smallest form that has everything."""
    line = {"mean": -1234.5, "standard_error": 2.25, "sampling_error": 0.125, "effective_samples": 7.5, "rows": 32}
    return {
        "model": "mmvae+", "rows": 32, "seed": 4, "fitted_prior": "3 components, full", "judges": "2 epochs on 32 training tuples",
        "conditional_coherence": 0.8125, "unconditional_coherence": 0.4321, "unconditional_coherence_fitted": 0.9876,
        "judge_agreement": 0.9531, "unconditional_entropy": 0.7654, "unconditional_entropy_fitted": 0.9988,
        "log_likelihood": -1234.5, "something_new": 0.2468,
        "judge_accuracy": {name: 0.97 + 0.01 * place for place, name in enumerate(names)},
        "coherence_matrix": {a: {b: 0.81 for b in names if b != a} for a in names}, "coherence_by_observed": {"1": 0.81, "2": 0.83},
        "unconditional_histogram": {"0": 300, "1": 132}, "unconditional_histogram_fitted": {"0": 500, "1": 487},
        "log_likelihood_joint": line, "log_likelihood_by_modality": dict.fromkeys(names, line), "log_likelihood_samples": 100}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A run on two small images and a one-hot label, with an evaluation, a fitted prior, and its page."""
    draws = torch.Generator().manual_seed(0)
    count, labels = 64, torch.arange(64) % 2
    data = MultimodalData(
        {"m<0>": torch.rand(count, 3, 8, 8, generator=draws), ODD: torch.rand(count, 1, 8, 8, generator=draws),
         "label": torch.nn.functional.one_hot(labels, 2).float()},
        labels=labels, splits={"train": range(32), "test": range(32, 64)}, card={"name": "pairs & <co>"},
        modalities=[Modality("m<0>", (3, 8, 8)), Modality(ODD, (1, 8, 8)), Modality("label", (2,), likelihood="categorical")])
    folder = tmp_path_factory.mktemp("runs") / "images"
    torch.manual_seed(0)
    model = run_of(folder, "mmvae+", data)
    prior = FittedPrior.fit(torch.randn(64, 2), 3)
    evaluation = small_evaluation(("m<0>", ODD))
    state, training = torch.get_rng_state(), model.train().training
    page = write_report(folder, model, data, evaluation, prior=prior, command="polyvae demo --out '<here>'", seed=3)
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
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | {attributes[key][1:] for _, attributes in found.tags
                                                        for key in ("href", "xlink:href") if attributes.get(key, "").startswith("#")}
    assert used <= set(found.ids)


def test_every_headline_number_stands_on_the_page(images):
    page, evaluation, *_ = images
    words = Elements(page.read_text("utf-8")).words
    for name, value in evaluation.items():
        if isinstance(value, float):
            assert number(value) in words, name
    assert words.count("judges on real images 0.975, weakest 0.970") == 4          # beside every coherence
    assert number(-1234.5) == "−1,234.5"
    assert "1,000 draws" in words                                                     # 432 agreed draws are a share of .4321


def test_the_bars_of_the_histogram_add_up_to_the_coherence(images):
    alt = [attributes["aria-label"] for _, attributes in Elements(images[0].read_text("utf-8")).tags if "aria-label" in attributes]
    own = next(text for text in alt if text.startswith("Bars of the share of draws")).split("own prior: ")[1].split(". fitted")[0]
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
    labels = [attributes["aria-label"] for tag, attributes in Elements(page.read_text("utf-8")).tags if tag == "svg"]
    names = {file.stem for file in (page.parent / "figures").iterdir()}
    assert names == {"cross_generation", "unconditional", "unconditional_fitted", "coherence_matrix", "coherence_by_observed", "classes",
                     "learning_bound", "learning_terms", "walk_z", "walk_w"}
    assert len(labels) == len(names)
    assert all(len(label) > 20 for label in labels)
    for name in names:
        assert ElementTree.parse(page.parent / "figures" / f"{name}.svg").getroot().tag.endswith("svg")
        assert (page.parent / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_the_same_seed_draws_the_same_pictures(images):
    page, evaluation, data, model, prior = images
    files = [page.parent / "figures" / f"{name}.svg" for name in ("cross_generation", "unconditional_fitted", "walk_z")]
    before = [file.read_bytes() for file in files]
    torch.rand(7)
    write_report(RunDirectory(page.parent), model, data.test, evaluation, prior=prior, command="polyvae demo --out '<here>'", seed=3)
    assert before == [file.read_bytes() for file in files]


@pytest.mark.parametrize(("name", "absent", "present", "sentence"), [
    ("vae", {"cross_generation", "walk_z", "unconditional_fitted"}, {"walk_w", "unconditional"}, "vae has no shared code (D = 0)"),
    ("mvae", {"walk_w"}, {"cross_generation", "walk_z", "unconditional"}, "mvae has no private codes here (W = 0)"),
])
def test_what_a_model_lacks_is_said_not_drawn(tmp_path, name, absent, present, sentence):
    data = vectors()
    page = write_report(tmp_path / "run", run_of(tmp_path / "run", name, data), data)
    drawn = {file.stem for file in (tmp_path / "run" / "figures").iterdir()}
    assert present <= drawn
    assert not absent & drawn
    assert sentence in Elements(page.read_text("utf-8")).words


def test_two_vectors_without_labels_or_evaluation_make_a_page(tmp_path):
    data = vectors((ODD, "b"))
    words = Elements(write_report(tmp_path / "run", run_of(tmp_path / "run", "mmvae+", data), data).read_text("utf-8")).words
    assert "This run has not been evaluated" in words
    assert "sample 1" in words
    assert "sample 1, class" not in words
    assert "Left out: the evaluation has no likelihood" in words


def test_what_was_never_observed_is_no_source_and_the_real_evaluation_fits(tmp_path):
    """One of two modalities hidden in the data that is shown; numbers straight from evaluate."""
    whole = vectors(labels=torch.arange(64) % 3)
    model = run_of(tmp_path / "run", "mmvae", whole)
    shown = whole.test.observe("a")
    evaluation = evaluate(model, whole.test, likelihood_samples=20, likelihood_rows=8, draws=50, components=2, show=False)
    found = Elements(write_report(tmp_path / "run", model, shown, evaluation).read_text("utf-8"))
    words = found.words
    assert any("Rows: 1 observed modalities" in attributes.get("aria-label", "") for _, attributes in found.tags)
    assert number(evaluation["log_likelihood"]) in words
    assert "z from the fitted prior" in words                                          # evaluation hands its prior along
    assert "Left out: the evaluation has no coherence" in words

"""Sections about attributes state what is counted: not classes, and nothing that one modality alone cannot show."""

from __future__ import annotations

import dataclasses

import torch

from polyvae import Modality, build
from polyvae.core.batch import Batch
from polyvae.report.attributes import attributes_section
from polyvae.report.gallery import Scene
from polyvae.report.learning import learning_section
from polyvae.report.metrics import KNOWN, by_size, metric, span, worth
from polyvae.report.sections import Page, Section, coherence_section, histogram_section, likelihood_section


def page(evaluation, *more, **fields) -> Page:
    torch.manual_seed(0)
    names = ("image", "caption", *more)
    model = build("mvae", [Modality(name, 2) for name in names], latent=2).eval()
    batch = Batch.of({name: torch.zeros(2, 2) for name in names})
    return Page(Scene(model, batch, None, {}, None, 0), evaluation, fields.pop("history", []), **fields)


def words(section: Section) -> str:
    cells = [cell for table in section.tables for row in table.rows for cell in row]
    return " ".join([section.lead, *(figure.caption for figure in section.figures), *cells])


def test_coherence_of_attributes_is_no_coherence_of_classes():
    """Captions are parsed, so there need be no judge."""
    values = {"coherence_matrix": {"image": {"caption": 0.5}}, "unconditional_by_attribute": {}}
    text = words(coherence_section(page(values, "mask")))
    assert "the share of the attributes stated by the observed one that are right" in text
    assert "class of" not in text
    assert "class of the sample" in words(
        coherence_section(page({"coherence_matrix": values["coherence_matrix"]}, "mask"))
    )


def test_a_map_of_two_modalities_would_repeat_the_table():
    matrix = {"image": {"caption": 0.5}, "caption": {"image": 0.25}}
    values = {"coherence_matrix": matrix, "coherence_matrix_fitted": {"image": {"caption": 0.75}}}
    two, three = (coherence_section(page(values, *more)) for more in ((), ("mask",)))
    assert [figure.name for figure in two.figures] == []
    assert [[row[:2] for row in table.rows] for table in two.tables] == [
        [("image → caption", "0.500"), ("caption → image", "0.250")],
        [("image → caption", "0.750")],
    ]
    assert [figure.name for figure in three.figures] == ["coherence_matrix", "coherence_matrix_fitted"]


def test_cards_of_attributes_do_not_speak_of_a_class_of_the_sample():
    values = {"unconditional_by_attribute": {}}
    for name in ("conditional_coherence", "unconditional_coherence", "unconditional_coherence_fitted"):
        assert "share of" in metric(name, values).meaning
        assert "same class" in metric(name, {}).meaning or "Conditional coherence" in metric(name, {}).meaning
        assert "class" not in metric(name, values).meaning.replace("classifier", "")
    assert not [name for name, about in KNOWN.items() if about.title.startswith("…")]


def test_accuracy_of_attributes_has_chance_beside_it():
    assert worth("attribute_accuracy", {"attribute_chance": 0.25}) == ["always the most frequent class 0.250"]
    assert worth("attribute_accuracy_fitted", {"attribute_chance": 0.25}) == worth(
        "attribute_accuracy", {"attribute_chance": 0.25}
    )
    assert worth("attribute_accuracy", {}) == []
    both = {"attribute_chance": 0.25, "sentence_chance": 0.375, "judge_accuracy": {"image": 1.0}}
    assert worth("conditional_coherence", both)[1:] == ["always the most frequent class 0.250 and 0.375"]
    assert worth("conditional_coherence", both | {"sentence_chance": 0.25})[1:] == [
        "always the most frequent class 0.250"
    ]


def test_ends_of_intervals_have_three_decimals():
    assert span([2.7e-20, 0.00038]) == "0.000 to 0.000"
    assert span([0.81, 12.34]) == "0.810 to 12.3"
    assert span([-0.0004, -0.0006]) == "0.000 to −0.001"


def test_a_likelihood_of_few_effective_samples_is_flagged():
    line = {"mean": -1.0, "standard_error": 0.1, "sampling_error": 0.1, "effective_samples": 9.9, "rows": 5}
    fine = line | {"effective_samples": 10.0}
    values = {"log_likelihood_joint": line, "log_likelihood_samples": 100}
    section = likelihood_section(page(values | {"log_likelihood_by_modality": {"image": fine}}))
    assert [row[4] for row in section.tables[0].rows] == ["9.9 of 100 (not reliable)", "10.0 of 100"]
    assert "fewer than 10 effective samples" in section.lead
    assert any("not reliable" in part for part in worth("log_likelihood", values))
    values["log_likelihood_joint"] = fine
    assert "not reliable" not in likelihood_section(page(values)).lead
    assert not any("not reliable" in part for part in worth("log_likelihood", values))


def test_steps_are_those_of_the_model():
    record = {"step": 400, "seconds": 55.0, "train": {"bound": -1.0}}
    leads = [learning_section(page({}, history=[record], step=step)).lead for step in (None, 400, 429)]
    assert leads[0] == leads[1] == "1 epochs, 400 steps, 55 seconds of training."
    assert "was trained for 429 steps" in leads[2]
    assert "trained for 7 steps" in learning_section(page({}, step=7)).lead


def test_a_missing_label_is_no_class():
    scene = page({}).scene
    assert scene.title(1) == "sample 2"
    assert [dataclasses.replace(scene, labels=[-1, 3]).title(row) for row in (0, 1)] == [
        "sample 1",
        "sample 2, class 3",
    ]
    named = dataclasses.replace(scene, labels=[-1, 3], classes=["disc", "box", "plus", "triangle"])
    assert [named.title(row) for row in (0, 1)] == ["sample 1", "sample 2: triangle"]


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


def test_numbers_with_a_fitted_prior_and_by_size_have_titles_of_their_own():
    assert metric("joint_coherence_fitted").title == "joint coherence, fitted prior"
    assert metric("joint_coherence_fitted").meaning.startswith(metric("joint_coherence").meaning)
    assert metric("coherence_3_inputs_fitted").title == "coherence given 3, fitted prior"
    assert metric("coherence_3_inputs").better == "higher"
    assert by_size("coherence_3_inputs")
    assert not by_size("joint_coherence")


def attributes(share: float) -> dict:
    """The numbers of one input and one target, with one attribute."""
    ends = [share - 0.125, share + 0.125]
    one = {"size": {"share": share, "interval": ends}}
    return {
        "caption": {"image": {"said": one, "chance": one, "all": one, "exact": one["size"], "stated": one}}
    }


def unsaid(share: float) -> dict:
    ends = [share, share]
    one = {"entropy": share, "entropy_interval": ends, "diversity": share, "diversity_interval": ends}
    return {"caption": {"image": {"size": {**one, "samples": 9}}}}


def test_the_fitted_prior_and_guessing_are_beside_the_model_alone():
    values = {
        "attribute_accuracy": 0.75,
        "attribute_accuracy_fitted": 0.875,
        "attribute_chance": 0.5,
        "unsaid_entropy": 0.125,
        "unsaid_entropy_fitted": 0.5,
        "intervals": {"attribute_accuracy": [0.5, 1.0]},
        "attributes": attributes(0.5),
        "unsaid": unsaid(0.25),
        "judge_accuracy_by_attribute": {"image": {"size": 0.96875}},
    }
    alone = attributes_section(page(values)).tables
    assert alone[0].header == ("number", "value", "guessing")
    assert [row[1:] for row in alone[0].rows] == [("0.750 (0.500 to 1.000)", "0.500"), ("0.125", "0.000")]
    assert alone[1].header[1:] == (
        "stated and right",
        "right, stated or not",
        "guessing",
        "judge on real images",
    )
    assert alone[1].rows == [("size", *2 * ["0.500 (0.375 to 0.625)"], "0.500", "0.969")]
    assert alone[2].header == ("not stated", "entropy", "diversity", "samples")
    both = attributes_section(
        page(values | {"attributes_fitted": attributes(0.75), "unsaid_fitted": unsaid(1.0)})
    ).tables
    assert [row[1:] for row in both[0].rows] == [
        ("0.750 (0.500 to 1.000)", "0.875", "0.500"),
        ("0.125", "0.500", "0.000"),
    ]
    assert both[1].rows[0][1:3] == ("0.500 (0.375 to 0.625)", "0.750 (0.625 to 0.875)")
    assert "Everything right, with the fitted prior: 0.750" in both[1].caption
    assert both[2].rows == [
        ("caption → image: size", "0.250 (0.250 to 0.250)", "1.000 (1.000 to 1.000)", "9")
    ]
    assert attributes_section(page({"attributes": {}})) is None

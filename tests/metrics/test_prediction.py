"""Labels told, against a computation by hand and in a case that is known."""

from __future__ import annotations

import pytest
import torch

from polyvae import Modality, MultimodalData, build
from polyvae.metrics import generation
from polyvae.metrics.context import Context
from polyvae.metrics.prediction import prediction


def made(likelihood="categorical", role="target"):
    x = torch.randn(40, 3)
    label = torch.nn.functional.one_hot(torch.randint(3, (40,)), 3).float()
    mask = torch.ones(3, 40, dtype=torch.bool)
    mask[2, :10] = False
    mask[0, 30:] = False
    specs = [Modality("a", (3,)), Modality("b", (3,)), Modality("label", (3,), likelihood, role=role)]
    data = MultimodalData({"a": x, "b": x + 1, "label": label}, mask=mask, modalities=specs)
    return build("mmvae+", data.modalities(private=2), latent=2).eval(), data


def constant(model, chosen):
    """The label's decoder says the same of every code."""
    last = model.modalities["label"].decoder[-2]
    last.weight.data.zero_()
    last.bias.data.copy_(torch.eye(3)[chosen])


@pytest.mark.parametrize("chosen", [0, 2])
def test_a_model_that_always_says_one_class_is_right_as_often_as_it_occurs(chosen):
    """Among the samples of which the label, and what it is told from, was observed."""
    model, data = made()
    constant(model, chosen)
    found = prediction(Context.of(model, data))
    label, mask = data.values("label").argmax(-1), data.mask
    for key, given in {"all": mask[0] & mask[1], "a": mask[0], "b": mask[1]}.items():
        rows = given & mask[2]
        assert found["prediction"]["label"][key] == pytest.approx(
            float((label[rows] == chosen).double().mean())
        )
    by = found["prediction"]["label"]
    assert found["label_accuracy"] == by["all"]
    assert found["label_accuracy_single"] == pytest.approx((by["a"] + by["b"]) / 2)


@pytest.mark.parametrize(("likelihood", "role"), [("normal", "target"), ("categorical", "both")])
def test_what_is_no_label_is_not_told(likelihood, role):
    assert prediction(Context.of(made(likelihood, role)[0], made(likelihood, role)[1])) == {}


def test_an_entry_that_was_not_observed_counts_neither_way():
    """A label of two entries; where one is unknown the other decides, and where both are, nothing is counted."""
    torch.manual_seed(0)
    label = torch.nn.functional.one_hot(torch.tensor([1, 2]).repeat(12, 1), 3).float()
    gaps = torch.ones_like(label, dtype=torch.bool)
    gaps[:4, 0] = False  # class 0 would be read there
    gaps[4:6] = False
    label = torch.where(gaps, label, 0)
    specs = [Modality("a", (3,)), Modality("label", (2, 3), "categorical", role="target")]
    data = MultimodalData(
        {"a": torch.randn(12, 3), "label": label}, entries={"label": gaps}, modalities=specs
    )
    model = build("mmvae+", data.modalities(private=2), latent=2).eval()
    last = model.modalities["label"].decoder[-2]
    last.weight.data.zero_()
    last.bias.data.copy_(torch.nn.functional.one_hot(torch.tensor([1, 2]), 3).flatten().float())
    assert prediction(Context.of(model, data))["prediction"] == {"label": {"all": 1.0, "a": 1.0}}
    last.bias.data.copy_(torch.nn.functional.one_hot(torch.tensor([0, 2]), 3).flatten().float())
    assert prediction(Context.of(model, data))["prediction"]["label"]["all"] == 4 / 10


def test_the_class_is_that_of_the_average_over_draws(monkeypatch):
    """The first draw is for class 0, the average for class 1."""
    model, data = made()
    shares = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.1, 0.9, 0.0]])
    batch = data.rows(slice(10, 40)).take(slice(None))
    monkeypatch.setattr(
        generation,
        "conditional",
        lambda *a, **k: iter(
            [generation.Given(batch, {"label": shares[:, None].expand(-1, 30, -1)}, torch.arange(30))]
        ),
    )
    truth = batch.data["label"].argmax(-1)
    assert prediction(Context.of(model, data))["label_accuracy"] == float((truth == 1).double().mean())

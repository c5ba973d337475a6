"""Made cases in which exactly one thing is wrong, and a healthy one without findings."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import polyvae as pv
from polyvae import MultimodalData
from polyvae.core.vae import MultimodalVAE
from polyvae.metrics import Evaluation
from polyvae.metrics.context import Context
from polyvae.metrics.diagnosis import Diagnosis, Finding, diagnose, diagnosis
from tests.helpers.worlds import World, raw

SIZE = 200


def healthy(**options) -> tuple[World, dict[str, torch.Tensor]]:
    """Three modalities of two factors, whose experts are exact, with little noise."""
    world = World(latent=2, experts="factor", **options)
    world.s = [0.5 * s for s in world.s]
    return world, world.data(SIZE)


def model_of(world: World, name: str = "mvae", **options) -> MultimodalVAE:
    return world.model(name, **options).eval()


def only(found: Diagnosis, modality: str, words: str) -> Finding:
    assert len(found.findings) == 1, found
    assert found.findings[0].modality == modality
    assert words in found.findings[0].what
    return found.findings[0]


def test_a_healthy_model_has_no_findings():
    world, x = healthy()
    found = diagnose(model_of(world), MultimodalData(x), train=MultimodalData(world.data(SIZE, seed=2)))
    assert found.findings == ()
    assert repr(found) == "no findings"
    for what in ("kl", "influence", "r2", "r2 others", "r2 ridge", "nats", "share", "r2 train"):
        assert {"a", "b", "c"} <= found.measures[what].keys(), what
    assert all(found.measures["r2 others"][name] > 0.3 for name in "abc")
    assert sum(found.measures["share"].values()) == pytest.approx(1)


def test_a_modality_of_pure_noise():
    world, _ = healthy()
    world.A[2] = 1e-2 * world.A[2] / np.linalg.norm(world.A[2], axis=0)  # exact experts divide by it
    found = diagnose(model_of(world), MultimodalData(world.data(SIZE)))
    finding = only(found, "c", "nothing in common with the others")
    assert finding.number < 0.05
    assert "private=" in finding.remedy


def test_a_decoder_that_is_cut_off():
    world, x = healthy()
    model = model_of(world)
    with torch.no_grad():
        model.modalities["b"].decoder.weight.zero_()
    finding = only(diagnose(model, MultimodalData(x)), "b", "its decoder ignores the latents")
    assert finding.number < 0.02
    assert "gradient" in finding.remedy


def test_a_collapsed_latent():
    """Every expert is so wide that the product with the prior is the prior."""
    world, x = healthy()
    model = model_of(world)
    collapse(model, "abc")
    finding = only(diagnose(model, MultimodalData(x)), "", "z is not used")
    assert finding.number == pytest.approx(0, abs=1e-2)


def collapse(model: MultimodalVAE, names: str) -> None:
    with torch.no_grad():
        for name in names:
            encoder = model.modalities[name].encoder
            encoder.weight.zero_()
            encoder.bias[:2] = 0
            encoder.bias[2:4] = float(raw(np.array(100.0)))


@pytest.mark.slow
def test_an_encoder_that_says_nothing():
    world, x = healthy()
    model = model_of(world)
    collapse(model, "b")
    finding = only(diagnose(model, MultimodalData(x)), "b", "its encoder carries no information on z")
    assert finding.number < 0.1


@pytest.mark.slow
def test_an_encoder_that_the_joint_posterior_ignores():
    """The experts of a and c are made so certain that b does not count; alone, it is as good as before."""
    world, x = healthy()
    model = model_of(world)
    with torch.no_grad():
        for name in "ac":
            model.modalities[name].encoder.bias[2:4] = float(raw(np.array(0.01)))
    finding = only(diagnose(model, MultimodalData(x)), "b", "the joint posterior ignores its encoder")
    assert finding.number < 1e-3


def test_private_latents_that_contain_what_should_be_shared():
    """c is decoded from w_c alone, which its encoder infers; its data follow z."""
    world, x = healthy(private=2)
    for m in range(3):
        world.C[m] = 0.1 * world.C[m]
    x = world.data(SIZE)
    model = model_of(world, "mmvae+", family="normal")
    with torch.no_grad():
        decoder, encoder = model.modalities["c"].decoder, model.modalities["c"].encoder
        decoder.weight[:, 2:] = decoder.weight[:, :2]
        decoder.weight[:, :2] = 0
        encoder.weight[4:6], encoder.bias[4:6] = encoder.weight[:2], encoder.bias[:2]
        encoder.bias[6:8] = encoder.bias[2:4]
    finding = only(diagnose(model, MultimodalData(x)), "c", "private latents contain what should be shared")
    assert finding.number < -0.15


@pytest.mark.slow
def test_generation_that_is_worse_than_regression():
    """The decoder of b follows z with a twentieth of the amplitude."""
    world, x = healthy()
    model = model_of(world)
    with torch.no_grad():
        model.modalities["b"].decoder.weight.mul_(0.05)
    found = diagnose(model, MultimodalData(x))
    assert only(found, "b", "worse than by ridge regression").number < -0.15


@pytest.mark.slow
def test_overfitting():
    """Of the training samples, b is made of what the model decodes; held-out ones have more noise."""
    world, x = healthy()
    model = model_of(world)
    noisy = {
        **x,
        "b": x["b"]
        + 2.5 * torch.randn(x["b"].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    }
    found = diagnose(model, MultimodalData(noisy), train=MultimodalData(world.data(SIZE, seed=2)))
    assert "overfitted" in {each.modality: each.what for each in found.findings}["b"]


@pytest.mark.slow
def test_scales_that_do_not_fit():
    torch.manual_seed(0)
    x = {"a": 1000 * torch.randn(100, 3), "b": 0.001 * torch.randn(100, 2), "c": 50 + torch.randn(100, 2)}
    model = pv.build(
        "mvae", [pv.Modality(name, (value.shape[1],)) for name, value in x.items()], latent=2
    ).eval()
    found = {
        each.modality: each
        for each in diagnose(model, MultimodalData(x)).findings
        if "scale" in each.what or "centred" in each.what
    }
    assert found["a"].number == pytest.approx(float(x["a"].std(0).square().mean().sqrt()), rel=0.02)
    assert found["a"].threshold == 100
    assert found["b"].threshold == 0.1
    assert found["c"].number == pytest.approx(50, rel=0.2)


@pytest.mark.slow
def test_missing_values_have_no_influence():
    world, x = healthy()
    model, kept = model_of(world), torch.rand(SIZE, generator=torch.Generator().manual_seed(1)) < 0.7
    found = diagnose(model, MultimodalData(x, mask={"b": kept}))
    x["b"] = torch.where(kept[:, None], x["b"], 1e5)
    assert diagnose(model, MultimodalData(x, mask={"b": kept})).measures == found.measures
    assert found.findings == ()


@pytest.mark.slow
def test_the_metric_is_json():
    world, x = healthy()
    model = model_of(world)
    with torch.no_grad():
        model.modalities["b"].decoder.weight.zero_()
    found = json.loads(json.dumps(diagnosis(Context.of(model, MultimodalData(x))), allow_nan=False))
    assert [each["modality"] for each in found["diagnosis"]["findings"]] == ["b"]
    assert found["diagnosis"]["measures"]["r2"]["a"] > 0.3


def test_findings_are_lines_below_the_table_of_an_evaluation():
    found = Finding(
        "its decoder ignores the latents: R² given everything", "b", 0.0012, 0.02, "raise its weight"
    )
    values = {"model": "mvae", "rows": 9, "notes": ["a note"], "diagnosis": Diagnosis((found,)).asdict()}
    line = (
        "b: its decoder ignores the latents: R² given everything (0.0012; threshold 0.02); raise its weight"
    )
    assert str(found) == line
    assert Evaluation(values).table().caption == f"a note\n{line}"


def test_an_invalid_model_or_part_is_refused():
    world, x = healthy()
    with pytest.raises(pv.InputError, match=r"call model\.eval"):
        diagnose(world.model("mvae"), MultimodalData(x))
    with pytest.raises(pv.InputError, match="expected a model and MultimodalData"):
        diagnose(model_of(world), x)

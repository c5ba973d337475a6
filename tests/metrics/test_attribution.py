"""Integrated gradients: attributions add up to the change of the output, and are exact for a linear model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import polyvae as pv
from polyvae.metrics.attribution import attribute
from tests.helpers.tiny import small_data, small_model
from tests.helpers.worlds import World


def world_data(size: int = 12):
    world = World(latent=2, experts="factor")
    x = world.data(size)
    names = {name: [f"{name}{at}" for at in range(2)] for name in x}
    return world, pv.MultimodalData({k: v.numpy() for k, v in x.items()}, columns=names)


def gain(world: World, used: list[int]) -> np.ndarray:
    loadings = np.concatenate([world.A[m] for m in used])
    noise = np.diag(np.concatenate([np.full(2, world.s[m] ** 2) for m in used]))
    return loadings.T @ np.linalg.inv(loadings @ loadings.T + noise)


def test_a_latent_of_a_linear_model_is_its_weights_times_the_differences():
    world, data = world_data()
    baseline = {"a": [0.5, -1.0]}  # b and c: their means
    found = attribute(world.model("mvae").eval(), data, "z1", baseline=baseline)
    starts = {name: np.array(baseline.get(name, data.values(name).numpy().mean(0))) for name in "abc"}
    for m, name in enumerate("abc"):
        expected = gain(world, [0, 1, 2])[1, 2 * m : 2 * m + 2] * (data.values(name).numpy() - starts[name])
        assert found.values[name].numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found.error < 1e-9
    assert found.output.numpy() == pytest.approx(
        world.model("mvae").embed(data.take(slice(None)))[:, 1].numpy()
    )


def test_a_generated_feature_of_a_linear_model():
    """Of c1 given a and b: row 1 of A_c times the gain of the two."""
    world, data = world_data()
    found = attribute(world.model("mvae").eval(), data, ("c", "c1"))
    assert list(found.values) == ["a", "b"]
    weights = world.A[2][1] @ gain(world, [0, 1])
    x = np.concatenate([data.values(name).numpy() for name in "ab"], 1)
    expected = weights * (x - x.mean(0))
    assert torch.cat(list(found.values.values()), 1).numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found.of == "c c1"
    best = np.abs(expected).mean(0).argmax()
    assert found.top(1)[0][:2] == (("a", f"a{best}") if best < 2 else ("b", f"b{best - 2}"))
    assert sum(found.by_modality().values()) == pytest.approx(1)
    assert attribute(world.model("mvae").eval(), data, ("c", 1), to=["b"]).values.keys() == {"b"}


@pytest.mark.parametrize("of", ["z0", "b.w1", ("b", 0)])
def test_attributions_add_up_to_the_change_of_the_output(of):
    """A nonlinear mixture with private latents and missing modalities."""
    model, data = small_model().double().eval(), small_data()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    found = attribute(model, data, of, to=["a", "b"], steps=1000)
    total = sum(x.sum(1) for x in found.values.values())
    assert total.numpy() == pytest.approx(
        (found.output - found.baseline).numpy(), abs=3e-2 * float(found.output.std())
    )
    for m, name in enumerate("ab"):
        assert (found.values[name][~data.mask[m]] == 0).all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_missing_entries_have_no_attribution():
    torch.manual_seed(0)
    x, seen = torch.randn(20, 3), torch.rand(20, 3) < 0.7
    data = pv.MultimodalData({"a": x, "b": torch.randn(20, 2)}, entries={"a": seen})
    model = pv.build("mvae", data.modalities(params={"hidden": [8]}), latent=2).eval()
    found = attribute(model, data, "z0")
    missing = ~data.observed("a")
    assert bool((found.values["a"][missing] == 0).all())
    assert bool((found.values["a"][~missing] != 0).any())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"of": "z7"}, "not a latent dimension of the model; did you mean"),
        ({"of": ("d", 0)}, "expected a latent dimension such as 'z0', or \\(modality, feature\\)"),
        ({"of": ("a", "a9")}, "not a feature; did you mean"),
        ({"of": ("a", 2)}, "an index inside \\(2,\\)"),
        ({"of": "z0", "to": ["q"]}, "not a modality that is encoded"),
        ({"of": "z0", "baseline": {"a": [1.0]}}, "a baseline of shape \\(1,\\) for 'a'"),
        ({"of": "z0", "steps": 0}, "steps=0"),
    ],
)
def test_what_cannot_be_attributed_is_refused(arguments, message):
    world, data = world_data(4)
    with pytest.raises(pv.InputError, match=message):
        attribute(world.model("mvae").eval(), data, **arguments)


def test_too_few_nodes_are_reported():
    model, data = small_model().double().eval(), small_data()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    with pytest.warns(UserWarning, match="more nodes are needed: steps=4"):
        attribute(model, data, "z0", steps=1)


def test_a_generated_feature_is_that_of_the_samples_own_covariates():
    torch.manual_seed(0)
    data = pv.MultimodalData(
        {"a": torch.randn(20, 3), "b": torch.randn(20, 2)}, covariates={"batch": ["x", "y"] * 10}
    )
    model = pv.build("mvae", data.modalities(covariates=("batch",), params={"hidden": [8]}), latent=2).eval()
    found = attribute(model, data, ("b", 0))
    batch = data.take(slice(None)).observe("a")
    made = model.modalities.decode_one("b", model.embed(batch), torch.zeros(20, 0), like=batch)
    assert torch.allclose(found.output, made[:, 0], atol=1e-6)

"""Gradients of the modalities where they meet, in linear worlds where they are known exactly."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from polyvae import Batch, Modality, MultimodalData, build
from polyvae.metrics.conflict import conflict, pulls
from polyvae.metrics.context import Context
from tests.helpers.worlds import World, fixed

SCALE = 0.5
FAR = 100.0


def linear(
    decoders: dict[str, np.ndarray],
    weights: dict[str, float] | None = None,
    name: str = "mmvae",
    private: int | None = None,
):
    """Laplace likelihoods of x = decoder @ (z, w): where x is far above, the gradient is the decoder's column sums / scale, whatever z."""
    specs = [
        Modality(
            key,
            (len(decoder),),
            "laplace",
            params={"scale": SCALE},
            weight=(weights or {}).get(key, 1.0),
            private=private,
            encoder=partial(
                fixed, np.zeros((2 * decoder.shape[1], len(decoder))), np.zeros(2 * decoder.shape[1])
            ),
            decoder=partial(fixed, decoder, np.zeros(len(decoder))),
        )
        for key, decoder in decoders.items()
    ]
    latent = next(iter(decoders.values())).shape[1] - (private or 0)
    return build(name, specs, latent=latent).double().eval()


def far(decoders: dict[str, np.ndarray], count: int = 12, mask: torch.Tensor | None = None) -> MultimodalData:
    x = {
        key: torch.full((count, len(decoder)), FAR, dtype=torch.float64) for key, decoder in decoders.items()
    }
    return MultimodalData(x, mask=mask)


@pytest.mark.parametrize(("sign", "cosine", "negative"), [(1, 1, 0), (-1, -1, 1)])
def test_equal_and_opposite_decoders(sign, cosine, negative):
    column = np.array([[0.6, 0.2], [0.0, 0.9]])
    decoders = {"a": column, "b": 2 * sign * column}
    result = conflict(Context.of(linear(decoders), far(decoders)))
    norm = np.linalg.norm(column.sum(0)) / SCALE
    assert result["gradient_cosine"] == pytest.approx(cosine, abs=1e-12)
    assert result["gradient_conflict"] == negative
    assert result["gradients"]["norm"] == pytest.approx({"a": norm, "b": 2 * norm}, rel=1e-12)
    assert result["gradients"]["share"] == pytest.approx({"a": 1 / 3, "b": 2 / 3}, rel=1e-12)
    assert (
        result["gradients"]["cosine"]["a"]["b"]
        == result["gradients"]["cosine"]["b"]["a"]
        == pytest.approx(cosine, abs=1e-12)
    )
    assert result["gradients"]["negative"] == {"a": {"b": negative}, "b": {"a": negative}}


def test_three_directions_with_weights_and_private_columns():
    """(1, 0), (0, 1), (-1, 1) in z; the private column pulls w alone; a weight multiplies its modality's norm."""
    decoders = {"a": np.array([[1.0, 0, 5]]), "b": np.array([[0, 1.0, 5]]), "c": np.array([[-1.0, 1, 5]])}
    result = conflict(Context.of(linear(decoders, {"b": 3.0}, "mmvae+", private=1), far(decoders)))
    half = np.sqrt(0.5)
    assert result["gradients"]["norm"] == pytest.approx(
        {"a": 1 / SCALE, "b": 3 / SCALE, "c": np.sqrt(2) / SCALE}
    )
    found = result["gradients"]["cosine"]
    assert [found["a"]["b"], found["a"]["c"], found["b"]["c"]] == pytest.approx([0, -half, half], abs=1e-12)
    assert result["gradient_cosine"] == pytest.approx(0, abs=1e-12)
    assert result["gradient_conflict"] == pytest.approx(1 / 3)
    assert sum(result["gradients"]["share"].values()) == pytest.approx(1)


def test_pairs_count_where_both_were_observed():
    decoders = {"a": np.array([[1.0, 0]]), "b": np.array([[-1.0, 0]]), "c": np.array([[1.0, 0]])}
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[1, 3:] = False  # b: in 3 of 12
    mask[2, :6] = False  # c: in the other half
    result = conflict(Context.of(linear(decoders), far(decoders, mask=mask)), batch_size=5)
    assert result["gradients"]["norm"] == pytest.approx(dict.fromkeys("abc", 1 / SCALE))
    assert result["gradients"]["cosine"] == {"a": {"b": -1, "c": 1}, "b": {"a": -1}, "c": {"a": 1}}
    assert result["gradient_conflict"] == pytest.approx(3 / 9)
    assert result["gradient_cosine"] == pytest.approx((-3 + 6) / 9)


@pytest.mark.parametrize("name", ["mmvae", "mvae", "mopoe"])
def test_the_gradient_of_a_normal_decoder(name):
    """g_m = A_mᵀ (x_m − A_m z − b_m) / s_m², at the z that was drawn."""
    world = World(latent=2)
    model = world.model(name, **({"family": "normal"} if name == "mmvae" else {})).eval()
    x = world.data(5)
    batch = Batch.of(x)
    torch.manual_seed(3)
    z = model.draw(batch).z[0].detach().numpy()
    torch.manual_seed(3)
    found, seen = pulls(model, batch, ["c", "a"])
    assert seen.all()
    for gradient, key, m in zip(found.numpy(), "ca", (2, 0), strict=True):
        rest = x[key].numpy() - z @ world.A[m].T - world.b[m]
        assert gradient == pytest.approx(rest @ world.A[m] / world.s[m] ** 2, rel=1e-9)


def test_it_leaves_no_trace_in_the_model():
    world = World()
    model = world.model("mopoe").eval()
    state = torch.get_rng_state()
    first, again = (conflict(Context.of(model, MultimodalData(world.data(9)), seed=4)) for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_a_shared_code_or_a_second_decoder_there_is_no_conflict():
    world = World(latent=0, private=1)
    assert conflict(Context.of(world.model("vae").eval(), MultimodalData(world.data(9)))) == {}
    decoders = {"a": np.eye(2)}
    assert conflict(Context.of(linear(decoders), far(decoders))) == {}

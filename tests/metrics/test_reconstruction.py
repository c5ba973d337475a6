"""Reconstruction errors and diversity, where the answer is known: decoders that copy, that say a constant, that add their private code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from polyvae import Modality, MultimodalData, build
from polyvae.metrics import Context, evaluate, fit_prior
from polyvae.metrics.generation import conditional, unconditional
from polyvae.metrics.reconstruction import baseline, pairwise, reconstruction, within_classes


class Map(nn.Module):
    """weight @ x + bias, as an encoder with all scales (nearly) 0 or as a decoder."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight, self.bias, self.shape = nn.Parameter(weight.float()), nn.Parameter(bias.float()), shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ self.weight.T + self.bias).unflatten(1, self.shape)


def copying(z_scale: float = 1e-6):
    """x_a = z and x_b = 2 z + w_b, z of two columns, w_b standard; both experts know z, from a exactly and from b as x_b / 2."""
    raw = torch.tensor(z_scale).expm1().log()

    def encoder(gain, private):
        def factory(in_shape, out):
            rows = torch.zeros(out if isinstance(out, int) else math.prod(out), 2)
            rows[:2] = gain * torch.eye(2)
            bias = torch.zeros(len(rows))
            bias[2:4] = raw
            return Map(rows, bias, (len(rows),))

        return factory

    def decoder(gain, private):
        def factory(in_shape, out):
            weight = torch.cat([gain * torch.eye(2), torch.eye(2)], 1)[:, : 2 + private]
            return Map(weight, torch.zeros(2), (2,))

        return factory

    specs = [
        Modality("a", (2,), encoder=encoder(1.0, 0), decoder=decoder(1.0, 0), private=0),
        Modality("b", (2,), encoder=encoder(0.5, 2), decoder=decoder(2.0, 2), private=2),
    ]
    return build("mmvae+", specs, latent=2, family="normal").eval()


@pytest.fixture(scope="module")
def world():
    draws = torch.Generator().manual_seed(0)
    z, w = torch.randn(2, 6000, 2, generator=draws)
    labels = (z[:, 0] > 0).long()
    return MultimodalData(
        {"a": z, "b": 2 * z + w}, labels=labels, splits={"train": range(3000), "test": range(3000, 6000)}
    )


def test_errors_and_diversity_are_those_of_the_world(world):
    """From a, z is known: b is missed by two independent w, 2 in the mean square. From b, z is missed by w / 2: a by 1/4."""
    found = reconstruction(Context.of(copying(), world.test, train=world.train), draws=4)
    by = found["reconstruction"]
    assert by["a"]["a"]["mse"] == pytest.approx(0, abs=1e-6)
    assert by["a"]["b"]["mse"] == pytest.approx(2, rel=0.06)
    assert by["a"]["b"]["mae"] == pytest.approx(2 / math.sqrt(math.pi), rel=0.03)
    assert by["b"]["a"]["mse"] == pytest.approx(1 / 4, rel=0.06)
    assert by["a"]["b"]["baseline_mse"] == pytest.approx(5, rel=0.06)
    assert by["a"]["b"]["baseline_mae"] == pytest.approx(math.sqrt(10 / math.pi), rel=0.03)
    assert by["a"]["b"]["entries"] == 6000
    assert found["cross_reconstruction_error"] == pytest.approx(
        (by["a"]["b"]["mse"] + by["b"]["a"]["mse"]) / 2
    )
    assert found["reconstruction_error"] == pytest.approx((by["a"]["a"]["mse"] + by["b"]["b"]["mse"]) / 2)
    relative = (
        by["a"]["b"]["mse"] / by["a"]["b"]["baseline_mse"]
        + by["b"]["a"]["mse"] / by["b"]["a"]["baseline_mse"]
    ) / 2
    assert found["cross_reconstruction_error_relative"] == pytest.approx(relative)
    # The root mean square of two columns of N(0, 2) is Rayleigh: its mean is √(π / 2).
    assert found["diversity_matrix"]["a"]["b"] == pytest.approx(math.sqrt(math.pi / 2), rel=0.04)
    assert found["diversity_matrix"]["b"]["a"] == pytest.approx(0, abs=1e-4)
    assert found["diversity"] == pytest.approx(sum(found["diversity_matrix"]["a"].values()) / 2, abs=1e-4)


def test_diversity_with_a_fitted_prior_is_that_of_the_aggregate_posterior(world):
    """The posterior of w is N(0, s²) for all samples, narrower than p(w), and so is a Gaussian that is fitted to the latents."""
    model = copying()
    with torch.no_grad():
        model.modalities["b"].encoder.bias[6:] = -2.0
    s = float(model.draw_latents(world.take(slice(0, 3000)), 4)[1].std())
    assert s < 0.5
    prior = fit_prior(model, world.train, 1, latents="all")
    found = reconstruction(Context.of(model, world.test, train=world.train, prior=prior), draws=4)
    spread = found["diversity_matrix_fitted"]
    assert spread["a"]["b"] == pytest.approx(s * math.sqrt(math.pi / 2), rel=0.05)
    assert found["diversity_fitted"] == pytest.approx(spread["a"]["b"] / 2, abs=1e-4)
    assert found["diversity_matrix"]["a"]["b"] == pytest.approx(math.sqrt(math.pi / 2), rel=0.05)


def test_an_evaluation_of_diversity_alone_fits_the_prior_that_it_asks_for(world):
    few = MultimodalData(
        {name: world.values(name)[:400] for name in world.names},
        splits={"train": range(300), "test": range(300, 400)},
    )
    asked = {"kind": "gmm", "components": 1}
    found = [
        evaluate(
            copying(), few, metrics=["reconstruction"], fitted_prior={**asked, "latents": latents}, show=False
        )
        for latents in ("all", "z")
    ]
    assert 0.3 < found[0]["diversity_fitted"] < 1
    assert "diversity_fitted" not in found[1]


def test_what_was_not_observed_does_not_count(world):
    """Values under a mask, of samples or of entries, may be anything: as if those samples and entries were not there."""
    x = {name: world.values(name).clone() for name in world.names}
    mask = torch.ones(2, 6000, dtype=torch.bool)
    mask[1, 3000:4500] = False
    entries = torch.ones(6000, 2, dtype=torch.bool)
    entries[:, 1] = False
    holes = MultimodalData(
        x | {"a": x["a"].masked_fill(~entries, 1e3), "b": x["b"].masked_fill(~mask[1][:, None], torch.nan)},
        mask=mask,
        entries={"a": entries},
        splits={"train": range(3000), "test": range(3000, 6000)},
    )
    found = reconstruction(Context.of(copying(), holes.test, train=holes.train))["reconstruction"]
    assert (found["a"]["a"]["entries"], found["a"]["b"]["entries"], found["b"]["a"]["entries"]) == (
        3000,
        3000,
        1500,
    )
    assert found["a"]["a"]["mse"] == pytest.approx(0, abs=1e-6)
    expected = (x["b"][4500:] / 2 - x["a"][4500:])[:, 0].square().mean()
    assert found["b"]["a"]["mse"] == pytest.approx(float(expected), rel=1e-3)


def test_the_baseline_is_the_mean_of_what_was_observed():
    x, y = torch.tensor([[1.0, 2], [3, 9], [100, 4]]), torch.tensor([[5.0], [7], [9]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    entries = torch.tensor([[True, True], [True, False], [True, True]])
    means = baseline(
        MultimodalData({"x": x, "y": y}, mask=mask, entries={"x": entries}), ["x", "y"], batch_size=2
    )
    assert means["x"].tolist() == [2, 2]
    assert means["y"].tolist() == [7]


def test_pairwise_by_its_definition():
    x = torch.randn(4, 3, 2, 5).double()
    expected = [
        sum(math.sqrt(float((x[i, b] - x[j, b]).square().mean())) for i in range(4) for j in range(i)) / 6
        for b in range(3)
    ]
    assert pairwise(x).tolist() == pytest.approx(expected)


def test_real_diversity_compares_samples_of_one_class_only():
    """Two classes, far apart, whose samples are 3 apart; a third class has one sample only."""
    x = torch.tensor([[0.0, 0], [3, 3], [1000, 1000], [1003, 1003], [5000, 0]])
    data = MultimodalData({"x": x}, labels=[0, 0, 1, 1, 2])
    assert within_classes(data, "x") == pytest.approx(3)
    assert within_classes(data.rows([0, 2, 4]), "x") is None
    assert within_classes(MultimodalData({"x": x}), "x") is None
    gaps = torch.tensor([[True, False]] * 5)
    holes = MultimodalData({"x": x * torch.tensor([1.0, 7])}, labels=[0, 0, 1, 1, 2], entries={"x": gaps})
    assert within_classes(holes, "x") == pytest.approx(3)


def test_real_diversity_estimates_the_mean_over_all_pairs(world):
    part = world.test.rows(slice(0, 1500))
    x, labels = part.values("b"), part.labels
    every = [torch.pdist(x[labels == label]) for label in (0, 1)]
    expected = (
        sum(float(d.mean()) * int((labels == label).sum()) for label, d in enumerate(every))
        / 1500
        / math.sqrt(2)
    )
    assert within_classes(part, "b", seed=3) == pytest.approx(expected, rel=0.05)


# ---- generation ------------------------------------------------------------------------------------------------------------------


def test_w_of_what_is_not_observed_is_fresh_and_of_what_is_observed_the_posterior_s(world):
    context = Context.of(copying(), world.test)
    for batch, made, _ in conditional(context, ("a",), ("a", "b"), seed=1, K=2):
        assert torch.allclose(made["a"], batch.data["a"].expand(2, -1, -1), atol=1e-4)
        w = made["b"] - 2 * batch.data["a"]
        assert abs(float(w.mean())) < 0.1
        assert float(w.std()) == pytest.approx(1, rel=0.05)
        assert abs(float((w[0] * w[1]).mean())) < 0.1
        break


def test_a_seed_repeats_and_leaves_the_generator_alone(world):
    context = Context.of(copying(), world.test)
    state = torch.get_rng_state()
    one, other = (
        torch.cat([made["b"] for _, made, _ in conditional(context, ("a",), ("b",), seed=5)], 1)
        for _ in range(2)
    )
    assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_sizes_bound_how_much_is_decoded_at_a_time(world):
    model = copying()
    context = Context.of(model, world.test, batch_size=500, values=600, draws=700)
    assert (context.rows, context.step(), context.step(5)) == (300, 300, 60)
    sizes = [made["b"].shape[:2] for _, made, _ in conditional(context, ("a",), ("b",), seed=0, K=5)]
    assert sizes == [(5, 60)] * 50
    assert [len(made["a"]) for made in unconditional(context, None, 0)] == [300, 300, 100]
    assert Context.of(model, world.test).step() == 1000


class Fixed(nn.Module):
    """Logits that depend on nothing: the true proportions."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(len(latents), 4)


def test_counts_are_compared_at_the_library_size_of_their_sample():
    """The decoder is the true Poisson model of depths from 300 to 30,000; at size 10,000 the error would be that of the mean."""
    draws = torch.Generator().manual_seed(0)
    depth = torch.exp(torch.empty(400, 1).uniform_(5.7, 10.3, generator=draws))
    x = torch.poisson(depth * torch.tensor([0.4, 0.3, 0.2, 0.1]), generator=draws)
    data = MultimodalData({"x": x}, splits={"train": range(200), "test": range(200, 400)})
    model = build("vae", [Modality("x", (4,), "poisson", decoder=lambda _, out: Fixed())], latent=1)
    context = Context.of(model, data.test, train=data.train)
    assert reconstruction(context, draws=2)["reconstruction_error_relative"] < 0.01
    totals = torch.cat([made["x"].sum(-1) for made in unconditional(context, None, 0)])
    assert totals[:200].tolist() == pytest.approx(x[200:].sum(-1).tolist(), rel=1e-4)

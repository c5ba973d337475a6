"""Nexus: the port's numbers, the formula, dropped messages, levels that are fitted separately."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from polyvae import Batch, InputError, Modality, build
from polyvae.core import noise
from polyvae.core.aggregate import random_sizes
from polyvae.core.vae import MultimodalVAE
from polyvae.testing import example_model, plain_world
from tests.helpers.golden import DOUBLE, D, W, eps, leaves, recorded
from tests.helpers.golden_joint import WIDTH, golden_model, hold, linear, put
from tests.helpers.hand import NONE, WORLDS, Hand, decodes, kl_normal
from tests.helpers.worlds import Affine, fixed, small


@recorded("nexus")
def test_nexus_is_the_port(case):
    """Theirs is −γ (w − g)² − γ log 2π for each column of w, ours −γ (w − g)² + ½ log(γ/π)."""
    M, B, gamma = case["M"], case["B"], case["gamma"]
    of = (
        leaves(M, B, 0, W)
        | linear("nexus.1", 3, WIDTH, 0.9)
        | linear("loc", D, 3, 0.2)
        | linear("raw", D, 3, 0.3)
    )
    for m in range(M):
        of |= (
            linear(f"{m}.message", WIDTH, W, 0.4 + m)
            | linear(f"{m}.told.0", 3, D, 0.6 + m)
            | linear(f"{m}.told.2", W, 3, 0.7 + m)
        )
    model = golden_model("nexus", case, of, gamma=gamma, drop=0.0, message=WIDTH, hidden=(3,))
    for layer, name in ((model.nexus[1], "nexus.1"), (model.loc, "loc"), (model.raw, "raw")):
        put(layer, of, name)
    for m, net in enumerate(model.modalities.values()):
        put(net.parts["message"], of, f"{m}.message")
        for i in (0, 2):
            put(net.parts["top_down"][i], of, f"{m}.told.{i}")
    draws = {"w": eps(0.85, B, M * W)[None], "z": eps(0.15, B, D)[None], "top_down": torch.zeros(1, B, M * W)}
    hold(model, case, of, draws, M * W * (0.5 * math.log(gamma / math.pi) + gamma * math.log(2 * math.pi)))


@torch.no_grad()
def nexus_by_hand(hand: Hand, codes: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """q(z | codes of some modalities)."""
    model = hand.model
    nets = {m: model.modalities[hand.names[m]] for m in codes}
    mean = sum(nets[m].parts["message"](torch.from_numpy(w)) for m, w in codes.items()) / len(codes)
    hidden = model.nexus(mean)
    return model.loc(hidden).numpy(), next(iter(nets.values())).scale(model.raw(hidden)).numpy()


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("drop", [0.0, 0.6])
def test_nexus(world, drop):
    hand = Hand(world, "nexus", K=2, beta=1.5, gamma=2.0, drop=drop, message=6, hidden=(5,))
    model = hand.model
    dropped_from = []

    def kept() -> list[int]:
        if not drop or hand.draws["drop"][0, hand.b] >= drop:
            return hand.S
        size = int(hand.draws["subset.size"][0, hand.b] * (len(hand.S) - 1)) + 1
        dropped_from.append(len(hand.S) - size)
        return sorted(hand.S, key=lambda m: hand.draws["subset"][0, model.encoded.index(m), hand.b])[:size]

    @torch.no_grad()
    def told(m: int, z: np.ndarray) -> np.ndarray:
        return model.modalities[hand.names[m]].parts["top_down"](torch.from_numpy(z)).numpy()

    def value() -> float:
        total = -hand.beta * sum(kl_normal(*hand.w[m]) for m in hand.S)
        who = kept()
        for k in range(2):
            w = {
                m: hand.w[m][0] + hand.w[m][1] * hand.draws["w"][k, hand.b, model.columns[m]] for m in hand.S
            }
            q = nexus_by_hand(hand, {m: w[m] for m in who})
            z = q[0] + q[1] * hand.draws["z"][k, hand.b]
            total -= hand.beta * kl_normal(*q) / 2
            total += sum(hand.log(w[m], told(m, z), 0.5) for m in hand.S) / 2  # 1/√(2γ) = ½
            for n in filter(partial(decodes, hand), hand.A):
                code = (
                    w[n] if n in w else told(n, z) + 0.5 * hand.draws["top_down"][k, hand.b, model.columns[n]]
                )
                total += hand.log_x(n, NONE, code) / 2
        return total

    hand.check(value)
    assert bool(drop) == any(dropped_from)


def nexus(**options: object) -> MultimodalVAE:
    return example_model(
        lambda modalities: build("nexus", modalities, latent=2, message=6, hidden=(5,), **options),
        plain_world(),
    )


def values_for(model: MultimodalVAE, size: int = 4) -> Batch:
    torch.manual_seed(2)
    return Batch.of(
        {
            name: net.likelihood.sample(torch.randn(size, *net.likelihood.output, dtype=DOUBLE)).detach()
            for name, net in model.modalities.items()
        }
    )


def test_nexus_is_deterministic_in_evaluation():
    model = nexus(drop=1.0)
    batch = values_for(model)
    posteriors = []
    for training in (True, False, False):
        model.train(training)
        with noise.record() as draws:
            posteriors.append(model.posterior(batch, model.experts(batch)).components.loc)
        assert not draws
    assert torch.equal(posteriors[0], posteriors[1])
    assert torch.equal(posteriors[1], posteriors[2])
    assert torch.equal(model.embed(batch), model.embed(batch))
    with noise.record() as draws:
        evaluated = model(batch).value
    assert set(draws) == {"w", "z", "top_down"}
    with noise.feed(draws):
        torch.testing.assert_close(nexus(drop=0.0)(batch).value, evaluated, rtol=0, atol=0)


def test_dropped_messages_leave_one_to_all_but_one():
    count = 6000
    mask = torch.ones(4, count, dtype=torch.bool)
    mask[3, : count // 2] = False
    mask[1:, 0] = False
    kept = random_sizes(mask, 1, proper=True)[0]
    assert kept[:, 0].tolist() == [True, False, False, False]
    assert not (kept & ~mask).any()
    for rows, members in ((slice(1, count // 2), 3), (slice(count // 2, None), 4)):
        sizes = kept[:, rows].sum(0)
        total = len(sizes)
        for size in range(1, members):
            share = 1 / (members - 1)
            assert (
                abs(float((sizes == size).double().mean()) - share) < 5 * (share * (1 - share) / total) ** 0.5
            )
        each = kept[:members, rows].double().mean(1)
        assert (each - each.mean()).abs().max() < 5 * 0.5 / total**0.5
        assert int(sizes.max()) == members - 1


def test_the_levels_of_nexus_are_fitted_apart():
    """Codes are told and sent without gradient: how well they are told has no influence on the encoders."""
    gradients = []
    for gamma in (0.5, 50.0):
        model = nexus(gamma=gamma, drop=0.0)
        batch = values_for(model)
        torch.manual_seed(0)
        model(batch).value.sum().backward()
        gradients.append([p.grad for net in model.modalities.values() for p in net.encoder.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_decoders_of_nexus_see_private_codes_only():
    model = nexus()
    z, w = torch.randn(3, 2, dtype=DOUBLE), torch.randn(3, 8, dtype=DOUBLE)
    for name, made in model.decode(z, w).items():
        assert torch.equal(made, model.decode(z + 1, w)[name])
    assert model.embed(values_for(model)).shape == (4, 2)
    with pytest.raises(
        InputError, match=r"^nexus: modality 'm1' has private=0; expected at least one column"
    ):
        build("nexus", [*small(1), Modality("m1", (2,), private=0)], latent=2)


def test_the_likelihood_of_nexus_is_that_of_its_joint_density():
    """Linear g and decoders: x_A is normal; the covariance of x_m and x_n is C_m (G_m G_n' + 1/(2γ) [m = n]) C_n' + noise."""
    draws = np.random.default_rng(3)
    C, b, G = ([draws.normal(size=shape) for _ in range(2)] for shape in ((2, 1), (2,), (1, 1)))
    gamma, s = 2.0, 0.8
    specs = [
        Modality(
            name,
            (2,),
            params={"scale": s},
            encoder=partial(fixed, np.array([[0.4, 0.2], [0, 0]]), np.array([0.1, -0.2])),
            decoder=partial(fixed, C[m], b[m]),
        )
        for m, name in enumerate("xy")
    ]
    model = build("nexus", specs, latent=1, gamma=gamma, message=4, hidden=()).double().eval()
    for m, net in enumerate(model.modalities.values()):
        net.parts["top_down"] = nn.Sequential(Affine(G[m], np.zeros(1)))
    model.prior.maps = tuple(net.parts["top_down"] for net in model.modalities.values())
    load = np.zeros((4, 2))
    load[:2, 0], load[2:, 1] = C[0][:, 0], C[1][:, 0]
    covariance = load @ (
        np.concatenate(G) @ np.concatenate(G).T + np.eye(2) / (2 * gamma)
    ) @ load.T + s**2 * np.eye(4)
    x = draws.normal(size=4) + np.concatenate(b)
    mask = torch.tensor([[1, 0, 1], [0, 1, 1]]).bool()
    batch = Batch.of(
        {"x": torch.as_tensor(x[:2]).expand(3, -1), "y": torch.as_tensor(x[2:]).expand(3, -1)}, mask
    )
    estimate = model.log_marginal(batch, K=4000)
    for row, seen in enumerate((slice(0, 2), slice(2, 4), slice(0, 4))):
        truth = multivariate_normal(np.concatenate(b)[seen], covariance[seen, seen]).logpdf(x[seen])
        assert abs(float(estimate.value[row]) - truth) <= 5 * float(estimate.standard_error[row])
    assert (estimate.standard_error < 0.1).all()

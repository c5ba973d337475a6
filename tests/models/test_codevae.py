"""CoDE-VAE: the authors' numbers, the formula, subset weights, the consensus of dependent experts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import nn

from polyvae import Batch, InputError, Modality, build
from polyvae.core import noise
from polyvae.core.aggregate import consensus, product_of_experts
from polyvae.core.distributions import Normal
from polyvae.testing import roles_world
from tests.helpers.golden import DOUBLE, D, eps, leaves, recorded, wave
from tests.helpers.golden_joint import golden_model, hold
from tests.helpers.hand import WORLDS, Hand, decodes, kl_normal
from tests.helpers.worlds import World, small


@recorded("codevae")
@pytest.mark.parametrize("entropy", [1000.0, 0.0])
def test_codevae_is_the_authors(case, entropy):
    """With their 1000 H(π), and without it, which is taken off by hand."""
    M, B = case["M"], case["B"]
    V = 2**M - 1
    of = leaves(M, B) | {"logits": nn.Parameter(wave((V,), 0.9))}
    pi = of["logits"].detach().softmax(0)
    information = -(pi * pi.log()).sum()
    if not entropy:
        slope = -pi * (pi.log() + information)  # ∂H/∂logits
        logits = torch.tensor(case["gradients"]["logits"], dtype=DOUBLE) - 1000 * B * slope
        case = case | {
            "value": case["value"] - 1000 * B * float(information),
            "gradients": case["gradients"] | {"logits": logits.tolist()},
        }
    model = golden_model("code-vae", case, of, correlation=case["correlation"], entropy=entropy)
    model.logits = of["logits"]
    hold(model, case, of, {"z": eps(0.15, V, B, D)[None], "w": torch.zeros(1, V, B, 0)})


def consensus_by_hand(experts, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """The best linear unbiased estimate, column by column, with the covariance inverted as a matrix."""
    k = len(experts)
    R = np.full((k, k), rho) + (1 - rho) * np.eye(k)
    loc, scale = [], []
    for mu, sigma in zip(
        np.stack([e[0] for e in experts], 1), np.stack([e[1] for e in experts], 1), strict=True
    ):
        inverse = np.linalg.inv(np.diag(sigma) @ R @ np.diag(sigma))
        loc.append(inverse.sum(0) @ mu / inverse.sum())
        scale.append(inverse.sum() ** -0.5)
    return np.array(loc), np.array(scale)


def subset_elbos(hand: Hand, rho: float) -> dict[int, float]:
    """The ELBO of every subset of what was observed, by its row in the table, without the private codes' KL."""
    model = hand.model
    places = range(len(model.encoded))
    everyone = [subset for size in range(1, len(places) + 1) for subset in combinations(places, size)]
    out = {}
    for v, subset in enumerate(everyone):
        members = [model.encoded[i] for i in subset]
        if set(members) <= set(hand.S):
            q = consensus_by_hand([hand.z[m] for m in members], rho)
            out[v] = -hand.beta * kl_normal(*q)
            for k in range(model.K):
                z = q[0] + q[1] * hand.draws["z"][k, v, hand.b]
                for n in filter(partial(decodes, hand), hand.A):
                    eps_w = hand.draws["w"][k, v, hand.b, model.columns[n]]
                    loc, scale = hand.w.get(n, (np.zeros_like(eps_w), np.ones_like(eps_w)))
                    out[v] += hand.log_x(n, z, loc + scale * eps_w) / model.K
    return out


def shares(hand: Hand, active: list[int]) -> np.ndarray:
    logits = hand.model.logits.detach().numpy()[active]
    return np.exp(logits - logsumexp(logits))


@pytest.mark.parametrize("private", [0, 2])
@pytest.mark.parametrize(("rho", "entropy"), [(0.5, 7.0), (-0.3, 0.0)])
def test_codevae(rho, entropy, private, monkeypatch):
    monkeypatch.setitem(
        WORLDS, "private", lambda: tuple(replace(spec, private=private) for spec in roles_world())
    )
    hand = Hand("private", "code-vae", K=2, beta=1.5, correlation=rho, entropy=entropy)

    def value() -> float:
        elbos = subset_elbos(hand, rho)
        pi = shares(hand, list(elbos))
        return (
            float(pi @ list(elbos.values()))
            - entropy * float(pi @ np.log(pi))
            - hand.beta * sum(kl_normal(*hand.w[m]) for m in hand.S)
        )

    hand.check(value)


def test_the_weights_of_subsets_get_their_gradient():
    """∂L/∂logit_A = π_A (ELBO_A − Σ π ELBO), for a complete datum (the private KL and entropy left out)."""
    hand = Hand("plain", "code-vae", entropy=0.0)
    hand.at(0)
    with noise.feed({key: torch.as_tensor(value) for key, value in hand.draws.items()}):
        hand.model(hand.batch, hand.warm).value[0].backward()
    elbos = subset_elbos(hand, 0.5)
    pi, each = shares(hand, list(elbos)), np.array(list(elbos.values()))
    assert len(pi) == 15
    assert hand.model.logits.grad.numpy() == pytest.approx(pi * (each - pi @ each), rel=1e-9, abs=1e-12)
    assert np.abs(hand.model.logits.grad.numpy()).min() > 1e-4


def test_weights_are_renormalised_over_live_subsets():
    """Of a, b, c, where a and c were observed: the rows {a}, {c} and {a, c} share what is theirs."""
    world = World()
    model = world.model("code-vae")
    model.logits.data = torch.tensor(
        [0.3, 9.0, -0.5, 8.0, 0.7, 7.0, 6.0], dtype=DOUBLE
    )  # a, b, c, ab, ac, bc, abc
    batch = Batch.of(world.data(1)).observe("a", "c")
    weights = model.posterior(batch, model.experts(batch)).weights[:, 0].detach().numpy()
    active = np.exp([0.3, -0.5, 0.7])
    assert weights[[0, 2, 4]] == pytest.approx(active / active.sum(), rel=1e-12)
    assert (weights[[1, 3, 5, 6]] == 0).all()


@pytest.mark.parametrize("rho", [0.5, 0.0, -0.4])
def test_the_consensus_is_the_best_linear_estimate(rho):
    experts = Normal(torch.randn(3, 2, 4, dtype=DOUBLE), torch.rand(3, 2, 4, dtype=DOUBLE) + 0.2)
    membership = (
        torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]]).bool()[..., None].expand(-1, -1, 2)
    )
    made = consensus(experts, membership, rho)
    for v, members in enumerate(([0], [0, 1], [0, 1, 2])):
        for b in range(2):
            expected = consensus_by_hand(
                [(experts.loc[m, b].numpy(), experts.scale[m, b].numpy()) for m in members], rho
            )
            assert made.loc[v, b].numpy() == pytest.approx(expected[0], rel=1e-10)
            assert made.scale[v, b].numpy() == pytest.approx(expected[1], rel=1e-10)
    assert torch.equal(made.loc[3], torch.zeros(2, 4))
    assert torch.equal(made.scale[3], torch.ones(2, 4))
    if not rho:
        independent = product_of_experts(experts, membership)
        torch.testing.assert_close(
            (made.loc, made.scale), (independent.loc, independent.scale), rtol=1e-12, atol=1e-12
        )


def test_agreeing_experts_that_correlate_are_less_certain_than_independent_ones():
    """Two equal experts of scale 1: variance (1 + ρ)/2, by hand."""
    experts = Normal(torch.zeros(2, 1, 1, dtype=DOUBLE), torch.ones(2, 1, 1, dtype=DOUBLE))
    both = torch.ones(1, 2, 1, dtype=torch.bool)
    assert [float(consensus(experts, both, rho).scale) ** 2 for rho in (-0.5, 0, 0.5)] == pytest.approx(
        [0.25, 0.5, 0.75]
    )


def test_eleven_modalities_are_refused_at_construction():
    with pytest.raises(
        InputError,
        match=r"^code-vae: got 11 modalities that are encoded; expected at most 10, .*choose 'mopoe'",
    ):
        build("code-vae", small(11), latent=2)
    model = build(
        "code-vae", [*small(10), Modality("label", (2,), params={"hidden": (3,)}, role="target")], latent=2
    )
    assert len(model.logits) == 1023


@pytest.mark.parametrize("options", [{"correlation": 1.0}, {"correlation": -0.5}, {"entropy": -1.0}])
def test_a_codevae_that_cannot_be(options):
    key, value = next(iter(options.items()))
    with pytest.raises(InputError, match=rf"^code-vae: got {key}={value}; expected a number"):
        build("code-vae", small(3), **options)

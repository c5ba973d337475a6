"""MMVAE+: the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

import polyvae as pv
from polyvae.core import noise
from polyvae.core.distributions import Normal, softplus_scale
from polyvae.utils.errors import InputError
from tests.helpers.hand import WORLDS, Hand, over_k

PLUS = [
    {},
    {"K": 3, "objective": "iwae", "family": "laplace", "scale_map": "softmax"},
    {"K": 2, "objective": "dreg"},
    {"cross": "prior", "K": 2, "objective": "iwae"},
    {"cross": "posterior", "K": 2},
    {"cross": "posterior-published", "objective": "iwae", "K": 2},
    {"corrected": True, "K": 2, "objective": "iwae"},
    {"corrected": True, "K": 2, "objective": "dreg"},
    {"source_experts": "random", "K": 3},
    {"prior_components": 3, "K": 2},
    {"private_prior": "auxiliary", "K": 2, "objective": "iwae"},
    {"own_weight": 2.5, "K": 2, "objective": "iwae"},
    {"own_weight": 0.4, "detach_own": True},
    {"cross_experts": "one", "K": 2, "own_weight": 3.0},
    {"conditional_prior": True, "corrected": True, "K": 2},
    {"conditional_prior": True, "prior_components": 2},
]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("options", PLUS, ids=["-".join(map(str, options.values())) for options in PLUS])
def test_mmvaeplus(world, options):
    hand = Hand(world, "mmvae+", beta=1.5, **options)
    model = hand.model
    prior = model.prior
    if "prior_components" in options:
        base = prior.base if model.conditional_prior else prior
        share, at = base.logits.detach().softmax(0).log().numpy(), base.loc.detach().numpy()
    r_scale = np.ones(len(model.owner))
    if model.raw_r is not None:
        r_scale = np.concatenate(
            [
                model.modalities[name].scale(model.raw_r[span]).detach().numpy()
                for name, span in zip(hand.names, model.columns, strict=True)
            ]
        )

    def log_p_w(n: int, z, w) -> float:
        """log p(w_n | z), from the weights of its network."""
        if not model.conditional_prior or n not in model.encoded:
            return hand.log(w, 0, 1)
        first, _, last = model.modalities[hand.names[n]].parts["prior"]
        hidden = np.maximum(first.weight.detach().numpy() @ z + first.bias.detach().numpy(), 0)
        loc, raw = np.split(last.weight.detach().numpy() @ hidden + last.bias.detach().numpy(), 2)
        return hand.log(w, loc, softplus_scale(torch.from_numpy(raw)).numpy())

    def times(n: int, m: int) -> float:
        """How often log p(x_n | z^m, .) counts."""
        if n == m:
            return model.own_weight
        if model.cross_experts == "all":
            return 1
        others = [e for e in hand.S if e != n]
        drawn = max(others, key=lambda e: hand.draws["cross"][n, model.encoded.index(e), hand.b])
        return len(others) * (m == drawn)

    def log_p_z(z) -> float:
        if "prior_components" not in options:
            return hand.log(z, 0, 1)
        return float(logsumexp([a + hand.log(z, loc, 1) for a, loc in zip(share, at, strict=True)]))

    def log_weight(m: int, v: int, k: int) -> float:
        z = hand.z[m][0] + hand.z[m][1] * hand.draws["z"][k, v, hand.b]
        total = hand.beta * (log_p_z(z) - hand.mixture(z))
        for n in hand.A:
            span = model.columns[n]
            eps = hand.draws["w"][k, v, hand.b, span]
            posterior = n in hand.w and (n == m or model.cross.startswith("posterior"))
            loc, scale = hand.w[n] if posterior else (np.zeros_like(eps), r_scale[span])
            w = loc + scale * eps
            if n == m or model.cross == "posterior" or model.corrected:
                total += hand.beta * (log_p_w(n, z, w) - hand.log(w, loc, scale))
            if model.specs[n].role != "input":
                total += times(n, m) * hand.log_x(n, z, w)
        return total

    def value() -> float:
        experts = hand.S
        if model.source_experts == "random" and len(model.encoded) > 1:
            experts = [hand.S[int(hand.draws["component"][0, hand.b] * len(hand.S))]]
        lines = {m: 0 if model.source_experts == "random" else model.encoded.index(m) for m in experts}
        return float(
            np.mean(
                [
                    over_k(model.objective, [log_weight(m, v, k) for k in range(model.K)])
                    for m, v in lines.items()
                ]
            )
        )

    hand.check(value)


def made(names="ab", **options):
    """A model of these modalities with these options, and a batch."""
    specs = [pv.Modality(name, (3,), params={"hidden": [4]}, private=2) for name in names]
    torch.manual_seed(0)
    model = pv.MMVAEPlus(specs, latent=2, **options).double()
    return model, pv.Batch.of({name: torch.randn(5, 3, dtype=torch.double) for name in names})


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_detach_own_by_hand(objective):
    """The value of MMVAE+, with the gradient of a decoder that gets stop-gradient(z) in own reconstruction alone."""
    options = {"objective": objective, "K": 3, "own_weight": 1.7, "beta": 0.6}
    (model, batch), (plain, _) = made(detach_own=True, **options), made(**options)
    plain.load_state_dict(model.state_dict())
    with noise.record() as draws:
        value = model(batch).value
    with noise.feed(draws):
        torch.testing.assert_close(plain(batch).value, value, rtol=0, atol=0)
    experts, log_weights = model.experts(batch), []
    r = softplus_scale(model.raw_r)
    for m, name in enumerate(batch.names):
        q, span = Normal(experts.z.loc[m], experts.z.scale[m]), model.columns[m]
        z = q.loc + q.scale * draws["z"].value[:, m]  # [K, B, 2]
        q_w = Normal(experts.w.loc[:, span], experts.w.scale[:, span])
        w = q_w.loc + q_w.scale * draws["w"].value[:, m, :, span]
        unit = Normal.unit((2,), z)
        both = torch.stack([experts.z[e].log_prob(z) for e in range(2)])
        log_weight = unit.log_prob(z) - both.logsumexp(0) + math.log(2) + unit.log_prob(w) - q_w.log_prob(w)
        log_weight = 0.6 * log_weight
        own = torch.cat([z.detach(), w], -1)
        log_weight = log_weight + 1.7 * model.modalities[name].log_prob(batch.data[name], own)
        n = 1 - m
        other = torch.cat([z, r[model.columns[n]] * draws["w"].value[:, m, :, model.columns[n]]], -1)
        name = batch.names[n]
        log_weights.append(log_weight + model.modalities[name].log_prob(batch.data[name], other))
    each = torch.stack(log_weights)  # [M, K, B]
    by_hand = (each.mean(1) if objective == "elbo" else each.logsumexp(1) - math.log(3)).mean(0)
    torch.testing.assert_close(by_hand, value, rtol=1e-12, atol=1e-12)
    parameters = list(model.parameters())
    gradients = (torch.autograd.grad(x.sum(), parameters) for x in (value, by_hand))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("detach_own", [True, False])
def test_own_reconstruction_reaches_q_z_only_without_detach_own(detach_own):
    model, batch = made(detach_own=detach_own, beta=0.0)
    alone = batch.observe("a")  # with one expert, nothing is cross-reconstructed
    experts = model.experts(alone)
    leaves = [x.detach().requires_grad_() for x in (experts.z.loc, experts.z.scale, experts.w.loc)]
    given = experts._replace(z=Normal(*leaves[:2]), w=Normal(leaves[2], experts.w.scale.detach()))
    value = model.bound(alone, given, 1.0).value.sum()
    of_z, of_scale, of_w = torch.autograd.grad(value, leaves, materialize_grads=True, allow_unused=True)
    assert bool(of_z.any()) == bool(of_scale.any()) == (not detach_own)
    assert bool(of_w.any())


def test_one_cross_expert_is_an_unbiased_estimate():
    """The mean over all uniform numbers that choose differently is the objective with all experts."""
    (model, batch), (whole, _) = made("abc", cross_experts="one", own_weight=2.0), made("abc", own_weight=2.0)
    whole.load_state_dict(model.state_dict())
    with noise.record() as draws:
        model(batch)
    with noise.feed(draws):
        expected = whole(batch).value
    values = []
    for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]):
        score = (torch.tensor(order).double() / 3)[None, :, None].expand(3, 3, batch.size)
        with noise.feed(draws | {"cross": noise.Draw("MVB", score)}):
            values.append(model(batch).value)
    torch.testing.assert_close(torch.stack(values).mean(0), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"own_weight": 0.0}, "own_weight=0.0; expected a positive number"),
        ({"cross_experts": "two"}, "unknown cross_experts 'two'"),
        ({"cross_experts": "one", "objective": "iwae"}, "expected source_experts='all' and objective='elbo'"),
        ({"cross_experts": "one", "source_experts": "random"}, "got cross_experts='one'"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        made(**options)


def test_terms_sum_to_the_objective_with_a_weight():
    model, batch = made("abc", own_weight=2.5, cross_experts="one", beta=0.7)
    value, terms = model(batch, 0.5)
    signs = {name: -0.35 if name.startswith("kl/") else 1.0 for name in terms}
    total = sum(signs[name] * term for name, term in terms.items())
    assert "own_weight" in terms
    torch.testing.assert_close(total, value.detach(), rtol=1e-12, atol=1e-12)


def test_a_weight_makes_it_no_bound():
    assert made(corrected=True)[0].facts.bound
    assert not made(corrected=True, own_weight=2.0)[0].facts.bound

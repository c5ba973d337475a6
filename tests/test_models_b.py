"""JMVAE, TELBO, DMVAE, Nexus and CoDE-VAE: the authors' numbers (or a port's), the formulas by hand, the truth, and the traps.

Golden inputs are written by formulas (those of test_models_a), so that only numbers are kept, with source, commit and what was changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from inputs import DOUBLE, LIKELIHOODS, D, Decoder, Given, Leaves, W, likelihood_weight, wave
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from test_formulas import WORLDS, Hand, kl_normal, product
from test_models_a import SIZE, data_of, decodes, eps, kl, leaves, recorded
from torch import Tensor, nn
from worlds import Affine, World, fixed

from polyvae import Batch, InputError, Modality, build
from polyvae.core import noise
from polyvae.core.aggregate import consensus, product_of_experts, random_sizes
from polyvae.core.distributions import Normal
from polyvae.core.vae import MultimodalVAE
from polyvae.testing import example_model, plain_world, roles_world

WIDTH = 5  # of a joint network's features and of messages

# ---- golden ----------------------------------------------------------------------------------------------------------------------


def linear(name: str, out: int, into: int, phase: float) -> Leaves:
    return {
        f"{name}.weight": nn.Parameter(wave((out, into), phase)),
        f"{name}.bias": nn.Parameter(wave((out,), phase + 0.5)),
    }


def put(layer: nn.Module, of: Leaves, name: str) -> None:
    """The leaves as a layer's parameters."""
    layer.weight, layer.bias = of[f"{name}.weight"], of[f"{name}.bias"]


class Features(nn.Module):
    def __init__(self, of: Leaves, m: int) -> None:
        super().__init__()
        self.of = nn.ParameterList([of[f"{m}.features"]])

    def forward(self, x: Tensor) -> Tensor:
        return self.of[0]


def encoder(of: Leaves, m: int, in_shape: object, out: int) -> nn.Module:
    """What is given, or the features for the joint network."""
    return Features(of, m) if out == WIDTH else Given(of, m, in_shape, out)


def golden_model(name: str, case: dict, of: Leaves, **options: object) -> MultimodalVAE:
    specs = []
    for m in range(case["M"]):
        kind, scale = LIKELIHOODS[m % 2]
        specs.append(
            Modality(
                f"m{m}",
                (SIZE,),
                kind,
                private=case.get("private"),
                weight=likelihood_weight(m),
                params={"scale": scale},
                encoder=partial(encoder, of, m),
                decoder=partial(Decoder, of, m),
            )
        )
    return build(name, specs, latent=D, beta=case["beta"], **options).double()


def hold(
    model: MultimodalVAE, case: dict, of: Leaves, draws: dict[str, Tensor], constant: float = 0.0
) -> None:
    """The bound, summed over the batch, and all its gradients; relative error ≤ 1e-8. ``constant``: what a datum has more than theirs."""
    with noise.feed(draws):
        value = model(Batch.of({f"m{m}": x for m, x in enumerate(data_of(case["M"], case["B"]))})).value.sum()
    value.backward()
    assert float(value.detach()) - case["B"] * constant == pytest.approx(case["value"], rel=1e-8)
    assert set(case["gradients"]) == set(of)
    for key, leaf in of.items():
        expected = torch.tensor(case["gradients"][key], dtype=DOUBLE).view_as(leaf)
        ours = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        torch.testing.assert_close(
            ours,
            expected,
            rtol=1e-8,
            atol=1e-12 * float(expected.abs().max()),
            msg=lambda text, key=key: f"gradient of {key}: {text}",
        )


def with_joint(name: str, case: dict, **options: object) -> tuple[MultimodalVAE, Leaves]:
    of = leaves(case["M"], case["B"])
    of |= {f"{m}.features": nn.Parameter(wave((case["B"], WIDTH), 3.3 + m)) for m in range(case["M"])}
    of |= linear("loc", D, WIDTH, 0.2) | linear("raw", D, WIDTH, 0.3)
    model = golden_model(name, case, of, joint_width=WIDTH, **options)
    put(model.joint.loc, of, "loc")
    put(model.joint.raw, of, "raw")
    return model, of


@recorded("jmvae")
def test_jmvae_is_the_port(case):
    model, of = with_joint("jmvae", case, alpha=case["alpha"])
    hold(model, case, of, {"z": eps(0.15, case["B"], D)[None, None]})


@recorded("telbo")
def test_telbo_is_the_port_with_its_mistake_mended(case):
    model, of = with_joint("telbo", case, gamma=case["gamma"])
    hold(model, case, of, {"z": eps(0.15, 1 + case["M"], case["B"], D)[None]})


@recorded("dmvae")
def test_dmvae_is_the_authors(case):
    """Their weights of the aggregate density are r times ours: TC(z, w) = log q − Σ_d log q_d of C columns differs by (1 − C) log r."""
    M, B, n, tau = case["M"], case["B"], case["n"], case["total_correlation"]
    of = leaves(M, B, D, W)
    model = golden_model("dmvae", case, of, variant="published", n=n, total_correlation=tau)
    r = n * (B - 1) / (B * (n - 1))
    constant = (tau - 1) * (1 + M) * M * (1 - D - W) * math.log(r)
    hold(model, case, of, {"z": eps(0.15, 1 + M, B, D)[None], "w": eps(0.85, B, M * W)[None]}, constant)


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
            put(net.parts["told"][i], of, f"{m}.told.{i}")
    draws = {"w": eps(0.85, B, M * W)[None], "z": eps(0.15, B, D)[None], "told": torch.zeros(1, B, M * W)}
    hold(model, case, of, draws, M * W * (0.5 * math.log(gamma / math.pi) + gamma * math.log(2 * math.pi)))


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


# ---- the formulas, one datum, one view, one sample at a time ---------------------------------------------------------------------

NONE = np.zeros(0)


@torch.no_grad()
def joint_by_hand(hand: Hand) -> tuple[np.ndarray, np.ndarray]:
    """The joint network's, for a complete datum; the product of its experts for any other."""
    model = hand.model
    if len(hand.S) < len(model.encoded):
        return product([hand.z[m] for m in hand.S])
    total = 0
    for m in hand.S:
        name = hand.names[m]
        x = hand.batch.data[name][hand.b : hand.b + 1]
        if name in hand.batch.entries:
            x = x * hand.batch.entries[name][hand.b : hand.b + 1]
        total = total + model.modalities[name].parts["joint"](x)[0]
    hidden = total.clamp(min=0)
    scale = model.modalities[hand.names[0]].scale
    return model.joint.loc(hidden).numpy(), scale(model.joint.raw(hidden)).numpy()


@pytest.mark.parametrize("world", WORLDS)
def test_jmvae(world):
    hand = Hand(world, "jmvae", K=2, beta=1.5, alpha=0.3, joint_width=5)

    def value() -> float:
        q = joint_by_hand(hand)
        total = -hand.beta * (kl_normal(*q) + 0.3 * sum(kl(q, hand.z[m]) for m in hand.S))
        for k in range(2):
            z = q[0] + q[1] * hand.draws["z"][k, 0, hand.b]
            total += sum(hand.log_x(n, z, NONE) for n in filter(partial(decodes, hand), hand.A)) / 2
        return total

    hand.check(value)


@pytest.mark.parametrize("world", WORLDS)
def test_telbo(world):
    hand = Hand(world, "telbo", K=2, beta=1.5, gamma=3.0, joint_width=5)
    sources = hand.model.encoded

    def elbo(v: int, q, members: list[int], gamma: float) -> float:
        total = -hand.beta * kl_normal(*q)
        for k in range(2):
            z = q[0] + q[1] * hand.draws["z"][k, v, hand.b]
            told = [n for n in hand.A if decodes(hand, n) and (n in members or n not in sources)]
            total += gamma * sum(hand.log_x(n, z, NONE) for n in told) / 2
        return total

    def value() -> float:
        total = sum(elbo(1 + sources.index(m), hand.z[m], [m], 3.0) for m in hand.S)
        return total + (elbo(0, joint_by_hand(hand), hand.S, 1.0) if len(hand.S) > 1 else 0)

    hand.check(value)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("variant", "tau", "n"), [("paper", 1.0, None), ("paper", 3.0, None), ("published", 0.5, 50)]
)
def test_dmvae(world, variant, tau, n):
    """The aggregate density by loops over all data that have the view and the private code in question."""
    hand = Hand(world, "dmvae", K=2, beta=1.5, variant=variant, total_correlation=tau, n=n)
    model, sources = hand.model, hand.model.encoded
    said: list[dict] = []  # of each datum: what each view and each w_m is
    for b in range(hand.batch.size):
        hand.at(b)
        several = len(hand.S) > 1
        everything = (
            {}
            if not hand.S
            else {0: product([hand.z[m] for m in hand.S] + ([(np.zeros(2), np.ones(2))] if several else []))}
        )
        said.append(
            {"views": everything | {1 + sources.index(m): hand.z[m] for m in hand.S}, "w": dict(hand.w)}
        )

    def correlation(u: np.ndarray, v: int, m: int) -> float:
        """TC of u = (z_v, w_m) of the datum that is looked at."""
        members = [b for b, other in enumerate(said) if v in other["views"] and m in other["w"]]
        N, B = n or len(members), len(members)
        rows = []
        for b in members:
            loc, scale = (
                np.concatenate(pair) for pair in zip(said[b]["views"][v], said[b]["w"][m], strict=True)
            )
            share = 1 / N if b == hand.b else (N - 1) / (N * (B - 1))
            rows.append(
                (-0.5 * ((u - loc) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi), np.log(share))
            )
        whole = logsumexp([each.sum() + log_share for each, log_share in rows])
        return whole - sum(
            logsumexp([each[d] + log_share for each, log_share in rows]) for d in range(len(u))
        )

    def value() -> float:
        total = 0.0
        for v, (loc, scale) in said[hand.b]["views"].items():
            for k in range(2):
                z = loc + scale * hand.draws["z"][k, v, hand.b]
                count = len(hand.S) if variant == "published" else 1
                total -= hand.beta * count * (hand.log(z, loc, scale) - hand.log(z, 0, 1)) / 2
                for m in hand.A:
                    noise_w = hand.draws["w"][k, hand.b, model.columns[m]]
                    w_loc, w_scale = hand.w.get(m, (np.zeros_like(noise_w), np.ones_like(noise_w)))
                    w = w_loc + w_scale * noise_w
                    if m in hand.S:
                        total -= hand.beta * (hand.log(w, w_loc, w_scale) - hand.log(w, 0, 1)) / 2
                        if tau != 1:
                            total -= hand.beta * (tau - 1) * correlation(np.concatenate([z, w]), v, m) / 2
                    if decodes(hand, m) and (v or variant == "paper"):
                        total += hand.log_x(m, z, w) / 2
        return total

    hand.check(value)


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
        return model.modalities[hand.names[m]].parts["told"](torch.from_numpy(z)).numpy()

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
                code = w[n] if n in w else told(n, z) + 0.5 * hand.draws["told"][k, hand.b, model.columns[n]]
                total += hand.log_x(n, NONE, code) / 2
        return total

    hand.check(value)
    assert bool(drop) == any(dropped_from)


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


# ---- CoDE-VAE --------------------------------------------------------------------------------------------------------------------


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


def small(count: int, **options: object) -> list[Modality]:
    return [Modality(f"m{m}", (2,), params={"hidden": (3,)}, **options) for m in range(count)]


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


# ---- TELBO -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_unimodal_variances_of_telbo_do_not_collapse(name):
    """A unimodal ELBO in a linear world is log σ − σ²/(2 σ*²) + const in the expert's scale σ, with σ* the exact posterior's.

    Log p(x | z) is quadratic in z, so two draws at ±1 give its mean exactly. A KL with another's log-variance lacks the 1/σ: its slope
    is negative at every σ, and σ goes to 0.
    """
    world = World(experts="exact")
    model = world.model("telbo", K=2, joint_width=2)
    batch = Batch.of(world.data(1)).observe(name)
    m = world.names.index(name)
    exact = float(world.posterior(m)[1][0])
    net = model.modalities[name]
    for raw in (-6.0, -2.0, 0.5):
        net.encoder.bias.data[1] = raw
        sigma = net.encode(batch.data[name]).z.scale
        slope = float(torch.autograd.grad(sigma.sum(), net.encoder.bias)[0][1])
        model.zero_grad()
        with noise.feed({"z": torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 4, 1, 1)}):
            model(batch).value.sum().backward()
        sigma = float(sigma)
        assert float(net.encoder.bias.grad[1]) == pytest.approx(
            slope * (1 / sigma - sigma / exact**2), rel=1e-6
        )
        assert (float(net.encoder.bias.grad[1]) > 0) == (sigma < exact)


# ---- DMVAE -----------------------------------------------------------------------------------------------------------------------


def test_the_likelihood_of_dmvae_is_one_number_whatever_the_chunking():
    """All within 5 standard errors of the truth, however many data are decoded at a time."""
    world = World(private=1)
    model = world.model("dmvae")
    batch = world.every_mask()
    truth = world.log_p(batch)
    for rows in (1, 2000, 6000, 100_000):
        estimate = model.log_marginal(batch, K=2000, rows=rows)
        assert (np.abs(estimate.value.numpy() - truth) <= 5 * estimate.standard_error.numpy()).all()
        assert (estimate.standard_error < 0.2).all()


def test_the_parts_of_dmvaes_divergence_add_up_to_it():
    """With τ = 1 the aggregate density cancels: a batch equals its rows; with τ ≠ 1 it does not."""
    specs = plain_world()
    for tau, coupled in ((1.0, False), (3.0, True)):
        model = example_model(
            lambda modalities, tau=tau: build("dmvae", modalities, latent=2, total_correlation=tau), specs
        )
        batch = Batch.of(
            {
                name: net.likelihood.sample(torch.randn(4, *net.likelihood.output, dtype=DOUBLE)).detach()
                for name, net in model.modalities.items()
            }
        )
        with noise.record() as draws:
            whole = model(batch).value
        with noise.feed(
            {
                name: draw.value[..., :1, :]
                for name, draw in draws.items()
                if not name.startswith("components")
            }
        ):
            alone = model(batch.rows(slice(0, 1))).value
        assert (abs(float(whole[0] - alone[0])) > 1e-3) == coupled
        if not coupled:
            assert float(whole[0]) == pytest.approx(float(alone[0]), rel=1e-12)


def test_independent_codes_have_no_total_correlation():
    """One datum alone, whose columns are independent given it, and a data set that is one posterior, many times: TC = 0, so τ is free."""
    world = World(private=1)
    batch = Batch.of({name: x.expand(5, -1) for name, x in world.data(1).items()})
    draws = {"z": torch.randn(1, 4, 5, 1), "w": torch.randn(1, 5, 3)}
    values = []
    for tau in (1.0, 7.0):
        with noise.feed(draws):
            values.append(world.model("dmvae", total_correlation=tau, n=1000)(batch).value.detach())
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)


# ---- Nexus -----------------------------------------------------------------------------------------------------------------------


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
    assert set(draws) == {"w", "z", "told"}
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
        net.parts["told"] = nn.Sequential(Affine(G[m], np.zeros(1)))
    model.prior.maps = tuple(net.parts["told"] for net in model.modalities.values())
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


# ---- the truth -------------------------------------------------------------------------------------------------------------------

JOINT = {"joint_width": 2}  # the linear world's encoders say two numbers, whatever they are asked


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("jmvae", {}, JOINT),
        ("telbo", {}, JOINT),
        ("dmvae", {"private": 1}, {}),
        ("code-vae", {}, {}),
        ("code-vae", {"private": 1}, {}),
    ],
)
def test_the_likelihood_is_the_truth(name, shape, options):
    world = World(**shape)
    batch = world.every_mask()
    estimate = world.model(name, **options).log_marginal(batch, K=4000)
    error, spread = np.abs(estimate.value.numpy() - world.log_p(batch)), estimate.standard_error.numpy()
    assert (error <= 5 * spread).all(), (error / spread).round(2)
    assert (spread < 0.1).all(), spread.round(3)


def held_below(
    model: MultimodalVAE, world: World, truth: Callable[[Batch], np.ndarray], copies: int = 800
) -> None:
    """The bound's mean, for each of the seven masks, is at most ``truth`` (and 5 standard errors)."""
    with torch.no_grad():
        value = model(world.every_mask(copies)).value.view(7, copies)
    mean, spread = value.mean(1).numpy(), (value.std(1) / copies**0.5).numpy()
    most = truth(world.every_mask())
    assert (mean <= most + 5 * spread + 1e-9).all(), (mean - most).round(3)


@pytest.mark.parametrize("experts", ["exact", "rough"])
@pytest.mark.parametrize(
    ("name", "private", "options"),
    [
        ("jmvae", 0, JOINT),
        ("jmvae", 0, JOINT | {"alpha": 0.0, "beta": 2.5}),
        ("code-vae", 0, {"entropy": 0.0}),
        ("code-vae", 1, {"entropy": 0.0, "correlation": -0.3, "K": 3}),
        ("code-vae", 0, {"entropy": 0.0, "beta": 2.5}),
    ],
)
def test_a_bound_stays_below_the_truth(name, private, options, experts):
    world = World(private=private, experts=experts)
    model = world.model(name, **options)
    if name == "code-vae":
        model.logits.data = torch.randn(7, dtype=DOUBLE)
    held_below(model, world, world.log_p)


def test_the_elbos_of_telbo_stay_below_their_truths():
    """Each is one of its own set: log p(x_A), where there is more than one, and Σ_m log p(x_m)."""
    world = World()

    def truth(batch: Batch) -> np.ndarray:
        alone = sum(
            np.where(batch.mask[m], world.log_p(batch.observe(name)), 0) for m, name in enumerate(world.names)
        )
        return alone + np.where(batch.mask.sum(0) > 1, world.log_p(batch), 0)

    held_below(world.model("telbo", **JOINT), world, truth)


def test_the_elbos_of_dmvae_stay_below_their_truths():
    """Every view decodes all that was observed: |A| + 1 ELBOs of log p(x_A)."""
    world = World(private=1)
    held_below(
        world.model("dmvae"), world, lambda batch: (1 + batch.mask.sum(0).numpy()) * world.log_p(batch)
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jmvae", {"alpha": -1.0}, "jmvae: got alpha=-1.0; expected a number, 0 or more"),
        ("telbo", {"gamma": -1.0}, "telbo: got gamma=-1.0; expected a number, 0 or more"),
        ("jmvae", {"joint_width": 0}, "jmvae: got joint_width=0; expected"),
        ("dmvae", {"n": 0}, "dmvae: got n=0; expected"),
        ("dmvae", {"variant": "publishd"}, "dmvae: unknown variant 'publishd'; did you mean 'published'"),
        ("nexus", {"gamma": 0.0}, "nexus: got gamma=0.0; expected a number above 0"),
        ("nexus", {"drop": 1.5}, "nexus: got drop=1.5; expected a probability"),
    ],
)
def test_options_that_cannot_be(name, options, message):
    with pytest.raises(InputError) as problem:
        build(name, small(2), **options)
    assert str(problem.value).startswith(message)
    assert "\n" not in str(problem.value)

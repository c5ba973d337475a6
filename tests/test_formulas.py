"""Every bound, computed once more from its paper's formula: one datum, one expert, one sample at a time, with scipy's densities."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import laplace, norm

from polyvae import build
from polyvae.core import noise
from polyvae.testing import example_batch, example_model, plain_world, roles_world, uneven

WORLDS = {"plain": plain_world, "roles": roles_world}
FAMILY = {"normal": norm, "laplace": laplace}


class Hand:
    """A model, a batch and its draws, seen one datum at a time. ``A``: what was observed, ``S``: of that, what is encoded."""

    def __init__(self, world: str, name: str, latent: int = 2, **options) -> None:
        def make(specs):
            return build(name, specs, latent=latent, **options)

        self.model = example_model(make, uneven(make, WORLDS[world]()))
        self.batch = example_batch(self.model)
        self.family = FAMILY[self.model.family]
        self.names = list(self.model.modalities)
        self.weights = [spec.weight for spec in self.model.specs]
        self.warm = 0.7
        self.beta = self.model.beta * self.warm
        with torch.no_grad(), noise.record() as draws:
            self.bound = self.model(self.batch, self.warm)
        self.draws = {key: draw.value.numpy().astype(float) for key, draw in draws.items()}

    @torch.no_grad()
    def at(self, b: int) -> None:
        """Look at datum b: its experts' locations and scales."""
        self.b = b
        self.A = [m for m in range(len(self.names)) if self.batch.mask[m, b]]
        self.S = [m for m in self.A if m in self.model.encoded]
        self.z, self.w = {}, {}
        for m in self.S:
            name = self.names[m]
            gaps = self.batch.entries.get(name)
            codes = self.model.modalities[name].encode(
                self.batch.data[name][b : b + 1], None if gaps is None else gaps[b : b + 1]
            )
            self.z[m] = codes.z.loc[0].numpy(), codes.z.scale[0].numpy()
            self.w[m] = codes.w.loc[0].numpy(), codes.w.scale[0].numpy()

    @torch.no_grad()
    def log_x(self, n: int, z: np.ndarray, w_n: np.ndarray) -> float:
        """s_n log p(x_n | z, w_n)."""
        name = self.names[n]
        gaps = self.batch.entries.get(name)
        code = torch.from_numpy(np.concatenate([z, w_n]))[None]
        b = slice(self.b, self.b + 1)
        log_x = self.model.modalities[name].log_prob(
            self.batch.data[name][b], code, None if gaps is None else gaps[b]
        )
        return self.weights[n] * float(log_x)

    def log(self, x: np.ndarray, loc, scale) -> float:
        return float(self.family.logpdf(x, loc, scale).sum())

    def mixture(self, z: np.ndarray) -> float:
        """log q(z | X), the mean of the observed experts' densities."""
        return logsumexp([self.log(z, *self.z[m]) for m in self.S]) - np.log(len(self.S))

    def check(self, value_of) -> None:
        for b in range(self.batch.size):
            self.at(b)
            expected = value_of() if self.S else 0.0
            assert float(self.bound.value[b]) == pytest.approx(expected, rel=1e-10, abs=1e-10), f"datum {b}"


def over_k(objective: str, log_weights) -> float:
    return (
        float(np.mean(log_weights))
        if objective == "elbo"
        else float(logsumexp(log_weights) - np.log(len(log_weights)))
    )


def kl_normal(loc, scale) -> float:
    return float(0.5 * (scale**2 + loc**2 - 1 - 2 * np.log(scale)).sum())


def kl_laplace(loc, scale) -> float:
    return float((scale * np.exp(-np.abs(loc) / scale) + np.abs(loc) - 1 - np.log(scale)).sum())


def product(experts) -> tuple[np.ndarray, np.ndarray]:
    precision = sum(scale**-2 for _, scale in experts)
    return sum(loc * scale**-2 for loc, scale in experts) / precision, precision**-0.5


# ---- vae -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("objective", "K", "family"),
    [("elbo", 2, "normal"), ("elbo", 1, "laplace"), ("iwae", 3, "laplace"), ("dreg", 3, "normal")],
)
def test_vae(world, objective, K, family):
    hand = Hand(world, "vae", objective=objective, K=K, family=family, beta=1.5)
    model = hand.model

    def value() -> float:
        total = 0.0
        for m in hand.A:
            loc, scale = hand.w.get(m, (np.zeros(model.columns[m].stop - model.columns[m].start), 1.0))
            scale = scale * np.ones_like(loc)
            weights = []
            for k in range(K):
                w = loc + scale * hand.draws["w"][k, 0, hand.b, model.columns[m]]
                log_x = 0.0 if model.specs[m].role == "source" else hand.log_x(m, np.zeros(0), w)
                exact = kl_normal if family == "normal" else kl_laplace
                kl = exact(loc, scale) if objective == "elbo" else hand.log(w, loc, scale) - hand.log(w, 0, 1)
                weights.append(log_x - hand.beta * kl)
            total += over_k(objective, weights)
        return total

    hand.check(value)


# ---- mmvae -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("objective", "K", "tight", "family", "learn"),
    [
        ("elbo", 2, False, "laplace", False),
        ("iwae", 3, False, "normal", True),
        ("iwae", 3, True, "laplace", True),
        ("dreg", 2, True, "normal", False),
    ],
)
def test_mmvae(world, objective, K, tight, family, learn):
    hand = Hand(
        world, "mmvae", objective=objective, K=K, tight=tight, family=family, learn_prior=learn, beta=1.5
    )
    prior = hand.model.prior.z().scale.detach().numpy()

    def value() -> float:
        table = []
        for m in hand.S:
            v = hand.model.encoded.index(m)
            weights = []
            for k in range(K):
                z = hand.z[m][0] + hand.z[m][1] * hand.draws["z"][k, v, hand.b]
                log_x = sum(
                    hand.log_x(n, z, np.zeros(0)) for n in hand.A if hand.model.specs[n].role != "source"
                )
                weights.append(log_x + hand.beta * (hand.log(z, 0, prior) - hand.mixture(z)))
            table.append(weights)
        if tight:
            return float(logsumexp(table) - np.log(np.size(table)))
        return float(np.mean([over_k(objective, weights) for weights in table]))

    hand.check(value)


# ---- mvae ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("subsets", "K"), [(0, 1), (2, 2)])
def test_mvae(world, subsets, K):
    hand = Hand(world, "mvae", subsets=subsets, K=K, beta=1.5)

    def drawn(j: int) -> list[int]:
        size = int(hand.draws["subset.size"][j, hand.b] * len(hand.S)) + 1
        return sorted(hand.S, key=lambda m: hand.draws["subset"][j, hand.model.encoded.index(m), hand.b])[
            :size
        ]

    def value() -> float:
        views = {0: hand.S}
        views |= {1 + hand.model.encoded.index(m): [m] for m in hand.S}
        views |= {1 + len(hand.model.encoded) + j: drawn(j) for j in range(subsets)}
        total = 0.0
        for v, members in views.items():
            loc, scale = product([(np.zeros(2), np.ones(2)), *(hand.z[m] for m in members)])
            for k in range(K):
                z = loc + scale * hand.draws["z"][k, v, hand.b]
                targets = [
                    n
                    for n in hand.A
                    if (n in members or n not in hand.model.encoded) and hand.model.specs[n].role != "source"
                ]
                total += sum(hand.log_x(n, z, np.zeros(0)) for n in targets) / K
            total -= hand.beta * kl_normal(loc, scale)
        return total

    hand.check(value)


# ---- mopoe -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [0, 2])
@pytest.mark.parametrize(
    ("stratified", "prior_expert"), [(True, "none"), (False, "none"), (True, "full"), (False, "full")]
)
def test_mopoe(stratified, prior_expert, private, monkeypatch):
    monkeypatch.setitem(
        WORLDS, "private", lambda: tuple(replace(spec, private=private) for spec in roles_world())
    )
    hand = Hand("private", "mopoe", stratified=stratified, K=2, prior_expert=prior_expert, beta=1.5)
    model = hand.model
    sources = range(len(model.encoded))
    everyone = [subset for size in range(1, len(sources) + 1) for subset in combinations(sources, size)]

    def value() -> float:
        here = [model.encoded.index(m) for m in hand.S]
        active = [v for v, subset in enumerate(everyone) if set(subset) <= set(here)]
        made = {}
        for v in active:
            experts = [hand.z[model.encoded[i]] for i in everyone[v]]
            full = prior_expert == "full" and len(experts) == len(hand.S)
            made[v] = product([*experts, (np.zeros(2), np.ones(2))] if full else experts)
        total = -hand.beta * float(np.mean([kl_normal(*made[v]) for v in active]))
        total -= hand.beta * sum(kl_normal(*hand.w[m]) for m in hand.S)
        for k in range(2):
            views = active if stratified else [active[int(hand.draws["component"][k, hand.b] * len(active))]]
            for v in views:
                strip = v if stratified else 0
                eps = hand.draws["z"][k, v, hand.b] if stratified else hand.draws["z"][k, hand.b]
                z = made[v][0] + made[v][1] * eps
                for n in hand.A:
                    if model.specs[n].role == "source":
                        continue
                    loc, scale = hand.w.get(n, (np.zeros(private), np.ones(private)))
                    w = loc + scale * hand.draws["w"][k, strip, hand.b, model.columns[n]]
                    total += hand.log_x(n, z, w) / len(views) / 2
        return total

    hand.check(value)


# ---- mmvae+ ----------------------------------------------------------------------------------------------------------------------

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
]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("options", PLUS, ids=["-".join(map(str, options.values())) for options in PLUS])
def test_mmvaeplus(world, options):
    hand = Hand(world, "mmvae+", beta=1.5, **options)
    model = hand.model
    prior = model.prior
    if "prior_components" in options:
        share, at = prior.logits.detach().softmax(0).log().numpy(), prior.loc.detach().numpy()
    r_scale = np.ones(len(model.owner))
    if model.raw_r is not None:
        r_scale = np.concatenate(
            [
                model.modalities[name].scale(model.raw_r[span]).detach().numpy()
                for name, span in zip(hand.names, model.columns, strict=True)
            ]
        )

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
                total += hand.beta * (hand.log(w, 0, 1) - hand.log(w, loc, scale))
            if model.specs[n].role != "source":
                total += hand.log_x(n, z, w)
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

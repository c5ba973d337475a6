"""A model seen one sample, one expert and one draw at a time, for formulas computed with scipy's densities."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import laplace, norm

from polyvae import build
from polyvae.core import noise
from polyvae.testing import (
    example_batch,
    example_model,
    plain_world,
    roles_world,
    uneven,
)

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


def kl(a, b) -> float:
    """KL(a || b) of normals (location, scale), by the textbook."""
    return float((np.log(b[1] / a[1]) + (a[1] ** 2 + (a[0] - b[0]) ** 2) / (2 * b[1] ** 2) - 0.5).sum())


def decodes(hand: Hand, n: int) -> bool:
    return hand.model.specs[n].role != "input"


def is_target(hand: Hand, n: int) -> bool:
    return n not in hand.model.encoded


UNIT = np.zeros(2), np.ones(2)


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


def bhattacharyya(a, b) -> float:
    """∫ √(N_a N_b), by its closed form: Π_d √(2 σ τ / (σ² + τ²)) exp(−(μ − ν)² / 4(σ² + τ²))."""
    (mu, sigma), (nu, tau) = a, b
    total = sigma**2 + tau**2
    return float(np.prod(np.sqrt(2 * sigma * tau / total) * np.exp(-((mu - nu) ** 2) / (4 * total))))


def pool(experts: dict) -> dict:
    """subset -> (weight, loc, scale): √(q_m q_n) has half the precisions' sum as its precision."""
    parts = {(m,): (1.0, *experts[m]) for m in experts}
    for m, n in combinations(experts, 2):
        precision = (experts[m][1] ** -2 + experts[n][1] ** -2) / 2
        loc = (experts[m][0] * experts[m][1] ** -2 + experts[n][0] * experts[n][1] ** -2) / 2 / precision
        parts[m, n] = (2 * bhattacharyya(experts[m], experts[n]), loc, precision**-0.5)
    total = sum(weight for weight, _, _ in parts.values())
    return {key: (weight / total, loc, scale) for key, (weight, loc, scale) in parts.items()}


def auxiliary_scales(model) -> np.ndarray:
    if model.raw_r is None:
        return np.ones(len(model.owner))
    nets = model.modalities.values()
    return np.concatenate(
        [net.scale(model.raw_r[span]).detach().numpy() for net, span in zip(nets, model.columns, strict=True)]
    )


def codes_of(hand: Hand, n: int, strip: tuple[int, int]) -> np.ndarray:
    """w_n of one sample and view: the encoder's where there is one, the prior's elsewhere."""
    eps = hand.draws["w"][*strip, hand.b, hand.model.columns[n]]
    loc, scale = hand.w.get(n, (np.zeros_like(eps), np.ones_like(eps)))
    return loc + scale * eps

"""Models in which z generates the private latents: a linear world of two levels, and the relation by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from polyvae import Batch, Modality, build
from polyvae.core import noise
from polyvae.core.vae import MultimodalVAE
from tests.helpers.golden import DOUBLE
from tests.helpers.hand import Hand
from tests.helpers.worlds import Affine, World, fixed, raw

HALF_LOG_TWO_PI = 0.5 * np.log(2 * np.pi)


def kl_between(loc, scale, other, width) -> float:
    """KL(N(loc, scale²) || N(other, width²)), the columns summed."""
    return float((np.log(width / scale) + (scale**2 + (loc - other) ** 2) / (2 * width**2) - 0.5).sum())


@torch.no_grad()
def told(hand: Hand, m: int, z: np.ndarray) -> np.ndarray:
    """g_m(z)."""
    return hand.model.modalities[hand.names[m]].parts["top_down"](torch.from_numpy(z)).numpy()


def says(*numbers: float):
    """An encoder that says these numbers whatever it is shown: locations as they are, scales as the softplus map takes them."""
    return partial(fixed, np.zeros((len(numbers), 1)), np.array(numbers))


def fed(model: MultimodalVAE, batch: Batch, draws: Mapping[str, torch.Tensor]) -> float:
    with torch.no_grad(), noise.feed(draws):
        return float(model(batch).value)


PLUS_MINUS = torch.tensor(
    [1.0, -1.0], dtype=DOUBLE
)  # mean 0 and variance 1: the mean of a quadratic over both is its expectation


def one_modality(name: str, decoder: list[float], **parts: Affine) -> MultimodalVAE:
    """x = 1 from p(x | ·) = N(decoder · code, 1); experts N(1, 1/3) of z where the encoder says one, and N(2, 1/2) or N(2, 1) of w."""
    said = {
        "relational": [2.0, float(raw(np.array(0.5**0.5)))],
        "hmvae": [1.0, float(raw(np.array(3**-0.5))), 2.0, float(raw(np.array(1.0)))],
    }
    spec = Modality(
        "x",
        (1,),
        params={"scale": 1.0},
        encoder=says(*said[name]),
        decoder=partial(fixed, np.array([decoder]), np.zeros(1)),
    )
    model = build(name, [spec], latent=1, K=4, beta=0.5, hidden=()).double()
    for part, module in parts.items():
        model.modalities["x"].parts[part] = module
    model.prior.maps = (model.modalities["x"].parts["top_down"],)
    return model


TELLS_ITSELF = np.array([[1.0]]), np.zeros(1)  # g(z) = z


BOTH_SIGNS = PLUS_MINUS.repeat_interleave(2), PLUS_MINUS.repeat(2)  # of z and of w: all four pairs


TOLD = [np.array([[0.8]]), np.array([[-1.1]]), np.array([[0.6]])]


def two_levels(name: str, experts: str, blind: bool, **options: object) -> tuple[World, MultimodalVAE]:
    """w_m = G_m z + noise of scale 1 and x_m = A_m z + C_m w_m + b_m + noise: in log p(x), loadings A + C G of z and C of that noise.

    ``blind``: decoders do not look at z, A = 0. Experts are those of the world with these loadings, in which w_m is the noise alone; with
    "factor" that of w_m is p(x_m | w_m) as a density of w_m, exact where decoders are blind.
    """
    world = World(private=1, experts=experts)
    seen = [0 * A if blind else A for A in world.A]
    world.A = [A + C @ G for A, C, G in zip(seen, world.C, TOLD, strict=True)]
    specs = []
    for m, spec in enumerate(world.modalities()):
        weight, bias = world.encoder(m)
        if experts == "factor":
            strength = float((world.C[m].T @ world.C[m]).item()) / world.s[m] ** 2
            gain = world.C[m].T / (strength * world.s[m] ** 2)
            weight = np.concatenate([weight[:2], gain, 0 * gain])
            bias = np.concatenate([bias[:2], -gain @ world.b[m], raw(np.array([strength**-0.5]))])
        if name == "relational":
            weight, bias = weight[2:], bias[2:]
        decoder = world.C[m] if name == "relational" else np.concatenate([seen[m], world.C[m]], 1)
        specs.append(
            replace(spec, encoder=partial(fixed, weight, bias), decoder=partial(fixed, decoder, world.b[m]))
        )
    model = build(name, specs, latent=1, hidden=(), **options).double()
    for net, G in zip(model.modalities.values(), TOLD, strict=True):
        net.parts["top_down"] = Affine(G, np.zeros(1))
        if name == "relational":
            net.parts["relation"] = Affine(
                np.concatenate([G.T / (1 + G.T @ G), 0 * G]), np.array([0.1, -0.3])
            )
    model.prior.maps = tuple(net.parts["top_down"] for net in model.modalities.values())
    return world, model


LEVELS = [("relational", True), ("hmvae", True), ("hmvae", False)]


def assert_moments(
    made: dict[str, torch.Tensor],
    world: World,
    x: dict[str, torch.Tensor],
    given: tuple[str, ...],
    effective: int,
) -> None:
    """The draws [K, B, d] have the conditional's mean and variance, within 5 standard errors of ``effective`` normal draws."""
    for name in world.names:
        mean, variance = world.conditional(x, given, name)
        gap = np.abs(made[name].mean(0).numpy() - mean) / np.sqrt(variance / effective)
        assert (gap <= 5).all(), (name, gap.round(2))
        gap = np.abs(made[name].var(0).numpy() / variance - 1) / np.sqrt(2 / effective)
        assert (gap <= 5).all(), (name, gap.round(2))

"""TELBO: the port's numbers, the formula, its ELBOs below their truths, unimodal variances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyvae import Batch
from polyvae.core import noise
from tests.helpers.golden import D, eps, recorded
from tests.helpers.golden_joint import hold, with_joint
from tests.helpers.hand import NONE, WORLDS, Hand, decodes, joint_by_hand, kl_normal
from tests.helpers.truth import JOINT, held_below
from tests.helpers.worlds import World


@recorded("telbo")
def test_telbo_is_the_port_with_its_mistake_mended(case):
    model, of = with_joint("telbo", case, gamma=case["gamma"])
    hold(model, case, of, {"z": eps(0.15, 1 + case["M"], case["B"], D)[None]})


@pytest.mark.parametrize("world", WORLDS)
def test_telbo(world):
    hand = Hand(world, "telbo", K=2, beta=1.5, gamma=3.0, joint_width=5)
    sources = hand.model.encoded

    def elbo(v: int, q, members: list[int], gamma: float) -> float:
        told = [n for n in hand.A if decodes(hand, n) and (n in members or n not in sources)]
        if not told:  # the ELBO of nothing is 0
            return 0.0
        total = -hand.beta * kl_normal(*q)
        for k in range(2):
            z = q[0] + q[1] * hand.draws["z"][k, v, hand.b]
            total += gamma * sum(hand.log_x(n, z, NONE) for n in told) / 2
        return total

    def value() -> float:
        total = sum(elbo(1 + sources.index(m), hand.z[m], [m], 3.0) for m in hand.S)
        return total + (elbo(0, joint_by_hand(hand), hand.S, 1.0) if len(hand.S) > 1 else 0)

    hand.check(value)


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


def test_the_elbos_of_telbo_stay_below_their_truths():
    """Each is one of its own set: log p(x_A), where there is more than one, and Σ_m log p(x_m)."""
    world = World()

    def truth(batch: Batch) -> np.ndarray:
        alone = sum(
            np.where(batch.mask[m], world.log_p(batch.observe(name)), 0) for m, name in enumerate(world.names)
        )
        return alone + np.where(batch.mask.sum(0) > 1, world.log_p(batch), 0)

    held_below(world.model("telbo", **JOINT), world, truth)

"""JMVAE: the port's numbers and the formula."""

from __future__ import annotations

from functools import partial

import pytest

from tests.helpers.golden import D, eps, recorded
from tests.helpers.golden_joint import hold, with_joint
from tests.helpers.hand import NONE, WORLDS, Hand, decodes, joint_by_hand, kl, kl_normal


@recorded("jmvae")
def test_jmvae_is_the_port(case):
    model, of = with_joint("jmvae", case, alpha=case["alpha"])
    hold(model, case, of, {"z": eps(0.15, case["B"], D)[None, None]})


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

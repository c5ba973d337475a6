"""MVTCAE: the authors' numbers, the formula, the bound without its conditional bottlenecks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.golden import D, eps, hold_golden, recorded
from tests.helpers.hand import WORLDS, Hand, decodes, kl, kl_normal, product
from tests.helpers.truth import expected_bound
from tests.helpers.worlds import World


@recorded("mvtcae")
def test_mvtcae_is_the_authors(case):
    hold_golden("mvtcae", case, {"z": eps(0.15, 1, 1, case["B"], D)}, alpha=case["alpha"])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("alpha", "K"), [(5 / 6, 1), (0.3, 2), (0.0, 1), (1.0, 1)])
def test_mvtcae(world, alpha, K):
    """As its derivation: (1 − α) of the joint bottleneck and α/M of each conditional one, which predicts all the others."""
    hand = Hand(world, "mvtcae", alpha=alpha, K=K, beta=1.5)

    def value() -> float:
        q, count = product([hand.z[m] for m in hand.S]), len(hand.S)
        total = -hand.beta * (1 - alpha) * kl_normal(*q)
        for k in range(K):
            z = q[0] + q[1] * hand.draws["z"][k, 0, hand.b]
            log_x = {n: hand.log_x(n, z, np.zeros(0)) / K for n in hand.A if decodes(hand, n)}
            total += (1 - alpha) * sum(log_x.values())
            total += sum(alpha / count * log for m in hand.S for n, log in log_x.items() if n != m)
        return total - hand.beta * alpha / count * sum(kl(q, hand.z[m]) for m in hand.S)

    hand.check(value)


@pytest.mark.parametrize("experts", ["exact", "rough"])
@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_mvtcae_without_its_conditional_bottlenecks_is_a_bound(beta, experts):
    world = World(experts=experts)
    truth = world.log_p(world.every_mask())
    mean, spread = expected_bound(world.model("mvtcae", alpha=0.0, beta=beta), world)
    assert (mean <= truth + 5 * spread).all(), (mean - truth).round(3)

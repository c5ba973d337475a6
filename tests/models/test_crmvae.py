"""CRMVAE: the port's numbers and the formula."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.golden import D, eps, hold_golden, recorded
from tests.helpers.hand import WORLDS, Hand, decodes, is_target, kl, kl_normal, product


@recorded("crmvae")
def test_crmvae_is_the_port(case):
    hold_golden("crmvae", case, {"z": eps(0.15, 1, 1 + case["M"], case["B"], D)}, variant="multivae")


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("variant", "K"), [("paper", 2), ("multivae", 1)])
def test_crmvae(world, variant, K):
    hand = Hand(world, "crmvae", variant=variant, K=K, beta=1.5)

    def expected(q, v: int, targets: list[int]) -> float:
        draws = [q[0] + q[1] * hand.draws["z"][k, v, hand.b] for k in range(K)]
        return float(
            np.mean([sum(hand.log_x(n, z, np.zeros(0)) for n in targets if decodes(hand, n)) for z in draws])
        )

    def value() -> float:
        q, others = product([hand.z[m] for m in hand.S]), [n for n in hand.A if is_target(hand, n)]
        half = 0.5 if variant == "multivae" else 1
        # The ELBO of nothing is 0: that of an input where no target was observed.
        total = (half * expected(q, 0, hand.A) - hand.beta * kl_normal(*q)) * any(
            decodes(hand, n) for n in hand.A
        )
        for m in hand.S:
            total += half * expected(
                hand.z[m], 1 + hand.model.encoded.index(m), [m, *others]
            ) - hand.beta * kl(q, hand.z[m])
            if variant == "paper" and (others or decodes(hand, m)):
                total -= hand.beta * kl_normal(*hand.z[m])
        return total / (1 + len(hand.S))

    hand.check(value)

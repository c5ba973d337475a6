"""MVAE: the formula."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.hand import WORLDS, Hand, kl_normal, product


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
            targets = [
                n
                for n in hand.A
                if (n in members or n not in hand.model.encoded) and hand.model.specs[n].role != "input"
            ]
            if not targets:  # the ELBO of nothing is 0
                continue
            loc, scale = product([(np.zeros(2), np.ones(2)), *(hand.z[m] for m in members)])
            for k in range(K):
                z = loc + scale * hand.draws["z"][k, v, hand.b]
                total += sum(hand.log_x(n, z, np.zeros(0)) for n in targets) / K
            total -= hand.beta * kl_normal(loc, scale)
        return total

    hand.check(value)

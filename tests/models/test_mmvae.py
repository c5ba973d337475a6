"""MMVAE: the formula."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from tests.helpers.hand import WORLDS, Hand, over_k


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
                    hand.log_x(n, z, np.zeros(0)) for n in hand.A if hand.model.specs[n].role != "input"
                )
                weights.append(log_x + hand.beta * (hand.log(z, 0, prior) - hand.mixture(z)))
            table.append(weights)
        if tight:
            return float(logsumexp(table) - np.log(np.size(table)))
        return float(np.mean([over_k(objective, weights) for weights in table]))

    hand.check(value)

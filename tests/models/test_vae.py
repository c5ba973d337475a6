"""Independent VAEs: the formula."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.hand import WORLDS, Hand, kl_laplace, kl_normal, over_k


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
                log_x = 0.0 if model.specs[m].role == "input" else hand.log_x(m, np.zeros(0), w)
                exact = kl_normal if family == "normal" else kl_laplace
                kl = exact(loc, scale) if objective == "elbo" else hand.log(w, loc, scale) - hand.log(w, 0, 1)
                weights.append(log_x - hand.beta * kl)
            total += over_k(objective, weights)
        return total

    hand.check(value)

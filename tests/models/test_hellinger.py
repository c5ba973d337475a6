"""The Hellinger model: the formula, and the pool by quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from polyvae.core.aggregate import hoelder_pool, moment_matched
from tests.helpers.hand import WORLDS, Hand, kl_normal, pool
from tests.helpers.worlds import GRID, World

pytestmark = pytest.mark.filterwarnings("error")


@torch.no_grad()
def test_the_pool_is_the_square_of_the_sum_of_roots_by_quadrature():
    """Of what was observed, for every mask; HELVAE's normal has its mean and its variance."""
    world = World()
    batch = world.every_mask()
    experts = world.model("hellinger").experts(batch)
    q, matched = hoelder_pool(experts), moment_matched(hoelder_pool(experts))
    log_q = q.log_prob(torch.as_tensor(GRID)[:, None, None, None].expand(-1, 1, 7, 1))[:, 0].numpy()
    step = GRID[1] - GRID[0]
    for row in range(7):
        here = [experts.z[m, row] for m in range(3) if batch.mask[m, row]]
        roots = sum(np.sqrt(norm(float(q_m.loc), float(q_m.scale)).pdf(GRID)) for q_m in here)
        density = roots**2 / (roots**2).sum() / step
        assert np.exp(log_q[:, row]) == pytest.approx(density, abs=1e-9)
        mean = (density * GRID).sum() * step
        assert float(matched.components.loc[0, row]) == pytest.approx(mean, abs=1e-9)
        assert float(matched.components.scale[0, row]) ** 2 == pytest.approx(
            (density * (GRID - mean) ** 2).sum() * step, rel=1e-8
        )


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("K", [1, 2])
def test_hellinger(world, K):
    hand = Hand(world, "hellinger", K=K, beta=1.5)

    def value() -> float:
        parts = pool({m: hand.z[m] for m in hand.S}).values()
        loc = sum(weight * mu for weight, mu, _ in parts)
        scale = np.sqrt(sum(weight * (sigma**2 + mu**2) for weight, mu, sigma in parts) - loc**2)
        total = -hand.beta * kl_normal(loc, scale)
        for k in range(K):
            z = loc + scale * hand.draws["z"][k, 0, hand.b]
            total += (
                sum(hand.log_x(n, z, np.zeros(0)) for n in hand.A if hand.model.specs[n].role != "input") / K
            )
        return total

    hand.check(value)

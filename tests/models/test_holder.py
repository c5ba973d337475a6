"""The Hölder model: the formula."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from tests.helpers.hand import WORLDS, Hand, auxiliary_scales, over_k, pool

pytestmark = pytest.mark.filterwarnings("error")


@torch.no_grad()
def told(model, n: int, z: np.ndarray, loc: np.ndarray, scale: np.ndarray):
    """q(w_n | x_n, z): the location moved, the scale multiplied by softplus (1 at 0)."""
    if not model.options.get("hierarchical"):
        return loc, scale
    move, stretch = (
        model.modalities[list(model.modalities)[n]]
        .parts["top_down"](torch.as_tensor(z)[None])[0]
        .numpy()
        .reshape(2, -1)
    )
    return loc + move, scale * (1e-6 + (1 - 1e-6) * np.log1p(np.exp(stretch + np.log(np.e - 1))))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    "options", [{}, {"hierarchical": False, "K": 2}, {"objective": "iwae", "K": 2}, {"cross": "prior"}]
)
def test_holder(world, options):
    hand = Hand(world, "holder", beta=1.5, **options)
    model = hand.model
    sources = model.encoded
    views = [(m,) for m in sources] + list(combinations(sources, 2))
    r_scale = auxiliary_scales(model)

    def log_weight(parts: dict, subset: tuple, k: int) -> float:
        v = views.index(subset)
        z = parts[subset][1] + parts[subset][2] * hand.draws["z"][k, v, hand.b]
        log_q = logsumexp([np.log(weight) + hand.log(z, loc, scale) for weight, loc, scale in parts.values()])
        total = hand.beta * (hand.log(z, 0, 1) - log_q)
        for n in hand.A:
            span = model.columns[n]
            loc, scale = told(model, n, z, *hand.w[n]) if n in subset else (0, r_scale[span])
            w = loc + scale * hand.draws["w"][k, v, hand.b, span]
            if n in subset:
                total += hand.beta * (hand.log(w, 0, 1) - hand.log(w, loc, scale))
            if model.specs[n].role != "input":
                total += hand.log_x(n, z, w)
        return total

    def value() -> float:
        parts = pool({m: hand.z[m] for m in hand.S})
        return sum(
            parts[subset][0] * over_k(model.objective, [log_weight(parts, subset, k) for k in range(model.K)])
            for subset in parts
        )

    hand.check(value)

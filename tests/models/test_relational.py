"""The relational model: the formula."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from polyvae import Batch
from tests.helpers.hand import NONE, Hand, decodes, kl_normal, product
from tests.helpers.levels import (
    BOTH_SIGNS,
    HALF_LOG_TWO_PI,
    TELLS_ITSELF,
    fed,
    kl_between,
    one_modality,
    told,
)
from tests.helpers.worlds import Affine, raw

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("world", ["plain", "roles"])
@pytest.mark.parametrize("K", [1, 3])
def test_relational(world, K):
    hand = Hand(world, "relational", K=K, beta=1.5, hidden=(5,))
    model = hand.model
    everyone = [
        subset for size in range(1, len(model.encoded) + 1) for subset in combinations(model.encoded, size)
    ]

    @torch.no_grad()
    def relation(m: int) -> tuple[np.ndarray, np.ndarray]:
        net = model.modalities[hand.names[m]]
        loc, raw_scale = net.parts["relation"](torch.from_numpy(hand.w[m][0])).chunk(2)
        return loc.numpy(), net.scale(raw_scale).numpy()

    def value() -> float:
        made = [product([relation(m) for m in subset]) for subset in everyone if set(subset) <= set(hand.S)]
        total = -hand.beta * float(np.mean([kl_normal(*each) for each in made]))
        for k in range(K):
            loc, scale = made[int(hand.draws["component"][k, hand.b] * len(made))]
            z = loc + scale * hand.draws["z"][k, hand.b]
            for m in hand.S:
                total -= hand.beta * kl_between(*hand.w[m], told(hand, m, z), 1) / K
            for n in filter(lambda n: decodes(hand, n), hand.A):
                loc, scale = hand.w[n] if n in hand.w else (told(hand, n, z), 1)
                total += (
                    hand.log_x(n, NONE, loc + scale * hand.draws["w"][k, 0, hand.b, model.columns[n]]) / K
                )
        return total

    hand.check(value)


def test_relational_by_hand():
    """q(w | x) = N(2, ½), one expert of z, h = N(1, 1/3), g(z) = z; x = 1, p(x | w) = N(w, 1); β = ½.

    E log p(x | w) = −½ log 2π − ½[(1 − 2)² + ½]. KL(q(z) || p) = ½(1/3 + 1 − 1 + log 3).
    KL(q(w) || N(z, 1)) = ½(½ + (2 − z)² − 1 + log 2), where E (2 − z)² = 1 + 1/3.
    """
    relation = Affine(np.zeros((2, 1)), np.array([1.0, float(raw(np.array(3**-0.5)))]))
    model = one_modality("relational", [1.0], top_down=Affine(*TELLS_ITSELF), relation=relation)
    expected = (
        -HALF_LOG_TWO_PI
        - 0.5 * 1.5
        - 0.5 * 0.5 * (1 / 3 + np.log(3))
        - 0.5 * 0.5 * (0.5 + 4 / 3 - 1 + np.log(2))
    )
    draws = {"z": BOTH_SIGNS[0].view(4, 1, 1), "w": BOTH_SIGNS[1].view(4, 1, 1, 1)}
    assert fed(model, Batch.of({"x": torch.ones(1, 1)}), draws) == pytest.approx(expected, rel=1e-9)

"""HMVAE: the formula, and the case in which it is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyvae import Batch
from tests.helpers.hand import Hand, decodes, kl_normal, product
from tests.helpers.levels import (
    BOTH_SIGNS,
    HALF_LOG_TWO_PI,
    TELLS_ITSELF,
    assert_moments,
    fed,
    kl_between,
    one_modality,
    told,
    two_levels,
)
from tests.helpers.worlds import Affine

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("world", ["plain", "roles"])
@pytest.mark.parametrize("K", [1, 3])
def test_hmvae(world, K):
    hand = Hand(world, "hmvae", K=K, beta=1.5, hidden=(5,))
    model = hand.model

    def value() -> float:
        loc, scale = product([(np.zeros(2), np.ones(2)), *(hand.z[m] for m in hand.S)])
        total = -hand.beta * kl_normal(loc, scale)
        for k in range(K):
            z = loc + scale * hand.draws["z"][k, 0, hand.b]
            codes = {m: product([(told(hand, m, z), np.ones_like(hand.w[m][0])), hand.w[m]]) for m in hand.S}
            for m in hand.S:
                total -= hand.beta * kl_between(*codes[m], told(hand, m, z), 1) / K
            for n in filter(lambda n: decodes(hand, n), hand.A):
                at, width = codes.get(n, (told(hand, n, z), 1))
                total += hand.log_x(n, z, at + width * hand.draws["w"][k, 0, hand.b, model.columns[n]]) / K
        return total

    hand.check(value)


def test_hmvae_by_hand():
    """Experts N(1, 1/3) of z and N(2, 1) of w, g(z) = z; x = 1, p(x | z, w) = N(z + w, 1); β = ½.

    q(z) has precision 1 + 3: N(¾, ¼), KL ½(¼ + 9/16 − 1 + log 4). q(w | z) = N((z + 2)/2, ½), its KL to N(z, 1) is
    ½(½ + (2 − z)²/4 − 1 + log 2), where E (2 − z)² = (5/4)² + ¼. z + w is 1 + 3z/2 with variance ½ given z: E (x − z − w)² =
    9/4 (9/16 + ¼) + ½.
    """
    model = one_modality("hmvae", [1.0, 1.0], top_down=Affine(*TELLS_ITSELF))
    kl_z = 0.5 * (0.25 + 9 / 16 - 1 + np.log(4))
    kl_w = 0.5 * (0.5 + (25 / 16 + 0.25) / 4 - 1 + np.log(2))
    expected = -HALF_LOG_TWO_PI - 0.5 * (9 / 4 * 13 / 16 + 0.5) - 0.5 * (kl_z + kl_w)
    draws = {"z": BOTH_SIGNS[0].view(4, 1, 1, 1), "w": BOTH_SIGNS[1].view(4, 1, 1, 1)}
    assert fed(model, Batch.of({"x": torch.ones(1, 1)}), draws) == pytest.approx(expected, rel=1e-9)


def test_the_right_experts_make_hmvae_exact_where_decoders_are_blind():
    """p(z | X) ∝ p(z) Π p(x_m | z) and p(w_m | z, x_m) ∝ p(w_m | z) p(x_m | w_m): q is the posterior, L is log p, imputation is exact."""
    world, model = two_levels("hmvae", "factor", True)
    with torch.no_grad():
        value = model(world.every_mask(2000)).value.view(7, 2000)
    mean, spread = value.mean(1).numpy(), (value.std(1) / 2000**0.5).numpy()
    assert (np.abs(mean - world.log_p(world.every_mask())) <= 5 * spread).all()
    assert (spread < 0.1).all()
    x = world.data(2)
    made = model.generate(Batch.of(x).observe("a"), K=8000)
    assert_moments(made, world, x, ("a",), 8000)

"""SCMM: the formula, and the bound below that of the mixture."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.hand import WORLDS, Hand, kl_laplace, kl_normal
from tests.helpers.truth import expected_bound
from tests.helpers.worlds import World

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("family", "scale_map", "learn", "K"), [("laplace", "softmax", False, 1), ("normal", "softplus", True, 2)]
)
def test_scmm(world, family, scale_map, learn, K):
    """Every expert's own ELBO with the exact KL, then their mean. For Laplace, scales b: KL = b e^{−|μ|/b} + |μ| − 1 − log b."""
    hand = Hand(world, "scmm", family=family, scale_map=scale_map, learn_prior=learn, K=K, beta=1.5)
    width = hand.model.prior.z().scale.detach().numpy()  # KL(q || p) is that of z / width
    exact = kl_laplace if family == "laplace" else kl_normal

    def value() -> float:
        total = 0.0
        for m in hand.S:
            loc, scale = hand.z[m]
            total -= hand.beta * exact(loc / width, scale / width)
            for k in range(K):
                z = loc + scale * hand.draws["z"][k, hand.model.encoded.index(m), hand.b]
                total += (
                    sum(hand.log_x(n, z, np.zeros(0)) for n in hand.A if hand.model.specs[n].role != "input")
                    / K
                )
        return total / len(hand.S)

    hand.check(value)


@pytest.mark.parametrize("family", ["normal", "laplace"])
def test_scmm_is_a_bound_below_that_of_the_mixture(family):
    """mean_m KL(q_m || p) ≥ KL(mean_m q_m || p): looser than MMVAE's, and equal where one modality was observed."""
    world = World()
    truth = world.log_p(world.every_mask(), family)
    mean, spread = expected_bound(world.model("scmm", family=family, scale_map="softplus"), world)
    tighter, more = expected_bound(world.model("mmvae", family=family), world)
    alone = np.array([0, 1, 3])  # the masks with one modality
    assert (mean <= truth + 5 * spread).all()
    assert (mean <= tighter + 5 * np.hypot(spread, more)).all()
    assert (np.abs(mean - tighter)[alone] <= 5 * np.hypot(spread, more)[alone]).all()

"""MMVAE+: the formula."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from tests.helpers.hand import WORLDS, Hand, over_k

PLUS = [
    {},
    {"K": 3, "objective": "iwae", "family": "laplace", "scale_map": "softmax"},
    {"K": 2, "objective": "dreg"},
    {"cross": "prior", "K": 2, "objective": "iwae"},
    {"cross": "posterior", "K": 2},
    {"cross": "posterior-published", "objective": "iwae", "K": 2},
    {"corrected": True, "K": 2, "objective": "iwae"},
    {"corrected": True, "K": 2, "objective": "dreg"},
    {"source_experts": "random", "K": 3},
    {"prior_components": 3, "K": 2},
    {"private_prior": "auxiliary", "K": 2, "objective": "iwae"},
]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("options", PLUS, ids=["-".join(map(str, options.values())) for options in PLUS])
def test_mmvaeplus(world, options):
    hand = Hand(world, "mmvae+", beta=1.5, **options)
    model = hand.model
    prior = model.prior
    if "prior_components" in options:
        share, at = prior.logits.detach().softmax(0).log().numpy(), prior.loc.detach().numpy()
    r_scale = np.ones(len(model.owner))
    if model.raw_r is not None:
        r_scale = np.concatenate(
            [
                model.modalities[name].scale(model.raw_r[span]).detach().numpy()
                for name, span in zip(hand.names, model.columns, strict=True)
            ]
        )

    def log_p_z(z) -> float:
        if "prior_components" not in options:
            return hand.log(z, 0, 1)
        return float(logsumexp([a + hand.log(z, loc, 1) for a, loc in zip(share, at, strict=True)]))

    def log_weight(m: int, v: int, k: int) -> float:
        z = hand.z[m][0] + hand.z[m][1] * hand.draws["z"][k, v, hand.b]
        total = hand.beta * (log_p_z(z) - hand.mixture(z))
        for n in hand.A:
            span = model.columns[n]
            eps = hand.draws["w"][k, v, hand.b, span]
            posterior = n in hand.w and (n == m or model.cross.startswith("posterior"))
            loc, scale = hand.w[n] if posterior else (np.zeros_like(eps), r_scale[span])
            w = loc + scale * eps
            if n == m or model.cross == "posterior" or model.corrected:
                total += hand.beta * (hand.log(w, 0, 1) - hand.log(w, loc, scale))
            if model.specs[n].role != "input":
                total += hand.log_x(n, z, w)
        return total

    def value() -> float:
        experts = hand.S
        if model.source_experts == "random" and len(model.encoded) > 1:
            experts = [hand.S[int(hand.draws["component"][0, hand.b] * len(hand.S))]]
        lines = {m: 0 if model.source_experts == "random" else model.encoded.index(m) for m in experts}
        return float(
            np.mean(
                [
                    over_k(model.objective, [log_weight(m, v, k) for k in range(model.K)])
                    for m, v in lines.items()
                ]
            )
        )

    hand.check(value)

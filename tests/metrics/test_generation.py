"""Draws for metrics: whether one draw of w can serve all modalities."""

from __future__ import annotations

import polyvae as pv
from polyvae.metrics.generation import even


def test_one_draw_for_all_modalities_requires_one_prior_of_w():
    specs = [pv.Modality(name, (3,), private=2) for name in "ab"]
    assert even(pv.MMVAEPlus(specs, latent=2))
    assert not even(pv.MMVAEPlus(specs, latent=2, conditional_prior=True))
    assert not even(pv.MMVAEPlus([specs[0], pv.Modality("b", (3,), private=1)], latent=2))

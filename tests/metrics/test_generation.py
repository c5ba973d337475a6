"""Draws for metrics: whether one draw of w can serve all modalities."""

from __future__ import annotations

import torch

import polyvae as pv
from polyvae.config import EvaluateConfig
from polyvae.metrics.context import Context
from polyvae.metrics.generation import conditional, even
from polyvae.utils.progress import reporter


def test_one_draw_for_all_modalities_requires_one_prior_of_w():
    specs = [pv.Modality(name, (3,), private=2) for name in "ab"]
    assert even(pv.MMVAEPlus(specs, latent=2))
    assert not even(pv.MMVAEPlus(specs, latent=2, conditional_prior=True))
    assert not even(pv.MMVAEPlus([specs[0], pv.Modality("b", (3,), private=1)], latent=2))


def test_rows_are_the_places_of_the_samples_in_the_data(monkeypatch):
    """Seven samples in batches of three, of which four lack what is given."""
    seen = torch.tensor([False, True, False, False, True, True, False])
    data = pv.MultimodalData({"a": torch.arange(7.0)[:, None], "b": torch.zeros(7, 1)}, mask={"a": seen})
    model = pv.MVAE(data.modalities(), latent=2).eval()
    monkeypatch.setattr(Context, "step", lambda context, K=1: 3)
    with reporter(False) as report:
        context = Context(model, data, EvaluateConfig(), None, None, None, None, report, notes=[])
        parts = list(conditional(context, ("a",), ["b"], 0))
    assert torch.cat([part.rows for part in parts]).tolist() == [1, 4, 5]
    assert torch.cat([part.batch.data["a"][:, 0] for part in parts]).tolist() == [1, 4, 5]

"""A small data set with missing values and a small model, for training."""

from __future__ import annotations

import torch

import polyvae as pv


def small_data(rows: int = 60) -> pv.MultimodalData:
    draws = torch.Generator().manual_seed(5)
    shared = torch.randn(rows, 1, generator=draws)
    data = {
        "a": shared + 0.3 * torch.randn(rows, 3, generator=draws),
        "b": torch.randn(rows, 2, generator=draws) - shared,
    }
    mask = torch.rand(2, rows, generator=draws) > 0.3
    mask[0] |= ~mask.any(0)
    return pv.MultimodalData(data, mask=mask)


def small_model(seed: int = 0, **options: object) -> pv.MMVAEPlus:
    torch.manual_seed(seed)
    params = {"scale": 0.5, "hidden": [8]}
    return pv.MMVAEPlus(
        [pv.Modality("a", (3,), params=params), pv.Modality("b", (2,), params=params)], latent=2, **options
    )  # type: ignore[arg-type]

"""Data whose latents are known, and a model that reads them."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from polyvae import Modality, MultimodalData, build
from tests.helpers.worlds import fixed, raw

COUNT = 600


def told(seed: int = 0) -> MultimodalData:
    """x_a = (z, w_a), x_b = (z, w_b): z says the label, of three; w says the modality's own site (of two) and age."""
    draws = np.random.default_rng(seed)
    label, site = draws.integers(3, size=COUNT), draws.integers(2, size=(2, COUNT))
    age = draws.normal(size=(2, COUNT))
    x = [
        np.stack([4.0 * label + 0.1 * draws.normal(size=COUNT), 10.0 * site[m] + 0.5 * age[m]], 1)
        for m in range(2)
    ]
    return MultimodalData(
        {"a": torch.as_tensor(x[0]), "b": torch.as_tensor(x[1])},
        labels=label,
        seed=seed,
        factors={name: {"site": site[m], "age": age[m]} for m, name in enumerate("ab")},
        splits={"train": range(400), "test": range(400, COUNT)},
    )


def reader(name: str = "mmvae+", swapped: bool = False) -> torch.nn.Module:
    """z is x's first column and w its second, each to within .01; or the other way round."""
    flat = np.full(1, 0.01)
    weight = np.zeros((4, 2))
    weight[0, int(swapped)] = weight[2, int(not swapped)] = 1
    bias = np.concatenate([[0.0], raw(flat), [0.0], raw(flat)])
    decoder = np.eye(2)[:, ::-1] if swapped else np.eye(2)
    specs = [
        Modality(
            key,
            (2,),
            "normal",
            private=1,
            encoder=partial(fixed, weight, bias),
            decoder=partial(fixed, decoder.copy(), np.zeros(2)),
        )
        for key in "ab"
    ]
    return build(name, specs, latent=1).double().eval()

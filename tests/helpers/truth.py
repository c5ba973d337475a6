"""The mean of a bound in a linear world, for each of the seven masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from polyvae import Batch
from polyvae.core.vae import MultimodalVAE
from tests.helpers.worlds import World

COPIES = 800


def expected_bound(model, world, copies=COPIES, key=None):
    """Mean and standard error of the bound (or of one of its terms), for each of the seven masks."""
    with torch.no_grad():
        bound = model(world.every_mask(copies))
    value = (bound.value if key is None else key(bound)).view(7, copies)
    return value.mean(1).numpy(), (value.std(1) / copies**0.5).numpy()


JOINT = {"joint_width": 2}  # the linear world's encoders say two numbers, whatever they are asked


def held_below(
    model: MultimodalVAE, world: World, truth: Callable[[Batch], np.ndarray], copies: int = 800
) -> None:
    """The bound's mean, for each of the seven masks, is at most ``truth`` (and 5 standard errors)."""
    with torch.no_grad():
        value = model(world.every_mask(copies)).value.view(7, copies)
    mean, spread = value.mean(1).numpy(), (value.std(1) / copies**0.5).numpy()
    most = truth(world.every_mask())
    assert (mean <= most + 5 * spread + 1e-9).all(), (mean - most).round(3)

"""The optimiser, and the factors of its learning rate and of β at a step."""

from __future__ import annotations

import math

import torch

from polyvae.config import TrainConfig
from polyvae.core.vae import MultimodalVAE
from polyvae.utils.errors import InputError


def optimizer_of(model: MultimodalVAE, train: TrainConfig) -> torch.optim.Optimizer:
    """Adam over all parameters. Raises InputError: none of them requires a gradient."""
    if not any(x.requires_grad for x in model.parameters()):
        raise InputError(
            "fit: got a model without parameters that require a gradient; expected at least one; call requires_grad_(True)"
        )
    return torch.optim.Adam(model.parameters(), lr=train.lr, amsgrad=train.amsgrad, fused=True)


def rate(train: TrainConfig, step: int, total: int) -> float:
    """The factor of the learning rate at a step: "constant"; "cosine" to zero; "flat-cosine": flat for a share ``flat``, then cosine."""
    flat = {"constant": 1.0, "cosine": 0.0, "flat-cosine": train.flat}[train.schedule]
    place = step / max(1, total)
    return 1.0 if place <= flat else 0.5 * (1 + math.cos(math.pi * (place - flat) / (1 - flat)))


def warmth(train: TrainConfig, step: int, per_epoch: int) -> float:
    """The factor of β at a step: from just above 0 to 1 over ``warmup_epochs``."""
    return min(1.0, (step + 1) / (train.warmup_epochs * per_epoch)) if train.warmup_epochs else 1.0

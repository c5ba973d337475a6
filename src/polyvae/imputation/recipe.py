"""Which ensembles are trained, by the number of samples."""

from __future__ import annotations

from typing import Any, Protocol

from polyvae.imputation.imputer import Design
from polyvae.imputation.methods.members import Schedule

FEW = 500
"""Samples below which a linear ensemble behind strong dropout is trained beside the one with hidden layers."""

_BATCH = 128
_EPOCHS = 70


class Settings(Protocol):
    """The parameters of an estimator that say what to train."""

    model: str
    latent: int
    options: dict[str, Any] | None
    network: dict[str, Any] | None
    steps: int | None
    max_seconds: float | None


def designs(settings: Settings, size: int) -> list[Design]:
    """The ensembles for ``size`` training samples."""
    per_epoch = max(1, round(0.8 * size / _BATCH))
    steps = settings.steps or min(max(_EPOCHS * per_epoch, 400), 6000)
    schedule = Schedule(steps, _BATCH, max_seconds=settings.max_seconds)
    options = {"latent": settings.latent, **(settings.options or {})}
    network = {"network": "table", **(settings.network or {})}
    curved = Design("vae", settings.model, options, network, schedule)
    if size >= FEW or settings.network is not None:
        return [curved]
    return [
        curved,
        Design(
            "linear vae",
            settings.model,
            options,
            {"network": "table", "hidden": [], "dropout": 0.5},
            schedule,
        ),
    ]

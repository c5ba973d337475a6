"""What models share that hold another one."""

from __future__ import annotations

from abc import ABC
from typing import Any

from torch import Tensor, nn

from polyvae.core.aggregate import Experts
from polyvae.core.batch import Batch
from polyvae.core.distributions import Diagonal, Mixture
from polyvae.core.vae import MultimodalVAE


class Around(MultimodalVAE, ABC):
    """A model around another one, ``held``, whose networks, prior, posteriors and options are its own. What it adds is its bound.

    Parameters and buffers are registered once, under ``held``. Every attribute that is not found here is the held model's, and is set
    there, too: ``beta`` or ``max_rows``, say, is one number, whichever of the two it is given to.
    """

    held: MultimodalVAE

    def __init__(self, held: MultimodalVAE) -> None:
        nn.Module.__init__(self)
        self.held = held

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__.get("_modules", {})
        return (
            modules[name]
            if name in modules
            else getattr(modules["held"], name)
            if "held" in modules
            else super().__getattr__(name)
        )

    def __setattr__(self, name: str, value: Any) -> None:
        held = self.__dict__.get("_modules", {}).get("held")
        if held is not None and name not in self.__dict__ and name in held.__dict__:
            setattr(held, name, value)
        else:
            super().__setattr__(name, value)

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return self.held.posterior(batch, experts)

    def private(self, batch: Batch, experts: Experts, z: Tensor) -> Diagonal:
        return self.held.private(batch, experts, z)

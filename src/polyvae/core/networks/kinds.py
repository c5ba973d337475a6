"""What a network is: two factories, and whether shared and private codes get encoders of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Network(NamedTuple):
    """``encoder(in_shape, out: int)`` and ``decoder(in_shape, out: shape)``; ``separate``: two encoders, one for z and one for w."""

    encoder: Callable[..., nn.Module]
    decoder: Callable[..., nn.Module]
    separate: bool = False


class Branches(nn.Module):
    """Encoders side by side: their outputs stand one after the other in the last axis."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], -1)

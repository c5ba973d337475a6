"""A network: an encoder factory, a decoder factory, and whether shared and private latents have separate encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Network(NamedTuple):
    """An entry of NETWORKS.

    Attributes:
        encoder: ``(in_shape, out, **params) -> nn.Module`` of [B, *in_shape] -> [B, out].
        decoder: ``(in_shape, out, **params) -> nn.Module`` of [N, *in_shape] -> [N, *out].
        separate: Whether z and w have separate encoders by default.
    """

    encoder: Callable[..., nn.Module]
    decoder: Callable[..., nn.Module]
    separate: bool = False


class Branches(nn.Module):
    """Encoders of the same input; their outputs are concatenated along the last axis."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], -1)


def looks_like_image(shape: tuple[int, ...]) -> bool:
    """Whether a sample has three or four axes, of which all but one are at least 8."""
    return len(shape) in (3, 4) and sorted(shape)[1] >= 8


def looks_grey(shape: tuple[int, ...]) -> bool:
    """Whether a sample has the shape of an image without channels."""
    return len(shape) == 2 and min(shape) >= 8 and max(shape) <= 512

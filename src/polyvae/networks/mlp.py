"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn


def layers(sizes: Sequence[int]) -> list[nn.Module]:
    """Linear layers with ReLU between them (none after the last)."""
    stack: list[nn.Module] = []
    for a, b in pairwise(sizes):
        stack += [nn.Linear(a, b), nn.ReLU()]
    return stack[:-1]


def mlp_encoder(in_shape: tuple[int, ...], out: int, *, width: float = 1.0, hidden: Sequence[int] = (512, 256)) -> nn.Module:
    """[B, *in_shape] -> [B, out] through the ``hidden`` sizes, each times ``width``."""
    return nn.Sequential(nn.Flatten(), *layers([prod(in_shape), *(max(1, round(size * width)) for size in hidden), out]))


def mlp_decoder(in_shape: tuple[int, ...], out: tuple[int, ...], *, width: float = 1.0, hidden: Sequence[int] = (512, 256)) -> nn.Module:
    """[N, C] -> [N, *out]; the ``hidden`` sizes are the encoder's, passed from the last to the first."""
    sizes = [max(1, round(size * width)) for size in reversed(hidden)]
    return nn.Sequential(*layers([prod(in_shape), *sizes, prod(out)]), nn.Unflatten(-1, out))

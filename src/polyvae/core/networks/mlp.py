"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn


def layers(sizes: Sequence[int], norm: bool = False) -> list[nn.Module]:
    """Linear layers with ReLU between them (none after the last); with ``norm``, a LayerNorm before each ReLU."""
    stack: list[nn.Module] = []
    for a, b in pairwise(sizes):
        stack += [nn.Linear(a, b), *([nn.LayerNorm(b)] if norm else []), nn.ReLU()]
    return stack[: -2 if norm else -1]


class LinearDecoder(nn.Sequential):
    """Layers, then a linear layer, then a layer that reshapes its output."""

    @property
    def last(self) -> nn.Linear:
        """The linear layer."""
        layer = self[-2]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, x: Tensor, hidden: bool = False) -> Tensor:
        """[N, C] -> [N, *out]; with ``hidden``, the input of the last linear layer, [N, H]."""
        for layer in list(self)[:-2] if hidden else self:
            x = layer(x)
        return x


def mlp_encoder(
    in_shape: tuple[int, ...],
    out: int,
    *,
    width: float = 1.0,
    hidden: Sequence[int] = (512, 256),
    norm: bool = False,
) -> nn.Module:
    """[B, *in_shape] -> [B, out], with hidden layers of the ``hidden`` sizes, each times ``width``; ``norm``: LayerNorm after each."""
    return nn.Sequential(
        nn.Flatten(), *layers([prod(in_shape), *(max(1, round(size * width)) for size in hidden), out], norm)
    )


def mlp_decoder(
    in_shape: tuple[int, ...],
    out: tuple[int, ...],
    *,
    width: float = 1.0,
    hidden: Sequence[int] = (512, 256),
    norm: bool = False,
) -> nn.Module:
    """[N, C] -> [N, *out]; the ``hidden`` sizes are those of the encoder, used in reverse order."""
    sizes = [max(1, round(size * width)) for size in reversed(hidden)]
    return LinearDecoder(*layers([prod(in_shape), *sizes, prod(out)], norm), nn.Unflatten(-1, out))

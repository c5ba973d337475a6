"""A convolutional network for images of any size."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from torch import nn

from polyvae.core.networks.images import Grid, ImageNetwork, ToImages, grid

_FIRST, _MOST = (
    16,
    128,
)  # channels after the first halving; they double with each further one, up to the second number
_SHALLOW = 2  # networks of so few halvings are those of earlier versions


def conv_encoder(
    in_shape: tuple[int, ...], out: int, *, width: float = 1.0, halvings: int | None = None
) -> nn.Module:
    """[B, C, H, W] -> [B, out]: 4x4 convolutions of stride 2, then one hidden layer.

    Args:
        in_shape: (channels, height, width). Up to 32 pixels there are two convolutions; beyond that as many as leave 4 x 4 to 7 x 7
            positions. Sizes that cannot be halved so often are padded.
        out: Columns of the output.
        width: Multiplies the channels 16, 32, 64, 128, 128, ... and the 256 hidden units.
        halvings: The number of convolutions; None: by size.
    """
    plan = grid("conv", in_shape, halvings)
    channels, hidden = _sizes(plan, width)
    layers = plan.pad()
    for a, b in pairwise([plan.channels, *channels]):
        layers += [nn.Conv2d(a, b, 4, 2, 1), nn.ReLU()]
    layers += [
        nn.Flatten(),
        nn.Linear(channels[-1] * prod(plan.coarse), hidden),
        nn.ReLU(),
        nn.Linear(hidden, out),
    ]
    return _network(layers, plan, channels)


def conv_decoder(
    in_shape: tuple[int, ...], out: tuple[int, ...], *, width: float = 1.0, halvings: int | None = None
) -> nn.Module:
    """[N, C_in] -> [N, C, H, W]: the encoder's layers in reverse order; what was padded is cropped."""
    plan = grid("conv", out, halvings)
    channels, hidden = _sizes(plan, width)
    coarse = (channels[-1], *plan.coarse)
    layers: list[nn.Module] = [
        nn.Linear(in_shape[0], hidden),
        nn.ReLU(),
        nn.Linear(hidden, prod(coarse)),
        nn.ReLU(),
        nn.Unflatten(-1, coarse) if plan.halvings <= _SHALLOW else ToImages(coarse),
    ]
    for a, b in pairwise([*reversed(channels), plan.channels]):
        layers += [nn.ConvTranspose2d(a, b, 4, 2, 1), nn.ReLU()]
    return _network([*layers[:-1], *plan.crop()], plan, channels)


def _sizes(plan: Grid, width: float) -> tuple[list[int], int]:
    """The channels after each halving, and the hidden units."""
    channels = [min(_FIRST << level, _MOST) for level in range(plan.halvings)]
    return [max(1, round(size * width)) for size in channels], max(1, round(256 * width))


def _network(layers: list[nn.Module], plan: Grid, channels: list[int]) -> nn.Module:
    if plan.halvings <= _SHALLOW:
        return nn.Sequential(*layers)
    _scale_weights(layers)
    return ImageNetwork(*layers, largest=max(channels[0] * plan.pixels // 4, plan.channels * plan.pixels))


def _scale_weights(layers: list[nn.Module]) -> None:
    """Initial weights that keep the variance from layer to layer: torch's own divide it by about 6 in each, too much for seven layers."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.ConvTranspose2d):
            # Of the 4 x 4 taps of an input channel, 2 x 2 reach each pixel of the output.
            bound = (6 / (4 * layer.in_channels)) ** 0.5
            nn.init.uniform_(layer.weight, -bound, bound)

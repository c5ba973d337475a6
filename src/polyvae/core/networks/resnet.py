"""The residual networks of the MMVAE+ paper's PolyMNIST experiment (epalu/mmvaeplus), for images of any size."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyvae.core.networks.images import Grid, ImageNetwork, ToImages, grid, upsampled_conv


class ResidualBlock(nn.Module):
    """shortcut(x) + 0.1 conv(lrelu(conv(lrelu(x)))), leaky slope 0.2, no normalisation; hidden width min(a, b).

    Args:
        a: Input channels.
        b: Output channels.
        upsampled: Apply the block to x after nearest-neighbour upsampling by 2. Operations on single pixels are applied before the
            upsampling, which gives equal values, and the convolution after it is folded, so x is never upsampled.
    """

    def __init__(self, a: int, b: int, *, upsampled: bool = False) -> None:
        super().__init__()
        hidden = min(a, b)
        self.residual = nn.Sequential(
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(a, hidden, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(hidden, b, 3, padding=1),
        )
        self.shortcut = nn.Identity() if a == b else nn.Conv2d(a, b, 1, bias=False)
        self.upsampled = upsampled

    def forward(self, x: Tensor) -> Tensor:
        """[N, a, H, W] -> [N, b, H, W], or [N, b, 2H, 2W]."""
        activate, first, *rest = self.residual
        assert isinstance(first, nn.Conv2d)
        shortcut: Tensor = self.shortcut(x)
        x = activate(
            x.clone()
        )  # the copy is activated in place, so that one tensor is kept for the backward pass, not two
        if self.upsampled:
            shortcut = functional.interpolate(shortcut, scale_factor=2.0)
            x = upsampled_conv(x, first.weight, first.bias)
        else:
            x = first(x)
        for layer in rest:
            x = layer(x)
        return torch.add(shortcut, x, alpha=0.1)


def _widths(plan: Grid, width: float) -> list[int]:
    """The channels at each resolution, from the finest: 64, 128, 256, 256, ...; beyond 64 pixels fewer at first, to save memory."""
    first = 64 if plan.pixels <= 64**2 else 32 if plan.pixels <= 128**2 else 16
    return [max(1, round(min(first << level, 256) * width)) for level in range(plan.halvings + 1)]


def resnet_encoder(
    in_shape: tuple[int, ...], out: int, *, width: float = 1.0, halvings: int | None = None
) -> nn.Module:
    """[B, C, H, W] -> [B, out]. One branch; the paper uses one for z and one for w (``separate``).

    Args:
        in_shape: (channels, height, width). Up to 32 pixels the image is halved twice, as in the paper's PolyMNIST experiment; beyond
            that as often as leaves 4 x 4 to 7 x 7 positions. Sizes that cannot be halved so often are padded.
        out: Columns of the output.
        width: Multiplies the channels: 64, 128, 256, 256, ...; they start at 32 above 64 pixels, and at 16 above 128.
        halvings: The number of halvings; None: by size. The paper's network for birds of 64 pixels has 5.
    """
    plan = grid("resnet", in_shape, halvings)
    widths = _widths(plan, width)
    layers: list[nn.Module] = [
        *plan.pad(),
        nn.Conv2d(plan.channels, widths[0], 3, padding=1),
        ResidualBlock(widths[0], widths[0]),
    ]
    for a, b in pairwise(widths):
        layers += [nn.AvgPool2d(3, 2, 1), ResidualBlock(a, b)]
    layers += [nn.Flatten(), nn.Linear(widths[-1] * prod(plan.coarse), out)]
    return ImageNetwork(*layers, largest=widths[0] * plan.pixels)


def resnet_decoder(
    in_shape: tuple[int, ...], out: tuple[int, ...], *, width: float = 1.0, halvings: int | None = None
) -> nn.Module:
    """[N, C_in] -> [N, C, H, W]. Identities take the places of the upsampling layers, so that parameters keep their names."""
    plan = grid("resnet", out, halvings)
    widths = _widths(plan, width)
    coarse = (widths[-1], *plan.coarse)
    layers: list[nn.Module] = [
        nn.Linear(in_shape[0], prod(coarse)),
        ToImages(coarse),
        ResidualBlock(widths[-1], widths[-2]),
    ]
    for a, b in pairwise([*reversed(widths[:-1]), widths[0]]):
        layers += [nn.Identity(), ResidualBlock(a, b, upsampled=True)]
    layers += [nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(widths[0], plan.channels, 3, padding=1)]
    return ImageNetwork(*layers, *plan.crop(), largest=widths[0] * plan.pixels)

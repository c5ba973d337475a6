"""The residual networks of the MMVAE+ paper's PolyMNIST experiment (epalu/mmvaeplus), for image sizes divisible by 4."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyvae.core.networks.images import ImageNetwork, ToImages, upsampled_conv
from polyvae.utils.errors import InputError


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


def _sizes(shape: tuple[int, ...], width: float) -> tuple[int, int, int, int, int, int]:
    if len(shape) != 3 or any(size % 4 for size in shape[1:]):
        raise InputError(
            f"network 'resnet': got shape {shape}; expected (channels, height, width) with sizes divisible by 4; "
            "use 'mlp' or a user-defined network"
        )
    a, b, c = (max(1, round(size * width)) for size in (64, 128, 256))
    return shape[0], shape[1] // 4, shape[2] // 4, a, b, c


def resnet_encoder(in_shape: tuple[int, ...], out: int, *, width: float = 1.0) -> nn.Module:
    """[B, C, H, W] -> [B, out]. One branch; the paper uses one for z and one for w (``separate``)."""
    channels, height, across, a, b, c = _sizes(in_shape, width)
    return ImageNetwork(
        nn.Conv2d(channels, a, 3, padding=1),
        ResidualBlock(a, a),
        nn.AvgPool2d(3, 2, 1),
        ResidualBlock(a, b),
        nn.AvgPool2d(3, 2, 1),
        ResidualBlock(b, c),
        nn.Flatten(),
        nn.Linear(c * height * across, out),
        largest=16 * a * height * across,
    )


def resnet_decoder(in_shape: tuple[int, ...], out: tuple[int, ...], *, width: float = 1.0) -> nn.Module:
    """[N, C_in] -> [N, C, H, W]. Identities take the places of the upsampling layers, so that parameters keep their names."""
    channels, height, across, a, b, c = _sizes(out, width)
    return ImageNetwork(
        nn.Linear(in_shape[0], c * height * across),
        ToImages((c, height, across)),
        ResidualBlock(c, b),
        nn.Identity(),
        ResidualBlock(b, a, upsampled=True),
        nn.Identity(),
        ResidualBlock(a, a, upsampled=True),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(a, channels, 3, padding=1),
        largest=16 * a * height * across,
    )

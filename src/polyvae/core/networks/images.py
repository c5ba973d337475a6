"""Shared parts of convolutional networks: how often an image is halved, memory layout, rows per pass, and convolution of upsampled
images without upsampling."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyvae.utils.errors import InputError, check_count

_SMALL = 32  # pixels; up to this size two halvings, as in every version

_PIECE = (
    2**25
)  # bytes: the C library reuses smaller pieces of memory and maps larger ones at every allocation
_FLEETING = (
    2**24
)  # bytes: without a graph tensors are freed at once, and the C library returns part of larger ones to the system


class Grid(NamedTuple):
    """How often an image is halved, and what is padded so that this is possible.

    Attributes:
        channels: Channels of the image.
        halvings: The number of halvings.
        coarse: Height and width of the coarsest features.
        margins: Pixels that are added on the left, on the right, at the top and at the bottom.
    """

    channels: int
    halvings: int
    coarse: tuple[int, int]
    margins: tuple[int, int, int, int]

    @property
    def pixels(self) -> int:
        """Pixels of the padded image."""
        return (self.coarse[0] * self.coarse[1]) << (2 * self.halvings)

    def pad(self) -> list[nn.Module]:
        """A layer that adds the margins as zeros; none where there are none."""
        return [nn.ZeroPad2d(self.margins)] if any(self.margins) else []

    def crop(self) -> list[nn.Module]:
        """A layer that removes the margins; none where there are none."""
        left, right, top, bottom = self.margins
        return [nn.ZeroPad2d((-left, -right, -top, -bottom))] if any(self.margins) else []


def grid(network: str, shape: tuple[int, ...], halvings: int | None = None) -> Grid:
    """The grid of an image of ``shape`` (channels, height, width).

    Images of at most 32 pixels on each side are halved twice. Larger ones are halved as often as leaves at least 16 positions: 4 x 4 to
    7 x 7 for square images. Sizes that are no multiples of 2 ** halvings are padded with zeros on both sides.

    Args:
        network: The name of the network, for errors.
        shape: The shape of one sample.
        halvings: The number of halvings; None: as above.

    Raises:
        InputError: A shape that is no image, or more halvings than the longer side permits.
    """
    if len(shape) != 3:
        raise InputError(
            f"network {network!r}: got shape {shape}; expected (channels, height, width); use 'mlp' or a user-defined network"
        )
    channels, height, width = shape
    if halvings is None:
        small = max(height, width) <= _SMALL
        halvings = 2 if small else max(2, ((height * width // 16).bit_length() - 1) // 2)
    else:
        check_count(f"network {network!r}", "halvings", halvings)
        if halvings >= max(height, width).bit_length():
            raise InputError(
                f"network {network!r}: got halvings={halvings} for shape {shape}; expected at most "
                f"{max(height, width).bit_length() - 1}, which leaves one position; take fewer"
            )
    coarse = -(-height // 2**halvings), -(-width // 2**halvings)
    rows, columns = (coarse[0] << halvings) - height, (coarse[1] << halvings) - width
    margins = columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
    return Grid(channels, halvings, (coarse[0], coarse[1]), margins)


class ImageNetwork(nn.Sequential):
    """Layers in sequence, on images in channels-last layout.

    On a CPU, rows are processed in pieces so small that no inner tensor takes 32 MB (16 MB without a graph). Rows are independent, so the
    values are those of nn.Sequential. Parameters keep torch's default layout, so optimisers and files do not depend on it.

    Args:
        layers: The layers.
        largest: Numbers of one row in the largest inner tensor.
    """

    def __init__(self, *layers: nn.Module, largest: int) -> None:
        super().__init__(*layers)
        self.largest = largest

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] -> [N, ...]."""
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if x.device.type != "cpu":
            return self._run(x)
        half = torch.is_autocast_enabled("cpu")
        piece = _PIECE if half or torch.is_grad_enabled() else _FLEETING
        rows = max(1, (piece - 1) // (self.largest * x.element_size()))
        if len(x) <= rows:
            return self._run(x)
        return torch.cat([self._run(part) for part in torch.split(x, rows)])

    def _run(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class ToImages(nn.Unflatten):
    """[N, C·H·W] -> [N, C, H, W], channels last."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(-1, shape)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).contiguous(memory_format=torch.channels_last)


def upsampled_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution (padding 1) of x after nearest-neighbour upsampling by 2.

    Of the three taps in a row, two fall on the same pixel of x. Their sum leaves two taps for each of the two phases of the output, which
    is a transposed convolution of stride 2 with four taps: 4/9 of the multiplications, without an upsampled array.

    Args:
        x: [N, A, H, W].
        weight: [B, A, 3, 3].
        bias: [B], or None.

    Returns:
        [N, B, 2H, 2W].
    """
    for axis in (-2, -1):
        a, b, c = weight.unbind(axis)
        weight = torch.stack([c, b + c, a + b, a], axis)
    return functional.conv_transpose2d(x, weight.transpose(0, 1), bias, stride=2, padding=1)

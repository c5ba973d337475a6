"""Shared parts of convolutional networks: memory layout, rows per pass, and convolution of upsampled images without upsampling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_PIECE = (
    2**25
)  # bytes: the C library reuses smaller pieces of memory and maps larger ones at every allocation
_FLEETING = (
    2**24
)  # bytes: without a graph tensors are freed at once, and the C library returns part of larger ones to the system


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
        half = torch.is_autocast_enabled(x.device.type)
        piece = _PIECE if half or torch.is_grad_enabled() else _FLEETING
        rows = max(1, (piece - 1) // (self.largest * x.element_size()))
        if x.device.type != "cpu" or len(x) <= rows:
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

"""What convolutional networks share: the layout of images in memory, how many are run at a time, and upsampling that is never formed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_PIECE = 2**25  # bytes: the C library keeps smaller pieces of memory for reuse and maps larger ones anew
_FLEETING = 2**24  # bytes: without a graph they are freed at once, and of larger ones it hands some back


class ImageNetwork(nn.Sequential):
    """Layers in a row, on images that lie channels last; on a CPU, on so few rows at a time that no tensor inside takes 32 MB
    (16 MB without a graph).

    The rows of one call do not meet, so the values are those of nn.Sequential. ``largest``: numbers of one row in the largest tensor.
    Parameters keep torch's default layout: optimisers and files need know nothing of it.
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
    """A 3x3 convolution (padding 1) of x after nearest-neighbour upsampling by 2: [N, A, H, W], weight [B, A, 3, 3] -> [N, B, 2H, 2W].

    Of the three taps in a row, two fall on the same pixel of x. Added up beforehand they leave two taps for each of the two phases
    of the output, that is a transposed convolution of stride 2 with four taps: 4/9 of the multiplications, and nothing is upsampled.
    """
    for axis in (-2, -1):
        a, b, c = weight.unbind(axis)
        weight = torch.stack([c, b + c, a + b, a], axis)
    return functional.conv_transpose2d(x, weight.transpose(0, 1), bias, stride=2, padding=1)

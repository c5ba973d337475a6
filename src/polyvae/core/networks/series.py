"""Convolutional networks for series [channels, time]: sensors, audio frames. Lengths that differ are entry masks: padding is unobserved."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from polyvae.utils.errors import InputError

_HALVINGS = 3
_SHORTEST = 4  # time steps that the halvings leave at least


class _Padded(nn.Module):
    """Zeros at the end of the last axis, up to ``length``."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, (0, self.length - x.shape[-1]))


class _Cropped(nn.Module):
    """The first ``length`` of the last axis."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.length]


def _plan(shape: tuple[int, ...], width: float) -> tuple[list[int], int, int]:
    """Channels at each resolution, the shortest length, and the hidden units."""
    if len(shape) != 2:
        raise InputError(
            f"network 'series': got shape {shape}; expected (channels, time); add an axis of one channel, or use 'mlp'"
        )
    halvings = max(n for n in range(_HALVINGS + 1) if n == 0 or shape[1] >= _SHORTEST << n)
    channels = [max(1, round(size * width)) for size in (32, 32, 64, 64)[: halvings + 1]]
    return channels, -(-shape[1] // 2**halvings), max(1, round(256 * width))


def series_encoder(in_shape: tuple[int, ...], out: int, *, width: float = 1.0) -> nn.Module:
    """[B, C, T] -> [B, out]: a convolution over 5 steps, up to three of stride 2, then one hidden layer."""
    channels, short, hidden = _plan(in_shape, width)
    layers: list[nn.Module] = [
        _Padded(short << (len(channels) - 1)),
        nn.Conv1d(in_shape[0], channels[0], 5, padding=2),
    ]
    for a, b in pairwise(channels):
        layers += [nn.ReLU(), nn.Conv1d(a, b, 4, 2, 1)]
    return nn.Sequential(
        *layers,
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(channels[-1] * short, hidden),
        nn.ReLU(),
        nn.Linear(hidden, out),
    )


def series_decoder(in_shape: tuple[int, ...], out: tuple[int, ...], *, width: float = 1.0) -> nn.Module:
    """[N, C_in] -> [N, C, T]: the encoder's layers in reverse order."""
    channels, short, hidden = _plan(out, width)
    layers: list[nn.Module] = [
        nn.Linear(in_shape[0], hidden),
        nn.ReLU(),
        nn.Linear(hidden, channels[-1] * short),
        nn.ReLU(),
        nn.Unflatten(-1, (channels[-1], short)),
    ]
    for a, b in zip(channels[:0:-1], channels[-2::-1], strict=True):
        layers += [nn.ConvTranspose1d(a, b, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv1d(channels[0], out[0], 5, padding=2), _Cropped(out[1]))

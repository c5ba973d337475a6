"""A small convolutional network for images of 8 to 32 pixels."""

from __future__ import annotations

from torch import nn

from polyvae.utils.errors import InputError


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 3 or any(size % 4 for size in shape[1:]):
        raise InputError(
            f"network 'conv': got shape {shape}; expected (channels, height, width) with sizes divisible by 4; "
            "use 'mlp' or a user-defined network"
        )
    return shape[0], shape[1], shape[2]


def conv_encoder(in_shape: tuple[int, ...], out: int, *, width: float = 1.0) -> nn.Module:
    """[B, C, H, W] -> [B, out]: two 4x4 convolutions of stride 2, then one hidden layer."""
    channels, height, across = _image(in_shape)
    a, b, hidden = (max(1, round(size * width)) for size in (16, 32, 256))
    return nn.Sequential(
        nn.Conv2d(channels, a, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(a, b, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(b * (height // 4) * (across // 4), hidden),
        nn.ReLU(),
        nn.Linear(hidden, out),
    )


def conv_decoder(in_shape: tuple[int, ...], out: tuple[int, ...], *, width: float = 1.0) -> nn.Module:
    """[N, C_in] -> [N, C, H, W]: the encoder's layers in reverse order."""
    channels, height, across = _image(out)
    a, b, hidden = (max(1, round(size * width)) for size in (16, 32, 256))
    return nn.Sequential(
        nn.Linear(in_shape[0], hidden),
        nn.ReLU(),
        nn.Linear(hidden, b * (height // 4) * (across // 4)),
        nn.ReLU(),
        nn.Unflatten(-1, (b, height // 4, across // 4)),
        nn.ConvTranspose2d(b, a, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(a, channels, 4, 2, 1),
    )

"""The residual networks of the MMVAE+ paper's PolyMNIST experiment (epalu/mmvaeplus), for any image size that 4 divides."""

from __future__ import annotations

from torch import Tensor, nn

from polyvae.errors import InputError


class ResidualBlock(nn.Module):
    """shortcut(x) + 0.1 conv(lrelu(conv(lrelu(x)))), leaky slope 0.2, no normalisation; hidden width min(a, b)."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        hidden = min(a, b)
        self.residual = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Conv2d(a, hidden, 3, padding=1),
            nn.LeakyReLU(0.2), nn.Conv2d(hidden, b, 3, padding=1),
        )
        self.shortcut = nn.Identity() if a == b else nn.Conv2d(a, b, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut(x)
        residual: Tensor = self.residual(x)
        return shortcut + 0.1 * residual


def _sizes(shape: tuple[int, ...], width: float) -> tuple[int, int, int, int, int, int]:
    if len(shape) != 3 or any(size % 4 for size in shape[1:]):
        raise InputError(f"network 'resnet': got shape {shape}; expected (channels, height, width) with sizes that 4 divides; "
                         "use 'mlp' or your own")
    a, b, c = (max(1, round(size * width)) for size in (64, 128, 256))
    return shape[0], shape[1] // 4, shape[2] // 4, a, b, c


def resnet_encoder(in_shape: tuple[int, ...], out: int, *, width: float = 1.0) -> nn.Module:
    """[B, C, H, W] -> [B, out]. One branch; the paper has one for z and one for w (`separate`)."""
    channels, height, across, a, b, c = _sizes(in_shape, width)
    return nn.Sequential(
        nn.Conv2d(channels, a, 3, padding=1), ResidualBlock(a, a),
        nn.AvgPool2d(3, 2, 1), ResidualBlock(a, b),
        nn.AvgPool2d(3, 2, 1), ResidualBlock(b, c),
        nn.Flatten(), nn.Linear(c * height * across, out),
    )


def resnet_decoder(in_shape: tuple[int, ...], out: tuple[int, ...], *, width: float = 1.0) -> nn.Module:
    """[N, code] -> [N, C, H, W]."""
    channels, height, across, a, b, c = _sizes(out, width)
    return nn.Sequential(
        nn.Linear(in_shape[0], c * height * across), nn.Unflatten(-1, (c, height, across)),
        ResidualBlock(c, b), nn.Upsample(scale_factor=2),
        ResidualBlock(b, a), nn.Upsample(scale_factor=2),
        ResidualBlock(a, a), nn.LeakyReLU(0.2), nn.Conv2d(a, channels, 3, padding=1),
    )

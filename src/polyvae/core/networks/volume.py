"""U-HVED's network for images and volumes (Dorent et al. 2019): latents at every resolution, the only path from encoder to decoder.

The latents of all levels are side by side in one vector, the finest first, each flattened from [channels, *sizes].
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyvae.utils.errors import InputError, check_count

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}


def level_shapes(shape: tuple[int, ...], *, width: float = 1.0, levels: int = 4) -> list[tuple[int, ...]]:
    """Shapes of the levels' latents, (channels, *sizes): 4 channels times ``width`` at full size, then twice as many at half the size."""
    check_count("network 'volume'", "levels", levels)
    coarsest = [size >> (levels - 1) for size in shape[1:]]
    if len(shape) - 1 not in _CONV or prod(coarsest) < 2:
        raise InputError(
            f"network 'volume': got shape {shape} and levels={levels}; expected (channels, height, width) or (channels, "
            f"depth, height, width), with more than one pixel after {levels - 1} halvings; take fewer levels, or 'mlp'"
        )
    channels = max(1, round(4 * width))
    return [(channels << level, *(size >> level for size in shape[1:])) for level in range(levels)]


def _checked(shape: tuple[int, ...], columns: int, width: float, levels: int) -> list[tuple[int, ...]]:
    shapes = level_shapes(shape, width=width, levels=levels)
    count = sum(map(prod, shapes))
    if columns != count:
        raise InputError(
            f"network 'volume': got {columns} latent columns for shape {shape}; expected {count}, the sum of its {levels} "
            f"levels; give the model latent={count} and no private latents (u-hved sets this itself)"
        )
    return shapes


def _block(dims: int, a: int, b: int, c: int, bias: bool = True) -> nn.Sequential:
    """Two 3-wide convolutions, each after instance normalisation and a leaky ReLU; no bias where a normalisation follows."""
    conv = _CONV[dims]
    return nn.Sequential(
        nn.GroupNorm(a, a),
        nn.LeakyReLU(),
        conv(a, b, 3, padding=1, bias=False),
        nn.GroupNorm(b, b),
        nn.LeakyReLU(),
        conv(b, c, 3, padding=1, bias=bias),
    )


class PyramidEncoder(nn.Module):
    """[B, C, *sizes] -> [B, 2 D]: the locations of all levels, then their raw scales; each is half of a level's features."""

    def __init__(self, channels: int, shapes: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.dims = len(shapes[0]) - 1
        features = [2 * shape[0] for shape in shapes]
        self.first = nn.Sequential(_CONV[self.dims](channels, features[0], 1), nn.LeakyReLU())
        self.blocks = nn.ModuleList(_block(self.dims, a, b, b) for a, b in pairwise([features[0], *features]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        locs, raws = [], []
        for level, block in enumerate(self.blocks):
            x = block(_POOL[self.dims](x, 2) if level else x)
            loc, raw = x.chunk(2, 1)
            locs.append(loc.flatten(1))
            raws.append(raw.flatten(1))
        return torch.cat([*locs, *raws], -1)


class PyramidDecoder(nn.Module):
    """[N, D] -> [N, C, *sizes]: from the coarsest level up; each result is concatenated with the latents of the next finer level.

    Covariates, further columns of the input, add a learnt map to the coarsest level and are channels of the last layer: between them,
    instance normalisation would remove what is constant over an image.
    """

    def __init__(self, channels: int, shapes: list[tuple[int, ...]], covariates: int = 0) -> None:
        super().__init__()
        self.covariates = covariates
        self.shapes, self.dims = shapes, len(shapes[0]) - 1
        latents = [shape[0] for shape in shapes]
        self.blocks = nn.ModuleList(
            _block(self.dims, a + b, 2 * a, a, bias=a == latents[0]) for a, b in pairwise(latents)
        )
        self.last = _CONV[self.dims](latents[0] + covariates, channels, 1)
        self.map = nn.Linear(covariates, prod(shapes[-1]), bias=False) if covariates else None

    def forward(self, latents: Tensor) -> Tensor:
        latents, given = latents.tensor_split([latents.shape[1] - self.covariates], 1)
        parts = list(torch.split(latents, [prod(shape) for shape in self.shapes], -1))
        if self.map is not None:
            parts[-1] = parts[-1] + self.map(given)
        *finer, x = (part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True))
        for block, level in zip(reversed(self.blocks), reversed(finer), strict=True):
            x = functional.interpolate(x, level.shape[2:], mode=_LINEAR[self.dims], align_corners=False)
            x = block(torch.cat([x, level], 1))
        if self.map is not None:
            beside = given.view(*given.shape, *[1] * self.dims).expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, beside], 1)
        out: Tensor = self.last(x)
        return out


def volume_encoder(in_shape: tuple[int, ...], out: int, *, width: float = 1.0, levels: int = 4) -> nn.Module:
    """[B, C, *sizes] -> [B, out]; ``out`` is twice the number of latent columns of all levels."""
    return PyramidEncoder(in_shape[0], _checked(in_shape, out // 2, width, levels))


def volume_decoder(
    in_shape: tuple[int, ...],
    out: tuple[int, ...],
    *,
    width: float = 1.0,
    levels: int = 4,
    covariates: int = 0,
) -> nn.Module:
    """[N, D + covariates] -> [N, C, *sizes]; the last columns are ``covariates``, which the modality gives."""
    return PyramidDecoder(out[0], _checked(out, in_shape[0] - covariates, width, levels), covariates)

"""The networks of the tasks in plain torch.nn, as described in the paper.

The residual networks are those of the paper's PolyMNIST experiment (Palumbo et al. 2023). polyvae's "resnet" computes the same function;
``give`` also copies the parameters.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from benchmarks.works import Work


class Block(nn.Module):
    """shortcut(x) + 0.1 conv(lrelu(conv(lrelu(x))))."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(a, min(a, b), 3, padding=1)
        self.second = nn.Conv2d(min(a, b), b, 3, padding=1)
        self.shortcut = nn.Identity() if a == b else nn.Conv2d(a, b, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(nn.functional.leaky_relu(x, 0.2))
        return self.shortcut(x) + 0.1 * self.second(nn.functional.leaky_relu(inner, 0.2))


class Two(nn.Module):
    """An encoder of z and an encoder of w, with concatenated outputs."""

    def __init__(self, z: nn.Module, w: nn.Module) -> None:
        super().__init__()
        self.z, self.w = z, w

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.z(x), self.w(x)], -1)


def _mlp(sizes: list[int]) -> list[nn.Module]:
    stack: list[nn.Module] = []
    for a, b in pairwise(sizes):
        stack += [nn.Linear(a, b), nn.ReLU()]
    return stack[:-1]


def _channels(work: Work) -> tuple[int, int, int]:
    a, b, c = (max(1, round(size * work.width)) for size in (64, 128, 256))
    return a, b, c


def encoder(work: Work) -> nn.Module:
    """[B, *shape] -> [B, 4 latent]: location and raw scale of z, then of w."""
    if work.hidden:
        return nn.Sequential(nn.Flatten(), *_mlp([prod(work.shape), *work.hidden, 4 * work.latent]))
    a, b, c = _channels(work)
    channels, height, across = work.shape

    def half() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, a, 3, padding=1),
            Block(a, a),
            nn.AvgPool2d(3, 2, 1),
            Block(a, b),
            nn.AvgPool2d(3, 2, 1),
            Block(b, c),
            nn.Flatten(),
            nn.Linear(c * (height // 4) * (across // 4), 2 * work.latent),
        )

    return Two(half(), half())


def decoder(work: Work) -> nn.Module:
    """[N, 2 latent] -> [N, *shape]; the input is z, then w."""
    if work.hidden:
        return nn.Sequential(
            *_mlp([2 * work.latent, *reversed(work.hidden), prod(work.shape)]), nn.Unflatten(-1, work.shape)
        )
    a, b, c = _channels(work)
    channels, height, across = work.shape
    return nn.Sequential(
        nn.Linear(2 * work.latent, c * (height // 4) * (across // 4)),
        nn.Unflatten(-1, (c, height // 4, across // 4)),
        Block(c, b),
        nn.Upsample(scale_factor=2),
        Block(b, a),
        nn.Upsample(scale_factor=2),
        Block(a, a),
        nn.LeakyReLU(0.2),
        nn.Conv2d(a, channels, 3, padding=1),
    )


def pairs(work: Work) -> list[tuple[nn.Module, nn.Module]]:
    """One encoder and decoder per modality, with the initial parameters of the task's seed."""
    with torch.random.fork_rng():
        torch.manual_seed(work.seed)
        return [(encoder(work), decoder(work)) for _ in work.names]


@torch.no_grad()
def give(source: nn.Module, target: nn.Module) -> None:
    """Copy the parameters in their order, so that both compute the same function. Raises ValueError if their shapes differ."""
    mine, theirs = list(source.parameters()), list(target.parameters())
    shapes = [[tuple(p.shape) for p in part] for part in (mine, theirs)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"not the same networks: parameters of shapes {shapes[0]} and {shapes[1]}")
    for a, b in zip(mine, theirs, strict=True):
        b.copy_(a)

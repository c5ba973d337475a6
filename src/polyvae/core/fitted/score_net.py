"""The network of a score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polyvae.core.fitted.base import columns_of
from polyvae.core.fitted.diffusion import marginal


class ScoreNet(nn.Module):
    """−ε from noisy latents [N, D] and the time of each block, [N, G] or [1, G]; clean blocks have time 0.

    The output of a residual network plus −s x_t, the prediction for a standard normal x. The time multiplies and shifts the hidden units,
    and s is given by its logarithm, too; in the published design the time is added to the hidden units.

    Args:
        blocks: Columns of each block.
        hidden: Hidden units.
        layers: Residual layers.
        published: Whether the time is added only.
        known: Columns of what stands for each block where it is clean; None: the block itself.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        hidden: int,
        layers: int,
        published: bool = False,
        known: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.blocks, self.published = tuple(blocks), published
        self.known = self.blocks if known is None else tuple(known)
        times = (2 if published else 3) * len(blocks)
        self.time = nn.Sequential(nn.Linear(times, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.first = nn.Linear(sum(blocks) + sum(self.known), hidden)
        self.layers = nn.ModuleList([_Residual(hidden, scaled=not published) for _ in range(layers)])
        self.last = nn.Sequential(nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, sum(blocks)))
        for parameter in self.last[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, known: Tensor | None = None) -> Tensor:
        s = marginal(t).s
        noisy = torch.where(columns_of(t == 0, self.blocks), 0, x)
        clean = torch.where(columns_of(t == 0, self.known), x if known is None else known, 0)
        h = self.first(torch.cat([noisy, clean], -1))
        times = [t, s] if self.published else [t, s, s.clamp(min=1e-3).log() / 3]
        time = self.time(torch.cat(times, -1))
        for layer in self.layers:
            h = layer(h, time)
        out: Tensor = self.last(h) - columns_of(s, self.blocks) * x
        return out


class _Residual(nn.Module):
    """A residual layer, to which the time adds a shift, or of which it also scales the hidden units."""

    def __init__(self, hidden: int, scaled: bool) -> None:
        super().__init__()
        self.scaled = scaled
        self.norms = nn.ModuleList([nn.LayerNorm(hidden), nn.LayerNorm(hidden)])
        self.linears = nn.ModuleList([nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)])
        self.time = nn.Linear(hidden, 2 * hidden if scaled else hidden)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        inner = self.linears[0](nn.functional.silu(self.norms[0](h)))
        if self.scaled:
            scale, shift = self.time(time).chunk(2, -1)
            inner = self.norms[1](inner) * (1 + scale) + shift
        else:
            inner = self.norms[1](inner + self.time(time))
        out: Tensor = h + self.linears[1](nn.functional.silu(inner))
        return out

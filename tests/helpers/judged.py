"""A judge that reads a class without fault, and networks that show one."""

from __future__ import annotations

import torch
from torch import nn

from polyvae.metrics.judge_training import Reader


class Bright(Reader):
    """Class 1 where the image's mean is above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = (1, 8, 8)
        self.line = nn.Linear(1, 2)
        with torch.no_grad():
            self.line.weight.copy_(torch.tensor([[-1.0], [1.0]]))
            self.line.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x.flatten(1).mean(1, keepdim=True))


class Signs(nn.Module):
    """Decoder: the sign of column ``column`` of (z, w_m), all over the image. Encoder: z = 10 x the image's mean, scale tiny."""

    def __init__(self, column: int, out: int | tuple[int, ...]) -> None:
        super().__init__()
        self.column, self.out = column, out
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.out, tuple) and len(self.out) == 3:
            return x[:, self.column].sign()[:, None, None, None].expand(-1, 1, 8, 8) + 0 * self.unused
        size = self.out if isinstance(self.out, int) else self.out[0]
        code = torch.full((len(x), size), -14.0)
        code[:, 0] = 10 * x.flatten(1).mean(1)
        return code

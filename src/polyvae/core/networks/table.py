"""Networks for tables: a linear map beside a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from polyvae.core.networks.mlp import layers


class LinearPlus(nn.Module):
    """The sum of a linear map and a multilayer perceptron, behind dropout of the input.

    The linear map is what few samples of many columns determine; the perceptron adds what more samples show.

    Args:
        inputs: Columns of the input.
        outputs: Columns of the output.
        hidden: Sizes of the hidden layers; none: the linear map alone.
        dropout: Probability with which an input is set to zero in training.
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.linear = nn.Linear(inputs, outputs)
        self.curved = nn.Sequential(*layers([inputs, *hidden, outputs])) if hidden else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] -> [B, outputs]."""
        x = self.dropout(x)
        line: Tensor = self.linear(x)
        return line if self.curved is None else line + self.curved(x)


def table_encoder(
    in_shape: tuple[int, ...],
    out: int,
    *,
    width: float = 1.0,
    hidden: Sequence[int] = (128,),
    dropout: float = 0.05,
) -> nn.Module:
    """[B, *in_shape] -> [B, out]; the ``hidden`` sizes, each times ``width``; ``dropout`` of the inputs."""
    sizes = [max(1, round(size * width)) for size in hidden]
    return nn.Sequential(nn.Flatten(), LinearPlus(prod(in_shape), out, sizes, dropout))


def table_decoder(
    in_shape: tuple[int, ...], out: tuple[int, ...], *, width: float = 1.0, hidden: Sequence[int] = (128,)
) -> nn.Module:
    """[N, C] -> [N, *out]; the ``hidden`` sizes are those of the encoder, used in reverse order."""
    sizes = [max(1, round(size * width)) for size in reversed(hidden)]
    return nn.Sequential(LinearPlus(prod(in_shape), prod(out), sizes, 0.0), nn.Unflatten(-1, out))

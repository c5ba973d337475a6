"""Networks for tables: a linear map beside a network with one hidden layer."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from polyvae.core.networks.mlp import layers


class LinearPlus(nn.Module):
    """The sum of a linear map and a multilayer perceptron, behind dropout of the input.

    The linear map is what few samples of many columns determine; the perceptron adds what more samples show.

    Args:
        inputs: Columns of the input.
        outputs: Columns of the output.
        hidden: Units of the hidden layer; 0: the linear map alone.
        dropout: Probability with which an input is set to zero in training.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(inputs, outputs)
        self.curved = nn.Sequential(*layers([inputs, hidden, outputs])) if hidden else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] -> [B, outputs]."""
        x = self.dropout(x)
        line: Tensor = self.linear(x)
        return line if self.curved is None else line + self.curved(x)


def table_encoder(
    in_shape: tuple[int, ...], out: int, *, width: float = 1.0, hidden: int = 128, dropout: float = 0.05
) -> nn.Module:
    """[B, *in_shape] -> [B, out]; ``hidden`` units, times ``width``; ``dropout`` of the inputs."""
    return nn.Sequential(nn.Flatten(), LinearPlus(prod(in_shape), out, round(hidden * width), dropout))


def table_decoder(
    in_shape: tuple[int, ...],
    out: tuple[int, ...],
    *,
    width: float = 1.0,
    hidden: int = 128,
    dropout: float = 0.05,
) -> nn.Module:
    """[N, C] -> [N, *out]; ``hidden`` units, times ``width``; ``dropout`` is of the encoder alone."""
    return nn.Sequential(
        LinearPlus(prod(in_shape), prod(out), round(hidden * width), 0.0), nn.Unflatten(-1, out)
    )

"""The distance of data from the output of a linear layer, with one array of the data's size kept for the gradient, or with none.

The last layer of a decoder of vectors takes most of a step: its output is as wide as the data, with one row for every sample, draw and
component. Computed directly, the output, the difference, its measure and both gradients each take an array of that size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def distances(hidden: Tensor, layer: nn.Linear, x: Tensor, rows: Tensor, power: int) -> Tensor:
    """Σ_f |x_f − layer(hidden)_f|^power. Under autocast the layer's products have its precision; differences and sums have that of x.

    Args:
        hidden: Input of the layer, [N, H].
        layer: [N, H] -> [N, F].
        x: Values, [B, F].
        rows: [N], the sample of x that each row of ``hidden`` belongs to.
        power: 1 or 2.

    Returns:
        [N].
    """
    device = x.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    found: Tensor = _Distances.apply(hidden, layer.weight, layer.bias, x, rows, power, product)  # type: ignore[no-untyped-call]
    return found


def squares(hidden: Tensor, layer: nn.Linear, x: Tensor, rows: Tensor, nearest: bool = False) -> Tensor:
    """Σ_f (x_f − layer(hidden)_f)² without any array [N, F]; further arguments as in ``distances``.

    For any c, with d = x − Wc − b and the step s = h − c, ‖x − Wh − b‖² = ‖d‖² + sᵀ(WᵀW s − 2Wᵀd). Each c is a sample's mean of h, so
    what cancels is no larger than the error of a typical prediction, and large values common to all samples cost no digits.

    Args:
        nearest: Compute the distances twice, and take as c the h of the sample whose distance was the smallest. The error is then no
            larger than the rounding error of the distance itself. Without it, the distances of predictions much better than a typical
            one lose digits, which counts where the scale of the likelihood is small.
    """
    if nearest:
        with torch.no_grad():
            first = _squares(hidden.detach(), layer, x, rows, _mean(hidden, x, rows))
            best = first.new_full((len(x),), torch.inf).scatter_reduce(0, rows, first, "amin")
            number = torch.arange(len(rows), device=x.device)
            number = torch.where(first == best.index_select(0, rows), number, -1)
            chosen = rows.new_full((len(x),), -1).scatter_reduce(0, rows, number, "amax").clamp(min=0)
            centre = hidden.detach().index_select(0, chosen).to(x.dtype)
        return _squares(hidden, layer, x, rows, centre)
    return _squares(hidden, layer, x, rows, _mean(hidden, x, rows))


def _mean(hidden: Tensor, x: Tensor, rows: Tensor) -> Tensor:
    """Each sample's mean of h: [B, H]."""
    centre = x.new_zeros(len(x), hidden.shape[-1]).index_add(0, rows, hidden.detach().to(x.dtype))
    return centre / x.new_zeros(len(x)).index_add(0, rows, x.new_ones(len(rows))).clamp(min=1)[:, None]


def _squares(hidden: Tensor, layer: nn.Linear, x: Tensor, rows: Tensor, centre: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):  # a density, not a network
        hidden = hidden.to(x.dtype)
        difference = x - layer(centre)  # [B, F]
        step = hidden - centre.index_select(0, rows)  # [N, H]
        curve = step @ (layer.weight.T @ layer.weight) - 2 * (difference @ layer.weight).index_select(0, rows)
        total: Tensor = difference.square().sum(-1).index_select(0, rows) + (step * curve).sum(-1)
        return total


def squares_pay(layer: nn.Linear, rows: int, data: int) -> bool:
    """Whether ``squares`` halves the multiplications needed for ``rows`` latents of ``data`` samples."""
    features, width = layer.weight.shape
    return bool(2 * (2 * data + width + rows * width / features) <= rows)


class _Distances(torch.autograd.Function):
    """Keeps the residual x − Wh − b alone of the data's width; rows are scaled on the narrow side of each product."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        x: Tensor,
        rows: Tensor,
        power: int,
        product: torch.dtype,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            residual = (x if bias is None else x - bias).index_select(0, rows)  # [N, F]
            hidden, weight = hidden.to(product), weight.to(product)
            if product == x.dtype:
                torch.addmm(residual, hidden, weight.T, alpha=-1, out=residual)
            else:
                residual -= hidden @ weight.T
            length: Tensor = torch.linalg.vector_norm(residual, power, dim=-1)
        ctx.save_for_backward(hidden, weight, residual, rows)
        ctx.power, ctx.has_bias, ctx.samples = power, bias is not None, len(x)
        return length if power == 1 else torch.square(length)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, each: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, residual, rows = ctx.saved_tensors
        slope = residual.sign() if ctx.power == 1 else residual  # [N, F]
        each = -each if ctx.power == 1 else -2 * each  # [N]
        with torch.autocast(residual.device.type, enabled=False):
            to_bias = slope.T @ each if ctx.has_bias else None
            to_x = None
            if ctx.needs_input_grad[3]:
                to_x = slope.new_zeros(ctx.samples, slope.shape[1]).index_add(0, rows, slope * -each[:, None])
            slope = slope.to(hidden.dtype)
            to_hidden = (slope @ weight).to(each.dtype) * each[:, None]
            to_weight = slope.T @ (hidden * each[:, None]).to(hidden.dtype)
        return to_hidden, to_weight.to(each.dtype), to_bias, to_x, None, None, None

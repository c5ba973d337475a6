"""How far data lies from what a linear layer says of it, with one array of the data's size kept for the gradient, or with none.

The last layer of a decoder of vectors is most of a step: its output is as wide as the data, and there is a row for every sample and view.
Written plainly, that output, the difference, its measure and both their gradients each take an array of that size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def distances(hidden: Tensor, layer: nn.Linear, x: Tensor, datum: Tensor, power: int) -> Tensor:
    """Σ_f |x_f − layer(hidden)_f|^power, power 1 or 2: hidden [N, H], x [B, F], datum [N] (whose row of x) -> [N].

    Under autocast the layer's products are of its precision, as they would be; differences and sums are of x's.
    """
    device = x.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    found: Tensor = _Distances.apply(hidden, layer.weight, layer.bias, x, datum, power, product)  # type: ignore[no-untyped-call]
    return found


def squares(hidden: Tensor, layer: nn.Linear, x: Tensor, datum: Tensor) -> Tensor:
    """Σ_f (x_f − layer(hidden)_f)² without any array [N, F]: hidden [N, H], x [B, F], datum [N] (whose row of x) -> [N].

    For any c, with the gap d = x − Wc − b and the step s = h − c, ‖x − Wh − b‖² = ‖d‖² + sᵀ(WᵀW s − 2Wᵀd). Each c is a datum's mean of
    h, so that what cancels is no larger than the error of a typical prediction: large values that all share cost no digits.
    """
    with torch.autocast(x.device.type, enabled=False):  # a density, not a network
        hidden = hidden.to(x.dtype)
        centre = x.new_zeros(len(x), hidden.shape[-1]).index_add(0, datum, hidden.detach())
        centre = (
            centre / x.new_zeros(len(x)).index_add(0, datum, x.new_ones(len(datum))).clamp(min=1)[:, None]
        )  # [B, H]
        gap = x - layer(centre)  # [B, F]
        step = hidden - centre.index_select(0, datum)  # [N, H]
        curve = step @ (layer.weight.T @ layer.weight) - 2 * (gap @ layer.weight).index_select(0, datum)
        total: Tensor = gap.square().sum(-1).index_select(0, datum) + (step * curve).sum(-1)
        return total


def squares_pay(layer: nn.Linear, rows: int, data: int) -> bool:
    """Whether ``squares`` halves the multiplications that ``rows`` codes of ``data`` samples need."""
    features, width = layer.weight.shape
    return bool(2 * (2 * data + width + rows * width / features) <= rows)


class _Distances(torch.autograd.Function):
    """The residual x − Wh − b is all that is kept of the data's width; rows are scaled on the narrow side of each product."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        x: Tensor,
        datum: Tensor,
        power: int,
        product: torch.dtype,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            residual = (x if bias is None else x - bias).index_select(0, datum)  # [N, F]
            hidden, weight = hidden.to(product), weight.to(product)
            if product == x.dtype:
                torch.addmm(residual, hidden, weight.T, alpha=-1, out=residual)
            else:
                residual -= hidden @ weight.T
            length: Tensor = torch.linalg.vector_norm(residual, power, dim=-1)
        ctx.save_for_backward(hidden, weight, residual, datum)
        ctx.power, ctx.has_bias, ctx.rows = power, bias is not None, len(x)
        return length if power == 1 else torch.square(length)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, each: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, residual, datum = ctx.saved_tensors
        slope = residual.sign() if ctx.power == 1 else residual  # [N, F]
        each = -each if ctx.power == 1 else -2 * each  # [N]
        with torch.autocast(residual.device.type, enabled=False):
            to_bias = slope.T @ each if ctx.has_bias else None
            to_x = None
            if ctx.needs_input_grad[3]:
                to_x = slope.new_zeros(ctx.rows, slope.shape[1]).index_add(0, datum, slope * -each[:, None])
            slope = slope.to(hidden.dtype)
            to_hidden = (slope @ weight).to(each.dtype) * each[:, None]
            to_weight = slope.T @ (hidden * each[:, None]).to(hidden.dtype)
        return to_hidden, to_weight.to(each.dtype), to_bias, to_x, None, None, None

"""Rows that are decoded without a graph, and those that a gradient flows to once more, in the backward pass.

The gradient of an importance-weighted bound is an average over K samples with their normalised weights. Where data has many dimensions one
sample in K takes nearly all of it: a graph of the others would be kept, and gone through backwards, for products with zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[Tensor, Tensor], Tensor]

# What looks at the batch, or draws, in training; each is a torch module that could stand in a decoder.
_LOOKS_ASIDE = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
    nn.RNNBase,
    nn.RReLU,
    nn.MultiheadAttention,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)


def decoded_again(
    run: Run, code: Tensor, datum: Tensor, parameters: Iterable[nn.Parameter], rows: int | None = None
) -> Tensor:
    """``run(code, datum)``: [N, C], [N] -> [N], with its gradient in ``code`` and ``parameters`` and no graph kept; ``rows`` at a time.

    The backward pass runs again the rows whose gradient g_n counts: those left out, N |g_n| ≤ ε Σ|g|, add up to less than one rounding of
    the sum of all; where that sum is not finite, none is left out. ``run`` must say the same of a row whatever stands beside it and
    whenever it is asked (``rows_apart``). There are no gradients of these gradients.
    """
    found: Tensor = _Again.apply(run, rows, code, datum, *parameters)  # type: ignore[no-untyped-call]
    return found


def share_that_counts(log_weight: Tensor) -> float:
    """The share of log-weights [K, ...] that a gradient would flow to, among the samples in which they differ at all."""
    differ = (log_weight != log_weight[:1]).any(0)
    return float((log_weight.softmax(0) > torch.finfo(log_weight.dtype).eps)[:, differ].double().mean())


def rows_apart(network: nn.Module) -> bool:
    """Whether a network is known to say the same of a row whatever stands beside it and whenever it is asked.

    Those of this library do, and what torch's modules make up, but for batch statistics, dropout and whatever a hook does before them. Of
    a class of your own ``rows_apart = True`` says it, and that its own parameters are all it learns by; its parts are looked at, too.
    """
    known = (
        type(network).__module__.startswith(("torch.nn.modules.", "polyvae."))
        or vars(type(network)).get("rows_apart") is True
    )
    hooked = bool(network._forward_pre_hooks)  # the old spectral norm: other weights at every call
    aside = network.training and isinstance(network, _LOOKS_ASIDE)
    return known and not hooked and not aside and all(map(rows_apart, network.children()))


@contextmanager
def graphless(like: Tensor) -> Iterator[None]:
    """No graph is made, and autocast keeps no weights: what it casts here has no graph, and would be handed to whoever needs one."""
    with torch.no_grad(), _autocast(like.device.type):
        yield


def _autocast(device: str) -> torch.autocast:
    return torch.autocast(
        device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device), cache_enabled=False
    )


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Run, rows: int | None, code: Tensor, datum: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.run, ctx.rows, ctx.autocast = run, rows, _autocast(code.device.type)
        ctx.save_for_backward(code, datum, *parameters)
        size = rows or max(1, len(code))
        with graphless(code):
            return torch.cat(
                [
                    run(*part)
                    for part in zip(torch.split(code.detach(), size), torch.split(datum, size), strict=True)
                ]
            )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, each: Tensor) -> tuple[Tensor | None, ...]:
        code, datum, *parameters = ctx.saved_tensors
        size = each.abs()
        total = size.sum()
        counts = (
            len(size) * size > torch.finfo(size.dtype).eps * total
        ) | ~total.isfinite()  # beside infinity all else looks small
        index = counts.nonzero()[:, 0]
        to_code, to_parameters = (
            torch.zeros_like(code),
            [torch.zeros_like(parameter) for parameter in parameters],
        )
        for part in torch.split(index, ctx.rows or len(index)) if len(index) else ():
            some = code.index_select(0, part).requires_grad_()
            with torch.enable_grad(), ctx.autocast:
                found = ctx.run(some, datum.index_select(0, part))
            first, *others = torch.autograd.grad(
                found, [some, *parameters], each.index_select(0, part), materialize_grads=True
            )
            to_code.index_copy_(0, part, first)
            for so_far, one in zip(to_parameters, others, strict=True):
                so_far += one
        return None, None, to_code, None, *to_parameters

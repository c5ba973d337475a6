"""Whether numbers are finite, looked at without making the host wait for a device more often than necessary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm


def unsound(tensors: Mapping[str, Tensor]) -> str | None:
    """The first name whose tensor has a value that is not finite; None: all are finite."""
    numbers = {name: x for name, x in tensors.items() if x.is_floating_point() and x.numel()}
    numbers = {name: x.float() if x.itemsize == 1 else x for name, x in numbers.items()}  # norms need 16 bits
    # One norm of all is fast; where it overflows, or is not finite, each is looked at.
    if not numbers or math.isfinite(float(get_total_norm(numbers.values()))):
        return None
    return next((name for name, x in numbers.items() if not bool(x.isfinite().all())), None)


def constants(model: nn.Module) -> set[str]:
    """The stored tensors that contain an infinity before training and no NaN: masks of -inf, and weights of pruned clusters."""
    stored = {name: x for name, x in model.state_dict().items() if x.is_floating_point()}
    return {name for name, x in stored.items() if bool(x.isinf().any()) and not bool(x.isnan().any())}


def gradient_sum(parameters: Iterable[Tensor], vectors: bool) -> Tensor | None:
    """The sum of gradients, on their device: not finite if one of them is not. It takes half the time of their norm.

    ``vectors``: only those of biases and scales, which are small; an overflow that comes from above a layer reaches its bias too.
    """
    sums = [x.grad.sum() for x in parameters if x.grad is not None and (x.ndim < 2 or not vectors)]
    return torch.stack(sums).sum() if sums else None

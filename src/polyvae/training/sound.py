"""Whether numbers are finite, looked at without making the host wait for a device more often than necessary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm


def unsound(tensors: Mapping[str, Tensor]) -> str | None:
    """The first name whose tensor has a value that is not finite; None: all are finite."""
    numbers = {name: x for name, x in tensors.items() if x.is_floating_point() and x.numel()}
    # One norm of all is fast; where it overflows, or is not finite, each is looked at.
    if not numbers or math.isfinite(float(get_total_norm(numbers.values()))):
        return None
    return next((name for name, x in numbers.items() if not bool(x.isfinite().all())), None)


def gradient_sum(parameters: Iterable[Tensor], vectors: bool) -> Tensor | None:
    """The sum of gradients, on their device: not finite if one of them is not. It takes half the time of their norm.

    ``vectors``: only those of biases and scales, which are small; an overflow that comes from above a layer reaches its bias too.
    """
    sums = [x.grad.sum() for x in parameters if x.grad is not None and (x.ndim < 2 or not vectors)]
    return torch.stack(sums).sum() if sums else None


def jsonable(value: Any) -> Any:
    """``value`` with null in place of numbers that are not finite, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: jsonable(x) for key, x in value.items()}
    return [jsonable(x) for x in value] if isinstance(value, list | tuple) else value

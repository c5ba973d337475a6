"""Whether numbers are finite, looked at without making the host wait for a device more often than necessary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils import get_total_norm


def unsound(tensors: Mapping[str, Tensor]) -> str | None:
    """The first name whose tensor has a value that is not finite; None: all are finite."""
    numbers = {name: x for name, x in tensors.items() if x.is_floating_point() and x.numel()}
    # One norm of all is fast; where it overflows, or is not finite, each is looked at.
    if not numbers or math.isfinite(float(get_total_norm(numbers.values()))):
        return None
    return next((name for name, x in numbers.items() if not bool(x.isfinite().all())), None)


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients, on their device."""
    return get_total_norm([x.grad for x in parameters if x.grad is not None])


def jsonable(value: Any) -> Any:
    """``value`` with null in place of numbers that are not finite, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: jsonable(x) for key, x in value.items()}
    return [jsonable(x) for x in value] if isinstance(value, list | tuple) else value

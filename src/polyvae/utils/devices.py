"""Names of devices, tensors that are moved to one, and models that compute on one for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from polyvae.utils.errors import InputError

_EXPECTED = "'auto', 'cpu', 'cuda' or 'mps', or one of several such as 'cuda:1'"


def device_of(where: str, device: torch.device | str) -> torch.device:
    """The device of this name; "auto" is a GPU if there is one, else the CPU.

    Args:
        where: What asks for it, for errors.
        device: The name.

    Raises:
        InputError: A name that torch does not know, or a device that this machine does not have.
    """
    if device == "auto":
        there = [name for name in ("cuda", "mps") if torch.get_device_module(name).is_available()]
        return torch.device(there[0] if there else "cpu")
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise RuntimeError("it holds no values")
        torch.zeros(1, device=found)  # a name that is known need not be a device that is there
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as problem:
        why = str(problem).strip().splitlines()[0].split(". ")[0].rstrip(".")
        raise InputError(
            f"{where}: got device={str(device)!r}, which cannot be used ({why}); expected {_EXPECTED}; choose one"
        ) from None
    return found


@contextmanager
def on_device(where: str, model: nn.Module, device: torch.device | str | None) -> Iterator[None]:
    """Inside, the weights are on ``device``; None: where they are. Afterwards they are where they were.

    Raises InputError: see ``device_of``.
    """
    if device is None:
        yield
        return
    before, there = next(model.parameters()).device, device_of(where, device)
    model.to(there)
    try:
        yield
    finally:
        model.to(before)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on ``device``, without waiting for the device where that is safe."""
    return x.to(device, non_blocking=device.type != "mps")  # MPS may read x after it is freed

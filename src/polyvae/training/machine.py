"""What a training may use of the machine: threads, devices, processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import TYPE_CHECKING

import torch

from polyvae.config import TrainConfig
from polyvae.core.vae import MultimodalVAE
from polyvae.training.precision import NAMES, choose
from polyvae.utils.errors import InputError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def check_machine(train: TrainConfig) -> None:
    """Raises InputError: more threads or devices than there are, or several devices where the program cannot be run once for each."""
    cores = os.cpu_count() or 1
    if train.threads is not None and train.threads > cores:
        raise InputError(
            f"fit: got threads={train.threads}; expected at most {cores}, the processors of this machine; leave it out for the default"
        )
    if train.devices == 1:
        return
    kind = train.device if train.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cuda": torch.cuda.device_count(), "gpu": torch.cuda.device_count(), "cpu": cores}.get(kind, 1)
    if train.devices > there:
        raise InputError(
            f"fit: got devices={train.devices} of kind {kind!r}; expected at most {there}, as this machine has; lower devices"
        )
    started = "LOCAL_RANK" in os.environ  # by torchrun, or by the first process of this training
    if started:
        return
    program = vars(sys.modules["__main__"]).get("__file__")
    if program is None or multiprocessing.parent_process() is not None:
        where = (
            "a notebook, an interactive session or python -c"
            if program is None
            else "a process of multiprocessing"
        )
        raise InputError(
            f"fit: got devices={train.devices} in {where}; expected a script, because every device has a process of its own that "
            "runs the script from its beginning; write a script, or set devices=1"
        )


def fabric_of(model: MultimodalVAE, train: TrainConfig, recorded: str | None) -> tuple[Fabric, str, str]:
    """Fabric for the device, the precision, and the reason for it: see ``choose``. Raises InputError: the device cannot be used."""
    from lightning_fabric import Fabric  # seconds of import that only training needs
    from lightning_fabric.plugins import MixedPrecision

    try:
        # Only Fabric knows which device "auto" is.
        fabric = Fabric(accelerator=train.device, devices=train.devices)
        kind = fabric.device.type
        precision, why = choose(model, train, kind, recorded)
        if precision == "bf16":  # by name Fabric would announce it in words of its own
            plugin = MixedPrecision("bf16-mixed", kind)
            fabric = Fabric(accelerator=train.device, devices=train.devices, plugins=plugin)
        elif precision != "fp32":
            fabric = Fabric(accelerator=train.device, devices=train.devices, precision=NAMES[precision])  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as problem:
        raise InputError(
            f"fit: got device={train.device!r}, which cannot be used ({' '.join(str(problem).split())}); "
            "expected 'auto', 'cpu', 'cuda' or 'mps'"
        ) from None
    return fabric, precision, why


def out_of_memory(problem: RuntimeError) -> bool:
    """torch has a class for a GPU's memory; on a CPU the message is all there is."""
    return isinstance(problem, torch.OutOfMemoryError) or "not enough memory" in str(problem)

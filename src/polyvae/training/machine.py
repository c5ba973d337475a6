"""What a training may use of the machine: threads, devices, processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from typing import TYPE_CHECKING, Any

import torch

from polyvae.config import TrainConfig
from polyvae.core.vae import MultimodalVAE
from polyvae.training.precision import NAMES, choose
from polyvae.training.processes import Launch
from polyvae.utils.errors import InputError

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment


def check_machine(train: TrainConfig) -> None:
    """Raises InputError: more threads or devices than there are, or several devices where the program cannot be run once for each."""
    launch, cores = Launch.found(), os.cpu_count() or 1
    local = launch.local if launch.by else train.devices
    if launch.world != train.devices and launch.by:
        started = "an earlier fit" if launch.by == "fit" else launch.by
        raise InputError(
            f"fit: got devices={train.devices} in one of {launch.world} processes of {started}; expected the same number; "
            f"set devices={launch.world}"
            + ("" if launch.by == "fit" else f", or start the script without {launch.by}")
        )
    if launch.by == "srun" and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise InputError(
            f"fit: got {launch.world} tasks of srun without --ntasks-per-node; expected it, from which each process knows its device; "
            f"add --ntasks-per-node={local}"
        )
    if train.threads is not None and train.threads * local > cores:
        each = "" if local == 1 else f" for each of {local} processes"
        raise InputError(
            f"fit: got threads={train.threads}{each}; expected at most {cores // local}, the processors of this machine"
            f"{'' if local == 1 else ' over the processes'}; leave it out for the default"
        )
    if train.devices == 1:
        return
    kind = train.device if train.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cuda": torch.cuda.device_count(), "gpu": torch.cuda.device_count(), "cpu": cores}.get(kind, 1)
    if local > there:
        raise InputError(
            f"fit: got devices={local} of kind {kind!r}; expected at most {there}, as this machine has; lower devices"
        )
    if not launch.by:
        _check_script(train.devices)


def _check_script(devices: int) -> None:
    """Raises InputError: there is no script that other processes could run."""
    main = vars(sys.modules["__main__"])
    script = main.get("__file__")
    if multiprocessing.parent_process() is not None:
        where = "a process of multiprocessing"
    elif script is None or "ps1" in vars(sys) or not os.path.isfile(sys.argv[0]):
        where = "a notebook, an interactive session or python -c"
    else:
        return
    raise InputError(
        f"fit: got devices={devices} in {where}; expected a script, because every device has a process of its own that "
        "runs the script from its beginning; write a script, or set devices=1"
    )


def fabric_of(model: MultimodalVAE, train: TrainConfig, recorded: str | None) -> tuple[Fabric, str, str]:
    """Fabric for the device, the precision, and the reason for it: see ``choose``. Raises InputError: the device cannot be used."""
    from lightning_fabric import Fabric  # seconds of import that only training needs
    from lightning_fabric.plugins import MixedPrecision

    launch = Launch.found()
    for name in ("distributed", "rank_zero"):  # a banner, and a line of each process
        logger = logging.getLogger(f"lightning_fabric.utilities.{name}")
        logger.setLevel(max(logger.level, logging.WARNING))
    local = launch.local if launch.by else train.devices
    where: dict[str, Any] = {
        "accelerator": train.device,
        "devices": local,
        "num_nodes": train.devices // local,
    }
    try:
        environment = _environment(launch)
        # Only Fabric knows which device "auto" is.
        fabric = Fabric(**where, plugins=[environment])
        kind = fabric.device.type
        precision, why = choose(model, train, kind, recorded)
        if precision == "bf16":  # by name Fabric would announce it in words of its own
            plugin = MixedPrecision("bf16-mixed", kind)
            fabric = Fabric(**where, plugins=[environment, plugin])
        elif precision != "fp32":
            fabric = Fabric(**where, plugins=[environment], precision=NAMES[precision])  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as problem:
        raise InputError(
            f"fit: got device={train.device!r}, which cannot be used ({' '.join(str(problem).split())}); "
            "expected 'auto', 'cpu', 'cuda' or 'mps'; choose one"
        ) from None
    return fabric, precision, why


def _environment(launch: Launch) -> ClusterEnvironment:
    """What Fabric reads from the environment. Its own choice would wait for processes that a SLURM job without srun does not start."""
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if launch.by == "torchrun":
        return TorchElasticEnvironment()
    return SLURMEnvironment() if launch.by == "srun" else LightningEnvironment()


def out_of_memory(problem: RuntimeError) -> bool:
    """torch has a class for a GPU's memory; on a CPU the message is all there is."""
    return isinstance(problem, torch.OutOfMemoryError) or "not enough memory" in str(problem)

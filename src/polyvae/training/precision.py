"""The precision of a training. "auto" asks the machine."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from polyvae.config import TrainConfig
from polyvae.core.vae import MultimodalVAE

NAMES = {"fp32": "32-true", "bf16": "bf16-mixed", "fp64": "64-true"}
"""Setting -> the name in lightning_fabric."""


def choose(
    model: MultimodalVAE, train: TrainConfig, device: str, recorded: str | None = None
) -> tuple[str, str]:
    """The precision to train in, and the reason for it ("" where it was given).

    Args:
        model: The model; one in double precision stays in double precision unless "bf16" is set.
        train: The settings.
        device: The type of the device.
        recorded: What the run to resume was begun with.
    """
    double = next(model.parameters()).dtype == torch.float64
    if train.precision != "auto":
        return ("fp64", "") if double and train.precision == "fp32" else (train.precision, "")
    if recorded is not None:
        return recorded, "as the run began"
    if double:
        return "fp64", "as the model"
    if device == "cuda":
        # Emulated bf16 is slower than float32.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU has bf16") if native else ("fp32", "the GPU has no bf16")
    if device != "cpu":
        return "fp32", f"bf16 is not chosen on {device}"
    return ("bf16", "the CPU has bf16") if native_bf16() else ("fp32", "the CPU has no bf16")


@cache
def native_bf16() -> bool:
    """Whether this CPU has instructions for matrix products in bf16. Without them, bf16 is several times slower than float32.

    The instruction set, not a measured time, so that a training is the same whatever else the machine does.
    """
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # another system than Linux
        return False
    return any(flag in flags.split() for flag in ("avx512_bf16", "amx_bf16"))

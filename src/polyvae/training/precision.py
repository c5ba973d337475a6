"""The precision of a training. "auto" asks the machine."""

from __future__ import annotations

import time
from functools import cache

import torch

from polyvae.config import TrainConfig
from polyvae.core.vae import MultimodalVAE

NAMES = {"fp32": "32-true", "bf16": "bf16-mixed", "fp64": "64-true"}
"""Setting -> the name in lightning_fabric."""

_FASTER = 1.25  # bf16 rounds, so it has to be worth it; and what is measured varies
_ROWS, _WIDTH, _REPEATS, _SECONDS = 256, 512, 8, 0.1


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
    if train.devices > 1 and device == "cpu":
        return "fp32", "all processes must agree"  # each would measure on its own
    if device == "cuda":
        # Emulated bf16 is slower than float32.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU has bf16") if native else ("fp32", "the GPU has no bf16")
    if device != "cpu":
        return "fp32", f"bf16 is not measured on {device}"
    ratio = bf16_speed()
    return (
        "bf16" if ratio >= _FASTER else "fp32",
        f"measured: bf16 takes {1 / ratio:.2f} of the time of fp32",
    )


@cache
def bf16_speed() -> float:
    """How many times faster than in float32 a linear layer and its gradients are under bf16 autocast, on one thread of this CPU."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(
        1
    )  # several threads that wait for one another on a busy machine would be measured instead
    try:
        layer = torch.nn.Linear(_WIDTH, _WIDTH)
        x = torch.ones(_ROWS, _WIDTH)
        best = {False: float("inf"), True: float("inf")}
        end = time.perf_counter() + _SECONDS
        for repeat in range(_REPEATS):
            for low in best:
                start = time.perf_counter()
                with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low):
                    loss = layer(x).float().square().mean()
                loss.backward()
                layer.zero_grad()
                if repeat:  # the first pass sets up kernels
                    best[low] = min(best[low], time.perf_counter() - start)
            if repeat > 1 and time.perf_counter() > end:
                break
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    return best[False] / best[True]

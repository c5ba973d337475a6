"""The settings of ``fit`` as keyword arguments, so that an editor completes them. ``TrainConfig`` describes and validates them."""

from __future__ import annotations

from typing import Literal, TypedDict


class TrainSettings(TypedDict, total=False):
    """The fields of ``polyvae.config.TrainConfig``, all optional."""

    epochs: int | None
    batch_size: int
    lr: float
    optimizer: Literal["adam"]
    amsgrad: bool
    schedule: Literal["constant", "cosine", "flat-cosine"]
    flat: float
    warmup_epochs: float
    clip: float | None
    precision: Literal["auto", "fp32", "bf16", "fp64"]
    device: str
    devices: int
    seed: int
    validation: float
    patience: int | None
    checkpoint_every: int
    max_seconds: float | None
    threads: int | None
    max_rows: int | None

"""What training returns, and the error that ends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from polyvae.utils.errors import InputError


class TrainingError(InputError):
    """Training cannot continue. The message names the term and the step; the newest checkpoint is kept."""


@dataclass
class History:
    """The course of a training.

    Attributes:
        records: One per epoch: "step", "epoch", "seconds" of training, "lr", "precision", "train" (the mean bound and its terms in nats per
            sample), and where there are any "validation" and "watched". A number that is not finite is None.
        stopped: Why training ended: "done", "interrupted", "early" or "time".
        step: The number of steps taken.
        resumed: The step at which this call of ``fit`` began: 0 for a new run. Where it is ``step``, nothing was left to do.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = "done"
    step: int = 0
    resumed: int = 0

    def __repr__(self) -> str:
        if not self.records:
            return f"History: stopped {self.stopped!r}, no complete epoch, {self.step} steps"
        last = self.records[-1]
        shown = ", ".join(
            f"{part} {last[part]['bound']:.2f}" for part in ("train", "validation") if part in last
        )
        return (
            f"History: stopped {self.stopped!r}, {last['epoch']} epochs, {self.step} steps, {last['seconds']:.1f} s\n"
            f"  last bound in nats per sample: {shown}"
        )

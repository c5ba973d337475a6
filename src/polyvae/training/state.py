"""What changes during a training, and what a checkpoint contains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polyvae.training.history import History


@dataclass
class State:
    """The place in a training.

    Attributes:
        step: Steps taken.
        shift: What is added to ``step`` for the place, where steps had another size before the run was resumed with other processes.
        elapsed: Seconds of training.
        first: The bound of the first step, in nats per sample; None: not known.
        best: The best validation bound, for early stopping.
        stale: Epochs since.
        kept: The weights that belong to ``best``.
        sums: The sums of the bound and its terms over the samples of this epoch, and their number.
        names: The names of these terms.
        history: What was recorded.
    """

    step: int = 0
    shift: int = 0
    elapsed: float = 0.0
    first: float | None = None
    best: float = -math.inf
    stale: int = 0
    kept: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    history: History = field(default_factory=History)

    @property
    def place(self) -> int:
        """The steps to here of a training with steps of this size from its beginning."""
        return self.step + self.shift

    def add(self, terms: Mapping[str, Tensor], size: int) -> None:
        """Add the bound and its terms of a batch of ``size`` samples, on their device."""
        totals = torch.stack([term.sum() for term in terms.values()])
        totals = totals if totals.device.type == "mps" else totals.double()
        if self.sums:
            self.sums["total"] += totals
            self.sums["count"] += size
        else:
            self.sums = {"total": totals, "count": torch.tensor(float(size), dtype=totals.dtype)}
        self.names = list(terms)

    def means(self, summed: Callable[[Tensor], Tensor] = lambda x: x) -> dict[str, float]:
        """The means of this epoch, which ends. ``summed`` returns the sum over the processes."""
        means = (summed(self.sums["total"]) / summed(self.sums["count"])).tolist()
        self.sums = {}
        return dict(zip(self.names, means, strict=True))

    def metadata(self) -> dict[str, Any]:
        """What a checkpoint contains besides tensors."""
        return {
            "step": self.step,
            "shift": self.shift,
            "elapsed": self.elapsed,
            "first": self.first,
            "best": self.best if math.isfinite(self.best) else None,
            "stale": self.stale,
            "stopped": self.history.stopped,
            "names": self.names,
        }

    def restore(self, kept: Mapping[str, Any], sums: Mapping[str, Tensor], device: torch.device) -> None:
        """Take the place of a checkpoint."""
        self.sums = {name: x.to(device) if name == "total" else x for name, x in sums.items()}
        self.step, self.elapsed, self.stale = kept["step"], kept["elapsed"], kept["stale"]
        self.shift = kept.get("shift", 0)
        self.names, self.first = kept["names"], kept.get("first")
        self.best = -math.inf if kept["best"] is None else kept["best"]
        self.history.step = self.step

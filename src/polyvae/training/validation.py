"""The bound of validation data."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from polyvae.core import noise
from polyvae.core.vae import MultimodalVAE
from polyvae.data.multimodal import MultimodalData
from polyvae.training.processes import Ranks
from polyvae.training.scopes import one_at_a_time
from polyvae.utils.seeds import fold_in


@torch.no_grad()
def validate(
    model: MultimodalVAE,
    data: MultimodalData,
    seed: int = 0,
    batch_size: int = 256,
    autocast: Callable[[], Any] | None = None,
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """The mean bound and its terms over ``data``, in nats per sample, in evaluation mode, with the same noise at every call.

    Each process computes its part of the samples of each batch, of which all have ``batch_size`` times their number, and returns the same.
    """
    training, names, sums = model.training, list[str](), None
    several = ranks if ranks is not None and 1 < ranks.count <= len(data) else None
    rank, count = (several.rank, several.count) if several else (0, 1)
    with one_at_a_time:
        state = torch.get_rng_state()
        model.eval()
        torch.manual_seed(fold_in(seed, "validation"))
        stream = noise.Stream(fold_in(seed, "validation"))
        for batch in data.batches(batch_size * count):
            mine = batch.rows(slice(rank, None, count)) if several else batch
            if not mine.size:  # of the last batch
                break
            with (
                noise.part(stream, rank, count, batch.size) if several else nullcontext(),
                autocast() if autocast is not None else torch.autocast("cpu", enabled=False),
            ):
                bound = model(mine)
            terms = {"bound": bound.value, **bound.terms}
            totals = torch.stack(
                [(x if x.device.type == "mps" else x.double()).sum() for x in terms.values()]
            )
            names, sums = list(terms), totals if sums is None else sums + totals
        torch.set_rng_state(state)
        model.train(training)
    sums = several.summed(sums) if several and sums is not None else sums
    means = [] if sums is None else sums.tolist()  # the host waits for a device once
    return {name: value / len(data) for name, value in zip(names, means, strict=True)}

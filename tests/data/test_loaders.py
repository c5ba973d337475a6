"""A stream of batches is a function of (seed, epoch, step), whatever was read before."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, WeightedRandomSampler

from polyvae.data import StreamLoader

ROWS, SIZE = 24, 4


class Noisy(Dataset[dict[str, torch.Tensor]]):
    """A row has its number and one draw of each global generator."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        draws = [float(row), float(torch.rand(())), float(np.random.rand()), random.random()]  # noqa: NPY002
        return {"a": torch.tensor(draws)}


def dataloader(kind: str) -> DataLoader[dict[str, torch.Tensor]]:
    own = torch.Generator().manual_seed(7)
    rows = Noisy()
    return {
        "shuffled": lambda: DataLoader(rows, SIZE, shuffle=True),
        "generator": lambda: DataLoader(rows, SIZE, shuffle=True, generator=own),
        "sampler": lambda: DataLoader(rows, SIZE, sampler=RandomSampler(rows, generator=own)),
        "weighted": lambda: DataLoader(
            rows, SIZE, sampler=WeightedRandomSampler([1.0, 2.0] * (ROWS // 2), ROWS, generator=own)
        ),
        "batches": lambda: DataLoader(
            rows, batch_sampler=BatchSampler(RandomSampler(rows, generator=own), SIZE, False)
        ),
        "workers": lambda: DataLoader(rows, SIZE, shuffle=True, num_workers=1),
        "persistent": lambda: DataLoader(rows, SIZE, shuffle=True, num_workers=2, persistent_workers=True),
    }[kind]()


def read(batches: Iterator[object]) -> torch.Tensor:
    return torch.stack([batch.data["a"] for batch in batches])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "kind", ["shuffled", "generator", "sampler", "weighted", "batches", "workers", "persistent"]
)
def test_what_is_read_does_not_depend_on_what_was_read_before(kind: str) -> None:
    """The second epoch after the first, the second epoch alone, and its end alone, as a run that was resumed reads them."""
    used = dataloader(kind)
    next(iter(used))  # someone has looked at it
    before = StreamLoader(used, seed=3)
    first, second = read(before.epoch(0)), read(before.epoch(1))
    torch.manual_seed(99)  # the draws of a model lie in between
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    alone = StreamLoader(dataloader(kind), seed=3)
    assert torch.equal(read(alone.epoch(1)), second)
    assert torch.equal(read(alone.epoch(1, 4)), second[4:])
    assert not torch.equal(first, second)
    if kind != "weighted":
        assert sorted(second[..., 0].flatten().tolist()) == list(range(ROWS))


def test_every_step_has_draws_of_its_own_and_leaves_the_global_generators_alone() -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index,union-attr]  # noqa: NPY002
    noise = read(StreamLoader(dataloader("shuffled")).epoch(0))[..., 1:]
    assert len({tuple(step.flatten().tolist()) for step in noise}) == ROWS // SIZE
    assert len(noise.unique()) == noise.numel()
    other = read(StreamLoader(dataloader("shuffled"), seed=1).epoch(0))[..., 1:]
    assert not torch.isin(other, noise).any()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index,union-attr]  # noqa: NPY002
    assert random.getstate() == states[2]

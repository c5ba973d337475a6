"""Streams of seeds: each has a name, and no two start from the same state."""

import itertools

import pytest
import torch
from torch.utils.data import DataLoader

from polyvae.data import StreamLoader
from polyvae.utils.seeds import fold_in, mix


def test_streams_that_had_numbers_keep_them():
    assert fold_in(3, "epoch", 5) == mix(3, 5)
    assert fold_in(3, "step", 5, 1) == mix(3, 5, 1)
    assert fold_in(3, "validation") == mix(3, 7031)
    assert fold_in(3, "initial weights") == mix(3, 4409)
    assert [fold_in(3, name) for name in ("hide", "split", "carve")] == [mix(3, 1), mix(3, 2), mix(3, 3)]


def test_named_streams_are_fixed_for_ever():
    assert fold_in(0, "batch", 1, 2) == 3806383509787563357
    assert fold_in(0, "coherence/conditional", 0) != fold_in(0, "coherence/unconditional", 0)
    assert fold_in(0, "a", "b") != fold_in(0, "b", "a")


def test_no_streams_of_training_collide():
    """The order of an epoch, a step of a rank, an iterator of a loader, a batch of it: 20 of each, and 3 seeds."""
    seen = {
        fold_in(seed, name, a, *([b] if name in ("step", "batch") else []))
        for seed, name, a, b in itertools.product(
            range(3), ("epoch", "step", "loader", "batch"), range(20), range(20)
        )
    }
    assert len(seen) == 3 * (2 * 20 + 2 * 400)


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_batch_is_not_drawn_from_the_state_of_a_step(epoch):
    """An augmentation at the start of an epoch must not repeat the noise of the training step of that number."""
    loader = StreamLoader(
        DataLoader([0, 1], batch_size=2, collate_fn=lambda rows: {"a": torch.randn(2, 3)}), seed=7, steps=1
    )
    (batch,) = loader.epoch(epoch)
    torch.manual_seed(fold_in(7, "step", epoch, 0))
    assert not torch.equal(batch.data["a"], torch.randn(2, 3))

"""Draws of the samples that several processes share."""

from __future__ import annotations

import pytest
import torch

from polyvae.core import noise


@pytest.mark.parametrize("draw", [noise.normal, noise.laplace, noise.uniform])
@pytest.mark.parametrize(("rows", "world"), [(8, 2), (9, 3), (7, 2), (2, 3)])
def test_parts_are_those_of_one_process(draw, rows: int, world: int) -> None:
    """Also the second draw of a stream, and where one process has fewer samples."""
    like, names = torch.zeros((), dtype=torch.float64), ["z", "w"]
    torch.manual_seed(11)
    whole = [draw((3, rows, 4), like, name, "KBD") for name in names]
    for rank in range(world):
        stream, own = noise.Stream(11), len(range(rank, rows, world))
        with noise.part(stream, rank, world, rows), noise.record() as drawn:
            parts = [draw((3, own, 4), like, name, "KBD") for name in names]
        assert [*drawn] == names
        for part, all_of_it in zip(parts, whole, strict=True):
            assert torch.equal(part, all_of_it[:, rank::world])


def test_other_draws_are_of_each_process() -> None:
    """Those without an axis of samples, and of another number of samples, come from torch's global generator."""
    like = torch.zeros(())
    for shape, axes in (((5, 4), "KD"), ((5, 4), "BD"), ((4,), "")):
        torch.manual_seed(3)
        expected = noise.normal(shape, like, "z", axes)
        torch.manual_seed(3)
        with noise.part(noise.Stream(11), 1, 2, 8):
            assert torch.equal(noise.normal(shape, like, "z", axes), expected)

"""The laws of data hold for the data sets and for all that MultimodalData can contain, and they catch data that are wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from polyvae import MultimodalData, load_dataset
from polyvae.data.loaders import StreamLoader
from polyvae.testing import check_data


def everything() -> MultimodalData:
    draws = np.random.default_rng(0)
    x, rows = draws.normal(size=(40, 3)).astype("f4"), np.arange(40)
    return MultimodalData(
        {"a": x, "b": x, "bytes": draws.integers(0, 255, (40, 2, 2)).astype("u1")},
        mask={"a": rows % 3 > 0},
        entries={"b": draws.random((40, 3)) < 0.4},
        labels=rows % 4,
        ids=[f"row {row}" for row in rows],
        groups=rows // 4,
        scale={"bytes": 1 / 255},
        factors={"a": {"style": rows % 2}},
    ).split()


def test_data_of_every_kind_obey_the_laws():
    data = everything()
    for each in (data, data.train, data.rows([3]), data.hide(0.3), data.with_labels_as("label")):
        check_data(each)


def test_the_small_data_set_obeys_the_laws():
    check_data(load_dataset("polydigits", train=60, test=40).select("m0", "m1"))


class Shifted(MultimodalData):
    """The labels of a batch are those of the next samples."""

    def gather(self, index, whole, rows):
        batch = super().gather(index, whole, rows)
        return batch._replace(extra={"labels": batch.extra["labels"].roll(1)})


class Unmasked(MultimodalData):
    """What is missing has a value."""

    def gather(self, index, whole, rows):
        batch = super().gather(index, whole, rows)
        return batch._replace(data={name: x + 1 for name, x in batch.data.items()})

    def batches(self, batch_size):
        for start in range(0, len(self), batch_size):
            yield self.take(range(start, min(len(self), start + batch_size)))


class Alike(MultimodalData):
    """A digest of the names alone."""

    def digest(self):
        return " ".join(self.names)


@pytest.mark.parametrize(("law", "kind"), [("indexing", Shifted), ("missing", Unmasked), ("digest", Alike)])
def test_wrong_data_are_caught(law, kind):
    x = np.arange(24.0, dtype="f4").reshape(8, 3)
    data = kind({"a": x, "b": x}, mask={"a": np.arange(8) > 2}, labels=np.arange(8))
    with pytest.raises(AssertionError, match=rf"^law '{law}': [^\n]+$"):
        check_data(data)


def test_a_loader_that_does_not_repeat_is_caught():
    rows = [{"a": torch.ones(3) * row} for row in range(12)]
    check_data(StreamLoader(DataLoader(rows, batch_size=5, shuffle=True)))

    class Restless(StreamLoader):
        def epoch(self, epoch, start=0):
            yield from super().epoch(int(torch.randint(1000, ())), start)

    with pytest.raises(AssertionError, match=r"^law 'epochs': step 0 of an epoch that is repeated"):
        check_data(Restless(DataLoader(rows, batch_size=5, shuffle=True)))

"""Shards: the order does not depend on workers, an epoch is resumed where it was, and modalities may be missing."""

from __future__ import annotations

import io
import tarfile
from itertools import chain

import numpy as np
import pytest
import torch

import polyvae as pv
from polyvae.data import ShardLoader
from polyvae.testing import check_data

SPECS = [pv.Modality("a", (2,)), pv.Modality("b", (3,))]


def decode(sample):
    return {
        name: np.load(io.BytesIO(sample[f"{name}.npy"])) for name in ("a", "b") if f"{name}.npy" in sample
    }


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder, number, paths = tmp_path_factory.mktemp("shards"), 0, []
    for shard, count in enumerate([9, 7, 11]):
        paths.append(folder / f"{shard}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for _ in range(count):
                values = {"a": np.full(2, number, np.float32), "b": np.full(3, -number, np.float64)}
                for name, x in values.items():
                    if (name, number % 4) != ("b", 1):
                        content = io.BytesIO()
                        np.save(content, x)
                        entry = tarfile.TarInfo(f"sample{number}.{name}.npy")
                        entry.size = content.tell()
                        tar.addfile(entry, io.BytesIO(content.getvalue()))
                number += 1
    return paths


def loader(paths, **changes):
    return ShardLoader(paths, SPECS, decode, **{"size": 27, "batch_size": 5, "buffer": 6, **changes})


def order(batches):
    return [batch.data["a"][:, 0].tolist() for batch in batches]


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own(shards):
    one = loader(shards)
    first, second = order(one.epoch(0)), order(one.epoch(1))
    assert [len(part) for part in first] == [5, 5, 5, 5, 5, 2]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(27))
    assert first != second
    assert order(one.epoch(0)) == first
    assert order(loader(shards, seed=1).epoch(0)) != first
    assert order(one.epoch(0, start=4)) == first[4:]
    for batch in one.epoch(0):
        number = batch.data["a"][:, 0]
        assert torch.equal(batch.mask[1], number % 4 != 1)
        assert torch.equal(batch.data["b"][:, 0], torch.where(batch.mask[1], -number, 0).double())


def test_workers_change_nothing(shards):
    whole = order(loader(shards).epoch(3))
    assert order(loader(shards, workers=2).epoch(3)) == whole
    assert order(loader(shards, workers=2).epoch(3, start=1)) == whole[1:]


def test_a_model_is_trained_on_shards(shards):
    model = pv.build("mopoe", SPECS, latent=2)
    pv.fit(model, loader(shards), epochs=2, show=False, device="cpu", precision="fp32")
    assert pv.embed(model.eval(), pv.MultimodalData({"a": torch.ones(3, 2)}), show=False).isfinite().all()
    check_data(loader(shards))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size=0; expected 1 or more"),
        ({"workers": -1}, "workers=-1"),
        ({"buffer": 0}, "buffer=0"),
    ],
)
def test_settings_that_are_refused(shards, changes, message):
    with pytest.raises(pv.InputError, match=message):
        loader(shards, **changes)


def test_what_does_not_fit_is_refused(shards, tmp_path):
    with pytest.raises(pv.InputError, match="got 27 samples for size=30"):
        list(loader(shards, size=30).epoch(0))
    with pytest.raises(pv.InputError, match="got more samples for size=20"):
        list(loader(shards, size=20).epoch(0))
    with pytest.raises(pv.InputError, match="got more samples for size=20"):
        pv.fit(
            pv.build("mopoe", SPECS, latent=2), loader(shards, size=20), epochs=1, show=False, device="cpu"
        )
    with pytest.raises(pv.InputError, match="no files"):
        loader([tmp_path / "no.tar"])
    wide = [pv.Modality("a", (2,)), pv.Modality("b", (4,))]
    for workers in (0, 1):
        with pytest.raises(pv.InputError, match=r"^shards: sample 'sample\d+' .* got 'b' of shape \(3,\)"):
            list(ShardLoader(shards, wide, decode, size=27, batch_size=5, workers=workers).epoch(0))
    with pytest.raises(pv.InputError, match="got modality 'b' from decode"):
        list(ShardLoader(shards, SPECS[:1], decode, size=27, batch_size=5).epoch(0))
    with pytest.raises(pv.InputError, match="got list from decode"):
        list(ShardLoader(shards, SPECS, lambda sample: [1], size=27, batch_size=5).epoch(0))
    (tmp_path / "text.tar").write_text("no archive")
    with pytest.raises(pv.InputError, match=r"text\.tar"):
        list(loader([tmp_path / "text.tar"]).epoch(0))


def test_names_of_shards_are_taken_literally(shards, tmp_path):
    for name in ("a#b.tar", "a?b.tar", "a%20b.tar"):
        (tmp_path / name).write_bytes(shards[0].read_bytes())
    (tmp_path / "a").write_bytes(shards[1].read_bytes())
    for name in ("a#b.tar", "a?b.tar", "a%20b.tar"):
        found = order(loader([tmp_path / name], size=9).epoch(0))
        assert sorted(chain(*found)) == list(range(9))


def test_types_of_samples_are_promoted(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number, x in enumerate(
            [np.array([0, 0]), np.array([1.5, 2.5], np.float32), np.array([1.0, 2.0], ">f4")]
        ):
            content = io.BytesIO()
            np.save(content, x)
            entry = tarfile.TarInfo(f"{number}.a.npy")
            entry.size = content.tell()
            tar.addfile(entry, io.BytesIO(content.getvalue()))
    (batch,) = loader([tmp_path / "x.tar"], size=3, buffer=1).epoch(0)
    assert batch.data["a"].tolist() == [[0, 0], [1.5, 2.5], [1, 2]]

"""Emoji: three modalities of one sample, variants in one part, smaller images as means of blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyvae.data import load_dataset
from polyvae.data.sets.arrays import npz, shrunk
from polyvae.testing import check_data
from polyvae.utils.errors import InputError
from tests.helpers.sources import make_emoji


def test_emoji(tmp_path):
    make_emoji(tmp_path)
    data = load_dataset("emoji", tmp_path, side=32)
    check_data(data)
    assert list(data.names) == ["image", "silhouette", "caption"]
    image, inside = data.values("image"), data.values("silhouette")
    assert (len(data.train), len(data.test)) == (8, 2)
    assert len(set(data.test.groups)) == 1  # the two variants of one emoji
    area = inside.sum((1, 2, 3))
    assert torch.equal(area.argsort(), torch.arange(10))
    assert ((image[:, 2:] < 0.5) == (inside == 1)).float().mean() > 0.97
    assert data.take([0]).data["caption"][0, 4] == 1  # four words, then the end


def test_blocks_are_rounded_means():
    x = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    expected = np.floor(x.reshape(2, 4, 2, 4, 2, 3).mean((2, 4)) + 0.5)
    assert (shrunk(x, 4) == expected).all()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"side": 30}, r"got side=30; expected one of 8, 16, 32, 64"),
        ({"least": 99}, "no word that occurs 99 times"),
    ],
)
def test_wrong_options(tmp_path, options, problem):
    make_emoji(tmp_path)
    with pytest.raises(InputError, match=problem):
        load_dataset("emoji", tmp_path, **options)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        load_dataset("emoji", tmp_path)
    path = tmp_path / "x.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"x\.npz: got contents that cannot be used"):
        npz(path, {"a": ("u", 1)}, "a")
    np.savez(path, a=np.zeros(3, np.uint8), b=np.zeros(2, np.uint8))
    with pytest.raises(InputError, match="b: got 2 rows; expected the 3 of a"):
        npz(path, {"a": ("u", 1), "b": ("u", 1)}, "a")
    with pytest.raises(InputError, match="c: got no such array"):
        npz(path, {"a": ("u", 1), "c": ("u", 1)}, "a")
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="cannot be used"):
        npz(path, {"a": ("O", 1)}, "a")

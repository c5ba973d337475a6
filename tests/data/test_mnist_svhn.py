"""MNIST and SVHN: pairs of equal label, each image used equally often, label 10 is the digit 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyvae.data import load_dataset
from polyvae.data.sets import mnist as source
from polyvae.data.sets.mnist_svhn import paired
from polyvae.testing import check_data
from polyvae.utils.errors import InputError
from tests.helpers.sources import make_mnist, make_svhn


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name, digest in make_mnist(tmp_path).items():
        monkeypatch.setitem(source.MD5, name, digest)
    make_svhn(tmp_path)
    return tmp_path


def test_pairs_have_one_digit(root):
    data = load_dataset("mnist_svhn", root, pairs=3, cache=root / "cache")
    check_data(data)
    assert (len(data.train), len(data.test)) == (3 * 130, 3 * 50)
    assert torch.equal((data.values("svhn")[:, 0, 0, 0] * 255 / 20).round().long(), data.labels)
    assert torch.bincount(data.train.labels).tolist() == [39] * 10
    digits = source.mnist(root)[0]
    known = {digits.images[row].tobytes(): digits.labels[row] for row in range(240)}
    image = (data.values("mnist")[:390, 0] * 255).round().byte().numpy()
    assert all(known[one.tobytes()] == label for one, label in zip(image, data.labels.tolist(), strict=False))
    assert len(load_dataset("mnist_svhn", root, pairs=3, train=20, test=7, cache=False)) == 27


def test_of_each_digit_the_smaller_number_counts():
    first, second = np.array([0, 0, 0, 1]), np.array([1, 1, 0, 0, 1])
    labels, rows = paired(first, second, 5, 0, 1)
    assert np.bincount(labels).tolist() == [2 * 5, 5]
    assert (first[rows[0]] == labels).all()
    assert (second[rows[1]] == labels).all()
    assert np.bincount(rows[0]).tolist() == [5, 5, 0, 5]


def test_bad_files(root):
    with pytest.raises(InputError, match="got train=1000; expected at most the 130 pairs"):
        load_dataset("mnist_svhn", root, pairs=1, train=1000)
    path = root / "svhn" / "test_32x32.mat"
    path.write_bytes(b"no matrices")
    with pytest.raises(InputError, match=r"test_32x32\.mat: got contents that cannot be used"):
        load_dataset("mnist_svhn", root)
    path.unlink()
    with pytest.raises(InputError, match="there is no such file; expected SVHN's cropped digits"):
        load_dataset("mnist_svhn", root)

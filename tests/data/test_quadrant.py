"""Quadrants: what is shared and what is not, where the digits are, and that parts have no handwriting in common."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyvae.data import load_dataset
from polyvae.data.sets import mnist as source
from polyvae.data.sets.pairing import pair_by_label, pair_freely
from polyvae.data.sets.polymnist import NAMES
from polyvae.data.sets.quadrant import enlarged
from polyvae.testing import check_data
from polyvae.utils.errors import InputError
from tests.helpers.sources import make_mnist


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name, digest in make_mnist(tmp_path, 60, 20).items():
        monkeypatch.setitem(source.MD5, name, digest)
    return tmp_path


@pytest.mark.parametrize("shared", ["digit", "quadrant", "both"])
def test_what_is_shared_is_shared_and_nothing_else(shared):
    data = load_dataset(
        "polydigits_quadrant", shared=shared, side=16, train=400, test=100, as_modalities=True
    )
    check_data(data)
    common = ["digit", "quadrant"] if shared == "both" else [shared]
    assert list(data.attributes) == common
    assert data.labels.tolist() == data.attributes[common[0]].tolist()
    assert list(data.names) == [*NAMES, *common]
    for name in common:
        assert torch.equal(data.values(name).argmax(1), data.attributes[name])
        assert {key: bool(x.all()) for key, x in data.said[name].items()} == {
            key: key == name for key in common
        }
    assert list(data.said) == common
    own = [name for name in ("digit", "quadrant") if name not in common]
    assert all(list(data.factors[view]) == own for view in NAMES) if own else not data.factors
    for name in own:
        columns = np.stack([data.factors[view][name].numpy() for view in NAMES])
        classes = 10 if name == "digit" else 4
        for other in columns[1:]:  # independent: agreement by chance, within 4.5 standard errors
            assert abs((columns[0] == other).mean() - 1 / classes) < 4.5 * (1 / classes / 500) ** 0.5


def test_a_digit_is_in_its_quadrant():
    """Red in the first modality, blue in the last one; outside of the quadrant there is the background alone."""
    data = load_dataset("polydigits_quadrant", train=60, test=20)
    assert data.values("m0").shape[1:] == (3, 32, 32)
    for view, channel in (("m0", 0), ("m4", 2)):
        x, quadrant = data.values(view), data.factors[view]["quadrant"]
        others = [other for other in range(3) if other != channel]
        drawn = (x[:, channel] == 1) & (x[:, others] == 0).all(1)
        for row, (inside, place) in enumerate(zip(drawn, quadrant.tolist(), strict=True)):
            top, left = 16 * (place // 2), 16 * (place % 2)
            assert inside[top : top + 16, left : left + 16].sum() > 20, row
    sides = load_dataset("polydigits_quadrant", train=60, test=20, seed=1)
    assert not torch.equal(sides.values("m1"), data.values("m1"))


def test_polymnist_quadrant(root):
    """60 digits: 55 for training and 5 for validation, each used twice in every modality; grey levels of the ink are kept."""
    data = load_dataset("polymnist_quadrant", root, repeats=2, cache=False)
    check_data(data)
    assert [len(data.train), len(data.validation), len(data.test)] == [110, 5, 20]
    assert torch.bincount(data.train.labels).tolist() == [12] * 5 + [10] * 5
    x, images = data.values("m0") * 255, enlarged(source.mnist(root)[0].images, 32)
    quadrant, found = data.factors["m0"]["quadrant"], set()
    for row in range(110):
        top, left = 32 * (int(quadrant[row]) // 2), 32 * (int(quadrant[row]) % 2)
        part = x[row, :, top : top + 32, left : left + 32].numpy().round().astype(np.uint8)
        on = images > 16
        fits = [
            n for n in range(55) if (part[0][on[n]] == images[n][on[n]]).all() and not part[1:, on[n]].any()
        ]
        found |= set(fits)
        assert any(n % 10 == int(data.labels[row]) for n in fits)
    assert found == set(range(55))
    small = load_dataset("polymnist_quadrant", root, train=30, validation=5, test=10, cache=root / "cache")
    assert (len(small), small.card["counts"]) == (45, {"train": 30, "validation": 5, "test": 10})


def test_enlarged_digits_are_bilinear():
    """The linear function stays one away from the margin, up to rounding down."""
    ramp = np.broadcast_to(np.arange(28, dtype=np.uint8) * 9, (1, 28, 28))
    made = enlarged(ramp, 32)[0, 0].astype(int)
    exact = 9 * np.clip((np.arange(32) + 0.5) * 28 / 32 - 0.5, 0, 27)
    assert (made == np.floor(exact + 1e-9)).all()


def test_pairs_use_each_sample_equally_often():
    labels = [np.arange(60) % 3, np.arange(90) % 3]
    label, rows = pair_by_label(labels, 240, 5)
    for own, place in zip(labels, rows, strict=True):
        assert (own[place] == label).all()
        used = np.bincount(place, minlength=len(own))
        assert used.max() - used.min() <= 1
    assert np.bincount(pair_freely([4, 6], 12, 1)[0]).tolist() == [3] * 4


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"shared": "digits"}, "shared 'digits' is unknown; did you mean 'digit'"),
        ({"side": 28}, "got side=28; expected 16 or 32"),
        ({"as_modalities": 1}, "got as_modalities=1; expected True or False"),
        ({"train": 3}, "got train=3; expected a whole number, 10 or more"),
    ],
)
def test_wrong_options(options, problem):
    with pytest.raises(InputError, match=problem):
        load_dataset("polydigits_quadrant", **options)


def test_no_more_tuples_than_there_are(root):
    with pytest.raises(InputError, match="got train=1000; expected at most the 220 tuples"):
        load_dataset("polymnist_quadrant", root, train=1000)

"""polydigits: composed and paired as it says, the same bytes everywhere, and no digit to be read off a background."""

import hashlib
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from polyvae.data import load_dataset
from polyvae.data.sets.polydigits import (
    NAMES,
    SIDE,
    backgrounds,
    base_digits,
    compose,
    held_out_digits,
    pair,
    stencils,
)
from polyvae.data.sets.textures import SIZE, TEXTURES, texture
from polyvae.utils.errors import InputError


@pytest.fixture(scope="module")
def data():
    return load_dataset("polydigits")


@pytest.fixture(scope="module")
def pairing():
    return pair(base_digits().train, 10_000, 0, 1)


@pytest.fixture(scope="module")
def labels():
    from sklearn.datasets import load_digits

    return load_digits().target


# The bytes


def written(data) -> str:
    """A digest of the labels and of all pixels as bytes; the wording of the card may change, these may not."""
    state = hashlib.blake2b(data.labels.numpy().tobytes(), digest_size=16)
    for name in data.names:
        state.update((data.values(name) * 255).round().byte().numpy().tobytes())
    return state.hexdigest()


def test_the_bytes_never_change(data):
    assert written(load_dataset("polydigits", train=500, test=100)) == "182659a7473d8b8851e09e0e230d19c0"
    assert written(data) == "594b1c1c5aeb785f47af95d788d38e63"


def test_another_seed_gives_other_data_on_the_same_textures(data):
    one, other = (load_dataset("polydigits", seed=seed, train=500, test=100) for seed in (0, 1))
    assert one.digest() != other.digest()
    assert {name: texture(name).mean().round(3) for name in TEXTURES} == {
        "lava": 105.173,
        "cells": 111.988,
        "weave": 89.171,
        "confetti": 224.334,
        "night": 42.918,
    }


def test_the_parts_have_their_sizes_and_values_from_0_to_1(data):
    assert (len(data.train), len(data.test)) == (10_000, 2_000)
    assert data.train.labels.bincount().tolist() == [1_000] * 10
    assert data.test.labels.bincount().tolist() == [200] * 10
    batch = data.take(slice(0, 2_000))
    assert batch.complete
    for x in batch.data.values():
        assert x.dtype == torch.float32
        assert 0 <= x.min() < 0.02
        assert 0.98 < x.max() <= 1
        assert torch.equal((x * 255).round().byte(), (x.double() * 255 + 0.5).floor().byte())


def test_a_part_too_small_for_ten_digits_is_refused():
    with pytest.raises(InputError, match="polydigits: got test=9; expected at least 10 tuples"):
        load_dataset("polydigits", train=10, test=9)


# The pairing


def test_base_digits_are_split_before_pairing(pairing, labels):
    base = base_digits()
    assert (len(base.train), len(base.test)) == (1_437, 360)
    assert sorted([*base.train, *base.test]) == list(range(1_797))
    assert np.abs(np.bincount(labels[base.test]) - np.bincount(labels) / 5).max() < 1
    assert set(pairing.base.ravel()) == set(base.train)
    assert set(pair(base.test, 2_000, 0, 2).base.ravel()) == set(base.test)


def test_no_handwriting_of_the_test_part_is_seen_in_training(data, pairing):
    """Not by number only: no 8 x 8 digit occurs in both parts."""
    from sklearn.datasets import load_digits

    images = load_digits().data
    seen = {images[row].tobytes() for row in set(pairing.base.ravel())}
    assert not any(images[row].tobytes() in seen for row in base_digits().test)


def test_a_tuple_shares_its_digit_and_nothing_else(pairing, labels):
    assert (labels[pairing.base] == pairing.label).all()
    for one in range(5):
        for other in range(one):
            same = (pairing.base[one] == pairing.base[other]).mean()
            assert abs(same - 1 / 143.7) <= 4 * math.sqrt(1 / 143.7 / 10_000)
            correlation = np.corrcoef(pairing.corner[one, :, 0], pairing.corner[other, :, 0])[0, 1]
            assert abs(correlation) <= 4 / math.sqrt(10_000)


def test_every_base_digit_is_used_evenly(pairing):
    for rows in pairing.base:
        uses = np.bincount(rows, minlength=1_797)[base_digits().train]
        assert uses.min() >= 6
        assert uses.max() <= 8


# The composition


def test_an_image_is_its_crop_inverted_where_the_digit_is(pairing):
    images, crops, stencil = compose(pairing), backgrounds(pairing), stencils()
    for view, name in enumerate(NAMES):
        row, column = pairing.corner[view, 17]
        crop = texture(list(TEXTURES)[view])[:, row : row + SIDE, column : column + SIDE]
        assert (crops[name][17] == crop).all()
        on = stencil[pairing.base[view, 17]]
        assert (images[name][17][:, on] == 255 - crop[:, on]).all()
        assert (images[name][17][:, ~on] == crop[:, ~on]).all()


def test_stencils_are_torchs_bilinear_digits_above_one_half(labels):
    from sklearn.datasets import load_digits

    ink = torch.from_numpy(load_digits().images)[:, None]
    large = torch.nn.functional.interpolate(ink, scale_factor=2, mode="bilinear", align_corners=False)[:, 0]
    assert ((large > 8).numpy() == stencils()).all()


def test_corners_cover_the_texture(pairing):
    counts = np.histogram(pairing.corner.ravel(), bins=10, range=(0, SIZE - SIDE + 1))[0]
    edges = np.linspace(0, SIZE - SIDE + 1, 11)
    expected = np.diff(np.ceil(edges)) / (SIZE - SIDE + 1) * pairing.corner.size
    assert np.abs((counts - expected) / np.sqrt(expected)).max() <= 4


def test_a_digit_stands_out_from_every_crop(pairing):
    """Inverting moves a colour by |1 - 2 v|, on average over the channels: by how much, at the palest pixel and on average."""
    for crop in backgrounds(pairing).values():
        moved = np.abs(1 - 2 * (crop / 255)).mean(1)
        assert moved.min() >= 0.35
        assert moved.mean() >= 0.65


def test_textures_and_their_crops_differ_visibly(pairing):
    crops = {name: crop[:400].reshape(400, -1) / 255 for name, crop in backgrounds(pairing).items()}
    for crop in crops.values():
        nearest = NearestNeighbors().fit(crop).kneighbors(crop, 2)[0][:, 1] / math.sqrt(crop.shape[1])
        assert np.median(nearest) >= 0.03
        assert crop.std(0).mean() >= 0.08
    told = np.repeat(np.arange(5), 400)
    colours = np.concatenate([crop.reshape(400, 3, -1).mean(2) for crop in crops.values()])
    assert KNeighborsClassifier(1).fit(colours[::2], told[::2]).score(colours[1::2], told[1::2]) == 1


# Nothing to be read off a background


def chance(hits: float, tries: int) -> bool:
    return abs(hits - 0.1) <= 4 * math.sqrt(0.09 / tries)


@pytest.mark.parametrize("view", range(5))
def test_no_classifier_reads_the_digit_off_the_background(pairing, view):
    crop = backgrounds(pairing)[NAMES[view]].reshape(10_000, -1) / 255
    fit, judge = slice(0, 6_000), slice(6_000, None)
    reduced = np.concatenate([crop[:, ::6], pairing.corner[view] / SIZE], 1)
    linear = LogisticRegression(max_iter=60, tol=1e-2).fit(reduced[fit], pairing.label[fit])
    near = KNeighborsClassifier(5).fit(reduced[fit], pairing.label[fit])
    assert chance(linear.score(reduced[judge], pairing.label[judge]), 4_000)
    assert chance(near.score(reduced[judge], pairing.label[judge]), 4_000)


def test_the_digit_is_read_off_the_whole_image(data):
    """The same classifiers' counterpart: it is the images that carry the label."""
    x = data.train.values("m0").flatten(1).numpy()
    near = KNeighborsClassifier(5).fit(x[:6_000], data.train.labels[:6_000])
    assert near.score(x[6_000:7_000], data.train.labels[6_000:7_000]) >= 0.5


def test_pixels_that_no_digit_reaches_tell_nothing(data):
    always_off = ~stencils().any(0)
    x = data.train.values("m1").numpy()[:, :, always_off].reshape(10_000, -1)
    label = data.train.labels.numpy()
    assert x.shape[1] > 0
    linear = LogisticRegression(max_iter=60, tol=1e-2).fit(x[:6_000], label[:6_000])
    assert chance(linear.score(x[6_000:], label[6_000:]), 4_000)


def test_the_held_out_digits_occur_once_each():
    held = held_out_digits()
    assert len(held) == 360
    images = held.values("m3")
    assert len(np.unique(images.flatten(1).numpy(), axis=0)) == 360

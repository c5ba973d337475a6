"""shapes_captions: what is drawn and written, which combinations are where, and that captions parse to what they state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyvae import InputError, load_dataset
from polyvae.data import PARSERS
from polyvae.data.sets.shapes import UNSEEN, VOCABULARY, combined, pairs, stated
from polyvae.data.sets.shapes_grammar import ATTRIBUTES, LENGTH, ORDERS, read, write
from polyvae.testing import check_data

RECORDED = 1_791_546
SMALL = {"train": 400, "test": 80, "unseen": 40, "judges": 0}
CHOICES = len(ATTRIBUTES) + 4


@pytest.fixture(scope="module")
def data():
    return load_dataset("shapes_captions", mask=True, **SMALL)


def sentences(data) -> list[str]:
    return VOCABULARY.decode(data.values("caption").numpy())


def test_the_data_obey_the_laws_of_data(data):
    check_data(data)


def test_the_bytes_are_a_function_of_the_seed(data):
    assert load_dataset("shapes_captions", mask=True, **SMALL).digest() == data.digest()
    assert load_dataset("shapes_captions", mask=True, seed=1, **SMALL).digest() != data.digest()
    # Recorded once. Another platform has to give it, too.
    image = pairs("train", 20, 16, "partial", 0).drawing.image
    assert int(image.astype(np.int64).sum()) == RECORDED


def test_each_shape_lacks_one_colour_except_in_the_part_for_it():
    for part, shares in (("train", {0.0}), ("test", {0.0}), ("unseen", {1.0})):
        found = combined(part, 960, 0)
        lacking = np.array(UNSEEN)[found["shape"]] == found["colour"]
        assert {lacking.mean()} == shares
    every = combined("judges", 960, 0)
    assert len({tuple(row) for row in np.stack([*every.values()], 1).tolist()}) == 960


def test_attributes_are_uniform_and_independent_but_for_those_pairs():
    found = combined("train", 800, 0)
    assert len({tuple(row) for row in np.stack([*found.values()], 1).tolist()}) == 800
    for name, own in ATTRIBUTES.items():
        counts = np.bincount(found[name], minlength=len(own))
        assert counts.sum() == 800
        if name != "colour":
            assert (counts == 800 // len(own)).all(), name


def test_partial_captions_state_a_quarter_in_full_and_else_half():
    said = stated(4000, "partial", 0, 1)
    rows = np.stack([*said.values()], 1)
    full = 0.25 + 0.75 / 2**6
    assert abs(rows.all(1).mean() - full) < 4 * (full * (1 - full) / 4000) ** 0.5
    assert np.abs(rows.mean(0) - 0.625).max() < 4 * (0.625 * 0.375 / 4000) ** 0.5
    assert all(x.all() for x in stated(20, "paraphrase", 0, 1).values())


@pytest.mark.parametrize("style", ["template", "paraphrase", "partial"])
def test_every_caption_is_grammatical_and_parses_to_what_it_states(style):
    made = pairs("train", 200, 16, style, 3)
    found = read(made.captions)
    assert bool(found.grammatical.all())
    for name in ATTRIBUTES:
        expected = np.where(made.said[name], made.classes[name], -1)
        assert (found.attributes[name].numpy() == expected).all(), name
    assert ({caption.split()[0] for caption in made.captions} == {"a"}) is (style == "template")


def test_captions_fit_their_length_and_the_longest_fills_it():
    every = dict.fromkeys(ATTRIBUTES, 0)
    words = [len(write(every, [0] * 6 + [order, 0, 0, 0], "paraphrase").split()) for order in range(ORDERS)]
    assert max(words) == LENGTH - 1


@pytest.mark.parametrize(
    ("sentence", "grammatical", "expected"),
    [
        ("a small plain red circle on the left on a dark background", True, (0, 0, 0, 0, 0, 0)),
        ("an empty emerald box", True, (1, 2, -1, 1, -1, -1)),
        ("a empty emerald box", False, (1, 2, -1, 1, -1, -1)),
        ("there is a thing", True, (-1,) * 6),
        ("the plus at the top is huge and ivory", True, (3, 5, 1, -1, 2, -1)),
        ("the plus at the top is", False, (3, -1, -1, -1, 2, -1)),
        ("a red blue circle", False, (0, -1, -1, -1, -1, -1)),
        ("circle circle circle", False, (0, -1, -1, -1, -1, -1)),
        ("a disc in the left", False, (0, -1, -1, -1, 0, -1)),
        ("a red hollow cross", False, (3, 0, -1, 1, -1, -1)),
        ("", False, (-1,) * 6),
    ],
)
def test_the_parser_is_strict_about_grammar_and_reads_words(sentence, grammatical, expected):
    found = read([sentence])
    assert bool(found.grammatical) is grammatical
    assert tuple(int(x) for x in found.attributes.values()) == expected


def test_ids_are_words_one_end_and_padding(data):
    ids = data.values("caption").long()
    assert ids.shape == (520, LENGTH)
    assert ((ids == 1).sum(1) == 1).all()
    after = torch.cumsum(ids == 1, 1) - (ids == 1).long() > 0
    assert bool((ids[after] == 0).all())
    assert bool((ids[~after] > 0).all())
    assert not bool((ids == 2).any())
    assert PARSERS[data.parsers["caption"]](sentences(data)).grammatical.all()


def test_the_mask_is_where_the_shape_differs_from_its_background(data):
    """Every pixel of the mask is nearer to the colour of the shape than to that of the background, in images that the noise allows."""
    image, mask = data.values("image"), data.values("mask").bool().expand(-1, 3, -1, -1)
    inside = torch.stack([x[m].view(3, -1).std(1).max() for x, m in zip(image, mask, strict=True)])
    assert float(inside.median()) < 0.1
    large = data.attributes["size"] == 1
    plain = data.attributes["fill"] == 0
    area = data.values("mask").float().flatten(1).sum(1)
    assert float(area[large & plain].mean()) > 1.8 * float(area[~large & plain].mean())
    assert float(area[plain].mean()) > 1.3 * float(area[~plain].mean())


def test_positions_are_where_the_mask_is(data):
    mask = data.values("mask")[:, 0].float()
    steps = torch.arange(16) - 7.5
    x = (mask.sum(1) * steps).sum(1) / mask.sum((1, 2))
    y = (mask.sum(2) * steps).sum(1) / mask.sum((1, 2))
    where = torch.where(data.attributes["fill"] == 0, data.attributes["position"], -1)
    for number, (axis, sign) in enumerate(((x, -1), (x, 1), (y, -1), (y, 1))):
        assert bool((sign * axis[where == number] > 0.5).all()), number
    # A triangle's centroid is below the middle of its height.
    assert float(x[where == 4].abs().max()) < 1
    assert float(y[where == 4].abs().max()) < 2.5


@pytest.mark.parametrize("side", [32, 64])
def test_larger_images_show_the_same(side):
    small, large = (pairs("train", 12, size, "partial", 0) for size in (16, side))
    assert small.captions == large.captions
    cells = side // 16
    mean = large.drawing.image.reshape(12, 3, 16, cells, 16, cells).mean((3, 5))
    assert np.abs(mean - small.drawing.image).mean() < 12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"side": 20}, "got side=20; expected 16, 32 or 64"),
        ({"captions": "partal"}, "did you mean 'partial'?"),
        ({"train": 3}, "got train=3; expected at least 10"),
        ({"unseen": 3}, "got unseen=3"),
    ],
)
def test_other_options_get_one_line(options, words):
    with pytest.raises(InputError) as caught:
        load_dataset("shapes_captions", **{**SMALL, **options})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)

"""Colours of pixels and captions, agreement with its value under random pairs, and the protocol with a model."""

from __future__ import annotations

import colorsys
import itertools

import pytest
import torch

import polyvae as pv
from polyvae.metrics.colours import (
    COLOURS,
    colour_agreement,
    colour_coherence,
    frequent_colours,
    named_colours,
    pixel_colours,
)
from polyvae.utils.errors import InputError

PURE = {
    "white": (1, 1, 1), "yellow": (1, 1, 0), "red": (1, 0, 0), "blue": (0, 0, 1), "green": (0, 1, 0), "grey": (0.4, 0.4, 0.4),
    "brown": (0.6, 0.42, 0.15), "black": (0.1, 0.1, 0.1),
}  # fmt: skip


def plain(name, side=4):
    return torch.tensor(PURE[name], dtype=torch.float32)[:, None, None].expand(3, side, side)


def by_hand(rgb):
    """The rules for one pixel, on OpenCV's scale, with the standard library."""
    h, s, v = colorsys.rgb_to_hsv(*rgb)
    h, s, v = round(180 * h), round(255 * s), round(255 * v)
    if v <= 50:
        return "black"
    if s <= 18:
        return "white" if v >= 120 else "grey"
    if s < 50 or v < 70:
        return None
    ranges = {
        "red": [(0, 15), (159, 180)],
        "brown": [(16, 24)],
        "yellow": [(25, 35)],
        "green": [(36, 89)],
        "blue": [(90, 158)],
    }
    return next(name for name, parts in ranges.items() if any(a <= h <= b for a, b in parts))


def test_classes_are_those_of_the_rules():
    assert [COLOURS[int(pixel_colours(plain(name)[None])[0, 0, 0])] for name in COLOURS] == list(COLOURS)
    levels = [0.0, 0.17, 0.21, 0.45, 0.5, 0.83, 1.0]
    grid = torch.tensor(list(itertools.product(levels, repeat=3)), dtype=torch.float64)
    found = pixel_colours(grid.T[None, :, :, None])[0, :, 0]
    expected = [by_hand(rgb) for rgb in grid.tolist()]
    assert [None if one < 0 else COLOURS[one] for one in found.tolist()] == expected
    assert None in expected


def test_two_most_frequent_colours_count():
    image = plain("green", 6).clone()
    image[:, :2], image[:, 5] = plain("black", 6)[:, :2], plain("red", 6)[:, 5]
    shown = frequent_colours(image[None])[0]
    assert {name for name, there in zip(COLOURS, shown.tolist(), strict=True) if there} == {"green", "black"}
    assert frequent_colours(plain("blue")[None]).sum() == 1  # a colour without pixels is none


def test_named_colours():
    said = [
        "A Gray bird",
        "black wings, black beak and a white belly",
        "red and blue",
        "a small bird",
        "a reddish bird",
    ]
    assert [None if one < 0 else COLOURS[one] for one in named_colours(said).tolist()] == [
        "grey",
        "black",
        "red",
        None,
        None,
    ]


def test_agreement_and_its_value_in_other_pairs():
    """Three red images and one blue, all named right: shuffled, a colour meets another image of its own in 3 · 2 of 12 pairs."""
    images = torch.stack([plain("red")] * 3 + [plain("blue")] + [plain("white")])
    colours = torch.tensor([COLOURS.index(name) for name in ("red", "red", "red", "blue")] + [-1])
    found = colour_agreement(images, colours)
    assert (found["share"], found["shuffled"], found["images"], found["unclassified"]) == (1.0, 0.5, 4, 0.0)
    assert found["interval"][0] < 0.6 < found["interval"][1]
    assert colour_agreement(images, torch.full((5,), -1)) == {}
    with pytest.raises(InputError, match="expected"):
        colour_agreement(images, colours[:2])


def test_captions_of_one_photo_are_one_group():
    """Each photo three times: the interval is that of the photos, and no photo meets a colour of its own."""
    images = torch.stack([plain(name) for name in ("red", "red", "blue", "black")])
    colours = torch.tensor([COLOURS.index(name) for name in ("red", "blue", "blue", "white")])
    once = colour_agreement(images, colours)
    groups = torch.arange(4).repeat(3) * 7
    thrice = colour_agreement(images.repeat(3, 1, 1, 1), colours.repeat(3), groups)
    assert thrice["images"] == 3 * once["images"]
    for key in ("share", "shuffled"):
        assert thrice[key] == pytest.approx(once[key])
    assert thrice["interval"] == pytest.approx(once["interval"])
    assert colour_agreement(images, colours, torch.zeros(4))["shuffled"] != once["shuffled"]


def test_the_protocol_with_a_model():
    """100 images of each colour that the vocabulary names; the first ten of each are the published 80."""
    words = ["this", "bird", "is", "completely", "red", "gray", "black"]
    caption = pv.Modality("caption", (7,), "sequence", params={"words": words})
    ids = torch.tensor([[3, 4, 5, 6, 7, 1, 0], [3, 4, 5, 6, 9, 1, 0], [3, 4, 1, 0, 0, 0, 0]])
    image = torch.stack([plain("red", 8), plain("blue", 8), plain("red", 8)])
    data = pv.MultimodalData(
        {"image": image, "caption": ids}, modalities=[pv.Modality("image", (3, 8, 8)), caption]
    )
    model = pv.MMVAEPlus(data.modalities(), latent=2).eval()
    found = colour_coherence(model, data, each=12)
    assert found["colours"] == ["red", "grey", "black"]
    assert (found["generated"]["images"], found["published"]["images"]) == (36, 30)
    assert (found["real"]["images"], found["real"]["share"], found["real"]["shuffled"]) == (2, 0.5, 0.0)
    assert found == colour_coherence(model, data, each=12)
    with pytest.raises(InputError, match="modality 'photo' is not in the model and its data"):
        colour_coherence(model, data, image="photo")
    with pytest.raises(InputError, match="got modality 'image' without words"):
        colour_coherence(model, data, caption="image")

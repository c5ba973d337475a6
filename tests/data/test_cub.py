"""Birds: photos and captions are paired as they are published, words come from the training captions, and bad files give one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from polyvae.core.vocabulary import Vocabulary
from polyvae.data import load_dataset
from polyvae.testing import check_data
from polyvae.utils.errors import InputError
from tests.helpers.sources import make_bird_archive, make_bird_subset

REAL = Path(os.environ.get("POLYVAE_DATA", "nowhere"))


def sentences(data):
    params = next(spec.params for spec in data.modalities() if spec.name == "caption")
    return Vocabulary(tuple(params["words"])).decode(data.values("caption"))


def test_the_archive(tmp_path):
    """Caption 10 i + k belongs to photo i, in the order of class and name; photos are plain in the colour that captions name."""
    make_bird_archive(tmp_path)
    data = load_dataset("cub", tmp_path, side=16, captions=4, cache=tmp_path / "cache")
    check_data(data)
    assert (len(data.train), len(data.test), set(data.test.labels.tolist())) == (2 * 3 * 4, 3 * 4, {1})
    assert data.mask.all()
    said, image = sentences(data), data.values("image")
    assert said[:2] == [
        "this bird is red, number 0, said 0 times.",
        "this bird is red, number 0, said 1 times.",
    ]
    channel = {"red": 0, "green": 1, "blue": 2}
    for row, one in enumerate(said):
        word = one.split()[3].rstrip(",")
        if row < 24:
            assert image[row].mean((1, 2)).argmax() == channel[word]
        else:  # the word is in no training caption
            assert word == "<unknown>"
            assert image[row].mean((1, 2)).argmax() == 1
    assert torch.equal(load_dataset("cub", tmp_path, side=16, captions=4, cache=False).values("image"), image)
    short = load_dataset("cub", tmp_path, side=8, captions=1, length=4, cache=False)
    assert sentences(short)[0] == "this bird is"


def test_the_subset_is_paired_in_part(tmp_path):
    """Two photos with captions, two without, captions without a photo; missing values are missing, not zeros."""
    make_bird_subset(tmp_path)
    data = load_dataset("cub", tmp_path, captions=3, least=1)
    check_data(data)
    assert data.mask.tolist() == [
        [True] * 8 + [False] * 3,
        [True] * 3 + [False] + [True] * 3 + [False] + [True] * 3,
    ]
    assert data.labels.tolist() == [3] * 4 + [9] * 4 + [199] * 3
    assert (data.values("image")[:, 0, 0, 0] * 255).round().tolist() == [0] * 3 + [50] + [100] * 3 + [150] + [
        0
    ] * 3
    assert len(data.test) == 3  # the paired photo of the test part
    assert data.test.mask.all()
    assert sentences(data)[0] == "a ani said 0"
    assert load_dataset("cub", tmp_path, cropped=True, least=1).values("image")[0, 0, 0, 0] == 1


@pytest.mark.data
@pytest.mark.skipif(
    not (REAL / "cub" / "cub20_64.npz").is_file(), reason="POLYVAE_DATA holds no cub/cub20_64.npz"
)
def test_the_real_subset():
    data = load_dataset("cub", REAL, source="subset", captions=1)
    image, caption = data.mask
    assert [int(x.sum()) for x in (image & caption, image & ~caption, ~image & caption)] == [476, 709, 2457]


@pytest.mark.parametrize(
    ("change", "options", "problem"),
    [
        (None, {"source": "other"}, "source 'other' is unknown"),
        (None, {"captions": 11}, "got captions=11; expected at most 10"),
        (None, {"source": "subset"}, "cub20_64.npz: there is no such file"),
        (None, {"cropped": True}, "got cropped=True for the archive"),
        ("lines", {}, "got 59 captions; expected 10 for each of the 6 photos"),
        ("empty", {}, "line 2: got no word"),
        ("photo", {}, "expected an image file"),
        ("class", {}, "got class 'Finch'; expected a number and a name"),
    ],
)
def test_what_is_wrong_with_the_archive(tmp_path, change, options, problem):
    make_bird_archive(tmp_path)
    text, folder = tmp_path / "cub" / "text_trainvalclasses.txt", tmp_path / "cub" / "train"
    lines = text.read_text().splitlines()
    if change == "lines":
        text.write_text("\n".join(lines[1:]))
    elif change == "empty":
        text.write_text("\n".join([lines[0], "", *lines[2:]]))
    elif change == "photo":
        next(folder.glob("*/*.png")).write_bytes(b"no image")
    elif change == "class":
        (folder / "001.Red_Finch").rename(folder / "Finch")
    with pytest.raises(InputError, match=problem) as raised:
        load_dataset("cub", tmp_path, cache=False, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"004.Ani/a.jpg": "no list"}', '{"004.Ani/z.jpg": ["a bird"]}']
)
def test_what_is_wrong_with_captions_of_the_subset(tmp_path, content):
    make_bird_subset(tmp_path)
    (tmp_path / "cub" / "captions_paired_476.json").write_text(content)
    with pytest.raises(InputError, match=r"captions_paired_476\.json.*; put a sound copy there"):
        load_dataset("cub", tmp_path)

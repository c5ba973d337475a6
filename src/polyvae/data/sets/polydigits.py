"""``polydigits``: five images of a handwritten digit that share nothing but which digit it is. Embedded; nothing is downloaded.

Composed and paired as PolyMNIST is, from scikit-learn's 8 x 8 digits and the five textures of ``textures.py``. Every number comes
from a counter-based hash of the seed, so the bytes are the same on every platform.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.core.modality import Modality
from polyvae.data.multimodal import MultimodalData
from polyvae.data.sets.textures import SIZE, TEXTURES, texture
from polyvae.utils.errors import InputError
from polyvae.utils.seeds import bits, permutation

NAMES = tuple(f"m{number}" for number in range(len(TEXTURES)))
SIDE = 16
HELD_OUT = 0.2
_TRAIN, _TEST, _JUDGE = 1, 2, 3  # the part of the data that a hash is for


class Pairing(NamedTuple):
    """Which digit and which crop each image is made of, for M modalities and N tuples.

    ``label``  [N] the digit, shared by the whole tuple.
    ``base``   [M, N] the row of scikit-learn's digits.
    ``corner`` [M, N, 2] row and column of the crop's upper left corner in the modality's texture.
    """

    label: NDArray[np.int64]
    base: NDArray[np.int64]
    corner: NDArray[np.int64]


def polydigits(*, seed: int = 0, train: int = 10_000, test: int = 2_000) -> MultimodalData:
    """Compose ``train`` + ``test`` tuples of five 3 x 16 x 16 images in [0, 1]; labels are the digits.

    Each modality's own factor is the ``brightness`` of its background.
    The 1,797 base digits are split before pairing, stratified by digit, so no training image shares its handwriting with a test
    image. Pixels are stored as bytes and scaled by 1/255 when a batch is taken: a composed pixel is a byte or 255 minus one, so
    nothing is lost. Raises InputError for fewer than 10 tuples in a part.
    """
    for name, count in (("train", train), ("test", test)):
        if count < 10:
            raise InputError(
                f"polydigits: got {name}={count}; expected at least 10 tuples, one per digit; ask for more"
            )
    rows = base_digits(seed)
    parts = pair(rows.train, train, seed, _TRAIN), pair(rows.test, test, seed, _TEST)
    images = [compose(part) for part in parts]
    bright = [brightness(part) for part in parts]
    return MultimodalData(
        {name: np.concatenate([part[name] for part in images]) for name in NAMES},
        labels=np.concatenate([part.label for part in parts]),
        factors={name: {"brightness": np.concatenate([part[name] for part in bright])} for name in NAMES},
        splits={"train": range(train), "test": range(train, train + test)},
        modalities=_modalities(),
        scale=dict.fromkeys(NAMES, 1 / 255),
        seed=seed,
        card=_card(
            seed=seed,
            counts={"train": train, "test": test},
            base={"train": len(rows.train), "test": len(rows.test)},
        ),
    )


def held_out_digits(*, seed: int = 0) -> MultimodalData:
    """Every held-out base digit once: 360 tuples whose five images show the same handwriting, each on another random crop.

    A judge's accuracy on these is counted per base digit, without the repetition of ``polydigits``' test part.
    """
    base = base_digits(seed).test
    corners = np.stack([_corners(len(base), seed, _JUDGE, view) for view in range(len(NAMES))])
    pairing = Pairing(_digits()[1][base], np.stack([base] * len(NAMES)), corners)
    return MultimodalData(
        compose(pairing),
        labels=pairing.label,
        splits={"test": range(len(base))},
        modalities=_modalities(),
        scale=dict.fromkeys(NAMES, 1 / 255),
        seed=seed,
        card=_card(seed=seed, counts={"test": len(base)}),
    )


class BaseDigits(NamedTuple):
    """Rows of scikit-learn's digits: 1,437 to train, 360 held out."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def base_digits(seed: int = 0) -> BaseDigits:
    """The split of the base digits, stratified: of each digit a fifth is held out, rounded so that the total is a fifth."""
    labels = _digits()[1]
    order = permutation(len(labels), seed, 0)
    ranked = order[np.argsort(labels[order], kind="stable")]
    # Every fifth of the list sorted by digit: a stratified sample of exactly a fifth.
    held = np.arange(len(ranked)) % round(1 / HELD_OUT) == 0
    return BaseDigits(np.sort(ranked[~held]), np.sort(ranked[held]))


def pair(base: NDArray[np.int64], count: int, seed: int, part: int) -> Pairing:
    """``count`` tuples from these base digits: item i of a digit takes the i-th of an independent permutation in each modality.

    A permutation that runs out is followed by another one. Digits are balanced to within one tuple and come in random order.
    """
    labels = _digits()[1]
    label = (np.arange(count) % 10)[permutation(count, seed, part, 0)]
    rows = np.empty((len(NAMES), count), dtype=np.int64)
    for digit in range(10):
        images, places = base[labels[base] == digit], np.flatnonzero(label == digit)
        rounds = max(1, -(-len(places) // len(images)))
        for view in range(len(NAMES)):
            order = [
                images[permutation(len(images), seed, part, 1, digit, view, turn)] for turn in range(rounds)
            ]
            rows[view, places] = np.concatenate(order)[: len(places)]
    return Pairing(label, rows, np.stack([_corners(count, seed, part, view) for view in range(len(NAMES))]))


def backgrounds(pairing: Pairing) -> dict[str, NDArray[np.uint8]]:
    """The crops alone, without a digit: name -> [N, 3, 16, 16]."""
    step = np.arange(SIDE)
    crops = {}
    for name, style, corner in zip(NAMES, TEXTURES, pairing.corner, strict=True):
        row, column = corner[:, 0, None] + step, corner[:, 1, None] + step  # [N, 16] each
        crops[name] = np.moveaxis(texture(style), 0, -1)[row[:, :, None], column[:, None, :]].transpose(
            0, 3, 1, 2
        )
    return crops


def brightness(pairing: Pairing) -> dict[str, NDArray[np.float64]]:
    """The mean of each crop without its digit, in [0, 1]: name -> [N]. (It does not determine the position of the crop in the texture.)"""
    found = {}
    for name, style, corner in zip(NAMES, TEXTURES, pairing.corner, strict=True):
        total = np.pad(
            texture(style).sum(0, dtype=np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0))
        )  # of all above and to the left
        row, column = corner[:, 0], corner[:, 1]
        inside = (
            total[row + SIDE, column + SIDE]
            - total[row, column + SIDE]
            - total[row + SIDE, column]
            + total[row, column]
        )
        found[name] = inside / (255 * 3 * SIDE * SIDE)
    return found


def compose(pairing: Pairing) -> dict[str, NDArray[np.uint8]]:
    """The images: the crop, inverted where the digit is: name -> [N, 3, 16, 16]."""
    stencil = stencils()
    return {
        name: np.where(stencil[base][:, None], 255 - crop, crop)
        for (name, crop), base in zip(backgrounds(pairing).items(), pairing.base, strict=True)
    }


def ink() -> NDArray[np.int64]:
    """The ink of each base digit, 0 to 16: [1797, 8, 8]."""
    return _digits()[0]


def base_labels() -> NDArray[np.int64]:
    """Which digit each base digit is: [1797]."""
    return _digits()[1]


def stencils() -> NDArray[np.bool_]:
    """Where each base digit is on: bilinear to 16 x 16, above half of the greatest ink: [1797, 16, 16]."""
    ink = np.pad(_digits()[0], ((0, 0), (1, 1), (1, 1)), mode="edge")  # 0 .. 16
    # In integers, so that a pixel on the threshold falls the same way everywhere: weights 3 and 1, 16 times the ink in all.
    return _double(_double(ink, 1), 2) > 16 * 16 // 2


def _double(x: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    size = x.shape[axis] - 2
    before, here, after = (np.take(x, range(start, start + size), axis) for start in range(3))
    shape = [*here.shape]
    shape[axis] *= 2
    return np.stack([3 * here + before, 3 * here + after], axis + 1).reshape(shape)


def _corners(count: int, *key: int) -> NDArray[np.int64]:
    return (bits(2 * count, *key, 2) % np.uint64(SIZE - SIDE + 1)).astype(np.int64).reshape(count, 2)


@cache
def _digits() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from sklearn.datasets import (
        load_digits,
    )  # here: half a second that a mere import of polyvae should not pay

    images, labels = load_digits(return_X_y=True)
    return images.astype(np.int64).reshape(-1, 8, 8), labels.astype(np.int64)


def _modalities() -> list[Modality]:
    return [
        Modality(
            name, (3, SIDE, SIDE), likelihood="laplace", network="mlp", params={"scale": 0.3, "hidden": [400]}
        )
        for name in NAMES
    ]


def _card(**facts: Any) -> dict[str, Any]:
    return {
        "name": "polydigits",
        "version": 1,
        "what": "five 3 x 16 x 16 views of a digit: another handwriting on another texture in each, only the digit is shared",
        "source": "UCI ML repository, Optical Recognition of Handwritten Digits (test part, 1,797 of 8 x 8), bundled with scikit-learn",
        "licence": "digits: CC BY 4.0 (UCI), distributed with scikit-learn (BSD-3-Clause); textures: procedural, part of polyvae",
        "composition": "bilinear x2, on above .5 of the greatest ink; inverted there on a random 16 x 16 crop of the modality's texture",
        "pairing": "base digits split before pairing; independent permutations per part, digit and modality, repeated up to the count",
        "textures": dict(zip(NAMES, TEXTURES, strict=True)),
        **facts,
    }

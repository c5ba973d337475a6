"""PolyMNIST: five images of a digit that share nothing but which digit it is (Sutter, Daunhawer, Vogt 2021), and its translated variants.

Read from the published archive where it is there; else composed as that archive was, from MNIST's own files and five background photos.
Where a photo is missing, a procedural texture of ``textures.py`` takes its place, and the card reports it. Every number comes from a
counter-based hash of the seed: the same sources give the same bytes on every platform.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from polyvae.core.modality import Modality
from polyvae.data.multimodal import MultimodalData
from polyvae.data.sets.archive import LARGEST, Archive, find_archive, read_archive, read_image
from polyvae.data.sets.files import cache_folder
from polyvae.data.sets.memory import Bytes, mapped
from polyvae.data.sets.mnist import MD5, mnist, mnist_labels
from polyvae.data.sets.textures import TEXTURES, texture
from polyvae.utils.errors import InputError, check_count, nearest
from polyvae.utils.files import file_digest
from polyvae.utils.seeds import bits, permutation

NAMES = tuple(f"m{number}" for number in range(5))
SIDE = 28
_VERSION = 1  # raise it when the composition changes: what other versions cached is composed again
_CHUNK = 2_000  # tuples that are composed at a time
_TRAIN, _TEST, _VALIDATION = 1, 2, 3

Ground = NDArray[np.uint8]


class Placement(NamedTuple):
    """How a digit is put on its background: scaled to ``size`` pixels, at one of ``positions`` rows and columns."""

    size: int
    positions: int
    what: str


WHOLE = Placement(SIDE, 1, "the digit fills the image")
VARIANTS: dict[str, Placement] = {
    "multivae": Placement(
        21,
        7,
        "digit scaled by .75 to 21 pixels (bilinear), its corner at 0 to 6 in either direction, as MultiVae draws "
        "it (numpy's randint(0, 7) excludes 7)",
    ),
    "daunhawer": Placement(
        14,
        15,
        "digit scaled by .5 to 14 pixels (bilinear: the mean of 2 x 2), its corner anywhere from 0 to 14, after "
        "Daunhawer et al. 2022",
    ),
}


class Background(NamedTuple):
    """A background of digits: ``what`` describes it in the card; its ``digest``; the photo's ``path`` (None: a texture)."""

    what: str
    digest: str
    path: Path | None

    def pixels(self, side: int = SIDE) -> Ground:
        """[H, W, 3]. Raises InputError for a photo too small to take crops of ``side`` from."""
        if self.path is None:
            return texture(self.what.split()[-1]).transpose(1, 2, 0)
        photo = read_image(self.path)
        if min(photo.shape[:2]) < side:
            raise InputError(
                f"{self.path}: got a photo of {photo.shape[1]} x {photo.shape[0]} pixels; expected at least {side} x {side}, "
                "to take crops from; replace it by a larger one, or remove it to get a texture"
            )
        return photo


def polymnist(
    *,
    root: Path,
    seed: int = 0,
    train: int | None = None,
    test: int | None = None,
    validation: int = 0,
    cache: str | Path | bool | None = True,
) -> MultimodalData:
    """60,000 + 10,000 tuples of five 3 x 28 x 28 images in [0, 1], stored as bytes; labels are the digits.

    ``root`` contains the published archive (``polymnist/MMNIST``), or MNIST's four idx.gz files (``mnist/``; downloaded there where
    missing) and the background photos ``polymnist/1.jpg`` to ``5.jpg`` of m0 to m4. ``train`` and ``test`` take the first so many
    tuples of a part (None: all), ``validation`` so many more of the training part. Composed once: ``cache`` is the folder of the
    memory-mapped files (True: POLYVAE_CACHE, else ~/.cache/polyvae; False: none). The ``seed`` does not change the published archive.
    Raises InputError: sources that are missing, damaged or not the published ones, more tuples than there are.
    """
    published = find_archive(root, NAMES)
    return _load("polymnist", root, WHOLE, "", published, seed, (train, validation, test), cache)


def translated_polymnist(
    *,
    root: Path,
    variant: str = "multivae",
    seed: int = 0,
    train: int | None = None,
    test: int | None = None,
    validation: int = 0,
    cache: str | Path | bool | None = True,
) -> MultimodalData:
    """PolyMNIST with smaller digits, at another place in every modality; always composed. Otherwise as ``polymnist``.

    ``variant`` "multivae": 21 pixels, corners 0 to 6. "daunhawer": 14 pixels, corners 0 to 14. Results on the two do not compare.
    """
    if variant not in VARIANTS:
        raise InputError(
            f"translated_polymnist: variant {variant!r} is unknown; {nearest(variant, VARIANTS)}"
        )
    return _load(
        "translated_polymnist", root, VARIANTS[variant], variant, None, seed, (train, validation, test), cache
    )


def _load(
    name: str,
    root: Path,
    placement: Placement,
    variant: str,
    published: Archive | None,
    seed: int,
    wanted: tuple[int | None, int, int | None],
    cache: str | Path | bool | None,
) -> MultimodalData:
    grounds = {} if published else backgrounds(root)
    there = (
        (len(published.train), len(published.test))
        if published
        else tuple(len(labels) for labels in mnist_labels(root))
    )
    train, validation, test = _counts(name, there, wanted)
    sources = (
        published.digest
        if published
        else [seed, MD5, *([view, ground.digest] for view, ground in grounds.items())]
    )
    key = json.dumps([_VERSION, placement[:2], sources])
    folder = cache_folder(cache)
    total = sum(there)
    arrays = mapped(
        folder and folder / f"{name}-{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}",
        {**dict.fromkeys(NAMES, (total, 3, SIDE, SIDE)), "labels": (total,)},
        partial(read_archive, published) if published else partial(_compose, root, grounds, placement, seed),
    )
    first = there[0]
    if train + validation + test < total:
        arrays = {
            view: np.concatenate([x[: train + validation], x[first : first + test]])
            for view, x in arrays.items()
        }
        first = train + validation
    # The archive is in order of the index, and its last tuples lack the rarer digits.
    order = permutation(first, seed, _VALIDATION) if published else np.arange(first)
    splits = {
        "train": np.sort(order[:train]),
        "validation": np.sort(order[train:]),
        "test": np.arange(first, first + test),
    }
    counts = {part: len(rows) for part, rows in splits.items() if len(rows)}
    return MultimodalData(
        {view: arrays[view] for view in NAMES},
        labels=arrays["labels"],
        splits={part: splits[part] for part in counts},
        modalities=[
            Modality(view, (3, SIDE, SIDE), likelihood="laplace", network="resnet", params={"scale": 0.75})
            for view in NAMES
        ],
        scale=dict.fromkeys(NAMES, 1 / 255),
        seed=seed,
        root=root,
        card=_card(name, placement, variant, published, grounds, seed) | {"counts": counts},
    )


def _counts(
    name: str, there: tuple[int, ...], wanted: tuple[int | None, int, int | None]
) -> tuple[int, int, int]:
    """How many tuples (training, validation, test) to take."""
    train, validation, test = wanted
    check_count(name, "validation", validation, 0)
    for key, count, most in (("train", train, there[0] - validation), ("test", test, there[1])):
        if count is not None:
            check_count(name, key, count)
        if most < (1 if count is None else count):
            got = f"{key}={count}" + (
                f" and validation={validation}" if validation and key == "train" else ""
            )
            raise InputError(
                f"{name}: got {got}; expected no more tuples than the {there[key == 'test']:,} of that part; ask for fewer"
            )
    return there[0] - validation if train is None else train, validation, there[1] if test is None else test


def backgrounds(root: Path, styles: Sequence[str] = (*TEXTURES,)) -> dict[str, Background]:
    """The backgrounds of m0 to m4: ``root``/polymnist/1.jpg to 5.jpg, one of the textures ``styles`` where there is no photo."""
    found = {}
    for number, (view, style) in enumerate(zip(NAMES, styles, strict=True), 1):
        photo = root / "polymnist" / f"{number}.jpg"
        found[view] = (
            Background(f"photo {number}.jpg", file_digest(photo, LARGEST), photo)
            if os.path.lexists(photo)
            else Background(
                f"texture {style}",
                hashlib.blake2b(texture(style).tobytes(), digest_size=12).hexdigest(),
                None,
            )
        )
    return found


def pair(labels: NDArray[np.uint8], seed: int, part: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(label [N], base [M, N]): which digit each tuple shows, and which image of MNIST each of its images is made of.

    The i-th tuple of a digit takes the i-th of an independent permutation of that digit's images in each modality, so every image is
    used once in each. Tuples come in random order.
    """
    label = labels[permutation(len(labels), seed, part, 0)]
    base = np.empty((len(NAMES), len(labels)), dtype=np.int64)
    for digit in range(10):
        images, places = np.flatnonzero(labels == digit), np.flatnonzero(label == digit)
        for view in range(len(NAMES)):
            base[view, places] = images[permutation(len(images), seed, part, 1, digit, view)]
    return label, base


def stencils(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """255 where the digit is on, else 0: bilinear to ``size`` pixels, above 128 of 255: [N, 28, 28] -> [N, size, size]."""
    on = np.concatenate(
        [_shrunk(images[start : start + _CHUNK], size) > 128 for start in range(0, len(images), _CHUNK)]
    )
    return on.astype(np.uint8) * np.uint8(255)


def _shrunk(images: NDArray[np.uint8], size: int) -> NDArray[Any]:
    """Bilinear, half-pixel centres, no smoothing beforehand; rounded down to bytes. In integers, so that it is the same everywhere."""
    if size == SIDE:
        return images
    # Pixel i samples at ((2i + 1) * 28 - size) / (2 * size).
    where = (2 * np.arange(size) + 1) * SIDE - size
    before, share = where // (2 * size), where % (2 * size)
    after = np.minimum(before + 1, SIDE - 1)
    ink = images.astype(np.int64)
    rows = ink[:, before] * (2 * size - share)[:, None] + ink[:, after] * share[:, None]
    return (rows[:, :, before] * (2 * size - share) + rows[:, :, after] * share) // (2 * size) ** 2


def _compose(
    root: Path,
    grounds: Mapping[str, Background],
    placement: Placement,
    seed: int,
    arrays: Mapping[str, Bytes],
) -> None:
    row = 0
    pixels = {view: ground.pixels() for view, ground in grounds.items()}
    for part, digits in zip((_TRAIN, _TEST), mnist(root), strict=True):
        count = len(digits.labels)
        rows = slice(row, row + count)
        arrays["labels"][rows], base = pair(digits.labels, seed, part)
        stencil = stencils(digits.images, placement.size)
        for number, view in enumerate(NAMES):
            corner = corners(pixels[view].shape, count, seed, part, number)
            places = (
                (bits(2 * count, seed, part, 3, number) % np.uint64(placement.positions))
                .astype(np.int64)
                .reshape(count, 2)
            )
            _paint(arrays[view][rows], pixels[view], corner, stencil, base[number], places)
        row += count


def corners(shape: tuple[int, ...], count: int, seed: int, part: int, view: int) -> NDArray[np.int64]:
    """Row and column of each crop's upper left corner in a background [H, W, 3]: [N, 2]."""
    words = bits(2 * count, seed, part, 2, view).reshape(count, 2)
    return (words % np.array([shape[0] - SIDE + 1, shape[1] - SIDE + 1], np.uint64)).astype(np.int64)


def _paint(
    out: Bytes,
    ground: Ground,
    corner: NDArray[np.int64],
    stencil: NDArray[np.uint8],
    base: NDArray[np.int64],
    place: NDArray[np.int64],
) -> None:
    """Write crops, inverted where their digit is, into ``out`` [N, 3, 28, 28]."""
    windows = sliding_window_view(
        np.ascontiguousarray(ground.transpose(2, 0, 1)), (SIDE, SIDE), (1, 2)
    )  # [3, H - 27, W - 27, 28, 28]
    size = stencil.shape[-1]
    step = np.arange(size)
    for start in range(0, len(out), _CHUNK):
        rows = slice(start, start + _CHUNK)
        ink = stencil[base[rows]]
        if size < SIDE:
            canvas = np.zeros((len(ink), SIDE, SIDE), np.uint8)
            down, across = place[rows, 0, None] + step, place[rows, 1, None] + step  # [n, size] each
            canvas[np.arange(len(ink))[:, None, None], down[:, :, None], across[:, None, :]] = ink
            ink = canvas
        # Exclusive or with 255 is 255 minus the colour, with 0 the colour.
        out[rows] = windows[:, corner[rows, 0], corner[rows, 1]].transpose(1, 0, 2, 3) ^ ink[:, None]


def _card(
    name: str,
    placement: Placement,
    variant: str,
    published: Archive | None,
    grounds: Mapping[str, Background],
    seed: int,
) -> dict[str, Any]:
    """The description of the data, without their folder. ``released_judges``: the published classifiers trained on such images."""
    textured = [view for view, ground in grounds.items() if ground.path is None]
    known = [] if variant else [view for view in NAMES if view not in textured]
    card: dict[str, Any] = {
        "name": name,
        "version": _VERSION,
        "what": "five 3 x 28 x 28 views of a digit: another handwriting on another background in each, only the digit is shared",
        "licence": "MNIST states none; rights in the photos are not stated; textures are part of polyvae",
        "pairing": "independent permutations of MNIST's images per part, digit and modality; each image used once in each modality",
        "released_judges": {view: f"pretrained_img_to_digit_clf_{view}" for view in known},
    }
    if published:
        return card | {
            "source": "the published archive (Zenodo record 4899160), paired by file name",
            "composition": "as published: inverted where the digit is, on random crops of five photos",
            "backgrounds": dict.fromkeys(NAMES, "published"),
        }
    # The digest of the data contains these texts. Runs resume, and judges are found, only while they do not change.
    return card | {
        "source": "composed from MNIST (LeCun, Cortes, Burges 1998)",
        "seed": seed,
        **({"variant": variant} if variant else {}),
        "composition": f"on above 128 of 255; inverted there on a random 28 x 28 crop of the modality's background; {placement.what}",
        "backgrounds": {view: ground.what for view, ground in grounds.items()},
        "background_digests": {view: ground.digest for view, ground in grounds.items()},
        "comparable": f"Fréchet distances do not compare with published ones: {', '.join(textured)} stand on procedural textures instead "
        "of the published photos"
        if textured
        else "composed anew with another seed than the published archive",
    }

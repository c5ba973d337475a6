"""PolyMNIST-Quadrant (the data of the IDMVAE paper): digits that are placed in one of the four quadrants of a larger background.

The digit, the quadrant or both are shared by the five images of a tuple; what is not shared is drawn for each image on its own. The first
image shows the digit in red and the last one in blue, with its grey levels; in the other three the background is inverted there.
``polydigits_quadrant`` is made in the same way from the embedded digits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from polyvae.core.modality import Modality
from polyvae.data.multimodal import MultimodalData
from polyvae.data.sets.files import cache_folder
from polyvae.data.sets.memory import Bytes, mapped
from polyvae.data.sets.mnist import MD5, mnist
from polyvae.data.sets.pairing import pair_by_label, pair_freely
from polyvae.data.sets.polydigits import base_digits, base_labels, ink, stencils
from polyvae.data.sets.polymnist import NAMES, backgrounds
from polyvae.data.sets.textures import texture
from polyvae.utils.errors import InputError, check_count, nearest
from polyvae.utils.seeds import bits

SHARED = ("digit", "quadrant", "both")
QUADRANTS = ("upper left", "upper right", "lower left", "lower right")
SIDE = 64
_HELD = 12  # of MNIST's training part, the last 1/12 makes the validation part: 5,000 of 60,000
_VERSION = 1  # raise it when the composition changes
_VISIBLE = 16  # ink above this, of 255, belongs to the digit
# A red digit is visible on the dark texture, and a blue one on the red texture.
_STYLES = ("night", "cells", "weave", "confetti", "lava")
_CHUNK = 500  # tuples that are composed at a time
_PARTS = {"train": 1, "validation": 3, "test": 2}


class Tuples(NamedTuple):
    """What N tuples of M images show: rows of the base digits ``base`` [M, N], ``digit`` [M, N] and ``quadrant`` [M, N]."""

    base: NDArray[np.int64]
    digit: NDArray[np.int64]
    quadrant: NDArray[np.int64]


def polymnist_quadrant(
    *,
    root: Path,
    shared: str = "digit",
    as_modalities: bool = False,
    repeats: int = 4,
    seed: int = 0,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    cache: str | Path | bool | None = True,
) -> MultimodalData:
    """Tuples of five 3 x 64 x 64 images in [0, 1], stored as bytes, from MNIST and the backgrounds of ``polymnist``.

    A digit is enlarged to 32 pixels (bilinear); where its ink exceeds 16 of 255 it covers the background. Of MNIST's training part the
    last 5,000 digits make the validation part. Tuples are composed once and kept as in ``polymnist``.

    Args:
        root: The folder that contains ``mnist/`` and ``polymnist/1.jpg`` to ``5.jpg``. A texture takes the place of a missing photo.
        shared: "digit": quadrants are drawn for each image on its own (the paper's data). "quadrant": digits are. "both": neither.
        as_modalities: Add what is shared as modalities of one-hot labels, "digit" (10) and "quadrant" (4).
        repeats: How often each digit of the training part is used in each modality, every time in another tuple.
        seed: What pairs, quadrants and crops are a function of.
        train: The number of training tuples; None: ``repeats`` times 55,000.
        validation: The number of validation tuples; None: 5,000.
        test: The number of test tuples; None: 10,000.
        cache: The folder of the memory-mapped files (True: POLYVAE_CACHE, else ~/.cache/polyvae; False: none).

    Raises:
        InputError: Sources that are missing or not the published ones, an unknown value of ``shared``, or more tuples than there are.
    """
    _check("polymnist_quadrant", shared, as_modalities)
    check_count("polymnist_quadrant", "repeats", repeats)
    whole, held = mnist(root)
    edge = len(whole.labels) - len(whole.labels) // _HELD
    most = {"train": repeats * edge, "validation": len(whole.labels) - edge, "test": len(held.labels)}
    wanted = {"train": train, "validation": validation, "test": test}
    counts = {part: _count(part, wanted[part], most[part]) for part in _PARTS}
    rows = {
        "train": range(edge),
        "validation": range(edge, len(whole.labels)),
        "test": range(len(held.labels)),
    }
    source = {"train": whole, "validation": whole, "test": held}
    digits = {part: source[part].labels[rows[part].start : rows[part].stop] for part in _PARTS}
    tuples = {
        part: _tuples(digits[part], counts[part], shared, seed, number) for part, number in _PARTS.items()
    }
    grounds = backgrounds(root, _STYLES)

    def fill(arrays: Mapping[str, Bytes]) -> None:
        pixels = [ground.pixels(SIDE) for ground in grounds.values()]
        row = 0
        for part, number in _PARTS.items():
            images = enlarged(source[part].images[rows[part].start : rows[part].stop], SIDE // 2)
            _paint(
                {name: x[row : row + counts[part]] for name, x in arrays.items()},
                pixels,
                images,
                tuples[part],
                (seed, number),
            )
            row += counts[part]

    key = json.dumps(
        [_VERSION, shared, counts, seed, MD5, [[name, ground.digest] for name, ground in grounds.items()]]
    )
    folder = cache_folder(cache)
    arrays = mapped(
        folder and folder / f"polymnist_quadrant-{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}",
        dict.fromkeys(NAMES, (sum(counts.values()), 3, SIDE, SIDE)),
        fill,
    )
    card = {
        "name": "polymnist_quadrant",
        "source": "composed from MNIST (LeCun, Cortes, Burges 1998), after the IDMVAE authors' code",
        "licence": "MNIST states none; rights in the photos are not stated; textures are part of polyvae",
        "backgrounds": {view: ground.what for view, ground in grounds.items()},
        "repeats": repeats,
    }
    params = {"scale": 0.75}
    specs = [Modality(name, (3, SIDE, SIDE), "laplace", "resnet", params=params) for name in NAMES]
    return _data(arrays, tuples, specs, shared, as_modalities, seed, card)


def polydigits_quadrant(
    *,
    shared: str = "digit",
    as_modalities: bool = False,
    side: int = 32,
    seed: int = 0,
    train: int = 10_000,
    test: int = 2_000,
) -> MultimodalData:
    """Tuples of five images of 32 or 16 pixels, embedded: scikit-learn's digits in one of four quadrants of the five textures.

    No training image shares its handwriting with a test image. Otherwise as ``polymnist_quadrant``.

    Args:
        shared: "digit", "quadrant" or "both".
        as_modalities: Add what is shared as modalities of one-hot labels.
        side: Pixels of an image: 32 (digits of 16 x 16) or 16 (digits of 8 x 8).
        seed: What the split, pairs, quadrants and crops are a function of.
        train: The number of training tuples.
        test: The number of test tuples.

    Raises:
        InputError: Fewer than 10 tuples in a part, another ``side``, or an unknown value of ``shared``.
    """
    _check("polydigits_quadrant", shared, as_modalities)
    if side not in (16, 32):
        raise InputError(
            f"polydigits_quadrant: got side={side!r}; expected 16 or 32; take 32 for clearer digits"
        )
    counts = {"train": train, "test": test}
    for part, count in counts.items():
        check_count("polydigits_quadrant", part, count, 10)
    base = base_digits(seed)
    images = stencils() if side == 32 else ink() > 8
    drawn = images.astype(np.uint8) * np.uint8(255)
    pixels = [texture(style).transpose(1, 2, 0) for style in _STYLES]
    arrays = {name: np.empty((train + test, 3, side, side), np.uint8) for name in NAMES}
    tuples, row = {}, 0
    for part, rows in (("train", base.train), ("test", base.test)):
        tuples[part] = _tuples(base_labels()[rows], counts[part], shared, seed, _PARTS[part])
        views = {name: x[row : row + counts[part]] for name, x in arrays.items()}
        _paint(views, pixels, drawn[rows], tuples[part], (seed, _PARTS[part]))
        row += counts[part]
    card = {
        "name": "polydigits_quadrant",
        "source": "UCI ML repository, Optical Recognition of Handwritten Digits, bundled with scikit-learn; procedural textures",
        "licence": "digits: CC BY 4.0 (UCI), distributed with scikit-learn (BSD-3-Clause); textures: part of polyvae",
        "side": side,
    }
    specs = [Modality(name, (3, side, side), "laplace", params={"scale": 0.3}) for name in NAMES]
    return _data(arrays, tuples, specs, shared, as_modalities, seed, card)


def enlarged(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bilinear, with half-pixel centres and the margin repeated, in integers: [N, 28, 28] -> [N, size, size]."""
    old = images.shape[-1]
    where = np.clip((2 * np.arange(size) + 1) * old - size, 0, (old - 1) * 2 * size)
    before, share = where // (2 * size), where % (2 * size)
    after = np.minimum(before + 1, old - 1)
    made = np.empty((len(images), size, size), np.uint8)
    for start in range(0, len(images), _CHUNK):
        x = images[start : start + _CHUNK].astype(np.int64)
        x = x[:, before] * (2 * size - share)[:, None] + x[:, after] * share[:, None]
        made[start : start + _CHUNK] = (x[:, :, before] * (2 * size - share) + x[:, :, after] * share) // (
            2 * size
        ) ** 2
    return made


def _check(name: str, shared: str, as_modalities: bool) -> None:
    if shared not in SHARED:
        raise InputError(f"{name}: shared {shared!r} is unknown; {nearest(str(shared), SHARED)}")
    if not isinstance(as_modalities, bool):
        raise InputError(f"{name}: got as_modalities={as_modalities!r}; expected True or False; choose one")


def _count(part: str, wanted: int | None, most: int) -> int:
    if wanted is None:
        return most
    check_count("polymnist_quadrant", part, wanted)
    if wanted > most:
        raise InputError(
            f"polymnist_quadrant: got {part}={wanted}; expected at most the {most:,} tuples of that part; ask for fewer"
        )
    return wanted


def _tuples(labels: NDArray[Any], count: int, shared: str, seed: int, part: int) -> Tuples:
    views = len(NAMES)
    if shared == "quadrant":
        base = pair_freely([len(labels)] * views, count, seed, part)
    else:
        base = pair_by_label([labels] * views, count, seed, part)[1]
    words = np.stack(
        [bits(count, seed, part, 3, view if shared == "digit" else views) for view in range(views)]
    )
    return Tuples(base, labels[base].astype(np.int64), (words % np.uint64(4)).astype(np.int64))


def _paint(
    arrays: Mapping[str, Bytes],
    pixels: list[NDArray[np.uint8]],
    images: NDArray[np.uint8],
    tuples: Tuples,
    key: tuple[int, int],
) -> None:
    """Write the images [N, 3, S, S] of one part; ``images`` [n, S / 2, S / 2] is the ink of the base digits."""
    for view, (out, ground) in enumerate(zip(arrays.values(), pixels, strict=True)):
        side, half, count = out.shape[-1], images.shape[-1], len(out)
        windows = sliding_window_view(np.ascontiguousarray(ground.transpose(2, 0, 1)), (side, side), (1, 2))
        room = np.array(windows.shape[1:3], np.uint64)
        corner = (bits(2 * count, *key, 4, view).reshape(count, 2) % room).astype(np.int64)
        for start in range(0, count, _CHUNK):
            rows = slice(start, start + _CHUNK)
            crop = windows[:, corner[rows, 0], corner[rows, 1]].transpose(1, 0, 2, 3)
            digit = np.zeros((len(crop), side, side), np.uint8)
            for quadrant in range(4):
                own = tuples.quadrant[view, rows] == quadrant
                top, left = half * (quadrant // 2), half * (quadrant % 2)
                digit[own, top : top + half, left : left + half] = images[tuples.base[view, rows][own]]
            out[rows] = np.where((digit > _VISIBLE)[:, None], _coloured(crop, digit, view), crop)


def _coloured(crop: NDArray[np.uint8], digit: NDArray[np.uint8], view: int) -> NDArray[np.uint8]:
    """What covers the background where the digit is: red in the first modality, blue in the last one, else the inverted background."""
    if view not in (0, len(NAMES) - 1):
        return 255 - crop
    made = np.zeros_like(crop)
    made[:, 0 if view == 0 else 2] = digit
    return made


def _data(
    arrays: Mapping[str, Any],
    tuples: Mapping[str, Tuples],
    specs: list[Modality],
    shared: str,
    as_modalities: bool,
    seed: int,
    card: Mapping[str, Any],
) -> MultimodalData:
    whole = Tuples(
        *(np.concatenate([getattr(part, field) for part in tuples.values()], 1) for field in Tuples._fields)
    )
    facts = {
        "digit": (whole.digit, [str(digit) for digit in range(10)]),
        "quadrant": (whole.quadrant, [*QUADRANTS]),
    }
    common = [name for name in facts if shared in (name, "both")]
    own = [name for name in facts if name not in common]
    ends = np.cumsum([part.base.shape[1] for part in tuples.values()])
    splits = {
        name: range(end - tuples[name].base.shape[1], end)
        for name, end in zip(tuples, ends.tolist(), strict=True)
    }
    values = dict(arrays)
    if as_modalities:
        for name in common:
            values[name] = np.eye(len(facts[name][1]), dtype=np.float32)[facts[name][0][0]]
            specs = [*specs, Modality(name, (len(facts[name][1]),), likelihood="categorical")]
    return MultimodalData(
        values,
        labels=facts[common[0]][0][0],
        attributes={name: facts[name][0][0] for name in common},
        classes={name: facts[name][1] for name in common},
        # A modality of labels states itself alone.
        said={name: {name: np.ones(len(facts[name][0][0]), dtype=bool)} for name in common}
        if as_modalities
        else None,
        factors={view: {name: facts[name][0][place] for name in own} for place, view in enumerate(NAMES)}
        if own
        else None,
        splits=splits,
        modalities=specs,
        scale=dict.fromkeys(NAMES, 1 / 255),
        seed=seed,
        card={
            **card,
            "version": _VERSION,
            "what": f"five views of a digit in one of four quadrants; shared: {shared}",
            "composition": "digit in one quadrant; red in m0, blue in m4, the inverted background in m1 to m3; random crops",
            "counts": {part: len(rows) for part, rows in splits.items()},
            "seed": seed,
        },
    )

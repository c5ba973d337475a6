"""MNIST and SVHN (street-view house numbers, Netzer et al. 2011), paired by label as in the MMVAE paper (Shi et al. 2019)."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.core.modality import Modality
from polyvae.data.multimodal import MultimodalData
from polyvae.data.sets.files import cache_folder
from polyvae.data.sets.memory import Bytes, mapped
from polyvae.data.sets.mnist import MD5, mnist
from polyvae.utils.errors import InputError, check_count, reading
from polyvae.utils.files import file_digest, read_bytes
from polyvae.utils.seeds import permutation

HOME = "http://ufldl.stanford.edu/housenumbers"
_MOST = 512 * 2**20  # bytes; the training part has 182,040,794
_CHUNK = 10_000
_VERSION = 1


class House(NamedTuple):
    """``images`` [N, 3, 32, 32] bytes and ``labels`` [N], 0 to 9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def mnist_svhn(
    *,
    root: Path,
    pairs: int = 30,
    seed: int = 0,
    train: int | None = None,
    test: int | None = None,
    cache: str | Path | bool | None = True,
) -> MultimodalData:
    """Pairs of "mnist" [1, 28, 28] and "svhn" [3, 32, 32] of the same digit, in [0, 1], stored as bytes; labels are the digits.

    Of each digit as many images are used as the smaller of the two sets has; each takes part in ``pairs`` pairs, by as many random
    permutations in either set. Pairs come in random order.

    Args:
        root: The folder that contains ``mnist/`` and ``svhn/train_32x32.mat``, ``svhn/test_32x32.mat``.
        pairs: How often each image is used; 30 in the paper, about 1,680,000 training pairs.
        seed: What pairs are a function of.
        train: Take the first so many training pairs; None: all.
        test: Take the first so many test pairs; None: all.
        cache: The folder of the memory-mapped files (True: POLYVAE_CACHE, else ~/.cache/polyvae; False: none).

    Raises:
        InputError: Files that are missing or damaged, or more pairs than there are.
    """
    check_count("mnist_svhn", "pairs", pairs)
    written = dict(zip(("train", "test"), mnist(root), strict=True))
    paths = {part: _path(root, part) for part in written}
    streets = {part: read_svhn(path) for part, path in paths.items()}
    label, rows, wanted = {}, {}, {"train": train, "test": test}
    for number, part in enumerate(written, 1):
        label[part], rows[part] = paired(written[part].labels, streets[part].labels, pairs, seed, number)
        count = wanted[part]
        if count is not None:
            check_count("mnist_svhn", part, count)
            if count > len(label[part]):
                raise InputError(
                    f"mnist_svhn: got {part}={count}; expected at most the {len(label[part]):,} pairs of that part; ask for fewer"
                )
            label[part], rows[part] = label[part][:count], rows[part][:, :count]
    counts = {part: len(own) for part, own in label.items()}

    def fill(arrays: Mapping[str, Bytes]) -> None:
        row = 0
        for part in written:
            for start in range(0, counts[part], _CHUNK):
                base = rows[part][:, start : start + _CHUNK]
                here = slice(row + start, row + start + base.shape[1])
                arrays["mnist"][here] = written[part].images[base[0]][:, None]
                arrays["svhn"][here] = streets[part].images[base[1]]
            row += counts[part]

    total = sum(counts.values())
    state = json.dumps(
        [_VERSION, pairs, seed, counts, MD5, [file_digest(path, _MOST) for path in paths.values()]]
    )
    folder = cache_folder(cache)
    arrays = mapped(
        folder and folder / f"mnist_svhn-{hashlib.blake2b(state.encode(), digest_size=12).hexdigest()}",
        {"mnist": (total, 1, 28, 28), "svhn": (total, 3, 32, 32)},
        fill,
    )
    return MultimodalData(
        arrays,
        labels=np.concatenate([*label.values()]),
        splits={"train": range(counts["train"]), "test": range(counts["train"], total)},
        modalities=[
            Modality("mnist", (1, 28, 28), "laplace", params={"scale": 0.75}),
            Modality("svhn", (3, 32, 32), "laplace", params={"scale": 0.75}),
        ],
        scale={"mnist": 1 / 255, "svhn": 1 / 255},
        seed=seed,
        root=root,
        card={
            "name": "mnist_svhn",
            "version": _VERSION,
            "what": "a handwritten digit and a digit of a house number; only the digit is shared",
            "source": f"MNIST (LeCun, Cortes, Burges 1998), SVHN (Netzer et al. 2011, {HOME})",
            "licence": "MNIST states none; SVHN: non-commercial use",
            "pairing": f"{pairs} random permutations of each digit in either set, per part",
            "counts": counts,
            "seed": seed,
        },
    )


def paired(
    first: NDArray[np.uint8], second: NDArray[np.uint8], pairs: int, seed: int, part: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The labels [N] of all pairs, and the rows of their images in the two sets, [2, N]."""
    labels, rows = [], []
    for digit in range(10):
        members = [np.flatnonzero(own == digit) for own in (first, second)]
        count = min(len(own) for own in members)
        for turn in range(pairs):
            rows.append(
                np.stack(
                    [
                        own[:count][permutation(count, seed, part, digit, turn, side)]
                        for side, own in enumerate(members)
                    ]
                )
            )
            labels.append(np.full(count, digit))
    order = permutation(sum(len(own) for own in labels), seed, part, 10)
    return np.concatenate(labels)[order], np.concatenate(rows, 1)[:, order]


def read_svhn(path: Path) -> House:
    """One part of SVHN in its cropped format. Raises InputError: no such file, or one of other contents."""
    from scipy.io import loadmat  # here: a mere import of polyvae needs no scipy

    with reading(
        str(path), "a MATLAB file with X [32, 32, 3, N] and y [N, 1]", f"download it again from {HOME}"
    ):
        found = loadmat(io.BytesIO(read_bytes(path, _MOST)), variable_names=["X", "y"])
        x, y = np.asarray(found["X"]), np.asarray(found["y"]).ravel()
    if (
        x.ndim != 4
        or x.shape[:3] != (32, 32, 3)
        or x.dtype != np.uint8
        or len(y) != x.shape[3]
        or not np.isin(y, range(1, 11)).all()
    ):
        raise InputError(
            f"{path}: got X {x.dtype} {x.shape} and {len(y)} labels; expected bytes [32, 32, 3, N] and labels 1 to 10; download it "
            f"again from {HOME}"
        )
    return House(np.ascontiguousarray(x.transpose(3, 2, 0, 1)), (y % 10).astype(np.uint8))


def _path(root: Path, part: str) -> Path:
    name = f"{part}_32x32.mat"
    path = next(
        (root / place / name for place in ("svhn", "SVHN", ".") if os.path.isfile(root / place / name)), None
    )
    if path is None:
        raise InputError(
            f"{root / 'svhn' / name}: there is no such file; expected SVHN's cropped digits; download it from {HOME}"
        )
    return path

"""MNIST (LeCun, Cortes, Burges 1998), from its four idx files: what PolyMNIST is composed from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.data.sets.files import unpacked
from polyvae.utils.errors import InputError

HOMES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)

# Of the unpacked files, as published with them in many places.
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class Digits(NamedTuple):
    """``images`` [N, 28, 28] bytes, 0 is paper; ``labels`` [N] bytes, 0 to 9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def mnist(root: Path) -> tuple[Digits, Digits]:
    """The training part and the test part, from ``root``/mnist/*.gz (or ``root`` itself); downloaded into the former where missing.

    Raises InputError: files that are missing and cannot be downloaded, or whose content is not the published one.
    """
    train, test = (
        Digits(_read(root, f"{part}-images-idx3-ubyte"), labels)
        for part, labels in zip(("train", "t10k"), mnist_labels(root), strict=True)
    )
    return train, test


def mnist_labels(root: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The labels alone, which are quick to read. Raises InputError as ``mnist`` does."""
    return _read(root, "train-labels-idx1-ubyte"), _read(root, "t10k-labels-idx1-ubyte")


def _read(root: Path, name: str) -> NDArray[np.uint8]:
    places = [root / folder / f"{name}.gz" for folder in ("mnist", "MNIST/raw", ".")]
    path = next((place for place in places if os.path.lexists(place)), places[0])
    return idx(unpacked(path, MD5[name], HOMES), path)


def idx(content: bytes, path: Path) -> NDArray[np.uint8]:
    """The array of bytes in an idx file: two zero bytes, 8 for bytes, the number of axes, their sizes as big-endian 32-bit words."""
    axes = content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 3 else 0
    shape = (
        np.frombuffer(content, ">u4", axes, 4).astype(int)
        if len(content) >= 4 + 4 * axes
        else np.empty(0, int)
    )
    start = 4 + 4 * axes
    if axes == 0 or len(content) - start != int(np.prod(shape)):
        raise InputError(
            f"{path}: got {len(content)} bytes that are no idx file of bytes; expected MNIST's own format; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)

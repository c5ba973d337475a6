"""PolyMNIST as it was published: a PNG file per image, <part>/<modality>/<index>.<digit>.png. Files are paired by name, never by order."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from polyvae.data.sets.memory import Bytes
from polyvae.utils.errors import InputError, reading
from polyvae.utils.files import read_bytes

PLACES = ("polymnist/MMNIST", "MMNIST", "PolyMNIST/MMNIST", "PolyMNIST", "polymnist", ".")
LARGEST = 256 * 2**20  # bytes of an image file
PIXELS = 64 * 2**20  # 192 MB of memory
_SMALL = 2**20  # pixels of an image of the archive; its own have 784
_NAME = re.compile(r"(\d+)\.(\d)\.png")


class Archive(NamedTuple):
    """``train`` and ``test``: (index, digit) of each tuple, sorted as numbers. ``digest``: of all names, sizes and times of change."""

    folder: Path
    train: tuple[tuple[int, int], ...]
    test: tuple[tuple[int, int], ...]
    digest: str


def find_archive(root: Path, names: Sequence[str]) -> Archive | None:
    """The archive under ``root``, in any of PLACES; None where there is none.

    Raises InputError: a modality or part that is missing, an image that lacks its partner or whose partner has another digit.
    """
    folder = next((root / place for place in PLACES if (root / place / "train" / names[0]).is_dir()), None)
    if folder is None:
        return None
    state = hashlib.blake2b(digest_size=12)
    train, test = (
        _paired({name: _listed(folder / part / name, state) for name in names}, folder / part)
        for part in ("train", "test")
    )
    return Archive(folder, train, test, state.hexdigest())


def read_archive(archive: Archive, arrays: Mapping[str, Bytes]) -> None:
    """Write the images into ``arrays``, name -> [N, 3, H, W], and the digits into ``arrays["labels"]``: training part first."""
    row = 0
    for part, keys in (("train", archive.train), ("test", archive.test)):
        for index, digit in keys:
            for name in arrays.keys() - {"labels"}:
                path = archive.folder / part / name / f"{index}.{digit}.png"
                image = read_image(path, _SMALL).transpose(2, 0, 1)
                if image.shape != arrays[name].shape[1:]:
                    raise InputError(
                        f"{path}: got an image of shape {image.shape}; expected {arrays[name].shape[1:]}; "
                        "unpack the archive again"
                    )
                arrays[name][row] = image
            arrays["labels"][row] = digit
            row += 1


def read_image(path: Path, pixels: int = PIXELS) -> Bytes:
    """An image file as bytes [H, W, 3]. Raises InputError for a file that is no image, or one of more than so many ``pixels``."""
    from PIL import Image  # here: a mere import of polyvae needs no image library

    content = io.BytesIO(read_bytes(path, LARGEST))
    with (
        warnings.catch_warnings(),
        reading(f"{path}", "an image file", "put a sound copy there"),
    ):
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked here
        with Image.open(content) as image:
            if image.width * image.height > pixels:
                raise InputError(
                    f"{path}: got an image of {image.width} x {image.height} pixels; expected at most {pixels:,} pixels; "
                    "put a smaller copy there"
                )
            return np.asarray(image.convert("RGB"))


def _listed(folder: Path, state: hashlib.blake2b) -> set[tuple[int, int]]:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: there is no such folder; expected the published archive's images there; unpack the archive again"
        )
    found = {}
    for path in folder.iterdir():
        name = _NAME.fullmatch(path.name)
        if name is not None:
            try:
                found[int(name[1]), int(name[2])] = path.stat()
            except OSError as problem:
                raise InputError(
                    f"{path}: cannot be read ({problem.strerror}); expected an image file; unpack the archive again"
                ) from None
    for key in sorted(found):
        state.update(f"{key} {found[key].st_size} {found[key].st_mtime_ns}".encode())
    return set(found)


def _paired(listed: Mapping[str, set[tuple[int, int]]], folder: Path) -> tuple[tuple[int, int], ...]:
    first, *others = listed
    for name in others:
        odd = sorted(listed[first] ^ listed[name])
        if odd:
            index, digit = odd[0]
            has, lacks = (first, name) if odd[0] in listed[first] else (name, first)
            rival = next((other for at, other in odd if at == index and (at, other) in listed[lacks]), None)
            raise InputError(
                f"{folder}: {has} has {index}.{digit}.png and {lacks} has "
                f"{'none of that name' if rival is None else f'{index}.{rival}.png'}; expected the same index and digit in "
                f"every modality; unpack the archive again"
            )
    if not listed[first]:
        raise InputError(
            f"{folder / first}: got no file named <index>.<digit>.png; expected the published archive's images; "
            "unpack it again"
        )
    return tuple(sorted(listed[first]))

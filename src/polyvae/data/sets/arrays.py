"""Arrays in the files of data sets: .npz files with the arrays that are needed, and nothing unpickled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyvae.utils.errors import InputError, reading

Arrays = dict[str, NDArray[Any]]


def npz(path: Path, wanted: Mapping[str, tuple[str, int]], rows: str) -> Arrays:
    """The arrays of a .npz file, by name.

    Args:
        path: The file.
        wanted: Name -> the kinds of numbers that it may have (as ``numpy.dtype.kind``) and its number of axes.
        rows: The array whose length all others have; "": lengths differ.

    Raises:
        InputError: No such file, one that is no .npz file, or one that lacks an array or has another kind of it.
    """
    if not os.path.isfile(path):
        raise InputError(
            f"{path}: there is no such file; expected an .npz file with {', '.join(wanted)}; put it there"
        )
    with (
        reading(str(path), f"an .npz file with {', '.join(wanted)}", "put a sound copy there"),
        np.load(path, allow_pickle=False) as file,
    ):
        found = {name: np.asarray(file[name]) for name in wanted if name in file.files}
    for name, (kinds, axes) in wanted.items():
        if name not in found or found[name].dtype.kind not in kinds or found[name].ndim != axes:
            got = f"{found[name].dtype} of {found[name].ndim} axes" if name in found else "no such array"
            raise InputError(
                f"{path}: {name}: got {got}; expected an array of {axes} axes; put a sound copy there"
            )
        if rows and len(found[name]) != len(found[rows]):
            raise InputError(
                f"{path}: {name}: got {len(found[name])} rows; expected the {len(found[rows])} of {rows}; put a sound copy there"
            )
    return found


def shrunk(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Square images made smaller by a whole factor, the rounded mean of each block: [N, H, H, ...] -> [N, side, side, ...]."""
    old = images.shape[1]
    if old == side:
        return images
    step = old // side
    shape = (len(images), side, step, side, step, *images.shape[3:])
    total = images.reshape(shape).sum((2, 4), dtype=np.uint32)
    made: NDArray[np.uint8] = ((2 * total + step * step) // (2 * step * step)).astype(np.uint8)
    return made


def check_side(name: str, side: object, whole: int) -> None:
    """Raises InputError unless images of ``whole`` pixels can be made ``side`` pixels wide by a whole factor, 8 at least."""
    if not isinstance(side, int) or isinstance(side, bool) or side < 8 or whole % side:
        fit = [size for size in range(8, whole + 1) if whole % size == 0]
        raise InputError(
            f"{name}: got side={side!r}; expected one of {', '.join(map(str, fit))}, which divide {whole}; choose one"
        )

"""Large arrays: composed once, then mapped into memory from one file each."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polyvae.data.sets.seal import check_seal, seal
from polyvae.utils.files import StorageError
from polyvae.utils.partial import claimed_folder, sweep

log = logging.getLogger(__name__)

Bytes = NDArray[np.uint8]


def mapped(
    folder: Path | None, shapes: Mapping[str, tuple[int, ...]], fill: Callable[[Mapping[str, Bytes]], None]
) -> dict[str, Bytes]:
    """Byte arrays of these shapes, which ``fill`` writes into arrays of zeros.

    They are kept as ``folder``/<name>.npy and mapped copy-on-write: changes of an array do not reach its file. A folder that is
    incomplete, or whose files are not those that were written, is written again; it appears at once with all its files. Where it cannot
    be written, or is None, the arrays stay in memory. What killed processes left beside it is removed.
    """
    if folder is None:
        return _in_memory(shapes, fill)
    sweep(folder.parent)
    known = _open(folder, shapes)
    if known is not None:
        return known
    try:
        with claimed_folder(folder) as part:
            if shutil.disk_usage(part).free < sum(map(math.prod, shapes.values())):
                raise OSError(
                    errno.ENOSPC, os.strerror(errno.ENOSPC)
                )  # writing to a mapped file on a full disk ends the process
            files = {
                name: np.lib.format.open_memmap(part / f"{name}.npy", "w+", np.uint8, shape)
                for name, shape in shapes.items()
            }
            fill(files)
            for file in files.values():
                file.flush()
            del files, file
            seal(part)
            if os.path.lexists(folder):
                shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process was first: its files are as good
                part.rename(folder)
        known = _open(folder, shapes)
    except (OSError, StorageError) as problem:
        log.info("not cached at %s (%s)", folder, problem)
    return _in_memory(shapes, fill) if known is None else known


def _in_memory(
    shapes: Mapping[str, tuple[int, ...]], fill: Callable[[Mapping[str, Bytes]], None]
) -> dict[str, Bytes]:
    arrays: dict[str, Bytes] = {name: np.zeros(shape, np.uint8) for name, shape in shapes.items()}
    fill(arrays)
    return arrays


def _open(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Bytes] | None:
    if not folder.is_dir():
        return None
    try:
        arrays: dict[str, Bytes] = {}
        check_seal(folder, [f"{name}.npy" for name in shapes])
        for name, shape in shapes.items():
            # Not numpy.load, which opens other kinds of files, too.
            arrays[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "c")
            if arrays[name].shape != shape or arrays[name].dtype != np.uint8:
                raise ValueError(f"{name}.npy contains {arrays[name].dtype} {arrays[name].shape}")
        return arrays
    except (OSError, ValueError, EOFError) as problem:
        log.info("%s cannot be used and is written again (%s)", folder, " ".join(str(problem).split()))
        return None

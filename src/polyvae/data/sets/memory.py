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

log = logging.getLogger(__name__)

Bytes = NDArray[np.uint8]


def mapped(
    folder: Path | None, shapes: Mapping[str, tuple[int, ...]], fill: Callable[[Mapping[str, Bytes]], None]
) -> dict[str, Bytes]:
    """Byte arrays of these shapes, which ``fill`` writes into arrays of zeros.

    They are kept as ``folder``/<name>.npy and mapped copy-on-write: changes of an array do not reach its file. An incomplete folder
    is written again; it appears at once with all its files. Where it cannot be written, or is None, the
    arrays stay in memory.
    """
    if folder is None:
        return _in_memory(shapes, fill)
    known = _open(folder, shapes)
    if known is not None:
        return known
    part, spoilt = folder.with_name(f"{folder.name}.{os.getpid()}"), folder.exists()
    try:
        part.mkdir(parents=True)
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
        if spoilt:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was first: its files are as good
            part.rename(folder)
        known = _open(folder, shapes)
    except OSError as problem:
        log.info("not cached at %s (%s)", folder, problem)
    finally:
        shutil.rmtree(part, ignore_errors=True)
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
        arrays: dict[str, Bytes] = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in shapes}
        for name, shape in shapes.items():
            if arrays[name].shape != shape or arrays[name].dtype != np.uint8:
                raise ValueError(f"{name}.npy contains {arrays[name].dtype} {arrays[name].shape}")
        return arrays
    except (OSError, ValueError, EOFError) as problem:
        log.info("%s cannot be used and is written again (%s)", folder, " ".join(str(problem).split()))
        return None

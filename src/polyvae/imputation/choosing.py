"""Which samples an estimator is trained on, and whether they fit into memory."""

from __future__ import annotations

import bisect
import hashlib
import math
import os
import warnings

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import text_of
from polyvae.data.multimodal import MultimodalData
from polyvae.imputation.methods.wide import WIDE
from polyvae.utils.errors import InputError
from polyvae.utils.seeds import fold_in

BYTES = 10
"""Bytes that ``fit`` takes for each value of a dense table: a standardised copy, which entries were observed, and parts of both."""
LIBRARIES = 100 * 10**6
"""Bytes that the libraries and the members take, whatever the data (measured: 100 MB for 100 samples)."""
METHODS = 100 * 10**3
"""Bytes that the simple methods take for each sample, up to ``MOST`` of them (measured: 428 MB in all for 2,000 samples)."""
MOST = 8000

_GIB = 2**30


def chosen_rows(data: MultimodalData, most: int | None, seed: int) -> NDArray[np.intp] | None:
    """The samples that are trained on: those of which something was observed, at most ``most`` of them; None: all.

    Args:
        data: The data.
        most: The largest number; None: no limit.
        seed: Of the choice.

    Raises:
        InputError: Fewer than 2 samples of which something was observed.
    """
    observed = data.mask.any(0).cpu().numpy()
    rows = np.flatnonzero(observed)
    lacking = len(data) - len(rows)
    if len(rows) < 2:
        raise InputError(
            f"fit: got {len(rows)} samples of which something was observed; expected at least 2; add samples"
        )
    if lacking:
        warnings.warn(
            f"fit: {lacking} of {len(data)} samples have no observed entry; they are left out", stacklevel=4
        )
    if most is None or len(rows) <= most:
        return rows if lacking else None
    if data.ids is None:
        order = np.random.default_rng(fold_in(seed, "training samples")).permutation(len(rows))
    else:
        key = str(fold_in(seed, "training samples")).encode()[:64]
        digests = [
            hashlib.blake2b(text_of(data.ids[row]).encode(), digest_size=16, key=key).digest() for row in rows
        ]
        order = np.array(sorted(range(len(rows)), key=digests.__getitem__), np.intp)
    return np.sort(rows[order[:most]])


def check_memory(data: MultimodalData) -> None:
    """Raises InputError where data that stay in files need more memory to train on than the machine has free."""
    stays = [name for name, one in data.kept.items() if not (one.sparse and _columns(data, name) > WIDE)]
    width, free = sum(_columns(data, name) for name in stays), free_memory()
    if stays and free is not None and needed(len(data), width) > free:
        fewer = bisect.bisect_right(range(len(data)), free, key=lambda count: needed(count, width)) // 2
        remedy = f"train on fewer with max_samples={fewer}" if fewer > 1 else "free some memory"
        raise InputError(
            f"fit: got {len(data):,} samples of {', '.join(map(repr, stays))} in files, which take about "
            f"{needed(len(data), width) / _GIB:.1f} GiB of memory to train on; expected at most the {free / _GIB:.1f} GiB that are free; "
            f"{remedy}"
        )


def needed(count: int, width: int) -> int:
    """The bytes of memory that ``fit`` takes beside the data: libraries, simple methods, and the values of dense tables.

    Args:
        count: The number of samples.
        width: The number of columns of tables that stay in files.
    """
    return LIBRARIES + METHODS * min(count, MOST) + BYTES * count * width


def _columns(data: MultimodalData, name: str) -> int:
    return math.prod(data.observed(name).shape[1:])


def free_memory() -> int | None:
    """The bytes of memory that the machine has free; None: the system does not state it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None

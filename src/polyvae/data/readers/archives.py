"""Arrays in files: npy and npz."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polyvae.data.readers.arrays import array_part
from polyvae.data.readers.asking import Nan, check_file
from polyvae.data.readers.endings import ending
from polyvae.data.readers.layout import COLUMNS, IDS, LABELS
from polyvae.data.readers.parts import Part
from polyvae.utils.errors import InputError, reading


class Archive(NamedTuple):
    """The modalities in a file.

    Attributes:
        parts: Modality -> part.
        labels: Labels [n], or by id; None: there are none.
    """

    parts: dict[str, Part]
    labels: Any = None


def archive_parts(path: Path, name: str, nan: Nan) -> Archive:
    """The arrays in an npz file, of which "ids", "labels" and "NAME.columns" describe the others, or the one in an npy file.

    Rows of an npy file are read as they are needed.

    Args:
        path: The file.
        name: The name of the modality, where there is one array.
        nan: "missing", or "error".

    Raises:
        InputError: A file that is missing, or no arrays of numbers.
    """
    check_file(path)
    if ending(path) == ".npy":
        with reading(str(path), "an array of numbers as numpy.save writes it", "write it again"):
            x = np.load(path, mmap_mode="r", allow_pickle=False)
        return Archive({name: array_part(str(path), x, nan)})
    expected = "arrays of numbers or text as numpy.savez writes them"
    with reading(str(path), expected, "write it again"), np.load(path, allow_pickle=False) as file:
        stored = {key: file[key] for key in file.files}
    ids: list[Hashable] | None = stored[IDS].tolist() if IDS in stored else None
    labels = stored.get(LABELS)
    if labels is not None and ids is not None:
        labels = dict(zip(ids, labels.tolist(), strict=False))
    arrays = {key: x for key, x in stored.items() if key not in (IDS, LABELS) and not key.endswith(COLUMNS)}
    parts = {}
    for key, x in arrays.items():
        columns = stored.get(f"{key}{COLUMNS}")
        own = None if columns is None else [str(column) for column in columns]
        parts[name if len(arrays) == 1 else key] = array_part(f"{path}: {key}", x, nan, ids, own)
    if not parts:
        raise InputError(f"{path}: got no array; expected one for each modality; write it with numpy.savez")
    return Archive(parts, labels)


def added(parts: dict[str, Part], path: Path, found: Archive) -> None:
    """Add the modalities of a file to those of others. Raises InputError: two of the same name."""
    for name, part in found.parts.items():
        if name in parts:
            raise InputError(f"{path}: got a second modality {name!r}; expected distinct names; rename it")
        parts[name] = part

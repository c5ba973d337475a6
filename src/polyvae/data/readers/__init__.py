"""Readers: data frames, arrays, files, AnnData and MuData as MultimodalData, and back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.arrays import from_arrays
from polyvae.data.readers.frames import from_frames, is_frame
from polyvae.data.readers.layout import ArrayLayout, DataLayout, Layout
from polyvae.data.readers.parts import Nan
from polyvae.utils.errors import InputError

__all__ = ["Given", "Layout", "read"]

TABLE = "table"
"""The name of the modality where one table came in without a name."""


class Given(NamedTuple):
    """Data, and the container in which they came in."""

    data: MultimodalData
    layout: Layout


def read(x: Any, *, id: Any = None, nan: Nan = "missing", labels: Any = None, overlap: bool = True) -> Given:
    """Read data of any supported kind.

    Args:
        x: A mapping from names to data frames, arrays or paths; one data frame or array [N, F] (modality "table"); AnnData, MuData or
            MultimodalData; a path, or a list of paths (the stem of a file names its modality).
        id: The column with the ids of samples; False: row i is the same sample in every table.
        nan: "missing": NaN and null mark missing entries; "error": they are an error.
        labels: See ``MultimodalData.from_frames``.
        overlap: Whether some sample must have two modalities, where there are two or more.

    Raises:
        InputError: Data of another kind, or what the readers of this kind refuse.
    """
    with warnings.catch_warnings():
        # A Schema standardises in float64, so that nothing is lost.
        warnings.filterwarnings("ignore", message="modality .* loses its variance in float32")
        return _read(x, id, nan, labels, overlap)


def _read(x: Any, id: Any, nan: Nan, labels: Any, overlap: bool) -> Given:
    if isinstance(x, MultimodalData):
        return Given(x, DataLayout(x))
    if is_frame(x):
        return Given(*from_frames({TABLE: x}, id=id, nan=nan, labels=labels, overlap=overlap, single=True))
    if isinstance(x, Mapping) and x:
        framed = [is_frame(value) for value in x.values()]
        if all(framed):
            return Given(*from_frames(x, id=id, nan=nan, labels=labels, overlap=overlap))
        if any(framed):
            names = [name for name, is_one in zip(x, framed, strict=True) if not is_one]
            raise InputError(
                f"data: got data frames, and {', '.join(map(repr, names))} of another kind; expected one kind; convert all to data frames"
            )
        return Given(*from_arrays(x, nan=nan, labels=labels, overlap=overlap))
    if isinstance(x, np.ndarray | list):
        data, layout = from_arrays({TABLE: x}, nan=nan, labels=labels)
        return Given(data, ArrayLayout(True, None, layout.shapes))
    raise InputError(
        f"data: got {type(x).__name__}; expected data frames, arrays, AnnData, MuData, MultimodalData or paths of files, or a mapping from "
        "names to them; convert it first"
    )

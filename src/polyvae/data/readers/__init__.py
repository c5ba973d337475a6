"""Readers: data frames, arrays, files, AnnData and MuData as MultimodalData, and back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.arrays import from_arrays
from polyvae.data.readers.asking import Nan, check_file
from polyvae.data.readers.classes import Ask
from polyvae.data.readers.endings import INPUTS as TABLES
from polyvae.data.readers.endings import ending, unknown_ending
from polyvae.data.readers.frames import from_frames
from polyvae.data.readers.layout import ArrayLayout, DataLayout, Layout
from polyvae.data.readers.omics import from_anndata, from_mudata, is_anndata, is_mudata
from polyvae.data.readers.opening import OMICS, is_frame, open_file
from polyvae.data.readers.together import from_paths, from_together
from polyvae.utils.errors import InputError

__all__ = ["Given", "Layout", "read"]

TABLE = "table"
"""The name of the modality where one table came in without a name."""


@runtime_checkable
class SupportsArray(Protocol):
    """What NumPy converts by a method of the object."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        """The values."""


class Given(NamedTuple):
    """Data, and the container in which they came in."""

    data: MultimodalData
    layout: Layout


def read(
    x: Any,
    *,
    id: Any = None,
    nan: Nan = "missing",
    labels: Any = None,
    overlap: bool = True,
    covariates: Any = None,
    asked: Ask | None = None,
) -> Given:
    """Read data of any supported kind.

    Args:
        x: A mapping from names to data frames, arrays, AnnData or paths; one data frame or array [N, F] (modality "table"); AnnData, MuData
            or MultimodalData; a path, or a list of paths (the stem of a file names its modality).
        id: The column with the ids of samples; False: row i is the same sample in every table.
        nan: "missing": NaN and null mark missing entries; "error": they are an error.
        labels: See ``MultimodalData.from_frames``.
        overlap: Whether some sample must have two modalities, where there are two or more.
        covariates: See ``MultimodalData.from_frames``; not for MultimodalData, which have their own.
        asked: What is known of the columns of each modality; None: nothing.

    Raises:
        InputError: Data of another kind, or what the readers of this kind refuse.
    """
    with warnings.catch_warnings():
        # A Schema standardises in float64, so that nothing is lost.
        warnings.filterwarnings("ignore", message="modality .* loses its variance in float32")
        return _read(x, id, nan, labels, overlap, covariates, asked)


def _read(
    x: Any, id: Any, nan: Nan, labels: Any, overlap: bool, covariates: Any = None, asked: Ask | None = None
) -> Given:
    plain: dict[str, Any] = {"nan": nan, "labels": labels, "overlap": overlap}
    plain |= {} if covariates is None else {"covariates": covariates}
    common = {**plain, "asked": asked}
    if isinstance(x, MultimodalData):
        return Given(x, DataLayout(x))
    if is_anndata(x):
        return Given(*from_anndata(x, **common))
    if is_mudata(x):
        return Given(*from_mudata(x, **plain))
    if is_frame(x):
        return Given(*from_frames({TABLE: x}, id=id, single=True, **common))
    if isinstance(x, str | os.PathLike):
        return _file(Path(x), id, common)
    if isinstance(x, Mapping) and x:
        return _mapping(x, id, common)
    if isinstance(x, list | tuple) and x and all(isinstance(each, str | os.PathLike) for each in x):
        return _file(Path(x[0]), id, common) if len(x) == 1 else Given(*from_paths(x, id=id, **common))
    if isinstance(x, list | tuple) and any(_is_table(each) for each in x):
        raise InputError(
            f"data: got a {type(x).__name__} of tables; expected a mapping from names of modalities to tables, or one table; such as "
            "{'rna': table, 'protein': other}"
        )
    if isinstance(x, np.ndarray | torch.Tensor | list):
        data, layout = from_arrays({TABLE: x}, **plain)
        return Given(data, ArrayLayout(True, None, layout.shapes))
    if isinstance(x, SupportsArray) and np.asarray(x).ndim > 0:
        return _read(np.asarray(x), id, nan, labels, overlap, covariates, asked)
    raise InputError(
        f"data: got {type(x).__name__}; expected data frames, arrays, AnnData, MuData, MultimodalData or paths of files, or a mapping from "
        "names to them; convert it first"
    )


def _is_table(x: Any) -> bool:
    """Whether an element of a list is data of its own rather than a row."""
    return is_anndata(x) or is_frame(x) or (isinstance(x, np.ndarray | torch.Tensor) and x.ndim > 1)


def _mapping(x: Mapping[str, Any], id: Any, common: dict[str, Any]) -> Given:
    kinds = {_kind(value) for value in x.values()}
    if kinds == {"path"}:
        return Given(*from_paths(x, id=id, **common))
    if kinds == {"data frame"}:
        return Given(*from_frames(x, id=id, **common))
    if kinds != {"array"}:
        return Given(*from_together(x, id=id, **common))
    common.pop("asked")
    return Given(*from_arrays(x, **common))


def _kind(x: Any) -> str:
    if isinstance(x, str | os.PathLike):
        return "path"
    if is_anndata(x):
        return "AnnData"
    return "data frame" if is_frame(x) else "array"


def _file(path: Path, id: Any, common: dict[str, Any]) -> Given:
    kind = ending(path)
    if kind == ".h5ad":
        return Given(*from_anndata(open_file(path), **common))
    if kind == ".h5mu":
        return Given(
            *from_mudata(open_file(path), **{key: each for key, each in common.items() if key != "asked"})
        )
    if kind not in TABLES:
        check_file(path)
        raise unknown_ending(path, (*TABLES, *OMICS))
    return Given(*from_paths(path, id=id, **common))

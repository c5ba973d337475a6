"""Results of all samples that are put together batch by batch: in memory, or in files that never are in memory as a whole."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.data.groups import Columns
from polyvae.data.readers.endings import PARQUET, TEXT, ending
from polyvae.data.readers.writing import written_table
from polyvae.utils.errors import InputError
from polyvae.utils.files import atomic, unwritten
from polyvae.utils.partial import claimed_folder
from polyvae.utils.text import named

Put = Callable[[str, int, Tensor], None]
"""Puts the results of a batch, [n, *shape] or [K, n, *shape], where its first sample is in the whole."""
Arrays = AbstractContextManager[tuple[Put, Any]]
Shapes = Mapping[str, tuple[int, ...]]
_TABLES = (*TEXT, *PARQUET)


@contextmanager
def in_memory(K: int | None, count: int) -> Iterator[tuple[Put, dict[str, Tensor]]]:
    """Tensors [N, *shape], or [K, N, *shape], which are filled."""
    whole: dict[str, Tensor] = {}

    def put(name: str, start: int, x: Tensor) -> None:
        shape = (count, *x.shape[1:]) if K is None else (K, count, *x.shape[2:])
        into = whole.setdefault(name, torch.empty(shape, dtype=x.dtype))
        rows = slice(start, start + x.shape[0 if K is None else 1])
        into[rows if K is None else (slice(None), rows)] = x

    yield put, whole


def on_disk(
    what: str,
    out: Path,
    shapes: Shapes,
    K: int | None,
    count: int,
    ids: Sequence[Any] | None,
    columns: Mapping[str, Sequence[str]],
) -> Arrays:
    """Files with the results.

    Args:
        what: Subject of errors.
        out: NAME.npy, NAME.csv, NAME.tsv or NAME.parquet for one array; NAME.zarr, or a folder of npy files.
        shapes: Name -> shape of one result.
        K: Draws per sample; None: there is no axis of draws.
        count: N.
        ids: Names of samples; None: their numbers.
        columns: Name -> names of features, for tables.

    Raises:
        InputError: Several arrays for one file, an array of several axes for a table, another ending, a folder with other files, or a
            package that is not installed.
    """
    kind = ending(out)
    if kind in (".npy", *_TABLES) and len(shapes) > 1:
        raise InputError(
            f"{what}: got {out} for {len(shapes)} modalities ({', '.join(shapes)}); expected a folder or NAME.zarr; choose one, "
            "or one target"
        )
    if kind in _TABLES:
        ((name, shape),) = shapes.items()
        if len(shape) != 1:
            raise InputError(
                f"{what}: got {out} for {name!r} of shape {shape}; expected a modality of one axis; write .npy or .zarr"
            )
        if kind in PARQUET and importlib.util.find_spec("pyarrow") is None:
            raise InputError(
                f"{what}: {out} needs pyarrow, which is not installed; expected it; pip install pyarrow"
            )
        names = columns.get(name) or [f"{name}_{at}" for at in range(shape[0])]
        header = ["id", *(["draw"] if K is not None and K > 1 else []), *map(str, names)]
        if twice := [column for column, times in Counter(header).items() if times > 1]:
            raise InputError(
                f"{what}: got columns of the name {named(twice)} more than once in {out}; expected distinct ones; write .npy or .zarr"
            )
        return _table(out, list(names), K, ids)
    if kind == ".npy":
        return _npy(out, K, count)
    if kind == ".zarr" and importlib.util.find_spec("zarr") is None:
        raise InputError(f"{what}: {out} needs zarr, which is not installed; expected it; pip install zarr")
    if kind not in (".zarr", ""):
        raise InputError(
            f"{what}: got out={str(out)!r}; expected .npy, .csv, .tsv, .parquet, .zarr or a folder; rename it"
        )
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{what}: {out} exists and is not empty; expected a new folder; choose another name")
    return _folder(out, list(shapes), K, count, zarr=kind == ".zarr")


@contextmanager
def _table(
    out: Path, columns: list[str], K: int | None, ids: Sequence[Any] | None
) -> Iterator[tuple[Put, Path]]:
    """A row for each sample, or for each sample and draw, with the number of the draw."""
    several = K is not None and K > 1
    with written_table(out, ["draw", *columns] if several else columns, "id") as write:

        def put(name: str, start: int, x: Tensor) -> None:
            values = x.numpy()[None] if K is None else x.numpy()
            own = (
                range(start, start + values.shape[1]) if ids is None else ids[start : start + values.shape[1]]
            )
            if not several:
                return write(values[0], list(own))
            draws = np.tile(np.arange(len(values)), values.shape[1])
            rows = values.swapaxes(0, 1).reshape(-1, values.shape[2])
            return write(Columns([draws, *rows.T]), [each for each in own for _ in range(len(values))])

        yield put, out


@contextmanager
def _npy(out: Path, K: int | None, count: int) -> Iterator[tuple[Put, Path]]:
    with atomic(out) as file:
        array = _Npy(file, K, count)
        yield lambda name, start, x: array.put(start, x.numpy()), out


class _Npy:
    """An array in npy format. It is written, not mapped: where a disk is full, writing to a map ends the process with a signal."""

    def __init__(self, file: BinaryIO, K: int | None, count: int) -> None:
        self.file, self.K, self.count, self.offset = file, K, count, 0

    def put(self, start: int, x: NDArray[Any]) -> None:
        if not self.offset:
            shape = (self.count, *x.shape[1:]) if self.K is None else (self.K, self.count, *x.shape[2:])
            about = {
                "descr": np.lib.format.dtype_to_descr(x.dtype),
                "fortran_order": False,
                "shape": shape,
            }
            np.lib.format.write_array_header_1_0(self.file, about)
            self.offset = self.file.tell()
        parts = x[None] if self.K is None else x
        size = math.prod(parts.shape[2:]) * x.dtype.itemsize
        for draw, part in enumerate(parts):
            self.file.seek(self.offset + (draw * self.count + start) * size)
            self.file.write(np.ascontiguousarray(part).data)


@contextmanager
def _folder(
    out: Path, names: Sequence[str], K: int | None, count: int, zarr: bool
) -> Iterator[tuple[Put, Path]]:
    """A folder of npy files, or one of zarr, that takes its name when it is finished."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with claimed_folder(out) as partial, ExitStack() as stack:
            yield (_zarr(partial, K, count) if zarr else _files(partial, names, K, count, stack)), out
            stack.close()
            if out.is_dir():
                out.rmdir()
            partial.rename(out)
    except OSError as problem:
        raise unwritten(out, problem) from None


def _files(folder: Path, names: Sequence[str], K: int | None, count: int, stack: ExitStack) -> Put:
    for name in names:
        if name != Path(name).name or name.startswith("."):
            raise InputError(
                f"modality {name!r}: got a name that no file can have; expected one; write to NAME.zarr, or one target to NAME.npy"
            )
    arrays = {}
    for name in names:
        file = stack.enter_context((folder / f"{name}.npy").open("wb"))
        arrays[name] = _Npy(file, K, count)
    return lambda name, start, x: arrays[name].put(start, x.numpy())


def _zarr(folder: Path, K: int | None, count: int) -> Put:
    import zarr

    group = zarr.open_group(str(folder), mode="w")
    arrays: dict[str, Any] = {}

    def put(name: str, start: int, x: Tensor) -> None:
        lead = () if K is None else (K,)
        axis = len(lead)
        if name not in arrays:
            arrays[name] = group.create_array(
                name,
                shape=(*lead, count, *x.shape[axis + 1 :]),
                chunks=(*(1 for _ in lead), *x.shape[axis:]),
                dtype=x.numpy().dtype,
            )
        arrays[name][(*[slice(None)] * axis, slice(start, start + x.shape[axis]))] = x.numpy()

    return put

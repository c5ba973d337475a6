"""The container in which data came in: results are returned in the same kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import PLAIN, Columns, Decoder, original
from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.endings import ending
from polyvae.utils.files import write_npz

Ids = Sequence[Hashable] | None
IDS, LABELS, COLUMNS = "ids", "labels", ".columns"
"""The names of arrays in an npz file that are no modalities; the last one follows the name of one."""


class Layout(ABC):
    """Returns results in the kind of container in which the data came in."""

    @abstractmethod
    def back(
        self,
        values: Mapping[str, NDArray[Any]],
        columns: Mapping[str, Sequence[str]],
        ids: Ids = None,
        decoder: Decoder = PLAIN,
    ) -> Any:
        """Modalities in the container of the data.

        Columns have the order in which they came in, and follow in the order of ``columns`` where they did not.

        Args:
            values: Modality -> [N, F], or [N, *shape], for all samples.
            columns: Modality -> F names of the columns of ``values``.
            ids: N ids; None: the samples have none.
            decoder: Which columns are those of classes.

        Returns:
            A container of the kind that came in.
        """

    @abstractmethod
    def embedding(self, z: NDArray[Any], ids: Ids, names: Sequence[str]) -> Any:
        """One table with a row per sample.

        Args:
            z: [N, D].
            ids: N ids; None: the samples have none.
            names: D names of columns.

        Returns:
            A table of the library of the data; for AnnData and MuData a copy with ``.obsm["X_polyvae"]``.
        """

    @abstractmethod
    def prediction(self, values: NDArray[Any], ids: Ids, names: Sequence[str]) -> Any:
        """Predictions for each sample.

        Args:
            values: [N], or [N, C].
            ids: N ids; None: the samples have none.
            names: One name, or C names.

        Returns:
            Of arrays and MultimodalData the values; of data frames a table of their library; of AnnData and MuData a copy with columns of
            ``.obs``.
        """

    @abstractmethod
    def save(
        self,
        out: Path,
        values: Mapping[str, NDArray[Any]],
        columns: Mapping[str, Sequence[str]],
        ids: Ids = None,
        decoder: Decoder = PLAIN,
    ) -> list[Path]:
        """Write what ``back`` returns to files, and return their paths.

        Args:
            out: A file, whose ending gives the format; for tables of several modalities a folder, with a file for each.
            values: See ``back``.
            columns: See ``back``.
            ids: See ``back``.
            decoder: See ``back``.
        """

    @abstractmethod
    def save_embedding(self, out: Path, z: NDArray[Any], ids: Ids, names: Sequence[str]) -> Path:
        """Write what ``embedding`` returns to a file, whose ending gives the format."""


def archive(
    values: Mapping[str, NDArray[Any]], columns: Mapping[str, Sequence[str]], ids: Ids
) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file: the modalities, "NAME.columns" and "ids"."""
    arrays = {name: np.asarray(x) for name, x in values.items()}
    arrays |= {f"{name}{COLUMNS}": np.asarray(list(own), dtype=str) for name, own in columns.items()}
    return arrays if ids is None else {**arrays, IDS: np.asarray([str(value) for value in ids])}


def ordered(came: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Positions in ``columns``: first the columns that came in, in their order, then the others."""
    place = {name: at for at, name in enumerate(columns)}
    first = [place[name] for name in came if name in place]
    return [*first, *sorted(set(place.values()) - set(first))]


class _Archives(Layout):
    """Layouts whose results are arrays, and are written to an npz file."""

    def embedding(self, z: NDArray[Any], ids: Ids, names: Sequence[str]) -> Any:
        return np.asarray(z)

    def prediction(self, values: NDArray[Any], ids: Ids, names: Sequence[str]) -> Any:
        return values

    def save(
        self,
        out: Path,
        values: Mapping[str, NDArray[Any]],
        columns: Mapping[str, Sequence[str]],
        ids: Ids = None,
        decoder: Decoder = PLAIN,
    ) -> list[Path]:
        write_npz(out, archive(values, columns, ids))
        return [out]

    def save_embedding(self, out: Path, z: NDArray[Any], ids: Ids, names: Sequence[str]) -> Path:
        from polyvae.data.readers.writing import write_table  # which imports this module

        if ending(out) == ".npz":
            write_npz(out, archive({"z": z}, {"z": names}, ids))
        else:
            write_table(out, np.asarray(z), names, ids)
        return out


class ArrayLayout(_Archives):
    """NumPy arrays: a mapping of them, or one array.

    Args:
        single: Whether one array came in rather than a mapping.
        came: Modality -> names of its columns, where they have names.
        shapes: Modality -> shape of one sample.
    """

    def __init__(
        self,
        single: bool,
        came: Mapping[str, Sequence[str]] | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.single, self.came, self.shapes = single, dict(came or {}), dict(shapes or {})

    def back(
        self,
        values: Mapping[str, NDArray[Any]],
        columns: Mapping[str, Sequence[str]],
        ids: Ids = None,
        decoder: Decoder = PLAIN,
    ) -> Any:
        arrays = {}
        cells, columns = decoder.tables(values, columns)
        for name, found in cells.items():
            x = found.array() if isinstance(found, Columns) else np.asarray(found)
            if name in self.came:
                x = x[:, ordered(self.came[name], columns[name])]
            elif name in self.shapes and x[:1].size == int(np.prod(self.shapes[name])):
                x = x.reshape(len(x), *self.shapes[name])
            arrays[name] = x
        return next(iter(arrays.values())) if self.single and len(arrays) == 1 else arrays


class DataLayout(_Archives):
    """MultimodalData. Labels, attributes, groups, splits, card and seed are kept; results are in the units that ``values`` returns.

    Args:
        data: What came in.
    """

    def __init__(self, data: MultimodalData) -> None:
        self.data = data

    def back(
        self,
        values: Mapping[str, NDArray[Any]],
        columns: Mapping[str, Sequence[str]],
        ids: Ids = None,
        decoder: Decoder = PLAIN,
    ) -> Any:
        data = self.data
        shapes = {spec.name: spec.shape for spec in data.modalities()}
        plain, names = dict[str, NDArray[Any]](), dict[str, list[str]]()
        for name, x in values.items():
            if x.ndim != 2 or not (name in data.columns or name not in shapes):
                plain |= ArrayLayout(False, None, shapes).back({name: x}, columns)
                continue
            came = original(data.columns.get(name, ()), data.levels.get(name, {}))
            order = ordered(came, decoder.columns(name, columns[name]))
            places = decoder.places(name, columns[name], order)
            plain[name], names[name] = x[:, places], [columns[name][at] for at in places]
        return MultimodalData(
            plain,
            labels=data.labels,
            ids=ids,
            groups=data.groups,
            splits=data._splits or None,
            card=data.card,
            seed=data.seed,
            columns=names or None,
            covariates=data.covariates or None,
            levels={
                name: {group.name: tuple(group.levels) for group in own}
                for name, own in decoder.groups.items()
                if own and name in names
            },
            attributes=data.attributes,
            classes=data.classes,
            said={name: own for name, own in data.said.items() if name in plain},
            parsers={name: parser for name, parser in data.parsers.items() if name in plain},
        )

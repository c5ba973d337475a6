"""Modalities of different kinds as one data set: AnnData, data frames, arrays and files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import narwhals as nw
from numpy.typing import NDArray

from polyvae.core.batch import check_mapping
from polyvae.data.groups import PLAIN, Decoder, text_of
from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.archives import Archive, added, archive_parts
from polyvae.data.readers.arrays import array_part
from polyvae.data.readers.asking import Nan, check_id, check_nan
from polyvae.data.readers.classes import Ask, Asked, setting_aside
from polyvae.data.readers.covariates import cells_of, check_there, merged, names_of
from polyvae.data.readers.endings import ARRAYS, INPUTS, TEXT, ending, unknown_ending
from polyvae.data.readers.frames import Form, FrameLayout, by_index, frame_part, is_numbered
from polyvae.data.readers.layout import ArrayLayout, Ids, Layout
from polyvae.data.readers.omics import adata_part, is_anndata, is_mudata
from polyvae.data.readers.opening import is_frame, open_file, opened
from polyvae.data.readers.parts import Part, joined
from polyvae.data.readers.tables import FileLayout, Paths, from_tables, library, listed, table_form
from polyvae.data.regroup import asked_for, with_kinds
from polyvae.data.sentences import Sentences
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.text import counted, named


def join(
    data: Mapping[str, Any],
    *,
    ids: Mapping[str, Sequence[Hashable]] | Sequence[Hashable] | None = None,
    id: str | Literal[False] | None = None,
    layer: Mapping[str, str] | None = None,
    nan: Literal["error", "missing"] = "error",
    labels: Any = None,
    overlap: bool = True,
    kinds: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> MultimodalData:
    """Join AnnData, data frames, arrays and files on the ids of samples.

    Rows of AnnData are named by ``obs_names``, and those of data frames by their index or the column ``id``. Arrays, and data frames
    without an index of their own, have no names unless ``ids`` gives some: they need as many rows as a modality with ids, are in its
    order, and a warning states that.

    Args:
        data: Modality -> AnnData, of which X is read; a data frame that narwhals reads; an array [n, *shape]; or the path of a csv, tsv,
            parquet, npy, npz or .h5ad file.
        ids: Modality -> n names of its rows, for arrays; or names for all arrays.
        id: The column of data frames and tables with the ids. None: the index of pandas, and the first column of files. False: data
            frames and tables have none.
        layer: Modality -> layer of its AnnData to read in place of X.
        nan: "error", or "missing" where NaN and null mark entries that were not measured.
        labels: A column of the frames or of obs, a mapping from ids to classes, or a sequence [N]; see ``MultimodalData.from_frames``.
        overlap: Whether some sample must have two modalities, where there are two or more.
        kinds: See ``MultimodalData.from_frames``.
        **settings: Further arguments of MultimodalData: modalities, groups, splits, card, seed, covariates.

    Returns:
        The data. Samples are in the order of first appearance.

    Warns:
        UserWarning: Rows that are paired by order; ids that differ in their spelling alone, or are numbered from another start.

    Raises:
        InputError: Another number of rows without ids, repeated ids, no ids in common, or what the readers of each kind refuse.

    Example:
        >>> import numpy as np
        >>> import pandas as pd
        >>> import polyvae as pv
        >>> rna = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}, index=["s1", "s2"])
        >>> data = pv.data.join({"rna": rna, "scan": np.zeros((2, 1, 8, 8))}, ids={"scan": ["s2", "s3"]})
        >>> data.ids, data.mask.tolist()
        (['s1', 's2', 's3'], [[True, True, False], [False, True, True]])
    """
    asked = asked_for(kinds)
    found, _ = from_together(
        data, ids=ids, id=id, layer=layer, nan=nan, labels=labels, overlap=overlap, asked=asked, **settings
    )
    return with_kinds(found, kinds)


def from_paths(
    paths: Paths, **given: Any
) -> tuple[MultimodalData, FileLayout | ArrayLayout | TogetherLayout]:
    """See ``MultimodalData.from_csv``; also the layout."""
    files = listed(paths)
    found = {ending(path) for path in files.values()}
    if found == {".npz"} or not found & {".npy", ".npz", ".h5ad"}:
        return from_tables(paths, **given)
    return from_together(files, **given)


def from_together(
    data: Mapping[str, Any],
    *,
    ids: Mapping[str, Sequence[Hashable]] | Sequence[Hashable] | None = None,
    id: Any = None,
    layer: Mapping[str, str] | None = None,
    nan: Nan = "error",
    labels: Any = None,
    overlap: bool = True,
    asked: Ask | None = None,
    **settings: Any,
) -> tuple[MultimodalData, TogetherLayout]:
    """See ``join``; also the layout. ``asked``: what is known of the columns of each table."""
    check_nan(nan)
    check_id(id)
    check_mapping("join", data)
    for what, named_by in {"ids": ids, "layer": layer}.items():
        for name in named_by if isinstance(named_by, Mapping) else ():
            if name not in data:
                raise InputError(f"{what}: modality {name!r} is not in the data; {nearest(str(name), data)}")
    label = labels if isinstance(labels, str) else None
    names = names_of(settings.get("covariates"))
    ask, known = setting_aside(asked, names), list[str]()
    parts, forms, stored = dict[str, Part](), dict[str, Form](), None
    for name, x in data.items():
        given = ids.get(name) if isinstance(ids, Mapping) else ids
        found = _read(name, x, given, id, (layer or {}).get(name), nan, label, ask(name), known)
        if isinstance(found, Archive):
            added(parts, Path(str(name)), found)
            stored = stored if found.labels is None else found.labels
        else:
            added(parts, Path(str(name)), Archive({name: found[0]}))
            forms[name] = found[1]
    if label is not None and all(part.labels is None for part in parts.values()):
        known = [column for part in parts.values() for column in part.columns or ()]
        raise InputError(f"labels: no table has a column {label!r}; {nearest(label, known)}")
    parts = with_ids(parts)
    files = {name: Path(x) for name, x in data.items() if isinstance(x, str | os.PathLike)}
    if names is not None:
        check_there(names, known)
        settings["covariates"] = merged(parts, {name for name, path in files.items() if ending(path) in TEXT})
    result = joined(
        parts,
        labels=stored if labels is None else None if label is not None else by_index(labels),
        overlap=overlap,
        **settings,
    )
    shapes = {name: part.values.shape[1:] for name, part in parts.items() if name not in forms}
    arrays = ArrayLayout(False, {name: own for name, own in result.columns.items() if name in shapes}, shapes)
    forms = {name: form for name, form in forms.items() if name in result.names}
    return result, TogetherLayout(FrameLayout(forms, False) if forms else None, arrays, files)


def _read(
    name: str,
    x: Any,
    ids: Sequence[Hashable] | None,
    id: Any,
    layer: str | None,
    nan: Nan,
    label: str | None,
    asked: Asked,
    known: list[str],
) -> tuple[Part, Form] | Archive:
    """One modality as a part, with what is needed to return a table like it; or the arrays in a file.

    The names of its columns, of an AnnData those of obs, are appended to ``known``.
    """
    where = f"modality {name!r}"
    if isinstance(x, str | os.PathLike):
        path = Path(x)
        if ending(path) in ARRAYS:
            found = archive_parts(path, name, nan)
            return found._replace(parts={key: _named(where, part, ids) for key, part in found.parts.items()})
        if ending(path) == ".h5ad":
            return _of_anndata(where, open_file(path), layer, nan, label, asked, known)
        if ending(path) not in INPUTS:
            raise unknown_ending(path, (*INPUTS, ".h5ad"), "beside other modalities")
        part, form = table_form(path, id, nan, label, asked)
        known += [*map(str, form.labels), *part.beside]
        return part, form if form.pandas else form._replace(backend=library())
    if is_anndata(x):
        return _of_anndata(where, x, layer, nan, label, asked, known)
    if is_mudata(x) or isinstance(x, MultimodalData | Sentences):
        raise InputError(
            f"{where}: got {type(x).__name__}; expected AnnData, a data frame, an array or a path; pass the modalities of MuData one by "
            "one, and sentences, in the order of the samples, to MultimodalData"
        )
    if is_frame(x):
        frame = opened(where, x)
        numbered = id is None and is_numbered(frame)
        part, form = frame_part(where, frame, False if numbered else id, nan, label, asked)
        form = form._replace(index=None) if numbered else form
        known += [*map(str, form.labels), *part.beside]
        return _named(where, part, ids), form
    return Archive({name: array_part(where, x, nan, ids)})


def _of_anndata(
    where: str, adata: Any, layer: str | None, nan: Nan, label: str | None, asked: Asked, known: list[str]
) -> tuple[Part, Form]:
    part = adata_part(where, adata, layer, nan)
    known += map(str, adata.obs.columns)
    here = [name for name in asked.aside if name in adata.obs.columns]
    cells = {name: cells_of(nw.from_native(adata.obs[name], series_only=True)) for name in here}
    part = part._replace(beside=cells)
    if label is not None and label in adata.obs.columns:
        part = part._replace(labels=adata.obs[label].tolist())
    return part, Form(tuple(adata.var_names), True, None, None, 0, adata.obs_names)


def _named(where: str, part: Part, ids: Sequence[Hashable] | None) -> Part:
    """The part with these ids, where it has none. Raises InputError: another number of ids."""
    if ids is None or part.ids is not None:
        return part
    if len(ids) != part.values.shape[0]:
        raise InputError(
            f"{where}: got {len(ids)} ids for {part.values.shape[0]} rows; expected one for each row; check which rows they belong to"
        )
    return part._replace(ids=list(ids))


def with_ids(parts: Mapping[str, Part]) -> dict[str, Part]:
    """The parts, of which those without ids have the ids of the others with as many rows, in their order.

    Args:
        parts: Modality -> part. All are as they are where none, or each, has ids.

    Warns:
        UserWarning: Which modalities are paired by order.

    Raises:
        InputError: No modality with ids has as many rows, or several have them in different orders.
    """
    orders: dict[tuple[str, ...], list[str]] = {}
    for name, part in parts.items():
        if part.ids is not None:
            orders.setdefault(tuple(map(text_of, part.ids)), []).append(name)
    without = [name for name, part in parts.items() if part.ids is None]
    if not orders or not without:
        return dict(parts)
    result, stated = dict(parts), dict[str, list[str]]()
    for name in without:
        count = parts[name].values.shape[0]
        fitting = [own for order, own in orders.items() if len(order) == count]
        if not fitting:
            known = {own[0]: len(order) for order, own in orders.items()}
            raise InputError(
                f"modality {name!r}: got {counted(count, 'row', 'rows')} without ids beside modalities with ids, of which none has as many "
                f"({', '.join(f'{key!r}: {size:,}' for key, size in known.items())}); expected as many rows in the same order, or ids; "
                "store it as .npz with an array 'ids', or join all in Python by pv.data.join(..., ids={...})"
            )
        if len(fitting) > 1:
            raise InputError(
                f"modality {name!r}: got {counted(count, 'row', 'rows')} without ids, and {named([own[0] for own in fitting])} have as "
                "many rows of different samples or in different orders; expected ids; give it some, or sort the others alike"
            )
        result[name] = parts[name]._replace(ids=parts[fitting[0][0]].ids)
        stated.setdefault(fitting[0][0], []).append(name)
    for other, own in stated.items():
        warnings.warn(
            f"data: {named(own)} {'has' if len(own) == 1 else 'have'} no ids; row i is taken to be the sample in row i of {other!r} "
            f"({counted(len(parts[other].ids or ()), 'row', 'rows')}); give ids where it is another",
            stacklevel=4,
        )
    return result


class TogetherLayout(Layout):
    """Modalities of different kinds: tables, AnnData among them, come back as data frames, and arrays as arrays.

    Args:
        tables: The tables; None: there are none.
        arrays: The arrays.
        files: Modality -> path, for those that came from files.
    """

    def __init__(self, tables: FrameLayout | None, arrays: ArrayLayout, files: Mapping[str, Path]) -> None:
        self.tables, self.arrays, self.files = tables, arrays, dict(files)

    def back(
        self,
        values: Mapping[str, NDArray[Any]],
        columns: Mapping[str, Sequence[str]],
        ids: Ids = None,
        decoder: Decoder = PLAIN,
    ) -> Any:
        apart = [name for name, x in values.items() if self.of_arrays(name, x)]
        found = self.arrays.back({name: values[name] for name in apart}, columns, ids, decoder)
        if self.tables is not None:
            rest = {name: x for name, x in values.items() if name not in apart}
            found |= (
                self.tables.back(rest, {name: columns[name] for name in rest}, ids, decoder) if rest else {}
            )
        return {name: found[name] for name in values}

    def of_arrays(self, name: str, x: NDArray[Any]) -> bool:
        """Whether a modality comes back as an array.

        Args:
            name: The modality.
            x: Its values.
        """
        return (
            self.tables is None
            or name in self.arrays.shapes
            or (x.ndim != 2 and name not in self.tables.forms)
        )

    def embedding(self, z: NDArray[Any], ids: Ids, names: Sequence[str]) -> Any:
        return (self.tables or self.arrays).embedding(z, ids, names)

    def prediction(self, values: NDArray[Any], ids: Ids, names: Sequence[str]) -> Any:
        return (self.tables or self.arrays).prediction(values, ids, names)

    def save(
        self,
        out: Path,
        values: Mapping[str, NDArray[Any]],
        columns: Mapping[str, Sequence[str]],
        ids: Ids = None,
        decoder: Decoder = PLAIN,
    ) -> list[Path]:
        return self.arrays.save(out, values, columns, ids, decoder)

    def save_embedding(self, out: Path, z: NDArray[Any], ids: Ids, names: Sequence[str]) -> Path:
        return (self.tables or self.arrays).save_embedding(out, z, ids, names)

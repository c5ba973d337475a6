"""Tables in files, by their ending: csv and tsv (also .gz), parquet, npz."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import narwhals as nw

from polyvae.data.groups import Cells
from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.archives import added, archive_parts
from polyvae.data.readers.asking import Nan, check_file, check_id, check_nan
from polyvae.data.readers.classes import Ask, Asked, setting_aside
from polyvae.data.readers.covariates import check_there, merged, names_of
from polyvae.data.readers.doubtful import is_id
from polyvae.data.readers.endings import PARQUET, TEXT, ending, stem, unknown_ending
from polyvae.data.readers.frames import Form, FrameLayout, by_index, frame_part
from polyvae.data.readers.layout import ArrayLayout, Ids
from polyvae.data.readers.opening import has_index, opened, read_parquet
from polyvae.data.readers.parts import Part, joined
from polyvae.data.readers.text import Sheets, read_sheet, read_sheets
from polyvae.data.readers.types import integers_of, pandas_table
from polyvae.utils.errors import InputError, nearest, reading

Paths = Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str]


def listed(paths: Paths) -> dict[str, Path]:
    """Modality -> path. Raises InputError: two files of the same stem, or no file."""
    if isinstance(paths, Mapping):
        return {name: Path(path) for name, path in paths.items()}
    several = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    found: dict[str, Path] = {}
    for path in several:
        if stem(path) in found:
            raise InputError(
                f"data: got {found[stem(path)]} and {path}; expected names that differ, as they name the modalities; rename one, or "
                "pass a mapping from names to paths"
            )
        found[stem(path)] = path
    if not found:
        raise InputError("data: got no file; expected one for each modality; pass paths")
    return found


def from_tables(
    paths: Paths,
    *,
    id: Any = None,
    nan: Nan = "error",
    labels: Any = None,
    overlap: bool = True,
    asked: Ask | None = None,
    **settings: Any,
) -> tuple[MultimodalData, FileLayout | ArrayLayout]:
    """See ``MultimodalData.from_csv``; also the layout. ``asked``: what is known of the columns of each table."""
    check_nan(nan)
    check_id(id)
    files, label = listed(paths), labels if isinstance(labels, str) else None
    kinds = {ending(path) for path in files.values()}
    if kinds == {".npz"}:
        return _from_npz(files, nan, labels, overlap, settings)
    parts: dict[str, Part] = {}
    forms: dict[str, Form] = {}
    names = names_of(settings.get("covariates"))
    ask = setting_aside(asked, names)
    for name, path in files.items():
        parts[name], forms[name] = table_form(path, id, nan, label, ask(name))
    if label is not None and all(part.labels is None for part in parts.values()):
        known = [column for part in parts.values() for column in part.columns or ()]
        raise InputError(f"labels: no table has a column {label!r}; {nearest(label, known)}")
    if names is not None:
        check_there(names, columns_in(parts, forms))
        settings["covariates"] = merged(parts, {name for name, path in files.items() if ending(path) in TEXT})
    data = joined(parts, labels=None if label is not None else by_index(labels), overlap=overlap, **settings)
    kept = {name: form for name, form in forms.items() if name in data.names}
    return data, FileLayout(kept, files, isinstance(paths, str | os.PathLike))


def columns_in(parts: Mapping[str, Part], forms: Mapping[str, Form]) -> list[str]:
    """The names of all columns of tables."""
    return [
        str(column)
        for name, part in parts.items()
        for column in (*(forms[name].labels if name in forms else ()), *part.beside)
    ]


class FileLayout(FrameLayout):
    """Tables in files: results are data frames of pandas, polars or pyarrow, whichever is installed first.

    Args:
        forms: Modality -> what of its table is needed.
        files: Modality -> path.
        single: Whether one path came in.
    """

    def __init__(self, forms: Mapping[str, Form], files: Mapping[str, Path], single: bool) -> None:
        super().__init__(forms, single)
        self.files = dict(files)

    def _table(self, form: Form | None, x: Cells, labels: Sequence[Any], ids: Ids) -> Any:
        form = next(iter(self.forms.values()))._replace(types={}) if form is None else form
        backend = library()
        if backend == "pandas":
            import pandas as pd

            index = pd.RangeIndex(len(x)) if ids is None else pd.Index(list(ids), name=form.id or None)
            types = form.types if form.pandas else integers_of(form.written)
            return pandas_table(x, list(labels), index, types)
        return super()._table(form._replace(backend=backend, id=form.id or "id"), x, labels, ids)

    def _ending(self, name: str) -> str:
        return ending(self.files[name]) if name in self.files else ".csv"


def table_part(path: Path, id: Any, nan: Nan, label: str | None) -> Part:
    """A table in a csv, tsv or parquet file as a part. Raises InputError: a file of another kind."""
    return table_form(path, id, nan, label, Asked())[0]


def table_form(path: Path, id: Any, nan: Nan, label: str | None, asked: Asked) -> tuple[Part, Form]:
    """A table in a csv, tsv or parquet file as a part, and what is needed to return one like it. Raises InputError: another kind."""
    kind = ending(path)
    if kind in TEXT:
        sheet = read_sheet(path, id, nan, label, asked)
        return sheet.part, Form(sheet.columns, False, None, sheet.id, sheet.place, None, {}, sheet.written)
    if kind in PARQUET:
        return _parquet(path, id, nan, label, asked)
    raise unknown_ending(path, (*TEXT, *PARQUET), "beside other tables")


def library() -> str:
    """The first of pandas, polars and pyarrow that is installed. Raises InputError: none is."""
    for name in ("pandas", "polars", "pyarrow"):
        if importlib.util.find_spec(name) is not None:
            return name
    raise InputError(
        "data: got tables from files, and no library for data frames; expected pandas, polars or pyarrow; install one of them: "
        "pip install pandas"
    )


def _parquet(path: Path, id: Any, nan: Nan, label: str | None, asked: Asked) -> tuple[Part, Form]:
    check_file(path)
    with reading(str(path), "a parquet file", "write it again"):
        frame = opened(str(path), read_parquet(path))
    return _frame(path, frame, id, nan, label, asked)


def _frame(
    path: Path, frame: nw.DataFrame[Any], id: Any, nan: Nan, label: str | None, asked: Asked
) -> tuple[Part, Form]:
    first = str(frame.columns[0]) if frame.columns else ""
    if id is None and frame.columns and not has_index(frame.to_native()):
        kind = frame[:, 0].dtype
        if not is_id(first) and kind not in (nw.String, nw.Categorical, nw.Enum, nw.Object):
            raise InputError(
                f"{path}: got numbers in the first column {first!r}; expected ids of samples there; name the id column with id=, or pass "
                "id=False where row i is the same sample in every table"
            )
        id = first
    part, form = frame_part(str(path), frame, id, nan, label, asked)
    if form.pandas and form.id is None and part.ids is not None:
        form = form._replace(id=form.index.name or "id")
    return part, form


def table_parts(
    path: Path, id: Any, nan: Nan, label: str | None, count: int, asked: Asked | None = None
) -> Sheets:
    """A table in a csv, tsv or parquet file in blocks of ``count`` rows; memory holds one of them.

    Parquet files are read in blocks where pyarrow is installed, else at once.

    Args:
        path: The file.
        id: See ``read``.
        nan: See ``read``.
        label: A column that is no feature, where the table has it.
        count: Rows of a block.
        asked: What is known of its columns, which is what makes the columns of all blocks the same where there are classes.

    Raises:
        InputError: A file of another kind, or what the readers of this kind refuse.
    """
    kind, asked = ending(path), Asked() if asked is None else asked
    if kind in TEXT:
        return read_sheets(path, id, nan, label, count, asked)
    if kind not in PARQUET or importlib.util.find_spec("pyarrow") is None:
        return _sheets(*table_form(path, id, nan, label, asked))
    check_file(path)
    frames = _frames(path, count)
    first = next(frames, None)
    if first is None:
        return _sheets(*table_form(path, id, nan, label, asked))  # which raises the error for an empty table
    rest = (_frame(path, frame, id, nan, label, asked)[0] for frame in frames)
    return _sheets(*_frame(path, first, id, nan, label, asked), rest)


def _sheets(part: Part, form: Form, rest: Iterable[Part] = ()) -> Sheets:
    header = (*map(str, form.labels), *part.beside)
    return Sheets(tuple(part.columns or ()), form.id, itertools.chain([part], rest), part.levels, header)


def _frames(path: Path, count: int) -> Iterator[nw.DataFrame[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pandas = importlib.util.find_spec("pandas") is not None
    with (
        reading(str(path), "a parquet file", "write it again"),
        pq.ParquetFile(path, pre_buffer=False) as file,
    ):
        for batch in file.iter_batches(count):
            table = pa.Table.from_batches([batch])
            yield opened(str(path), table.to_pandas() if pandas else table)


def _from_npz(
    files: Mapping[str, Path], nan: Nan, labels: Any, overlap: bool, settings: dict[str, Any]
) -> tuple[MultimodalData, ArrayLayout]:
    """Each array is a modality; "ids", "labels" and "NAME.columns" describe them. One array alone is named by its file."""
    parts: dict[str, Part] = {}
    stored: Any = None
    for name, path in files.items():
        found = archive_parts(path, name, nan)
        added(parts, path, found)
        stored = stored if found.labels is None else found.labels
    data = joined(parts, labels=stored if labels is None else by_index(labels), overlap=overlap, **settings)
    return data, ArrayLayout(
        False, data.columns, {name: part.values.shape[1:] for name, part in parts.items()}
    )

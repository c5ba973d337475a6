"""Files of completed data: a folder with a table for each modality, or one npz, .h5mu or .h5ad file."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import Cells, Columns, Decoder, Group, original, taken
from polyvae.data.readers import Given
from polyvae.data.readers.endings import ENDINGS, PARQUET, TEXT, ending
from polyvae.data.readers.frames import Form, FrameLayout
from polyvae.data.readers.layout import ArrayLayout, Ids, Layout, archive, ordered
from polyvae.data.readers.omics import AnnLayout, MuLayout
from polyvae.data.readers.opening import OMICS
from polyvae.data.readers.tables import FileLayout
from polyvae.data.readers.together import TogetherLayout
from polyvae.data.readers.types import Written
from polyvae.data.readers.writing import write_table, written_table
from polyvae.imputation.filling.fill import ENDS
from polyvae.utils.errors import InputError, nearest, reading
from polyvae.utils.files import atomic, read_bytes, unwritten, write_atomic, write_npz
from polyvae.utils.partial import claimed_folder

RECORD = "imputed.json"
"""In a folder of completed data: the names of the files that were written there."""
FORMATS = ("csv", "tsv", "parquet", "npz", "h5mu", "h5ad")


class Completed(NamedTuple):
    """Completed data and what is written beside them.

    Attributes:
        given: The data that came in, and their container.
        columns: Modality -> names of its features.
        shapes: Modality -> shape of a sample.
        groups: Modality -> its columns of classes.
        parts: Suffix -> modality -> [N, F]; the suffix is "" for the predictions, and such as ".low" for others.
    """

    given: Given
    columns: Mapping[str, Sequence[str]]
    shapes: Mapping[str, tuple[int, ...]]
    groups: Mapping[str, Sequence[Group]]
    parts: Mapping[str, Mapping[str, NDArray[Any]]]

    @property
    def ids(self) -> Ids:
        """The ids of the samples; None: they have none."""
        return self.given.data.ids

    @property
    def id_name(self) -> str:
        """The header of the column of ids."""
        return id_name(self.given)

    def decoder(self, suffix: str) -> Decoder:
        """Which columns of a part are those of classes."""
        return Decoder(self.groups, suffix in ENDS)

    def table(self, name: str, values: NDArray[Any], suffix: str) -> tuple[Cells, list[str]]:
        """Cells and names of the columns, in the order in which they came in."""
        decoder, data = self.decoder(suffix), self.given.data
        columns = decoder.columns(name, self.columns[name])
        order = ordered(original(data.columns.get(name, ()), data.levels.get(name, {})), columns)
        return taken(decoder.cells(name, values), order), [str(columns[at]) for at in order]

    def written(self, name: str) -> Mapping[str, Written]:
        """How the text file of a modality has its cells."""
        form = _forms(self.given).get(name)
        return {} if form is None else form.written


def _forms(given: Given) -> Mapping[str, Form]:
    layout = given.layout.tables if isinstance(given.layout, TogetherLayout) else given.layout
    return layout.forms if isinstance(layout, FrameLayout) else {}


def id_name(given: Given) -> str:
    """The header of the column of ids.

    Args:
        given: The data that came in.
    """
    forms = list(_forms(given).values())
    return str(forms[0].id or "id") if forms else "id"


def kind_of(out: Path, wanted: str | None) -> str:
    """The format by ``wanted`` or the ending of ``out``; "" for a folder whose format follows the data.

    Raises:
        InputError: An unknown format, or one that differs from the ending.
    """
    found = ending(out)
    known = found if found in (*ENDINGS, *OMICS) else ""
    if wanted is None:
        return known
    plain = f".{wanted.lower().lstrip('.')}"
    if plain.removeprefix(".") not in FORMATS:
        raise InputError(f"format: got {wanted!r}; {nearest(wanted, FORMATS)}")
    if known and known != plain:
        raise InputError(
            f"{out}: got format {wanted!r} for a file that ends in {known}; expected one format; leave out one"
        )
    if plain in OMICS and not known:
        raise InputError(
            f"{out}: got format {wanted!r}, one file; expected a path that ends in {plain}; add it"
        )
    return plain


def check_output(out: Path, suffixes: Sequence[str], force: bool) -> None:
    """Raises InputError where ``out`` exists and may not be replaced.

    Args:
        out: A file, or a folder.
        suffixes: Of the parts that are written; each may be a file of its own beside ``out``.
        force: Whether what polyvae wrote there before may be replaced.
    """
    if out.suffix.lower() == ".gz":
        raise InputError(
            f"{out}: got a name that ends in .gz; expected one without it; results are not compressed"
        )
    single = ending(out) in (*ENDINGS, *OMICS)
    if single and ending(out) != ".npz":
        for suffix in suffixes:
            if suffix:
                check_output(_beside(out, suffix), (), force)
    if single and out.is_dir():
        raise InputError(f"{out}: got a folder; expected a file of that name; choose another path")
    if single and out.exists() and not force:
        raise InputError(f"{out}: got an existing file; expected a new one; --force replaces it")
    if single or not os.path.lexists(out):
        return
    if not out.is_dir():
        raise InputError(
            f"{out}: got an existing file without a known ending; expected a new folder, or a file that ends in one of "
            f"{', '.join((*ENDINGS, *OMICS))}; choose another path"
        )
    if any(out.iterdir()):
        if not (out / RECORD).is_file():
            raise InputError(
                f"{out}: got a folder with files that polyvae did not write; expected a new or empty folder; choose another path"
            )
        if not force:
            raise InputError(
                f"{out}: got existing results; expected a new or empty folder; --force replaces them"
            )


def write(completed: Completed, out: Path, kind: str) -> list[Path]:
    """Write completed data.

    Args:
        completed: What to write.
        out: A file, or a folder that gets a file for each modality.
        kind: The format; "": that of the data.

    Returns:
        The paths.

    Raises:
        InputError: A format that cannot hold the data.
        StorageError: A file could not be written.
    """
    if ending(out) == ".npz":
        arrays = {
            f"{name}{suffix}": x.reshape(len(x), *completed.shapes[name])
            for suffix, part in completed.parts.items()
            for name, x in part.items()
        }
        columns = {name: own for name, own in completed.columns.items() if len(completed.shapes[name]) == 1}
        write_npz(out, archive(arrays, columns, completed.ids))
        return [out]
    if ending(out) in OMICS:
        return [
            _write_omics(completed, part, _beside(out, suffix), suffix)
            for suffix, part in completed.parts.items()
        ]
    if ending(out) in (*TEXT, *PARQUET):
        return _write_single(completed, out)
    return _write_folder(completed, out, kind)


class Streamed(NamedTuple):
    """Completed data that are read in blocks of rows.

    Attributes:
        columns: Modality -> names of columns.
        suffixes: The parts: "" for the predictions, and such as ".low" for others.
        id_name: The header of the column of ids; None: there is none.
        table: Suffix, modality -> blocks of values [n, F] and ids.
        written: Modality -> column -> how its text file has its cells.
    """

    columns: Mapping[str, Sequence[str]]
    suffixes: Sequence[str]
    id_name: str | None
    table: Callable[[str, str], Iterator[tuple[Cells, Ids]]]
    written: Mapping[str, Mapping[str, Written]] = {}

    def write(self, suffix: str, name: str, path: Path) -> None:
        """Write one table."""
        with written_table(path, self.columns[name], self.id_name, self.written.get(name)) as put:
            for values, ids in self.table(suffix, name):
                put(values, ids)


def write_streamed(streamed: Streamed, out: Path, kind: str) -> list[Path]:
    """Write completed data block by block.

    Args:
        streamed: What to write.
        out: A csv, tsv or parquet file of one modality, or a folder that gets a file for each.
        kind: The format of the files of a folder.

    Returns:
        The paths.

    Raises:
        InputError: Names of modalities that cannot be those of files.
        StorageError: A file could not be written.
    """
    pairs = [(suffix, name) for suffix in streamed.suffixes for name in streamed.columns]
    if ending(out) in (*TEXT, *PARQUET):
        paths = [_beside(out, suffix) for suffix, _ in pairs]
        for (suffix, name), path in zip(pairs, paths, strict=True):
            streamed.write(suffix, name, path)
        return paths
    names = _file_names(list(streamed.columns), out)
    with _replacing(out) as folder:
        files = [f"{names[name]}{suffix}{kind}" for suffix, name in pairs]
        for (suffix, name), file in zip(pairs, files, strict=True):
            streamed.write(suffix, name, folder / file)
        _record(folder, files)
    return [out / file for file in files]


def _file_names(modalities: Sequence[str], out: Path) -> dict[str, str]:
    names = {name: _safe(name) for name in modalities}
    if len(set(names.values())) < len(names):
        raise InputError(
            f"{out}: got names of modalities that differ in special characters alone; expected others; write an .npz file"
        )
    return names


def _record(folder: Path, files: Sequence[str]) -> None:
    write_atomic(folder / RECORD, (json.dumps({"files": files}, indent=2) + "\n").encode())


def _kind(completed: Completed) -> str:
    """The format of the tables in a folder: that of the first table that came in."""
    layout = completed.given.layout
    files = layout.files.values() if isinstance(layout, FileLayout | TogetherLayout) else []
    kinds = [ending(path) for path in files if ending(path) in (*TEXT, *PARQUET)]
    return kinds[0] if kinds else ".csv"


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(f"{out.stem}{suffix}{out.suffix}")


def _write_single(completed: Completed, out: Path) -> list[Path]:
    if len(completed.columns) > 1:
        raise InputError(
            f"{out}: got one table for {len(completed.columns)} modalities; expected a folder, or a file that ends in .npz or "
            ".h5mu; choose another path"
        )
    written = []
    for suffix, part in completed.parts.items():
        for name, x in part.items():
            values, columns = completed.table(name, x, suffix)
            path = _beside(out, suffix)
            write_table(path, values, columns, completed.ids, completed.id_name, completed.written(name))
            written.append(path)
    return written


def _write_folder(completed: Completed, out: Path, kind: str) -> list[Path]:
    names = _file_names(list(completed.columns), out)
    layout = completed.given.layout
    with _replacing(out) as folder:
        files: list[str] = []
        for suffix, part in completed.parts.items():
            for name, x in part.items():
                shaped = x.reshape(len(x), *completed.shapes[name])
                if not kind and _is_array(layout, name, shaped):
                    files.append(f"{names[name]}{suffix}.npy")
                    with atomic(folder / files[-1]) as file:
                        np.lib.format.write_array(file, shaped, allow_pickle=False)
                    continue
                values, columns = completed.table(name, x, suffix)
                files.append(f"{names[name]}{suffix}{kind or _kind(completed)}")
                write_table(
                    folder / files[-1],
                    values,
                    columns,
                    completed.ids,
                    completed.id_name,
                    completed.written(name),
                )
        _record(folder, files)
    return [out / file for file in files]


def _is_array(layout: Layout, name: str, x: NDArray[Any]) -> bool:
    """Whether a modality is written as an npy file: of an npy file, or of an npz file if a sample has several axes."""
    if isinstance(layout, TogetherLayout):
        file = layout.files.get(name)
        own = file is not None and ending(file) == ".npy"
        return layout.of_arrays(name, x) and (own or x.ndim != 2)
    return isinstance(layout, ArrayLayout) and x.ndim != 2


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A folder to write to, whose files replace those that were written to ``out`` before, at the end."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with claimed_folder(out) as partial:
            yield partial
            if out.is_dir():
                for name in _recorded(out):
                    (out / name).unlink(missing_ok=True)
                files = sorted(partial.iterdir())
                if taken := [
                    file.name for file in files if os.path.lexists(out / file.name) and file.name != RECORD
                ]:
                    raise InputError(
                        f"{out / taken[0]}: got a file that polyvae did not write; expected a new name; choose another folder"
                    )
                for file in files:
                    file.replace(out / file.name)
            else:
                partial.rename(out)
    except OSError as problem:
        raise unwritten(out, problem) from None


def _recorded(out: Path) -> list[str]:
    """The files that an earlier command wrote to the folder: plain names, whatever the record may contain."""
    record = out / RECORD
    if not record.is_file():
        return []
    try:
        found = json.loads(read_bytes(record, 2**20))
    except ValueError:
        found = None
    names = found.get("files") if isinstance(found, dict) else None
    if not isinstance(names, list):
        raise InputError(
            f"{record}: got another content than polyvae writes; expected a list of files; choose another folder"
        )
    return [
        name
        for name in names
        if isinstance(name, str) and name == os.path.basename(name) and name not in ("", ".", "..")
    ]


def _safe(name: str) -> str:
    """A modality's name as the name of a file."""
    return re.sub(r"[/\\:\0]", "_", name).lstrip(".") or "_"


def _write_omics(completed: Completed, part: Mapping[str, NDArray[Any]], out: Path, suffix: str) -> Path:
    layout = completed.given.layout
    same = {".h5ad": AnnLayout, ".h5mu": MuLayout}[ending(out)]
    values = {name: x.reshape(len(x), *completed.shapes[name]) for name, x in part.items()}
    if isinstance(layout, same):
        layout.save(out, values, completed.columns, completed.ids, completed.decoder(suffix))
        return out
    if ending(out) == ".h5ad":
        raise InputError(
            f"{out}: got .h5ad for data that came in otherwise; expected .h5mu, .npz or a folder; rename it"
        )
    try:
        import anndata
        import mudata
        import pandas as pd
    except ImportError:
        raise InputError(
            f"{out}: mudata is not installed; expected it, to write .h5mu files; install it: pip install 'polyvae[omics]'"
        ) from None
    count = len(completed.given.data)
    ids = [str(value) for value in (completed.ids if completed.ids is not None else range(count))]
    data = completed.given.data
    tables = {}
    for name, x in part.items():  # matrices of numbers: classes stay columns of zeros and ones
        order = ordered(data.columns.get(name, ()), completed.columns[name])
        tables[name] = x[:, order], [str(completed.columns[name][at]) for at in order]
    with (
        mudata.set_options(pull_on_update=False),
        warnings.catch_warnings(),
        reading(str(out), "modalities that MuData can hold", "write a folder"),
    ):
        # Without ids, features of two modalities can have the same names.
        warnings.filterwarnings("ignore", message="var_names are not unique")
        result = mudata.MuData(
            {
                name: anndata.AnnData(x, obs=pd.DataFrame(index=ids), var=pd.DataFrame(index=columns))
                for name, (x, columns) in tables.items()
            }
        )
        partial = out.with_name(f".{out.stem}.partial{out.suffix}")
        try:
            result.write(partial)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    return out


def check_file(out: Path, force: bool) -> None:
    """Raises InputError where ``out`` is a folder, or exists and may not be replaced.

    Args:
        out: A file.
        force: Whether it may be replaced.
    """
    check_output(out, (), force)
    if out.is_dir():
        raise InputError(
            f"{out}: got a folder; expected the name of a file, such as {out / 'z.csv'}; name one"
        )
    if out.exists() and not force:
        raise InputError(f"{out}: got an existing file; expected a new one; --force replaces it")


def check_columns(out: Path) -> None:
    """Raises InputError unless ``write_columns`` can write such a file."""
    if ending(out) not in (*TEXT, *PARQUET, ".npy"):
        raise InputError(
            f"{out}: got a file that ends in {ending(out)!r}; expected one of {', '.join((*TEXT, *PARQUET, '.npy'))}; rename it"
        )
    if ending(out) in PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise InputError(
            f"{out}: pyarrow is not installed; expected it, to write parquet files in blocks; install it, or choose .csv"
        )


def write_columns(
    out: Path, blocks: Iterable[Mapping[str, NDArray[Any]]], count: int, id: str, ids: Iterable[Sequence[Any]]
) -> None:
    """Write columns of texts or numbers, block by block.

    Args:
        out: A csv, tsv, parquet or npy file. The last one contains the columns of numbers as [N, C] in double precision, without ids.
        blocks: Header -> cells, of some samples after the other; the headers of all are the same.
        count: The number of samples.
        id: The header of the column of ids.
        ids: The ids of the samples of each block.

    Raises:
        InputError: Another ending, or texts in an npy file.
        StorageError: The file could not be written.
    """
    check_columns(out)
    if ending(out) == ".npy":
        _write_npy(out, blocks, count)
        return
    if ending(out) in TEXT:
        _write_text(out, blocks, id, ids)
        return
    pairs = zip(blocks, ids, strict=True)
    first, own = next(pairs)
    with written_table(out, list(first), id) as put:
        put(Columns(list(first.values())), own)
        for block, own in pairs:
            put(Columns(list(block.values())), own)


def _write_text(
    out: Path, blocks: Iterable[Mapping[str, NDArray[Any]]], id: str, ids: Iterable[Sequence[Any]]
) -> None:
    with atomic(out) as file:
        for number, (block, own) in enumerate(zip(blocks, ids, strict=True)):
            text = io.StringIO()
            writer = csv.writer(text, delimiter="\t" if ending(out) == ".tsv" else ",", lineterminator="\n")
            if not number:
                writer.writerow([id, *block])
            writer.writerows(zip(own, *(x.tolist() for x in block.values()), strict=True))
            file.write(text.getvalue().encode())


def _write_npy(out: Path, blocks: Iterable[Mapping[str, NDArray[Any]]], count: int) -> None:
    with atomic(out) as file:
        for number, block in enumerate(blocks):
            texts = [name for name, x in block.items() if x.dtype.kind not in "biuf"]
            if texts:
                raise InputError(
                    f"{out}: got texts in {', '.join(texts)}; expected numbers, which an npy file holds; choose .csv or .parquet"
                )
            if not number:
                header = {"descr": "<f8", "fortran_order": False, "shape": (count, len(block))}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.stack(list(block.values()), 1).astype("<f8").tobytes())

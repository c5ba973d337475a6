"""Data frames of any library that narwhals reads: pandas, polars, pyarrow and others."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence, Set
from datetime import date, time, timedelta
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from polyvae.core.batch import check_mapping
from polyvae.data.groups import PLAIN, Cells, Decoder, column, is_absent, taken, text_of
from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.asking import Nan, check_columns, check_id, check_nan
from polyvae.data.readers.classes import Ask, Asked, Read, Words, encoded, setting_aside
from polyvae.data.readers.covariates import cells_of, check_there, merged, names_of
from polyvae.data.readers.doubtful import warn_of_numbers
from polyvae.data.readers.layout import Ids, Layout, ordered
from polyvae.data.readers.opening import opened
from polyvae.data.readers.parts import Part, checked, joined
from polyvae.data.readers.types import Written, pandas_table, table_of, types_of
from polyvae.data.readers.writing import target, write_table
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.text import named

Id = str | Literal[False] | None
_CLASSES = (nw.String, nw.Boolean, nw.Categorical, nw.Enum)
_NUMBERS = (nw.Object, nw.Decimal, nw.Unknown)
"""Types of columns whose cells are looked at, one by one, to see whether they are numbers."""


def from_frames(
    frames: Mapping[str, Any],
    *,
    id: Id = None,
    nan: Nan = "error",
    labels: Any = None,
    overlap: bool = True,
    single: bool = False,
    asked: Ask | None = None,
    **settings: Any,
) -> tuple[MultimodalData, FrameLayout]:
    """See ``MultimodalData.from_frames``; also the layout.

    ``single``: results are one table rather than a mapping. ``asked``: what is known of the columns of each table.
    """
    check_nan(nan)
    check_id(id)
    check_mapping("from_frames", frames)
    if not frames:
        raise InputError("from_frames: got no table; expected one for each modality; such as {'rna': frame}")
    tables = {name: opened(f"modality {name!r}", x) for name, x in frames.items()}
    check_pairing([name for name, frame in tables.items() if id is None and is_numbered(frame)], len(tables))
    label = labels if isinstance(labels, str) else None
    if label is not None and all(label not in map(str, _columns(frame)) for frame in tables.values()):
        known = [str(name) for frame in tables.values() for name in _columns(frame)]
        raise InputError(f"labels: no table has a column {label!r}; {nearest(label, known)}")
    names = names_of(settings.get("covariates"))
    check_there(names, [str(name) for frame in tables.values() for name in _columns(frame)])
    ask = setting_aside(asked, names)
    parts, forms = {}, {}
    for name, frame in tables.items():
        parts[name], forms[name] = frame_part(f"modality {name!r}", frame, id, nan, label, ask(name))
    if names is not None:
        settings["covariates"] = merged(parts)
    data = joined(parts, labels=None if label is not None else by_index(labels), overlap=overlap, **settings)
    kept = {name: form for name, form in forms.items() if name in data.names}
    return data, FrameLayout(kept or forms, single)


def by_index(labels: Any) -> Any:
    """A pandas Series, or a table of one column, as a mapping from its index; anything else as it is."""
    if nw.dependencies.is_pandas_dataframe(labels) and labels.shape[1] == 1:
        labels = labels.iloc[:, 0]
    if nw.dependencies.is_pandas_series(labels):
        return dict(zip(labels.index.tolist(), labels.tolist(), strict=True))
    return labels


def check_pairing(positional: Sequence[str], count: int) -> None:
    """Raises InputError where tables without ids would be paired by position without being asked to."""
    if count > 1 and positional:
        raise InputError(
            f"data: got no ids of samples in {named(positional)}, whose rows would pair by position; expected ids; name the samples with "
            "frame.set_index(...) (pandas) or id='column', or pass id=False where row i is the same sample in every table"
        )


class Form(NamedTuple):
    """What of a table is needed to return one like it.

    Args:
        labels: The names of its feature columns, as they were.
        pandas: Whether it has an index.
        backend: Its library.
        id: The name of its id column; None: it has none.
        place: The position of that column.
        index: Its pandas index.
        types: The types of its columns of integers, booleans and categories, by name.
        written: Column -> how a text file has its cells.
    """

    labels: tuple[Any, ...]
    pandas: bool
    backend: Any
    id: str | None
    place: int
    index: Any
    types: Mapping[str, Any] = {}
    written: Mapping[str, Written] = {}


class FrameLayout(Layout):
    """Data frames: a mapping of them, or one.

    Args:
        forms: Modality -> what of its table is needed.
        single: Whether one table came in rather than a mapping.
    """

    def __init__(self, forms: Mapping[str, Form], single: bool) -> None:
        self.forms, self.single = dict(forms), single

    def back(
        self,
        values: Mapping[str, NDArray[Any]],
        columns: Mapping[str, Sequence[str]],
        ids: Ids = None,
        decoder: Decoder = PLAIN,
    ) -> Any:
        cells, columns = decoder.tables(values, columns)
        came = [name for name in self.forms if name in cells]
        tables = {}
        for name in [*came, *(name for name in cells if name not in self.forms)]:
            form = self.forms.get(name)
            texts = {} if form is None else {str(label): label for label in form.labels}
            order = ordered(list(texts), columns[name])
            labels = [texts.get(columns[name][at], columns[name][at]) for at in order]
            tables[name] = self._table(form, taken(cells[name], order), labels, ids)
        return next(iter(tables.values())) if self.single and len(tables) == 1 else tables

    def embedding(self, z: NDArray[Any], ids: Ids, names: Sequence[str]) -> Any:
        return self._table(None, np.asarray(z), list(names), ids)

    def prediction(self, values: NDArray[Any], ids: Ids, names: Sequence[str]) -> Any:
        taken = next(iter(self.forms.values())).id
        columns = np.asarray(values).reshape(len(values), -1)
        return self._table(None, columns, [f"{name}_" if name == taken else name for name in names], ids)

    def save(
        self,
        out: Path,
        values: Mapping[str, NDArray[Any]],
        columns: Mapping[str, Sequence[str]],
        ids: Ids = None,
        decoder: Decoder = PLAIN,
    ) -> list[Path]:
        written = []
        cells, columns = decoder.tables(values, columns)
        for name, x in cells.items():
            form = self.forms.get(name)
            order = ordered([] if form is None else [str(label) for label in form.labels], columns[name])
            path = target(out, name, self._ending(name), len(values))
            labels, written_as = [columns[name][at] for at in order], {} if form is None else form.written
            write_table(path, taken(x, order), labels, ids, self._id_name(form), written_as)
            written.append(path)
        return written

    def save_embedding(self, out: Path, z: NDArray[Any], ids: Ids, names: Sequence[str]) -> Path:
        write_table(out, np.asarray(z), names, ids, self._id_name(None))
        return out

    def _ending(self, name: str) -> str:
        """The ending of the file that is written for a modality."""
        return ".csv"

    def _id_name(self, form: Form | None) -> str:
        form = next(iter(self.forms.values())) if form is None else form
        index = None if form.index is None else form.index.name
        return str(form.id or index or "id")

    def _table(self, form: Form | None, x: Cells, labels: Sequence[Any], ids: Ids) -> Any:
        form = next(iter(self.forms.values()))._replace(types={}, written={}) if form is None else form
        if form.pandas:
            return self._pandas(form, x, labels, ids)
        types = {**form.types, **{name: nw.Int64() for name, how in form.written.items() if how.whole}}
        columns: dict[str, Any] = {str(label): column(x, at) for at, label in enumerate(labels)}
        if ids is not None and form.id is not None:
            pairs = list(columns.items())
            pairs.insert(min(form.place, len(pairs)), (form.id, list(ids)))
            columns = dict(pairs)
        return table_of(columns, types, form.backend)

    def _pandas(self, form: Form, x: Cells, labels: Sequence[Any], ids: Ids) -> Any:
        if form.id is not None and ids is not None:
            table = pandas_table(x, labels, None, form.types)
            table.insert(min(form.place, len(labels)), form.id, list(ids))
            return table
        return pandas_table(x, labels, self._index(ids, len(x)), form.types)

    def _index(self, ids: Ids, count: int) -> Any:
        """The ids as an index with the name, and where all tables agree the type, of those that came in."""
        import pandas as pd

        came = [form.index for form in self.forms.values() if form.index is not None]
        if ids is None:
            return came[0] if came and len(came[0]) == count else pd.RangeIndex(count)
        names = {index.name for index in came}
        kinds = {str(index.dtype) for index in came}
        if len(came) == 1 and len(came[0]) == count and came[0].tolist() == list(ids):
            return came[0]
        index = pd.Index(list(ids), name=names.pop() if len(names) == 1 else None)
        return index.astype(came[0].dtype) if len(kinds) == 1 and index.nlevels == 1 else index


def _columns(frame: nw.DataFrame[Any]) -> list[Any]:
    native = frame.to_native()
    return list(native.columns) if nw.dependencies.is_pandas_dataframe(native) else list(frame.columns)


def is_numbered(frame: nw.DataFrame[Any]) -> bool:
    """Whether the rows have no names: no index, or the one that pandas numbers by itself."""
    native = frame.to_native()
    if not nw.dependencies.is_pandas_dataframe(native):
        return True
    import pandas as pd

    index = native.index
    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1 and index.name is None


def frame_part(
    where: str,
    frame: nw.DataFrame[Any],
    id: Id,
    nan: Nan,
    label: str | None,
    asked: Asked | None = None,
) -> tuple[Part, Form]:
    """A table as a part; it may have no feature where it has labels or covariates. Raises InputError."""
    native, labels = frame.to_native(), _columns(frame)
    check_columns(where, labels)
    pandas = bool(nw.dependencies.is_pandas_dataframe(native))
    if pandas and native.columns.nlevels > 1:
        raise InputError(
            f"{where}: got columns with {native.columns.nlevels} levels of names; expected one; join them first, as "
            "frame.columns.map('_'.join) does"
        )
    texts = [str(name) for name in labels]
    if isinstance(id, str) and id not in texts and not (pandas and native.index.name == id):
        raise InputError(f"{where}: there is no id column {id!r}; {nearest(id, texts)}")
    column = id if isinstance(id, str) and id in texts else None
    ids: list[Hashable] | None = None
    if column is not None:
        ids = _values(frame, texts.index(column))
    elif pandas and id is not False:
        ids = native.index.tolist()
    asked = Asked() if asked is None else asked
    kept = [at for at, text in enumerate(texts) if text not in (column, label, *asked.aside)]
    beside = {text: cells_of(frame[:, at]) for at, text in enumerate(texts) if text in asked.aside}
    own = _values(frame, texts.index(label)) if label in texts else None
    place = texts.index(column) if column is not None else 0
    form = Form(
        tuple(labels[at] for at in kept),
        pandas,
        frame.implementation,
        column,
        place,
        native.index if pandas and column is None else None,
        types_of(frame, kept),
    )
    names = tuple(texts[at] for at in kept)
    if not kept and (own is not None or beside):
        return Part(np.zeros((len(frame), 0)), None, names, ids, own, {}, beside), form
    read = _numbers(where, frame, kept, names, asked)
    part = checked(where, read.values, read.columns, nan, read.levels)
    return part._replace(columns=read.columns, ids=ids, labels=own, levels=read.levels, beside=beside), form


def _values(frame: nw.DataFrame[Any], at: int) -> list[Any]:
    return list(frame[:, at].to_list())


def _numbers(
    where: str, frame: nw.DataFrame[Any], kept: Sequence[int], names: Sequence[str], asked: Asked
) -> Read:
    """[n, F] in float32 where all columns are, else float64; NaN where a value is missing. Columns of classes are encoded."""
    columns = list(frame.iter_columns())
    kinds = [columns[at].dtype for at in kept]
    if len(kept) == len(columns) and len(set(kinds)) == 1 and kinds[0] in (nw.Float32, nw.Float64):
        table = frame.to_numpy()  # at once, which matters for many columns
        if table.dtype.kind == "f":
            if asked.known is None:
                warn_of_numbers(where, names, table, asked.kinds)
            return Read(np.array(table), tuple(names), {})
    exact = bool(kinds) and all(kind == nw.Float32 for kind in kinds)
    values = np.empty((len(frame), len(kept)), dtype=np.float32 if exact else np.float64)
    dates, words = list[str](), dict[int, Words]()
    for place, (at, kind) in enumerate(zip(kept, kinds, strict=True)):
        series = columns[at]
        if not (kind.is_numeric() or kind.is_temporal() or kind in _CLASSES):
            _check_cells(where, names[place], series)
        if asked.verbatim(names[place]):
            words[place] = _words(series, kind)
        elif kind.is_numeric() and kind != nw.Decimal:
            values[:, place] = series.cast(nw.Float32 if exact else nw.Float64).to_numpy()
        elif kind.is_temporal():
            dates.append(names[place])
        elif kind not in _NUMBERS or not _objects(series, values[:, place]):
            words[place] = _words(series, kind)
            if any(isinstance(value, date | time | timedelta) for value in words[place].values):
                dates.append(names[place])
    if dates:
        raise InputError(
            f"{where}: got dates or times in {len(dates)} of {len(names)} columns ({named(dates)}); expected numbers or classes; drop "
            "these columns, or convert them to a number of days"
        )
    return encoded(where, names, values, words, asked)


def _check_cells(where: str, name: str, series: nw.Series[Any]) -> None:
    """Raises InputError: a cell that contains several values, bytes or a complex number."""
    for value in series.to_list():
        if isinstance(value, complex | bytes | bytearray | Mapping | Set | np.ndarray) or (
            isinstance(value, Sequence) and not isinstance(value, str)
        ):
            raise InputError(
                f"{where}: got a cell of type {type(value).__name__} in column {name!r}; expected a number, a text or a boolean in each; "
                "unfold it into a column for each value, decode it, or drop the column"
            )


def _objects(series: nw.Series[Any], into: NDArray[Any]) -> bool:
    """Python objects as numbers, written to ``into``. False: some are neither numbers nor missing, or booleans that are no 0 and 1."""
    cells = [value for value in series.to_list() if not is_absent(value)]
    truth = [value for value in cells if isinstance(value, bool | np.bool_)]
    if truth and (len(truth) == len(cells) or not all(value in (0, 1) for value in cells)):
        return False
    for row, value in enumerate(series.to_list()):
        if is_absent(value):
            into[row] = math.nan
        elif isinstance(value, Real | Decimal | np.bool_):
            try:
                into[row] = float(value)
            except OverflowError:
                into[row] = math.inf
        else:
            return False
    return True


def _words(series: nw.Series[Any], kind: Any) -> Words:
    """The cells of a column of texts, booleans or categories, None where missing."""
    values = [None if is_absent(value) else _bare(value) for value in series.to_list()]
    native = series.to_native()
    if nw.dependencies.is_pandas_series(native) and kind in (nw.Categorical, nw.Enum):
        order = tuple(_bare(value) for value in native.cat.categories)
        order = order if len({type(level) for level in order}) == 1 else tuple(map(text_of, order))
        return Words(values, order, bool(native.cat.ordered))
    if isinstance(kind, nw.Enum):
        return Words(values, tuple(kind.categories))
    return Words(values)


def _bare(value: Any) -> Any:
    """A class as Python's own text, number or boolean; other objects as text."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float | str | date | time | timedelta) else str(value)

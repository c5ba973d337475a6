"""Tables in text files: csv and tsv, with a header, read row by row."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import math
import re
import warnings
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from polyvae.data.groups import Cells, Columns
from polyvae.data.readers.classes import Asked, Read, Words, encoded
from polyvae.data.readers.doubtful import is_id, warn_of_zeros
from polyvae.data.readers.parts import Nan, Part, check_columns, check_file, checked
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.files import atomic, read_bytes
from polyvae.utils.text import counted

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "none", "<na>", "-nan")
_WORDS = dict.fromkeys(_MISSING, math.nan) | {"true": 1.0, "false": 0.0}
_BOOLEANS = ("true", "false")
_ZEROS = re.compile(r"0\d+")
_LOOK = 100  # rows whose cells are looked at for leading zeros
_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")


class Sheet(NamedTuple):
    """A text table: its part, the name of its id column (None: it has none), its position, and its columns as they are in the file."""

    part: Part
    id: str | None
    place: int
    columns: tuple[str, ...]


def read_sheet(path: Path, id: Any, nan: Nan, label: str | None, asked: Asked | None = None) -> Sheet:
    """Read a csv or tsv file, plain or compressed by gzip. Raises InputError, which begins with the path."""
    where = str(path)
    lines = _lines(path)
    header, rows, separator = _split(where, lines)
    check_columns(where, header)
    if isinstance(id, str) and id not in header:
        raise InputError(f"{where}: there is no id column {id!r}; {nearest(id, header)}")
    place = header.index(id) if isinstance(id, str) else 0
    aside = {place} if id is not False else set()
    labelled = header.index(label) if label in header else None
    aside |= set() if labelled is None else {labelled}
    kept = [at for at in range(len(header)) if at not in aside]
    own, classes, read = _parsed(
        where, header, rows, separator, kept, place, labelled, Asked() if asked is None else asked
    )
    if id is None and not is_id(header[0]) and all(_number(cell, separator) is not None for cell in own):
        raise InputError(_unnamed(where, header[0]))
    part = _checked(where, read, classes, nan)
    ids: list[Hashable] | None = None if id is False else list(own)
    found = Part(part.values, part.observed, read.columns, ids, classes, read.levels)
    return Sheet(found, None if id is False else header[place], place, tuple(header[at] for at in kept))


def _checked(where: str, read: Read, classes: list[Any] | None, nan: Nan) -> Part:
    if not read.columns and classes is not None:
        return Part(read.values)
    return checked(where, read.values, read.columns, nan, read.levels)


class Sheets(NamedTuple):
    """A text table that is read in blocks of rows: its columns of numbers, the name of its id column (None: it has none), its parts, and
    its classes.
    """

    columns: tuple[str, ...]
    id: str | None
    parts: Iterator[Part]
    levels: Mapping[str, tuple[Any, ...]] = {}


def read_sheets(
    path: Path, id: Any, nan: Nan, label: str | None, count: int, asked: Asked | None = None
) -> Sheets:
    """``read_sheet`` in blocks of ``count`` rows; memory holds one of them. Raises InputError: what ``read_sheet`` refuses."""
    where, asked = str(path), Asked() if asked is None else asked
    header, rows, separator = _split(where, _Text(path))
    check_columns(where, header)
    if isinstance(id, str) and id not in header:
        raise InputError(f"{where}: there is no id column {id!r}; {nearest(id, header)}")
    place = header.index(id) if isinstance(id, str) else 0
    labelled = header.index(label) if label in header else None
    aside = ({place} if id is not False else set()) | (set() if labelled is None else {labelled})
    kept = [at for at in range(len(header)) if at not in aside]
    names = tuple(header[at] for at in kept)

    def parts() -> Iterator[Part]:
        guessed, marks = id is None and not is_id(header[0]), set[str]()
        while True:
            block = itertools.islice(rows, count)
            own, classes, read = _parsed(where, header, block, separator, kept, place, labelled, asked, marks)
            if not own:
                break
            guessed = guessed and all(_number(cell, separator) is not None for cell in own)
            part, ids = _checked(where, read, classes, nan), None if id is False else list[Hashable](own)
            yield Part(part.values, part.observed, read.columns, ids, classes, read.levels)
        if guessed:
            raise InputError(_unnamed(where, header[0]))

    found = parts()
    first = next(found, None)
    if first is None:
        return Sheets(names, None if id is False else header[place], iter(()))
    return Sheets(
        tuple(first.columns or ()),
        None if id is False else header[place],
        itertools.chain([first], found),
        first.levels,
    )


class _Text:
    """The lines of a text file, decoded as they are read; each iteration begins at the first. Raises InputError: no text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        check_file(path)
        try:
            with self._open() as file:
                first = file.read(2)
            wide = first in (b"\xff\xfe", b"\xfe\xff")
            self.encoding = next(
                (name for name in (["utf-16"] if wide else ["utf-8-sig", "cp1252"]) if self._fits(name)), ""
            )
        except (OSError, EOFError, zlib.error) as problem:
            raise InputError(
                f"{path}: cannot be read ({problem}); expected a table; check the file"
            ) from None
        if not self.encoding:
            raise InputError(
                f"{path}: got bytes that are no text; expected a table in UTF-8; save it as UTF-8"
            )
        if self.encoding == "cp1252":
            warnings.warn(f"{path}: not UTF-8; read as Windows-1252; check names with accents", stacklevel=4)

    def _fits(self, encoding: str) -> bool:
        decoder = codecs.getincrementaldecoder(encoding)()
        with self._open() as file:
            try:
                while data := file.read(2**20):
                    if "\0" in decoder.decode(data):
                        return False
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                return False
        return True

    def _open(self) -> BinaryIO:
        return cast(BinaryIO, gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb"))

    def __iter__(self) -> Iterator[str]:
        with io.TextIOWrapper(self._open(), encoding=self.encoding, newline="") as file:
            for line in file:  # the same lines as those of str.splitlines, which knows more ends
                yield from line.splitlines(keepends=True)


def header_and_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """The names of the columns and the cells of the rows. Raises InputError, which begins with the path: rows of other lengths."""
    header, rows, _ = _split(str(path), _lines(path))
    check_columns(str(path), header)
    found = []
    try:
        for line, cells in rows:
            if len(cells) != len(header):
                raise InputError(_uneven(str(path), line, len(cells), len(header)))
            found.append(cells)
    except csv.Error as problem:
        raise InputError(f"{path}: cannot be read ({problem}); expected a table; correct it") from None
    return header, found


def _unnamed(where: str, first: str) -> str:
    return (
        f"{where}: got numbers in the first column {first!r}; expected ids of samples there; name the id column with id=, or pass "
        "id=False where row i is the same sample in every table"
    )


def _uneven(where: str, line: int, got: int, expected: int) -> str:
    return f"{where}: got {counted(got, 'cell', 'cells')} in line {line}; expected {expected} as in the header; correct that line"


def _lines(path: Path) -> list[str]:
    data = read_bytes(path)
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError):
            raise InputError(
                f"{path}: got contents that gzip cannot read; expected a .gz file; write it again"
            ) from None
    encodings = ["utf-16"] if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        if encoding == "cp1252":
            warnings.warn(f"{path}: not UTF-8; read as Windows-1252; check names with accents", stacklevel=2)
        return text.splitlines(keepends=True)
    raise InputError(f"{path}: got bytes that are no text; expected a table in UTF-8; save it as UTF-8")


def _split(where: str, lines: Iterable[str]) -> tuple[list[str], Iterator[tuple[int, list[str]]], str]:
    """The header, the rows with their line numbers, and the separator."""
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise InputError(
            f"{where}: got an empty file; expected a header and a row for each sample; check the path"
        )
    widths = {separator: len(next(csv.reader([first], delimiter=separator))) for separator in SEPARATORS}
    separator = max(widths, key=widths.__getitem__)
    if widths[separator] < 2:
        raise InputError(
            f"{where}: got a header of one column; expected several, separated by {', '.join(SEPARATORS.values())}; check the separator"
        )
    reader = csv.reader(lines, delimiter=separator)

    def rows() -> Iterator[tuple[int, list[str]]]:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells

    try:
        found = rows()
        _, header = next(found)
        header = [name.strip() for name in header]
        some = next(found, None)
    except csv.Error as problem:
        raise InputError(
            f"{where}: got a header that cannot be read ({problem}); expected a table; correct it"
        ) from None
    if some is None:
        raise InputError(
            f"{where}: got no rows; expected at least one sample; leave out a modality that nothing was measured of"
        )
    if len(some[1]) == len(header) + 1:
        # R writes row names without a header; others end each row with a separator.
        header = [*header, ""] if is_id(header[0]) and not some[1][-1].strip() else ["", *header]
    width = len(header)
    while len(header) > 1 and not header[-1]:
        header = header[:-1]

    def rest() -> Iterator[tuple[int, list[str]]]:
        lines = itertools.chain([some], found)
        if width == len(header):
            yield from lines
        for line, cells in lines:
            if len(cells) == width and any(cell.strip() for cell in cells[len(header) :]):
                raise InputError(
                    f"{where}: got a value in line {line} in a column without a name; expected a name for each column; name it in the "
                    "header"
                )
            yield line, cells[: len(header)] if len(cells) == width else cells

    return header, rest(), separator


def _parsed(
    where: str,
    header: Sequence[str],
    rows: Iterator[tuple[int, list[str]]],
    separator: str,
    kept: Sequence[int],
    place: int,
    labelled: int | None,
    asked: Asked,
    marks: set[str] | None = None,
) -> tuple[list[str], list[Any] | None, Read]:
    """The ids, the labels and the columns. Raises InputError: rows of other lengths, or text that is not classes; columns are named."""
    own: list[str] = []
    classes: list[Any] = []
    values: list[NDArray[np.float64]] = []
    words: dict[int, dict[int, Any]] = {at: {} for at in kept if asked.verbatim(header[at])}
    verbatim = list(words)
    marks = set() if marks is None else marks
    zeros = dict[int, str]()
    try:
        for line, cells in rows:
            if len(cells) != len(header):
                raise InputError(_uneven(where, line, len(cells), len(header)))
            own.append(cells[place].strip())
            if len(values) < _LOOK:
                zeros = {**{at: cells[at] for at in kept if _ZEROS.fullmatch(cells[at])}, **zeros}
            if labelled is not None:
                text = cells[labelled].strip()
                classes.append(None if text.lower() in _MISSING else text)
            try:
                row = [float(cells[at]) for at in kept]
            except ValueError:
                row = []
                for at in kept:
                    number, text = _number(cells[at], separator), cells[at].strip()
                    if number is None or text.lower() in _BOOLEANS:
                        words.setdefault(at, {})[len(values)] = text if number is None else bool(number)
                    row.append(math.nan if number is None else number)
            for at in verbatim:
                text = cells[at].strip()
                words[at][len(values)] = None if text.lower() in _MISSING else text
            if separator == ";" and len(marks) < 2:
                marks |= {mark for at in kept for mark in ",." if mark in cells[at]}
            values.append(np.array(row, dtype=np.float64))
    except csv.Error as problem:
        raise InputError(f"{where}: cannot be read ({problem}); expected a table; correct it") from None
    if marks == {",", "."}:
        raise InputError(
            f"{where}: got numbers with decimal commas and numbers with points; expected one kind; write all with points"
        )
    numbers = np.stack(values) if values else np.zeros((0, len(kept)))
    found = {place: _words(numbers[:, place], words[at]) for place, at in enumerate(kept) if at in words}
    some = {place: own for place, own in found.items() if own is not None or kept[place] in verbatim}
    names = [header[at] for at in kept]
    if asked.known is None:
        numeric = {header[at]: cell for at, cell in zeros.items() if kept.index(at) not in some}
        warn_of_zeros(where, numeric, asked.kinds)
    read = encoded(
        where,
        names,
        numbers,
        {place: own or Words([None] * len(values)) for place, own in some.items()},
        asked,
    )
    return own, classes if labelled is not None else None, read


def _words(numbers: NDArray[np.float64], words: dict[int, Any]) -> Words | None:
    """The cells of a column of which some are no numbers; None where all are, as 1 and 0 beside "true"."""
    cells = [None if number != number else number for number in numbers.tolist()]
    for row, word in words.items():
        cells[row] = word
    kinds = {type(cell) for cell in cells} - {type(None)}
    if str in kinds:
        return Words([str(cell).lower() if isinstance(cell, bool) else cell for cell in cells])
    plain = all(cell in (0, 1, None) for cell in cells)
    return Words(cells) if kinds == {bool} or (bool in kinds and not plain) else None


def _number(cell: str, separator: str) -> float | None:
    """The number in a cell; NaN: missing; None: text."""
    text = cell.strip()
    word = _WORDS.get(text.lower())
    if word is not None:
        return word
    if separator == ";" and _COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return float(text.replace("−", "-"))
    except ValueError:
        return None


def write_sheet(
    path: Path,
    values: Cells,
    columns: Sequence[str],
    ids: Sequence[Hashable] | None,
    id: str = "id",
    place: int = 0,
    separator: str = ",",
) -> None:
    """Write values [N, F] as csv or tsv, completely or not at all; an empty cell is a value that is missing."""
    with atomic(path) as file:
        put_header(file, columns, None if ids is None else id, place, separator)
        put_rows(file, values, ids, place, separator)


def put_header(
    file: BinaryIO, columns: Sequence[str], id: str | None, place: int = 0, separator: str = ","
) -> None:
    """Write the first line of a table; ``id`` None: it has no column of ids."""
    names = [str(name) for name in columns]
    if id is not None:
        names.insert(place, id)
    _put(file, names, separator)


def put_rows(
    file: BinaryIO,
    values: Cells,
    ids: Sequence[Hashable] | None,
    place: int = 0,
    separator: str = ",",
) -> None:
    """Write lines with values [n, F]; an empty cell is a value that is missing."""
    rows = values.rows() if isinstance(values, Columns) else (row.tolist() for row in np.asarray(values))
    for at, row in enumerate(rows):
        cells = [_cell(x) for x in row]
        if ids is not None:
            cells.insert(place, str(ids[at]))
        _put(file, cells, separator)


def _cell(x: Any) -> str:
    if isinstance(x, str | bool):
        return str(x)
    return "" if x is None or x != x else repr(x if isinstance(x, int) else float(x))


def _put(file: BinaryIO, cells: Sequence[str], separator: str) -> None:
    rows: list[str] = []
    csv.writer(_Lines(rows), delimiter=separator, lineterminator="\n").writerow(cells)
    file.write("".join(rows).encode())


class _Lines:
    """What ``csv.writer`` writes, as a list."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def write(self, text: str) -> int:
        """Append one line."""
        self.lines.append(text)
        return len(text)

"""Tables in text files: csv and tsv, with a header, read row by row."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.data.readers.asking import Nan, check_columns
from polyvae.data.readers.classes import Asked, Read, Words, encoded
from polyvae.data.readers.doubtful import is_id, warn_of_zeros
from polyvae.data.readers.lines import MISSING, Lines, lines_of, split, text_in, uneven, with_point
from polyvae.data.readers.parts import Part, checked
from polyvae.data.readers.types import Written
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.text import number_in

_WORDS = dict.fromkeys(MISSING, math.nan) | {"true": 1.0, "false": 0.0}
_BOOLEANS = ("true", "false")
_ZEROS = re.compile(r"0\d+")
_LOOK = 100  # rows whose cells are looked at for leading zeros


class Sheet(NamedTuple):
    """A text table: its part, the name of its id column (None: it has none), its position, its columns as they are in the file, and how
    it has their cells."""

    part: Part
    id: str | None
    place: int
    columns: tuple[str, ...]
    written: Mapping[str, Written]


def read_sheet(path: Path, id: Any, nan: Nan, label: str | None, asked: Asked | None = None) -> Sheet:
    """Read a csv or tsv file, plain or compressed by gzip. Raises InputError, which begins with the path."""
    where = str(path)
    lines = lines_of(path)
    header, rows, separator = split(where, lines)
    check_columns(where, header)
    if isinstance(id, str) and id not in header:
        raise InputError(f"{where}: there is no id column {id!r}; {nearest(id, header)}")
    place = header.index(id) if isinstance(id, str) else 0
    aside = {place} if id is not False else set()
    labelled = header.index(label) if label in header else None
    aside |= set() if labelled is None else {labelled}
    asked = Asked() if asked is None else asked
    kept = _features(header, aside, asked)
    written = dict[str, Written]()
    own, classes, read, beside = _parsed(
        where, header, rows, separator, kept, place, labelled, asked, written
    )
    if id is None and not is_id(header[0]) and all(_number(cell, separator) is not None for cell in own):
        raise InputError(_unnamed(where, header[0]))
    part = _checked(where, read, classes is not None or bool(beside), nan)
    ids: list[Hashable] | None = None if id is False else list(own)
    found = Part(part.values, part.observed, read.columns, ids, classes, read.levels, beside)
    names = tuple(header[at] for at in kept)
    return Sheet(found, None if id is False else header[place], place, names, written)


def _features(header: Sequence[str], aside: set[int], asked: Asked) -> list[int]:
    """The places of the features in a header."""
    return [at for at, name in enumerate(header) if at not in aside and name not in asked.aside]


def _checked(where: str, read: Read, others: bool, nan: Nan) -> Part:
    if not read.columns and others:
        return Part(read.values)
    return checked(where, read.values, read.columns, nan, read.levels)


class Sheets(NamedTuple):
    """A text table that is read in blocks of rows: its columns of numbers, the name of its id column (None: it has none), its parts, its
    classes, all names of its columns in the file, and how those that were read so far have their cells.
    """

    columns: tuple[str, ...]
    id: str | None
    parts: Iterator[Part]
    levels: Mapping[str, tuple[Any, ...]] = {}
    header: Sequence[str] = ()
    written: Mapping[str, Written] = {}


def read_sheets(
    path: Path, id: Any, nan: Nan, label: str | None, count: int, asked: Asked | None = None
) -> Sheets:
    """``read_sheet`` in blocks of ``count`` rows; memory holds one of them. Raises InputError: what ``read_sheet`` refuses."""
    where, asked = str(path), Asked() if asked is None else asked
    header, rows, separator = split(where, Lines(path))
    check_columns(where, header)
    if isinstance(id, str) and id not in header:
        raise InputError(f"{where}: there is no id column {id!r}; {nearest(id, header)}")
    place = header.index(id) if isinstance(id, str) else 0
    labelled = header.index(label) if label in header else None
    aside = ({place} if id is not False else set()) | (set() if labelled is None else {labelled})
    kept = _features(header, aside, asked)
    names, written = tuple(header[at] for at in kept), dict[str, Written]()

    def parts() -> Iterator[Part]:
        guessed, marks = id is None and not is_id(header[0]), set[str]()
        while True:
            block = itertools.islice(rows, count)
            own, classes, read, beside = _parsed(
                where, header, block, separator, kept, place, labelled, asked, written, marks
            )
            if not own:
                break
            guessed = guessed and all(_number(cell, separator) is not None for cell in own)
            part = _checked(where, read, classes is not None or bool(beside), nan)
            ids = None if id is False else list[Hashable](own)
            yield Part(part.values, part.observed, read.columns, ids, classes, read.levels, beside)
        if guessed:
            raise InputError(_unnamed(where, header[0]))

    found = parts()
    first = next(found, None)
    if first is None:
        return Sheets(names, None if id is False else header[place], iter(()), {}, header)
    return Sheets(
        tuple(first.columns or ()),
        None if id is False else header[place],
        itertools.chain([first], found),
        first.levels,
        header,
        written,
    )


def _unnamed(where: str, first: str) -> str:
    return (
        f"{where}: got numbers in the first column {first!r}; expected ids of samples there; name the id column with id=, or pass "
        "id=False where row i is the same sample in every table"
    )


def _parsed(
    where: str,
    header: Sequence[str],
    rows: Iterator[tuple[int, list[str]]],
    separator: str,
    kept: Sequence[int],
    place: int,
    labelled: int | None,
    asked: Asked,
    written: dict[str, Written],
    marks: set[str] | None = None,
) -> tuple[list[str], list[Any] | None, Read, dict[str, list[Any]]]:
    """The ids, the labels, the columns and the covariates.

    Raises InputError: rows of other lengths, or text that is not classes; columns are named.
    """
    own: list[str] = []
    classes: list[Any] = []
    others = {at: list[Any]() for at, name in enumerate(header) if name in asked.aside}
    values: list[NDArray[np.float64]] = []
    words: dict[int, dict[int, Any]] = {at: {} for at in kept if asked.verbatim(header[at])}
    verbatim = list(words)
    marks = set() if marks is None else marks
    zeros = dict[int, str]()
    undecided = np.array([header[at] not in written for at in kept], bool)
    try:
        for line, cells in rows:
            if len(cells) != len(header):
                raise InputError(uneven(where, line, len(cells), len(header)))
            own.append(cells[place].strip())
            if len(values) < _LOOK:
                zeros = {**{at: cells[at] for at in kept if _ZEROS.fullmatch(cells[at])}, **zeros}
            if labelled is not None:
                classes.append(text_in(cells[labelled], separator))
            for at, values_of in others.items():
                values_of.append(text_in(cells[at], separator))
            try:
                own_cells = [cells[at] for at in kept]
                row = list(map(number_in if "_" in "".join(own_cells) else float, own_cells))
            except ValueError:
                row = []
                for at in kept:
                    number, text = _number(cells[at], separator), cells[at].strip()
                    if number is None or text.lower() in _BOOLEANS:
                        words.setdefault(at, {})[len(values)] = text if number is None else bool(number)
                    row.append(math.nan if number is None else number)
            for at in verbatim:
                words[at][len(values)] = text_in(cells[at], separator)
            if separator == ";" and len(marks) < 2:
                marks |= {mark for at in kept for mark in ",." if mark in cells[at]}
            values.append(np.array(row, dtype=np.float64))
            if undecided.any():
                for at in np.flatnonzero(undecided & (values[-1] == np.floor(values[-1]))).tolist():
                    if (
                        "e" not in cells[kept[at]].lower() or cells[kept[at]].strip().isalpha()
                    ):  # 1e3 is neither
                        written[header[kept[at]]] = Written.of(cells[kept[at]].strip())
                        undecided[at] = False
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
    beside = {header[at]: values_of for at, values_of in others.items()}
    return own, classes if labelled is not None else None, read, beside


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
    try:
        return number_in(with_point(text, separator).replace("−", "-"))
    except ValueError:
        return None

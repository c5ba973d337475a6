"""Text files as lines, cells and a header: separators and encodings are detected."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from polyvae.data.readers.asking import check_columns, check_file
from polyvae.data.readers.doubtful import is_id
from polyvae.utils.errors import InputError
from polyvae.utils.files import read_bytes, short
from polyvae.utils.text import counted

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "none", "<na>", "-nan")


_STATED = re.compile(r'"?sep=.?"?', re.IGNORECASE)
_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")


def text_in(cell: str, separator: str) -> str | None:
    """The text in a cell, None where it is missing; beside semicolons a decimal comma is a point."""
    text = cell.strip()
    return None if text.lower() in MISSING else with_point(text, separator)


def with_point(text: str, separator: str) -> str:
    """Text with a decimal comma with a point, in a table whose separator is a semicolon; any other as it is."""
    return text.replace(",", ".") if separator == ";" and _COMMA.fullmatch(text) else text


def header_and_rows(path: Path) -> tuple[list[str], Iterator[list[str]], str]:
    """The names of the columns, the cells of the rows, which are read one by one, and the separator.

    Raises InputError: rows of other lengths.
    """
    header, rows, separator = split(str(path), Lines(path))
    check_columns(str(path), header)

    def cells_of() -> Iterator[list[str]]:
        try:
            for line, cells in rows:
                if len(cells) != len(header):
                    raise InputError(uneven(str(path), line, len(cells), len(header)))
                yield cells
        except csv.Error as problem:
            raise InputError(f"{path}: cannot be read ({problem}); expected a table; correct it") from None

    return header, cells_of(), separator


class Lines:
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


def uneven(where: str, line: int, got: int, expected: int) -> str:
    return f"{where}: got {counted(got, 'cell', 'cells')} in line {line}; expected {expected} as in the header; correct that line"


def lines_of(path: Path) -> list[str]:
    check_file(path)
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


def split(where: str, lines: Iterable[str]) -> tuple[list[str], Iterator[tuple[int, list[str]]], str]:
    """The header, the rows with their line numbers, and the separator."""
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise InputError(
            f"{where}: got an empty file; expected a header and a row for each sample; check the path"
        )
    if _STATED.fullmatch(first.strip()):  # a line that Excel reads, and no row
        rest_of = iter(lines)
        next(line for line in rest_of if line == first)
        first = next((line for line in rest_of if line.strip()), "")
        lines = itertools.chain([first], rest_of)
    widths = {separator: len(next(csv.reader([first], delimiter=separator))) for separator in SEPARATORS}
    separator = max(widths, key=widths.__getitem__)
    if widths[separator] < 2:
        raise InputError(
            f"{where}: got a header of one column, {short(first.strip(), 60)!r}; expected several, separated by "
            f"{', '.join(SEPARATORS.values())}; save it with one of these, and delete lines before the header"
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
    if len(some[1]) == len(header) + 1 and not (header[0] and is_id(header[0]) and some[1][-1].strip()):
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

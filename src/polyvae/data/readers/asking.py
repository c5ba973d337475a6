"""Validation of what readers are asked for: files, ids and columns. Every error is one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Literal

from polyvae.data.groups import is_absent, text_of
from polyvae.utils.errors import InputError
from polyvae.utils.files import short
from polyvae.utils.text import counted, named

Nan = Literal["error", "missing"]


def check_nan(nan: object) -> None:
    """Raises InputError unless ``nan`` is "error" or "missing"."""
    if nan not in ("error", "missing"):
        raise InputError(
            f"nan: got {nan!r}; expected 'error', or 'missing' where NaN and null mark missing entries; choose one"
        )


def check_id(id: object) -> None:
    """Raises InputError unless ``id`` is the name of a column, False or None."""
    if id is not None and id is not False and not isinstance(id, str):
        raise InputError(
            f"id: got {id!r}; expected the name of a column, or False where row i is the same sample in every table; name it"
        )


def check_file(path: Path) -> None:
    """Raises InputError: no such file."""
    try:
        found, folder = path.is_file(), path.is_dir()
    except (OSError, ValueError):  # a name that no system accepts
        found, folder = False, False
    if folder:
        raise InputError(
            f"{path}: got a folder; expected a file; pass the files in it, or use MultimodalData.from_folder for images"
        )
    if not found:
        raise InputError(f"{short(str(path), 1000)}: no such file; expected a table; check the path")


def check_columns(where: str, columns: Sequence[object]) -> None:
    """Raises InputError: two columns with the same name."""
    twice = [name for name, times in Counter(str(column) for column in columns).items() if times > 1]
    if twice:
        raise InputError(
            f"{where}: got {counted(len(twice), 'column name', 'column names')} more than once ({named(twice)}); expected distinct names; "
            "rename or drop columns"
        )


def check_given_ids(where: str, ids: Sequence[Hashable]) -> list[str]:
    """The ids as text. Raises InputError: an id that is missing or occurs twice."""
    nameless = sum(is_absent(value) for value in ids)
    if nameless:
        raise InputError(
            f"{where}: got {counted(nameless, 'row', 'rows')} without an id; expected one for each row; name or drop these rows"
        )
    texts = [text_of(value) for value in ids]
    twice = [name for name, times in Counter(texts).items() if times > 1]
    if twice:
        raise InputError(
            f"{where}: got {counted(len(twice), 'id', 'ids')} more than once ({named(twice)}); expected one row per sample; average or "
            "drop the repeated rows"
        )
    return texts

"""The kinds of files that contain tables, by the endings of their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polyvae.utils.errors import InputError, nearest

TEXT = (".csv", ".tsv", ".txt")
PARQUET = (".parquet", ".pq")
ENDINGS = (*TEXT, *PARQUET, ".npz")
ARRAYS = (".npy", ".npz")
INPUTS = (*ENDINGS, ".npy")
"""Endings of files that are read."""
SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
"""Endings of spreadsheets, which are not read."""


def ending(path: Path) -> str:
    """The ending in lower case; without ".gz"."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def unknown_ending(path: Path, known: Sequence[str], where: str = "") -> InputError:
    """The error for a file of another kind.

    Args:
        path: The file.
        known: The endings that are read, or written.
        where: Such as "beside other tables".
    """
    kind = ending(path)
    remedy = "save each sheet as .csv" if kind in SHEETS else nearest(kind, known)
    expected = f"expected one of {', '.join(known)}{f' {where}' if where else ''}"
    return InputError(f"{path}: got a file that ends in {kind!r}; {expected}; {remedy}")


def stem(path: Path) -> str:
    """The name of a file without its ending."""
    return path.stem if path.suffix.lower() != ".gz" else Path(path.stem).stem

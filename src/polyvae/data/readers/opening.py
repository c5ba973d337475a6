"""Tables of other libraries and their files, opened: data frames, parquet, AnnData and MuData."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import narwhals as nw

from polyvae.data.readers.asking import check_columns, check_file
from polyvae.utils.errors import InputError, reading

OMICS = (".h5ad", ".h5mu")


def is_frame(x: object) -> bool:
    """Whether narwhals reads ``x`` as a table or a column."""
    if nw.dependencies.is_pandas_dataframe(x):  # also one with repeated names, which narwhals refuses
        return True
    found = nw.from_native(x, pass_through=True, allow_series=True)
    return isinstance(found, nw.DataFrame | nw.LazyFrame | nw.Series)


def opened(where: str, x: Any) -> nw.DataFrame[Any]:
    """A table that narwhals reads, or a column as a table. Raises InputError: anything else, or repeated names of columns."""
    if nw.dependencies.is_pandas_dataframe(x):
        check_columns(where, list(x.columns))
    found = nw.from_native(x, pass_through=True, allow_series=True)
    if isinstance(found, nw.Series):
        return found.to_frame()
    if isinstance(found, nw.LazyFrame):
        return found.collect()
    if not isinstance(found, nw.DataFrame):
        raise InputError(
            f"{where}: got {type(x).__name__}; expected a data frame, such as one of pandas, polars or pyarrow; use from_arrays for arrays"
        )
    return found


def has_index(table: Any) -> bool:
    """Whether a table is a data frame of pandas with named rows."""
    if not nw.dependencies.is_pandas_dataframe(table):
        return False
    import pandas as pd

    return not isinstance(table.index, pd.RangeIndex)


def read_parquet(path: Path, columns: list[str] | None = None) -> Any:
    """A data frame: of pandas, where it can read parquet, because it restores an index.

    Args:
        path: The file.
        columns: The columns to read, of which only these are decoded, and the index; None: all.
    """
    installed = {name for name in ("pandas", "polars", "pyarrow") if importlib.util.find_spec(name)}
    if {"pandas", "pyarrow"} <= installed:
        import pandas as pd

        return pd.read_parquet(path, columns=columns)
    if "polars" in installed:
        import polars as pl

        return pl.read_parquet(path, columns=columns)
    if "pyarrow" in installed:
        import pyarrow.parquet as pq

        return pq.read_table(path, columns=columns)
    raise InputError(
        f"{path}: got a parquet file, and no library that reads it; expected polars or pyarrow; install one: pip install polars"
    )


def open_file(path: Path) -> Any:
    """AnnData of an .h5ad file, or MuData of an .h5mu file. Raises InputError: it cannot be read, or a package is not installed."""
    check_file(path)
    package = "anndata" if path.suffix.lower() == ".h5ad" else "mudata"
    try:
        if package == "anndata":
            from anndata import read_h5ad as opener
        else:
            from mudata import read_h5mu as opener
    except ImportError:
        raise InputError(
            f"{path}: {package} is not installed; expected it, to read {path.suffix} files; install it: pip install 'polyvae[omics]'"
        ) from None
    with reading(str(path), f"a file that {package} wrote", "write it again"):
        return opener(path)

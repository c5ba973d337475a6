"""One column of a table: found by name, with ids, whatever the file."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest

from polyvae.data.readers.columns import column_of, columns_of, plain
from polyvae.utils.errors import InputError


def test_a_column_is_read_from_every_kind_of_table(tmp_path):
    table = pd.DataFrame({"id": ["a", "b", "c"], "text": ["x", "y", "z"], "group": ["low", None, "high"]})
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    table.to_parquet(tmp_path / "t.parquet")
    table.set_index("id").to_parquet(tmp_path / "indexed.parquet")
    for name in ("t.csv", "t.tsv", "t.parquet", "indexed.parquet"):
        assert columns_of(tmp_path / name) == ["id", "text", "group"]
        assert column_of(tmp_path / name, "group") == {"a": "low", "b": None, "c": "high"}
        assert column_of(tmp_path / name, "group", "text") == {"x": "low", "y": None, "z": "high"}


def test_what_is_wrong_with_it_is_one_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,group\na,1\na,2\n")
    with pytest.raises(InputError, match="more than once"):
        column_of(path, "group")
    with pytest.raises(InputError, match="did you mean 'group'"):
        column_of(path, "grup")
    path.write_text("id,group\na,1\nb\n")
    with pytest.raises(InputError, match="1 cell in line 3; expected 2"):
        column_of(path, "group")
    with pytest.raises(InputError, match="no such file"):
        columns_of(tmp_path / "t.npz")
    with pytest.raises(InputError, match="no such file"):
        columns_of(tmp_path / "absent.csv")


def test_numbers_are_numbers_only_where_all_are():
    assert plain({"a": "1", "b": None, "c": "3"}) == {"a": 1, "b": None, "c": 3}
    assert plain({"a": "1.5", "b": "2"}) == {"a": 1.5, "b": 2.0}
    assert plain({"a": "1", "b": "x"}) == {"a": "1", "b": "x"}
    assert plain({"a": True, "b": False}) == {"a": True, "b": False}


def test_a_column_of_a_text_file_takes_the_memory_of_a_column(tmp_path):
    path, row = tmp_path / "wide.csv", ",".join(["0.125"] * 1000)
    names = ",".join(f"g{at}" for at in range(1000))
    path.write_text(f"id,{names}\n" + "".join(f"s{at},{row}\n" for at in range(500)))
    tracemalloc.start()
    assert len(columns_of(path)) == 1001
    assert column_of(path, "g7")["s499"] == "0.125"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20  # the 500,000 cells take 29 MB


def test_of_a_parquet_file_only_the_columns_that_are_wanted_are_decoded(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    frame = pd.DataFrame(
        {"big": np.arange(5000.0), "batch": ["a", "b"] * 2500}, [f"s{i}" for i in range(5000)]
    )
    path = tmp_path / "cells.parquet"
    frame.to_parquet(path, compression="gzip")
    wide = pq.ParquetFile(path).metadata.row_group(0).column(0)
    assert wide.path_in_schema == "big"
    stored = bytearray(path.read_bytes())
    start = wide.dictionary_page_offset or wide.data_page_offset
    stored[start : start + wide.total_compressed_size] = bytes(wide.total_compressed_size)
    path.write_bytes(stored)
    assert columns_of(path) == ["index", "big", "batch"]
    assert column_of(path, "batch") == frame["batch"].to_dict()
    with pytest.raises(InputError, match="expected a parquet file"):
        column_of(path, "big")

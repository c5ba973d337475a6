"""One column of a table: found by name, with ids, whatever the file."""

from __future__ import annotations

import tracemalloc

import pytest

from polyvae.data.readers.columns import column_of, columns_of, plain
from polyvae.utils.errors import InputError


def test_a_column_is_read_from_every_kind_of_table(tmp_path):
    pd = pytest.importorskip("pandas")
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

"""Data that a configuration names by a path or a function."""

from __future__ import annotations

import sys

import pytest

import polyvae as pv

RNA = "id,a,b\n" + "".join(f"s{row},{row},{row % 3}\n" for row in range(40))
PROTEIN = "id,p,kind\n" + "".join(f"s{row},{row / 7},{'xy'[row % 2]}\n" for row in range(10, 50))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rna.csv").write_text(RNA)
    (tmp_path / "protein.csv").write_text(PROTEIN)
    return tmp_path


def test_files_are_a_data_set_with_splits(folder):
    data = pv.load_dataset("rna.csv", folder, files=["protein.csv"], labels="kind", seed=3)
    assert data.names == ("rna", "protein")
    assert len(data) == 50
    assert set(data.splits) == {"train", "validation", "test"}
    assert data.card == {"name": "rna.csv, protein.csv", "classes": ["x", "y"]}
    again = pv.load_dataset("rna.csv", folder, files={"protein": "protein.csv"}, labels="kind", seed=3)
    assert again.digest() == data.digest()
    assert pv.load_dataset(str(folder / "rna.csv")).digest() == pv.load_dataset("rna.csv", folder).digest()
    parts = pv.load_dataset("rna.csv", folder, fractions={"train": 0.5, "test": 0.5})
    assert parts.splits == ("train", "test")


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("rna.csv", {"file": ["protein.csv"]}, "no option 'file'; did you mean 'files'"),
        ("rna.csv", {"seed": "x"}, "seed='x'"),
        ("rna.csv", {"files": ["more/rna.csv"]}, "'rna.csv' among the names"),
        ("none.csv", {}, "none.csv: no such file; expected a table"),
        ("folder/none", {}, r"none: no such file"),
        ("polydigit", {}, "unknown; did you mean 'polydigits'"),
        ("nowhere:load", {}, "cannot import 'nowhere:load'"),
        ("own_data:number", {}, "is no function"),
        ("own_data:load", {"row": 3}, "no option 'row'; did you mean 'rows'"),
        ("own_data:load", {"rows": "x"}, "rows='x'"),
        ("own_data:wrong", {}, "returned int; expected MultimodalData"),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_line(folder, monkeypatch, name, options, match):
    (folder / "own_data.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    with pytest.raises(pv.InputError, match=match) as caught:
        pv.load_dataset(name, folder, **options)
    assert "\n" not in str(caught.value)


FUNCTIONS = """
import numpy as np
import polyvae as pv

number = 3

def load(rows: int = 30) -> pv.MultimodalData:
    x = np.linspace(0, 1, rows * 2).reshape(rows, 2)
    return pv.MultimodalData({"u": x, "v": x[:, :1] ** 2}, seed=1)

def wrong():
    return 1
"""


def test_a_function_returns_data_that_are_split(folder, monkeypatch):
    (folder / "own_data.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    data = pv.load_dataset("own_data:load", rows=20)
    assert len(data) == 20
    assert set(data.splits) == {"train", "validation", "test"}

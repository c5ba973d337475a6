"""Inputs that users pass by mistake: each is read rightly, or refused by one line with a remedy."""

from __future__ import annotations

import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy import sparse

import polyvae as pv
from polyvae.data.readers import read
from polyvae.data.readers.classes import Asked
from polyvae.data.readers.columns import plain
from polyvae.data.readers.covariates import merged
from polyvae.data.readers.text import read_sheet
from polyvae.utils.errors import InputError

N = 12
IDS = [f"s{i}" for i in range(N)]
X = np.random.default_rng(0).normal(size=(N, 2))


def frame(column: object) -> pd.DataFrame:
    return pd.DataFrame({"a": X[:, 0], "c": column}, index=pd.Index(IDS, name="id"))


def objects(*values: object) -> pd.Series:
    return pd.Series(list(values) * (N // len(values)), dtype=object, index=IDS)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ([[1, 2]] * N, "got a cell of type list in column 'c'"),
        ([{"a": 1}] * N, "got a cell of type dict in column 'c'"),
        ([np.ones(2)] * N, "got a cell of type ndarray in column 'c'"),
        ([b"x", b"y"] * (N // 2), "got a cell of type bytes in column 'c'"),
        (np.ones(N) * 1j, "got a cell of type complex in column 'c'"),
        (objects(True, 2, 0), r"got booleans beside numbers in 1 of 2 columns \('c'\)"),
        (["1,5", "2,0"] * (N // 2), "got numbers as text in 1 of 2 columns .*1234.5, without separators"),
        (["1,500", "2'000", "3 000"] * (N // 3), "got numbers as text"),
        (["15%", "20 %", "$3", "4€"] * (N // 4), "got numbers as text"),
        (["12:30", "12:45"] * (N // 2), "got dates or times"),
        (["01-Jan-2020", "3 March 2020"] * (N // 2), "got dates or times"),
        (
            ["mg/dl", *["1.5"] * (N - 1)],
            "delete the first row if it is a second line of the header, as 'mg/dl'",
        ),
        (["?", *["1.5"] * (N - 1)], "replace '\\?' by an empty cell or NaN"),
        (["1.5", "2"] * (N // 2), "correct them, as with pandas.to_numeric"),
        (objects(10**400), "got 12 infinite values"),
    ],
)
def test_cells_that_are_no_value_are_refused(column, says):
    with pytest.raises(pv.InputError, match=says) as caught:
        pv.MultimodalData.from_frames({"t": frame(column)}, nan="missing")
    assert str(caught.value).startswith("modality 't': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (frame(pd.arrays.SparseArray([0.0, 1, 2] * 4)), [0, 1, 2]),
        (frame(objects(True, 0, 1)), [1, 0, 1]),
        (frame(objects(Decimal("1.5"), Fraction(1, 2), 3)), [1.5, 0.5, 3]),
        (frame([True, False, True] * 4), [1, 0, 1]),
        (frame(np.array([255, 1, 2] * 4, np.uint8)), [255, 1, 2]),
        (pl.DataFrame({"a": X[:, 0], "c": [Decimal("1.5"), Decimal(2), Decimal(3)] * 4}), [1.5, 2, 3]),
        (pa.table({"a": X[:, 0], "c": pa.array([Decimal("1.5"), None, Decimal(3)] * 4)}), [1.5, 0, 3]),
    ],
)
def test_columns_of_every_type_of_number(table, expected):
    data = pv.MultimodalData.from_frames({"t": table}, nan="missing")
    assert data.values("t")[:3, 1].tolist() == expected


def test_levels_of_an_enum_are_in_its_order():
    table = pl.DataFrame({"e": pl.Series(["x", "y", "x"], dtype=pl.Enum(["y", "x", "z"]))})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pv.MultimodalData.from_frames({"t": table}).levels == {"t": {"e": ("y", "x")}}


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([1.5, 2.5] * 6, "labels: got 1.5; expected classes"),
        ([1, np.inf] * 6, "labels: got inf; expected classes"),
        ([True, 2, 0] * 4, "labels: got booleans beside numbers"),
    ],
)
def test_labels_that_are_no_classes(labels, says):
    with pytest.raises(pv.InputError, match=says):
        pv.MultimodalData.from_frames({"t": frame(1.0)}, labels=labels)


def test_labels_of_numpy_and_python():
    data = pv.MultimodalData.from_frames({"t": frame(1.0)}, labels=[np.str_("b"), "a", None] * 4)
    assert data.labels[:3].tolist() == [1, 0, -1]
    assert pv.MultimodalData.from_frames({"t": frame(1.0)}, labels=[np.int64(1), 2.0] * 6).labels[1] == 2


@pytest.mark.parametrize(
    ("arrays", "given", "says"),
    [
        (X, {"ids": {"x": IDS}}, "ids: modality 'x' is not in the data; known: t"),
        (X, {"columns": {"x": ["a", "b"]}}, "columns: modality 'x' is not in the data"),
        (X[:2], {"ids": ["a", np.nan]}, "got 1 row without an id"),
        (np.array([[True, 2], [0, 1]], dtype=object), {}, "got booleans beside numbers"),
        (torch.eye(3).to_sparse(), {}, "got a sparse tensor.*to_dense"),
        (X * 1j, {}, "complex128"),
    ],
)
def test_arrays_that_are_refused(arrays, given, says):
    with pytest.raises(pv.InputError, match=says):
        pv.MultimodalData.from_arrays({"t": arrays}, **given)


@pytest.mark.parametrize("kind", [">f4", ">i2", np.longdouble, np.float16, np.uint16, bool])
def test_arrays_of_every_type(kind):
    x = np.array([[1, 0], [0, 1]]).astype(kind)
    assert pv.MultimodalData.from_arrays({"t": x}).values("t").tolist() == [[1, 0], [0, 1]]


def test_duplicates_in_a_sparse_matrix_are_added():
    x = sparse.coo_matrix(([1.0, 2.0], ([0, 0], [0, 0])), shape=(2, 2))
    assert pv.MultimodalData.from_arrays({"t": x}).values("t").tolist() == [[3, 0], [0, 0]]


@pytest.mark.parametrize("tables", [[frame(1.0), frame(2.0)], (X, X)])
def test_a_list_of_tables_is_no_array(tables):
    with pytest.raises(
        pv.InputError, match="of tables; expected a mapping from names of modalities to tables"
    ):
        read(tables)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id,a,b,\nx,1.5,2,\ny,2.5,3,\n", [[1.5, 2], [2.5, 3]]),  # trailing columns without a name
        ("id,a,b,,\nx,1.5,2,,\ny,2.5,3,,\n", [[1.5, 2], [2.5, 3]]),
        ("id,a,b\nx,1.5,2,\ny,2.5,3,\n", [[1.5, 2], [2.5, 3]]),  # rows that end with a separator
        ("a,b\nx,1.5,2\ny,2.5,3\n", [[1.5, 2], [2.5, 3]]),  # row names of R
        ("id,a,b\nx,1.5,−2\ny,2.5,3\n", [[1.5, -2], [2.5, 3]]),
        ("\ufeffid;a;b\nx;1,5;2\ny;2,5;3\n", [[1.5, 2], [2.5, 3]]),
        ("id,a,b\nx,true,2\ny,0,3\n", [[1, 2], [0, 3]]),
    ],
)
def test_files_that_are_read(tmp_path, text, expected):
    path = tmp_path / "t.csv"
    path.write_text(text)
    data = read(path).data
    assert data.columns == {"t": ("a", "b")}
    assert data.ids == ["x", "y"]
    assert data.values("t").tolist() == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,a,\nx,1.5,2\ny,2.5,3\n", "got a value in line 2 in a column without a name"),
        ("id,a,b\n,mg/dl,cm\nx,1.5,2\ny,2.5,3\n", "delete the first row"),
        ('id,a,b\nx,"1,234",2\ny,"2,345",3\n', "got numbers as text"),
        ("id,a,b\nx,true,2\ny,2,3\nz,0,3\n", "got booleans beside numbers"),
        ("id,a,b\nx,1 €,2\ny,2 €,3\n", "got text|got numbers as text"),
    ],
)
def test_files_that_are_refused(tmp_path, text, says):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(pv.InputError, match=says) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_no_such_file(tmp_path):
    with pytest.raises(pv.InputError, match="no such file; expected a table"):
        read(tmp_path / "t.csv")


def test_a_constant_column_loses_no_variance():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.MultimodalData({"t": np.full((4, 1), 1 / 3)})


KNOWN = Asked(known=dict.fromkeys("abc"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("id,a,b\ns1,1,2,3\ns2,1,2\n", "got 4 cells in line 2; expected 3 as in the header"),
        ("# made by me\nid,a,b\ns1,1,2\n", "one column, '# made by me'; .*delete lines before the header"),
        ("id|a|b\ns1|1|2\n", r"one column, 'id\|a\|b'; expected several, .*; save it with one of these"),
        (
            "id,a,b\ns1,n.a.,2\ns2,1,2\n",
            "such as 'n.a.'.* beside numbers; expected numbers; replace 'n.a.' by an empty",
        ),
        (
            'id,a,b\ns1,"1,234",2\ns2,1,2\n',
            "such as '1,234'.*; write numbers without separators of thousands",
        ),
        ("id,a,b\ns1,10%,2\ns2,1,2\n", "such as '10%'.*; write numbers without separators of thousands"),
        ("id,a,b\ns1,2020-01-02,2\ns2,1,2\n", "such as '2020-01-02'.*; convert dates to a number of days"),
    ],
)
def test_text_files_that_are_no_tables_are_answered_with_the_remedy(tmp_path, text, match):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=match) as problem:
        read_sheet(path, None, "missing", None)
    assert "\n" not in str(problem.value)
    if "such as" in match:
        with pytest.raises(InputError, match="expected numbers, as in the training data; ") as problem:
            read_sheet(path, None, "missing", None, KNOWN)
        assert "kinds=" not in str(problem.value)


def test_a_line_that_states_the_separator_is_no_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"sep=;\r\nid;a;b\r\ns1;1,5;2\r\n")
    sheet = read_sheet(path, None, "missing", None)
    assert sheet.columns == ("a", "b")
    assert sheet.part.values.tolist() == [[1.5, 2.0]]


def test_a_name_with_an_underscore_is_no_number(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,a,slide\n" + "".join(f"s{i},{i}.5,{i % 2 + 1}_{i % 3}\n" for i in range(18)))
    sheet = read_sheet(path, None, "missing", None)
    assert sheet.part.levels["slide"] == ("1_0", "1_1", "1_2", "2_0", "2_1", "2_2")
    aside = read_sheet(path, None, "missing", None, Asked(aside=["slide"]))
    assert merged({"a": aside.part}, {"a"})["slide"]["s1"] == "2_1"
    assert plain({"s1": "1_0"}) == {"s1": "1_0"}

"""Data frames: outer join on ids, errors of one line, and the way back."""

from __future__ import annotations

import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import polyvae as pv
from polyvae.data.groups import Decoder
from polyvae.data.readers import read
from polyvae.data.schema import Schema


def frame(ids, columns=("a", "b"), start=0.0):
    x = start + np.arange(len(ids) * len(columns), dtype=float).reshape(len(ids), len(columns))
    return pd.DataFrame(x, index=pd.Index(ids, name="patient"), columns=list(columns))


def as_came(given_):
    """The way through the schema and back, with the values as they are."""
    data, layout = given_
    schema = Schema.fit(data)
    values = {name: data.values(name).double().numpy() for name in data.names}
    return layout.back(values, schema.columns, data.ids)


def test_frames_are_joined_on_their_index():
    data = pv.MultimodalData.from_frames(
        {"rna": frame(["s3", "s1", "s2"]), "protein": frame(["s2", "s4", "s3"], ("p",))}
    )
    assert data.ids == ["s3", "s1", "s2", "s4"]
    assert data.mask.tolist() == [[True, True, True, False], [True, False, True, True]]
    assert data.values("protein")[:, 0].tolist() == [2, 0, 0, 1]
    assert data.columns == {"rna": ("a", "b"), "protein": ("p",)}


@pytest.mark.parametrize(
    "library", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"]
)
def test_an_id_column_of_any_library_returns_where_it_was(library):
    rna = library({"a": [1.0, 2.0], "sample": ["x", "y"], "b": [3, 4]})
    protein = library({"sample": ["y", "z"], "p": [5.0, 6.0]})
    given_ = read({"rna": rna, "protein": protein}, id="sample")
    assert given_.data.ids == ["x", "y", "z"]
    back = as_came(given_)
    assert type(back["rna"]) is type(rna)
    names = back["rna"].columns if library is not pa.table else back["rna"].column_names
    assert list(names) == ["a", "sample", "b"]
    sample = back["protein"]["sample"]
    assert (sample.to_pylist() if library is pa.table else list(sample)) == ["x", "y", "z"]


def test_default_indices_are_not_paired_in_silence():
    rows = {"x": pd.DataFrame({"a": [1.0, 2.0]}), "y": pd.DataFrame({"b": [1.0, 2.0]})}
    with pytest.raises(pv.InputError, match="would pair by position"):
        pv.MultimodalData.from_frames(rows)
    data = pv.MultimodalData.from_frames(rows, id=False)
    assert data.ids is None
    with pytest.raises(pv.InputError, match="different numbers of rows"):
        pv.MultimodalData.from_frames(rows | {"y": pd.DataFrame({"b": [1.0]})}, id=False)
    one = pv.MultimodalData.from_frames({"x": rows["x"]})
    assert one.ids == [0, 1]


@pytest.mark.parametrize(
    ("frames", "match"),
    [
        ({"x": frame(["s", "s"])}, r"1 id more than once \('s'\)"),
        ({"x": frame(["s", None])}, "1 row without an id"),
        ({"x": frame([1, 2], ("a", "a"))}, r"1 column name more than once \('a'\)"),
        ({"x": frame([1, 2]), "y": frame([3, 4])}, "no sample with two modalities"),
        ({"x": frame(["001", "002"]), "y": frame([1, 2])}, "2 ids differ between modalities in case"),
        ({"x": frame([1, 2]) / 0}, r"infinite values in 2 columns \('a', 'b'\)|infinite"),
        (
            {"x": frame([1, 2]).assign(t=["u", "v"])},
            r"got text in 1 of 3 columns \('t'; such as 'u'\) with 2 values in 2 rows, as ids",
        ),
        ({"x": frame([1, 2]).assign(t=pd.to_datetime(["2020", "2021"]))}, "dates or times in 1 of 3"),
        ({"x": frame([1, 2]).assign(a=np.nan)}, r"2 values NaN or null in 1 column \('a'\)"),
        ({"x": frame([])}, "no rows"),
        ({"x": frame([1, 2])[[]]}, "no columns|no modality"),
        ({}, "no table"),
        ({"x": [1, 2]}, "expected a data frame"),
    ],
)
def test_a_bad_frame_is_one_clear_line(frames, match):
    with pytest.raises(pv.InputError, match=match) as caught:
        pv.MultimodalData.from_frames(frames)
    assert "\n" not in str(caught.value)


def test_a_transposed_table_among_others_gives_a_warning():
    ids = [f"p{row}" for row in range(4)]
    rna, protein = (pd.DataFrame(np.ones((4, 2)), ids, list(names)) for names in ("ab", "cd"))
    lipid = pd.DataFrame(np.ones((3, 4)), list("xyz"), ids)
    with pytest.warns(UserWarning, match=r"'lipid' has 4 ids of samples .*: transpose it"):
        pv.MultimodalData.from_frames({"rna": rna, "protein": protein, "lipid": lipid})
    with pytest.raises(pv.InputError, match=r"4 column names are in common .*transpose the tables"):
        pv.MultimodalData.from_frames({"rna": rna.T, "lipid": lipid})


def test_ids_of_different_types_are_compared_as_text():
    data = pv.MultimodalData.from_frames({"x": frame([1, 2]), "y": frame(["2", "3"])})
    assert data.ids == [1, 2, "3"]
    with pytest.warns(UserWarning, match="1 id differs between modalities .* '2' and '02'|'02' and '2'"):
        pv.MultimodalData.from_frames({"x": frame(["1", "2"]), "y": frame(["1", "02"])})


def test_booleans_nullable_and_object_columns_are_numbers():
    table = pd.DataFrame(
        {
            "flag": [True, False, True],
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "maybe": pd.array([True, None, False], dtype="boolean"),
            "mixed": np.array([1, None, 2.5], dtype=object),
        },
        index=["x", "y", "z"],
    )
    data = pv.MultimodalData.from_frames({"t": table}, nan="missing")
    assert data.values("t").tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [1, 3, 0, 2.5]]
    assert data.observed("t").tolist() == [[True] * 4, [True, False, False, False], [True] * 4]
    assert (
        pv.MultimodalData.from_frames({"t": frame([1, 2]).astype("float32")}).values("t").dtype.itemsize == 4
    )


INTEGERS = {
    "whole": pd.array([3, 5, 9], "int64"),
    "small": pd.array([3, 5, 250], "uint8"),
    "nullable": pd.array([3, 5, 9], "Int64"),
    "gaps": pd.array([3, None, 9], "Int32"),
    "arrow": pd.array([3, 5, 9], "int64[pyarrow]"),
    "truth": pd.array([True, False, True], "bool"),
    "flags": pd.array([True, False, True], "boolean"),
    "stage": pd.Categorical(["i", "ii", "i"]),
    "real": [3.0, 5.0, 9.0],
}


def test_columns_of_pandas_come_back_in_their_type_where_their_values_are_whole():
    table = pd.DataFrame(INTEGERS, index=["x", "y", "z"])
    data, layout = read({"t": table})
    values = {"t": np.where(data.observed("t").numpy(), data.values("t").numpy(), 4)}
    decoder = Decoder(Schema.fit(data).groups)
    back = layout.back(values, data.columns, data.ids, decoder)["t"]
    assert back.dtypes.astype(str).to_dict() == table.dtypes.astype(str).to_dict()
    pd.testing.assert_frame_equal(back, table.assign(gaps=pd.array([3, 4, 9], "Int32")))
    place = list(data.columns["t"]).index("gaps")
    values["t"][1, place] = 61.7  # a mean, which no type of integers has
    values["t"][0, list(data.columns["t"]).index("small")] = 256
    back = layout.back(values, data.columns, data.ids, decoder)["t"]
    assert back["gaps"].tolist() == [3, 61.7, 9]
    assert back["small"].tolist() == [256, 5, 250]
    assert {str(kind) for kind in back[["gaps", "small"]].dtypes} == {"float64"}
    z = layout.embedding(np.arange(6.0).reshape(3, 2), data.ids, ["whole", "z1"])
    assert str(z["whole"].dtype) == "float64"


@pytest.mark.parametrize("library", [pl.DataFrame, pa.table], ids=["polars", "pyarrow"])
def test_columns_of_other_libraries_come_back_in_their_type(library):
    stage = pl.Series(["i", "ii", "i"], dtype=pl.Categorical)
    stage = stage if library is pl.DataFrame else pa.array(["i", "ii", "i"]).dictionary_encode()
    table = library(
        {"id": ["x", "y", "z"], "n": np.array([3, 5, 9], np.int32), "stage": stage, "b": [True, False, True]}
    )
    data, layout = read({"t": table}, id="id")
    values = {"t": data.values("t").numpy()}
    back = layout.back(values, data.columns, data.ids, Decoder(Schema.fit(data).groups))["t"]
    kinds = (
        (lambda t: t.schema)
        if library is pl.DataFrame
        else (lambda t: [str(t.schema.field(name).type) for name in ("n", "b")])
    )
    assert kinds(back) == kinds(table)
    values["t"][0, 0] = 3.5
    back = layout.back(values, data.columns, data.ids, Decoder(Schema.fit(data).groups))["t"]
    assert (back["n"].to_list() if library is pl.DataFrame else back["n"].to_pylist()) == [3.5, 5, 9]


def test_decimals_none_and_sparse_or_short_floats_are_numbers():
    table = pd.DataFrame({"price": [Decimal("1.5"), Decimal(2)]}, index=["x", "y"])
    assert read(table).data.values("table").tolist() == [[1.5], [2]]
    assert read({"x": [[1, None], [2, 3]]}).data.observed("x").tolist() == [[True, False], [True, True]]
    assert read({"x": sparse.csr_matrix(np.eye(2))}).data.values("x").tolist() == [[1, 0], [0, 1]]
    assert read({"x": torch.ones(2, 2, dtype=torch.bfloat16)}).data.values("x").dtype == torch.float32


@pytest.mark.parametrize(
    ("x", "settings", "match"),
    [
        (None, {}, "got NoneType"),
        ({}, {}, "got dict"),
        (np.ones(3), {}, "a size after the number of samples"),
        ({"x": np.array([["a"]])}, {}, "expected real numbers"),
        ({"x": np.array([[np.inf, 1]])}, {}, r"1 infinite value in 1 column \('0'\)"),
        (np.ones((2, 1)), {"nan": "drop"}, "nan: got 'drop'"),
        (np.ones((2, 1)), {"labels": [1]}, "labels: got 1; expected 2"),
        (pd.DataFrame({"a": [1.0]}), {"id": True}, "id: got True"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(x, settings, match):
    with pytest.raises(pv.InputError, match=match) as caught:
        read(x, **settings)
    assert "\n" not in str(caught.value)


def test_labels_are_a_column_a_mapping_or_a_series():
    rna = frame(["s1", "s2", "s3"]).assign(kind=["b", "a", None])
    data = pv.MultimodalData.from_frames({"rna": rna}, labels="kind")
    assert data.labels.tolist() == [1, 0, -1]
    assert data.card == {"classes": ["a", "b"]}
    assert data.columns == {"rna": ("a", "b")}
    clinical = frame(["s3", "s1"])[[]].assign(kind=[4, 7])
    data = pv.MultimodalData.from_frames({"rna": frame(["s1", "s2"]), "c": clinical}, labels="kind")
    assert data.names == ("rna",)
    assert data.labels.tolist() == [7, -1, 4]
    series = pd.Series([0, 1], index=["s2", "s1"])
    assert pv.MultimodalData.from_frames({"rna": frame(["s1", "s2"])}, labels=series).labels.tolist() == [
        1,
        0,
    ]


def test_an_index_keeps_its_name_and_type():
    table = frame(pd.to_datetime(["2020-01-01", "2021-01-01"]))
    back = as_came(read(table))
    pd.testing.assert_frame_equal(back, table)
    numbers = pd.DataFrame(np.ones((2, 2)), index=pd.Index([5, 3], dtype="int32", name="n"))
    back = as_came(read({"a": numbers, "b": numbers.iloc[:1]}))
    assert back["a"].index.equals(numbers.index)
    assert back["a"].index.dtype == "int32"
    assert list(back["a"].columns) == [0, 1]


def test_arrays_go_in_and_out():
    x = np.arange(6.0).reshape(3, 2)
    x[1, 0] = np.nan
    given_ = read(x)
    assert given_.data.names == ("table",)
    assert isinstance(as_came(given_), np.ndarray)
    back = as_came(read({"u": np.ones((3, 2)), "v": np.ones((3, 4, 5))}))
    assert back["v"].shape == (3, 4, 5)


def test_multimodal_data_keep_what_is_known_about_the_rows():
    data = pv.MultimodalData.from_frames(
        {"rna": frame(["s1", "s2", "s3"])},
        labels=[0, 1, 1],
        groups=["g", "g", "h"],
        splits={"all": [0, 1, 2]},
    )
    back = as_came(read(data))
    assert back.labels.tolist() == [0, 1, 1]
    assert back.ids == data.ids
    assert back.splits == ("all",)
    assert back.columns == data.columns


def test_embeddings_are_tables_with_the_ids():
    z = np.arange(4.0).reshape(2, 2)
    table = frame(["s1", "s2"])
    out = read(table).layout.embedding(z, ["s1", "s2"], ["z0", "z1"])
    assert out.index.equals(table.index)
    assert list(out.columns) == ["z0", "z1"]
    out = read(pl.DataFrame({"id": ["s", "t"], "a": [1.0, 2.0]}), id="id").layout.embedding(
        z, ["s", "t"], ["z0", "z1"]
    )
    assert out.columns == ["id", "z0", "z1"]


def test_ten_thousand_columns_of_forty_rows():
    table = pd.DataFrame(
        np.random.default_rng(0).normal(size=(40, 10_000)), index=[f"s{row}" for row in range(40)]
    )
    back = as_came(read({"x": table}))
    pd.testing.assert_frame_equal(back["x"], table)


names = st.text("abcdefgh", min_size=1, max_size=3)
numbers = st.floats(-1e6, 1e6) | st.just(float("nan"))


@st.composite
def ragged(draw):
    people = draw(st.lists(names, min_size=2, max_size=6, unique=True))
    frames = {}
    for name in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        rows = [people[0], *draw(st.lists(st.sampled_from(people[1:]), unique=True))]
        rows = draw(st.permutations(rows))
        columns = draw(st.lists(names, min_size=1, max_size=3, unique=True))
        values = [[draw(numbers) for _ in columns] for _ in rows]
        values[0] = [draw(st.floats(-1, 1)) for _ in columns]
        frames[name] = pd.DataFrame(values, index=rows, columns=columns, dtype=float)
    return frames


@settings(max_examples=60, deadline=None)
@given(ragged())
def test_random_ragged_frames_return_as_they_came(frames):
    """Values, columns and their order, ids; what was not measured is not observed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data, layout = read(frames)
    values = {}
    for name in data.names:
        seen = data.observed(name).numpy()
        values[name] = np.where(seen, data.values(name).numpy(), np.nan)
    back = layout.back(values, data.columns, data.ids)
    assert list(back) == list(frames)
    assert data.ids == list(dict.fromkeys(row for table in frames.values() for row in table.index))
    for name, table in frames.items():
        pd.testing.assert_frame_equal(back[name].loc[table.index], table)
        assert back[name].drop(index=table.index).isna().all(axis=None)


def test_a_table_of_covariates_alone_is_no_modality():
    found = pd.DataFrame({"batch": ["x", "y"]}, index=["b", "a"])
    data = pv.MultimodalData.from_frames({"rna": frame(["a", "b"]), "samples": found}, covariates=["batch"])
    assert data.names == ("rna",)
    assert data.covariates["batch"].tolist() == ["y", "x"]
    with pytest.raises(pv.InputError, match="modality 'samples': got no columns of numbers"):
        pv.MultimodalData.from_frames({"rna": frame(["a", "b"]), "samples": found.drop(columns="batch")})

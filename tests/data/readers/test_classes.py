"""Which columns of a table are classes, and which are refused with a remedy."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import polyvae as pv

N = 12
IDS = [f"s{i}" for i in range(N)]


def frame(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"x": np.arange(N, dtype=float), **columns}, index=IDS)


@pytest.mark.parametrize(
    ("column", "match"),
    [
        (["1", "2", "--"] * 4, "beside numbers; expected numbers; replace '--' by an empty cell or NaN"),
        ([f"name {i}" for i in range(N)], "12 values in 12 rows, as ids and free text have"),
        (["2020-01-01", "2021-05-05"] * 6, "dates or times in 1 of 2 columns"),
        (pd.to_datetime(["2020", "2021"] * 6), "dates or times in 1 of 2 columns"),
    ],
)
def test_text_that_is_no_class_is_one_line_with_a_remedy(tmp_path, column, match):
    table = frame(t=column)
    table.to_csv(tmp_path / "a.csv", index_label="id")
    for given in (table, tmp_path / "a.csv"):
        with pytest.raises(pv.InputError, match=match) as caught:
            pv.Estimator(steps=1).fit(given)
        assert "'t'" in str(caught.value)
        assert "drop these columns" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_columns_of_classes_in_every_library_and_in_files(tmp_path):
    table = frame(
        t=["b", "a", None] * 4,
        flag=[True, False, None, True] * 3,
        c=pd.Categorical(["u", "v"] * 6, ["v", "u", "w"]),
    )
    plain = table.astype({"c": object})
    plain.to_csv(tmp_path / "t.csv", index_label="id")
    plain.to_parquet(tmp_path / "t.parquet")
    with_ids = plain.reset_index(names="id")
    found = [
        pv.MultimodalData.from_frames({"t": plain}, nan="missing"),
        pv.MultimodalData.from_frames({"t": pl.from_pandas(with_ids)}, id="id", nan="missing"),
        pv.MultimodalData.from_frames({"t": pa.Table.from_pandas(with_ids)}, id="id", nan="missing"),
        pv.MultimodalData.from_csv(tmp_path / "t.csv", nan="missing"),
        pv.MultimodalData.from_csv(tmp_path / "t.parquet", nan="missing"),
    ]
    for data in found:
        assert data.columns["t"] == ("x", "t=a", "t=b", "flag", "c=u", "c=v")
        assert data.levels["t"] == {"t": ("a", "b"), "flag": (False, True), "c": ("u", "v")}
        assert data.values("t")[:3, 1:4].tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]
        assert data.observed("t")[:3, 1:4].tolist() == [
            [True, True, True],
            [True, True, True],
            [False, False, False],
        ]
    own = pv.MultimodalData.from_frames({"t": table}, nan="missing")
    assert own.levels["t"]["c"] == ("v", "u")  # the order of the categories, of those that occur
    with pytest.raises(pv.InputError, match=r"NaN or null in 2 columns \('t', 'flag'\)"):
        pv.MultimodalData.from_frames({"t": table})


def test_ordered_categories_are_ranks_of_all_levels():
    stage = pd.Categorical(["low", "high", None] * 4, ["low", "medium", "high"], ordered=True)
    bins = pd.cut(np.arange(N), [-1, 5, 20])
    data = pv.MultimodalData.from_frames({"t": frame(stage=stage, bins=bins)}, nan="missing")
    assert data.columns["t"] == ("x", "stage", "bins")
    assert data.levels["t"]["stage"] == ("low", "medium", "high")
    assert data.levels["t"]["bins"] == ("(-1, 5]", "(5, 20]")
    assert data.values("t")[:2, 1].tolist() == [0, 2]


def test_a_class_that_looks_like_a_mark_of_missing_values_is_a_warning():
    with pytest.warns(UserWarning, match="'--' of column 't' is taken as a class"):
        pv.MultimodalData.from_frames({"t": frame(t=["a", "--", "b"] * 4)})


def test_kinds_make_classes_of_text_beside_numbers(tmp_path):
    frame(t=["1", "2", "X"] * 4).to_csv(tmp_path / "a.csv", index_label="id")
    est = pv.Estimator(steps=1, members=2, latent=2, kinds={"a": {"t": "categorical"}})
    with pytest.warns(UserWarning, match="one modality"):
        est.fit({"a": tmp_path / "a.csv"})
    assert est.schema_["a"].groups[0].levels == ["1", "2", "X"]
    (tmp_path / "b.csv").write_text(
        "id,x,t\nn1,0,1\nn2,1,2\nn3,1,\n"
    )  # looks like numbers, and is read as classes
    filled = est.impute({"a": tmp_path / "b.csv"})["a"]
    assert filled["t"].tolist()[:2] == ["1", "2"]
    (tmp_path / "c.csv").write_text("id,x,t,more\nn1,0,1,word\nn2,--,2,text\n")
    with pytest.raises(pv.InputError, match="replace '--'"):
        est.impute({"a": tmp_path / "c.csv"})


def test_text_columns_that_the_training_data_lacked_are_ignored_with_a_warning():
    est = pv.Estimator(steps=1, members=2, latent=2)
    with pytest.warns(UserWarning, match="one modality"):
        est.fit(frame(t=["a", "b"] * 6))
    with pytest.warns(UserWarning, match=r"1 column \('note'\) not in the training data"):
        est.impute(frame(t=["a", "b"] * 6, note=IDS))


def test_data_with_classes_keep_them_through_rows_selection_and_digests():
    data = pv.MultimodalData.from_frames({"t": frame(t=["a", "b"] * 6), "u": frame()})
    assert data.rows([0, 3]).levels == data.levels
    assert data.select("u").levels == {}
    other = pv.MultimodalData.from_frames(
        {"t": frame(**{"t=a": [1, 0] * 6, "t=b": [0, 1] * 6}), "u": frame()}
    )
    assert other.levels == {}
    assert other.digest() != data.digest()
    for levels in ({"t": {"t": ("a", "c")}}, {"t": {"q": ("a",)}}, {"v": {"t": ("a",)}}):
        with pytest.raises(pv.InputError, match="levels: "):
            pv.MultimodalData({"t": np.zeros((3, 2))}, columns={"t": ("t=a", "t=b")}, levels=levels)


def test_categories_that_look_like_numbers_are_classes():
    stage = pd.Categorical(["2", "10", "2"] * 4)
    data = pv.MultimodalData.from_frames({"t": frame(stage=stage)})
    assert set(data.levels["t"]["stage"]) == {"2", "10"}

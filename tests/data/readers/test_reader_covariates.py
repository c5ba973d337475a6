"""Covariates that are joined with tables on ids."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import polars as pl
import pytest

from polyvae import InputError, MultimodalData, load_dataset

RNA = pd.DataFrame({"g1": [1.0, 2.0, 3.0], "g2": [3.0, 4.0, 5.0]}, index=["s1", "s2", "s3"])
PROTEIN = pd.DataFrame({"p": [5.0, 6.0]}, index=["s3", "s4"])
BATCH = {"s4": "b", "s1": "a", "s3": "b", "s2": "a", "other": "c"}


@pytest.mark.parametrize(
    "covariates",
    [
        {"batch": BATCH},
        {"batch": pd.Series(BATCH)},
        {"batch": ["a", "a", "b", "b"]},
        pd.DataFrame({"batch": BATCH}),
    ],
    ids=["mapping", "series", "sequence", "frame"],
)
def test_values_are_joined_on_ids(covariates):
    data = MultimodalData.from_frames({"rna": RNA, "protein": PROTEIN}, covariates=covariates)
    assert data.ids == ["s1", "s2", "s3", "s4"]
    assert data.covariates["batch"].tolist() == ["a", "a", "b", "b"]


def test_columns_of_tables_are_no_features():
    frames = {"rna": RNA.assign(site=["u", "v", "v"]), "protein": PROTEIN.assign(site=["v", "u"])}
    data = MultimodalData.from_frames(frames, covariates=["site"])
    assert data.columns == {"rna": ("g1", "g2"), "protein": ("p",)}
    assert data.covariates["site"].tolist() == ["u", "v", "v", "u"]
    table = pl.DataFrame({"id": ["x", "y"], "a": [1.0, 2.0], "age": [30, 40]})
    single = MultimodalData.from_frames({"t": table}, id="id", covariates=["age"])
    assert single.covariates["age"].tolist() == [30, 40]


def test_columns_of_obs():
    adata = anndata.AnnData(
        RNA.to_numpy(), obs=pd.DataFrame({"lane": pd.Categorical([2, 1, 2])}, index=RNA.index)
    )
    data = MultimodalData.from_anndata(adata, covariates=["lane"])
    assert data.covariates["lane"].tolist() == ["2", "1", "2"]
    with pytest.raises(InputError, match="obs has no column 'land'; did you mean 'lane'"):
        MultimodalData.from_anndata(adata, covariates=["land"])


def test_a_file_of_covariates(tmp_path):
    RNA.to_csv(tmp_path / "rna.csv")
    (tmp_path / "samples.csv").write_text("id,batch,age\ns3,b,3\ns1,a,1\ns2,a,2.5\n")
    data = load_dataset(
        "rna.csv", root=tmp_path, covariates="samples.csv", fractions={"train": 0.5, "test": 0.5}
    )
    assert data.covariates["batch"].tolist() == ["a", "a", "b"]
    assert data.covariates["age"].tolist() == [1, 2.5, 3]


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        ({"batch": {"s1": "a"}}, "no value for 3 of 4 samples"),
        ({"batch": {**BATCH, "s2": None}}, "1 missing"),
        (["nothing"], "no table has a column 'nothing'"),
        (3, "expected a mapping"),
        ("missing.csv", "no such file"),
        ("samples.xlsx", "no such file"),
    ],
)
def test_covariates_that_are_refused(covariates, message):
    with pytest.raises(InputError, match=message):
        MultimodalData.from_frames({"rna": RNA, "protein": PROTEIN}, covariates=covariates)


def test_tables_that_disagree():
    frames = {"rna": RNA.assign(site=["u", "v", "v"]), "protein": PROTEIN.assign(site=["u", "u"])}
    with pytest.raises(InputError, match="'v' and 'u' for sample 's3'"):
        MultimodalData.from_frames(frames, covariates=["site"])


def test_names_without_a_table():
    with pytest.raises(InputError, match="names of columns"):
        MultimodalData.from_arrays({"a": np.zeros((2, 1))}, covariates=["batch"])


def test_tables_without_ids_are_compared_by_position():
    first = {"a": pl.DataFrame({"x": [1.0, 2.0], "site": ["u", "v"]})}
    same = MultimodalData.from_frames(
        {**first, "b": pl.DataFrame({"y": [1.0, 2.0], "site": ["u", "v"]})}, id=False, covariates=["site"]
    )
    assert same.covariates["site"].tolist() == ["u", "v"]
    with pytest.raises(InputError, match="'v' and 'w' for sample 1"):
        MultimodalData.from_frames(
            {**first, "b": pl.DataFrame({"y": [1.0, 2.0], "site": ["u", "w"]})}, id=False, covariates=["site"]
        )


@pytest.mark.parametrize("ordered", [False, True])
def test_categories_of_integers_are_levels(ordered):
    site = pd.Categorical([2, 10, 2], categories=[10, 2], ordered=ordered)
    data = MultimodalData.from_frames({"rna": RNA.assign(site=site)}, covariates=["site"])
    assert data.covariates["site"].tolist() == ["2", "10", "2"]


@pytest.mark.parametrize(
    "text", ["id;batch;age\ns3;b;3\ns1;a;1\ns2;a;2.5\n", "id,batch,age\r\ns1,a,1\r\ns2,a,2.5\r\ns3,b,3\r\n"]
)
def test_files_of_covariates_as_they_are_written(tmp_path, text):
    (tmp_path / "samples.csv").write_text(text)
    data = MultimodalData.from_frames({"rna": RNA}, covariates=str(tmp_path / "samples.csv"))
    assert data.covariates["batch"].tolist() == ["a", "a", "b"]
    assert data.covariates["age"].tolist() == [1, 2.5, 3]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("twice.csv", "id,batch,batch\ns1,a,a\n", "batch"),
        ("other.xlsx", "no workbook", "csv"),
        ("empty.csv", "", "empty"),
    ],
)
def test_files_of_covariates_that_are_refused(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message):
        MultimodalData.from_frames({"rna": RNA}, covariates=str(tmp_path / file))

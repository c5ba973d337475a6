"""AnnData, data frames, arrays and files as one data set: rows by id, or by order where that is stated."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest

import polyvae as pv
from polyvae.data.readers import read
from polyvae.data.readers.together import TogetherLayout
from polyvae.data.schema import Schema

ad = pytest.importorskip("anndata")
N = 6
IDS = [f"c{at}" for at in range(N)]
RANDOM = np.random.default_rng(0)
X = RANDOM.poisson(3, (N, 4)).astype(np.float32)
SCAN = RANDOM.normal(size=(N, 1, 2, 2))


def cells(ids=IDS) -> ad.AnnData:
    obs = pd.DataFrame(
        {"kind": ["a", "b"] * (len(ids) // 2), "batch": pd.Categorical(["1", "2"] * (len(ids) // 2))},
        index=ids,
    )
    return ad.AnnData(X[: len(ids)], obs=obs, var=pd.DataFrame(index=list("pqrs")))


def clinical(ids=IDS) -> pd.DataFrame:
    return pd.DataFrame({"age": 40.5 + np.arange(len(ids)), "bmi": 20.5 + np.arange(len(ids))}, index=ids)


def test_rows_are_matched_by_name_and_arrays_by_order_which_is_stated():
    frame = clinical(IDS[::-1]).iloc[:4]
    with pytest.warns(
        UserWarning, match=r"'scan' has no ids; row i is taken to be the sample in row i of 'rna' \(6 rows\)"
    ) as caught:
        data = pv.data.join(
            {"rna": cells(), "clinical": frame, "scan": SCAN}, labels="kind", covariates=["batch"]
        )
    assert len(caught) == 1
    assert data.ids == IDS
    assert data.mask.tolist() == [[True] * 6, [False] * 2 + [True] * 4, [True] * 6]
    assert data.values("clinical")[:, 0].tolist() == [0, 0, 43.5, 42.5, 41.5, 40.5]
    assert np.array_equal(data.values("scan").numpy(), SCAN)
    assert data.columns == {"rna": tuple("pqrs"), "clinical": ("age", "bmi")}
    assert data.labels.tolist() == [0, 1] * 3
    assert data.modalities(covariates=("batch",))[0].covariates[0].levels == ("1", "2")


def test_given_ids_and_other_libraries():
    frame = pl.DataFrame({"id": IDS[2:], "age": np.arange(4.0)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = pv.data.join({"t": frame, "scan": SCAN, "rna": cells()}, id="id", ids={"scan": IDS[::-1]})
    assert data.ids == [*IDS[2:], "c1", "c0"]
    assert np.array_equal(data.values("scan").numpy(), SCAN[[3, 2, 1, 0, 4, 5]])


def test_numbered_rows_are_no_ids_beside_named_ones():
    with pytest.warns(
        UserWarning, match="'clinical' has no ids; row i is taken to be the sample in row i of 'rna'"
    ):
        data = pv.data.join({"rna": cells(), "clinical": clinical().reset_index(drop=True)})
    assert data.ids == IDS
    assert bool(data.mask.all())


@pytest.mark.parametrize(
    ("data", "given", "says"),
    [
        (
            {"rna": cells(), "scan": SCAN[:5]},
            {},
            "'scan': got 5 rows without ids beside .* none has as many .'rna': 6.; expected as many",
        ),
        (
            {"rna": cells(), "t": clinical(IDS[::-1]), "scan": SCAN},
            {},
            "'rna', 't' have as many rows of different samples or in different orders; expected ids",
        ),
        ({"rna": cells(), "t": clinical([*IDS[:5], "c0"])}, {}, "modality 't': got 1 id more than once"),
        ({"rna": cells(), "t": clinical([f"x{at}" for at in range(N)])}, {}, "no sample with two modalities"),
        ({"rna": cells(), "scan": SCAN}, {"ids": {"scan": IDS[:5]}}, "got 5 ids for 6 rows"),
        ({"rna": cells(), "scan": SCAN}, {"ids": {"scam": IDS}}, "ids: modality 'scam' is not in the data"),
        (
            {"rna": cells(), "t": pv.MultimodalData({"a": X})},
            {},
            "modality 't': got MultimodalData; expected AnnData",
        ),
        ({"rna": cells(), "t": clinical()}, {"labels": "sex"}, "no table has a column 'sex'"),
        ({"rna": cells(), "t": clinical()}, {"covariates": ["sex"]}, "no table has a column 'sex'"),
    ],
)
def test_what_does_not_match_is_one_line(data, given, says):
    with pytest.raises(pv.InputError, match=says) as caught:
        pv.data.join(data, **given)
    assert "\n" not in str(caught.value)


def test_ids_that_are_numbered_from_another_start_are_a_warning():
    frames = {"a": clinical(range(N)), "b": clinical(range(1, N + 1)).rename(columns=str.upper)}
    frames["a"].index = pd.Index(frames["a"].index.tolist(), name="id")
    with pytest.warns(
        UserWarning,
        match="modality 'a' are numbered from 0 and those of 'b' from 1, 6 in each, as if shifted",
    ):
        assert len(pv.data.join({**frames, "scan": SCAN}, ids={"scan": list(range(N))})) == N + 1


def test_results_come_back_as_frames_and_arrays():
    with pytest.warns(UserWarning, match="row i"):
        data, layout = read({"rna": cells(), "scan": SCAN, "t": clinical(IDS[::-1]).iloc[:4].astype(int)})
    assert isinstance(layout, TogetherLayout)
    values = {name: data.values(name).numpy() for name in data.names}
    back = layout.back(values, Schema.fit(data).columns, data.ids)
    assert list(back) == ["rna", "scan", "t"]
    pd.testing.assert_frame_equal(
        back["rna"], pd.DataFrame(X, index=IDS, columns=list("pqrs")), check_dtype=False
    )
    assert np.array_equal(back["scan"], SCAN)
    assert (back["t"].index.tolist(), str(back["t"]["age"].dtype)) == (IDS, "int64")
    assert layout.embedding(np.zeros((N, 2)), data.ids, ["z0", "z1"]).index.tolist() == IDS


def test_files_of_arrays_beside_tables(tmp_path):
    clinical().to_csv(tmp_path / "clinical.csv", index_label="id")
    np.save(tmp_path / "scan.npy", SCAN.astype(np.float32))
    np.savez(tmp_path / "omics.npz", omics=X, ids=np.array(IDS[::-1]))
    cells().write(tmp_path / "rna.h5ad")
    paths = [tmp_path / name for name in ("clinical.csv", "scan.npy", "omics.npz", "rna.h5ad")]
    np.savez(tmp_path / "sorted.npz", sorted=X, ids=np.array(IDS))
    with pytest.raises(
        pv.InputError,
        match="'scan': got 6 rows without ids, and 'clinical', 'omics' have as many rows of different",
    ):
        pv.MultimodalData.from_csv(paths)
    paths[2] = tmp_path / "sorted.npz"
    with pytest.warns(
        UserWarning, match="'scan' has no ids; row i is taken to be the sample in row i of 'clinical'"
    ):
        data = pv.MultimodalData.from_csv(paths)
    assert data.names == ("clinical", "scan", "sorted", "rna")
    assert data.ids == IDS
    assert bool(data.mask.all())
    assert np.array_equal(data.values("scan").numpy(), SCAN.astype(np.float32))
    assert "scan" in data.kept
    with pytest.warns(UserWarning, match="in row i of 'sorted'"):
        given = pv.load_dataset(
            str(paths[1]), files=[str(tmp_path / "sorted.npz")], fractions={"train": 0.5, "test": 0.5}
        )
    assert given.names == ("scan", "sorted")
    assert given.splits
    np.save(tmp_path / "few.npy", SCAN[:5])
    with pytest.raises(pv.InputError, match="'few': got 5 rows without ids"):
        pv.MultimodalData.from_csv([paths[0], tmp_path / "few.npy"])
    np.save(tmp_path / "texts.npy", np.array(["a", "b"]))
    with pytest.raises(pv.InputError, match=r"texts.npy: got .* expected real numbers"):
        read(tmp_path / "texts.npy")
    (tmp_path / "broken.npy").write_text("a,b")
    with pytest.raises(pv.InputError, match=r"broken.npy: .*an array of numbers as numpy.save writes it"):
        read(tmp_path / "broken.npy")


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "semicolons"])
@pytest.mark.parametrize("turned", [False, True])
def test_covariates_in_paths_beside_frames_are_those_of_frames(tmp_path, kind, turned):
    table = clinical().assign(group=["a", "b", "b"] * 2, dose=[0.5, 1.5, 2.0] * 2)
    others = {"rna": cells(), "protein": clinical(IDS[:4]).add_suffix("_p"), "scan": SCAN}
    own = pv.data.join({"clinical": table, **others}, covariates=["group", "dose"])
    path = tmp_path / f"clinical.{'csv' if kind == 'semicolons' else kind}"
    if kind == "parquet":
        table.to_parquet(path)
    else:
        how = (
            {"sep": ";", "decimal": ","} if kind == "semicolons" else {"sep": "\t" if kind == "tsv" else ","}
        )
        table.to_csv(path, index_label="id", **how)
    given = {**others, "clinical": path} if turned else {"clinical": path, **others}
    data = pv.data.join(given, nan="missing", covariates=["group", "dose"])
    assert {name: own.columns.get(name) for name in own.names} == {
        name: data.columns.get(name) for name in own.names
    }
    for name in own.names:
        assert np.array_equal(own.values(name), data.values(name))
    assert data.covariates["group"].tolist() == own.covariates["group"].tolist()
    assert data.covariates["dose"].tolist() == own.covariates["dose"].tolist()


def test_covariates_in_text_are_compared_with_those_of_frames(tmp_path):
    path = tmp_path / "clinical.csv"

    def joined(values, site):
        clinical().assign(site=values).to_csv(path, index_label="id")
        frame = clinical().add_suffix("_p").assign(site=site)
        return pv.data.join({"clinical": path, "other": frame}, covariates=["site"]).covariates["site"]

    assert joined([1, 2, 3] * 2, [1, 2, 3] * 2).tolist() == [1, 2, 3] * 2
    assert joined(["1.0", "2", "3"] * 2, [1.0, 2.0, 3.0] * 2).tolist() == [1, 2, 3] * 2
    levels = ["1", "2", "3"] * 2
    assert joined(levels, pd.Categorical(levels)).tolist() == levels
    assert joined(["01", "2", "3"] * 2, ["01", "2", "3"] * 2).tolist() == ["01", "2", "3"] * 2
    assert joined(["u", None, "v"] * 2, ["u", "w", None] * 2).tolist() == ["u", "w", "v"] * 2
    with pytest.raises(pv.InputError, match="'01' and '1' for sample 'c0'"):
        joined(["01", "2", "3"] * 2, pd.Categorical(levels))
    with pytest.raises(pv.InputError, match="no table has a column 'sites'; did you mean 'site'"):
        pv.data.join({"clinical": path, "other": clinical().add_suffix("_p")}, covariates=["sites"])

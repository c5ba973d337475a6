"""A modality in a sparse matrix or a file gives the same batches, parts and statistics as an array in memory."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from scipy import sparse

import polyvae as pv
from polyvae.data.kept import Kept
from polyvae.data.readers import read
from polyvae.data.schema import Schema
from polyvae.testing import check_data

KINDS = ("sparse", "integers", "npy", "hdf5", "zarr", "backed", "backed dense")
MASK = [True] * 30 + [False] * 10


def on_disk(kind, x, folder):
    """The array ``x`` in one of the kinds of storage that data leave where they are."""
    folder.mkdir(exist_ok=True)
    path = folder / "x"
    if kind == "sparse":
        return sparse.coo_matrix(x)
    if kind == "integers":
        return sparse.csr_matrix(x.astype(np.int64))
    if kind == "npy":
        np.save(path, x)
        return np.load(path.with_suffix(".npy"), mmap_mode="r")
    if kind == "hdf5":
        return h5py.File(path, "w").create_dataset("x", data=x)
    if kind == "zarr":
        return zarr.create_array(str(path), data=x, chunks=(9, 7))
    anndata.AnnData(sparse.csr_matrix(x) if kind == "backed" else x).write_h5ad(path)
    return anndata.read_h5ad(path, backed="r").X


def both(kind="sparse", scale=None, folder=Path()):
    rng = np.random.default_rng(0)
    x = rng.poisson(0.3, (40, 7)).astype(np.float32)
    more = {
        "mask": {"rna": MASK},
        "columns": {"rna": tuple("abcdefg")},
        "scale": scale,
        "labels": np.arange(40) % 2,
    }
    other = {"protein": rng.normal(size=(40, 2)).astype(np.float32)}
    return (
        pv.MultimodalData({"rna": on_disk(kind, x, folder), **other}, **more),
        pv.MultimodalData({"rna": x, **other}, **more),
    )


def same(one, two):
    one, two = (data.take(slice(None)) for data in (one, two))
    assert one.names == two.names
    assert one.complete == two.complete
    assert torch.equal(one.mask, two.mask)
    for name in one.names:
        assert one.data[name].dtype == two.data[name].dtype
        assert torch.equal(one.data[name], two.data[name]), name


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data,
        lambda data: data.rows([5, 3, 38]),
        lambda data: data.rows(slice(4, 36, 2)),
        lambda data: data.rows(slice(2, 9)),
        lambda data: data.observe("protein"),
        lambda data: data.hide(0.5, seed=1),
        lambda data: data.hide(0.5, seed=1, mechanism="mar"),
        lambda data: data.hide(0.5, seed=1, mechanism="mnar"),
        lambda data: data.select("rna"),
        lambda data: data.select("protein"),
        lambda data: data.complete(),
        lambda data: data.split(seed=2).test,
        lambda data: data.split(seed=2).train.rows([4, 1, 9]),
        lambda data: data.with_labels_as("label"),
        lambda data: data.to("cpu"),
    ],
)
@pytest.mark.parametrize(("kind", "scale"), [("sparse", {"rna": 0.5}), *((kind, None) for kind in KINDS)])
def test_every_method_gives_what_it_gives_for_a_dense_array(change, kind, scale, tmp_path):
    one, two = (change(data) for data in both(kind, scale, tmp_path))
    same(one, two)
    assert repr(one) == repr(two)
    if not one.sparse:
        assert one.digest() == two.digest()
    for name in one.names:
        assert torch.equal(one.observed(name), two.observed(name))
        some = torch.tensor([2, 0])
        assert torch.equal(one.values(name, some), two.values(name, some))


def test_the_matrix_is_kept_sparse():
    data, _ = both()
    assert data.sparse["rna"].nnz < 40 * 7
    assert data.rows([1, 2]).sparse["rna"].shape == (2, 7)
    joined = pv.MultimodalData.from_arrays(
        {"x": sparse.eye(3, format="csr"), "y": np.ones((3, 1))}, ids={"x": list("abc"), "y": list("cda")}
    )
    assert joined.sparse["x"].shape == (4, 3)
    assert joined.values("x")[1].tolist() == [0, 1, 0]
    assert not joined.observed("x")[3].any()


def test_the_digest_changes_with_a_value():
    x = sparse.eye(4, format="csr")
    first = pv.MultimodalData({"x": x})
    assert first.digest() == pv.MultimodalData({"x": x.tocoo()}).digest()
    assert first.digest() != pv.MultimodalData({"x": x * 2}).digest()


def test_the_schema_is_that_of_the_dense_array():
    one, two = both()
    schema = Schema.fit(two)
    assert Schema.fit(one) == schema
    x = one.sparse["rna"].toarray()
    shuffled = pv.MultimodalData(
        {"rna": sparse.csr_matrix(x[:, ::-1])}, mask={"rna": MASK}, columns={"rna": tuple("gfedcba")}
    )
    aligned = schema.align(shuffled)
    assert aligned.sparse
    a, b = schema.standardise(aligned)["rna"], schema.standardise(schema.align(one))["rna"]
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.observed, b.observed)
    few = pv.MultimodalData({"rna": sparse.csr_matrix(x[:, :3])}, columns={"rna": ("a", "b", "c")})
    assert schema.align(few, missing="mask").observed("rna").sum() == 40 * 3


def test_values_that_are_not_finite():
    x = sparse.csr_matrix(np.array([[1.0, np.nan], [0, 2]]))
    with pytest.raises(pv.InputError, match="1 value NaN or infinite in a sparse matrix"):
        pv.MultimodalData({"x": x})
    assert read({"x": x}).data.observed("x").tolist() == [[True, False], [True, True]]
    with pytest.raises(pv.InputError, match=r"1 value NaN or null in 1 column"):
        pv.MultimodalData.from_arrays({"x": x})


@pytest.mark.parametrize("kind", ["sparse", "npy"])
def test_a_model_is_trained_on_what_stays_in_place(kind, tmp_path):
    models = []
    for data in both(kind, folder=tmp_path):
        torch.manual_seed(0)
        models.append(pv.MVAE(data.modalities(), latent=2))
        pv.fit(models[-1], data, epochs=1, show=False, device="cpu", precision="fp32")
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", ["sparse", "npy", "backed"])
def test_the_laws_of_data_hold(kind, tmp_path):
    check_data(both(kind, folder=tmp_path)[0].split())


def test_nothing_is_copied(tmp_path):
    counts = sparse.random_array((40, 7), density=0.3, format="csr", dtype=np.float64, random_state=0)
    counts.data[:] = np.arange(counts.nnz) + 1
    counts = counts.astype(np.int32)
    x = on_disk("npy", np.ones((40, 3)), tmp_path)
    data = pv.MultimodalData({"counts": counts, "x": x}).hide(0.3, seed=0)
    train, validation = data.carve(0.2)
    for part in (data, train, validation):
        assert np.shares_memory(part.kept["counts"].array.data, counts.data)
        assert part.kept["x"].array is x
    assert train.sparse["counts"].dtype == np.float32


@pytest.mark.parametrize("kind", ["npy", "hdf5", "zarr"])
def test_missing_entries_of_files(kind, tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 7)).astype(np.float32)
    x[3, 2] = x[5] = np.nan
    file, other = on_disk(kind, x, tmp_path), np.ones((12, 1))
    with pytest.raises(pv.InputError, match="8 values that are NaN or infinite"):
        pv.MultimodalData({"x": file})
    with pytest.raises(pv.InputError, match=r"8 values NaN or null|pass nan='missing'"):
        pv.MultimodalData.from_arrays({"x": file, "y": other})
    one = pv.MultimodalData.from_arrays({"x": file, "y": other}, nan="missing")
    two = pv.MultimodalData.from_arrays({"x": x, "y": other}, nan="missing")
    same(one, two)
    assert torch.equal(one.entries["x"], two.entries["x"])
    assert one.kept["x"].array is file
    assert one.digest() == two.digest()
    same(one.rows([5, 3, 0]), two.rows([5, 3, 0]))
    given = pv.MultimodalData({"x": file, "y": other}, entries={"x": ~np.isnan(x)})
    same(given, two)
    with pytest.raises(pv.InputError, match=r"entries\['x'\]: got torch.bool of shape \(12, 6\)"):
        pv.MultimodalData({"x": file}, entries={"x": np.ones((12, 6), bool)})


@pytest.mark.parametrize("kind", ["npy", "hdf5", "zarr"])
def test_entry_masks_that_say_no_more_than_rows(kind, tmp_path):
    x = np.arange(36, dtype=np.float32).reshape(12, 3)
    x[4] = np.nan
    pair = [
        pv.MultimodalData.from_arrays({"x": given, "y": np.ones((12, 1))}, nan="missing")
        for given in (on_disk(kind, x, tmp_path), x)
    ]
    assert [list(data.entries) for data in pair] == [[], []]
    assert pair[0].digest() == pair[1].digest()


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_at_all(kind, tmp_path):
    for rows in ([], slice(5, 5)):
        one, two = (data.take(rows) for data in both(kind, None, tmp_path / str(len(str(rows)))))
        assert one.size == two.size == 0
        assert one.data["rna"].shape == two.data["rna"].shape


def test_files_that_are_closed(tmp_path):
    with h5py.File(tmp_path / "x", "w") as file:
        x = file.create_dataset("x", data=np.ones((4, 2)))
        data = pv.MultimodalData({"x": x})
    with pytest.raises(pv.InputError, match="expected a file that is open"):
        data.take([0])
    with pytest.raises(pv.InputError, match="a dataset of a closed file"):
        pv.MultimodalData({"x": x})


@pytest.mark.parametrize("kind", [np.int64, np.float16, np.float32, np.float64])
def test_a_backed_table_has_the_type_that_it_has_in_memory(kind, tmp_path):
    anndata.AnnData(np.arange(12).reshape(4, 3).astype(kind)).write_h5ad(tmp_path / "x.h5ad")
    one = pv.MultimodalData.from_anndata(anndata.read_h5ad(tmp_path / "x.h5ad", backed="r"))
    two = pv.MultimodalData.from_anndata(anndata.read_h5ad(tmp_path / "x.h5ad"))
    same(one, two)
    assert one.digest() == two.digest()


def test_a_file_whose_variance_single_precision_loses(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 2)) + 1e9
    with pytest.warns(UserWarning, match="loses its variance"):
        pv.MultimodalData({"x": on_disk("npy", x, tmp_path)})


def test_columns_of_unsigned_integers_in_another_order():
    x = np.arange(40, dtype=np.uint16).reshape(10, 4)
    data = pv.MultimodalData({"x": x}, columns={"x": tuple("abcd")})
    other = pv.MultimodalData({"x": x[:, ::-1].copy()}, columns={"x": tuple("dcba")})
    assert torch.equal(Schema.fit(data).align(other).values("x"), data.values("x"))


def test_files_are_joined_on_ids_without_a_copy(tmp_path):
    x = np.arange(21, dtype=np.int16).reshape(3, 7)
    arrays, ids = (
        {"x": on_disk("npy", x, tmp_path), "y": np.ones((3, 1))},
        {"x": list("cab"), "y": list("bcd")},
    )
    one = pv.MultimodalData.from_arrays(arrays, ids=ids)
    two = pv.MultimodalData.from_arrays({**arrays, "x": x}, ids=ids)
    assert one.ids == two.ids
    assert one.kept["x"].array is arrays["x"]
    same(one, two)


@pytest.mark.parametrize("kind", ["dense", "backed"])
def test_backed_anndata_stays_on_disk(kind, tmp_path):
    x = np.random.default_rng(0).poisson(0.5, (9, 4)).astype(np.float32)
    made = anndata.AnnData(sparse.csr_matrix(x) if kind == "backed" else x)
    made.write_h5ad(tmp_path / "x.h5ad")
    one = pv.MultimodalData.from_anndata(anndata.read_h5ad(tmp_path / "x.h5ad", backed="r"))
    assert list(one.kept) == list(one.names)
    two = pv.MultimodalData.from_anndata(anndata.AnnData(x))
    same(one, two)
    same(one.rows([7, 2, 4]), two.rows([7, 2, 4]))


def test_files_that_are_no_numbers(tmp_path):
    np.save(tmp_path / "x.npy", np.array([["a"], ["b"]]))
    with pytest.raises(pv.InputError, match="expected real numbers"):
        pv.MultimodalData({"x": np.load(tmp_path / "x.npy", mmap_mode="r")})


@pytest.mark.filterwarnings("error")
def test_arrays_that_cannot_be_written_to_are_read_without_a_word():
    x = np.ones((3, 2), np.float32)
    x.setflags(write=False)
    assert pv.MultimodalData({"x": x}).values("x").sum() == 6


def test_results_go_back_to_backed_anndata(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    anndata.AnnData(x).write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    with pytest.warns(UserWarning, match="one modality"):
        est = pv.Estimator(steps=2, members=2, latent=2).fit(backed)
    assert est.impute(backed).layers["imputed"].shape == (30, 4)
    assert est.transform(backed).obsm["X_polyvae"].shape[0] == 30


def test_anndata_is_no_array(tmp_path):
    with pytest.raises(pv.InputError, match=r"pass its X, or read it with MultimodalData\.from_anndata"):
        pv.MultimodalData({"x": anndata.AnnData(np.ones((3, 2)))})


def test_kinds_of_tables_beside_x():
    table = pd.DataFrame({"site": [1, 2, 1, 7], "age": [30.0, 41, 55, 61]}, index=list("abcd"))
    adata = anndata.AnnData(np.ones((4, 2)), obs=pd.DataFrame(index=list("abcd")), obsm={"t": table})
    data = pv.MultimodalData.from_anndata(adata, obsm=["t"], kinds={"t": {"site": "categorical"}})
    assert list(data.levels["t"]) == ["site"]


def test_sparse_matrices_are_joined_on_ids_without_a_copy():
    x = sparse.csr_matrix(np.arange(12, dtype=np.float32).reshape(4, 3))
    arrays, ids = {"x": x, "y": np.ones((3, 1))}, {"x": list("cabe"), "y": list("bda")}
    one = pv.MultimodalData.from_arrays(arrays, ids=ids)
    two = pv.MultimodalData.from_arrays({**arrays, "x": x.toarray()}, ids=ids)
    assert np.shares_memory(one.kept["x"].array.data, x.data)
    same(one, two)
    np.testing.assert_array_equal(one.sparse["x"].toarray(), two.values("x"))
    whole = pv.MultimodalData(
        {"x": one.sparse["x"], "y": two.values("y")}, mask={"x": two.mask[0], "y": two.mask[1]}, ids=one.ids
    )
    assert one.digest() == whole.digest()
    part = one.rows([4, 0, 2])
    np.testing.assert_array_equal(part.sparse["x"].toarray(), two.rows([4, 0, 2]).values("x"))


def test_a_file_is_read_once_for_its_missing_values(tmp_path, monkeypatch):
    x, read = on_disk("npy", np.ones((40, 7), np.float32), tmp_path), []
    monkeypatch.setattr(Kept, "pieces", lambda self: read.append(1) or iter([slice(0, self.shape[0])]))
    pv.MultimodalData.from_arrays({"x": x}, nan="missing")
    assert len(read) == 1

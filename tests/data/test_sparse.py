"""A sparse modality gives the same batches, parts and statistics as a dense one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

import polyvae as pv
from polyvae.data.readers import read
from polyvae.data.schema import Schema
from polyvae.testing import check_data

MASK = [True] * 30 + [False] * 10


def both(scale=None):
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
        pv.MultimodalData({"rna": sparse.coo_matrix(x), **other}, **more),
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
        lambda data: data.select("rna"),
        lambda data: data.select("protein"),
        lambda data: data.complete(),
        lambda data: data.split(seed=2).test,
        lambda data: data.with_labels_as("label"),
        lambda data: data.to("cpu"),
    ],
)
@pytest.mark.parametrize("scale", [None, {"rna": 0.5}])
def test_every_method_gives_what_it_gives_for_a_dense_array(change, scale):
    one, two = (change(data) for data in both(scale))
    same(one, two)
    assert repr(one) == repr(two)
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


def test_a_model_is_trained_on_sparse_counts():
    models = []
    for data in both():
        torch.manual_seed(0)
        models.append(pv.MVAE(data.modalities(), latent=2))
        pv.fit(models[-1], data, epochs=1, show=False, device="cpu", precision="fp32")
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, two)


def test_the_laws_of_data_hold():
    check_data(both()[0].split())

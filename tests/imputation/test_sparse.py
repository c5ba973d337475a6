"""Wide sparse tables stay sparse: the results are those of the same table, dense, and no array of all its rows is made."""

import numpy as np
import pytest
import torch
from scipy import sparse

import polyvae as pv
from polyvae.data.schema import Schema
from polyvae.imputation.advice import advise, advise_of_training_samples
from polyvae.imputation.filling.fill import canonical, whole
from polyvae.imputation.tables import SparseRows
from polyvae.utils.files import load_tensors, save_tensors

N, WIDTH = 60, 1200


def counts() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    z = rng.gamma(1, size=(N, 2))
    x = rng.poisson(z @ rng.gamma(1, size=(2, WIDTH)) * 0.2).astype(np.float32)
    mask = {"counts": rng.random(N) > 0.2}
    return np.where(mask["counts"][:, None], x, 0), z @ rng.normal(size=(2, 4)), mask


def data(dense: bool) -> pv.MultimodalData:
    x, b, mask = counts()
    return pv.MultimodalData({"counts": x if dense else sparse.csr_array(x), "b": b.astype("f4")}, mask=mask)


def test_rows_are_those_of_the_dense_table():
    schema = Schema.fit(data(True))
    assert schema == Schema.fit(data(False))
    found = [whole(schema, schema.align(each), canonical(schema, each)) for each in (data(False), data(True))]
    rows, dense = (each.values["counts"] for each in found)
    assert isinstance(rows, SparseRows)
    for index in (slice(3, 9), np.array([5, 2, 40])):
        assert np.array_equal(rows[index], dense[index])
    assert np.array_equal(found[0].observed["counts"], found[1].observed["counts"])
    assert found[0].observed["counts"].strides[1] == 0
    assert np.array_equal(found[0].values["b"], found[1].values["b"])
    assert np.array_equal(found[0].rows(slice(None)).values["counts"], dense)


@pytest.mark.slow
def test_an_estimator_of_sparse_counts_is_that_of_dense_ones(tmp_path):
    _, b, _ = counts()
    fitted = [pv.Estimator(steps=10, members=2, latent=2, seed=0).fit(data(dense)) for dense in (False, True)]
    assert isinstance(fitted[0]._imputer.tables.values["counts"], SparseRows)
    new = {"counts": np.full((3, WIDTH), np.nan), "b": b[:3]}
    one, other = (est.impute(new)["counts"] for est in fitted)
    assert np.array_equal(one, other)
    assert fitted[0].scores_ == fitted[1].scores_
    fitted[0].save(tmp_path / "e.polyvae")
    again = pv.Estimator.load(tmp_path / "e.polyvae")
    assert np.array_equal(again.impute(new)["counts"], one)
    there = int(
        fitted[1]._imputer.tables.observed["counts"].any(1).sum()
    )  # the others have one small table alone
    assert 0 < there < 60
    with pytest.warns(UserWarning, match=f"{there} of 60 samples have the same values as a training sample"):
        advise_of_training_samples(
            fitted[0]._imputer.tables, fitted[1]._imputer.tables.rows(slice(None)), ("counts", "b")
        )
    for key, change in {
        "sparse.0.columns": lambda x: x + WIDTH,
        "sparse.0.starts": lambda x: x.flip(0),
        "sparse.0.seen": lambda x: x[1:],
        "sparse.0.data": lambda x: x * torch.nan,
    }.items():
        tensors, metadata = load_tensors(tmp_path / "e.polyvae")
        save_tensors(tmp_path / "forged.polyvae", {**tensors, key: change(tensors[key])}, metadata)
        with pytest.raises(pv.InputError, match="write it again") as problem:
            pv.Estimator.load(tmp_path / "forged.polyvae")
        assert "\n" not in str(problem.value)


def test_advice_reads_sparse_tables_as_dense_ones():
    """Two tables of one shape, one of them with a code for missing values."""
    x = counts()[0]
    coded = np.where(np.arange(WIDTH) == 5, np.where(np.arange(N)[:, None] < 3, 999, x), x)
    for other, says in ((x, ["their values are the same"]), (coded, ["999 in 3 samples"])):
        found = []
        for kind in (sparse.csr_array, np.asarray):
            two = pv.MultimodalData({"one": kind(x), "other": kind(other.astype("f4"))})
            schema = Schema.fit(two)
            tables = whole(schema, schema.align(two), canonical(schema, two))
            with pytest.warns(UserWarning, match="modalit") as caught:
                advise(schema, tables)
            found.append([str(each.message) for each in caught])
        assert found[0] == found[1]
        assert all(any(part in line for line in found[0]) for part in says)


@pytest.mark.slow
def test_the_fit_of_a_sparse_matrix_makes_no_dense_copy():
    """20,000 x 10,000 counts are 800 MB in single precision."""
    from benchmarks.imputation.memory import measure

    assert measure("sparse")["megabytes"] < 3000

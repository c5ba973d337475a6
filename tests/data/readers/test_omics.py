"""AnnData and MuData: both ways, and files that both current generations of the packages wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import polyvae as pv
from polyvae.data.readers import read
from polyvae.data.schema import Schema

anndata = pytest.importorskip("anndata")
mudata = pytest.importorskip("mudata")
FILES = Path(__file__).parents[2] / "fixtures" / "omics"


def cells(ids, genes, sparse_counts=True):
    x = np.arange(len(ids) * len(genes), dtype=np.float32).reshape(len(ids), len(genes)) % 5
    return anndata.AnnData(
        sparse.csr_matrix(x) if sparse_counts else x,
        obs=pd.DataFrame({"kind": [f"k{at % 2}" for at in range(len(ids))]}, index=list(ids)),
        var=pd.DataFrame({"length": range(len(genes))}, index=list(genes)),
        uns={"note": "kept"},
    )


def cohort():
    rna, protein = cells("abcd", ["g1", "g2", "g3"]), cells("dbe", ["p1", "p2"], sparse_counts=False)
    both = mudata.MuData({"rna": rna, "protein": protein})
    both.obs["site"] = [f"site{at}" for at in range(both.n_obs)]
    both.uns["study"] = "kept"
    return both


def returned(given):
    data, layout = given
    schema = Schema.fit(data)
    values = {name: data.values(name).double().numpy() + 1 for name in data.names}
    return layout.back(values, schema.columns, data.ids)


def test_mudata_keep_the_order_of_their_samples():
    both = cohort()
    data = pv.MultimodalData.from_mudata(both, labels="site")
    assert data.ids == both.obs_names.tolist()
    assert data.names == ("rna", "protein")
    for name in data.names:
        own = both.mod[name]
        rows = [data.ids.index(sample) for sample in own.obs_names]
        x = own.X.toarray() if sparse.issparse(own.X) else own.X
        np.testing.assert_array_equal(data.values(name)[rows].numpy(), x)
        assert int(data.observed(name)[:, 0].sum()) == own.n_obs
    assert data.columns["rna"] == ("g1", "g2", "g3")
    assert data.card["classes"][0] == "site0"


def test_mudata_return_with_layers_and_modalities_of_all_samples():
    both = cohort()
    back = returned(read(both))
    assert back.obs_names.tolist() == both.obs_names.tolist()
    assert back.obs["site"].tolist() == both.obs["site"].tolist()
    assert back.uns["study"] == "kept"
    assert set(back.mod) == {"rna", "protein", "rna:imputed", "protein:imputed"}
    for name in ("rna", "protein"):
        own, new = both.mod[name], back.mod[name]
        assert new.obs.equals(own.obs)
        assert new.var.equals(own.var)
        assert new.uns["note"] == "kept"
        x = own.X.toarray() if sparse.issparse(own.X) else own.X
        np.testing.assert_array_equal(new.layers["imputed"], x + 1)
        whole = back.mod[f"{name}:imputed"]
        assert whole.obs_names.tolist() == both.obs_names.tolist()
        assert whole.var["length"].tolist() == own.var["length"].tolist()
        np.testing.assert_array_equal(whole[own.obs_names].X, x + 1)
    assert "imputed" not in both.mod["rna"].layers


def test_embeddings_are_in_obsm():
    both = cohort()
    z = np.arange(2.0 * both.n_obs).reshape(-1, 2)
    assert np.array_equal(read(both).layout.embedding(z, None, ["z0", "z1"]).obsm["X_polyvae"], z)
    assert np.array_equal(
        read(both.mod["rna"][["a"]].copy()).layout.embedding(z[:1], None, ["z0", "z1"]).obsm["X_polyvae"],
        z[:1],
    )


def test_predictions_are_columns_of_obs():
    both = cohort()
    for given in (both, both.mod["rna"]):
        layout, names = read(given).layout, given.obs_names.tolist()
        kinds = np.array(["x", "y"])[np.arange(len(names)) % 2]
        found = layout.prediction(kinds, None, ["prediction"])
        assert found.obs["prediction"].tolist() == kinds.tolist()
        assert found.obs_names.tolist() == names
        chances = np.random.default_rng(0).random((len(names), 2))
        found = layout.prediction(chances, None, ["x", "y"])
        assert np.array_equal(found.obs[["probability of x", "probability of y"]].to_numpy(), chances)
        assert "prediction" not in given.obs


def test_anndata_with_obsm_and_layers():
    rna = cells("abc", ["g1", "g2"])
    rna.layers["log"] = rna.X.toarray() * 2
    rna.obsm["protein"] = pd.DataFrame({"p": [1.0, 2.0, 3.0]}, index=rna.obs_names)
    data = pv.MultimodalData.from_anndata(rna, name="rna", layer="log", obsm=["protein"], labels="kind")
    assert data.names == ("rna", "protein")
    assert data.columns == {"rna": ("g1", "g2"), "protein": ("p",)}
    np.testing.assert_array_equal(data.values("rna").numpy(), rna.layers["log"])
    assert data.labels.tolist() == [0, 1, 0]
    back = returned(read(rna))
    np.testing.assert_array_equal(back.layers["imputed"], rna.X.toarray() + 1)
    for wrong, match in [
        ({"layer": "logs"}, "no layer 'logs'; did you mean 'log'"),
        ({"obsm": ["proteins"]}, "no 'proteins'; did you mean 'protein'"),
        ({"labels": "kinds"}, "no column 'kinds'; did you mean 'kind'"),
    ]:
        with pytest.raises(pv.InputError, match=match):
            pv.MultimodalData.from_anndata(rna, **wrong)


def test_names_that_occur_twice_are_refused():
    rna = cells("aab", ["g1", "g2"])
    with pytest.raises(pv.InputError, match=r"1 id more than once \('a'\)"):
        pv.MultimodalData.from_anndata(rna)
    with pytest.raises(pv.InputError, match=r"1 column name more than once \('g'\)"):
        pv.MultimodalData.from_anndata(cells("ab", ["g", "g"]))
    with pytest.raises(pv.InputError, match="expected AnnData"):
        pv.MultimodalData.from_anndata([1])
    with pytest.raises(pv.InputError, match="expected MuData"):
        pv.MultimodalData.from_mudata([1])


def test_columns_that_a_schema_lacks_are_missing_in_the_layer():
    rna = cells("ab", ["g1", "g2"])
    data, layout = read(rna)
    back = layout.back(
        {"X": np.ones((2, 1)), "other": np.zeros((2, 1))}, {"X": ["g2"], "other": ["o"]}, data.ids
    )
    np.testing.assert_array_equal(back.layers["imputed"], [[np.nan, 1], [np.nan, 1]])
    assert list(back.obsm["other_imputed"].columns) == ["o"]


@pytest.mark.parametrize("path", sorted(FILES.glob("*.h5*")), ids=lambda path: path.name)
def test_files_of_both_generations_are_read(path, tmp_path):
    given = read(path)
    expected = cohort() if path.suffix == ".h5mu" else cohort().mod["rna"]
    assert given.data.ids == expected.obs_names.tolist()
    name = given.data.names[0]
    rows = [given.data.ids.index(sample) for sample in "abcd"]
    np.testing.assert_array_equal(given.data.values(name)[rows].numpy(), cohort().mod["rna"].X.toarray())
    schema = Schema.fit(given.data)
    values = {name: given.data.values(name).double().numpy() for name in given.data.names}
    (out,) = given.layout.save(tmp_path / f"out{path.suffix}", values, schema.columns, given.data.ids)
    assert read(out).data.ids == given.data.ids


def test_there_are_files_to_read():
    assert len(list(FILES.glob("*.h5*"))) >= 2


@pytest.mark.parametrize(
    ("what", "match"),
    [
        (
            {},
            "got AnnData with no X, no layer and no obsm; expected a matrix .samples, features.; set adata.X",
        ),
        (
            {"layers": {"log": np.ones((2, 3))}},
            "got AnnData with no X; expected .*; pass layer='log' to Multi",
        ),
        (
            {"obsm": {"pca": np.ones((2, 3))}},
            r"got AnnData with no X; expected .*; pass obsm=\['pca'\] to Multi",
        ),
    ],
)
def test_anndata_without_x_is_answered_by_what_it_has(what, match):
    adata = anndata.AnnData(
        obs=pd.DataFrame(index=["a", "b"]), var=pd.DataFrame(index=["x", "y", "z"]), **what
    )
    frame = pd.DataFrame({"f": [1.5, 2.5]}, ["a", "b"])
    for given in (
        lambda: pv.MultimodalData.from_anndata(adata),
        lambda: pv.data.join({"a": adata, "b": frame}),
    ):
        with pytest.raises(pv.InputError, match=match) as problem:
            given()
        assert "\n" not in str(problem.value)

"""MuData in, MuData out."""

import numpy as np
import pandas as pd
import pytest

import polyvae as pv

anndata = pytest.importorskip("anndata")
mudata = pytest.importorskip("mudata")

QUICK = {"steps": 60, "members": 2, "latent": 3, "seed": 0}


def cohort() -> "mudata.MuData":
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 2))
    ids = np.array([f"cell{i}" for i in range(60)])
    rna = anndata.AnnData(
        (z @ rng.normal(size=(2, 6))).astype("f4")[:50],
        obs=pd.DataFrame({"batch": ["a", "b"] * 25}, index=ids[:50]),
        var=pd.DataFrame({"symbol": list("ABCDEF")}, index=[f"gene{i}" for i in range(6)]),
    )
    protein = anndata.AnnData(
        (z @ rng.normal(size=(2, 4))).astype("f4")[8:],
        obs=pd.DataFrame(index=ids[8:]),
        var=pd.DataFrame(index=[f"prot{i}" for i in range(4)]),
    )
    return mudata.MuData({"rna": rna, "protein": protein})


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_mudata_goes_in_and_comes_out(tmp_path):
    given = cohort()
    est = pv.Estimator(**QUICK).fit(given)
    filled = est.impute(given)
    assert isinstance(filled, mudata.MuData)
    assert list(filled["rna"].obs_names) == list(given["rna"].obs_names)
    assert list(filled["rna"].var["symbol"]) == list("ABCDEF")
    assert np.array_equal(filled["rna"].layers["imputed"], given["rna"].X)
    whole = filled["protein:imputed"]
    assert set(whole.obs_names) == {f"cell{i}" for i in range(60)}
    known = given["protein"].obs_names
    assert np.array_equal(whole[known, given["protein"].var_names].X, given["protein"].X)
    assert np.isfinite(whole.X).all()
    embedded = est.transform(given)
    assert embedded.obsm["X_polyvae"].shape == (60, 3)
    for each in given.mod.values():  # as a frame's index has, whose name the whole does not have
        each.obs_names.name = "patient"
    assert isinstance(est.impute(given), mudata.MuData)
    est.save(tmp_path / "x.polyvae")
    given.write(tmp_path / "x.h5mu")
    again = pv.Estimator.load(tmp_path / "x.polyvae").impute(str(tmp_path / "x.h5mu"))
    assert np.array_equal(again["protein:imputed"].X, whole.X)

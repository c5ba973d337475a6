"""The estimator: what goes in comes out, completed; nothing depends on order; bad input is answered in one line."""

import functools
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

import polyvae as pv

QUICK = {"steps": 10, "members": 2, "latent": 3, "seed": 0}


def cohort(n: int = 40, seed: int = 0, gaps: bool = False) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    ids = [f"p{i:03d}" for i in range(n)]
    rna = pd.DataFrame(5 + z @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(n, 6)), ids, list("abcdef"))
    protein = pd.DataFrame(100 * z @ rng.normal(size=(2, 4)) + rng.normal(size=(n, 4)), ids, list("wxyz"))
    if gaps:
        protein = protein.mask(rng.random(protein.shape) < 0.2)
    return {"rna": rna.iloc[: n - 8], "protein": protein.iloc[6:]}


@pytest.fixture(scope="module")
def fitted() -> pv.Estimator:
    return pv.Estimator(steps=100, members=3, latent=3, seed=0).fit(cohort(80))


# ---- what comes out ------------------------------------------------------------------------------------------


def test_measured_values_are_returned_as_they_were_given(fitted):
    given = cohort(30, seed=1, gaps=True)
    filled = fitted.impute(given)
    for name, frame in given.items():
        same = filled[name].loc[frame.index, frame.columns]
        known = frame.notna().to_numpy()
        assert np.array_equal(same.to_numpy()[known], frame.to_numpy()[known])
        assert filled[name].notna().to_numpy().all()
    union = given["rna"].index.append(given["protein"].index.difference(given["rna"].index))
    assert set(filled["rna"].index) == set(union)
    assert list(filled["protein"].columns) == list(given["protein"].columns)


def test_imputations_are_close_to_what_was_hidden(fitted):
    given = {"rna": cohort(80)["rna"]}
    filled = fitted.impute(given)["protein"]
    measured = cohort(80)["protein"]
    both = measured.index.intersection(given["rna"].index)
    error = ((filled.loc[both] - measured.loc[both]) ** 2).to_numpy().sum()
    total = ((measured.loc[both] - measured.loc[both].mean()) ** 2).to_numpy().sum()
    assert error / total < 0.1


def test_orders_of_rows_and_columns_and_a_file_in_between_change_nothing(fitted, tmp_path):
    given = cohort(30, seed=1, gaps=True)
    shuffled = {
        name: frame.sample(frac=1, random_state=1).sample(frac=1, axis=1, random_state=2)
        for name, frame in reversed(given.items())
    }
    fitted.save(tmp_path / "cohort.polyvae")
    shuffled["rna"].to_pickle(tmp_path / "rna.pkl")
    shuffled["protein"].to_pickle(tmp_path / "protein.pkl")
    code = (
        "import sys, pandas as pd, polyvae as pv\n"
        "given = {name: pd.read_pickle(f'{sys.argv[1]}/{name}.pkl') for name in ('protein', 'rna')}\n"
        "est = pv.Estimator.load(f'{sys.argv[1]}/cohort.polyvae')\n"
        "for name, frame in est.impute(given).items(): frame.to_pickle(f'{sys.argv[1]}/{name}.out.pkl')\n"
        "est.transform(given).to_pickle(f'{sys.argv[1]}/z.pkl')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    expected = fitted.impute(given)
    for name, frame in expected.items():
        found = pd.read_pickle(tmp_path / f"{name}.out.pkl")
        assert list(found.columns) == list(shuffled[name].columns)
        assert np.array_equal(found.loc[frame.index, frame.columns].to_numpy(), frame.to_numpy())
    z = fitted.transform(given)
    assert np.array_equal(pd.read_pickle(tmp_path / "z.pkl").loc[z.index].to_numpy(), z.to_numpy())


def test_other_containers_give_the_same_numbers(fitted):
    given = cohort(30, seed=1)
    expected = fitted.impute(given)
    polars = {name: pl.from_pandas(frame.reset_index(names="id")) for name, frame in given.items()}
    found = clone_with(fitted, id="id").impute(polars)
    assert isinstance(found["rna"], pl.DataFrame)
    assert np.array_equal(found["rna"].drop("id").to_numpy(), expected["rna"].to_numpy())


def clone_with(fitted: pv.Estimator, **params: object) -> pv.Estimator:
    other = pv.Estimator.__new__(pv.Estimator)
    vars(other).update(vars(fitted))
    return other.set_params(**params)


def test_intervals_cover_what_was_hidden(monkeypatch):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(900, 3))
    b = a @ rng.normal(size=(3, 4)) + rng.normal(size=(900, 4))
    est = pv.Estimator(steps=30, members=2, latent=3, seed=0).fit({"a": a[:400], "b": b[:400]})
    hidden = np.full_like(b[400:], np.nan)
    filled, low, high = est.impute({"a": a[400:], "b": hidden}, interval=0.9)
    assert (low["b"] < filled["b"]).all()
    inside = (low["b"] <= b[400:]) & (b[400:] <= high["b"])
    assert 0.87 < inside.mean() < 0.93
    assert np.array_equal(low["a"], a[400:])
    assert np.array_equal(high["a"], a[400:])
    monkeypatch.setattr("polyvae.imputation.filling.fill._PREDICTIVE", 60)  # draws
    _, low, high = est.impute({"a": a[400:550], "b": hidden[:150]}, interval=0.9, kind="predictive")
    assert 0.5 < ((low["b"] <= b[400:550]) & (b[400:550] <= high["b"])).mean() < 1


def test_draws_vary_as_the_residuals_do_and_keep_what_was_measured():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 3))
    b = a[:, :2] + 0.5 * rng.normal(size=(300, 2))
    est = pv.Estimator(steps=30, members=2, latent=3, seed=0).fit({"a": a, "b": b})
    draws = est.impute({"a": a[:50], "b": np.full((50, 2), np.nan)}, draws=40)
    assert len(draws) == 40
    assert all(np.array_equal(one["a"], a[:50]) for one in draws)
    spread = np.stack([one["b"] for one in draws]).std(0).mean()
    assert spread == pytest.approx(0.5, rel=0.2)


def test_predictive_intervals_of_pieces_have_the_width_of_the_whole(fitted, monkeypatch):
    given = {"rna": cohort(80)["rna"].iloc[:40]}
    monkeypatch.setattr("polyvae.imputation.filling.fill._PREDICTIVE", 60)  # draws
    low, high = fitted.impute(given, interval=0.8, kind="predictive")[1:]
    monkeypatch.setattr("polyvae.imputation.filling.fill._CELLS", 60 * 10 * 20)  # 20 samples at a time
    others = fitted.impute(given, interval=0.8, kind="predictive")[1:]
    ratio = (others[1]["protein"] - others[0]["protein"]) / (high["protein"] - low["protein"])
    assert ratio.notna().all(axis=None)
    assert ratio.mean(axis=None) == pytest.approx(1, abs=0.05)


def test_draws_of_an_entry_differ_from_each_other():
    given = cohort(60, gaps=True)
    new = {name: frame.loc[["p020"]].copy() for name, frame in cohort(60).items()}
    new["protein"].iloc[0, 1] = np.nan
    drawn = pv.Estimator(**QUICK).fit(given).impute(new, draws=20)
    assert len({frames["protein"].iloc[0, 1] for frames in drawn}) >= 5


def test_large_integers_are_returned_as_they_were_given():
    rng = np.random.default_rng(0)
    a = rng.integers(2**25, 2**25 + 1000, (30, 3))
    est = pv.Estimator(**QUICK).fit({"a": a, "b": rng.normal(size=(30, 2))})
    assert np.array_equal(est.impute({"a": a})["a"], a)


def test_too_few_samples_give_infinite_intervals_and_say_so():
    data = {
        "a": np.random.default_rng(0).normal(size=(8, 3)),
        "b": np.random.default_rng(1).normal(size=(8, 2)),
    }
    est = pv.Estimator(**QUICK).fit(data)
    with pytest.warns(UserWarning, match="infinite"):
        _, low, high = est.impute({"a": data["a"], "b": np.full((8, 2), np.nan)}, interval=0.9)
    assert np.isinf(high["b"]).all()
    assert np.isinf(low["b"]).all()


def test_single_entries_are_filled_from_the_rest_of_their_table():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 2))
    x = z @ rng.normal(size=(2, 8)) + 0.1 * rng.normal(size=(300, 8))
    gaps = rng.random(x.shape) < 0.2
    est = pv.Estimator(steps=80, members=2, latent=3, seed=0).fit(np.where(gaps, np.nan, x))
    filled = est.impute(np.where(gaps, np.nan, x))
    assert ((filled - x)[gaps] ** 2).mean() < 0.1 * x.var()
    assert np.array_equal(filled[~gaps], x[~gaps])


def test_counts_and_indicators_stay_in_their_range():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(120, 1))
    counts = rng.poisson(np.exp(z + np.zeros((1, 3)))).astype(float)
    flags = (z + rng.normal(size=(120, 2)) > 0).astype(float)
    est = pv.Estimator(**QUICK).fit({"z": z, "counts": counts, "flags": flags})
    gone = {"z": 3 * z, "counts": np.full_like(counts, np.nan), "flags": np.full_like(flags, np.nan)}
    filled, low, high = est.impute(gone, interval=0.5)
    assert min(x["counts"].min() for x in (filled, low, high)) >= 0
    assert min(x["flags"].min() for x in (filled, low, high)) >= 0
    assert max(x["flags"].max() for x in (filled, low, high)) <= 1


def test_predict_classes_and_numbers():
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=150)
    a = np.eye(3)[label] @ rng.normal(size=(3, 6)) * 3 + rng.normal(size=(150, 6))
    b = np.eye(3)[label] @ rng.normal(size=(3, 5)) * 3 + rng.normal(size=(150, 5))
    names = np.array(["x", "y", "z"])[label]
    known = [None if row % 4 == 0 else name for row, name in enumerate(names)]
    est = pv.Estimator(**{**QUICK, "steps": 40}).fit({"a": a, "b": b}, known)
    assert (est.predict({"a": a, "b": b}) == names).mean() > 0.9
    assert est.score({"a": a}, names) > 0.8
    assert est.predict_proba({"a": a, "b": b}).sum(1) == pytest.approx(np.ones(150))
    amount = pv.Estimator(**{**QUICK, "steps": 40}).fit({"a": a}, a[:, 0] * 2 + 1)
    assert amount.score({"a": a}, a[:, 0] * 2 + 1) > 0.9


def test_predictions_of_frames_are_tables_with_ids():
    """The numbers are those of arrays; the ids are those of the frames, in the order of first appearance."""
    given = cohort(40)
    ids = [f"p{i:03d}" for i in range(40)]
    y = pd.Series(["well" if i % 3 else "ill" for i in range(40)], ids)
    est = pv.Estimator(**QUICK).fit(given, y)
    new = {name: frame.iloc[::-1] for name, frame in given.items()}
    found, chances = est.predict(new), est.predict_proba(new)
    assert list(found.columns) == ["prediction"]
    assert list(chances.columns) == ["ill", "well"]
    assert found.index.tolist() == chances.index.tolist() == est.transform(new).index.tolist()
    assert set(found.index) == set(ids)
    assert (chances.idxmax(axis=1) == found["prediction"]).all()
    assert est.score(new, y) == pytest.approx((found["prediction"] == y[found.index]).mean())
    union = {name: frame.reindex(found.index).to_numpy() for name, frame in new.items()}
    plain = clone_with(est, id=False)
    assert np.array_equal(plain.predict(union), found["prediction"].to_numpy())
    assert np.array_equal(plain.predict_proba(union), chances.to_numpy())
    polars = {name: pl.from_pandas(frame.reset_index(names="prediction")) for name, frame in new.items()}
    table = clone_with(est, id="prediction").predict(polars)
    assert isinstance(table, pl.DataFrame)
    assert table.columns == ["prediction", "prediction_"]
    assert table["prediction"].to_list() == found.index.tolist()
    assert table["prediction_"].to_list() == found["prediction"].tolist()


def test_samples_have_the_moments_of_the_data(fitted):
    drawn = fitted.sample(2000)
    truth = cohort(80)["rna"]
    assert drawn["rna"].shape == (2000, 6)
    assert np.abs(drawn["rna"].mean(0) - truth.mean().to_numpy()).max() < 0.5 * truth.std().max()


def test_scores_hold_every_method_and_a_sentence(fitted):
    assert {"mean", "ridge", "k-NN", "stack"} <= set(fitted.scores_.methods)
    assert fitted.scores_.value("protein", "stack", "r2") > 0.8
    assert "lowest error" in fitted.scores_.sentence()
    new = {name: frame.loc["p080":] for name, frame in cohort(120).items()}
    old = {name: frame.loc[:"p079"] for name, frame in cohort(120).items()}
    assert pv.Estimator(**QUICK).fit(old).score(new) > 0.8


# ---- scikit-learn --------------------------------------------------------------------------------------------

WORDING = "the message is of polyvae's form, not of scikit-learn's"
EXPECTED = {
    "check_n_features_in_after_fitting": WORDING,
    "check_complex_data": WORDING,
    "check_dtype_object": WORDING,
    "check_estimators_empty_data_messages": WORDING,
    "check_estimator_sparse_tag": WORDING,
    "check_estimator_sparse_array": WORDING,
    "check_estimator_sparse_matrix": WORDING,
    "check_fit2d_predict1d": WORDING,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(
            estimator, check, id=(check.func if isinstance(check, functools.partial) else check).__name__
        )
        for estimator, check in estimator_checks_generator(
            pv.Estimator(steps=1, members=2, latent=2), expected_failed_checks=EXPECTED, mark="skip"
        )
    ],
)
def test_scikit_learns_checks_of_a_single_table(estimator, check):
    check(estimator)


def test_pipelines_searches_and_clones():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5))
    y = (x[:, 0] > 0).astype(int)
    x[rng.random(x.shape) < 0.1] = np.nan
    pipeline = make_pipeline(pv.Estimator(**QUICK), LogisticRegression())
    search = GridSearchCV(pipeline, {"estimator__latent": [1, 3]}, cv=2).fit(x, y)
    assert search.best_score_ > 0.5
    assert clone(pv.Estimator(latent=7)).latent == 7
    frame = pv.Estimator(**QUICK).set_output(transform="pandas").fit_transform(x)
    assert list(frame.columns) == ["z0", "z1", "z2"]


# ---- bad input -----------------------------------------------------------------------------------------------


def damaged(what: str) -> object:
    data = cohort(20)
    rna = data["rna"]
    return {
        "duplicate ids": {**data, "rna": pd.concat([rna, rna.iloc[:1]])},
        "no overlap": {"rna": rna.iloc[:5], "protein": data["protein"].iloc[8:]},
        "infinity": {**data, "rna": rna.replace(rna.iloc[0, 0], np.inf)},
        "text": {**data, "rna": rna.assign(note=[f"word {i}" for i in range(len(rna))])},
        "empty": {**data, "rna": rna.iloc[:0]},
        "all missing": {**data, "rna": rna * np.nan},
        "one row": {"rna": rna.iloc[7:8], "protein": data["protein"].iloc[1:2]},
        "nothing": {},
        "a number": 3,
        "a missing file": "nowhere.csv",
    }[what]


@pytest.mark.parametrize(
    "what",
    ["duplicate ids", "no overlap", "infinity", "text", "empty", "all missing", "one row", "nothing", "a number", "a missing file"],
)  # fmt: skip
def test_bad_data_is_refused_in_one_line(what):
    with pytest.raises(pv.InputError) as problem:
        pv.Estimator(**QUICK).fit(damaged(what))
    assert "\n" not in str(problem.value)
    assert "expected" in str(problem.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [({"members": 1}, "members"), ({"latent": 0}, "latent"), ({"steps": 0}, "steps"), ({"max_seconds": -1}, "max_seconds"),
     ({"model": "nothing"}, "unknown"), ({"network": {"hiden": 3}}, "hidden")],
)  # fmt: skip
def test_bad_parameters_are_refused_in_one_line(change, match):
    with pytest.raises(pv.InputError, match=match):
        pv.Estimator(**{**QUICK, **change}).fit(cohort(20))


@pytest.mark.parametrize(
    "arguments",
    [
        {"interval": 1.0},
        {"draws": 0},
        {"statistic": "mode"},
        {"kind": "exact"},
        {"interval": 0.9, "draws": 2},
        {"kind": "predictive"},
        {"statistic": "median", "draws": 2},
    ],
)
def test_bad_arguments_of_impute_are_refused_in_one_line(fitted, arguments):
    with pytest.raises(pv.InputError):
        fitted.impute(cohort(20), **arguments)


@pytest.mark.parametrize("device", ["nope", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_in_one_line(device):
    with pytest.raises(pv.InputError, match="device"):
        pv.Estimator(**QUICK, device=device).fit(cohort())


def test_the_score_of_one_table_is_that_of_entries_that_were_hidden():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 2))
    x = z @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(200, 6))
    est = pv.Estimator(steps=30, members=2, latent=3, seed=0).fit(x[:150])
    assert est.score(x[150:]) > 0.8
    assert est.score(x[150:]) == est.score(x[150:][::-1].copy())
    noise = rng.normal(size=(50, 6))
    assert est.score(noise) < 0.2
    assert {"mean", "factors", "stack"} <= set(est.scores(x[150:]).methods)


def test_draws_of_gaps_have_the_covariance_of_the_exact_conditional():
    rng = np.random.default_rng(0)
    weights, noise = rng.normal(size=(8, 2)), 0.3
    x = rng.normal(size=(1500, 2)) @ weights.T + noise * rng.normal(size=(1500, 8))
    est = pv.Estimator(steps=10, members=2, latent=3, seed=0).fit(x)
    new = np.tile(x[:1], (500, 1))
    new[:, :6] = np.nan
    drawn = np.concatenate(est.impute(new, draws=4))[:, :6]
    covariance = weights @ weights.T + noise**2 * np.eye(8)
    cross = covariance[:6, 6:]
    exact = covariance[:6, :6] - cross @ np.linalg.solve(covariance[6:, 6:], cross.T)
    scale = np.sqrt(np.diag(exact))
    assert np.abs(exact / np.outer(scale, scale) - np.eye(6)).max() > 0.5
    assert np.abs(np.cov(drawn.T) - exact).max() < 0.2 * np.diag(exact).max()


def test_numpy_integers_are_whole_numbers(tmp_path):
    est = pv.Estimator(steps=np.int64(20), members=np.int32(2), latent=np.int64(2)).fit(cohort(20))
    assert len(est.impute(cohort(20), draws=np.int64(2))) == 2
    est.save(tmp_path / "e.polyvae")
    assert pv.Estimator.load(tmp_path / "e.polyvae").get_params()["latent"] == 2


def test_without_anything_to_predict_there_is_no_score():
    x = np.random.default_rng(0).normal(size=(20, 1))
    with pytest.raises(pv.InputError, match="score"):
        pv.Estimator(**QUICK).fit(x).score(x)


def test_constant_modalities_give_no_warnings_of_libraries():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        est = pv.Estimator(**QUICK).fit({"a": np.ones((20, 3)), "b": np.ones((20, 2))})
        assert (est.impute({"a": np.ones((2, 3))})["b"] == 1).all()


def test_missing_columns_are_an_error_or_masked(fitted):
    given = cohort(20)
    given["rna"] = given["rna"].drop(columns="c")
    with pytest.raises(pv.InputError, match="c"):
        fitted.impute(given)
    filled = clone_with(fitted, missing_columns="mask").impute(given)
    assert filled["rna"]["c"].notna().all()


def test_constant_columns_and_wide_tables_are_sound():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40, 10_000))
    a[:, 5] = 3.0
    est = pv.Estimator(**{**QUICK, "steps": 3}).fit({"a": a, "b": rng.normal(size=(40, 2))})
    filled = est.impute({"a": np.full((2, 10_000), np.nan), "b": rng.normal(size=(2, 2))})
    assert (filled["a"][:, 5] == 3.0).all()
    assert np.isfinite(filled["a"]).all()


def test_a_new_value_in_a_constant_column_changes_little(fitted):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(60, 4)), rng.normal(size=(60, 3))
    a[:, 1] = 2.0
    est = pv.Estimator(**QUICK).fit({"a": a, "b": b})
    new = a[:5].copy()
    new[:, 1] = 1e6
    with pytest.warns(UserWarning, match="far outside"):
        filled = est.impute({"a": new, "b": np.full((5, 3), np.nan)})
    assert np.array_equal(filled["b"], est.impute({"a": a[:5], "b": np.full((5, 3), np.nan)})["b"])


def test_files_that_are_no_estimators_are_refused(tmp_path, fitted):
    (tmp_path / "x.polyvae").write_bytes(b"nothing")
    with pytest.raises(pv.InputError):
        pv.Estimator.load(tmp_path / "x.polyvae")
    fitted.save(tmp_path / "y.polyvae")
    data = bytearray((tmp_path / "y.polyvae").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "y.polyvae").write_bytes(bytes(data))
    with pytest.raises(pv.InputError):
        pv.Estimator.load(tmp_path / "y.polyvae")


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(3, 14), st.integers(1, 3), st.integers(0, 10**6), st.floats(0, 0.6), st.booleans())
def test_random_ragged_data_are_fitted_and_completed(n, tables, seed, rate, gaps):
    rng = np.random.default_rng(seed)
    frames = {}
    for number in range(tables):
        x = rng.normal(size=(n, int(rng.integers(1, 5)))) * 10.0 ** rng.integers(-3, 4)
        if gaps:
            x = np.where(rng.random(x.shape) < 0.3, np.nan, x)
        frame = pd.DataFrame(x, [f"s{i}" for i in range(n)], [f"f{i}" for i in range(x.shape[1])])
        frames[f"t{number}"] = frame[rng.random(n) >= rate] if number else frame
    try:
        est = pv.Estimator(steps=3, members=2, latent=2).fit(frames)
    except pv.InputError:  # no overlap, or a table of which nothing was observed
        return
    filled = est.impute(frames)
    for name, frame in frames.items():
        known = frame.notna().to_numpy()
        same = filled[name].loc[frame.index, frame.columns].to_numpy()
        assert np.array_equal(same[known], frame.to_numpy()[known])
        assert np.isfinite(filled[name].to_numpy()).all()

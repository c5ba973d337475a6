"""Warnings about data that can be used, but are probably not what was meant."""

import warnings

import numpy as np
import pytest

import polyvae as pv

QUICK = {"steps": 3, "members": 2, "latent": 2, "seed": 0}


def data(n: int = 30) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"a": rng.normal(size=(n, 4)), "b": rng.normal(size=(n, 3))}


def test_ordinary_data_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        est = pv.Estimator(**QUICK).fit(data())
        est.scores({name: x + 1e-3 for name, x in data().items()})


def test_skewed_amounts():
    given = data(60)
    given["a"] = np.exp(3 * given["a"][:, :1] + np.zeros((1, 4)))
    with pytest.warns(UserWarning, match=r"4 of 4 columns are strongly skewed.*log2"):
        pv.Estimator(**QUICK).fit(given)


def test_codes_for_missing_values():
    given = data(60)
    given["a"] = np.round(given["a"] * 10 + 50)
    given["a"][[3, 8, 9], 1] = -999
    given["a"][[3, 8], 2] = 9999
    given["a"][4, 3] = -99  # once
    given["b"] = np.linspace(-9999, 9999, 180).reshape(60, 3)  # no gap
    given["b"][:2, 0] = -9999
    with pytest.warns(UserWarning, match="code for missing") as found:
        pv.Estimator(**QUICK).fit(given)
    (text,) = [str(each.message) for each in found if "code" in str(each.message)]
    assert "modality 'a': 2 columns" in text
    assert "a_1: -999 in 3 samples, a_2: 9999 in 2 samples" in text
    assert "replace it by NaN" in text


def test_one_table_under_two_names():
    given = data()
    given["c"] = given["a"].copy()
    with pytest.warns(UserWarning, match="'a' and 'c': their values are the same"):
        pv.Estimator(**QUICK).fit(given)


def test_one_modality_alone():
    with pytest.warns(UserWarning, match="no other to impute it from"):
        pv.Estimator(**QUICK).fit(data()["a"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.Estimator(**QUICK).fit(data()["a"], data()["b"][:, 0])


def test_few_samples_and_columns_without_a_value():
    given = data()
    given["b"][4:] = np.nan
    given["a"][:, 2] = np.nan
    with pytest.warns(UserWarning, match="modality") as found:
        pv.Estimator(**QUICK).fit(given)
    assert any("4 samples have it" in str(each.message) for each in found)
    assert any("1 column has no value" in str(each.message) for each in found)


def test_scores_of_training_samples():
    est = pv.Estimator(**QUICK).fit(data())
    with pytest.warns(UserWarning, match="30 of 30 samples were in the training data"):
        est.scores(data())


def test_a_target_that_is_an_id():
    with pytest.warns(UserWarning, match="is this an id"):
        pv.Estimator(**QUICK).fit(data(), [f"p{i}" for i in range(30)])

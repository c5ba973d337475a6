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

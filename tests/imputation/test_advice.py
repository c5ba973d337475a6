"""Warnings about data that can be used, but are probably not what was meant."""

import warnings

import numpy as np
import pytest

import polyvae as pv
from polyvae.imputation.advice import advise_of_new, advise_of_training_samples
from polyvae.imputation.tables import Tables

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
    with pytest.warns(UserWarning, match="30 of 30 samples have the same values as a training sample"):
        est.scores(data())


def repeated(known, given):
    """The number of samples that are said to be among the training samples."""
    tables = [
        Tables(x, {name: np.ones(part.shape, bool) for name, part in x.items()}) for x in (known, given)
    ]
    tables[1].observed["b"][-1] = False
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        advise_of_training_samples(*tables, ("a", "b"))
    return int(str(found[0].message).split()[1]) if found else 0


@pytest.mark.parametrize("width", [19, 20])
def test_samples_that_coincide_in_one_small_table_are_no_training_samples(width):
    rng = np.random.default_rng(0)
    known = {"a": rng.normal(size=(30, width)).astype("f4"), "b": rng.integers(0, 2, (30, 2)).astype("f4")}
    new = {"a": rng.normal(size=(9, width)).astype("f4"), "b": known["b"][:9].copy()}
    assert repeated(known, new) == 0
    new["a"][:4] = known["a"][:4]
    assert repeated(known, new) == 4  # of one training sample, in both tables
    new["b"][:2] = 1 - new["b"][:2]
    new["a"][8] = known["a"][3]  # has this table alone
    assert repeated(known, new) == (5 if width == 20 else 2)


def test_a_target_that_is_an_id():
    with pytest.warns(UserWarning, match="is this an id"):
        pv.Estimator(**QUICK).fit(data(), [f"p{i}" for i in range(30)])


def test_new_samples_without_an_entry_and_files_without_a_common_sample_are_named():
    x = np.ones((4, 2))
    x[0] = np.nan
    data = pv.MultimodalData.from_arrays({"a": x}, nan="missing")
    with pytest.warns(UserWarning, match="1 of 4 samples have no observed entry"):
        advise_of_new(data)
    mask = {"a": np.arange(4) < 2, "b": np.arange(4) > 1}
    values = {"a": np.ones((4, 2)), "b": np.ones((4, 1))}
    with pytest.warns(UserWarning, match="no sample is in two of 'a', 'b'"):
        advise_of_new(pv.MultimodalData(values, mask=mask, ids=list("pqrs")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        advise_of_new(pv.MultimodalData(values, ids=list("pqrs")))

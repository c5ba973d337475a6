"""Counts on the scale log(1 + x): which tables are described on it, and back to units."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import skew
from sklearn.datasets import load_digits

import polyvae as pv
from polyvae.data.logscale import amounts, asked_for, logarithms, moments
from polyvae.data.schema import Schema


def molecules(cells: int = 200, genes: int = 30, seed: int = 0) -> np.ndarray:
    """Counts whose logarithms depend on two factors."""
    rng = np.random.default_rng(seed)
    rate = np.exp(rng.normal(size=(cells, 2)) @ rng.normal(size=(2, genes)) * 0.6 + rng.normal(2, 0.5, genes))
    return rng.poisson(rate).astype(float)


def fit(x: np.ndarray, log_scale="auto", **options) -> Schema:
    return Schema.fit(pv.MultimodalData({"x": x}, **options), log_scale=log_scale)


def test_amounts_are_the_inverse_of_logarithms():
    x = np.array([[0.0, -3.0, 1e6], [7.0, 2.0, 0.25]])
    columns = np.array([True, False, True])
    logs = logarithms(x, columns)
    assert logs[1, 0] == np.log(8)
    assert (logs[:, 1] == x[:, 1]).all()
    np.testing.assert_allclose(amounts(logs, columns), x, rtol=1e-14)
    assert np.isfinite(amounts(np.array([1e9]), np.array([True]))).all()


def test_moments_of_pieces_are_those_of_the_observed_values():
    x = molecules()[:, :4]
    x[:, 3] = 5
    seen = np.random.default_rng(1).random(x.shape) < 0.7
    found = moments(((seen[rows], x[rows]) for rows in (slice(90), slice(90, None))), 4)
    for place in range(3):
        own = x[seen[:, place], place]
        assert found.mean[place] == pytest.approx(own.mean(), rel=1e-12)
        assert found.variance[place] == pytest.approx(own.var(), rel=1e-10)
        assert found.skewness[place] == pytest.approx(skew(own), rel=1e-8)
    assert (found.mean[3], found.variance[3], found.skewness[3]) == (5, 0, 0)


def test_counts_of_molecules_are_on_this_scale_and_other_numbers_are_not():
    assert fit(molecules())["x"].log_scale
    assert not fit(molecules(), ())["x"].log_scale
    assert not fit(molecules()[:, :4])["x"].log_scale  # few columns may be anything
    assert not fit(load_digits().data)["x"].log_scale
    assert not fit(np.random.default_rng(0).poisson(40, (200, 8)))["x"].log_scale  # symmetric
    draws = np.random.default_rng(1)
    assert not fit(draws.poisson(draws.gamma(10, 5, (2000, 8))))[
        "x"
    ].log_scale  # skewed, and less in logarithms, but little
    assert not fit(molecules() + 0.5)["x"].log_scale  # no counts
    assert not fit(np.c_[molecules(), -1 - molecules()[:, 0]])["x"].log_scale


def test_one_scale_for_all_columns_and_back_to_units():
    x = np.c_[molecules(), np.arange(200) % 2, np.full(200, 3.0)]
    schema = fit(x)
    each = schema["x"]
    assert each.logs.tolist() == [True] * 30 + [False, True]
    data = pv.MultimodalData({"x": x})
    z = schema.standardise(data)["x"].values
    assert np.abs(z.mean(0)).max() < 1e-5
    assert z[:, :31].var(0).mean() == pytest.approx(1, rel=1e-5)
    scale = np.sqrt(np.c_[np.log1p(x[:, :30]), x[:, 30]].var(0).mean())
    np.testing.assert_allclose(z[:, 0] * scale, np.log1p(x[:, 0]) - np.log1p(x[:, 0]).mean(), atol=1e-5)
    assert (z[:, 31] == 0).all()
    np.testing.assert_allclose(schema.restore("x", z), x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(schema.unstandardise("x", z)[:, 5], np.log1p(x[:, 5]), rtol=1e-5, atol=1e-5)


def test_what_is_asked_for_is_checked():
    assert asked_for("auto", ("a", "b")) == {"a": "auto", "b": "auto"}
    assert asked_for(["b"], ("a", "b")) == {"a": False, "b": True}
    assert fit(np.sqrt(molecules()), ["x"])["x"].log_scale
    for wrong, match in (
        ("x", "expected 'auto' or a list"),
        (True, "expected 'auto'"),
        (["y"], "no modality 'y'"),
    ):
        with pytest.raises(pv.InputError, match=match):
            fit(molecules(), wrong)
    with pytest.raises(pv.InputError, match="below 0 in 30 columns"):
        fit(molecules() - 5.5, ["x"])
    schema, new = fit(molecules()), molecules()
    new[3, 4] = -1
    with pytest.raises(pv.InputError, match="below 0 in 1 column "):
        schema.standardise(pv.MultimodalData({"x": new}))

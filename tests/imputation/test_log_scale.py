"""Counts that the Estimator describes on the scale log(1 + x): results in counts, scores in logarithms."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import polyvae as pv
from polyvae.data.schema import Schema
from polyvae.imputation.advice import advise
from polyvae.imputation.filling.fill import canonical, whole


def cells(count: int = 160, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    state = np.random.default_rng(9).normal(size=(2, 40))
    z = rng.normal(size=(count, 2))
    rna = rng.poisson(np.exp(0.7 * z @ state[:, :32] + 0.5)).astype(float)
    protein = rng.poisson(np.exp(0.7 * z @ state[:, 32:] + 4) * rng.gamma(8, 1 / 8, (count, 8))).astype(float)
    return {"rna": rna, "protein": protein}


@pytest.fixture(scope="module")
def fitted() -> pv.Estimator:
    with pytest.warns(
        UserWarning, match=r"'rna': 32 columns of skewed counts are described on the scale log\(1 \+ x\)"
    ):
        return pv.Estimator(steps=20, members=2, latent=2, seed=0).fit(cells())


def test_means_are_on_a_line_through_those_over_residuals(fitted):
    """E[1 + x] is exp(prediction) times the mean of exp(residual), whatever the distribution of residuals (Duan 1983), on average."""
    new = {"rna": cells(50, 1)["rna"]}
    mean, median = (fitted.impute(new, statistic=each)["protein"] for each in ("mean", "median"))
    combination = fitted._imputer.combination(fitted._imputer.others("protein"), "protein")
    scale, centre = (
        np.asarray(x) for x in (fitted.schema_["protein"].scale, fitted.schema_["protein"].center)
    )
    residuals = combination.residuals * scale
    size = np.exp(residuals).mean(0)
    smeared = (1 + median) / np.exp(np.median(residuals, 0)) * size
    left = np.exp(combination.left_out["stack"] * scale + centre) * size
    true = np.exp(combination.y * scale + centre)
    for column in range(mean.shape[1]):
        slope, start = np.polyfit(left[:, column], true[:, column], 1)
        slope = np.clip(slope, 0, 1)
        start = true[:, column].mean() - slope * left[:, column].mean()
        np.testing.assert_allclose(1 + mean[:, column], start + slope * smeared[:, column], rtol=2e-3)
    assert (mean >= 0).all()


def test_imputed_counts_are_close_and_intervals_cover_them(fitted):
    new = cells(100, 1)
    guess, low, high = fitted.impute({"rna": new["rna"]}, interval=0.9)
    logs = [np.log1p(x["protein"]) for x in (guess, new, cells())]
    assert ((logs[0] - logs[1]) ** 2).sum() < 0.5 * ((logs[1] - logs[2].mean(0)) ** 2).sum()
    inside = (low["protein"] <= new["protein"]) & (new["protein"] <= high["protein"])
    assert 0.84 < inside.mean() < 0.96
    assert (low["protein"] >= 0).all()


def test_scores_are_those_of_logarithms(fitted):
    found = fitted.scores(cells(100, 1))
    new = cells(100, 1)
    combination_scale = fitted.impute({"rna": new["rna"]}, statistic="median")["protein"]
    combination = fitted._imputer.combination(fitted._imputer.others("protein"), "protein")
    scale = np.asarray(fitted.schema_["protein"].scale)
    shift = np.median(combination.residuals, 0) * scale
    guess = np.log1p(combination_scale) - shift
    error = np.sqrt(((guess - np.log1p(new["protein"])) ** 2).mean(0))
    assert found.value("protein", "stack", "rmse") == pytest.approx((error / scale).mean(), rel=1e-4)


def test_a_file_and_its_estimator_agree(fitted, tmp_path):
    fitted.save(tmp_path / "cells.polyvae")
    again = pv.Estimator.load(tmp_path / "cells.polyvae")
    new = {"rna": cells(5, 1)["rna"]}
    assert np.array_equal(again.impute(new)["protein"], fitted.impute(new)["protein"])
    assert again.log_scale == "auto"


def test_counts_as_they_are(recwarn):
    est = pv.Estimator(steps=5, members=2, latent=2, seed=0, log_scale=[]).fit(cells())
    assert not any(each.log_scale for each in est.schema_.modalities)
    assert not any("log(1 + x)" in str(each.message) for each in recwarn)


def test_the_advice_for_amounts_names_the_modality() -> None:
    data = pv.MultimodalData({"rna": np.exp(3 * np.random.default_rng(0).normal(size=(100, 4)))})
    schema = Schema.fit(data)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        advise(schema, whole(schema, data, canonical(schema, data)), "auto")
    assert any("log_scale=['rna']" in str(each.message) for each in found)

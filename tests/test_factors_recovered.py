"""The benchmark of recovered factors: its simulated truth, and its comparison."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.factors_recovered import (
    ACTIVE,
    COHORTS,
    LEAST,
    NAMES,
    SIZES,
    Recovered,
    best,
    by_estimator,
    by_mofa,
    compared,
    shown,
    simulate,
    summary,
)
from polyvae.imputation.understanding.group_factors import GroupFactors


def test_the_truth_is_the_variance_of_the_simulated_modalities():
    cohort = simulate(samples=4000, missing=0.0)
    for m, name in enumerate(NAMES):
        x = cohort.x[name] - cohort.x[name].mean(0)
        slopes = np.linalg.lstsq(cohort.z, x, rcond=None)[0]
        shares = [
            ((np.outer(cohort.z[:, k], slopes[k])) ** 2).sum() / (x**2).sum() for k in range(len(ACTIVE))
        ]
        assert shares == pytest.approx(cohort.r2[:, m], abs=0.02)
    assert ((cohort.r2 >= LEAST) == ACTIVE).all()


def test_the_truth_compared_with_itself_in_another_order():
    cohort, order = simulate(), [3, 1, 0, 4, 2]
    assert all(0.05 < np.isnan(x).any(1).mean() < 0.15 for x in cohort.x.values())
    more = np.random.default_rng(0).normal(size=(len(cohort.z), 2))
    z = np.concatenate([-cohort.z[:, order], more], 1)
    found = compared(cohort, Recovered(z, np.concatenate([cohort.r2[order], np.zeros((2, 3))]), 1.0))
    assert found["correlation"] == pytest.approx([1] * 5)
    assert (found["cells right"], found["error"], found["factors"]) == (15, 0, 5)
    assert "|r| 1.00" in shown(cohort, {"truth again": found})
    text = summary([{"truth again": found}, {"truth again": {**found, "cells right": 13}}], [0.9, 0.92])
    assert "14.0 ± 1.4" in text
    assert "mean |r| 0.910 ± 0.014" in text


def test_no_linear_combination_of_the_data_has_higher_correlations_than_the_posterior():
    """Without missing modalities and with the true loadings the posterior mean is the regression on x."""
    cohort = simulate(samples=4000, missing=0.0)
    x = np.concatenate([np.ones((4000, 1)), *cohort.x.values()], 1)
    fit = x @ np.linalg.lstsq(x, cohort.z, rcond=None)[0]
    regression = [float(np.corrcoef(*pair)[0, 1]) for pair in zip(cohort.z.T, fit.T, strict=True)]
    assert best(cohort) == pytest.approx(regression, abs=0.005)
    assert (cohort.best - cohort.z).mean(0) == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("name", COHORTS)
def test_cohorts(name):
    cohort = simulate(seed=3, **COHORTS[name])
    assert {each: x.shape[1] for each, x in cohort.x.items()} == dict(zip(NAMES, SIZES, strict=True))
    assert len(cohort.z) == len(cohort.best) == len(cohort.x["rna"])
    assert (cohort.r2.sum(0) < 1).all()
    assert min(best(cohort)) > 0.6


@pytest.mark.parametrize("name", ["plain", "few"])
def test_group_factors_are_as_near_to_the_truth_as_the_posterior(name):
    """From a random start, with three factors more than there are."""
    cohort = simulate(seed=20, **COHORTS[name])
    x = np.concatenate(list(cohort.x.values()), 1)
    seen, groups = ~np.isnan(x), np.repeat([0, 1, 2], SIZES)
    x = np.where(seen, (x - np.nanmean(x, 0)) / np.nanstd(x, 0), 0)
    model = GroupFactors.fit(x, seen, groups, np.random.default_rng(0).normal(size=(len(x), 8)), 60)
    z, _ = model.of(x, seen)
    power = np.array([(model.weights[each == groups] ** 2).mean(0) for each in range(3)])
    found = compared(cohort, Recovered(z, power.T, 0.0))
    assert found["cells right"] == 15
    assert np.mean(found["correlation"]) > np.mean(best(cohort)) - 0.01


@pytest.mark.slow
@pytest.mark.parametrize("seed", [20, 21])
def test_the_estimator_recovers_the_factors(seed):
    cohort = simulate(seed=seed)
    results = {name: compared(cohort, each) for name, each in by_estimator(cohort, seed).items()}
    found = results["Estimator, factors"]
    assert found["cells right"] == 15
    assert found["factors"] == 5
    assert np.mean(found["correlation"]) > np.mean(best(cohort)) - 0.01
    assert found["error"] < 0.02
    assert np.mean(found["correlation"]) > np.mean(results["embedding, varimax"]["correlation"])


def test_without_mofapy2_there_is_no_result():
    assert by_mofa(simulate(20), "false") is None

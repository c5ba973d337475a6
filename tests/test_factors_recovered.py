"""The benchmark of recovered factors: its simulated truth, and its comparison."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.factors_recovered import ACTIVE, LEAST, NAMES, Recovered, by_mofa, compared, shown, simulate


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
    assert "15 of 15" in shown(cohort, {"truth again": found})


def test_without_mofapy2_there_is_no_result():
    assert by_mofa(simulate(20), "false") is None

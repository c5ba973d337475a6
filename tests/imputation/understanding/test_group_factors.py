"""Group factor analysis: its bound, exact cases, invariances, and recovery of factors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from polyvae.imputation.understanding.group_factors import GroupFactors

GROUPS = np.repeat([0, 1, 2], [12, 8, 10])
ACTIVE = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0]], bool)  # factor by table


def world(n: int = 150, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x with zeros where missing, which entries were observed, and the factors."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=(n, 3))
    x = u @ (rng.normal(size=(3, 30)) * ACTIVE[:, GROUPS]) + noise * rng.normal(size=(n, 30))
    x = (x - x.mean(0)) / x.std(0)
    seen = rng.random(x.shape) > 0.1
    seen[:20, GROUPS == 1] = False
    return np.where(seen, x, 0), seen, u


@pytest.fixture(scope="module")
def fitted() -> GroupFactors:
    x, seen, _ = world()
    return GroupFactors.fit(x, seen, GROUPS, np.random.default_rng(1).normal(size=(len(x), 5)))


def test_the_bound_never_falls(fitted):
    rises = np.diff(fitted.bounds)
    assert len(rises) > 20
    assert rises.min() > -1e-7


def test_factors_are_found_from_a_random_start(fitted):
    x, seen, u = world()
    z, deviation = fitted.of(x, seen)
    both = np.abs(np.corrcoef(u.T, z.T)[:3, 3:])
    match = both.argmax(1)
    assert sorted(match) == sorted(set(match))
    assert both.max(1).min() > 0.95
    power = np.array([(fitted.weights[g == GROUPS] ** 2).mean(0) for g in range(3)]).T
    assert np.array_equal(power[match] > 0.03, ACTIVE)
    others = np.setdiff1d(np.arange(5), match)
    assert power[others].max() < 0.01  # what is not needed vanishes
    assert (deviation[:, match] < 0.5).all()
    assert deviation[:, others] == pytest.approx(1, abs=0.1)


def test_without_factors_the_bound_is_the_log_likelihood():
    x, seen, _ = world()
    found = GroupFactors.fit(x, seen, GROUPS, np.zeros((len(x), 0)))
    exact = 0.0
    for column, known in zip(x.T, seen.T, strict=True):
        values = column[known]
        exact += norm.logpdf(values, values.mean(), values.std()).sum()
    assert found.bounds[-1] == pytest.approx(exact, rel=1e-9)
    assert found.of(x, seen)[0].shape == (len(x), 0)


def test_the_bound_is_below_the_evidence():
    """At fixed μ, σ² and α, for one column and one factor, where log p(x) is an integral over w."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, 1)) * 1.5
    found = GroupFactors.fit(x, np.ones(x.shape, bool), np.zeros(1, int), rng.normal(size=(40, 1)))
    precision = 1 / found.second[0, 0, 0]
    w = np.linspace(-12, 12, 4001) / np.sqrt(precision)
    given_w = norm.logpdf(x[:, 0] - found.mean, 0, np.sqrt(w[:, None] ** 2 + found.noises)).sum(1)
    joint = given_w + norm.logpdf(w, 0, precision**-0.5)
    evidence = np.log(np.exp(joint - joint.max()).sum() * (w[1] - w[0])) + joint.max()
    assert found.bounds[-1] <= evidence
    assert found.bounds[-1] == pytest.approx(evidence, abs=3)


def test_factors_with_known_weights_are_the_exact_conditional():
    rng = np.random.default_rng(3)
    weights, noises, mean = rng.normal(size=(8, 2)), rng.uniform(0.2, 1, 8), rng.normal(size=8)
    model = GroupFactors(mean, weights, weights[:, :, None] * weights[:, None], noises, ())
    x, seen = rng.normal(size=(6, 8)), rng.random((6, 8)) < 0.6
    seen[0] = False
    z, deviation = model.of(np.where(seen, x, 99), seen)
    for row, (value, known) in enumerate(zip(x, seen, strict=True)):
        w = weights[known]
        gain = w.T @ np.linalg.inv(w @ w.T + np.diag(noises[known]))
        assert z[row] == pytest.approx(gain @ (value - mean)[known], abs=1e-12)
        assert deviation[row] == pytest.approx(np.sqrt(np.diag(np.eye(2) - gain @ w)))


def test_order_and_signs_do_not_matter(fitted):
    """Those of samples, of columns within their tables, and of the factors at the start."""
    x, seen, _ = world()
    rng = np.random.default_rng(1)
    start = rng.normal(size=(len(x), 5))
    rows, columns = rng.permutation(len(x)), rng.permutation(30)
    found = GroupFactors.fit(
        x[rows][:, columns], seen[rows][:, columns], GROUPS[columns], start[rows][:, ::-1] * [1, -1, 1, -1, 2]
    )
    count = min(len(found.bounds), len(fitted.bounds), 20)
    assert found.bounds[:count] == pytest.approx(fitted.bounds[:count], rel=1e-6)
    fit = fitted.of(x, seen)[0] @ fitted.weights.T
    again = found.of(x[rows][:, columns], seen[rows][:, columns])[0] @ found.weights.T
    assert again == pytest.approx(fit[rows][:, columns], abs=0.02)


def test_values_of_missing_entries_have_no_influence(fitted):
    x, seen, _ = world()
    start = np.random.default_rng(1).normal(size=(len(x), 5))
    other = np.where(seen, x, 7.0)
    assert GroupFactors.fit(other, seen, GROUPS, start, 12).bounds == fitted.bounds[:12]
    assert np.array_equal(fitted.of(other, seen)[0], fitted.of(x, seen)[0])


def test_means_are_those_of_all_samples_where_entries_are_missing_by_the_factor():
    """Of a column that is missing where the factor is positive, the mean of what was observed is low by 0.8 of its weight."""
    rng = np.random.default_rng(5)
    u = rng.normal(size=(400, 1))
    x = np.concatenate([u @ rng.normal(1, 0.1, size=(1, 8)), 1.5 * u], 1) + 0.3 * rng.normal(size=(400, 9))
    seen = np.ones(x.shape, bool)
    seen[u[:, 0] > 0, 8] = False
    found = GroupFactors.fit(np.where(seen, x, 0), seen, np.repeat([0, 1], [8, 1]), rng.normal(size=(400, 1)))
    assert x[seen[:, 8], 8].mean() < -1
    assert found.mean == pytest.approx(x.mean(0), abs=0.1)


def test_turned_factors_predict_the_same(fitted):
    x, seen, _ = world()
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(5, 5)))[0]
    found, (z, deviation) = fitted.turned(turn), fitted.of(x, seen)
    again = found.of(x, seen)
    assert again[0] == pytest.approx(z @ turn, abs=1e-9)
    assert again[0] @ found.weights.T == pytest.approx(z @ fitted.weights.T, abs=1e-9)
    assert (again[1] ** 2).sum(1) == pytest.approx((deviation**2).sum(1))  # the trace of the covariance
    order = np.array([3, 0, 4, 1, 2])
    z_in_order, deviation_in_order = fitted.turned(np.eye(5)[:, order] * [1, -1, 1, -1, 1]).of(x, seen)
    assert z_in_order == pytest.approx(z[:, order] * [1, -1, 1, -1, 1], abs=1e-9)
    assert deviation_in_order == pytest.approx(deviation[:, order])

"""Probabilistic PCA with missing entries."""

import numpy as np
import pytest

from polyvae.imputation.methods.factors import Factors


def world(n: int = 600, rate: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng(0)
    weights, noise = rng.normal(size=(8, 2)), 0.3
    x = rng.normal(size=(n, 2)) @ weights.T + noise * rng.normal(size=(n, 8))
    seen = rng.random(x.shape) >= rate
    covariance = weights @ weights.T + noise**2 * np.eye(8)
    return x.astype("f4"), seen, covariance, noise


def test_missing_entries_have_the_error_of_the_exact_conditional():
    x, seen, covariance, _ = world()
    found = Factors(np.where(seen, x, 0).astype("f4"), seen, 2).predict(
        np.where(seen, x, 0).astype("f4"), seen
    )
    exact = np.zeros_like(x)
    for row, (value, known) in enumerate(zip(x, seen, strict=True)):
        exact[row] = covariance[:, known] @ np.linalg.solve(covariance[np.ix_(known, known)], value[known])
    errors = [((prediction - x)[~seen] ** 2).mean() for prediction in (found, exact)]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)


def test_the_noise_is_found():
    x, _, _, noise = world(2000, 0.0)
    fitted = Factors(x, np.ones_like(x, bool), 2)
    assert fitted.noises == pytest.approx(np.full(8, noise**2), rel=0.15)


def test_draws_have_the_covariance_of_the_exact_conditional():
    x, _, covariance, noise = world(3000, 0.0)
    fitted = Factors(x, np.ones_like(x, bool), 2, each=True)
    assert fitted.noises == pytest.approx(np.full(8, noise**2), rel=0.15)
    rng, known = np.random.default_rng(1), np.arange(8) >= 6
    seen, n = np.tile(known, (20_000, 1)), 20_000
    drawn = fitted.draw(seen, slice(0, 6), rng.normal(size=(n, 5)))
    assert fitted.variance(seen[:2], slice(0, 6))[0] == pytest.approx(drawn.var(0), rel=0.05, abs=1e-3)
    drawn = drawn + np.sqrt(fitted.noises[:6]) * rng.normal(size=(n, 6))
    cross = covariance[:6, 6:]
    exact = covariance[:6, :6] - cross @ np.linalg.solve(covariance[6:, 6:], cross.T)
    assert np.abs(np.cov(drawn.T) - exact).max() < 0.08 * np.diag(exact).max()


def test_values_of_missing_entries_have_no_influence():
    x, seen, _, _ = world(100)
    a = Factors(np.where(seen, x, 0).astype("f4"), seen, 2).predict(np.where(seen, x, 0).astype("f4"), seen)
    assert np.isfinite(a).all()
    nothing = Factors(x, np.ones_like(seen), 2).predict(np.zeros((1, 8), "f4"), np.zeros((1, 8), bool))
    assert np.abs(nothing).max() < 1e-12

"""Ridge, kernel ridge and neighbours: leave-one-out predictions are those of the method fitted without the sample."""

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge as Reference
from sklearn.linear_model import Ridge as LinearReference
from sklearn.neighbors import KNeighborsRegressor

from polyvae.imputation.methods import simple
from polyvae.imputation.methods.simple import KernelRidge, Neighbours, Ridge


def world(n: int, p: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)).astype(np.float32)
    return x, (x[:, :3] @ rng.normal(size=(3, 4)) + rng.normal(size=(n, 4)) + 2).astype(np.float32)


@pytest.mark.parametrize(("n", "p"), [(30, 50), (60, 10)])
def test_ridge_left_out_is_exact(n, p):
    x, y = world(n, p)
    found = Ridge(x, y)
    assert np.isfinite(found.alpha).all()
    reference = LinearReference(alpha=found.alpha)
    without = [
        reference.fit(np.delete(x, i, 0), np.delete(y, i, 0)).predict(x[i : i + 1])[0] for i in range(n)
    ]
    assert np.abs(found.left_out - without).max() < 1e-5
    assert np.abs(found.predict(x) - reference.fit(x, y).predict(x)).max() < 1e-5


def test_a_column_has_the_penalty_of_its_own_error_and_the_mean_error():
    """By refitting without each sample, for every penalty; a column of noise has a larger one than a column without noise."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, 12)).astype("f4")
    signal = x @ rng.normal(size=(12, 3))
    y = (signal * [1, 1, 0.2] + rng.normal(size=(40, 3)) * [0.05, 1, 1]).astype("f4")
    y /= y.std(0)
    alphas = np.logspace(-3, 4, 22) * float(((x - x.mean(0)) ** 2).sum() / 40)
    errors = np.zeros((22, 3))
    for i in range(40):
        rest = np.delete(np.arange(40), i)
        for number, alpha in enumerate(alphas):
            guess = LinearReference(alpha=alpha).fit(x[rest], y[rest]).predict(x[i : i + 1])[0]
            errors[number] += (guess - y[i]) ** 2
    expected = alphas[(errors + errors.mean(1, keepdims=True)).argmin(0)]
    found = Ridge(x, y)
    assert found.alpha == pytest.approx(expected, rel=1e-5)
    assert found.alpha[0] < found.alpha[2]


def test_ridge_of_noise_is_the_mean():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(12, 300)).astype("f4"), rng.normal(size=(12, 2)).astype("f4")
    y[:] = rng.permutation(y)
    found = Ridge(x, y)
    left = (12 * y.mean(0) - y) / 11
    assert ((found.left_out - y) ** 2).sum() <= ((left - y) ** 2).sum() + 1e-4


def test_kernel_ridge_is_that_of_scikit_learn():
    x, y = world(60, 8)
    found = KernelRidge(x, y)
    # Of the kernel centred by the training samples, which leaves the intercept to the mean.
    kernel = np.exp(-found.gamma * ((x[:, None] - x[None]) ** 2).sum(-1) / 8)
    centring = np.eye(60) - 1 / 60
    reference = Reference(alpha=found.alpha, kernel="precomputed")
    fitted = reference.fit(centring @ kernel @ centring, y - y.mean(0)).predict(centring @ kernel @ centring)
    assert np.abs(found.predict(x) - fitted - y.mean(0)).max() < 1e-3
    i = 7
    others = np.delete(np.arange(60), i)
    for column, alpha in enumerate(found.alpha):
        hat = (
            np.linalg.solve(centring @ kernel @ centring + alpha * np.eye(60), centring @ kernel @ centring).T
            + 1 / 60
        )
        residual = (y - hat @ y)[i, column] / (1 - hat[i, i])
        assert np.abs(y[i, column] - residual - found.left_out[i, column]) < 1e-3
    assert len(others) == 59


def test_kernel_ridge_of_landmarks_is_near_the_exact_one(monkeypatch):
    x, y = world(300, 4)
    exact = KernelRidge(x, y, (0.3,))
    monkeypatch.setattr(simple, "_LANDMARKS", 150)
    near = KernelRidge(x, y, (0.3,))
    new = world(100, 4, seed=5)[0]
    assert np.corrcoef(exact.predict(new).ravel(), near.predict(new).ravel())[0, 1] > 0.999


def test_kernel_ridge_left_out_is_the_error_of_refitting():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5)).astype("f4")
    y = np.sin(2 * x[:, :2]).astype("f4")
    found = KernelRidge(x, y)
    reference = Reference(alpha=found.alpha, kernel="rbf", gamma=found.gamma / 5)
    errors = []
    for i in range(120):
        rest = np.delete(np.arange(120), i)
        mean = y[rest].mean(0)
        errors.append(reference.fit(x[rest], y[rest] - mean).predict(x[i : i + 1])[0] + mean - y[i])
    # The two differ by how they treat the intercept.
    assert ((found.left_out - y) ** 2).mean() == pytest.approx(np.square(errors).mean(), rel=0.03)


def test_a_column_that_is_nearly_constant_does_not_spoil_the_kernel():
    """Rounding errors of the coefficients' sum would be multiplied by the kernel of new samples."""
    rng = np.random.default_rng(3)
    x = (0.01 * rng.normal(size=(300, 40)) + rng.normal(size=(300, 1))).astype("f4")
    y = (x[:, :5] * 2).astype("f4")
    found = KernelRidge(x[:200], y[:200])
    error = ((found.predict(x[200:]) - y[200:]) ** 2).sum() / (y[200:] ** 2).sum()
    assert error < 0.01


def test_neighbours_left_out_are_those_of_scikit_learn():
    x, y = world(50, 6)
    found = Neighbours(x, y)
    known = found.pca.transform(x)
    i = 11
    rest = np.delete(np.arange(50), i)
    reference = KNeighborsRegressor(found.k).fit(known[rest], y[rest]).predict(known[i : i + 1])[0]
    assert np.abs(found.left_out[i] - reference).max() < 1e-5


@pytest.mark.parametrize("n", [3, 4])
def test_three_samples_are_enough(n):
    x, y = world(n, 5)
    for kind in (Ridge, KernelRidge, Neighbours):
        found = kind(x, y)
        assert np.isfinite(found.predict(x)).all()
        assert np.isfinite(found.left_out).all()

"""Cross-validated Cox ridge and the weights of several."""

import numpy as np
import pytest

from polyvae.imputation.targets.cox import Partial, Survival, concordance, cox
from polyvae.imputation.targets.risk import cox_ridge, folds, stacked


def cohort(n: int, seed: int = 0, noise: int = 8) -> tuple[np.ndarray, Survival, np.ndarray]:
    """Columns of which the first two matter, times, and the true log relative hazards."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2 + noise)).astype(np.float32)
    eta = 1.2 * x[:, 0] - 0.8 * x[:, 1]
    time, censored = rng.exponential(np.exp(-eta)), rng.exponential(1.5, n)
    return x, Survival(np.minimum(time, censored), time <= censored), eta


def test_folds_have_the_same_share_of_events():
    _, given, _ = cohort(101)
    for fold in folds(given, 3):
        events = np.bincount(fold, given.event)
        assert np.ptp(np.bincount(fold)) <= 1
        assert np.ptp(events) <= 1
    first, again = folds(given, 3), folds(given, 3)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, folds(given, 4), strict=True))


def test_hazards_of_samples_left_out_are_those_of_refitting():
    x, given, _ = cohort(60, noise=1)
    fold = folds(given, 0)[0]
    found, left_out = cox_ridge(x, given, [fold])
    # Whatever the penalty was, the fit of all samples and those without a fold have it in common.
    z = (x - x.mean(0)).astype(np.float64)
    beta = found.weights.astype(np.float64)
    gradient = Partial(given).slopes(z, z @ beta).gradient
    penalty = float(gradient @ beta / (beta @ beta))
    for e in range(5):
        inside = fold != e
        other = cox(z[inside], Partial(given.rows(inside)), penalty)
        np.testing.assert_allclose(left_out[~inside, 0], z[~inside] @ other, atol=2e-3)


def test_risks_order_new_samples_nearly_as_the_truth_does():
    x, given, _ = cohort(200)
    new, times, eta = cohort(400, seed=1)
    found, _ = cox_ridge(x, given, folds(given, 0))
    assert concordance(times, found.of(new)).value > concordance(times, eta).value - 0.02


def test_noise_is_given_no_weight():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(80, 30)).astype(np.float32)
    given = Survival(rng.exponential(size=80), rng.random(80) < 0.5)
    found, left_out = cox_ridge(x, given, folds(given, 0))
    assert np.abs(left_out).max() < 0.2
    constant, left_out = cox_ridge(np.ones((80, 3), np.float32), given, folds(given, 0))
    assert not constant.weights.any()
    assert not left_out.any()
    assert np.isfinite(found.weights).all()


def test_weights_are_at_the_maximum_within_their_bounds():
    _, given, eta = cohort(150)
    rng = np.random.default_rng(2)
    several = np.stack([0.7 * eta + 0.3 * rng.normal(size=150), rng.normal(size=150), -eta, 0.01 * eta], 1)
    w = stacked(several, given)
    slopes = Partial(given).slopes(several, several @ w).gradient
    assert ((w >= 0) & (w <= 1)).all()
    assert w[2] == 0
    assert w[3] == pytest.approx(1)  # it would be larger without a bound
    for weight, slope in zip(w, slopes, strict=True):
        if 0 < weight < 1:
            assert slope == pytest.approx(0, abs=1e-2)
        else:
            assert slope <= 1e-2 if weight == 0 else slope >= -1e-2

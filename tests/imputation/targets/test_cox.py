"""Cox regression against its definition, autograd, and numbers of lifelines 0.30.3 and scikit-survival 0.28.0."""

import numpy as np
import pytest
import torch

import polyvae as pv
from polyvae.imputation.targets.cox import (
    Curve,
    Partial,
    Survival,
    breslow,
    concordance,
    cox,
    kaplan_meier,
)

AT = np.arange(40)


def made() -> tuple[np.ndarray, Survival]:
    """40 samples with three standardised columns, 13 times, many of them tied, and 26 events."""
    x = np.stack([np.sin(1.7 * AT), np.cos(2.3 * AT + 1), (AT * 7) % 11 / 5 - 1], 1)
    time = np.maximum(1.0 + (AT * AT * 3 + AT) % 13 + np.round(2 * np.cos(1.7 * AT + 2.5)), 1)
    return (x - x.mean(0)) / x.std(0, ddof=1), Survival(time, (AT * 5) % 3 != 0)


def likelihood(x: np.ndarray, given: Survival, beta: torch.Tensor) -> torch.Tensor:
    """The definition, event by event."""
    eta, total = torch.tensor(x) @ beta, torch.zeros((), dtype=torch.float64)
    for t in np.unique(given.time[given.event]):
        dying, at_risk = np.flatnonzero((given.time == t) & given.event), np.flatnonzero(given.time >= t)
        for number, row in enumerate(dying):
            below = eta[at_risk].exp().sum() - number / len(dying) * eta[dying].exp().sum()
            total = total + eta[row] - below.log()
    return total


def test_likelihood_and_its_derivatives_are_those_of_the_definition():
    x, given = made()
    beta = torch.tensor([0.4, -0.3, 1.1], dtype=torch.float64, requires_grad=True)
    value = likelihood(x, given, beta)
    (gradient,) = torch.autograd.grad(value, beta)
    hessian = torch.autograd.functional.hessian(lambda b: likelihood(x, given, b), beta.detach())
    partial, eta = Partial(given), x @ beta.detach().numpy()
    found = partial.slopes(x, eta)
    assert partial.log_likelihood(eta) == pytest.approx(value.item(), abs=1e-10)
    np.testing.assert_allclose(found.gradient, gradient.numpy(), atol=1e-10)
    np.testing.assert_allclose(found.information, -hessian.numpy(), atol=1e-10)
    assert partial.log_likelihood(eta + 900) == pytest.approx(value.item(), abs=1e-8)


def test_a_censored_sample_before_all_events_says_nothing():
    x, given = made()
    more = Survival(np.r_[given.time, 0.0], np.r_[given.event, False])
    eta = x[:, 0]
    assert Partial(more).log_likelihood(np.r_[eta, 5.0]) == pytest.approx(Partial(given).log_likelihood(eta))
    nothing = Survival(given.time, np.zeros(40, bool))
    assert Partial(nothing).log_likelihood(eta) == 0
    assert not Partial(nothing).slopes(x, eta).information.any()


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [(0.0, [0.51811555, 0.11638645, 0.10657486]), (0.1, [0.42493413, 0.03914101, 0.02169621])],
)
def test_fits_are_those_of_lifelines(penalty, expected):
    x, given = made()
    beta = cox(x, Partial(given), 40 * penalty)  # lifelines divides the likelihood by the number of samples
    np.testing.assert_allclose(beta, expected, atol=1e-6)
    slopes = Partial(given).slopes(x, x @ beta)
    np.testing.assert_allclose(slopes.gradient, 40 * penalty * beta, atol=1e-4)
    if not penalty:
        errors = np.sqrt(np.diag(np.linalg.inv(slopes.information)))
        np.testing.assert_allclose(errors, [0.22659484, 0.34794754, 0.39106982], atol=1e-6)
        assert Partial(given).log_likelihood(x @ beta) == pytest.approx(-70.22147963443597)


def test_a_fit_with_more_columns_than_samples_has_no_gradient_left():
    _, given = made()
    x = np.random.default_rng(0).normal(size=(40, 60))
    beta = cox(x, Partial(given), 3.0)
    np.testing.assert_allclose(Partial(given).slopes(x, x @ beta).gradient, 3.0 * beta, atol=1e-3)


def test_curves_are_those_of_lifelines():
    x, given = made()
    eta = x @ cox(x, Partial(given), 0.0)
    curve = breslow(given, eta)
    expected = [0.044473, 0.070201, 0.184923, 0.395349, 0.555284, 0.619783, 0.689389, 0.865797, 0.982165]
    np.testing.assert_allclose(curve.hazard[:9], expected, atol=1e-6)
    assert 8.0 not in curve.time  # nothing but a censored sample
    found = curve.survival(eta[:2], np.array([3.0, 8.0]))
    np.testing.assert_allclose(found, [[0.84448515, 0.53252061], [0.70934933, 0.27797742]], atol=1e-6)
    assert curve.quantile(eta[:4], 0.5).tolist() == [9, 4, 9, 11]
    time, alive = kaplan_meier(given)
    assert (time[0], alive[0]) == (0, 1)
    np.testing.assert_allclose(alive[1:6], [0.95, 0.922857, 0.810996, 0.630774, 0.536158], atol=1e-6)


def test_curves_and_quantiles_agree():
    curve = Curve(np.array([1.0, 2.0, 4.0]), np.array([0.1, 0.5, 0.6]))
    eta = np.linspace(-3, 3, 50)
    assert (curve.survival(eta, np.array([0.0, 0.999])) == 1).all()
    for p in (0.1, 0.5, 0.9):
        at = curve.quantile(eta, p)
        reached = np.isfinite(at)
        assert (curve.survival(eta[reached], at[reached]).diagonal() <= 1 - p + 1e-12).all()
        assert (curve.survival(eta, np.array([4.0]))[~reached] > 1 - p).all()


@pytest.mark.parametrize(
    ("scale", "digits", "expected"),
    [(1, 1, (0.6477272727272727, 305, 162, 17)), (2, 0, (0.6497933884297521, 285, 140, 59))],
)
def test_concordance_is_that_of_scikit_survival(scale, digits, expected):
    x, given = made()
    found = concordance(given, np.round(scale * x[:, 0], digits))
    assert found[:4] == pytest.approx(expected)
    assert concordance(given, -np.round(scale * x[:, 0], digits)).value == pytest.approx(1 - expected[0])


def test_standard_error_of_concordance_is_that_of_the_bootstrap():
    rng = np.random.default_rng(0)
    risk = rng.normal(size=150)
    given = Survival(rng.exponential(np.exp(-0.8 * risk)), rng.random(150) < 0.6)
    found = concordance(given, risk)
    drawn = [concordance(given.rows(rows), risk[rows]).value for rows in rng.integers(150, size=(300, 150))]
    assert found.standard_error == pytest.approx(np.std(drawn), rel=0.15)
    low, high = found.interval(0.95)
    np.testing.assert_allclose([low, high], np.quantile(drawn, [0.025, 0.975]), atol=0.02)


def test_intervals_of_concordance_at_its_ends():
    given = Survival(np.array([1.0, 2.0]), np.array([True, False]))
    assert concordance(given, [2.0, 1.0])[:4] == (1.0, 1, 0, 0)
    assert concordance(given, [2.0, 1.0]).interval() == (0.0, 1.0)
    with pytest.raises(pv.InputError, match="no pair"):
        concordance(Survival(np.array([1.0, 2.0]), np.array([False, True])), [2.0, 1.0])

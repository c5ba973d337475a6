"""Weights and intervals of the combination."""

import numpy as np
import pytest
from scipy.optimize import nnls

from polyvae.imputation.methods.combine import Combination, Known, _moments, half_widths, panels_of
from polyvae.imputation.methods.simple import Ridge


def known(n: int, matched: np.ndarray | None = None, seed: int = 0) -> Known:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype("f4")
    y = (x @ rng.normal(size=(6, 4)) + rng.normal(size=(n, 4))).astype("f4")
    y -= y.mean(0)
    good = (y + 0.1 * rng.normal(size=y.shape)).astype("f4")
    return Known(
        np.arange(n),
        x,
        y,
        np.ones_like(y, bool),
        np.arange(n) % 5,
        np.ones(n, bool) if matched is None else matched,
        {"vae": good},
    )


def test_the_better_method_gets_the_weight():
    found = Combination(known(200))
    assert found.weights["vae"] > 0.9
    assert all(weight >= 0 for weight in found.weights.values())


def test_the_combination_is_not_worse_than_its_best_part():
    rng = np.random.default_rng(1)
    case = known(300)
    case = case._replace(by_members={"vae": (case.y + rng.normal(size=case.y.shape)).astype("f4")})
    found = Combination(case)
    errors = {name: ((x - found.y) ** 2).mean() for name, x in found.left_out.items()}
    assert errors["stack"] <= min(errors[name] for name in errors if name != "stack") * 1.01


def two_methods(n: int, leader: np.ndarray | None) -> Known:
    """The columns 0 and 1 are predicted well by the first of two methods, 2 and 3 by the second."""
    rng = np.random.default_rng(2)
    y = rng.normal(size=(n, 4)).astype("f4")
    noise = np.array([[0.1, 0.1, 1.0, 1.0], [1.0, 1.0, 0.1, 0.1]])
    members = {
        name: (y + rng.normal(size=y.shape) * own).astype("f4") for name, own in zip("ab", noise, strict=True)
    }
    case = known(n)._replace(x=np.zeros((n, 0), "f4"), y=y, by_members=members, leader=leader)
    return case._replace(seen=rng.random(y.shape) < 0.7)


def test_columns_have_weights_of_their_own():
    found = Combination(two_methods(300, np.array([0, 0, 2, 3])))
    assert found.by_column["a"] == pytest.approx([1, 1, 0, 0], abs=0.1)
    assert found.by_column["b"] == pytest.approx([0, 0, 1, 1], abs=0.1)
    assert found.by_column["a"][0] == found.by_column["a"][1]  # of one class
    assert found.weights["a"] == pytest.approx(found.by_column["a"].mean())
    pooled = Combination(two_methods(300, None))
    assert np.ptp(pooled.by_column["a"]) == 0
    error, whole = ((x.left_out["stack"] - x.y)[x.seen].std() for x in (found, pooled))
    assert error < 0.3 * whole


@pytest.mark.parametrize("share", [10.0, 300.0, np.inf])
def test_weights_of_a_column_are_least_squares_with_a_share_of_all_entries(share):
    case = two_methods(40, None)
    left_out, y, seen = [x.astype("f8") for x in case.by_members.values()], case.y.astype("f8"), case.seen
    found = _moments(left_out, y, seen, np.arange(4)).weights(share)
    flat, truth = np.stack([x[seen] for x in left_out], 1), y[seen]
    more = np.sqrt(share / len(flat)) if np.isfinite(share) else 1.0
    for column in range(4):
        own = np.stack([x[seen[:, column], column] for x in left_out], 1)
        a, b = more * flat, more * truth
        if np.isfinite(share):
            a, b = np.concatenate([own, a]), np.concatenate([y[seen[:, column], column], b])
        assert found[column] == pytest.approx(nnls(a, b)[0], rel=1e-6)


def test_predictions_are_the_weighted_sum():
    case = known(100)
    found = Combination(case)
    parts = found.predict(case.x[:7], {"vae": case.by_members["vae"][:7]})
    total = sum(found.weights[name] * x for name, x in parts.items() if name != "stack")
    assert np.abs(parts["stack"] - total).max() < 1e-5


def test_few_matching_samples_are_pooled():
    matched = np.arange(300) < 99
    assert Combination(known(300, matched)).pooled
    assert len(Combination(known(300, matched)).y) == 300
    matched = np.arange(300) < 100
    assert not Combination(known(300, matched)).pooled
    assert len(Combination(known(300, matched)).y) == 100


def test_half_widths_are_the_order_statistic():
    residuals = np.array([[1.0], [-2.0], [3.0], [-4.0], [5.0], [6.0], [7.0], [8.0], [9.0]])
    assert half_widths(residuals, 0.9)[0] == 9  # ceil(10 · .9) = 9th of 9
    assert half_widths(residuals, 0.5)[0] == 5
    assert half_widths(residuals[:8], 0.9)[0] == np.inf  # n = 8 < .9 / .1


def test_half_widths_ignore_missing_residuals():
    residuals = np.array([[1.0, np.nan], [2.0, np.nan], [3.0, np.nan]])
    found = half_widths(residuals, 0.5)
    assert found[0] == 2
    assert found[1] == np.inf


@pytest.mark.parametrize("n", [19, 20, 50])
def test_coverage_of_exchangeable_residuals_is_nominal(n):
    """P(new residual inside) = ceil((n + 1) · level) / (n + 1), exactly, whatever the distribution."""
    rng = np.random.default_rng(n)
    draws = rng.standard_t(3, size=(n + 1, 20_000))
    inside = np.abs(draws[-1]) <= half_widths(draws[:-1], 0.9)
    expected = np.ceil((n + 1) * 0.9 - 1e-9) / (n + 1)
    assert inside.mean() == pytest.approx(expected, abs=0.008)


def test_a_combination_without_inputs_is_the_mean():
    case = known(50)._replace(x=np.zeros((50, 0), "f4"), by_members={})
    found = Combination(case)
    assert found.weights == {}
    assert (found.predict(np.zeros((3, 0), "f4"), {})["stack"] == 0).all()
    assert np.isfinite(found.half_widths(0.9)).all()


def two_panels(n: int, lacking: int) -> Known:
    """The last two columns were observed in all samples but the first ``lacking`` ones."""
    case = known(n)
    seen = np.ones_like(case.seen)
    seen[:lacking, 2:] = False
    return case._replace(seen=seen, y=np.where(seen, case.y, 0))


def test_columns_of_a_panel_are_fitted_to_the_samples_that_have_it():
    case = two_panels(200, 80)
    assert [(len(rows), columns.tolist()) for rows, columns in panels_of(case.seen)] == [
        (120, [2, 3]),
        (200, [0, 1]),
    ]
    found = Combination(case).simple["ridge"]
    some = Ridge(case.x[80:], case.y[80:, 2:])
    new = known(20, seed=1).x
    assert np.array_equal(found.predict(new)[:, 2:], some.predict(new))
    assert np.array_equal(found.predict(new)[:, :2], Ridge(case.x, case.y[:, :2]).predict(new))
    assert np.array_equal(found.left_out[80:, 2:], some.left_out)


def test_columns_of_few_samples_are_filled_in_first():
    """With 49 samples of their own, the regression learns from what the members predict of the others too."""
    case = two_panels(200, 151)
    assert [len(rows) for rows, _ in panels_of(case.seen)] == [200]
    found = Combination(case).simple["ridge"]
    filled = np.where(case.seen, case.y, case.by_members["vae"])
    assert np.array_equal(found.left_out, Ridge(case.x, filled).left_out)
    scattered = np.random.default_rng(0).random((200, 20)) < 0.8
    assert len(panels_of(scattered)) == 1

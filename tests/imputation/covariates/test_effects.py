"""Effects of covariates on features: recovered where there are any, shrunk where there are none, and removed to the last bit alike."""

import numpy as np
import pytest
from scipy import sparse

from polyvae.imputation.covariates.effects import Effects
from polyvae.imputation.tables import SparseRows, Tables

SIZES = (3, 1)  # a covariate of three levels, and a number


def columns(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    level, age = rng.choice(3, n, p=[0.5, 0.3, 0.2]), rng.normal(size=n)
    return np.concatenate([np.eye(3)[level], age[:, None]], 1).astype(np.float32)


def tables(c: np.ndarray, truth: np.ndarray, noise: float = 1.0, missing: float = 0.0) -> Tables:
    rng = np.random.default_rng(1)
    x = c @ truth + noise * rng.normal(size=(len(c), truth.shape[1]))
    seen = rng.random(x.shape) >= missing
    return Tables({"a": np.where(seen, x, 0).astype(np.float32)}, {"a": seen}, c)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_effects_of_levels_and_numbers_are_recovered(missing: float) -> None:
    c, truth = columns(4000), np.array([[3.0, 0], [-2, 0], [0.5, 0], [1.5, -1]])
    effects = Effects.fit(tables(c, truth, 0.5, missing), ["a"], SIZES)
    assert np.abs(effects.of("a", c) - c @ truth).max() < 0.06


def test_without_an_effect_the_coefficients_are_smaller_than_those_of_least_squares() -> None:
    c = columns(300)
    given = tables(c, np.zeros((4, 200)))
    shrunk = Effects.fit(given, ["a"], SIZES).shifts["a"][1:]
    design = np.concatenate([np.ones((300, 1)), c[:, 1:]], 1)
    plain = np.linalg.lstsq(design, given.values["a"], rcond=None)[0][1:]
    assert np.square(shrunk).mean() < 0.35 * np.square(plain).mean()


def test_a_large_effect_is_hardly_shrunk() -> None:
    c, truth = columns(300), np.repeat([[30.0], [-30], [0], [0]], 5, 1)
    given = tables(c, truth)
    left = Effects.fit(given, ["a"], SIZES).removed(given).values["a"]
    for level in range(3):
        assert np.abs(left[c[:, level] == 1].mean(0)).max() < 0.1


def test_a_level_without_observations_has_no_effect() -> None:
    c = columns(300)
    given = tables(c, np.repeat([[5.0], [-5], [5], [0]], 4, 1))
    seen = given.observed["a"] & (c[:, 2] == 0)[:, None]
    given = given._replace(values={"a": np.where(seen, given.values["a"], 0)}, observed={"a": seen})
    effects = Effects.fit(given, ["a"], SIZES)
    assert (effects.shifts["a"][3] == 0).all()


def test_what_is_removed_is_what_is_added_and_a_row_does_not_depend_on_the_others() -> None:
    c, truth = columns(60), np.random.default_rng(3).normal(size=(4, 7))
    given = tables(c, truth, missing=0.2)
    effects = Effects.fit(given, ["a"], SIZES)
    left = effects.removed(given)
    seen = given.observed["a"]
    again = left.values["a"] + effects.of("a", c)
    assert np.allclose(again[seen], given.values["a"][seen], atol=1e-6)
    assert (left.values["a"][~seen] == 0).all()
    alone = np.concatenate([effects.of("a", row[None]) for row in c])
    assert np.array_equal(alone, effects.of("a", c))


def test_effects_of_a_sample_left_out_are_those_of_a_fit_without_it() -> None:
    c = columns(40)[:, :3]
    c = c[np.argsort(c[:, 0], kind="stable")]
    given = tables(c, np.repeat([[40.0], [-40], [0]], 6, 1))
    effects = Effects.fit(given, ["a"], (3,))
    left = effects.left_out("a", c, effects.removed(given).values["a"])
    for row in (0, 17, 39):
        again = Effects.fit(given.rows(np.delete(np.arange(40), row)), ["a"], (3,))
        change = effects.of("a", c)[row] - again.of("a", c[row : row + 1])[0]
        assert np.abs(change).max() > 0.02
        assert np.allclose(effects.of("a", c)[row] - left[row], change, atol=0.003)


def test_a_sparse_table_is_as_a_dense_one() -> None:
    c = columns(80)
    x = np.random.default_rng(2).poisson(0.5, (80, 30)) + 2.0 * c[:, :1]
    seen = np.arange(80) % 5 > 0
    standardise = lambda values: (values / 2).astype(np.float32)  # noqa: E731
    rows = SparseRows(sparse.csr_array(x * seen[:, None]), seen, standardise)
    thick = Tables(
        {"a": np.where(seen[:, None], x / 2, 0).astype(np.float32)},
        {"a": np.repeat(seen[:, None], 30, 1)},
        c,
    )
    thin = Tables({"a": rows}, {"a": rows.observed}, c)
    one, other = (Effects.fit(each, ["a"], SIZES) for each in (thick, thin))
    assert np.allclose(one.shifts["a"], other.shifts["a"], atol=1e-6)
    some = np.array([3, 1, 70])
    assert np.allclose(one.removed(thick).values["a"][some], other.removed(thin).values["a"][some], atol=1e-5)


def _unseen(spread: float, features: int = 400, seed: int = 0) -> tuple[Effects, np.ndarray]:
    """Four levels, of whose effects on half of the features the last was never observed; what these are."""
    rng = np.random.default_rng(seed)
    level = np.arange(400) % 4
    truth = spread * rng.normal(size=(4, features))
    x = truth[level] + rng.normal(size=(400, features))
    seen = np.ones(x.shape, bool)
    seen[np.ix_(level == 3, np.arange(features // 2))] = False
    c = np.eye(4, dtype=np.float32)[level]
    given = Tables({"a": np.where(seen, x, 0).astype(np.float32)}, {"a": seen}, c)
    return Effects.fit(given, ["a"], (4,)), truth


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_the_variance_of_an_effect_that_was_never_observed_is_that_of_the_other_levels(spread: float) -> None:
    effects, truth = _unseen(spread)
    variance = effects.variances["a"]
    assert (variance[:3] == 0).all()
    assert (variance[3, 200:] == 0).all()
    error = truth[3, :200] - truth[:3, :200].mean(0)
    assert variance[3, :200].mean() == pytest.approx(np.square(error).mean(), rel=0.15)
    inside = np.abs(error) <= 1.645 * np.sqrt(variance[3, :200])
    assert 0.85 < inside.mean() < 0.95


def test_effects_that_were_never_observed_are_not_uncertain_where_levels_have_none() -> None:
    effects, _ = _unseen(0.0)
    assert effects.variances["a"].max() < 0.03


def test_a_draw_of_what_is_not_known_is_the_same_for_all_samples_of_a_level() -> None:
    effects, _ = _unseen(2.0)
    c = np.eye(4, dtype=np.float32)[[3, 0, 3]]
    draws = np.stack([effects.drawn("a", c, np.random.default_rng(k)) for k in range(400)])
    assert np.array_equal(draws[:, 0], draws[:, 2])
    assert (draws[:, 1] == 0).all()
    assert np.allclose(draws[:, 0, :200].var(0) / effects.variances["a"][3, :200], 1, atol=0.3)

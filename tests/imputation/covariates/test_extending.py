"""Effects of levels that are added later: the best linear predictions, by their formula."""

import warnings

import numpy as np
import pytest

import polyvae as pv
from polyvae.imputation.covariates.effects import estimated
from polyvae.imputation.covariates.extending import _lost, _predicted


def _trained(levels: int = 5, features: int = 3):
    rng = np.random.default_rng(0)
    level = np.arange(500) % levels
    truth = 2 * rng.normal(size=(levels, features))
    x = (truth[level] + rng.normal(size=(500, features))).astype(np.float32)
    return estimated(x, np.ones(x.shape, bool), np.eye(levels)[level], [levels])


def test_the_effect_of_one_new_level_is_its_shrunk_mean() -> None:
    trained, rng = _trained(), np.random.default_rng(1)
    left, seen = rng.normal(size=(7, 3)).astype(np.float32), np.ones((7, 3), bool)
    seen[2:, 1], seen[:, 2] = False, False
    left = np.where(seen, left, 0)
    b, unknown = _predicted(left, seen, np.ones((7, 1), np.float32), trained, [0])
    variance = trained.levels.variance()[0]
    for feature, n in ((0, 7), (1, 2)):
        kept = variance[feature] / (variance[feature] + trained.noise[feature] / n)
        assert np.isclose(b[0, feature], kept * left[:n, feature].mean(), rtol=1e-6)
    assert b[0, 2] == 0
    assert np.isclose(unknown[0, 2], variance[2] * trained.levels.grow[0, 2])
    assert (unknown[0, :2] == 0).all()


def test_two_new_levels_are_the_mode_of_their_density() -> None:
    trained, rng = _trained(), np.random.default_rng(2)
    design = (rng.random((30, 2)) < 0.5).astype(np.float32)
    left = rng.normal(size=(30, 3)).astype(np.float32)
    b, _ = _predicted(left, np.ones((30, 3), bool), design, trained, [0, 0])
    noise, variance = trained.noise, trained.levels.variance()[0]
    slope = design.T @ (left - design @ b) / noise - b / variance
    assert np.abs(slope).max() < 1e-5


def test_where_levels_do_not_differ_a_new_one_has_no_effect() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3000, 200)).astype(np.float32)
    trained = estimated(x, np.ones(x.shape, bool), np.eye(3)[np.arange(3000) % 3], [3])
    left = rng.normal(size=(20, 200)).astype(np.float32)
    b, _ = _predicted(left, np.ones(left.shape, bool), np.ones((20, 1), np.float32), trained, [0])
    assert np.square(b).mean() < 0.05 * np.square(left.mean(0)).mean()


@pytest.mark.parametrize(("count", "spread"), [(5, 1.0), (500, 1.0), (500, 0.0)])
def test_shrinkage_takes_little_of_levels_that_are_drawn_like_those_of_training(
    count: int, spread: float
) -> None:
    rng, features = np.random.default_rng(4), 300
    level, truth = np.arange(800) % 4, spread * rng.normal(size=(5, features))
    x = (truth[level] + rng.normal(size=(800, features))).astype(np.float32)
    trained = estimated(x, np.ones(x.shape, bool), np.eye(4)[level], [4])
    design, seen = np.ones((count, 1), np.float32), np.ones((count, features), bool)
    left = (truth[4] - truth[:4].mean(0) + rng.normal(size=(count, features))).astype(np.float32)
    b, _ = _predicted(left, seen, design, trained, [0])
    assert _lost(left, seen, design, trained.noise, b)[0] < 0.005
    far = left + 10 * (1 + spread)
    b, _ = _predicted(far, seen, design, trained, [0])
    assert _lost(far, seen, design, trained.noise, b)[0] > 0.5 or np.allclose(b, far.mean(0), rtol=0.1)


def _table(levels: list[str], shift: float = 0.0) -> pv.MultimodalData:
    x = np.random.default_rng(len(levels)).normal(size=(40, 4)) + shift
    return pv.MultimodalData({"a": x}, covariates={"batch": [levels[at % len(levels)] for at in range(40)]})


def test_a_new_level_that_shrinkage_moves_far_is_named() -> None:
    quick = {"steps": 5, "members": 2, "latent": 2, "seed": 0, "network": {"hidden": [4]}}
    two = pv.Estimator(**quick, covariates=["batch"]).fit(_table(["p", "q"]))
    with pytest.warns(UserWarning, match=r"extend: new levels differ .*\('z' of 'batch'\).*; fit again"):
        two.extend(_table(["z"], shift=6.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two.extend(_table(["z"]))
    lacking = _table(["z", "p"])
    lacking = pv.MultimodalData(
        {"a": lacking.values("a")},
        entries={"a": np.broadcast_to(np.arange(4) > 1, (40, 4))},
        covariates=lacking.covariates,
    )
    with pytest.warns(
        UserWarning,
        match=r"extend: nothing was measured in level 'z' of 'batch' \(in 2 of 4 columns of 'a'\)",
    ):
        two.extend(lacking)


def test_one_level_in_training_does_not_state_how_much_levels_differ() -> None:
    quick = {"steps": 5, "members": 2, "latent": 2, "seed": 0, "network": {"hidden": [4]}}
    with pytest.warns(UserWarning, match="has one value"):
        one = pv.Estimator(**quick, covariates=["batch"]).fit(_table(["p"]))
    with pytest.raises(
        pv.InputError, match="extend: got new levels of 'batch', which had one level in training"
    ):
        one.extend(_table(["z"]))

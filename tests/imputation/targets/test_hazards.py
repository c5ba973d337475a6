"""Time to event in the estimator: what predict returns, and that the combination is not worse than its parts."""

import numpy as np
import pandas as pd
import pytest

import polyvae as pv
from polyvae.imputation.targets.cox import Survival, concordance
from polyvae.imputation.targets.hazards import COLUMNS, STACK


def cohort(n: int, seed: int = 0, missing: float = 0.2) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Two tables of two factors, a third of noise, whole modalities missing; the first factor raises the hazard."""
    rng, axes = np.random.default_rng(seed), np.random.default_rng(99)
    z, ids = rng.normal(size=(n, 2)), [f"p{i:03d}" for i in range(n)]
    tables = {
        "rna": z @ axes.normal(size=(2, 12)) + 0.5 * rng.normal(size=(n, 12)),
        "clinical": np.c_[z[:, :1] + rng.normal(size=(n, 1)), rng.normal(size=(n, 2))],
        "noise": rng.normal(size=(n, 5)),
    }
    event, censored = rng.exponential(200 * np.exp(-1.2 * z[:, 0])), rng.exponential(300, n)
    y = pd.DataFrame({"days": np.minimum(event, censored), "died": event <= censored}, ids)
    kept = rng.random((3, n)) > missing
    kept[0] |= ~kept.any(0)
    frames = {
        name: pd.DataFrame(x, ids, [f"{name}{i}" for i in range(x.shape[1])])[kept[at]]
        for at, (name, x) in enumerate(tables.items())
    }
    return frames, y


def estimator(**params: object) -> pv.Estimator:
    return pv.Estimator(
        **{"steps": 20, "members": 2, "latent": 3, "seed": 0, "network": {"hidden": [16]}} | params
    )


@pytest.fixture(scope="module")
def fitted() -> pv.Estimator:
    frames, y = cohort(70)
    return estimator().fit(frames, y)


def test_risks_order_new_samples(fitted):
    frames, y = cohort(150, seed=1)
    found = fitted.predict(frames)
    assert found.columns.tolist() == ["risk"]
    assert fitted.score(frames, y) > 0.65
    risk = found["risk"].loc[y.index].to_numpy()
    times = Survival(y["days"].to_numpy(), y["died"].to_numpy())
    assert fitted.score(frames, y) == pytest.approx(concordance(times, risk).value)
    some = y.copy().astype(object)
    some.iloc[:100] = None
    assert np.isfinite(fitted.score(frames, some))


def test_times_after_the_last_one_give_one_warning(fitted):
    frames, _ = cohort(5, seed=1)
    last = fitted._hazards.given.time.max()
    with pytest.warns(
        UserWarning, match="2 times are later than the last one of the training samples"
    ) as found:
        curves = fitted.predict_survival(frames, [last, last + 1, last * 9]).to_numpy()
    assert len(found) == 1
    assert (curves[:, :1] == curves).all()


def test_curves_fall_from_one_and_are_ordered_by_risk(fitted):
    frames, _ = cohort(20, seed=1)
    risk = fitted.predict(frames)["risk"].to_numpy()
    curves = fitted.predict_survival(frames, [0, 50, 300])
    assert curves.columns.tolist() == ["0", "50", "300"]
    values = curves.to_numpy()
    assert (values[:, 0] == 1).all()
    assert (np.diff(values, axis=1) <= 0).all()
    assert (np.diff(values[np.argsort(risk), 1]) <= 0).all()
    every = fitted.predict_survival(frames)
    assert every.shape[1] == len(np.unique(fitted._hazards.given.time[fitted._hazards.given.event]))
    ends = fitted.predict(frames, interval=0.5)
    assert ends.columns.tolist() == ["risk", "median", "lower", "upper"]
    assert (ends["lower"] <= ends["median"]).all()
    assert (ends["median"] <= ends["upper"]).all()
    at = ends["median"].to_numpy()
    known = np.flatnonzero(np.isfinite(at))
    assert (fitted.predict_survival(frames, at[known]).to_numpy()[known, range(len(known))] <= 0.5).all()


def test_curves_are_as_high_as_the_share_of_new_samples(fitted):
    frames, _ = cohort(300, seed=2)
    share = fitted.predict_survival(frames, [100]).to_numpy().mean()
    rng = np.random.default_rng(2)
    z = rng.normal(size=(300, 2))  # of the cohort
    truth = np.exp(-100 / (200 * np.exp(-1.2 * z[:, 0]))).mean()
    assert share == pytest.approx(truth, abs=0.12)


def test_scores_of_every_regression(fitted):
    scores = fitted.risk_scores_
    assert f"{scores.value('(target)', 'stack', 'c_index'):.3f}" in str(scores).splitlines()[-1]
    assert scores.methods[:2] == ("Cox of all columns", "Cox of equally weighted modalities")
    assert {"Cox of clinical", "Cox of embedding", "stack"} <= set(scores.methods)
    for method in scores.methods:
        low, value, high = (
            scores.value("(target)", method, name) for name in ("c_index_low", "c_index", "c_index_high")
        )
        assert 0 <= low <= value <= high <= 1
    hazards = fitted._hazards
    assert hazards.given.events == cohort(70)[1]["died"].sum()
    assert set(hazards.left_out) == {*hazards.regressions, STACK}


def test_files_keep_predictions(fitted, tmp_path):
    frames, y = cohort(15, seed=1)
    fitted.save(tmp_path / "e.polyvae")
    loaded = pv.Estimator.load(tmp_path / "e.polyvae")
    pd.testing.assert_frame_equal(loaded.predict(frames, interval=0.9), fitted.predict(frames, interval=0.9))
    assert loaded.risk_scores_ == fitted.risk_scores_
    assert loaded.score(frames, y) == fitted.score(frames, y)


@pytest.mark.slow
def test_orders_of_rows_and_columns_change_nothing(fitted):
    frames, y = cohort(70)
    shuffled = {name: x.sample(frac=1, random_state=1) for name, x in frames.items()}
    other = estimator().fit(shuffled, y.sample(frac=1, random_state=3))
    shuffled = {name: x.sample(frac=1, axis=1, random_state=2) for name, x in shuffled.items()}
    expected = fitted.predict(frames)
    assert np.array_equal(other.predict(shuffled).loc[expected.index].to_numpy(), expected.to_numpy())


def test_what_times_cannot_do_is_one_line(fitted):
    frames, _ = cohort(15, seed=1)
    with pytest.raises(pv.InputError, match="predict_survival"):
        fitted.predict_proba(frames)
    for times in ([-1], [], ["x"], [np.nan]):
        with pytest.raises(pv.InputError, match="predict_survival: got times"):
            fitted.predict_survival(frames, times)
    for level in (0, 1, "x"):
        with pytest.raises(pv.InputError, match="interval"):
            fitted.predict(frames, interval=level)
    with pytest.raises(pv.InputError, match="got one column; expected two"):
        fitted.score(frames, [1.0] * 15)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_few_events_are_said_and_events_need_samples():
    frames, y = cohort(30)
    y["died"] = [True, *[False] * 29]
    y["days"] = np.arange(30.0)
    with pytest.warns(UserWarning, match="1 events, too few"):
        found = estimator(steps=3).fit(frames, y)
    assert np.isfinite(found.predict(frames)["risk"]).all()
    lacking = {name: x.drop(index="p000", errors="ignore") for name, x in frames.items()}
    x = {
        **lacking,
        "noise": pd.concat([lacking["noise"], pd.DataFrame(np.nan, ["p000"], lacking["noise"].columns)]),
    }
    with pytest.raises(pv.InputError, match="nothing was observed"):
        estimator(steps=3).fit(x, y)


@pytest.mark.slow
def test_the_combination_is_not_worse_than_the_best_regression():
    """On new samples, in the mean over cohorts: within a standard error of the regression that is best there."""
    found: dict[str, list[float]] = {}
    for seed in range(6):
        frames, y = cohort(120, seed=seed, missing=0.3)
        est = estimator().fit(frames, y)
        new, times = cohort(400, seed=100 + seed, missing=0.3)
        found.setdefault(STACK, []).append(est.score(new, times))
        for name in est._hazards.regressions:
            weights = {other: float(other == name) for other in est._hazards.regressions}
            one = estimator()
            one._set(est.schema_, est._imputer, None, est._embedding, est._hazards._replace(weights=weights))
            found.setdefault(name, []).append(one.score(new, times))
    means = {name: np.mean(values) for name, values in found.items()}
    best = max((name for name in means if name != STACK), key=lambda name: means[name])
    assert means[STACK] > means[best] - 0.01
    assert means[STACK] > means[COLUMNS] - 0.01
    assert means[STACK] > means["clinical"]

"""Intervals of numbers and sets of classes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import polyvae as pv
from polyvae.imputation.files import streaming
from polyvae.imputation.filling import fill as filling

LEVEL = 0.8


def cohort(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Two tables, of which the second is missing for a third of the samples; a number and one of three classes."""
    rng, axes = np.random.default_rng(seed), np.random.default_rng(50)
    z = rng.normal(size=(n, 2))
    x = {"a": z @ axes.normal(size=(2, 4)) + 0.5 * rng.normal(size=(n, 4)), "b": z + rng.normal(size=(n, 2))}
    x["b"][rng.random(n) < 1 / 3] = np.nan
    number = 10 + z[:, 0] + rng.normal(size=n)
    classes = np.array(["low", "mid", "top"])[np.digitize(z[:, 1] + 0.8 * rng.normal(size=n), [-0.6, 0.6])]
    return x, number, classes


@pytest.fixture(scope="module")
def new():
    return cohort(2000, 1)


def fit(y: object) -> pv.Estimator:
    return pv.Estimator(steps=40, members=3, latent=3, seed=0, network={"hidden": [16]}).fit(
        cohort(300, 0)[0], y
    )


def within(covered: np.ndarray, calibrated: int) -> bool:
    """Whether a share is what split-conformal coverage may be: Beta over calibration samples, binomial over new ones; 3 σ."""
    return abs(covered.mean() - LEVEL) < 3 * np.sqrt(
        LEVEL * (1 - LEVEL) * (1 / calibrated + 1 / len(covered))
    )


@pytest.mark.slow
def test_intervals_of_numbers_cover(new):
    x, number, _ = new
    est = fit(cohort(300, 0)[1])
    found = est.predict(x, interval=LEVEL)
    assert found.shape == (2000, 3)
    assert np.array_equal(found[:, 0], est.predict(x))
    covered = (found[:, 1] <= number) & (number <= found[:, 2])
    lacking = np.isnan(x["b"][:, 0])
    assert within(covered[lacking], 90)
    assert within(covered[~lacking], 190)
    widths = found[:, 2] - found[:, 1]
    assert len(np.unique(widths.round(9))) == 2  # one for each pattern


@pytest.mark.slow
def test_sets_of_classes_cover_and_have_the_most_probable_class(new):
    x, _, classes = new
    est = fit(cohort(300, 0)[2])
    found = est.predict(x, interval=LEVEL)
    assert found.dtype == bool
    covered = found[np.arange(2000), np.searchsorted(est.classes_, classes)]
    lacking = np.isnan(x["b"][:, 0])
    assert within(covered[lacking], 90)
    assert within(covered[~lacking], 190)
    assert found[np.arange(2000), est.predict_proba(x).argmax(1)].all()
    assert 1 < found.sum(1).mean() < 2.5
    wider = est.predict(x, interval=0.95)
    assert (wider | ~found).all()


def test_too_few_samples_give_infinite_intervals_and_whole_sets():
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(30, 3)), "b": rng.normal(size=(30, 2))}
    y = np.where(np.arange(30) < 8, np.arange(30) % 2, np.nan)
    est = pv.Estimator(steps=3, members=2, latent=2, target="class").fit(x, y)
    with pytest.warns(UserWarning, match="infinite"):
        assert est.predict(x, interval=0.9).all()
    est = pv.Estimator(steps=3, members=2, latent=2, target="number").fit(x, y)
    with pytest.warns(UserWarning, match="infinite"):
        assert np.isinf(est.predict(x, interval=0.9)[:, 1:]).all()


# ---- from files to a file --------------------------------------------------------------------------------------------


def written(folder: Path, n: int, seed: int) -> dict[str, Path]:
    """The cohort in files, rows of the second in another order, without what is missing."""
    x, _, _ = cohort(n, seed)
    paths = {}
    for name, values in x.items():
        frame = pd.DataFrame(
            values, [f"p{i:03d}" for i in range(n)], [f"{name}{i}" for i in range(values.shape[1])]
        )
        paths[name] = folder / f"{name}.csv"
        (frame if name == "a" else frame.dropna()[::-1]).to_csv(paths[name], index_label="id")
    return paths


def target(kind: str, n: int) -> object:
    _, number, classes = cohort(n, 0)
    ids = [f"p{i:03d}" for i in range(n)]
    if kind == "time":
        return pd.DataFrame({"time": np.exp(number - 10), "event": np.arange(n) % 3 > 0}, ids)
    return dict(zip(ids, number if kind == "number" else classes, strict=True))


@pytest.mark.parametrize("kind", ["class", "number", "time"])
def test_predictions_in_blocks_are_those_of_the_whole_bit_for_bit(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(filling, "BLOCK", 7)
    monkeypatch.setattr(streaming, "BLOCK", 7)
    paths = written(tmp_path, 40, 0)
    est = pv.Estimator(steps=5, members=2, latent=2, seed=0, network={"hidden": [8]}).fit(
        paths, target(kind, 40)
    )
    times = (0.5, 2.0) if kind == "time" else ()
    out = est.predict_to(tmp_path / "y.csv", paths, interval=LEVEL, times=times)
    found = pd.read_csv(out, index_col="id", float_precision="round_trip")
    whole = est.predict(paths, interval=LEVEL)
    assert found.index.tolist() == whole.index.tolist()
    if kind == "class":
        assert found["prediction"].tolist() == est.predict(paths)["prediction"].tolist()
        assert np.array_equal(found[[f"p({each})" for each in est.classes_]], est.predict_proba(paths))
        assert found["set"].tolist() == ["|".join(whole.columns[row]) for row in whole.to_numpy(bool)]
        with pytest.raises(pv.InputError, match="got texts in prediction, set"):
            est.predict_to(tmp_path / "y.npy", paths, interval=LEVEL)
        assert not (tmp_path / "y.npy").exists()
        return
    assert np.array_equal(found[list(whole.columns)], whole)
    est.predict_to(tmp_path / "y.npy", paths, interval=LEVEL, times=times)
    assert np.array_equal(np.load(tmp_path / "y.npy"), found)
    if kind == "time":
        assert np.array_equal(found[["S(0.5)", "S(2)"]], est.predict_survival(paths, times))
    else:
        est.predict_to(tmp_path / "y.parquet", paths, interval=LEVEL)
        assert pd.read_parquet(tmp_path / "y.parquet").set_index("id").equals(found)
        with pytest.raises(pv.InputError, match="got an existing file"):
            est.predict_to(tmp_path / "y.parquet", paths)
        with pytest.raises(pv.InputError, match="got times, and y was no time"):
            est.predict_to(tmp_path / "z.csv", paths, times=[1])
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]

"""Mixing of batches and separation of classes, beside numbers of scib-metrics."""

from __future__ import annotations

import numpy as np
import pytest

import polyvae as pv
from polyvae import InputError, MultimodalData
from polyvae.metrics.mixing import agreement, clisi, ilisi, lisi, silhouettes, silhouettes_of_batches


def example():
    i = np.arange(300)
    x = np.stack(
        [np.sin(1.7 * i) + 2.0 * (i % 3 == 0), np.cos(0.9 * i) * 1.3 + 0.8 * (i % 2), np.sin(0.31 * i + 1)], 1
    )
    return x, i % 3, (i * 7 // 5) % 2


def test_numbers_of_scib_metrics():
    """scib-metrics 0.5.10, with exact neighbours, k = 90 and its own defaults, in single precision."""
    x, classes, batches = example()
    expected = [1.957769751548767, 1.9506314992904663, 1.9511165618896484]
    assert lisi(x, batches)[:3] == pytest.approx(expected, rel=1e-6)
    assert ilisi(x, batches) == pytest.approx(0.959867000579834, abs=1e-6)
    assert clisi(x, classes) == pytest.approx(0.5000330209732056, abs=1e-6)
    assert silhouettes(x, classes) == pytest.approx(0.5422180891036987, abs=1e-6)
    assert silhouettes_of_batches(x, classes, batches) == pytest.approx(0.967381477355957, abs=1e-6)


def test_lisi_counts_labels():
    draws = np.random.default_rng(0)
    x = np.r_[draws.normal(size=(100, 2)), draws.normal(size=(100, 2)) + 100]
    apart = np.repeat([0, 1], 100)
    assert lisi(x, apart) == pytest.approx(np.ones(200))
    assert ilisi(x, apart) == pytest.approx(0)
    assert clisi(x, apart) == pytest.approx(1)
    assert agreement(x, apart) == (1, 1)
    assert ilisi(x, draws.integers(0, 2, 200)) > 0.9
    # Samples at one place, with equal weights: n_l of 89 others.
    same = np.arange(90) % 3
    others = np.bincount(same)[same][:, None] * 0 + np.bincount(same)[None] - np.eye(3)[same]
    assert lisi(np.zeros((90, 1)), same) == pytest.approx(1 / np.square(others / 89).sum(1))


def test_classes_with_one_batch_do_not_count():
    x = np.array([[0.0], [0.0], [1.0], [1.0], [9.0], [8.0]])
    assert silhouettes_of_batches(x, [0, 0, 0, 0, 1, 1], [0, 1, 0, 1, 0, 0]) == pytest.approx(0.5)
    assert np.isnan(silhouettes_of_batches(x, [0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 0, 0]))


def test_what_is_refused():
    with pytest.raises(InputError, match="single batch"):
        ilisi(np.random.default_rng(0).normal(size=(20, 2)), np.zeros(20))
    with pytest.raises(InputError, match=r"expected \(20,\)"):
        lisi(np.zeros((20, 2)), np.zeros(19))


def test_the_metric_batches():
    draws = np.random.default_rng(0)
    x = draws.normal(size=(60, 5)).astype(np.float32)
    data = MultimodalData(
        {"a": x, "b": x[:, :3]},
        labels=np.r_[[-1], draws.integers(0, 2, 59)],
        covariates={"site": draws.choice(["u", "v"], 60), "age": draws.normal(size=60)},
    )
    model = pv.build("mvae", data.modalities(covariates=("site",)), latent=2).eval()
    found = pv.evaluate(model, data, metrics=["batches"], show=False)
    names = {"ilisi_site", "silhouette_batch_site", "clisi", "silhouette_label", "nmi", "ari"}
    assert set(found.headline()) == names
    assert found["ilisi_site"] == pytest.approx(
        ilisi(model.embed(data.take(slice(None))).numpy(), data.covariates["site"])
    )


@pytest.mark.parametrize(
    ("covariates", "rows", "reason"),
    [
        ({}, 20, "the data have no covariates"),
        ({"site": ["u"] * 20}, 20, "one level of 'site'"),
        ({"age": np.arange(20.0)}, 20, "the covariates are numbers"),
        ({"site": ["u", "v"] * 10}, 4, "4 samples evaluated"),
    ],
)
def test_a_line_has_the_reason_why_there_is_no_mixing(covariates, rows, reason):
    data = MultimodalData({"a": np.ones((20, 2), np.float32)}, covariates=covariates)
    model = pv.build("mvae", data.modalities(), latent=2).eval()
    found = pv.evaluate(model, data.rows(slice(0, rows)), metrics=["batches"], show=False)
    assert found.headline() == {}
    assert any(reason in line for line in str(found).splitlines())

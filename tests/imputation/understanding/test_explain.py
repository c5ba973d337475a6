"""What the embedding of an estimator explains, and attributions of its outputs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn.metrics import explained_variance_score

import polyvae as pv
from polyvae.imputation.understanding import explain
from polyvae.imputation.understanding.explain import alike, shares_of, varimax
from polyvae.imputation.understanding.group_factors import GroupFactors


@pytest.fixture(scope="module")
def fitted() -> tuple[pv.Estimator, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(80, 2))
    x = {
        "a": z @ rng.normal(size=(2, 6)),
        "b": z @ rng.normal(size=(2, 4)),
        "c": rng.normal(size=(80, 3)),
    }
    x = {name: value + 0.3 * rng.normal(size=value.shape) for name, value in x.items()}
    x["b"][:8] = np.nan
    x["a"][10, 2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return pv.Estimator(steps=60, members=2, latent=4, seed=0).fit(x), x


def test_shares_are_the_r2_of_single_factors_where_factors_are_uncorrelated():
    rng = np.random.default_rng(0)
    z = np.linalg.qr(rng.normal(size=(60, 4)))[0]
    z = np.linalg.qr(np.concatenate([np.ones((60, 1)), z], 1))[0][:, 1:4] * [
        3,
        2,
        1,
    ]  # centred and orthogonal
    loadings = rng.normal(size=(5, 3))
    x = z @ loadings.T + 0.2 * rng.normal(size=(60, 5)) + 7
    found, total = shares_of(z, loadings, x, np.ones(x.shape, bool))
    for k in range(3):
        alone = explained_variance_score(x, np.outer(z[:, k], loadings[:, k]), multioutput="raw_values")
        assert found[k] == pytest.approx(alone, rel=1e-9)
    whole = explained_variance_score(x, z @ loadings.T, multioutput="raw_values")
    assert found.sum(0) == pytest.approx(whole, rel=1e-9)
    assert total == pytest.approx(x.var(0) * 60)


def test_shares_add_up_with_correlated_factors_and_missing_entries():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3))
    loadings, seen = rng.normal(size=(5, 3)), rng.random((60, 5)) < 0.7
    x = z @ loadings.T + rng.normal(size=(60, 5))
    found, _ = shares_of(z, loadings, np.where(seen, x, 0), seen)
    for f in range(5):
        rows = seen[:, f]
        whole = explained_variance_score(x[rows, f], (z @ loadings.T)[rows, f])
        assert found[:, f].sum() == pytest.approx(whole, rel=1e-9)
    assert np.array_equal(found, shares_of(z, loadings, np.where(seen, x, 99), seen)[0])
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned, _ = shares_of(z @ turn, loadings @ turn, np.where(seen, x, 0), seen)
    assert turned.sum(0) == pytest.approx(
        found.sum(0), rel=1e-9
    )  # a rotation moves shares from one to another
    x[:, 0], seen[:, 1] = 4.0, False
    assert np.isnan(shares_of(z, loadings, x, seen)[0][:, :2]).all()


def test_varimax_finds_simple_loadings_that_were_rotated():
    rng = np.random.default_rng(0)
    simple = np.kron(np.eye(3), np.ones((5, 1))) * rng.uniform(0.5, 2, size=(15, 1))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    found = varimax(simple @ turn)
    assert found @ found.T == pytest.approx(np.eye(3), abs=1e-9)
    back = np.abs(simple @ turn @ found)
    assert np.sort(back, 1)[:, :2] == pytest.approx(0, abs=1e-4)


def test_factors_that_are_active_in_the_same_modalities_are_rotated_among_themselves():
    rng = np.random.default_rng(0)
    simple = np.kron(np.eye(3), np.ones((5, 1))) * rng.uniform(0.5, 2, size=(15, 1))
    turn = np.eye(3)
    turn[:2, :2] = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    weights, active = simple @ turn, np.array([[True, False], [True, False], [True, True]])
    found = alike(weights, active)
    assert found[2] == pytest.approx([0, 0, 1])
    assert np.sort(np.abs(weights @ found), 1)[:, :2] == pytest.approx(0, abs=1e-4)
    mixed = simple @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert np.array_equal(alike(mixed, np.eye(3, dtype=bool)), np.eye(3))
    assert alike(np.zeros((4, 0)), np.zeros((0, 2), bool)).shape == (0, 0)


@pytest.mark.parametrize("rotation", ["none", "varimax"])
def test_the_table_of_the_training_samples(fitted, rotation):
    estimator, _ = fitted
    found = estimator.variance_explained(rotation=rotation)
    assert found.modalities == ("a", "b", "c")
    for name in found.modalities:
        shares = found.by_latent(name)
        assert sum(shares.values()) == pytest.approx(found.value(name), rel=1e-6)
    assert found.value("a") > 0.1
    assert found.value("a", "others", "a_2") == estimator.scores_.value("a", "stack", "r2", feature="a_2")
    assert found.factors.shape == (80, len(found.latents))
    if rotation == "varimax":
        assert found.latents[0] == "f0"


def test_of_new_samples_factors_are_the_columns_of_transform(fitted):
    estimator, x = fitted
    found = estimator.variance_explained(x)
    assert found.factors == pytest.approx(estimator.transform(x), abs=1e-4)
    with pytest.raises(pv.InputError, match="rotation='promax'"):
        estimator.variance_explained(x, rotation="promax")


def test_a_rotation_keeps_the_fit_and_is_that_of_the_training_samples(fitted):
    estimator, x = fitted
    own, turned = (estimator.variance_explained(x, rotation=each) for each in ("none", "varimax"))
    kept = [own.latents.index(name) for name in estimator.variance_explained().active()]
    for name in own.modalities:
        assert turned.factors @ turned.weights[name].T == pytest.approx(
            own.factors[:, kept] @ own.weights[name][:, kept].T, abs=1e-4
        )
    some = {name: value[20:50] for name, value in x.items()}
    found = estimator.variance_explained(some, rotation="varimax")
    assert found.factors == pytest.approx(turned.factors[20:50], abs=1e-4)
    assert all(np.array_equal(found.weights[name], turned.weights[name]) for name in found.modalities)


def test_factors_of_training_and_of_new_samples(fitted):
    estimator, x = fitted
    found, again = estimator.factors(), estimator.factors(x)
    assert found.latents == ("f0", "f1")  # those of the simulation; a third would be noise
    assert np.sort(found.factors, 0) == pytest.approx(np.sort(again.factors, 0), abs=1e-5)
    assert found.value("a") > 0.75
    assert found.value("b") > 0.8
    assert abs(found.value("c")) < 0.1
    for name in found.modalities:
        assert sum(found.by_latent(name).values()) == pytest.approx(found.value(name), rel=1e-6)
        assert found.value(name, "others") == estimator.scores_.value(name, "stack", "r2")
    explained = [sum(found.value(name, each) for name in found.modalities) for each in found.latents]
    assert explained == sorted(explained, reverse=True)
    whole = np.concatenate([found.weights[name] for name in found.modalities])
    assert (whole[np.abs(whole).argmax(0), [0, 1]] > 0).all()
    z = estimator.transform(x, std=True, factors=True)
    assert z[:, :2] == pytest.approx(again.factors, abs=1e-9)
    assert (z[:, 2:] < 0.5).all()
    assert estimator.transform({"a": x["a"][:5]}, factors=True) == pytest.approx(again.factors[:5], abs=0.5)


def test_factors_of_many_values_are_fitted_to_some_of_the_samples(fitted, monkeypatch):
    est, _ = fitted
    sizes, fit = [], GroupFactors.fit
    monkeypatch.setattr(GroupFactors, "fit", lambda x, *more: (sizes.append(len(x)), fit(x, *more))[1])
    whole = est.factors()
    monkeypatch.setattr(est, "_factors", None)
    monkeypatch.setattr(explain, "_VALUES", len(whole.factors) * sum(map(len, whole.features.values())) // 2)
    some = est.factors()
    assert set(sizes) == {-(-len(whole.factors) // 2)}
    assert some.factors.shape == whole.factors.shape
    assert abs(some.value("a", "all") - whole.value("a", "all")) < 0.1


def test_factors_have_names_and_ids(fitted):
    estimator, x = fitted
    pandas = pytest.importorskip("pandas")
    frames = {
        name: pandas.DataFrame(value, index=[f"s{row}" for row in range(80)]) for name, value in x.items()
    }
    found = estimator.transform(frames, factors=True)
    assert list(found.columns) == ["f0", "f1"]
    assert list(found.index[:2]) == ["s0", "s1"]


def test_factors_are_the_same_after_a_file(fitted, tmp_path):
    estimator, x = fitted
    estimator.save(tmp_path / "fitted.polyvae")
    found = pv.Estimator.load(tmp_path / "fitted.polyvae").transform(x, factors=True)
    assert np.array_equal(found, estimator.transform(x, factors=True))


@pytest.mark.slow
def test_noise_has_no_factors():
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(60, 3)), "b": rng.normal(size=(60, 2))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        estimator = pv.Estimator(steps=5, members=2, latent=2, seed=0).fit(x)
    found = estimator.factors()
    assert found.latents == ()
    assert found.factors.shape == (60, 0)
    assert found.value("a") == 0
    assert estimator.transform(x, factors=True).shape == (60, 0)


def test_attributions_add_up_to_the_change_of_transform(fitted):
    """From the means of the training data, to which standardised zeros correspond."""
    estimator, x = fitted
    complete = {name: value[11:30] for name, value in x.items()}
    found = estimator.attribute(complete, "z0", steps=16)
    z = estimator.transform(complete)[:, 0]
    assert found.output.numpy() == pytest.approx(z, abs=1e-3)
    total = sum(part.sum(1) for part in found.values.values()).numpy()
    assert total == pytest.approx(z - found.baseline.numpy(), abs=0.02 * z.std())
    middle = {each.name: np.asarray(each.center, np.float64)[None] for each in estimator.schema_.modalities}
    assert found.baseline.numpy()[0] == pytest.approx(estimator.transform(middle)[0, 0], abs=1e-3)
    assert found.features["a"] == tuple(f"a_{at}" for at in range(6))


def test_attributions_of_an_imputed_feature(fitted):
    estimator, x = fitted
    found = estimator.attribute({name: value[:20] for name, value in x.items()}, ("b", 1), steps=16)
    assert list(found.values) == ["a", "c"]
    assert found.by_modality()["a"] > 0.7  # c is noise
    assert bool((found.values["a"][10, 2] == 0).all())
    assert found.error < 0.05
    for of, message in (
        (("b", 9), "an index inside"),
        ("z9", "not a column of the embedding"),
        (("q", 0), "modalities: a, b, c"),
    ):
        with pytest.raises(pv.InputError, match=message):
            estimator.attribute(x, of)


@pytest.mark.slow
def test_wide_sparse_tables_and_a_target():
    """The members see principal components of a wide table; attributions are to its columns."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 2))
    wide = rng.poisson(np.exp(0.5 * z @ rng.normal(size=(2, 1100)) - 1)).astype(np.float32)
    data = pv.MultimodalData({"wide": scipy.sparse.csr_matrix(wide), "b": z @ rng.normal(size=(2, 4))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        estimator = pv.Estimator(steps=40, members=2, latent=3, seed=0).fit(data, z[:, 0] + 0.1)
        some = data.rows(slice(0, 10))
        found = estimator.attribute(some, "z0", steps=16)
        table = estimator.variance_explained(data)
    assert found.values["wide"].shape == (10, 1100)
    assert found.output.numpy() == pytest.approx(np.asarray(estimator.transform(some))[:, 0], abs=5e-3)
    assert found.error < 0.02
    assert table.r2["wide"].shape == (5, 1100)
    assert table.value("b") == pytest.approx(sum(table.by_latent("b").values()), rel=1e-6)
    factors = estimator.factors(some)
    assert factors.weights["wide"].shape == (1100, len(factors.latents))
    assert factors.modalities == ("wide", "b")  # y is none of them


def test_the_diagnosis_names_the_modality_of_noise(fitted):
    estimator, _ = fitted
    found = estimator.diagnose()
    assert {each.modality for each in found.findings if "cannot be predicted" in each.what} == {"c"}
    assert found.measures["samples"] == {"a": 80, "b": 72, "c": 80}
    assert found.measures["r2"]["b"] == estimator.scores_.value("b", "stack", "r2")

"""Variance explained, in linear worlds where it is known in closed form."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import explained_variance_score
from torch import nn

import polyvae as pv
from polyvae import MultimodalData
from polyvae.metrics.context import Context
from polyvae.metrics.explained import VarianceExplained, pooled
from polyvae.metrics.variance import latent_means, variance, variance_explained
from tests.helpers.worlds import World


def in_columns(world: World, x: dict[str, torch.Tensor], **more) -> MultimodalData:
    names = {name: [f"{name}{at}" for at in range(value.shape[1])] for name, value in x.items()}
    return MultimodalData({name: value.numpy() for name, value in x.items()}, columns=names, **more)


def test_it_is_the_closed_form_of_a_linear_world():
    """x̂_k = a_k g_k x for the gains g of the exact posterior: R² = (2 a_k (g_k S)_f − a_k² g_k S g_kᵀ) / S_ff, S the covariance of x."""
    world = World(latent=2, experts="factor")
    model = world.model("mvae").eval()
    x = world.data(400)
    found = variance_explained(model, in_columns(world, x))
    loadings, noise = np.concatenate(world.A), np.diag(np.concatenate([np.full(2, s**2) for s in world.s]))
    gain = loadings.T @ np.linalg.inv(loadings @ loadings.T + noise)  # E[z | x] = gain (x − b)
    joined = np.concatenate([value.numpy() for value in x.values()], 1)
    S = np.cov(joined, rowvar=False)
    for k in range(2):
        a, g = loadings[:, k], gain[k]
        expected = (2 * a * (g @ S) - a**2 * (g @ S @ g)) / np.diag(S)
        assert np.concatenate([found.r2[m][k] for m in "abc"]) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    fitted = (joined - np.concatenate(world.b)) @ gain.T @ loadings.T + np.concatenate(world.b)
    whole = explained_variance_score(joined, fitted, multioutput="raw_values")
    assert np.concatenate([found.r2[m][2] for m in "abc"]) == pytest.approx(whole, rel=1e-9)
    assert found.value("b") == pytest.approx(
        1 - np.diag(np.cov(joined - fitted, rowvar=False))[2:4].sum() / np.diag(S)[2:4].sum()
    )
    assert found.features["b"] == ("b0", "b1")
    assert np.isnan(found.value("b", "private"))
    assert found.value("b", "shared") == found.value("b", "all")


def test_another_modality_is_predicted_as_by_the_gaussian_conditional():
    world = World(latent=1, experts="exact")
    model, x = world.model("mvtcae").eval(), world.data(300)
    found = variance_explained(model, in_columns(world, x))
    batch = in_columns(world, x).take(slice(None))
    guess = model.generate(batch.drop("c"), K=400)["c"].mean(0).numpy()
    truth = x["c"].numpy()
    score = 1 - ((truth - guess) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)
    assert found.r2["c"][-1] == pytest.approx(score, abs=0.01)


def test_missing_entries_have_no_influence():
    world = World(latent=2)
    model, x = world.model("mvae").eval(), world.data(60)
    seen = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) < 0.6
    kept = {"b": seen.numpy()}
    mask = {"a": np.arange(60) % 3 > 0}
    one = variance_explained(model, in_columns(world, x, entries=kept, mask=mask))
    x["b"] = torch.where(seen, x["b"], 1e6)
    x["a"][::3] = -1e6
    other = variance_explained(model, in_columns(world, x, entries=kept, mask=mask))
    for name in "abc":
        assert np.array_equal(one.r2[name], other.r2[name], equal_nan=True)
    z, _ = latent_means(model, in_columns(world, x, entries=kept, mask=mask))
    assert len(z) == 60


def test_private_latents_and_the_parts():
    """With z at its mean, x̂ = A z̄ + C w + b: the part of w alone."""
    world = World(latent=1, private=1)
    model, x = world.model("mmvae+").eval(), world.data(200)
    data = in_columns(world, x)
    found = variance_explained(model, data)
    assert found.latents == ("z0", "a.w0", "b.w0", "c.w0")
    z, w = (part.numpy() for part in latent_means(model, data))
    for m, name in enumerate("abc"):
        truth = x[name].numpy()
        by_w, by_z = w[:, [m]] @ world.C[m].T, z @ world.A[m].T
        for what, fitted in (
            ("private", by_w),
            ("shared", by_z),
            ("all", by_w + by_z),
            (f"{name}.w0", by_w),
            ("z0", by_z),
        ):
            expected = explained_variance_score(truth, fitted, multioutput="variance_weighted")
            assert found.value(name, what) == pytest.approx(expected, rel=1e-9)
    assert np.isnan(found.value("a", "b.w0"))


class Product(nn.Module):
    """(1 + z0) (2 − z1), in which the share of z0 depends on where z1 is kept."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return (1 + z[:, :1]) * (2 - z[:, 1:])


def test_with_a_nonlinear_decoder_the_others_are_kept_at_their_means():
    world = World(latent=2)
    specs = world.modalities()
    specs[1] = replace(
        specs[1], name="b", decoder=lambda in_shape, out: Product(), shape=(1,), encoder=None, role="target"
    )
    model = pv.build("mvae", specs, latent=2).double().eval()
    x = {
        **world.data(100),
        "b": torch.randn(100, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    }
    data = in_columns(world, {name: value + 3 for name, value in x.items()})  # the means of z are not 0
    found, (z, _) = variance_explained(model, data), latent_means(model, data)
    assert abs(z.mean(0)).min() > 0.3
    truth = data.values("b")[:, 0].numpy()
    for latent, fitted in (
        ("z0", (1 + z[:, 0]) * (2 - z[:, 1].mean())),
        ("z1", (1 + z[:, 0].mean()) * (2 - z[:, 1])),
        ("all", (1 + z[:, 0]) * (2 - z[:, 1])),
    ):
        assert found.value("b", latent) == pytest.approx(
            explained_variance_score(truth, fitted.numpy()), rel=1e-9
        )


def test_the_metric_is_json_and_has_headline_numbers():
    world = World(latent=2)
    model, x = world.model("mvae").eval(), world.data(80)
    context = Context.of(model, in_columns(world, x))
    found = variance(context)
    assert {name for name, value in found.items() if isinstance(value, float)} == {
        "variance_explained",
        "variance_explained_shared",
        "variance_explained_others",
    }
    details = json.loads(json.dumps(found["variance"], allow_nan=False))
    assert details["rows"] == 80
    assert details["latents"]["a"].keys() == {"z0", "z1"}
    assert details["features"]["c"]["others"].keys() == {"c0", "c1"}
    first = details["top"]["z0"]
    assert [each[2] for each in first] == sorted((each[2] for each in first), reverse=True)


def test_pooled_r2_is_that_of_all_features_together():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)) * [1, 5, 0]
    guess = x + rng.normal(size=(50, 3)) * [0.5, 1, 0]
    r2 = np.append(explained_variance_score(x[:, :2], guess[:, :2], multioutput="raw_values"), np.nan)
    expected = explained_variance_score(x[:, :2], guess[:, :2], multioutput="variance_weighted")
    assert pooled(r2, x.var(0) * 50) == pytest.approx(expected)


def test_a_name_that_is_unknown_is_refused_with_the_nearest():
    table = VarianceExplained(
        ("z0",), ("all",), {"rna": ("TP53",)}, {"rna": np.array([[0.6], [0.7]])}, {"rna": np.ones(1)}
    )
    for arguments, hint in (
        (("rn", "z0"), "did you mean 'rna'"),
        (("rna", "z1"), "did you mean 'z0'"),
        (("rna", "z0", "TP5"), "'TP53'"),
    ):
        with pytest.raises(pv.InputError, match=hint):
            table.value(*arguments)
    assert table.to_columns() == {
        "modality": ["rna", "rna"],
        "feature": [None, None],
        "latent": ["z0", "all"],
        "r2": [0.6, 0.7],
    }
    assert table.to_columns(features=True)["feature"] == ["TP53", "TP53"]


def test_what_cannot_be_explained_is_refused():
    world = World()
    model = world.model("mvae")
    data = in_columns(world, world.data(5))
    with pytest.raises(pv.InputError, match=r"evaluation mode; call model.eval"):
        variance_explained(model, data)
    with pytest.raises(pv.InputError, match="expected 2 or more"):
        variance_explained(model.eval(), data.rows([0]))
    with pytest.raises(pv.InputError, match="a model and MultimodalData"):
        variance_explained(data, model)

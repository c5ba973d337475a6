"""Results of whole data sets are those of batches, in memory and in every kind of file."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

import polyvae as pv


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(0)
    data = pv.MultimodalData(
        {"a": rng.normal(size=(23, 3)), "image": rng.random((23, 1, 2, 2))},
        mask={"a": rng.random(23) < 0.8},
        ids=[f"s{row}" for row in range(23)],
        columns={"a": ("x", "y", "v")},
    )
    torch.manual_seed(0)
    return pv.MMVAEPlus(data.modalities(private=2), latent=2).eval(), data


def test_embeddings_are_those_of_the_model(made, tmp_path):
    model, data = made
    z = pv.embed(model, data, private=True, batch_size=7, show=False)
    torch.testing.assert_close(z, model.embed(data.take(slice(None)), private=True))
    file = pv.embed(model, data, private=True, batch_size=7, out=tmp_path / "z.npy", show=False)
    assert np.array_equal(np.load(file), z.numpy())
    pv.embed(model, data, private=True, batch_size=7, out=tmp_path / "z.csv", show=False)
    table = pd.read_csv(tmp_path / "z.csv", index_col="id")
    assert table.index.tolist() == data.ids
    np.testing.assert_allclose(table.to_numpy(), z.numpy(), rtol=1e-6)


def test_files_have_what_memory_has(made, tmp_path):
    model, data = made
    settings = {"given": ["image"], "K": 3, "sample": True, "seed": 4, "batch_size": 10, "show": False}
    state = torch.get_rng_state()
    whole = pv.generate(model, data, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: tuple(x.shape) for name, x in whole.items()} == {"a": (3, 23, 3), "image": (3, 23, 1, 2, 2)}
    again = pv.generate(model, data, **settings)
    folder = pv.generate(model, data, out=tmp_path / "made", **settings)
    group = zarr.open_group(str(pv.generate(model, data, out=tmp_path / "made.zarr", **settings)))
    for name, x in whole.items():
        assert torch.equal(again[name], x)
        assert np.array_equal(np.load(folder / f"{name}.npy", mmap_mode="r"), x)
        assert np.array_equal(group[name][:], x)
    settings["targets"] = ["a"]
    part = pv.generate(model, data, **settings)
    assert list(part) == ["a"]
    file = pv.generate(model, data, out=tmp_path / "a.parquet", **settings)
    table = pd.read_parquet(file)
    assert table.columns.tolist() == ["id", "draw", "x", "y", "v"]
    assert table["draw"].tolist() == [0, 1, 2] * 23
    assert table["draw"].dtype.kind == "i"
    assert table["id"].tolist() == [name for name in data.ids for _ in range(3)]
    found = table[["x", "y", "v"]].to_numpy().reshape(23, 3, 3).swapaxes(0, 1)
    np.testing.assert_allclose(found, part["a"].numpy())


def test_draws_follow_what_was_given(made):
    model, data = made
    whole = pv.generate(model, data, given=["a"], K=400, show=False, seed=1)
    torch.manual_seed(7)
    other = model.generate(data.take(slice(None)).observe("a"), K=400)
    for name, x in whole.items():
        error = (x.std(0) + other[name].std(0)) / 20
        assert ((x.mean(0) - other[name].mean(0)).abs() <= 4.5 * error + 1e-6).all(), name


def test_nothing_given_is_the_prior(made):
    model, data = made
    one = pv.generate(model, data, given=[], K=200, seed=2, show=False)["a"].mean((0, 1))
    other = pv.generate(model, data.observe(), K=200, seed=2, show=False)["a"].mean((0, 1))
    assert torch.equal(one, other)


def test_batches_have_draws_of_their_own(made):
    model, data = made
    same = pv.generate(model, data.rows([3] * 20), batch_size=10, sample=True, show=False)["image"]
    assert not torch.equal(same[:, :10], same[:, 10:])


def test_likelihoods_by_batches(made):
    model, data = made
    whole = pv.log_marginal(model, data, K=500, batch_size=9, show=False)
    torch.manual_seed(3)
    batch = model.log_marginal(data.take(slice(None)), K=500)
    error = torch.hypot(whole.standard_error, batch.standard_error)
    assert ((whole.value - batch.value).abs() <= 5 * error + 1e-4).all()


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("sample", [False, True])
def test_decoding_by_rows_changes_nothing(made, monkeypatch, K, sample):
    model, data = made
    batch = data.take(slice(None))
    torch.manual_seed(0)
    whole = model.generate(batch, K=K, sample=sample)
    monkeypatch.setattr("polyvae.core.modalities._ROWS", 8)
    torch.manual_seed(0)
    for name, x in model.generate(batch, K=K, sample=sample).items():
        torch.testing.assert_close(x, whole[name])
    single = model.modalities.decode(torch.zeros(2), torch.zeros(4))
    assert {name: tuple(x.shape) for name, x in single.items()} == {"a": (3,), "image": (1, 2, 2)}


def test_resampling_by_rows_draws_from_the_posterior(made, monkeypatch):
    model, data = made
    model = pv.MVAE(data.modalities(), latent=2).eval()
    batch = data.take(slice(None))
    torch.manual_seed(0)
    whole = model.generate(batch, K=60, resample=True)
    monkeypatch.setattr("polyvae.core.inference._ROWS", 32 * 60 * 2)
    parts = model.generate(batch, K=60, resample=True)
    for name, x in parts.items():
        error = (x.std(0) + whole[name].std(0)) / 60**0.5
        assert ((x.mean(0) - whole[name].mean(0)).abs() <= 4.5 * error + 1e-6).all(), name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, d, at: pv.embed(d, m), "expected a model and MultimodalData"),
        (lambda m, d, at: pv.embed(m, d.take([0])), r"a single batch is for model.embed\(batch\)"),
        (lambda m, d, at: pv.generate(m, d, K=0), "K=0; expected 1"),
        (lambda m, d, at: pv.generate(m, d, targets="a"), "expected a list of modalities"),
        (lambda m, d, at: pv.generate(m, d, given="a"), "expected a list of modalities"),
        (lambda m, d, at: pv.generate(m, d, targets=[]), "expected a list of modalities"),
        (lambda m, d, at: pv.generate(m, d, targets=["b"]), "target 'b', which is not decoded"),
        (lambda m, d, at: pv.generate(m, d, out=at / "x.npy"), "for 2 modalities"),
        (
            lambda m, d, at: pv.generate(m, d, out=at / "x.csv", targets=["image"]),
            "expected a modality of one axis",
        ),
        (lambda m, d, at: pv.generate(m, d, out=at / "x.npz"), r"expected \.npy"),
        (lambda m, d, at: pv.generate(m, d, out=at), "exists and is not empty"),
        (lambda m, d, at: pv.embed(m, d, out=at / "no" / "z.npy"), "not written"),
        (lambda m, d, at: pv.embed(m, d, batch_size=0), "batch_size=0"),
    ],
)
def test_what_is_refused(made, tmp_path, call, message):
    model, data = made
    (tmp_path / "old").write_text("")
    with pytest.raises(pv.InputError, match=message):
        call(model, data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_training_mode_is_refused(made):
    model, data = made
    model.train()
    with pytest.raises(pv.InputError, match="training mode"):
        pv.embed(model, data, show=False)
    model.eval()

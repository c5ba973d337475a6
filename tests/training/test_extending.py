"""extend(): what is new is trained, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import polyvae as pv
from polyvae import InputError, Modality, MultimodalData
from polyvae.testing import example_batch
from tests.helpers.cases import OPTIONS

SHIFT = {"a": 0.0, "b": 1.0, "c": 4.0}
QUIET = {"show": False, "validation": 0.0, "batch_size": 64}


def cohort(levels, seed=0, extra=False, **settings) -> MultimodalData:
    """Two factors seen by linear maps, and a batch that moves all columns."""
    draws = np.random.default_rng(seed)
    maps = np.random.default_rng(99)
    batch = np.array(list(levels))[draws.integers(0, len(levels), 128)]
    factors = draws.normal(size=(128, 2))
    shift = np.array([SHIFT[level] for level in batch])[:, None]
    data = {
        name: factors @ maps.normal(size=(2, size)) + shift + 0.1 * draws.normal(size=(128, size))
        for name, size in (("rna", 6), ("protein", 4))
    }
    if extra:
        data["atac"] = factors @ maps.normal(size=(2, 5)) + 0.1 * draws.normal(size=(128, 5))
    return MultimodalData(
        data, covariates={"batch": batch}, factors={"rna": {"f": factors[:, 0]}}, **settings
    )


def trained(name="mvae", epochs=2, **options):
    data = cohort("ab")
    specs = [replace(spec, params={"hidden": (16,)}) for spec in data.modalities(covariates=("batch",))]
    model = pv.build(name, specs, latent=2, **options)
    pv.fit(model, data, epochs=epochs, lr=1e-2, **QUIET)
    return model, data


def assert_kept(model, larger, batch):
    before, after = model.state_dict(), larger.state_dict()
    for name, x in before.items():
        block = tuple(slice(size) for size in x.shape)
        assert torch.equal(x, after[name][block]), name
    assert torch.allclose(model.embed(batch), larger.embed(batch), atol=1e-5)


def test_a_new_level_changes_no_earlier_parameter_and_no_earlier_embedding():
    model, data = trained("mmvae+")
    larger = pv.extend(model, cohort("c", 1), epochs=2, lr=1e-2, **QUIET)
    assert_kept(model, larger, data.take(range(20)))
    first = larger.modalities["rna"].encoder[1].weight
    assert first.shape == (16, 6 + 3)
    assert first[:, -1].abs().max() > 0
    assert all(parameter.requires_grad for parameter in larger.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    made = larger.generate(data.take([0]), covariates={"batch": "c"})
    assert made["rna"].shape == (1, 1, 6)


def test_a_new_level_between_others_and_numbers_takes_the_last_columns(tmp_path):
    draws = np.random.default_rng(0)

    def data_of(levels):
        values = {"rna": draws.normal(size=(40, 4)), "protein": draws.normal(size=(40, 3))}
        return MultimodalData(values, covariates={"batch": list(levels) * 20, "age": draws.normal(size=40)})

    data = data_of("ac")
    model = pv.build("mvae", data.modalities(covariates=("batch", "age")), latent=2)
    larger = pv.extend(model, data_of("ab"), epochs=1, **QUIET)
    assert_kept(model, larger, data.take(range(20)))
    pv.save_model(larger, tmp_path / "larger.safetensors")
    again, batch = pv.load_model(tmp_path / "larger.safetensors"), data_of("ab").take(range(4))
    assert torch.equal(again.embed(batch), larger.embed(batch))
    third = pv.extend(larger, data_of("bd"), epochs=1, **QUIET)
    assert [one.levels for one in third.specs[0].covariates] == [("a", "c"), None, ("b",), ("d",)]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(pv.MODELS) - {"u-hved", "deepimv"}))
def test_every_model_takes_a_new_level(name):
    data, more = cohort("ab"), cohort("c", 1)
    specs = data.modalities(covariates=("batch",))
    model = pv.build(name, specs, **{"latent": 2, **OPTIONS.get(name, [{}])[0]}).eval()
    larger = pv.extend(model, more, epochs=1, **QUIET)
    assert_kept(model, larger, data.take(range(8)))
    assert example_batch(larger).size == 6


def test_a_new_modality_changes_no_earlier_parameter_and_no_earlier_embedding():
    model, data = trained("mmvae+")
    more = cohort("ab", 2, extra=True)
    larger = pv.extend(
        model, more, modalities=[Modality("atac", (5,), params={"hidden": (16,)})], epochs=2, lr=1e-2, **QUIET
    )
    assert_kept(model, larger, data.take(range(20)))
    assert list(larger.modalities) == ["rna", "protein", "atac"]
    assert larger.generate(data.take([0]).observe("rna"))["atac"].shape == (1, 1, 5)


@pytest.mark.slow
def test_a_mapped_batch_is_predicted_and_mixed():
    """A third batch, moved by three standard deviations, is predicted after mapping about as well as the batches of the training."""
    model, _ = trained(epochs=150)
    third = cohort("c", 1)
    seconds = pv.extend(model, third, epochs=150, lr=2e-2, **QUIET)

    def error(model, data):
        batch = data.take(slice(None))
        guess = model.generate(batch.observe("rna"))["protein"].mean(0)
        return float((guess - batch.data["protein"]).square().mean().sqrt())

    test = cohort("c", 3)
    as_b = test.take(slice(None)).with_covariates({"batch": "b"})
    unmapped = float(
        (model.generate(as_b.observe("rna"))["protein"].mean(0) - as_b.data["protein"]).square().mean().sqrt()
    )
    assert error(seconds, test) < 0.5 * unmapped
    assert error(seconds, test) < 2 * error(model, cohort("ab", 4))


def test_what_cannot_be_extended():
    model, data = trained()
    with pytest.raises(InputError, match="expected a new level"):
        pv.extend(model, data, **QUIET)
    joint = pv.build("jmvae", data.modalities(covariates=("batch",)), latent=2)
    with pytest.raises(InputError, match="nested"):
        pv.extend(joint, cohort("ab", extra=True), **QUIET)
    with pytest.raises(InputError, match="'batch' is not in the data"):
        pv.extend(model, MultimodalData({"rna": np.zeros((4, 6))}), **QUIET)


@pytest.mark.slow
def test_a_small_batch_is_reached_by_the_usual_training():
    model, _ = trained("mmvae+", epochs=60)
    new = cohort("c", 1)
    larger = pv.extend(model, new, show=False)
    made = larger.generate(new.take(slice(None)), K=5)["rna"].mean()
    assert float(made) == pytest.approx(float(new.values("rna").mean()), abs=0.3)
    before = model.generate(model_batch(new), K=5)["rna"].mean()
    assert abs(float(before) - float(new.values("rna").mean())) > 1


def model_batch(data):
    return data.take(slice(None)).with_covariates({"batch": "a"})


def test_the_reference_level_stays_the_first_and_new_columns_begin_at_0_beside_a_new_modality():
    model, _ = trained()
    larger = pv.extend(model, cohort("c", 1, extra=True), epochs=1, lr=1e-12, **QUIET)
    z, w = torch.randn(3, 2), torch.zeros(3, 0)
    for name, x in model.decode(z, w).items():
        assert torch.allclose(x, larger.decode(z, w)[name], atol=1e-6)
    assert larger.modalities["rna"].encoder[1].weight[:, -1].abs().max() < 1e-9
    model.requires_grad_(False)
    model.max_rows = 7
    again = pv.extend(model, cohort("c", 1), epochs=1, **QUIET)
    assert again.max_rows == 7
    assert not any(x.requires_grad for x in again.parameters())


@pytest.mark.parametrize(
    ("modality", "message"),
    [("atac", "got modalities with 'atac', which the data lack"), ("rna", "'rna', which the model has")],
)
def test_specifications_that_would_have_no_effect_are_refused(modality, message):
    model, _ = trained(epochs=1)
    with pytest.raises(InputError, match=message):
        pv.extend(model, cohort("c", 1), modalities=[Modality(modality, (5,))], epochs=1, **QUIET)


def test_numbers_for_levels_and_settings_of_another_type_are_refused():
    model, data = trained(epochs=1)
    x = {name: data.values(name) for name in data.names}
    with pytest.raises(InputError, match="got numbers as covariate 'batch'; expected levels, such as 'a'"):
        pv.extend(model, MultimodalData(x, covariates={"batch": np.arange(128.0)}), **QUIET)
    with pytest.raises(InputError, match="seed"):
        pv.extend(model, cohort("c", 1), seed="a", **QUIET)

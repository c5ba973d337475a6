"""The covariates of MultimodalData are kept with their samples, and give specifications their levels and scales."""

from __future__ import annotations

import numpy as np
import pytest

import polyvae as pv
from polyvae import Covariate, InputError, MultimodalData


def example(**settings) -> MultimodalData:
    draws = np.random.default_rng(0)
    return MultimodalData(
        {"rna": draws.normal(size=(12, 4)), "protein": draws.normal(size=(12, 3))},
        covariates={"batch": list("abcabcabcabc"), "age": np.arange(12.0)},
        **settings,
    )


def test_covariates_are_returned_as_they_were_given():
    data = example()
    assert data.covariates["batch"].tolist() == list("abcabcabcabc")
    assert data.covariates["age"].tolist() == list(range(12))
    assert "covariates: batch (3 levels), age (number)" in repr(data)
    assert MultimodalData({"a": np.zeros((2, 1))}).covariates == {}


def test_covariates_are_kept_with_their_samples():
    data = example(splits={"train": range(8), "test": range(8, 12)})
    assert data.test.covariates["age"].tolist() == [8, 9, 10, 11]
    for same in (data.select("rna"), data.hide(0.5), data.split(), data.observe("rna"), data.to("cpu")):
        assert same.covariates["batch"].tolist() == list("abcabcabcabc")
    assert data.rows([5, 2]).covariates["batch"].tolist() == ["c", "c"]
    assert data.take([4, 0]).covariates.values["age"].tolist() == [4, 0]
    assert data.take(slice(3, 5)).covariates.values["batch"].tolist() == [0, 1]
    train, held = data.carve(0.25)
    assert sorted([*train.covariates["age"], *held.covariates["age"]]) == list(range(12))


def test_the_digest_depends_on_covariates():
    plain = MultimodalData({"a": np.zeros((2, 1))})
    digests = {
        MultimodalData({"a": np.zeros((2, 1))}, covariates=given).digest()
        for given in (None, {"batch": ["x", "y"]}, {"batch": ["x", "z"]}, {"batch": ["y", "x"]})
    }
    assert len(digests) == 4
    assert plain.digest() in digests


def test_levels_and_scales_are_those_of_the_training_part():
    data = example(splits={"train": [0, 1, 3, 4], "test": [2, *range(5, 12)]})
    spec = data.modalities(covariates=("batch", "age"))[1]
    assert spec.covariates[0] == Covariate("batch", ("a", "b"))
    assert (spec.covariates[1].mean, spec.covariates[1].scale) == (2, pytest.approx(2.5**0.5))
    model = pv.build("mvae", data.modalities(covariates=("batch",)), latent=2)
    with pytest.raises(InputError, match="unknown level 'c'"):
        model.embed(data.test.take([0]))


def test_a_constant_number_has_scale_one():
    data = MultimodalData({"a": np.zeros((2, 1))}, covariates={"age": [3.0, 3.0]})
    assert data.modalities(covariates=("age",))[0].covariates == (Covariate("age", mean=3.0),)


def test_one_modality_alone_may_be_conditioned():
    specs = [pv.Modality("rna", (4,), covariates=("batch",)), pv.Modality("protein", (3,))]
    found = example(modalities=specs).modalities()
    assert found[0].covariates == (Covariate("batch", ("a", "b", "c")),)
    assert found[1].covariates == ()


def test_an_unknown_covariate():
    with pytest.raises(InputError, match="did you mean 'batch'"):
        example().modalities(covariates=("bach",))
    with pytest.raises(InputError, match="the data have none"):
        MultimodalData({"a": np.zeros((2, 1))}).modalities(covariates=("batch",))


def test_a_constant_number_has_scale_1_whatever_rounding_leaves_of_its_deviation():
    data = MultimodalData({"a": np.zeros((40, 1))}, covariates={"age": [0.1] * 40})
    (one,) = data.modalities(covariates=("age",))[0].covariates
    assert one.scale == 1.0

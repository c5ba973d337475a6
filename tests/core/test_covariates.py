"""Covariates: read, validated, encoded as columns, and given to the encoders and decoders that declare them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

import polyvae as pv
from polyvae import Batch, Covariate, InputError, Modality, MultimodalData
from polyvae.core.covariates import Covariates, covariates_of
from polyvae.models.bundles import describe_modality, read_modality
from polyvae.testing import LAWS, conditioned, default_worlds, example_batch, law_covariates
from polyvae.testing.worlds import example_model
from tests.helpers.cases import CASES, OPTIONS

# One model of each way in which networks are called: experts alone, private latents, a second encoder, pseudo-inputs, generated data
# that are encoded, pairs of samples.
FAST = ["mvae", "mmvae+", "jmvae", "meme", "idmvae", "mmvae-contrastive"]
SMALL = {"latent": 2}


def made(name, options=None):
    return lambda specs: pv.build(name, specs, **{**SMALL, **(options or {})})


@pytest.mark.parametrize("name", FAST)
def test_covariates_belong_to_their_sample_and_their_modality(name):
    make = made(name, OPTIONS.get(name, [{}])[0])
    law_covariates(make, default_worlds(make)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[f"{name}-{place}" for place, (name, _) in enumerate(CASES)]
)
def test_every_law_with_covariates(name, options):
    make = made(name, options)
    for specs in default_worlds(make):
        law_covariates(make, specs)
        for law in LAWS:
            law(make, conditioned(specs))


@pytest.mark.slow
def test_volumes_with_covariates():
    make = made("u-hved", {"latent": None})
    specs = [
        Modality(name, (1, 4, 4, 4), network="volume", params={"width": 0.5, "levels": 2}) for name in "ab"
    ]
    law_covariates(make, specs)


def test_levels_are_columns_and_numbers_are_standardised():
    found = covariates_of({"batch": ["b", "a", "b"], "age": [40, 50, 60], "smoker": [True, False, True]}, 3)
    assert found.levels == {"batch": ("a", "b"), "smoker": ("False", "True")}
    assert found.values["batch"].tolist() == [1, 0, 1]
    batch = Covariate("batch", ("b", "c", "a"))
    assert batch.encode(found.values["batch"], found.levels["batch"], torch.float64).tolist() == [
        [1, 0, 0],
        [0, 0, 1],
        [1, 0, 0],
    ]
    age = Covariate("age", mean=50.0, scale=10.0)
    assert age.encode(found.values["age"], (), torch.float64).tolist() == [[-1], [0], [1]]


def test_a_categorical_of_pandas_gives_levels_also_for_integers():
    found = covariates_of({"site": pd.Series(pd.Categorical([2, 1, 2], categories=[2, 1]))}, 3)
    assert found.levels == {"site": ("2", "1")}
    assert found.values["site"].tolist() == [0, 1, 0]
    assert covariates_of({"site": [2, 1, 2]}, 3).levels == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch": ["a", None, "b"]}, "1 missing values"),
        ({"batch": pd.Series(["a", None, "b"])}, "missing"),
        ({"age": [1.0, float("nan"), 2.0]}, "missing"),
        ({"age": [1.0, float("inf"), 2.0]}, "infinite"),
        ({"batch": ["a", "b"]}, r"expected \(3,\)"),
        ({"batch": ["a", 1, "b"]}, "types int, str"),
        ({"": ["a", "b", "c"]}, "non-empty"),
        (["a", "b", "c"], "mapping"),
        ({"when": np.array(["2020-01-01"] * 3, dtype="M8[D]")}, "datetime64"),
    ],
)
def test_covariates_that_are_refused(given, message):
    with pytest.raises(InputError, match=message) as problem:
        Batch.of({"a": torch.zeros(3, 2)}, covariates=given)
    assert "\n" not in str(problem.value)


def small_data() -> MultimodalData:
    draws = np.random.default_rng(0)
    return MultimodalData(
        {"rna": draws.normal(size=(12, 4)), "image": draws.normal(size=(12, 1, 8, 8))},
        covariates={"batch": list("abcabcabcabc"), "age": np.arange(12.0)},
    )


def test_a_batch_keeps_its_covariates():
    batch = small_data().take(range(6))
    for other in (batch.observe("rna"), batch.drop("rna"), batch.only(batch.mask), batch.to("cpu")):
        assert other.covariates.values["batch"].tolist() == [0, 1, 2, 0, 1, 2]
    assert batch.rows(torch.tensor([2, 0])).covariates.values["age"].tolist() == [2, 0]
    assert batch.rows(slice(1, 3)).covariates.values["batch"].tolist() == [1, 2]
    changed = batch.with_covariates({"batch": "c"})
    assert changed.covariates.levels == {"batch": ("c",)}
    assert torch.equal(changed.covariates.values["age"], batch.covariates.values["age"])
    assert "covariates: batch, age" in repr(batch)


def test_the_columns_of_levels_do_not_depend_on_how_a_batch_numbers_them():
    specs = [Modality("a", (3,), covariates=(Covariate("batch", ("x", "y", "z")),), params={"hidden": (4,)})]
    model = pv.build("vae", specs, **SMALL)
    data = {"a": torch.randn(2, 3)}
    first = Batch.of(data, covariates=Covariates({"batch": torch.tensor([1, 2])}, {"batch": ("x", "y", "z")}))
    other = Batch.of(data, covariates={"batch": ["y", "z"]})
    assert torch.equal(model.embed(first), model.embed(other))


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        (None, "without covariate 'batch'"),
        ({"batch": ["x", "w"]}, "unknown level 'w'"),
        ({"batch": [1.0, 2.0]}, "got numbers; expected levels"),
        ({"bach": ["x", "y"]}, "did you mean 'bach'"),
    ],
)
def test_batches_that_lack_what_a_model_is_conditioned_on(covariates, message):
    model = pv.build("vae", [Modality("a", (3,), covariates=(Covariate("batch", ("x", "y")),))], **SMALL)
    with pytest.raises(InputError, match=message):
        model(Batch.of({"a": torch.zeros(2, 3)}, covariates=covariates))


def test_levels_that_no_sample_has_are_not_looked_for():
    model = pv.build("vae", [Modality("a", (3,), covariates=(Covariate("batch", ("x", "y")),))], **SMALL)
    given = Covariates({"batch": torch.tensor([0, 1])}, {"batch": ("x", "y", "unused")})
    assert model.embed(Batch.of({"a": torch.zeros(2, 3)}, covariates=given)).shape == (2, 2)


def reads(in_shape, out):
    """A user-defined encoder that remembers its arguments."""
    reads.seen.append((in_shape, out))
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(in_shape), out))


reads.seen = []


def test_encoders_get_the_columns_along_the_first_axis_and_decoders_after_the_latents():
    batch = Covariate("batch", ("a", "b"))
    spec = Modality("image", (3, 4, 4), network="mlp", encoder=reads, covariates=(batch,))
    model = pv.build("mvae", [spec], **SMALL)
    assert reads.seen.pop()[0] == (5, 4, 4)
    net = model.modalities["image"]
    columns = torch.tensor([[0.0, 1.0]])
    beside = net.encoder_input(torch.full((1, 3, 4, 4), 7.0), None, columns)[0]
    assert beside[:3].unique().tolist() == [7]
    assert beside[3].unique().tolist() == [0]
    assert beside[4].unique().tolist() == [1]
    given = Batch.of({"image": torch.zeros(1, 3, 4, 4)}, covariates={"batch": "b"})
    latents = model.modalities.latents(0, torch.ones(5, 1, 2), torch.ones(5, 1, 0), given)
    assert latents[0].tolist() == [[1, 1, 0, 1]]


@pytest.mark.parametrize(
    "spec",
    [
        {"shape": (1, 16, 16), "network": "conv"},
        {"shape": (1, 8, 8), "network": "resnet", "params": {"width": 0.25}},
        {"shape": (2, 32), "network": "series"},
        {"shape": (5,), "network": "table"},
        {"shape": (5,), "network": "mlp", "entries": True},
        {"shape": (6,), "network": "text", "likelihood": "sequence", "params": {"words": ["red", "blue"]}},
    ],
    ids=lambda spec: spec["network"],
)
def test_every_network_reads_covariates(spec):
    covariates = (Covariate("batch", ("a", "b")), Covariate("age"))
    model = example_model(made("mmvae+"), [Modality("m", **spec, covariates=covariates), Modality("n", (3,))])
    batch = example_batch(model.eval(), entries=False)
    other = batch.with_covariates({"age": 3.0})
    observed = batch.mask[0]
    same = (model.embed(batch) == model.embed(other)).all(1)
    assert not same[observed].any()
    assert same[~observed].all()
    changed = model.generate(batch, covariates={"batch": "b"})
    assert changed["m"].shape == (1, batch.size, *spec["shape"])


def test_a_model_without_covariates_is_the_same_whatever_a_batch_has():
    specs = [Modality("a", (3,)), Modality("b", (2,))]
    model = example_model(made("mmvae+"), specs).eval()
    batch = example_batch(model)
    assert torch.equal(model.embed(batch), model.embed(batch.with_covariates({"batch": "x"})))
    assert "covariates" not in describe_modality(specs[0])


def test_a_counterfactual_value_changes_what_is_decoded_and_not_the_latents():
    data = small_data()
    model = pv.build("mmvae+", data.modalities(covariates=("batch",)), **SMALL).eval()
    batch = data.take(range(4))
    torch.manual_seed(0)
    z, w = model.draw_latents(batch, 2)
    torch.manual_seed(0)
    found = model.generate(batch, 2, covariates={"batch": "b"})
    expected = model.modalities.decode(z, w, like=batch.with_covariates({"batch": ["b"] * 4}))
    assert all(torch.equal(found[name], x) for name, x in expected.items())
    assert not torch.equal(found["rna"], model.modalities.decode(z, w, like=batch)["rna"])


def test_samples_from_the_prior_are_at_the_first_level_unless_another_is_given():
    model = pv.build("vae", small_data().modalities(covariates=("batch", "age")), **SMALL).eval()
    z, w = torch.randn(3, model.shared), torch.randn(3, len(model.owner))
    first = model.decode(z, w, covariates={"batch": "a", "age": 5.5})
    assert all(torch.equal(x, first[name]) for name, x in model.decode(z, w).items())
    assert not torch.equal(model.decode(z, w, covariates={"batch": "b"})["rna"], first["rna"])
    assert model.sample(2, covariates={"age": [1.0, 2.0]})["image"].shape == (2, 1, 8, 8)


def test_covariates_as_tables_and_back():
    spec = Modality(
        "a", (3,), covariates=({"name": "batch", "levels": ["x", "y"]}, {"name": "age", "scale": 2})
    )
    assert spec.covariates == (Covariate("batch", ("x", "y")), Covariate("age", scale=2))
    assert read_modality(describe_modality(spec)) == spec


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        ("batch", "expected a list"),
        ((3,), "expected the name of a covariate"),
        (({"levels": ["a"]},), "without a name"),
        (({"name": "a", "level": ["a"]},), "did you mean 'levels'"),
        (("a", "a"), "twice"),
        (({"name": "a", "levels": ["x", "x"]},), "distinct"),
        (({"name": "a", "scale": 0},), "above 0"),
        (({"name": "a", "levels": "xy"},), "list of names"),
    ],
)
def test_covariates_of_a_modality_that_are_refused(covariates, message):
    with pytest.raises(InputError, match=message):
        Modality("m", (3,), covariates=covariates)


def test_names_alone_are_no_networks():
    with pytest.raises(InputError, match=r"data.modalities\(\)"):
        pv.build("vae", [Modality("m", (3,), covariates=("batch",))], **SMALL)


def test_unknown_names_of_covariates_are_refused_where_they_would_have_no_effect():
    data = small_data()
    model = pv.build("mvae", data.modalities(covariates=("batch",)), latent=2).eval()
    batch = data.take(slice(0, 3))
    for call in (
        lambda: model.generate(batch, covariates={"bacth": "b"}),
        lambda: model.sample(2, covariates={"bacth": "b"}),
        lambda: model.decode(torch.zeros(2, 2), torch.zeros(2, 0), covariates={"bacth": "b"}),
    ):
        with pytest.raises(InputError, match="no modality is conditioned on 'bacth'; did you mean 'batch'"):
            call()


def test_covariates_of_another_number_of_samples_are_refused():
    with pytest.raises(InputError, match=r"covariate 'age': got shape \(5,\); expected \(3,\)"):
        Batch.of({"a": torch.zeros(3, 1)}, covariates=Covariates({"age": torch.zeros(5)}))

"""Bundles: a model as one file, modalities as JSON, and which code may be imported."""

from __future__ import annotations

import json
import resource
from dataclasses import replace

import pytest
import torch
from torch import nn

from polyvae.core.modality import Modality
from polyvae.data import MultimodalData
from polyvae.models import MVAE, VAE
from polyvae.models.bundles import (
    check_storable,
    check_trust,
    describe_modality,
    load_bundle,
    load_model,
    read_modality,
    save_bundle,
    save_model,
)
from polyvae.testing import example_data, plain_world
from polyvae.testing.laws import law_storage
from polyvae.training.checkpoints import Checkpoints
from polyvae.training.directory import RunDirectory
from polyvae.training.loop import fit
from tests.helpers.storage import message


def encoder_factory(shape, out):
    return nn.Linear(shape[0], out)


@pytest.fixture
def tensors():
    tied = torch.arange(6.0).view(2, 3)
    return {
        "tied": tied,
        "a.b/c": tied,
        "turned": tied.T,
        "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        "flag": torch.tensor([True, False]),
        "step": torch.tensor(7),
        "empty": torch.empty(0, 4, dtype=torch.float64),
    }


def test_a_bundle_comes_back_from_its_file_and_from_its_run(tmp_path, tensors):
    run = RunDirectory.create(tmp_path / "run")
    assert "a run without model.safetensors" in message(load_bundle, run.path)
    config = {
        "options": {"latent": 4, "beta": 2.5, "private": None},
        "modalities": [describe_modality(Modality("a", (3,)))],
    }
    save_bundle(run.model, model_name="mmvae+", config=config, state=tensors, extra={"seed": 3})
    for path in (run.path, run.model):
        bundle = load_bundle(path)
        assert (bundle.name, bundle.config, bundle.extra) == ("mmvae+", config, {"seed": 3})
        assert torch.equal(bundle.state["turned"], tensors["turned"])
    checkpoint = Checkpoints(run.checkpoints).save(1, tensors, {})
    assert "not a model" in message(load_bundle, checkpoint)
    run.write_text("config.toml", "")
    assert "no such run; expected a run directory; did you mean 'run'?" in message(
        load_bundle, tmp_path / "runn"
    )


@pytest.mark.parametrize(
    "modality",
    [
        Modality("a", (3, 8, 8)),
        Modality(
            "rna.counts",
            (20,),
            likelihood="laplace",
            private=0,
            weight=0.5,
            params={"scale": 0.75},
            role="target",
        ),
        Modality("c", (4,), encoder=encoder_factory, decoder="own.package:decoder"),
    ],
)
def test_a_modality_comes_back_from_its_json(modality):
    table = json.loads(json.dumps(describe_modality(modality)))
    back = read_modality(table)
    assert describe_modality(back) == table
    assert (back.name, back.shape, back.params, back.role) == (
        modality.name,
        modality.shape,
        modality.params,
        modality.role,
    )


def test_a_factory_is_stored_as_its_import_path_or_refused():
    assert (
        describe_modality(Modality("a", (3,), encoder=encoder_factory))["encoder"]
        == f"{__name__}:encoder_factory"
    )

    def local(shape, out):
        return nn.Linear(shape[0], out)

    for factory in (lambda shape, out: nn.Linear(shape[0], out), local):
        assert "no other program can import" in message(
            describe_modality, Modality("a", (3,), decoder=factory)
        )


@pytest.mark.parametrize("module", [__name__, "__main__"])
def test_a_model_that_no_other_program_can_import_is_refused_before_training(module, tmp_path):
    """In a function, or at the top of a script: what would be stored could not be loaded. Without a run directory it trains."""
    inner = type(
        "Inner",
        (VAE,),
        {"__module__": module, "__qualname__": "Inner" if module == "__main__" else "make.<locals>.Inner"},
    )
    model = inner(plain_world(), latent=2)
    data = MultimodalData({name: x.float() for name, x in example_data(model, 8).items()})
    for call in (
        check_storable,
        lambda model: save_model(model, tmp_path / "x.safetensors"),
        lambda model: fit(model, data, out=tmp_path / "run", epochs=1, validation=0.0, show=False),
    ):
        assert message(call, model) == (
            f"model 'vae': got {inner!r}, which no other program can import; expected it at the top level of a module; move it into one, "
            "and give it or 'package.module:Class'"
        )
    assert not list(tmp_path.iterdir())
    assert fit(model, data, epochs=1, validation=0.0, show=False).step == 1
    law_storage(lambda specs: inner(specs, latent=2), plain_world())


def test_unknown_and_missing_keys_of_a_modality_are_named():
    assert "unknown key 'shap'; did you mean 'shape'?" in message(read_modality, {"name": "a", "shap": [3]})
    assert "got no 'shape'" in message(read_modality, {"name": "a"})


@pytest.mark.parametrize(
    ("path", "trust", "fine"),
    [
        ("polyvae.core.networks.mlp:mlp_encoder", (), True),
        ("own.networks:encoder", ("own",), True),
        ("own.networks:encoder", ("own.networks",), True),
        ("own.networks:encoder", (), False),
        ("owner.networks:encoder", ("own",), False),
        ("polyvaex:encoder", (), False),
    ],
)
def test_code_is_imported_only_from_trusted_packages(path, trust, fine):
    modality = Modality("a", (3,), encoder=path)
    if fine:
        check_trust(modality, trust)
    else:
        assert f"pass trust=['{path.partition(':')[0].partition('.')[0]}']" in message(
            check_trust, modality, trust
        )


def test_a_likelihood_is_imported_only_from_trusted_packages(tmp_path):
    """A model with a likelihood by import path is stored and loaded like one with a network of its own."""
    own = Modality("a", (3,), likelihood="tests.helpers.own_likelihood:Rounded", params={"step": 0.5})
    model = MVAE([own, Modality("b", (2,))], latent=2)
    assert model.modalities["a"].likelihood.step == 0.5
    save_model(model, tmp_path / "own.safetensors")
    assert "pass trust=['tests']" in message(load_model, tmp_path / "own.safetensors")
    assert load_model(tmp_path / "own.safetensors", trust=["tests"]).modalities["a"].likelihood.step == 0.5
    for path, says in (
        ("polyvae.core.modality:Modality", "not trusted"),
        ("tests.helpers.own_likelihood:nothing", "not trusted"),
    ):
        assert says in message(check_trust, replace(own, likelihood=path), ())
    for path, says in (
        ("tests.helpers.own_likelihood:nothing", "cannot import"),
        ("tests.helpers.own_likelihood:no_likelihood", "expected a polyvae.core.likelihoods.Likelihood"),
    ):
        assert says in message(MVAE, [replace(own, likelihood=path, params={})])


def test_what_a_trusted_module_imported_is_out_of_reach():
    assert "expected an import path" in message(
        check_trust, Modality("a", (3,), decoder="polyvae.storage:os.system"), ()
    )


def test_a_bundle_asks_for_no_more_memory_than_its_file_has(tmp_path):
    """Each of these is built only in outline, and compared with 17 tensors of a few bytes."""
    path = tmp_path / "x.safetensors"
    save_model(VAE([Modality("a", (3,), params={"hidden": [4]})], latent=2), path)
    bundle = load_bundle(path)
    for options, params in (
        ({"latent": 10**5}, {"hidden": [4]}),
        ({"latent": 2}, {"hidden": [99_000, 99_000]}),
    ):
        config = {
            "options": bundle.config["options"] | options,
            "modalities": [bundle.config["modalities"][0] | {"params": params}],
        }
        save_bundle(path, model_name="vae", config=config, state=bundle.state, extra={})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert "do not fit" in message(load_model, path)
        assert (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
        )  # kilobytes; the weights would take 39 GB


def test_a_description_of_many_more_parameters_than_the_file_has_is_not_built(tmp_path):
    """Each layer takes time to build, also without memory for its weights."""
    path = tmp_path / "x.safetensors"
    save_model(VAE([Modality("a", (3,), params={"hidden": [4]})], latent=2), path)
    bundle = load_bundle(path)
    deep = bundle.config["modalities"][0] | {"params": {"hidden": [4] * 3000}}
    save_bundle(
        path, model_name="vae", config=bundle.config | {"modalities": [deep]}, state=bundle.state, extra={}
    )
    assert f"more parameters than the {len(bundle.state)} tensors beside it" in message(load_model, path)


def test_a_loaded_model_is_in_evaluation_mode_and_declares_its_missing_entries(tmp_path):
    path = tmp_path / "x.safetensors"
    save_model(VAE([Modality("a", (3,), entries=True)], latent=2).train(), path)
    model = load_model(path)
    assert not any(module.training for module in model.modules())
    assert model.specs == [Modality("a", (3,), entries=True)]

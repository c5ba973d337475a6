"""Files of format 1 are still read: bundles, run directories, import paths of the old layout.

The files in ``fixtures/format1`` and the numbers in its ``embeddings.json`` were written by the last commit before format 2.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

import polyvae as pv
from polyvae.config import RunConfig, read_config
from polyvae.core.networks import NETWORKS
from polyvae.models.bundles import load_bundle, migrated, read_modality
from polyvae.utils.renamed import moved

FOLDER = Path(__file__).parent / "fixtures" / "format1"
EMBEDDINGS = json.loads((FOLDER / "embeddings.json").read_text())
BUNDLES = sorted(file.stem for file in FOLDER.glob("*.safetensors"))
RUNS = {"trained": "mmvae+", "trained-idmvae": "idmvae"}
SETTINGS = {"batch_size": 16, "validation": 0.25, "lr": 0.01, "threads": 1, "device": "cpu", "show": False}


def values(rows, columns, start):
    """Fractions that every machine computes alike, so that the digest of the data is the one in the checkpoints."""
    whole = torch.arange(rows * columns) * 7919 + start
    return ((whole % 2003) / 1001.5 - 1).to(torch.float32).view(rows, columns)


def specs():
    return [pv.Modality("a", (3,), params={"hidden": [4]}), pv.Modality("b", (5,), params={"hidden": [4]})]


def batch_for(model):
    first, *_ = model.modalities
    x = values(4, 16, 5).view(4, 1, 4, 4) if first == "image" else values(4, 3, 1)
    mask = torch.tensor([[True, True, False, True], [True, False, True, True]])
    return pv.Batch.of({first: x, "b": values(4, 5, 2)}, mask)


def embedding(model):
    model.eval()
    with torch.no_grad():
        return model.embed(batch_for(model))


def agree(found, name, rtol=1e-6):
    torch.testing.assert_close(found, torch.tensor(EMBEDDINGS[name]), rtol=rtol, atol=1e-7)


def test_every_file_is_there():
    assert {*BUNDLES, *RUNS} <= set(EMBEDDINGS)
    assert {"idmvae", "cmvae", "nexus", "hmvae", "mmvaeplus", "mmvae"} <= set(BUNDLES)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_gives_the_same_embeddings(name):
    agree(embedding(pv.load_model(FOLDER / f"{name}.safetensors")), name)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_that_is_written_again_gives_the_same_embeddings(name, tmp_path):
    pv.save_model(pv.load_model(FOLDER / f"{name}.safetensors"), tmp_path / "new.safetensors")
    again = pv.load_model(tmp_path / "new.safetensors")
    agree(embedding(again), name)
    assert "polyvae.networks" not in json.dumps(load_bundle(tmp_path / "new.safetensors").config)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_directory_gives_the_same_embeddings(name):
    agree(embedding(pv.load_model(FOLDER / name)), name)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_as_it_would_have_continued(name, tmp_path):
    shutil.copytree(FOLDER / name, tmp_path / "run")
    model = pv.build(RUNS[name], specs(), latent=2)
    data = pv.MultimodalData({"a": values(64, 3, 3), "b": values(64, 5, 4)}, modalities=specs())
    history = pv.fit(model, data, out=tmp_path / "run", resume=True, epochs=3, **SETTINGS)
    assert [record["epoch"] for record in history.records] == [1, 2, 3]
    agree(embedding(model), f"{name}, resumed", rtol=1e-4)


def test_a_memory_setting_among_the_options_of_a_bundle_is_kept():
    assert pv.load_model(FOLDER / "mmvaeplus.safetensors").max_rows == 64


def test_a_memory_setting_among_the_options_of_a_configuration_is_one_of_training():
    config = read_config(FOLDER / "trained" / "config.toml")
    assert config.train.max_rows == 64
    assert "max_rows" not in config.model.options
    assert (
        read_config(FOLDER / "trained" / "config.toml", ["train.max_rows=8"]).train.max_rows == 8
    )  # the new spelling wins
    table = {"model": {"name": "mvae", "max_rows": 3}}
    assert RunConfig.check(table).train.max_rows == 3
    assert table == {"model": {"name": "mvae", "max_rows": 3}}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("polyvae.networks.mlp:mlp_encoder", "polyvae.core.networks.mlp:mlp_encoder"),
        ("polyvae.networks:NETWORKS", "polyvae.core.networks:NETWORKS"),
        ("polyvae.networksx.mlp:f", "polyvae.networksx.mlp:f"),
        ("mine.polyvae.networks:f", "mine.polyvae.networks:f"),
        ("polyvae.core.networks.mlp:mlp_encoder", "polyvae.core.networks.mlp:mlp_encoder"),
        ("polyvae.models.mmvae:MMVAE", "polyvae.models.mmvae:MMVAE"),
    ],
)
def test_import_paths_of_the_old_layout(old, new):
    assert moved(old) == new


@pytest.mark.parametrize(
    "kind", sorted(NETWORKS.keys() - {"series", "text"})
)  # which are newer than the move
def test_every_factory_is_found_under_its_old_path(kind):
    for factory in NETWORKS[kind][:2]:
        old = f"{factory.__module__}:{factory.__name__}".replace("polyvae.core.", "polyvae.")
        assert moved(old) == f"{factory.__module__}:{factory.__name__}"


def test_a_modality_with_an_old_path_is_built_and_read():
    old = "polyvae.networks.mlp:mlp_encoder"
    model = pv.MVAE([pv.Modality("a", (3,), encoder=old), pv.Modality("b", (5,))], latent=2)
    assert model.modalities["a"].encode(torch.zeros(1, 3)).z.loc.shape == (1, 2)
    assert read_modality({"name": "a", "shape": [3], "encoder": old}).encoder == moved(old)


def test_parameters_are_renamed_only_to_names_that_the_model_has():
    x, y = torch.zeros(1), torch.ones(1)
    old = {"held.nets.0.parts.told.0.weight": x, "held.prior": y}
    new = ["nets.0.parts.top_down.0.weight", "prior"]
    assert list(migrated("idmvae", old, new)) == new
    assert list(migrated("idmvae", old, list(old))) == list(old)
    assert list(migrated("mvae", old, new)) == list(old)  # no prefix is removed from other models
    assert list(migrated("hmvae", {"a.parts.told.b": x}, ["a.parts.top_down.b"])) == ["a.parts.top_down.b"]
    assert migrated("idmvae", old, new)["prior"] is y

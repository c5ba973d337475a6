"""Every model on a device beside the CPU: the same bits, no mixed devices, and as few waits of the host as possible."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import polyvae as pv
from polyvae import MODELS
from polyvae.training import loop
from polyvae.training.history import TrainingError
from tests.helpers.cases import OPTIONS
from tests.helpers.cli import SMALL, polyvae
from tests.helpers.fake_device import DEVICE, NAME, waits
from tests.helpers.on_device import results, train, trained, world
from tests.helpers.tiny import small_data, small_model

FAST = ["mvae", "mmvae+"]
EACH = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in MODELS]
EXTRA = [
    (name, options)
    for name, several in OPTIONS.items()
    for options in several[1:]
]  # fmt: skip


def options_of(name):
    return OPTIONS.get(name, [{}])[0]


def same(a, b, rounding=0.0):
    assert a.keys() == b.keys()
    for key, x in a.items():
        assert torch.equal(x, b[key]) or rounding, key
        torch.testing.assert_close(x, b[key], rtol=rounding, atol=rounding, equal_nan=True)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", EACH)
def test_training_has_the_bits_of_the_cpu_and_waits_at_most_once_a_step(name, missing):
    options = options_of(name)
    specs, data = world(name, options, missing)
    expected = train(name, options, specs, data, "cpu")
    found = train(name, options, specs, data, NAME)
    same(expected.weights, found.weights)
    assert expected.history.records[0]["train"] == found.history.records[0]["train"]
    first, *between, _ = found.waits
    assert all(len(step) <= missing for step in between), between
    assert len(first) <= missing + 1, first  # one look at the bound and the gradients
    if name in FAST or name == "meme":
        same(results(expected.model, data, "cpu"), results(found.model, data, NAME))


def test_data_in_another_order_or_without_a_modality_have_the_bits_of_the_cpu():
    """The mask that the host knows is in the order of the model, as that of the batch is."""
    specs, data = world("mmvae+", {}, missing=True)
    expected = train("mmvae+", {}, specs, data.select(*data.names), "cpu")
    turned = pv.MultimodalData(
        {name: data.values(name) for name in reversed(data.names)},
        mask=dict(zip(data.names, data.mask, strict=True)),
    )
    same(train("mmvae+", {}, specs, turned, "cpu").weights, train("mmvae+", {}, specs, turned, NAME).weights)
    fewer = data.select(*data.names[1:]).rows(data.mask[1:].any(0).nonzero()[:, 0])
    with waits():
        here = expected.model.embed(fewer.take(slice(None)))
        there = expected.model.to(DEVICE).embed(fewer.to(DEVICE).take(slice(None)))
        assert torch.equal(here, there.cpu())
    expected.model.to("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_results_have_the_bits_of_the_cpu(name, missing):
    specs, data = world(name, options_of(name), missing)
    model = pv.build(name, specs, latent=2, **options_of(name))
    same(results(model, data, "cpu"), results(model, data, NAME))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_training_in_bf16_equals_that_of_the_cpu_to_rounding(name):
    options = options_of(name)
    specs, data = world(name, options, True)
    expected, found = (
        train(name, options, specs, data, device, precision="bf16") for device in ("cpu", NAME)
    )
    same(expected.weights, found.weights, rounding=4e-3)
    assert all(len(step) <= 1 for step in found.waits[1:-1])


@pytest.mark.slow
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("name", "options"), EXTRA)
def test_options_train_to_the_bits_of_the_cpu(name, options, missing):
    specs, data = world(name, options, missing)
    expected, found = (train(name, options, specs, data, device) for device in ("cpu", NAME))
    same(expected.weights, found.weights)
    assert all(len(step) <= missing + more(options) for step in found.waits[1:-1]), found.waits[1]


def more(options):
    """Waits in a step for values that only the device knows: see "Devices" in docs/design.md."""
    recomputed = options.get("K", 1) >= 3 and options.get("objective", "elbo") != "elbo"
    return recomputed + (options.get("cross_experts") == "one")


def test_clipping_and_the_progress_line_wait_for_one_look_in_many_steps(monkeypatch):
    monkeypatch.setattr(loop, "_LOOK", 4)
    found = trained(small_model(), small_data(22), NAME, epochs=1, batch_size=2, clip=0.5, lr=1e-4).waits[:-1]
    transfers = [sum("modalities.py" in wait.where for wait in step) for step in found]
    assert max(transfers) <= 1  # of the terms to compute
    assert [len(step) - n for step, n in zip(found, transfers, strict=True)] == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0]


def test_a_bound_that_is_not_finite_is_found_at_the_next_look():
    with pytest.raises(
        TrainingError, match=r"^training: the bound is nan at step 2; the first [^\n]* is not finite"
    ):
        trained(small_model(), small_data(30), NAME, epochs=3, batch_size=10, lr=1e30)


def test_a_run_that_was_stopped_on_a_device_resumes_with_the_same_bits(tmp_path):
    data = small_data()
    whole = trained(small_model(), data, NAME, epochs=2, batch_size=20, out=tmp_path / "whole")
    trained(small_model(), data, NAME, epochs=1, batch_size=20, out=tmp_path / "part")
    part = trained(small_model(1), data, NAME, epochs=2, batch_size=20, out=tmp_path / "part", resume=True)
    same(whole.weights, part.weights)
    same(whole.weights, dict(pv.load_model(tmp_path / "part").state_dict()))
    here = trained(small_model(), data, "cpu", epochs=2, batch_size=20)
    same(here.weights, part.weights)


def test_evaluation_on_a_device_has_the_numbers_of_the_cpu(tmp_path):
    data = pv.load_dataset("polydigits", train=120, test=40).select("m0", "m1")
    torch.manual_seed(0)
    model = pv.MMVAEPlus(data.modalities(private=2), latent=2).eval()
    settings = {
        "metrics": ["latents", "likelihood", "reconstruction"],
        "likelihood_samples": 20,
        "show": False,
    }
    expected = pv.evaluate(model, data, **settings)
    with waits():
        found = pv.evaluate(model, data, device=DEVICE, **settings)
    assert next(model.parameters()).device.type == "cpu"
    assert dict(expected) == dict(found)


@pytest.mark.parametrize("command", ["evaluate", "sample", "report"])
def test_commands_refuse_a_device_that_is_not_there(command, tmp_path):
    data = small_data()
    trained(small_model(), data, "cpu", epochs=1, out=tmp_path / "run")
    done = polyvae(command, tmp_path / "run", "--device", "gpu7")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "got device='gpu7', which cannot be used" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_commands_on_a_device_give_the_results_of_the_cpu(tmp_path):
    quick = ["train.epochs=1", 'evaluate.metrics=["latents", "reconstruction"]', "model.latent=2"]
    words = [word for change in quick for word in ("--set", change)]
    run = tmp_path / "run"
    assert (
        polyvae(
            "train", "--model", "mmvae+", "--data", "polydigits", "--out", run, *SMALL, *words, "-q"
        ).returncode
        == 0
    )
    found = {}
    with waits():
        for device in ("cpu", DEVICE):
            assert polyvae("evaluate", run, "-q", "--device", device).returncode == 0
            numbers = json.loads((run / "evaluation.json").read_text())
            out = tmp_path / f"{device[:3]}.npz"
            given = ["--given", "m0", "-n", "4", "-k", "2", "--noise"]
            assert polyvae("sample", run, *given, "-o", out, "--device", device).returncode == 0
            assert polyvae("report", run, "--device", device).returncode == 0
            found[device] = numbers, dict(np.load(out))
    assert found["cpu"][0] == found[DEVICE][0]
    assert all((x == found[DEVICE][1][key]).all() for key, x in found["cpu"][1].items())


@pytest.mark.slow
def test_an_estimator_on_a_device_has_the_results_of_the_cpu(tmp_path):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(40, 2))
    X = {"a": z @ rng.normal(size=(2, 4)), "b": z @ rng.normal(size=(2, 3))}
    X["b"][::3] = np.nan
    pv.Estimator(steps=20, members=2, latent=2, seed=0, id=False).fit(X).save(tmp_path / "one.polyvae")
    found = []
    with waits():
        for device in ("cpu", DEVICE):
            estimator = pv.Estimator.load(tmp_path / "one.polyvae", device=device)
            found.append([estimator.impute(X)["b"], estimator.transform(X)])
    for here, there in zip(*found, strict=True):
        np.testing.assert_allclose(np.asarray(here), np.asarray(there), rtol=1e-5, atol=1e-6)

"""The files under experiments/: each is read, and its model built; the paper's own experiment takes its first steps on the CPU."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest
import torch

import polyvae as pv
from polyvae import runs
from polyvae.config import RunConfig, read_config, write_config
from polyvae.core.modality import Modality
from polyvae.data.sets.polymnist import NAMES

FOLDER = Path(__file__).parent.parent / "experiments"
FILES = sorted(FOLDER.glob("polymnist*.toml"))
ROOT = Path(os.environ.get("POLYVAE_DATA", ""))
needs_mnist = pytest.mark.skipif(
    not (ROOT / "mnist").is_dir(), reason="POLYVAE_DATA holds no mnist/ to compose PolyMNIST from"
)


def images() -> pv.MultimodalData:
    """What a model of PolyMNIST needs to know of its data."""
    specs = [
        Modality(name, (3, 28, 28), likelihood="laplace", network="resnet", params={"scale": 0.75})
        for name in NAMES
    ]
    return pv.MultimodalData({name: torch.zeros(2, 3, 28, 28) for name in NAMES}, modalities=specs)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_a_file_says_is_what_is_run(file: Path) -> None:
    config = read_config(file)
    assert RunConfig.check(tomllib.loads(write_config(config))) == config
    model = runs.model_of(config, images())
    said = tomllib.loads(file.read_text())
    assert {key: model.options[key] for key in said["model"] if key != "name"} == {
        k: v for k, v in said["model"].items() if k != "name"
    }
    assert [model.columns[m].stop - model.columns[m].start for m in range(5)] == [
        said["modality"][0]["private"]
    ] * 5
    scales = [net.likelihood.scale for net in model.modalities.values()]
    assert scales == pytest.approx([said["modality"][0]["params"]["scale"]] * 5)


def test_the_papers_networks_have_the_papers_size() -> None:
    """By hand: an encoder branch has a first convolution, three residual blocks (64-64, 64-128, 128-256) and two heads on 12,544 numbers;
    the decoder mirrors it on a code of 64."""

    def block(a: int, b: int) -> int:
        hidden = min(a, b)
        return 9 * a * hidden + hidden + 9 * hidden * b + b + (a * b if a != b else 0)

    branch = 3 * 9 * 64 + 64 + block(64, 64) + block(64, 128) + block(128, 256) + 12_544 * 64 + 64
    decoder = 64 * 12_544 + 12_544 + block(256, 128) + block(128, 64) + block(64, 64) + 64 * 9 * 3 + 3
    model = runs.model_of(read_config(FOLDER / "polymnist.toml"), images())
    assert sum(x.numel() for x in model.parameters()) == 5 * (
        2 * branch + decoder + 32
    )  # 32: the scales of r_m


def test_the_papers_experiment_with_birds() -> None:
    """experiments/cub.toml: latents, weights and the networks of the images; the words of the captions come from the data."""
    config = read_config(FOLDER / "cub.toml")
    assert RunConfig.check(tomllib.loads(write_config(config))) == config
    caption = Modality("caption", (32,), "sequence", params={"words": ["bird", "red"]})
    data = pv.MultimodalData(
        {"image": torch.zeros(2, 3, 64, 64), "caption": torch.tensor([[3, 1, *[0] * 30]] * 2)},
        modalities=[Modality("image", (3, 64, 64)), caption],
    )
    model = runs.model_of(config, data)
    assert [model.columns[m].stop - model.columns[m].start for m in range(2)] == [16, 16]
    assert [model.options[key] for key in ("latent", "K", "beta", "objective", "family")] == [
        48,
        10,
        1.0,
        "dreg",
        "normal",
    ]
    image, words = model.modalities["image"], model.modalities["caption"]
    assert (image.likelihood.scale, image.spec.weight * 3 * 64 * 64, words.spec.weight) == (0.01, 32, 5)
    assert words.likelihood.vocabulary.words == ("bird", "red")
    assert image.encoder.branches[0][-1].in_features == 1024


def test_the_experiment_of_what_a_caption_does_not_say() -> None:
    """experiments/unsaid.toml: the settings are read, and fit the model and the prior."""
    config = read_config(FOLDER / "unsaid.toml")
    assert RunConfig.check(tomllib.loads(write_config(config))) == config
    data = pv.load_dataset("shapes_captions", train=20, test=10, unseen=0, judges=0)
    model = runs.model_of(config, data).eval()
    assert [(net.spec.name, net.private) for net in model.modalities.values()] == [
        ("image", 4),
        ("caption", 4),
    ]
    wanted = config.evaluate.fitted_prior.model_dump(exclude={"kind", "steps", "hidden", "layers"})
    prior = pv.fit_prior(model, data.train, kind="mld", steps=1, hidden=2, layers=1, **wanted)
    assert (prior.latents, prior.design, prior.guidance) == ("each", "guided", wanted["guidance"])


@pytest.mark.slow
@pytest.mark.data
@needs_mnist
@pytest.mark.timeout(900)
def test_the_papers_experiment_takes_its_first_fifty_steps_and_is_judged(tmp_path: Path) -> None:
    """All of experiments/polymnist.toml but its size: batches of 4 (128 take a GPU), few likelihood samples."""
    settings = [
        "train.batch_size=4",
        "train.epochs=1",
        "train.device=cpu",
        "data.options.train=200",
        "data.options.test=100",
        "evaluate.likelihood_samples=20",
        "evaluate.likelihood_rows=4",
        "evaluate.draws=100",
        "evaluate.curve_seconds=none",
    ]
    config = read_config(FOLDER / "polymnist.toml", settings)
    history = runs.train_run(config, tmp_path / "run", show=False)
    assert (history.step, history.stopped) == (50, "done")
    found = runs.evaluate_run(tmp_path / "run", show=False)
    assert (
        json.loads((tmp_path / "run" / "evaluation.json").read_text())["conditional_coherence"]
        == found["conditional_coherence"]
    )
    assert found["judge_kind"]["m0"] in ("released", "trained")
    before = runs.model_of(config, runs.data_of(config)[0])
    batch = runs.data_of(config)[0].test.take(slice(0, 50))
    after = pv.load_model(tmp_path / "run")
    with torch.no_grad():
        torch.manual_seed(0)
        worse = before.eval()(batch).value.mean()
        torch.manual_seed(0)
        assert after(batch).value.mean() > worse + 100  # nats; it learns something

"""Trainings and results on the made-up device, beside those of the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

import polyvae as pv
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE
from polyvae.testing import default_worlds, example_data
from polyvae.training.loop import _Training
from tests.helpers.fake_device import DEVICE, NAME, Wait, trainable, waits

ROWS, BATCH = 32, 8


class Trained(NamedTuple):
    """A training: its weights, its history, and on the made-up device the waits of each step, the batch of the next included."""

    model: MultimodalVAE
    weights: dict[str, Tensor]
    history: pv.History
    waits: list[list[Wait]]


def world(name: str, options: dict[str, Any], missing: bool) -> tuple[list[Modality], pv.MultimodalData]:
    """Modalities that the model accepts, and data of them: complete, or with 40 % of the modalities missing."""
    torch.manual_seed(0)
    specs = list(default_worlds(lambda modalities: pv.build(name, modalities, latent=2, **options))[0])
    data = example_data(pv.build(name, specs, latent=2, **options), ROWS)
    mask = torch.ones(len(specs), ROWS, dtype=torch.bool)
    if missing:
        mask = torch.rand(len(specs), ROWS, generator=torch.Generator().manual_seed(3)) > 0.4
        first = next(m for m, spec in enumerate(specs) if spec.role != "target")
        mask[first] |= ~mask.any(0)
    return specs, pv.MultimodalData(data, mask=mask)


def train(
    name: str,
    options: dict[str, Any],
    specs: list[Modality],
    data: pv.MultimodalData,
    device: str,
    **settings: Any,
) -> Trained:
    """Train for an epoch of four steps, of which the second and the third look at no value for the history or a checkpoint."""
    torch.manual_seed(1)
    model = pv.build(name, specs, latent=2, **options)
    return trained(model, data, device, **{"epochs": 1, "batch_size": BATCH, "lr": 1e-3, **settings})


def trained(model: MultimodalVAE, data: pv.MultimodalData, device: str, **settings: Any) -> Trained:
    starts: list[int] = []
    step = _Training._step

    def spy(self: Any, *arguments: Any) -> None:
        starts.append(len(found))
        step(self, *arguments)

    with waits() as found, trainable(), mock.patch.object(_Training, "_step", spy):
        history = pv.fit(model, data, device=device, show=False, **{"precision": "fp32", **settings})
        steps = [found[a:b] for a, b in zip(starts, [*starts[1:], len(found)], strict=True)]
        weights = {key: x.cpu() for key, x in model.state_dict().items()}
    return Trained(model, weights, history, steps)


def results(model: MultimodalVAE, data: pv.MultimodalData, device: str) -> dict[str, Tensor]:
    """Embeddings, generated and sampled data, and marginal likelihoods, on the host."""
    batch, calls = data.take(slice(0, 8)), dict[str, Any]()
    calls["embed"] = lambda: {"": model.embed(batch)}
    calls["mean"] = lambda: model.generate(batch, K=2)
    calls["draw"] = lambda: model.generate(batch, K=2, sample=True)
    calls["given"] = lambda: model.generate(batch.observe(data.names[-1]), K=1)
    calls["sample"] = lambda: model.sample(3)
    if model.facts.density and model.name != "jnf":
        calls["marginal"] = lambda: model.log_marginal(batch, K=20)._asdict()
    with waits():
        model.eval().to(DEVICE if device == NAME else "cpu")
        found = {}
        for what, call in calls.items():
            torch.manual_seed(2)
            found |= {f"{what}/{key}": x.cpu() for key, x in call().items()}
        model.to("cpu")
    return found


def stored(path: Path) -> dict[str, Tensor]:
    """The weights of a run."""
    return dict(pv.load_model(path).state_dict())

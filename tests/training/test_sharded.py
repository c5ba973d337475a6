"""Weights that are divided between processes (FSDP2, ``fully_shard``): a model trains as it does in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import polyvae as pv
from polyvae.core import noise
from polyvae.testing import example_data
from tests.helpers.ranks import Found, in_processes

ROWS = 12


def trained(rank: int, count: int) -> Found:
    """Weights after three steps, each with the rows and the noise of one of ``count`` processes."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    def divided(model: torch.nn.Module, mesh: torch.distributed.DeviceMesh) -> torch.nn.Module:
        return fully_shard(model, mesh=mesh["data_parallel"])

    specs = [pv.Modality("a", (6,)), pv.Modality("b", (4,), "bernoulli")]
    torch.manual_seed(0)
    model = pv.build("mopoe", specs, latent=3).double()
    batch = pv.Batch.of(example_data(model, ROWS))
    strategy = (
        ModelParallelStrategy(divided, data_parallel_size=count, tensor_parallel_size=1)
        if count > 1
        else "auto"
    )
    fabric = Fabric(accelerator="cpu", devices=count, strategy=strategy, plugins=[LightningEnvironment()])
    fabric.launch()
    module = fabric.setup(model)
    optimiser = fabric.setup_optimizers(torch.optim.Adam(module.parameters(), lr=1e-2))
    for step in range(3):
        with noise.part(noise.Stream(step), rank, count, ROWS):
            loss = -module(batch.rows(torch.arange(ROWS)[rank::count]).to("cpu", torch.float64)).value.mean()
        optimiser.zero_grad()
        fabric.backward(loss)
        optimiser.step()
    own = dict(model.named_parameters())
    assert all(isinstance(x, DTensor) == (count > 1) for x in own.values())
    return {
        name: (x.full_tensor() if isinstance(x, DTensor) else x).detach().clone() for name, x in own.items()
    }


@pytest.mark.slow
def test_weights_that_are_divided_train_as_those_of_one_process(tmp_path: Path) -> None:
    one = trained(0, 1)
    for ended in in_processes(2, tmp_path, lambda rank: trained(rank, 2)):
        assert ended.code == 0, ended.errors
        for name, x in one.items():
            torch.testing.assert_close(ended.found[name], x, rtol=1e-9, atol=1e-10, msg=name)


def test_a_strategy_is_no_setting() -> None:
    model = pv.build("vae", [pv.Modality("a", (2,))], latent=1)
    with pytest.raises(pv.InputError, match=r"^strategy: unknown key; known: epochs, ") as caught:
        pv.fit(model, pv.MultimodalData(example_data(model, 4)), strategy="fsdp", show=False)
    assert "\n" not in str(caught.value)

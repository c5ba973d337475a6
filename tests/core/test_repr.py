"""Batches and models describe themselves in one to ten lines."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import polyvae as pv
from polyvae.testing import default_worlds
from polyvae.utils.text import counted, table


def test_a_batch_describes_itself():
    entries = torch.tensor([[True, True], [False, True], [True, True]])
    batch = pv.Batch.of(
        {"rna": torch.zeros(3, 2), "image": torch.zeros(3, 1, 8, 8, dtype=torch.uint8)},
        mask={"rna": [True, True, False]},
        entries={"rna": entries},
        labels=torch.arange(3),
        site="a",
    )
    assert repr(batch).splitlines() == [
        "Batch: 3 samples, 2 modalities, on cpu",
        "  rna    (2,)       float32  66.7 % observed, 75 % of their entries",
        "  image  (1, 8, 8)  uint8    100 % observed",
        "  extra: labels, site",
    ]
    assert repr(batch.rows(slice(0, 0))).splitlines()[0] == "Batch: 0 samples, 2 modalities, on cpu"


def test_many_modalities_fit_in_ten_lines():
    data = {f"m{m}": torch.zeros(2, 3) for m in range(30)}
    model = pv.MVAE([pv.Modality(name, 3, params={"hidden": (4,)}) for name in data], latent=2)
    for lines in (repr(pv.Batch.of(data, labels=[0, 1])).splitlines(), repr(model).splitlines()):
        assert len(lines) == 10
        assert lines[-2] == "  and 23 more"


def test_a_model_describes_itself():
    modalities = [
        pv.Modality("image", (3, 28, 28), private=3),
        pv.Modality("x", 4, encoder=lambda shape, out: nn.Linear(4, out)),
        pv.Modality("digit", 10, "categorical", role="target", private=0),
    ]
    model = pv.MMVAEPlus(modalities, latent=8, K=10, objective="dreg")
    *lines, last = repr(model).splitlines()
    assert lines == [
        "MMVAEPlus(latent=8, K=10, beta=1.0, objective='dreg')",
        "  image  (3, 28, 28)  normal       conv                       both    private 3",
        "  x      (4,)         normal       mlp, encoder user-defined  both    private 8",
        "  digit  (10,)        categorical  mlp                        target  private 0",
    ]
    assert last == f"  {sum(x.numel() for x in model.parameters()):,} parameters"


def test_torch_still_lists_all_networks():
    model = pv.MVAE([pv.Modality("a", 3), pv.Modality("b", 4)], latent=2)
    assert "Linear(in_features=3, " in repr(model.modalities)
    assert "Linear(in_features=3, " in nn.Module.__repr__(model)
    assert "subsets=1" in nn.Module.__repr__(model).splitlines()[1]
    assert "MVAE(latent=2, beta=1.0, K=1)" in repr(nn.ModuleList([model]))


@pytest.mark.parametrize("name", pv.MODELS)
def test_every_model_describes_itself(name):
    model = pv.build(name, default_worlds(pv.MODELS[name])[0])
    first, *rest, last = repr(model).splitlines()
    assert first.startswith(f"{type(model).__name__}(latent=")
    assert len(rest) == len(model.modalities)
    assert last.endswith(" parameters")


def test_columns_of_a_table_are_aligned():
    assert table([("a", "bb", "c"), ("aaa", "b", "")]) == ["  a    bb  c", "  aaa  b"]
    assert table([("a",)] * 5, most=3) == ["  a", "  a", "  and 3 more"]
    assert counted(1, "sample", "samples") == "1 sample"
    assert counted(1200, "sample", "samples") == "1,200 samples"

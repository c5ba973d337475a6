"""Runs of a configuration whose modalities are conditioned on columns of the user's own file."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import polyvae as pv
from polyvae.config import read_config
from polyvae.runs import evaluate_run, train_run

CONFIG = """
[data]
name = "cells.h5ad"
root = "{root}"
options = {{covariates = ["batch", "age"]}}

[model]
name = "mvae"
latent = 2

[[modality]]
name = "*"
covariates = ["batch", "age"]

[train]
epochs = 2
precision = "fp32"

[evaluate]
metrics = ["batches"]
"""


@pytest.mark.slow
def test_a_run_with_columns_of_obs_is_resumed_bit_for_bit(tmp_path):
    draws = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"batch": list("ab") * 40, "age": draws.normal(50, 9, 80)}, index=[f"s{i}" for i in range(80)]
    )
    anndata.AnnData(draws.normal(size=(80, 5)).astype(np.float32), obs=obs).write_h5ad(
        tmp_path / "cells.h5ad"
    )
    (tmp_path / "config.toml").write_text(CONFIG.format(root=tmp_path))
    config = read_config(tmp_path / "config.toml")
    train_run(config, tmp_path / "whole", show=False)
    first = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 1})})
    train_run(first, tmp_path / "parts", show=False)
    train_run(config, tmp_path / "parts", resume=True, show=False)
    whole, parts = (pv.load_model(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(x, parts[name]) for name, x in whole.items())
    model = pv.load_model(tmp_path / "whole")
    assert [one.name for one in model.specs[0].covariates] == ["batch", "age"]
    assert "ilisi_batch" in evaluate_run(tmp_path / "whole", show=False)

"""Runs on someone's own files, functions and data in memory: train, evaluate, report, sample, resume."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import polyvae as pv
from polyvae import runs
from polyvae.config import read_config
from tests.helpers.cli import polyvae
from tests.helpers.processes import fork_server

QUICK = ["--epochs", "1", "--set", "model.latent=2", "--set", "train.device=cpu", "-q"]
FUNCTION = """
import numpy as np
import polyvae as pv

def load():
    x = np.linspace(-1, 1, 120).reshape(60, 2)
    return pv.MultimodalData({"u": x, "v": x[:, :1] ** 2}, seed=1)
"""


def rows(names, start, stop):
    rng = np.random.default_rng(0)
    lines = [",".join(["id", *names])]
    lines += [",".join([f"s{row}", *map(str, rng.normal(size=len(names)))]) for row in range(start, stop)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rna.csv").write_text(rows("abc", 0, 60))
    (tmp_path / "protein.csv").write_text(rows("pq", 20, 80))
    (tmp_path / "own_module.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_module", raising=False)
    return tmp_path


def done(*words):
    result = polyvae(*words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_files_are_trained_on_evaluated_reported_sampled_and_resumed(folder):
    files = ["--set", 'data.options.files=["protein.csv"]']
    done("train", "--model", "mvae", "--data", "rna.csv", *files, *QUICK)
    run = folder / "runs" / "mvae-rna"
    assert read_config(run / "config.toml").data.name == "rna.csv"
    settings = ["--set", "evaluate.likelihood_samples=20", "--set", 'evaluate.metrics=["likelihood"]']
    done("evaluate", run, *settings, "-q")
    done("report", run)
    assert "rna.csv, protein.csv" in (run / "report.html").read_text()
    done("sample", run, "--given", "rna", "-n", "3", "-o", folder / "made.npz")
    assert np.load(folder / "made.npz")["protein"].shape == (1, 3, 2)
    done("sample", run, "--given", "rna", "-n", "3", "-k", "2", "-o", folder / "made")
    assert np.load(folder / "made" / "protein.npy").shape == (2, 3, 2)
    done("train", "--resume", "--out", run, "--epochs", "2", "-q")
    assert len(runs.RunDirectory(run).read_history()) >= 2
    (folder / "rna.csv").write_text(rows("abc", 0, 59))
    changed = polyvae("train", "--resume", "--out", run, "--epochs", "3", "-q")
    assert changed.returncode == 2
    assert "data" in changed.stderr


def test_a_function_needs_trust_where_a_run_names_it(folder):
    done("train", "--model", "mvae", "--data", "own_module:load", *QUICK)
    run = folder / "runs" / "mvae-own_module.load"
    for command in (["report", run], ["sample", run, "--given", "u"], ["train", "--resume", "--out", run]):
        refused = polyvae(*command)
        assert refused.returncode == 2
        assert "'own_module', which is not trusted" in refused.stderr
    done("report", run, "--trust", "own_module")
    done("train", "--resume", "--out", run, "--epochs", "2", "-q", "--trust", "own_module")


def test_functions_of_polyvae_itself_are_not_called_for_a_run(folder):
    done("train", "--model", "mvae", "--data", "own_module:load", *QUICK)
    run = folder / "runs" / "mvae-own_module.load"
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("own_module:load", "polyvae.utils.files:write_atomic"))
    refused = polyvae("report", run)
    assert refused.returncode == 2
    assert "not trusted" in refused.stderr


@pytest.mark.parametrize("splits", [False, True])
def test_a_run_on_data_in_memory_is_evaluated_when_handed_its_data(folder, splits):
    rng = np.random.default_rng(0)
    arrays = {"u": rng.normal(size=(60, 3)), "v": rng.normal(size=(60, 2))}
    data = pv.MultimodalData(arrays)
    data = data.split() if splits else data
    model = pv.MVAE(data.modalities(), latent=2)
    pv.fit(model, data, out=folder / "run", epochs=1, show=False, device="cpu")
    with pytest.raises(pv.InputError, match="pass data="):
        runs.report_run(folder / "run")
    settings = {"metrics": ["likelihood"], "likelihood_samples": 20}
    result = runs.evaluate_run(folder / "run", data=data, overrides=settings, show=False)
    assert result["rows"] == (6 if splits else 60)
    assert runs.report_run(folder / "run", data=data).is_file()
    other = pv.MultimodalData(arrays | {"u": arrays["u"] + 1e-6})
    with pytest.raises(pv.InputError, match="another digest"):
        runs.evaluate_run(folder / "run", data=other.split() if splits else other, show=False)


def test_a_study_takes_files(folder, monkeypatch):
    monkeypatch.setattr("polyvae.study.workers._SPAWN", fork_server())
    (folder / "study.toml").write_text(
        """
[study]
title = "Own files"
jobs = 1
[base]
data = { name = "rna.csv", options = { files = ["protein.csv"] } }
model = { latent = 2 }
train = { epochs = 1, device = "cpu" }
evaluate = { metrics = ["likelihood"], likelihood_samples = 20 }
[[contender]]
label = "MVAE"
model.name = "mvae"
[[contender]]
label = "MoPoE"
model.name = "mopoe"
"""
    )
    done("study", "study.toml", "--out", "out", "--seeds", "1")
    assert len(list((folder / "out").rglob("evaluation.json"))) == 2

"""Killed at any moment, whatever runs: the next command ends well, nothing that was finished is lost, and no leftover stays."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TINY = """
[data]
name = "polydigits"
options = { train = 200, test = 40 }

[model]
name = "mmvae"
latent = 2

[[modality]]
name = "*"
params = { hidden = [8] }

[train]
epochs = 3
batch_size = 20
checkpoint_every = 2
precision = "fp32"
validation = 0.0

[evaluate]
metrics = ["likelihood"]
likelihood_samples = 20
likelihood_rows = 5
"""
STUDY = """
[study]
title = "Killed"
seeds = [0, 1]
epochs = 2
columns = ["log_likelihood"]

[base]
data.options = { train = 60, test = 20 }
train = { batch_size = 20, validation = 0.0, precision = "fp32" }
evaluate = { metrics = ["likelihood"], likelihood_samples = 20, likelihood_rows = 5 }
modality = [{ name = "*", params = { hidden = [8] } }]
model.latent = 2

[[contender]]
label = "MMVAE"
model.name = "mmvae"
"""

EACH = 12  # kills of each kind


def started(folder: Path, *words: str) -> subprocess.Popen:
    """A command in a process group of its own, with the cache in ``folder``."""
    environment = os.environ | {"POLYVAE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "polyvae", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )


def killed(folder: Path, after: float, *words: str) -> None:
    """The command, and all that it started, killed after so many seconds (or when it has ended)."""
    process = started(folder, *words)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(0.2)


def ends(folder: Path, *words: str) -> None:
    process = started(folder, *words)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out


def leftovers(folder: Path) -> list[str]:
    found = [*folder.rglob("*.partial"), *folder.rglob("*.partial.*")]
    return [str(path) for path in found if path.exists()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(EACH))
def test_a_killed_training_resumes(folder, number):
    draw = random.Random(number)
    killed(folder, draw.uniform(2, 9), "train", "tiny.toml", "--out", "run")
    resumed = (folder / "run").exists()
    ends(folder, "train", "tiny.toml", "--out", "run", *(["--resume"] if resumed else []))
    assert (folder / "run" / "model.safetensors").exists()
    steps = [json.loads(line)["step"] for line in (folder / "run" / "history.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert not leftovers(folder)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(EACH))
def test_a_killed_evaluation_and_a_killed_sampling_lose_nothing(folder, number):
    draw = random.Random(number)
    ends(folder, "train", "tiny.toml", "--out", "run", "--set", "train.epochs=1")
    before = (folder / "run" / "model.safetensors").read_bytes()
    if number % 2:
        killed(folder, draw.uniform(2, 9), "evaluate", "run")
        ends(folder, "evaluate", "run")
        assert json.loads((folder / "run" / "evaluation.json").read_text())
    else:
        ends(folder, "sample", "run", "-o", "made.npz", "-n", "5")
        good = (folder / "made.npz").read_bytes()
        killed(folder, draw.uniform(2, 6), "sample", "run", "-o", "made.npz", "-n", "200")
        assert len((folder / "made.npz").read_bytes()) >= len(good)
        ends(folder, "sample", "run", "-o", "made.npz", "-n", "5")
    assert (folder / "run" / "model.safetensors").read_bytes() == before
    assert not leftovers(folder)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(EACH))
def test_a_killed_study_goes_on(folder, number):
    draw = random.Random(number)
    killed(folder, draw.uniform(3, 20), "study", "study.toml", "--out", "out", "--jobs", "2")
    ends(folder, "study", "study.toml", "--out", "out", "--jobs", "2")
    assert (folder / "out" / "study.html").exists()
    assert not leftovers(folder)

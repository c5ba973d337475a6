"""Killed at any moment, whatever runs: the next command ends well, nothing that was finished is lost, and no leftover stays."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import polyvae as pv
from polyvae.data.sets.memory import mapped
from polyvae.models.bundles import load_bundle

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

SAVING = """
import polyvae as pv

model = pv.MMVAE([pv.Modality("a", (30,)), pv.Modality("b", (20,))], latent=16)
weights = list(model.parameters())
for number in range(1, 100_000):
    for weight in weights:
        weight.data.fill_(number)
    pv.save_model(model, "model.safetensors", {"number": number})
    print(number, flush=True)
"""
COMPOSING = """
from pathlib import Path

from polyvae.data.sets.memory import mapped


def fill(arrays):
    for array in arrays.values():
        for row in range(len(array)):
            array[row] = row % 251


for number in range(100_000):
    mapped(Path("cache") / f"set-{number}", {"m0": (3000, 300), "m1": (500, 300)}, fill)
    print(number, flush=True)
"""

EACH = 12  # kills of each kind
LASTS: dict[str, float] = {}
"""Command -> seconds that it takes where it is not killed."""


def started(folder: Path, *words: str) -> subprocess.Popen:
    """A command in a process group of its own, with the cache in ``folder``."""
    environment = os.environ | {"POLYVAE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *(words if words[0] == "-c" else ["-m", "polyvae", *words])],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )


def killed(folder: Path, share: float, *words: str) -> None:
    """The command, and all that it started, killed after this share of the seconds that it takes (or when it has ended)."""
    process = started(folder, *words)
    try:
        process.wait(share * LASTS[words[0]])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(0.2)


def killed_in_its_loop(folder: Path, draw: random.Random, script: str) -> int:
    """The last number that the script wrote before it was killed, at a random moment after its first one."""
    process = started(folder, "-c", script)
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(draw.uniform(0, 0.5))
    os.killpg(process.pid, signal.SIGKILL)
    numbers = (first + process.communicate()[0]).splitlines(keepends=True)
    return int([line for line in numbers if line.endswith("\n")][-1])


def ends(folder: Path, *words: str) -> None:
    """The command ends well; the seconds of its first time are kept in LASTS."""
    start = time.monotonic()
    process = started(folder, *words)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    LASTS.setdefault(words[0], time.monotonic() - start)


def leftovers(folder: Path) -> list[str]:
    found = [*folder.rglob("*.partial"), *folder.rglob("*.partial.*")]
    return [str(path) for path in found if path.exists()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs that were trained, evaluated and reported, and a finished study."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(TINY)
    (folder / "study.toml").write_text(STUDY)
    for run in ("run", "other"):
        ends(folder, "train", "tiny.toml", "--out", run)
    ends(folder, "evaluate", "run")
    ends(folder, "evaluate", "other")
    ends(folder, "sample", "run", "-o", "made.npz", "-n", "200")
    ends(folder, "report", "run", "other", "-o", "compare.html")
    ends(folder, "report", "run")
    ends(folder, "study", "study.toml", "--out", "out", "--jobs", "1")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of the files in ``folder``, without those of the cache."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(EACH))
def test_a_killed_training_resumes(folder, finished, number):
    draw = random.Random(number)
    killed(folder, draw.uniform(0.3, 1), "train", "tiny.toml", "--out", "run")
    resumed = (folder / "run").exists()
    ends(folder, "train", "tiny.toml", "--out", "run", *(["--resume"] if resumed else []))
    for key, weight in load_bundle(folder / "run").state.items():
        torch.testing.assert_close(weight, load_bundle(finished / "run").state[key], rtol=0, atol=0)
    steps = [json.loads(line)["step"] for line in (folder / "run" / "history.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert not leftovers(folder)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(EACH))
def test_a_killed_evaluation_and_a_killed_sampling_lose_nothing(folder, finished, number):
    draw = random.Random(number)
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    before = contents(folder)
    if number % 2:
        killed(folder, draw.uniform(0.3, 1), "evaluate", "run")
        assert json.loads((folder / "run" / "evaluation.json").read_text())
        ends(folder, "evaluate", "run")
        changing = {"run/evaluation.json", "run/fitted_prior.safetensors"}
    else:
        killed(folder, draw.uniform(0.3, 1), "sample", "run", "-o", "made.npz", "-n", "200", "--seed", "1")
        with np.load(folder / "made.npz") as made:
            assert all(len(made[name]) == 200 for name in made.files)
        ends(folder, "sample", "run", "-o", "made.npz", "-n", "5")
        changing = {"made.npz"}
    after = contents(folder)
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] != before[name]} <= changing
    assert not leftovers(folder)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(EACH))
def test_a_killed_study_goes_on(folder, finished, number):
    draw = random.Random(number)
    killed(folder, draw.uniform(0.2, 1), "study", "study.toml", "--out", "out", "--jobs", "2")
    done = {path: path.read_bytes() for path in (folder / "out").rglob("evaluation.json")}
    ends(folder, "study", "study.toml", "--out", "out", "--jobs", "2")
    assert (folder / "out" / "study.html").exists()
    assert len([*(folder / "out").rglob("evaluation.json")]) == 2
    assert all(path.read_bytes() == content for path, content in done.items())
    assert not leftovers(folder)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(EACH))
def test_a_killed_report_leaves_the_page_that_was_there(folder, finished, number):
    draw = random.Random(number)
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    before = contents(folder)
    words = ("report", "run", "other", "-o", "compare.html") if number % 2 else ("report", "run")
    killed(folder, draw.uniform(0.3, 1), *words)
    page = folder / ("compare.html" if number % 2 else "run/report.html")
    assert page.read_text().rstrip().endswith("</html>")
    ends(folder, *words)
    after = contents(folder)
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] != before[name]} <= {str(page.relative_to(folder))}
    assert not leftovers(folder)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(EACH))
def test_a_killed_save_leaves_a_whole_model_of_one_moment(folder, number):
    last = killed_in_its_loop(folder, random.Random(number), SAVING)
    path = folder / "model.safetensors"
    bundle = load_bundle(path)
    saved = bundle.extra["number"]
    assert saved in (last, last + 1)
    assert all(
        bool((bundle.state[name] == saved).all()) for name in dict(pv.load_model(path).named_parameters())
    )
    pv.save_model(pv.load_model(path), path)
    assert [entry.name for entry in folder.iterdir() if entry.suffix != ".toml"] == [path.name]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(EACH))
def test_killed_composing_leaves_whole_arrays_only(folder, number):
    last = killed_in_its_loop(folder, random.Random(number), COMPOSING)
    made = [path for path in (folder / "cache").iterdir() if not path.name.startswith(".")]
    assert len(made) in (last + 1, last + 2)
    for path in made:
        for name, rows in (("m0", 3000), ("m1", 500)):
            array = np.load(path / f"{name}.npy")
            assert array.shape == (rows, 300)
            assert (array == (np.arange(rows) % 251)[:, None]).all()
    mapped(
        folder / "cache" / "set-0",
        {"m0": (3000, 300), "m1": (500, 300)},
        lambda arrays: pytest.fail("composed again"),
    )
    assert not leftovers(folder)

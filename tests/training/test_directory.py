"""A run directory has one writer, and a resumed run is the run that was begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import polyvae as pv
from polyvae.training.checkpoints import Checkpoints
from polyvae.training.directory import RunDirectory
from polyvae.utils.locks import only_writer
from tests.helpers.tiny import small_data, small_model

SETTINGS: dict[str, Any] = {
    "batch_size": 7,
    "show": False,
    "checkpoint_every": 3,
    "lr": 1e-2,
    "precision": "fp32",
}


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


# ---- one writer --------------------------------------------------------------------------------------------------------------------

HOLD = """
import multiprocessing, sys, time
from pathlib import Path
from polyvae.utils.locks import only_writer
with only_writer(Path(sys.argv[1])):
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(20,), daemon=True).start()
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_and_a_killed_owner_keeps_nothing(tmp_path: Path) -> None:
    """Nor do its children, such as the workers of a DataLoader, which outlive it for a while."""
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=1, **SETTINGS)
    before = contents(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        for how in ({"resume": True}, {"force": True}):
            with pytest.raises(
                pv.InputError,
                match=rf"^{tmp_path}: got a directory that process {owner.pid} is writing to; expected one",
            ):
                pv.fit(small_model(), small_data(), out=tmp_path, epochs=2, **how, **SETTINGS)
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
        assert {name: file for name, file in contents(tmp_path).items() if name != ".lock"} == before
        assert pv.fit(small_model(), small_data(), out=tmp_path, epochs=2, resume=True, **SETTINGS).step > 0
        os.killpg(owner.pid, signal.SIGKILL)
    assert not (tmp_path / ".lock").exists()


def test_a_second_training_in_the_same_process_is_refused(tmp_path: Path) -> None:
    """From within a watch; and the lock is free after a training that failed."""
    errors = []

    def watch(model: pv.MultimodalVAE, record: dict[str, Any]) -> None:
        for how in ({"resume": True}, {"force": True}):
            with pytest.raises(pv.InputError, match=rf"that process {os.getpid()} is writing to") as caught:
                pv.fit(small_model(), small_data(), out=tmp_path / "run", epochs=1, **how, **SETTINGS)
            errors.append(caught.value)

    pv.fit(small_model(), small_data(), out=tmp_path / "run", epochs=1, watch=watch, **SETTINGS)
    assert len(errors) == 2

    def fail(model: pv.MultimodalVAE, record: dict[str, Any]) -> None:
        raise OSError

    with pytest.raises(OSError):
        pv.fit(
            small_model(), small_data(), out=tmp_path / "run", epochs=2, resume=True, watch=fail, **SETTINGS
        )
    pv.fit(small_model(), small_data(), out=tmp_path / "run", epochs=2, resume=True, **SETTINGS)


def test_a_refused_new_run_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(pv.InputError, match="not a run"):
        pv.fit(small_model(), small_data(), out=tmp_path, epochs=1, **SETTINGS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_a_lock_that_is_left_over_is_taken_and_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("999999999\n")
    pv.fit(small_model(), small_data(), out=tmp_path / "run", epochs=1, **SETTINGS)
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(pv.InputError), only_writer(tmp_path / "run"):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"


# ---- a run continues as the run that it is -----------------------------------------------------------------------------------------


def test_modalities_in_another_order_are_refused(tmp_path: Path) -> None:
    data = small_data()

    def model(*names: str) -> pv.MMVAEPlus:
        torch.manual_seed(0)
        return pv.MMVAEPlus([pv.Modality(name, (2,), params={"hidden": [4]}) for name in names], latent=2)

    same = pv.MultimodalData(
        {"a": data.take(slice(None)).data["b"], "b": data.take(slice(None)).data["b"] + 1}
    )
    pv.fit(model("a", "b"), same, out=tmp_path, epochs=1, **SETTINGS)
    before = contents(tmp_path)
    with pytest.raises(
        pv.InputError, match=r"^resume: got modalities=\['b', 'a'\]; expected \['a', 'b'\], as the run began"
    ):
        pv.fit(model("b", "a"), same, out=tmp_path, epochs=2, resume=True, **SETTINGS)
    with pytest.raises(pv.InputError, match=r"^resume: got modalities=\['a', 'c'\]; expected"):
        pv.fit(
            model("a", "c"),
            pv.MultimodalData({"a": torch.zeros(60, 2)}),
            out=tmp_path,
            epochs=2,
            resume=True,
            **SETTINGS,
        )
    assert contents(tmp_path) == before


def test_a_run_that_used_its_time_is_left_as_it_is_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SETTINGS | {"epochs": 50}
    first = pv.fit(small_model(), small_data(), out=tmp_path, max_seconds=1e-9, **settings)
    assert (first.stopped, first.step) == ("time", 1)
    run = RunDirectory(tmp_path)
    for path in (run.evaluation, run.report, run.fitted_prior):
        path.write_text("{}")
    before = contents(tmp_path)
    model = small_model(seed=4)
    again = pv.fit(
        model, small_data(), out=tmp_path, resume=True, max_seconds=1e-9, **(settings | {"show": True})
    )
    assert (again.stopped, again.step) == ("time", 1)
    shown = " ".join(capsys.readouterr().err.split())
    assert (
        "the run has used its max_seconds=1e-09, so nothing is changed; a larger max_seconds continues it"
        in shown
    )
    after = contents(tmp_path)
    assert {name: data for name, (data, _) in after.items()} == {
        name: data for name, (data, _) in before.items()
    }
    unchanged = {name for name in before if before[name] == after[name]}
    assert {"model.safetensors", "evaluation.json", "report.html", "fitted_prior.safetensors"} <= unchanged
    for one, other in zip(
        model.state_dict().values(), pv.load_model(tmp_path).state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    more = Checkpoints(tmp_path / "checkpoints").load()[1]["elapsed"] + 1e-9
    longer = pv.fit(small_model(), small_data(), out=tmp_path, resume=True, max_seconds=more, **settings)
    assert longer.step == 2
    assert not run.evaluation.exists()


def test_a_run_killed_before_its_model_was_written_drops_what_describes_the_older_one(tmp_path: Path) -> None:
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=1, **SETTINGS)
    run = RunDirectory(tmp_path)
    older = run.model.read_bytes()
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=2, resume=True, **SETTINGS)
    newer = run.model.read_bytes()
    run.model.write_bytes(older)  # as if it had been killed after the last checkpoint
    run.write_json("evaluation.json", {"conditional_coherence": 0.9})
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=2, resume=True, **SETTINGS)
    assert run.model.read_bytes() == newer
    assert not run.evaluation.exists()


def test_the_pointer_decides_which_checkpoint_is_latest(tmp_path: Path) -> None:
    """Between a checkpoint and its pointer the older one is the latest."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, {"x": torch.tensor(float(step))}, {"step": step})
    (tmp_path / "latest").write_text("step-000000001.safetensors\n")
    assert checkpoints.load()[1] == {"step": 1}
    path = checkpoints.latest()
    assert path is not None
    assert path.name == "step-000000001.safetensors"


# ---- several threads ---------------------------------------------------------------------------------------------------------------


def test_trainings_in_threads_equal_those_one_after_the_other(tmp_path: Path) -> None:
    """torch's generator and number of threads belong to the process; trainings wait for one another."""
    alone, together = [small_model(seed) for seed in range(3)], [small_model(seed) for seed in range(3)]
    settings = {"epochs": 3, **SETTINGS}
    for seed, model in enumerate(alone):
        pv.fit(model, small_data(), seed=seed, threads=1, **settings)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    jobs = [
        threading.Thread(
            target=pv.fit, args=(model, small_data()), kwargs={"seed": seed, "threads": 1, **settings}
        )
        for seed, model in enumerate(together)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    for one, other in zip(alone, together, strict=True):
        for x, y in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(x, y)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)

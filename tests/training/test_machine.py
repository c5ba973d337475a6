"""What a training takes from the machine: threads, devices, precision; and what it prints."""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import polyvae as pv
from polyvae.config import TrainConfig, read_config
from polyvae.runs import DEMO
from polyvae.training import machine, precision, processes
from polyvae.training.checkpoints import Checkpoints
from polyvae.training.machine import check_machine
from polyvae.training.precision import choose, native_bf16
from polyvae.training.processes import Launch, is_first, share_of_cores
from polyvae.utils import progress
from tests.helpers.tiny import small_data, small_model

SETTINGS: dict[str, Any] = {"batch_size": 7, "show": False, "lr": 1e-2, "device": "cpu"}


def asked(**settings: Any) -> TrainConfig:
    return TrainConfig.check(settings)


def test_more_threads_than_processors_are_one_line() -> None:
    with pytest.raises(
        pv.InputError, match=rf"^fit: got threads=1000000; expected at most {os.cpu_count()}, the processors"
    ):
        pv.fit(small_model(), small_data(), epochs=1, threads=10**6, **SETTINGS)
    check_machine(asked(threads=os.cpu_count()))


def test_more_devices_than_there_are_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        pv.InputError, match=rf"^fit: got devices=1000 of kind 'cpu'; expected at most {os.cpu_count()}"
    ):
        pv.fit(small_model(), small_data(), epochs=1, devices=1000, **SETTINGS)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(pv.InputError, match="got devices=4 of kind 'cuda'; expected at most 3"):
        check_machine(asked(devices=4, device="cuda"))
    with pytest.raises(pv.InputError, match="got devices=2 of kind 'mps'; expected at most 1"):
        check_machine(asked(devices=2, device="mps"))


def test_several_devices_require_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process runs the program again, which a notebook and python -c do not have as a file."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "script.py", raising=False)
    monkeypatch.setattr(sys, "argv", [__file__])
    check_machine(asked(devices=2, device="cpu"))
    refused = r"^fit: got devices=2 in a notebook, an interactive session or python -c; expected a script"
    with monkeypatch.context() as patch:
        patch.delattr(sys.modules["__main__"], "__file__")
        with pytest.raises(pv.InputError, match=refused):
            check_machine(asked(devices=2, device="cpu"))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["-"])  # python - < script.py
        with pytest.raises(pv.InputError, match=refused):
            check_machine(asked(devices=2, device="cpu"))
    monkeypatch.setattr(machine.multiprocessing, "parent_process", lambda: object())
    with pytest.raises(pv.InputError, match="in a process of multiprocessing"):
        check_machine(asked(devices=2, device="cpu"))


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}


@pytest.mark.parametrize(
    ("by", "environment"),
    [
        ("torchrun", TORCHRUN),
        ("srun", SRUN | {"SLURM_NTASKS_PER_NODE": "2"}),
        ("an earlier fit", {"LOCAL_RANK": "0", "WORLD_SIZE": "4"}),
    ],
)
def test_devices_are_the_processes_that_were_started(
    monkeypatch: pytest.MonkeyPatch, by: str, environment: dict[str, str]
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    check_machine(asked(devices=4, device="cpu"))
    for devices in (1, 2, 8):
        with pytest.raises(
            pv.InputError,
            match=rf"^fit: got devices={devices} in one of 4 processes of {by}; expected the same number; set devices=4",
        ):
            check_machine(asked(devices=devices, device="cpu"))
    assert is_first() == (by == "an earlier fit")
    assert share_of_cores(asked(devices=4)) == (1 if by == "an earlier fit" else 2)


def test_the_variables_of_processes_last_as_long_as_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that is started afterwards is none of the processes; a second training has them again."""
    monkeypatch.setattr(processes, "_group", {})
    for name in processes._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_PORT", "4321")  # the user's choice stays
    before, started = dict(os.environ), {"LOCAL_RANK": "0", "WORLD_SIZE": "2", "NODE_RANK": "0"}
    with processes.variables():
        os.environ |= started | {processes._LEADER: str(os.getpid())}  # what Fabric and the guard do
    assert dict(os.environ) == before
    assert Launch.found() == ("fit", 2, 2)
    assert is_first()
    with processes.variables():
        assert {name: os.environ[name] for name in started} == started
    assert dict(os.environ) == before


def test_a_script_that_one_of_the_processes_starts_is_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that ``fit`` started have its variables from their beginning to their end."""
    for name, value in {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert Launch.found() == ("fit", 2, 2)  # also where the process that started it is gone
    monkeypatch.setenv(processes._MEMBER, str(os.getpid()))
    assert Launch.found() == ("fit", 2, 2)
    with processes.variables():
        assert os.environ["LOCAL_RANK"] == "1"
    monkeypatch.setenv(processes._MEMBER, str(os.getppid()))
    assert Launch.found() == ("", 1, 1)
    before = dict(os.environ)
    with processes.variables():
        assert not {"LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"} & os.environ.keys()
    assert dict(os.environ) == before


def test_processes_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(sys, "argv", [__file__])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    check_machine(asked(devices=2, device="cpu", threads=2))
    with pytest.raises(
        pv.InputError,
        match=r"^fit: got threads=3 for each of 2 processes; expected at most 2, the processors",
    ):
        check_machine(asked(devices=2, device="cpu", threads=3))
    assert share_of_cores(asked(devices=3, device="cpu")) == 1


def test_a_job_of_slurm_runs_one_process_unless_srun_starts_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fabric alone would wait for tasks that nothing starts."""
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert Launch.found() == ("", 1, 1)
    check_machine(asked(devices=1, device="cpu"))
    assert machine.fabric_of(small_model(), asked(device="cpu"), None)[0].world_size == 1
    for key, value in SRUN.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(pv.InputError, match=r"without --ntasks-per-node; .* add --ntasks-per-node=2"):
        check_machine(asked(devices=4, device="cpu"))


# ---- precision ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("native", "chosen"), [(False, "fp32"), (True, "bf16")])
def test_auto_is_what_the_machine_has(monkeypatch: pytest.MonkeyPatch, native: bool, chosen: str) -> None:
    monkeypatch.setattr(precision, "native_bf16", lambda: native)
    assert choose(small_model(), asked(), "cpu")[0] == chosen
    for supported, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, s=supported: s)
        assert choose(small_model(), asked(), "cuda")[0] == expected
    assert choose(small_model(), asked(), "mps")[0] == "fp32"
    for given in ("fp32", "bf16", "fp64"):
        assert choose(small_model(), asked(precision=given), "cpu", "bf16") == (given, "")
    assert choose(small_model(), asked(), "cpu", "bf16")[0] == "bf16"
    assert choose(small_model().double(), asked(), "cpu")[0] == "fp64"
    assert choose(small_model().double(), asked(precision="fp32"), "cpu")[0] == "fp64"


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ("flags : fpu avx512f avx512_bf16", True),
        ("flags : amx_bf16 amx_tile", True),
        ("flags : avx2 avx512f", False),
    ],
)
def test_the_instructions_of_the_processor_decide(
    monkeypatch: pytest.MonkeyPatch, flags: str, native: bool
) -> None:
    """Not a measured time, with which the same command would train differently beside other work."""
    monkeypatch.setattr(Path, "read_text", lambda path: flags)
    assert native_bf16.__wrapped__() == native


def test_auto_is_the_default_and_what_was_chosen_is_recorded_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert TrainConfig().precision == "auto"
    assert read_config(DEMO).train.precision == "auto"
    monkeypatch.setattr(precision, "native_bf16", lambda: True)
    shown = SETTINGS | {"show": True}
    history = pv.fit(small_model(), small_data(), out=tmp_path, epochs=1, **shown)
    printed = capfd.readouterr().err
    assert "precision bf16 (the CPU has bf16)" in printed
    assert "Automatic Mixed Precision" not in printed
    assert [record["precision"] for record in history.records] == ["bf16"]
    assert read_config(tmp_path / "config.toml").train.precision == "auto"
    assert Checkpoints(tmp_path / "checkpoints").load()[1]["precision"] == "bf16"
    monkeypatch.setattr(precision, "native_bf16", lambda: False)  # another machine
    history = pv.fit(small_model(), small_data(), out=tmp_path, epochs=2, resume=True, **shown)
    assert "precision bf16 (as the run began)" in capfd.readouterr().err
    assert [record["precision"] for record in history.records] == ["bf16", "bf16"]
    with pytest.raises(
        pv.InputError, match=r"^resume: got train\.precision='fp32'; expected 'bf16', as the run began"
    ):
        pv.fit(small_model(), small_data(), out=tmp_path, epochs=3, resume=True, precision="fp32", **SETTINGS)
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=3, resume=True, precision="bf16", **SETTINGS)


def test_a_run_that_was_begun_in_a_given_precision_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=1, precision="fp32", **SETTINGS)
    monkeypatch.setattr(precision, "native_bf16", lambda: True)
    history = pv.fit(small_model(), small_data(), out=tmp_path, epochs=2, resume=True, **SETTINGS)
    assert [record["precision"] for record in history.records] == ["fp32", "fp32"]
    assert read_config(tmp_path / "config.toml").train.precision == "fp32"


# ---- progress ----------------------------------------------------------------------------------------------------------------------


def test_a_log_shows_the_first_epoch_and_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(
        progress.time, "monotonic", lambda: float(next(clock))
    )  # a second passes at every look
    history = pv.fit(
        small_model(), small_data(), out=tmp_path, epochs=2, precision="fp32", **(SETTINGS | {"show": True})
    )
    lines = capsys.readouterr().err.splitlines()
    steps = [line for line in lines if line.startswith("training mmvae+: ")]
    assert int(steps[0].split()[2]) <= 2  # of the first epoch
    assert "left bound -" in steps[0]
    text = " ".join(lines)
    assert f"mmvae+: done at step {history.step} after 2 epochs and " in text
    assert f"validation bound {history.records[-1]['validation']['bound']:.2f}; written to" in text


def test_lines_come_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.reporter(True) as report:
        report.start("x", 100_000)
        times = []
        for _ in range(6000):  # ten minutes
            now[0] += 0.1
            report.advance(note="")
            if capsys.readouterr().err:
                times.append(now[0])
    assert times[0] < 1.2
    assert max(b - a for a, b in pairwise(times)) < 10.2
    assert len(times) < 100

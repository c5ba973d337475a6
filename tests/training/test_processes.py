"""A training by several processes: it is that of one process, it ends where one of them ends, and it resumes with another number."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen, run
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

import polyvae as pv
from polyvae.core import noise
from polyvae.core.modality import Modality
from polyvae.data.loaders import SliceLoader, StreamLoader
from polyvae.testing import default_worlds, example_data
from polyvae.training.checkpoints import Checkpoints
from tests.helpers.ranks import Ended, Found, in_processes
from tests.helpers.tiny import small_data, small_model

SETTINGS: dict[str, Any] = {"device": "cpu", "show": False, "lr": 1e-2, "precision": "fp32"}
ROWS, HELD = 24, 13
COUPLED = {"idmvae", "mfm", "mmvae-contrastive"}
"""Models whose terms couple the samples that a process has in a step."""


def world(name: str, absent: int | None = None) -> tuple[list[Modality], pv.MultimodalData]:
    """Modalities and data; with ``absent``, the second of so many processes never has the last modality that is decoded."""
    torch.manual_seed(0)
    specs = list(default_worlds(lambda modalities: pv.build(name, modalities, latent=2))[0])
    data = pv.MultimodalData(example_data(pv.build(name, specs, latent=2), ROWS))
    if absent is None or len(specs) == 1:
        return specs, data
    mask = torch.ones(len(specs), ROWS, dtype=torch.bool)
    last = max(m for m, spec in enumerate(specs) if spec.role != "input")
    mask[last, SliceLoader(data, 1).order(0)[1::absent]] = False
    return specs, pv.MultimodalData({one: data.values(one) for one in data.names}, mask=mask)


def trained(name: str, absent: int | None, devices: int, batch: int = 12) -> Found:
    """What a training of an epoch computes: weights, and the history."""
    specs, data = world(name, absent)
    torch.manual_seed(1)
    model = pv.build(name, specs, latent=2).double()
    given = SETTINGS | {"precision": "fp64", "batch_size": batch // devices, "epochs": 1, "lr": 1e-3}
    held = data.rows(slice(0, HELD))
    history = pv.fit(model, data, validation=0, validation_data=held, devices=devices, **given)
    found = {f"{name}.{absent}.{key}": x.clone() for key, x in model.state_dict().items()}
    for part in ("train", "validation"):
        for term, value in history.records[0][part].items():
            found[f"{name}.{absent}.{part}.{term}"] = torch.tensor(value, dtype=torch.float64)
    return found


def check_equal(one: Found, several: list[Ended]) -> None:
    for ended in several:
        assert ended.code == 0, ended.errors
        assert ended.found.keys() == one.keys()
        for key, x in one.items():
            # The bound and its terms leave the model in single precision.
            single = ".train." in key or ".validation." in key
            torch.testing.assert_close(
                ended.found[key], x, rtol=1e-5 if single else 1e-9, atol=1e-5 if single else 1e-10, msg=key
            )


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """The noise of a sample is that of one process with the whole batch; a modality may be absent in one of them."""
    names = ["mmvae+", "mvae", "hmvae"]  # a mixture, a product, a hierarchy

    def trainings(devices: int) -> Found:
        found = [trained(name, absent, devices) for name in names for absent in (None, 2)]
        return {key: x for one in found for key, x in one.items()}

    check_equal(trainings(1), in_processes(2, tmp_path, lambda rank: trainings(2)))


@pytest.mark.soak
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", [name for name in pv.MODELS if name not in COUPLED])
def test_several_processes_train_as_one(name: str, count: int, tmp_path: Path) -> None:
    for absent in (None, count):
        one = trained(name, absent, 1)
        check_equal(one, in_processes(count, tmp_path, lambda rank, a=absent: trained(name, a, count)))


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(COUPLED))
def test_models_that_couple_samples_train(name: str, tmp_path: Path) -> None:
    """Their processes agree; what they compute is that of smaller batches, and so not that of one process."""
    several = in_processes(2, tmp_path, lambda rank: trained(name, 2, 2))
    check_equal(several[0].found, several)


def test_rows_that_do_not_divide_are_counted_once_in_validation_and_evaluation(tmp_path: Path) -> None:
    def numbers(devices: int) -> Found:
        model, data = small_model(), small_data()
        given = SETTINGS | {"batch_size": 8 // devices, "epochs": 1}
        history = pv.fit(
            model, data.rows(slice(0, 40)), validation_data=data.rows(slice(40, 57)), devices=devices, **given
        )
        result = pv.evaluate(model, data.rows(slice(40, 57)), metrics=["likelihood"], show=False, draws=20)
        filled = model.generate(data.take(slice(40, 57)).observe("a"))["b"]
        bound = torch.tensor(history.records[0]["validation"]["bound"])
        likelihood = torch.tensor([value for value in flat(dict(result)) if value == value])
        return {"bound": bound, "likelihood": likelihood, "filled": filled}

    one = numbers(1)
    for ended in in_processes(2, tmp_path, lambda rank: numbers(2)):
        assert ended.code == 0, ended.errors
        for key, x in one.items():
            torch.testing.assert_close(ended.found[key], x, rtol=1e-4, atol=1e-4)


def flat(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for one in value.values() for number in flat(one)]
    return [float(value)] if isinstance(value, float) else []


def test_a_stream_gives_each_process_its_share(tmp_path: Path) -> None:
    """Of 45 samples one process has 12 + 11 in its steps, the other 12 + 10: the loss is the mean over samples."""
    data = small_data(45)

    class Rows(Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
            return {name: data.values(name)[row] for name in data.names}

    def stream(rank: int, count: int) -> StreamLoader:
        rows = [*range(rank, len(data), count)]
        return StreamLoader(DataLoader(Subset(Rows(), rows), batch_size=24 // count), size=len(data))

    def train(loader: StreamLoader, devices: int) -> Found:
        torch.manual_seed(0)
        model = pv.build("mvtcae", data.modalities(params={"hidden": [4]}), latent=2)
        # Noise is not shared, because shares may differ; here there is none.
        with mock.patch.object(noise, "normal", lambda shape, like, name, axes: like.new_zeros(shape)):
            history = pv.fit(model, loader, epochs=2, devices=devices, **SETTINGS)
        return {"bound": torch.tensor(history.records[1]["train"]["bound"]), **weights(model)}

    def both(rank: int) -> Found:
        with pytest.raises(pv.InputError, match=r"^fit: got the same first batch in several of 2 processes"):
            train(stream(0, 1), 2)
        return {}

    one = train(stream(0, 1), 1)
    for ended in in_processes(2, tmp_path, lambda rank: train(stream(rank, 2), 2)):
        assert ended.code == 0, ended.errors
        for key, x in one.items():
            torch.testing.assert_close(ended.found[key], x, rtol=1e-4, atol=1e-5)
    for ended in in_processes(2, tmp_path, both):
        assert ended.code == 0, ended.errors


# ---- one of them ends --------------------------------------------------------------------------------------------------------------


def breaking(who: int, how: Callable[[], None]) -> Callable[[int], None]:
    def work(rank: int) -> None:
        def watch(model: Any, record: Any) -> None:
            if rank == who and record["epoch"] == 2:
                how()

        pv.fit(small_model(), small_data(), epochs=10**6, batch_size=30, devices=2, watch=watch, **SETTINGS)

    return work


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def failed() -> None:
    raise KeyError("its own")


@pytest.mark.parametrize(
    ("who", "how"), [(0, killed), (1, failed), pytest.param(1, killed, marks=pytest.mark.slow)]
)
def test_all_end_within_seconds_where_one_ends(who: int, how: Callable[[], None], tmp_path: Path) -> None:
    ended = in_processes(2, tmp_path, breaking(who, how))
    other = ended[1 - who]
    assert ended[who].code == (-signal.SIGKILL if how is killed else 1)
    assert other.code == 1
    assert other.seconds - ended[who].seconds < 5
    assert "training: another process of this training ended; expected all of them to finish" in other.errors
    assert ("KeyError: 'its own'" in ended[who].errors) == (how is failed)


def test_an_error_in_one_is_raised_in_all(tmp_path: Path) -> None:
    """Here one has other data, as where a script draws them without a seed, and one cannot write its directory."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "other.txt").write_text("not a run")

    def ctrl_c(model: Any, record: Any) -> None:
        if os.environ["LOCAL_RANK"] == "1":
            os.kill(os.getpid(), signal.SIGINT)

    def work(rank: int) -> None:
        with pytest.raises(pv.InputError, match=r"^fit: got data with digest '.*expected the same in all"):
            pv.fit(small_model(), small_data(60 - rank), epochs=1, devices=2, **SETTINGS)
        with pytest.raises(pv.InputError, match="got something that is not a run"):
            pv.fit(small_model(), small_data(), epochs=1, devices=2, out=tmp_path / "run", **SETTINGS)
        # They are still together, and stop together.
        history = pv.fit(small_model(), small_data(), epochs=10**6, devices=2, watch=ctrl_c, **SETTINGS)
        assert history.stopped == "interrupted"

    for ended in in_processes(2, tmp_path, work):
        assert ended.code == 0, ended.errors


# ---- resumed -----------------------------------------------------------------------------------------------------------------------


def weights(model: torch.nn.Module) -> Found:
    return {key: x.clone() for key, x in model.state_dict().items()}


class Full(Exception):
    pass


def stop_after(epochs: int) -> Callable[[Any, Any], None]:
    def watch(model: Any, record: Any) -> None:
        if record["epoch"] == epochs:
            raise Full

    return watch


def test_a_run_resumes_with_another_number_of_processes(tmp_path: Path) -> None:
    """In the last of six steps of an epoch, whose means are of all its rows."""
    out, data = tmp_path / "run", small_data(48)
    given = SETTINGS | {"validation": 0, "checkpoint_every": 5}
    whole = small_model()
    expected = pv.fit(whole, data, epochs=3, batch_size=8, **given).records
    with pytest.raises(Full):
        pv.fit(small_model(), data, epochs=1, batch_size=8, out=out, watch=stop_after(1), **given)

    def same(rank: int) -> Found:
        """The steps have the samples that they had."""
        model = small_model()
        history = pv.fit(model, data, epochs=2, batch_size=4, devices=2, out=out, resume=True, **given)
        assert history.resumed == 5
        for record, other in zip(history.records, expected, strict=False):
            assert record["step"] == other["step"]
            assert record["train"]["bound"] == pytest.approx(other["train"]["bound"], rel=1e-4)
        return weights(model)

    for ended in in_processes(2, tmp_path, same):
        assert ended.code == 0, ended.errors
    text = (out / "history.jsonl").read_text()
    assert (
        "2 processes from here on (before: 1): a step has 8 samples as before, in the same order of rows"
        in text
    )
    again = small_model()
    pv.fit(again, data, epochs=3, batch_size=8, devices=1, out=out, resume=True, **given)
    for key, x in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], x, rtol=1e-4, atol=1e-5)


def test_a_run_resumes_with_steps_of_another_size(tmp_path: Path) -> None:
    """In the middle of an epoch, whose remaining rows follow; the numbers of the steps rise further."""
    out, data, seen = tmp_path / "run", small_data(48), []
    given = SETTINGS | {"validation": 0, "checkpoint_every": 1}

    with pytest.raises(Full):
        pv.fit(small_model(), data, epochs=4, batch_size=8, out=out, watch=stop_after(2), **given)
    step = Checkpoints(out / "checkpoints").load()[1]["step"]
    assert step == 11  # the fifth of six in the second epoch is stored

    def bigger(rank: int) -> Found:
        model = small_model()
        history = pv.fit(model, data, epochs=4, devices=2, out=out, resume=True, **given)
        return {"steps": torch.tensor([record["step"] for record in history.records])}

    for ended in in_processes(2, tmp_path, bigger):
        assert ended.code == 0, ended.errors
        # 40 rows were taken, which are two steps of 16 and half of a third; one more ends this epoch, and three each the others.
        seen.append(ended.found["steps"].tolist())
    assert seen == [[6, 12, 15, 18]] * 2
    text = (out / "history.jsonl").read_text()
    assert "a step has 16 samples (before: 8) and an epoch 3 steps (before: 6)" in text
    assert "8 rows of epoch 2 are taken again; batch_size=4 would keep the size of a step" in text
    with pytest.raises(pv.InputError, match=r"^resume: got train\.lr"):
        pv.fit(small_model(), data, epochs=5, out=out, resume=True, **(given | {"lr": 1.0}))


# ---- as schedulers and users start them -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_tasks_of_srun_train_together(nodes: int, tmp_path: Path) -> None:
    """With the variables that srun sets; on two machines, here both are this one."""
    one = trained("mvae", None, 1)

    def task(rank: int) -> Found:
        del os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"]
        local = {"PROCID": rank, "LOCALID": rank % (2 // nodes), "NODEID": rank // (2 // nodes)}
        shared = {
            "NTASKS": 2,
            "STEP_NUM_TASKS": 2,
            "STEP_NUM_NODES": nodes,
            "NTASKS_PER_NODE": 2 // nodes,
            "NNODES": nodes,
        }
        os.environ |= {f"SLURM_{key}": str(value) for key, value in (local | shared).items()}
        return trained("mvae", None, 2)

    check_equal(one, in_processes(2, tmp_path, task))


SCRIPT = """
import os, subprocess, sys, torch, polyvae as pv
mode, rank = sys.argv[1], os.environ.get("LOCAL_RANK")
if mode == "early" and rank == "1":
    raise RuntimeError("before fit")
draws = torch.Generator().manual_seed(5)
x = torch.randn(60, 3, generator=draws)
data = pv.MultimodalData({"a": x, "b": x[:, :2] + torch.randn(60, 2, generator=draws)})
torch.manual_seed(0)
def watch(model, record):
    if mode == "killed" and os.environ["LOCAL_RANK"] == "1":
        os.kill(os.getpid(), 9)
model = pv.MVAE(data.modalities(), latent=2)
history = pv.fit(model, data, epochs=2, batch_size=8, devices=int(sys.argv[2]), device="cpu", watch=watch, show=False)
bound = round(history.records[-1]["validation"]["bound"], 4)
sys.stdout.write(f"rank {rank or '0'} {bound} {torch.get_num_threads()}\\n")  # at once, as the other process writes too
sys.stdout.flush()
if mode == "again":
    again = pv.fit(pv.MVAE(data.modalities(), latent=2), data, epochs=1, devices=2, device="cpu", show=False)
    alone = [sys.executable, sys.argv[0], "none", "1"]
    done = subprocess.run(alone, capture_output=True, text=True)
    sys.stdout.write(f"again {again.stopped} alone {done.returncode} {done.stdout.split()} {done.stderr.strip()}\\n")
"""


def started(*words: str, folder: Path) -> tuple[int, str, float]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, *[str(script) if word == "SCRIPT" else word for word in words]]
    began = time.monotonic()
    done = run(command, stdout=PIPE, stderr=STDOUT, text=True, timeout=250, check=False)
    return done.returncode, done.stdout, time.monotonic() - began


@pytest.mark.slow
def test_a_script_and_torchrun_start_the_same_training(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    code, printed, _ = started("SCRIPT", "none", "2", folder=tmp_path)
    lines = sorted(line for line in printed.splitlines() if line.startswith("rank"))
    assert code == 0, printed
    assert [line.split()[1] for line in lines] == ["0", "1"]
    assert lines[0].split()[2] == lines[1].split()[2]
    assert "distributed_backend" not in printed
    code, other, _ = started(*torchrun, "SCRIPT", "none", "2", folder=tmp_path)
    again = sorted(line for line in other.splitlines() if line.startswith("rank"))
    assert code == 0, other
    assert [line.split()[:3] for line in again] == [line.split()[:3] for line in lines]
    code, printed, _ = started(*torchrun, "SCRIPT", "none", "1", folder=tmp_path)
    assert code != 0
    assert "fit: got devices=1 in one of 2 processes of torchrun; expected the same number" in printed


@pytest.mark.slow
def test_after_a_training_a_script_can_train_alone(tmp_path: Path) -> None:
    """Started by either process, after a second training by the same processes."""
    code, printed, _ = started("SCRIPT", "again", "2", folder=tmp_path)
    assert code == 0, printed
    lines = [line for line in printed.splitlines() if line.startswith("again")]
    assert len(lines) == 2, printed
    assert all(line.startswith("again done alone 0 ['rank', '") for line in lines), printed


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["early", "killed"])
def test_a_script_ends_where_one_of_its_processes_ends(mode: str, tmp_path: Path) -> None:
    code, printed, _ = started("SCRIPT", mode, "2", folder=tmp_path)
    assert code == 1, printed
    assert "another process of this training ended" in printed


@pytest.mark.slow
def test_the_command_line_trains_with_two_processes(tmp_path: Path) -> None:
    words = [
        "-m",
        "polyvae",
        "train",
        "--model",
        "mvae",
        "--data",
        "polydigits",
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    words += ["--set", "data.options.train=200", "--set", "data.options.test=50", "--quiet"]
    words += ["--set", "train.devices=2", "--out", str(tmp_path / "run")]
    code, printed, _ = started(*words, folder=tmp_path)
    assert (code, printed.splitlines()) == (0, [f"trained (done, step 2): {tmp_path / 'run'}"])
    code, printed, _ = started(*words, folder=tmp_path)
    assert code == 2
    assert len(printed.splitlines()) == 1
    assert "got an existing run" in printed


@pytest.mark.slow
def test_processes_that_lose_the_first_end(tmp_path: Path) -> None:
    """Also those that have not met it yet."""
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.replace(
            'if mode == "early"', 'if rank == "1":\n    os.kill(os.getppid(), 9)\nif mode == "early"'
        )
    )
    process = Popen([sys.executable, str(script), "none", "2"], stdout=PIPE, stderr=STDOUT, text=True)
    printed, _ = process.communicate(timeout=120)  # the pipe closes with the last process that has it
    assert process.returncode == -signal.SIGKILL
    assert "another process of this training ended" in printed

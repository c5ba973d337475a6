"""Checkpoints: the newest whole one is loaded, whatever happened; an optimiser resumes bit for bit."""

from __future__ import annotations

import logging
import multiprocessing
import resource
import signal
import time

import pytest
import torch
from torch import nn

from polyvae.training.checkpoints import Checkpoints, flatten_optimizer, restore_optimizer
from polyvae.training.directory import RunDirectory
from polyvae.utils.files import load_tensors, save_tensors
from tests.helpers.storage import message, names

FORK = multiprocessing.get_context(
    "fork"
)  # it has imported everything already: torch runs on one thread here


def filling(path, answers):
    """Write until a disk is full; a limit on the size of files stands in for it."""
    run = RunDirectory.create(path)
    checkpoints = Checkpoints(run.checkpoints)
    checkpoints.save(1, {"x": torch.ones(10)}, {"step": 1})
    run.append_history({"step": 1})
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    for write in (
        lambda: checkpoints.save(2, {"x": torch.ones(10_000)}, {"step": 2}),
        lambda: run.append_history({"step": 2, "long": "x" * 30_000}),
        lambda: run.append_history({"step": 3}),
    ):
        answers.send(message(write))


def test_a_full_disk_costs_neither_checkpoint_nor_history(tmp_path):
    run = RunDirectory(tmp_path / "run")
    answers, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=filling, args=(run.path, theirs))
    process.start()
    process.join()
    assert process.exitcode == 0
    lines = [
        answers.recv() for _ in range(3)
    ]  # the last, small record fails too: the torn one has used up the room
    assert all("not written (File too large)" in line for line in lines)
    loaded, told = Checkpoints(run.checkpoints).load()
    assert told == {"step": 1}
    assert torch.equal(loaded["x"], torch.ones(10))
    assert names(Checkpoints(run.checkpoints)) == ["latest", "step-000000001.safetensors"]
    run.append_history({"step": 4})
    assert [record["step"] for record in run.read_history()] == [1, 4]


def test_checkpoints_keep_the_last_and_point_to_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.latest() is None
    assert "got no checkpoint" in message(checkpoints.load)
    for step in (1, 2, 30):
        checkpoints.save(step, {"x": torch.tensor(step)}, {"step": step})
    assert names(checkpoints) == ["latest", "step-000000002.safetensors", "step-000000030.safetensors"]
    assert checkpoints.latest() == checkpoints.directory / "step-000000030.safetensors"
    checkpoints.save(5, {"x": torch.tensor(5)}, {"step": 5})  # another future: 30 belongs to the old one
    assert names(checkpoints) == ["latest", "step-000000002.safetensors", "step-000000005.safetensors"]
    assert "keep=0" in message(Checkpoints, tmp_path, keep=0)


def test_a_damaged_checkpoint_or_pointer_falls_back_to_what_is_whole(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, {}, {"step": step})
    (tmp_path / "latest").write_bytes(b"\xff../../etc")
    assert checkpoints.load()[1] == {"step": 2}
    (tmp_path / "latest").unlink()
    assert checkpoints.load()[1] == {"step": 2}
    newest = tmp_path / "step-000000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING, "polyvae"):
        assert checkpoints.load()[1] == {"step": 1}
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]
    assert newest.name in caplog.text
    (tmp_path / "step-000000001.safetensors").write_bytes(b"")
    assert "got 2 checkpoints, all damaged" in message(checkpoints.latest)


def saving(folder):
    step = 0
    while True:
        step += 1
        Checkpoints(folder).save(step, {"x": torch.full((200_000,), step)}, {"step": step})


def test_kill_9_at_any_moment_leaves_a_latest_that_loads(tmp_path):
    folders = {tmp_path / str(index): delay for index, delay in enumerate((0.0, 0.011, 0.053, 0.127, 0.2))}
    for folder, delay in folders.items():
        process = FORK.Process(target=saving, args=(folder,))
        process.start()
        end = time.monotonic() + 60
        while not (folder / "latest").exists() and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        process.join()
        checkpoints = Checkpoints(folder)
        loaded, told = checkpoints.load()
        assert (
            checkpoints.latest().name
            == (folder / "latest").read_text().strip()
            == f"step-{told['step']:09d}.safetensors"
        )
        assert torch.equal(loaded["x"], torch.full((200_000,), told["step"]))
        checkpoints.save(told["step"] + 1, {}, {})
        assert len(list(folder.iterdir())) == 3  # two checkpoints, the pointer, and no leftovers


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "fused amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True, amsgrad=True),
    "tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2), foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.99)),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
}


def steps(net, optimizer, first, last):
    for step in range(first, last):
        torch.manual_seed(step)
        optimizer.zero_grad()
        net(torch.randn(8, 5)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_continues_bit_for_bit(tmp_path, name):
    def start():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
        return net, OPTIMIZERS[name](
            [{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": 3e-3}]
        )

    net, optimizer = start()
    steps(net, optimizer, 0, 4)
    flat, groups = flatten_optimizer(optimizer.state_dict())
    save_tensors(tmp_path / "o", flat | {f"net.{key}": x for key, x in net.state_dict().items()}, groups)
    steps(net, optimizer, 4, 8)

    again, resumed = start()
    loaded, groups = load_tensors(tmp_path / "o")
    again.load_state_dict({key[4:]: loaded.pop(key) for key in list(loaded) if key.startswith("net.")})
    kept = {key: x.clone() for key, x in loaded.items()}
    restore_optimizer(resumed, loaded, groups)
    steps(again, resumed, 4, 8)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(kept[key], x) for key, x in loaded.items())  # what was given is not stepped on
    assert resumed.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_an_optimizer_state_of_another_model_is_refused():
    state = flatten_optimizer(torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict())
    assert "does not fit" in message(
        restore_optimizer, torch.optim.Adam([nn.Parameter(torch.ones(1))]), *state
    )

"""Processes of one training, which begin as copies of this one: to start Python and import torch takes seconds."""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from polyvae.training.processes import _LEADER
from polyvae.utils.files import load_tensors, save_tensors

Found = Mapping[str, torch.Tensor]


class Ended(NamedTuple):
    """How a process ended: its exit code, what it wrote to standard error, what it returned, and after how many seconds."""

    code: int | None
    errors: str
    found: Found
    seconds: float


def in_processes(
    count: int, folder: Path, target: Callable[[int], Found | None], limit: float = 60
) -> list[Ended]:
    """``target(rank)`` in ``count`` processes with the environment that ``fit`` gives those that it starts.

    Those that have not ended after ``limit`` seconds are killed, and their code is that of SIGKILL.
    """
    importlib.import_module("lightning_fabric")  # once, and not in each process
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    shared[_LEADER] = str(os.getpid())
    began = time.monotonic()
    context, workers = get_context("fork"), []
    for rank in range(count):
        given = shared | {"LOCAL_RANK": str(rank)}
        workers.append(context.Process(target=_work, args=(rank, given, folder, target, limit)))
        workers[-1].start()
    seconds = [0.0] * count
    while time.monotonic() < began + limit and not all(seconds):
        for rank, worker in enumerate(workers):
            if not worker.is_alive() and not seconds[rank]:
                seconds[rank] = time.monotonic() - began
        time.sleep(0.02)
    ended = []
    for rank, worker in enumerate(workers):
        worker.kill()
        worker.join()
        stored = folder / f"{rank}.safetensors"
        found: Found = load_tensors(stored)[0] if stored.exists() else {}
        stored.unlink(missing_ok=True)
        ended.append(Ended(worker.exitcode, (folder / f"{rank}.err").read_text(), found, seconds[rank]))
    return ended


def _work(
    rank: int, given: Mapping[str, str], folder: Path, target: Callable[[int], Found | None], limit: float
) -> None:
    os.environ |= given
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 0
    with (folder / f"{rank}.err").open("w") as sys.stderr:
        faulthandler.dump_traceback_later(0.9 * limit, file=sys.stderr)  # where it hangs
        try:
            found: Any = target(rank)
            if found:
                save_tensors(folder / f"{rank}.safetensors", dict(found), {})
        except BaseException:
            code = 1
            traceback.print_exc()
    os._exit(code)  # what the copied process would do at its end is not this one's to do

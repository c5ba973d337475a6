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
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from unittest import mock

import torch

from polyvae.training.processes import _LEADER
from polyvae.utils.files import load_tensors, save_tensors

Found = Mapping[str, torch.Tensor]


class Ended(NamedTuple):
    """How a process ended: its exit code, what it wrote to standard error, what it returned, and after how many seconds."""

    code: int
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
    began, ended = time.monotonic(), [Ended(-signal.SIGKILL, "", {}, limit)] * count
    # Not by multiprocessing, whose daemons, such as those that run mutants, may have no processes of their own.
    workers: dict[int, int] = {}
    for rank in range(count):
        pid = os.fork()
        if not pid:
            _work(rank, shared | {"LOCAL_RANK": str(rank)}, folder, target, limit)
        workers[pid] = rank
    while workers:
        late = time.monotonic() > began + limit
        for pid, rank in list(workers.items()):
            if late:
                os.kill(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, 0 if late else os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                ended[rank] = ended[rank]._replace(code=code, seconds=time.monotonic() - began)
                del workers[pid]
        time.sleep(0.02)
    return [one._replace(**_written(folder, rank)) for rank, one in enumerate(ended)]


def _written(folder: Path, rank: int) -> dict[str, Any]:
    stored = folder / f"{rank}.safetensors"
    found = load_tensors(stored)[0] if stored.exists() else {}
    stored.unlink(missing_ok=True)
    return {"found": found, "errors": (folder / f"{rank}.err").read_text()}


def _work(
    rank: int, given: Mapping[str, str], folder: Path, target: Callable[[int], Found | None], limit: float
) -> NoReturn:
    os.environ |= given
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 0
    with (folder / f"{rank}.err").open("w") as sys.stderr:
        faulthandler.dump_traceback_later(0.9 * limit, file=sys.stderr)  # where it hangs
        try:
            # As many processors as are needed: more processes than there are would be refused.
            with mock.patch.object(os, "cpu_count", return_value=8):
                found: Any = target(rank)
            if found:
                save_tensors(folder / f"{rank}.safetensors", dict(found), {})
        except BaseException:
            code = 1
            traceback.print_exc()
    os._exit(code)  # what the copied process would do at its end is not this one's to do

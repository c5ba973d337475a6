"""Processes with one thread each that run tasks in parallel, fail independently, and end cleanly on Ctrl-C."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NamedTuple

import torch

from polyvae.utils.errors import InputError

_GRACE = 0.5  # seconds after which a Ctrl-C in the terminal has reached every process
_INTERRUPTED = "interrupted"
_SPAWN = get_context("spawn")
_stopped: Event | threading.Event = threading.Event()  # replaced in a worker by the event that all share
_bell = socket.socketpair()  # every signal is written to it, for the lifetime of the process


class Answer(NamedTuple):
    """The value that a task returned, and the error in one line ("" if there was none)."""

    value: Any
    error: str = ""


class Workers:
    """``jobs`` processes, each of which runs one task after another. If one dies, only its task fails."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.stopped = _SPAWN.Event()
        self.idle: list[ProcessPoolExecutor] = []
        self.busy: dict[Future[Any], tuple[str, ProcessPoolExecutor]] = {}

    def run(self, tasks: Mapping[str, Callable[[], Any]]) -> Iterator[tuple[str, Answer]]:
        """Names and answers in the order of completion. Raises KeyboardInterrupt if a task was interrupted."""
        waiting = list(tasks.items())[::-1]
        while waiting or self.busy:
            while waiting and len(self.busy) < self.jobs:
                name, task = waiting.pop()
                future, pool = self._give(task)
                self.busy[future] = name, pool
            for future in wait(self.busy, return_when=FIRST_COMPLETED).done:
                name, pool = self.busy.pop(future)
                try:
                    answer = future.result()
                except BrokenProcessPool:
                    pool.shutdown()
                    yield name, Answer(None, "its process was ended from outside, or ran out of memory")
                    continue
                self.idle.append(pool)
                if answer.error == _INTERRUPTED:
                    raise KeyboardInterrupt
                yield name, answer

    def _give(self, task: Callable[[], Any]) -> tuple[Future[Any], ProcessPoolExecutor]:
        while self.idle:
            pool = self.idle.pop()
            try:
                return pool.submit(_answer, task), pool
            except BrokenProcessPool:  # it died while it was idle
                pool.shutdown()
        pool = _process(self.stopped)
        return pool.submit(_answer, task), pool

    def stop(self) -> None:
        """Let running tasks end cleanly; no further task begins."""
        self.stopped.set()
        wait(self.busy)

    def close(self) -> None:
        for pool in [*self.idle, *(pool for _, pool in self.busy.values())]:
            pool.shutdown()


def _process(stopped: Event) -> ProcessPoolExecutor:
    """A process that ignores Ctrl-C until a task handles it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pool = ProcessPoolExecutor(1, _SPAWN, _begin, (stopped,))
        pool.submit(os.getpid)  # the first task starts the process
        return pool
    finally:
        signal.signal(signal.SIGINT, before)


def _begin(stopped: Event) -> None:
    global _stopped
    _stopped = stopped
    torch.set_num_threads(1)
    logging.disable(logging.INFO)  # some libraries log a message for every task
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _bell[1].setblocking(False)
    signal.set_wakeup_fd(_bell[1].fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_follow, daemon=True).start()
    threading.Thread(target=_listen, args=(stopped,), daemon=True).start()


def _follow() -> None:
    """End with the parent process, even if it was killed, because then no process is left to receive the answer."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _listen(stopped: Event) -> None:
    """Interrupt once. A Ctrl-C in the terminal may have reached this process already, and a second one would not wait for a checkpoint."""
    stopped.wait()
    if not select.select([_bell[0]], [], [], _GRACE)[0]:
        os.kill(os.getpid(), signal.SIGINT)


def _answer(task: Callable[[], Any]) -> Answer:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return Answer(None, _INTERRUPTED) if _stopped.is_set() else Answer(task())
    except KeyboardInterrupt:
        return Answer(None, _INTERRUPTED)
    except Exception as problem:  # any error of a task must leave the other tasks running
        return Answer(
            None,
            " ".join(
                (
                    str(problem)
                    if isinstance(problem, InputError)
                    else f"{type(problem).__name__}: {problem}"
                ).split()
            ),
        )
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes that start inside have one thread each, in every library."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM interrupts as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the folder for this process. Raises InputError if another process has locked it."""
    if os.name != "posix":
        yield
        return
    import fcntl

    try:
        file = (folder / ".lock").open("w")
    except OSError as problem:
        raise InputError(
            f"{folder}: cannot be written ({problem.strerror}); expected a writable folder; choose another"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder}: another command uses this folder; expected one at a time; wait for it, or choose another folder"
            ) from None
        yield

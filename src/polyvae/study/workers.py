"""Processes with one thread each that run tasks in parallel, fail independently, and end cleanly on Ctrl-C.

A worker shares nothing with another: it has a pipe for tasks and answers, and one on which it is asked to stop. So the death of a worker,
whenever it comes, costs at most its own task.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from polyvae.config import RunConfig
from polyvae.utils.errors import InputError

_GRACE = 0.5  # seconds after which a Ctrl-C in the terminal has reached every process
_LOOK = 1.0  # seconds between looks at workers whose end a process of their own may hide
_END = 5.0  # seconds that an idle worker has to end
_TRIES = 3  # workers for a task that none has begun
INTERRUPTED, _TERMINATED = "interrupted", "terminated"
_BEGUN = "begun"  # what a worker sends once it has a task
_SPAWN = get_context("spawn")
_bell = socket.socketpair()  # in a worker, every signal is written to it, for the lifetime of the process
_received: list[int] = []  # in a worker, the SIGTERM that it has received


@dataclass(frozen=True)
class Task:
    """What a worker does, and what a worker on another machine needs for it.

    Attributes:
        act: The function; it is given ``folder``, if there is one.
        config: The configuration of the run.
        folder: The folder that the task reads and writes.
        judges: Whether it reads or trains the judges of the data set.
    """

    act: Callable[..., Any]
    config: RunConfig
    folder: Path | None = None
    judges: bool = False

    def __call__(self) -> Any:
        return self.act() if self.folder is None else self.act(self.folder)


class Answer(NamedTuple):
    """The value that a task returned, and the error in one line ("" if there was none)."""

    value: Any
    error: str = ""


class Worker:
    """A process that runs one task after another."""

    def __init__(self) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        stop, self._stop = _SPAWN.Pipe(duplex=False)
        self.process = _SPAWN.Process(target=_serve, args=(theirs, stop))
        with _ignoring_interrupts():
            self.process.start()
        # Only while no other process holds them does the end of the worker close them.
        theirs.close()
        stop.close()
        self.begun = False

    @property
    def ended(self) -> bool:
        return self.process.exitcode is not None or bool(connection.wait([self.process.sentinel], 0))

    def give(self, task: Callable[[], Any]) -> bool:
        """Hand over a task. False if the process has ended."""
        self.begun = False
        try:
            self.pipe.send(task)
        except OSError:
            return False
        return True

    def answer(self) -> Answer | None:
        """The answer, or what ended the process; None if the task is not finished."""
        with contextlib.suppress(EOFError, OSError):
            while self.pipe.poll():
                message = self.pipe.recv()
                if message != _BEGUN:
                    return Answer(*message)
                self.begun = True
            if not self.ended:
                return None
        return Answer(None, self._death())

    def stop(self) -> None:
        """Ask the process to interrupt its task. It never waits for the process, which may have ended."""
        with contextlib.suppress(OSError):
            self._stop.send_bytes(b".")

    def end(self, seconds: float) -> None:
        """End the process: it has this time to end by itself."""
        self.pipe.close()
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join(_END)
        self._stop.close()

    def _death(self) -> str:
        self.process.join(_END)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            return "worker was lost"
        when = "" if self.begun else " before it began"
        if code >= 0:
            return f"worker ended with exit code {code}{when}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
        memory = ", perhaps out of memory" if name == "SIGKILL" else ""
        return f"worker killed by signal {-code} ({name}){when}{memory}"


class Workers:
    """``jobs`` processes, each of which runs one task after another. If one dies, only its task fails."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.idle: list[Worker] = []
        self.busy: dict[Worker, str] = {}

    def run(self, tasks: Mapping[str, Callable[[], Any]]) -> Iterator[tuple[str, Answer]]:
        """Names and answers in the order of completion. Raises KeyboardInterrupt if a task was interrupted.

        A task whose worker died before it began is given to another worker.
        """
        waiting, tries = list(tasks)[::-1], Counter[str]()
        while waiting or self.busy:
            while waiting and len(self.busy) < self.jobs:
                name = waiting.pop()
                tries[name] += 1
                try:
                    self.give(name, tasks[name])
                except OSError as problem:
                    yield name, Answer(None, f"no worker can be started ({problem.strerror or problem})")
            for worker, answer in self._answers():
                name = self.busy.pop(worker)
                if answer.error == INTERRUPTED:
                    self.idle.append(worker)
                    raise KeyboardInterrupt
                if worker.ended or answer.error == _TERMINATED:
                    worker.end(_END)
                    if not worker.begun and tries[name] < _TRIES and answer.error:
                        waiting.append(name)
                        continue
                else:
                    self.idle.append(worker)
                if answer.error == _TERMINATED:
                    answer = Answer(None, f"worker ended by signal {int(signal.SIGTERM)} (SIGTERM)")
                yield name, answer

    def give(self, name: str, task: Callable[[], Any]) -> Worker:
        """Hand the task to an idle worker, or to a new one. Raises OSError if none can be started."""
        while self.idle:
            worker = self.idle.pop()
            if not worker.ended and worker.give(task):
                self.busy[worker] = name
                return worker
            worker.end(_END)  # it died while it was idle
        worker = Worker()
        worker.give(task)  # if it has died already, the next look finds it
        self.busy[worker] = name
        return worker

    def stop(self) -> None:
        """Let running tasks end cleanly; no further task begins."""
        for worker in self.busy:
            worker.stop()
        while self.busy:
            for worker, _ in self._answers():
                del self.busy[worker]
                self.idle.append(worker)

    def close(self) -> None:
        """End all processes. Those that run a task still are killed."""
        for worker in self.busy:
            worker.process.kill()
        for worker in self.idle:
            worker.pipe.close()  # all of them end at the same time
        for worker in (*self.busy, *self.idle):
            worker.end(_END)
        self.busy.clear()
        self.idle.clear()

    def _answers(self) -> list[tuple[Worker, Answer]]:
        """Wait until a busy worker has answered or died. Returns all that have."""
        while self.busy:
            connection.wait(
                [
                    *(worker.pipe for worker in self.busy),
                    *(worker.process.sentinel for worker in self.busy),
                ],
                _LOOK,
            )
            found = [(worker, answer) for worker in self.busy if (answer := worker.answer()) is not None]
            if found:
                return found
        return []


# ---- in a worker -------------------------------------------------------------------------------------------------------------------


def _serve(pipe: Connection, stop: Connection) -> None:
    """Run tasks until the pipe is closed."""
    _begin(stop)
    with contextlib.suppress(EOFError, OSError):  # no process is left to receive an answer
        while not _received:
            received = pipe.recv_bytes()
            pipe.send(_BEGUN)
            pipe.send(tuple(_answer(received, stop)))


def _begin(stop: Connection) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.INFO)  # some libraries log a message for every task
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _bell[1].setblocking(False)
    signal.set_wakeup_fd(_bell[1].fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_follow, daemon=True).start()
    threading.Thread(target=_listen, args=(stop,), daemon=True).start()


def _follow() -> None:
    """End with the parent process, even if it was killed, because then no process is left to receive the answer."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _listen(stop: Connection) -> None:
    """Interrupt once. A signal may have reached this process already, and a second one would not wait for a checkpoint."""
    connection.wait([stop])
    if not select.select([_bell[0]], [], [], _GRACE)[0]:
        os.kill(os.getpid(), signal.SIGINT)


def _terminated(number: int, frame: FrameType | None) -> None:
    """Interrupt the task as Ctrl-C does, once, so that it ends with a checkpoint."""
    if not _received:
        _received.append(number)
        os.kill(os.getpid(), signal.SIGINT)


def _answer(pickled: bytes, stop: Connection) -> Answer:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return (
            Answer(None, INTERRUPTED)
            if stop.poll()  # the message is never read, so it stays
            else Answer(ForkingPickler.loads(pickled)())
        )
    except KeyboardInterrupt:
        return Answer(None, _TERMINATED if _received else INTERRUPTED)
    except Exception as problem:  # any error of a task must leave the other tasks running
        return Answer(None, line_of(problem))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def line_of(problem: Exception) -> str:
    """The error of a task in one line."""
    words = str(problem) if isinstance(problem, InputError) else f"{type(problem).__name__}: {problem}"
    return " ".join(words.split())


# ---- in the process of the study ---------------------------------------------------------------------------------------------------


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """A process that starts inside ignores Ctrl-C until a task handles it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
    """Inside, the first SIGTERM interrupts as Ctrl-C does. Others are ignored: ``timeout``, for one, sends it twice."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

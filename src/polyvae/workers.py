"""Processes of one thread each that take tasks side by side, fail one by one, and end cleanly on Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch

from polyvae.errors import InputError

_GRACE = 3.0                                  # seconds in which a process that heard Ctrl-C itself has ended
_INTERRUPTED = "interrupted"


class Answer(NamedTuple):
    """What a task answered, and "" or in one line what went wrong."""

    value: Any
    error: str = ""


class Workers:
    """So many processes, each of which takes one task after another. One that dies takes its task with it and no other."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.idle: list[tuple[ProcessPoolExecutor, Future[int]]] = []
        self.busy: dict[Future[Any], tuple[str, ProcessPoolExecutor, Future[int]]] = {}

    def run(self, tasks: Mapping[str, Callable[[], Any]]) -> Iterator[tuple[str, Answer]]:
        """Names and answers, as they come. Raises KeyboardInterrupt where a task was interrupted."""
        waiting = list(tasks.items())[::-1]
        while waiting or self.busy:
            while waiting and len(self.busy) < self.jobs:
                name, task = waiting.pop()
                pool, number = self.idle.pop() if self.idle else _process()
                self.busy[pool.submit(_answer, task)] = name, pool, number
            for future in wait(self.busy, return_when=FIRST_COMPLETED).done:
                name, pool, number = self.busy.pop(future)
                try:
                    answer = future.result()
                except BrokenProcessPool:
                    yield name, Answer(None, "its process was ended from outside, or ran out of memory")
                    continue
                self.idle.append((pool, number))
                if answer.error == _INTERRUPTED:
                    raise KeyboardInterrupt
                yield name, answer

    def stop(self) -> None:
        """Let what runs end cleanly: a terminal's Ctrl-C has reached it already, another has not."""
        for future in wait(self.busy, _GRACE).not_done:
            with suppress(ProcessLookupError, BrokenProcessPool):
                os.kill(self.busy[future][2].result(), signal.SIGINT)
        wait(self.busy)

    def close(self) -> None:
        for pool, _ in [*self.idle, *((pool, number) for _, pool, number in self.busy.values())]:
            pool.shutdown()


def _process() -> tuple[ProcessPoolExecutor, Future[int]]:
    """A process, deaf to Ctrl-C until a task listens, and its number."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pool = ProcessPoolExecutor(1, get_context("spawn"), _begin)
        return pool, pool.submit(os.getpid)
    finally:
        signal.signal(signal.SIGINT, before)


def _begin() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.INFO)                                # libraries that greet once per task
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _answer(task: Callable[[], Any]) -> Answer:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return Answer(task())
    except KeyboardInterrupt:
        return Answer(None, _INTERRUPTED)
    except Exception as problem:                                 # whatever it is, the other tasks go on
        return Answer(None, " ".join((str(problem) if isinstance(problem, InputError) else f"{type(problem).__name__}: {problem}").split()))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes that begin inside have one thread each, in whatever library."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})

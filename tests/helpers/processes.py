"""Processes that begin as copies of others, because to start Python and import torch takes seconds."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import ForkProcess, ForkServerContext
from pathlib import Path

from polyvae.cli import main
from polyvae.study import workers


def fork_server() -> ForkServerContext:
    """A context whose processes are copies of one that has imported what workers of a study need."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["polyvae.study.run", "torch._dynamo"])
    return context


@contextmanager
def command(*words: str | Path, errors: Path) -> Iterator[ForkProcess]:
    """``polyvae`` with these words in a process group of its own, a copy of this process, which is killed at the end.

    What it writes as an error is in the file ``errors``.
    """
    process = get_context("fork").Process(target=_command, args=([str(word) for word in words], errors))
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()


def _command(words: Sequence[str], errors: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # One worker at a time inherits no pipe of another, so it may be a copy as well; what signals write to is its own.
    workers._SPAWN = get_context("fork")  # type: ignore[assignment]
    workers._bell = socket.socketpair()
    with errors.open("w") as sys.stderr:
        main(words)

"""Tasks for workers, in a module that is imported quickly."""

from __future__ import annotations

import os
import time
from pathlib import Path


def lost(number: int) -> None:
    """The process sends itself this signal."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def interruptible(folder: Path) -> None:
    """Until it is interrupted; then it keeps something, which takes a while."""
    try:
        (folder / "begun").touch()
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.2)
        (folder / "kept").touch()
        raise


class Unreadable:
    """A task that cannot be read in the worker."""

    def __reduce__(self):
        return _fails, ()


def _fails() -> None:
    raise ValueError("not to be read")

"""Files and folders that are not finished yet: beside their place, under a name that shows it, locked as long as their process lives.

The kernel releases the lock of a process that is killed, so any process on any machine that sees the folder can distinguish what
it left behind from what is being written.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

if sys.platform != "win32":
    import fcntl

_NAME = re.compile(r"\..+\.[0-9a-f]{8}\.partial", re.DOTALL)
_TRIES = 100


@contextmanager
def claimed(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new partial file for ``path``, open and locked. It is removed at the end unless it was renamed."""
    partial, handle = _claim(path, lambda new: os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        with open(handle, "wb") as file:
            yield partial, file
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def claimed_folder(path: Path) -> Iterator[Path]:
    """A new partial folder for ``path``, locked. It is removed at the end unless it was renamed."""

    def make(new: Path) -> int:
        new.mkdir(parents=True)
        return os.open(new, os.O_RDONLY)

    partial, handle = _claim(path, make)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the partial files and folders in ``folder`` whose process was killed. Links are never followed."""
    if sys.platform == "win32":  # no lock shows there whether their process lives
        return
    try:
        names = [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    except OSError:
        return  # there is no such folder, or it cannot be read
    for name in names:
        with contextlib.suppress(OSError):  # in use, removed by another process, or not ours to remove
            handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (folder / name).is_dir():
                    shutil.rmtree(folder / name)
                else:
                    (folder / name).unlink()
            finally:
                os.close(handle)


def _claim(path: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """A partial name that did not exist, and the locked handle of what ``make`` put there."""
    for _ in range(_TRIES):
        partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")
        handle = make(partial)
        if sys.platform == "win32":
            return partial, handle
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks, where nothing is swept either
            return partial, handle
        # Between its creation and its lock another process may have taken it for a leftover.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(partial), os.fstat(handle)):
                return partial, handle
        os.close(handle)
    raise OSError(f"{path}: no name beside it could be claimed")

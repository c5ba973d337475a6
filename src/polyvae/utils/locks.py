"""One writer per folder: a lock that ends with the process that holds it, however that process ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polyvae.utils.errors import InputError
from polyvae.utils.files import unwritten

LOCK = ".lock"
_held: set[int] = (
    set()
)  # file descriptors; a forked child closes them, so that it does not keep the lock of its parent


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Lock an existing folder against other processes and other threads that call this function.

    The lock is one of the operating system on the file ``.lock``: after kill -9 it is free. The file is removed on release.

    Raises InputError: another process or thread holds the lock; its process id is named.
    """
    if os.name != "posix":  # fcntl does not exist elsewhere
        yield
        return
    file = _acquire(folder / LOCK)
    _held.add(file)
    try:
        yield
    finally:
        if file in _held:  # not in a forked child
            (folder / LOCK).unlink(missing_ok=True)
            _held.discard(file)
            os.close(file)


def _acquire(path: Path) -> int:
    import fcntl

    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as problem:
            raise unwritten(path, problem) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The owner before may have removed the file between the two calls; then another may lock a new one.
            if path.exists() and os.path.samestat(os.stat(path), os.fstat(file)):
                os.truncate(file, 0)
                os.write(file, f"{os.getpid()}\n".encode())
                return file
        except BlockingIOError:
            owner = os.read(file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(file)
            raise InputError(
                f"{path.parent}: got a directory that process {owner} is writing to; expected one writer at a time; "
                "wait for that process or end it, or choose another directory"
            ) from None
        except FileNotFoundError:  # removed between exists() and stat()
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _drop() -> None:
    for file in _held:
        os.close(file)
    _held.clear()


if os.name == "posix":
    os.register_at_fork(after_in_child=_drop)

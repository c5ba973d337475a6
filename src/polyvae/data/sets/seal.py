"""Whether the files of a folder are still those that were written: digests, with a stamp that spares computing them each time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import stat
from collections.abc import Sequence
from pathlib import Path

from polyvae.utils.files import StorageError, read_object, write_atomic

SEAL = "seal.json"
_BLOCK = 2**20


def seal(folder: Path) -> None:
    """Record digests and stamps of all files in ``folder``."""
    paths = sorted(path for path in folder.iterdir() if path.name != SEAL)
    _write(folder, {path.name: [_stamp(path), _digest(path)] for path in paths})


def check_seal(folder: Path, names: Sequence[str]) -> None:
    """Raises OSError or ValueError unless each file is as it was recorded.

    A digest is computed only where size or times differ from the recorded ones, as in a copy of the folder, or after a change.
    """
    sealed = read_object(folder / SEAL, "it is made again")
    moved = False
    for name in names:
        path = folder / name
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{name} is no regular file")
        stamp, known = _stamp(path), sealed.get(name)
        if not isinstance(known, list) or len(known) != 2:
            raise ValueError(f"{name} is not recorded in {SEAL}")
        if known[0] != stamp:
            if known[1] != _digest(path):
                raise ValueError(f"{name} has changed since it was written")
            sealed[name], moved = [stamp, known[1]], True
    if moved:
        with contextlib.suppress(StorageError):  # a folder that only others can write to
            _write(folder, sealed)


def _stamp(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _digest(path: Path) -> str:
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def _write(folder: Path, sealed: dict[str, list[object]]) -> None:
    write_atomic(folder / SEAL, (json.dumps(sealed, indent=1) + "\n").encode())

"""A folder of plain files as bytes, so that it can be sent to a machine with which no file system is shared."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from polyvae.utils.errors import InputError
from polyvae.utils.files import write_atomic
from polyvae.utils.locks import LOCK
from polyvae.utils.partial import claimed_folder

_EXPECTED = "expected plain files and folders"


def pack(folder: Path) -> bytes:
    """The files in ``folder`` and below as a tar file. Locks and unfinished files are left out.

    Raises InputError: the folder, or something in it, is a link or no plain file, so that it cannot be sent.
    """
    if folder.is_symlink():
        raise InputError(f"{folder}: got a link; {_EXPECTED}; replace it by the folder that it leads to")
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in _files(folder):
            content = path.read_bytes()
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise InputError(f"{path}: got a link, or no plain file; {_EXPECTED}; remove it")
        unfinished = path.name == LOCK or path.match(".*.partial")
        if path.is_file() and not unfinished:
            yield path


def unpack(packed: bytes, folder: Path) -> None:
    """Replace ``folder`` by the files that ``pack`` returned.

    It is complete or not there at all: files are written beside it first.

    Raises InputError: the bytes are no such tar file, or a name leads out of the folder. Nothing is written then.
    StorageError: a file cannot be written.
    """
    files = _read(packed, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with claimed_folder(folder) as partial:
        for name, content in files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)


def _read(packed: bytes, folder: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as tar:
            for entry in tar:
                file = tar.extractfile(entry) if entry.isreg() else None
                if file is None or not _inside(entry.name) or entry.name in files:
                    raise InputError(
                        f"{folder}: got the entry {entry.name!r} from another machine; expected plain files inside the folder, each "
                        "once; nothing was written"
                    )
                files[entry.name] = file.read()
    except tarfile.TarError as problem:
        raise InputError(
            f"{folder}: got bytes from another machine that are not a tar file ({problem}); expected those of a folder; nothing was "
            "written"
        ) from None
    return files


def _inside(name: str) -> bool:
    """Whether a name is that of a file in the folder or below."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and "/".join(parts) == name
        and not name.startswith("/")
        and ".." not in parts
        and "\0" not in name
        and (os.sep == "/" or not (os.sep in name or os.path.splitdrive(name)[0]))
    )

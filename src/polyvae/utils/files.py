"""Files that are written whole or not at all, and tensors in them with a digest. Nothing is unpickled.

A file is written beside its place, fsynced and renamed, so that neither a full disk nor kill -9 damages what was there before.
Tensors are stored as safetensors with JSON metadata and a sha256 of the whole file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import textwrap
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.utils.errors import InputError, reading
from polyvae.utils.partial import claimed, sweep

FORMAT = 2
"""Version of the files that are written. In version 1 some models had other parameter names; ``polyvae.models.bundles`` renames them."""

_MARK = b'"polyvae":"'  # followed by 64 hexadecimal digits of sha256; inside JSON strings the quotes are escaped, so it is found once
_BLANK = "0" * 64
_HEADER = 16 * 2**20  # bytes: names, shapes and metadata of some 100,000 tensors
_TEXT = 64 * 2**20  # bytes of a JSON or TOML file
_DEEP = 64  # levels of lists and dicts inside each other

Path_ = str | os.PathLike[str]


class StorageError(InputError):
    """A file could not be written. What was there before is unchanged."""


def write_atomic(path: Path_, data: bytes) -> None:
    """Write a file so that at every moment, and after a power cut, either the old or the new one is complete.

    Raises:
        StorageError: A full disk, no permission, no such folder. The old file is unchanged and no temporary file is left.
    """
    with atomic(path) as file:
        file.write(data)


@contextmanager
def atomic(path: Path_) -> Iterator[BinaryIO]:
    """A file to write to, which replaces ``path`` at the end, as ``write_atomic`` does; not if an error ends the block.

    What killed processes left in the same folder is removed.
    """
    path = Path(path)
    try:
        if "\0" in str(path):
            raise OSError(errno.EINVAL, "a name cannot contain the character NUL")
        sweep(path.parent)
        with claimed(path) as (partial, file):
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        _sync_folder(path.parent)
    except OSError as problem:
        raise unwritten(path, problem) from None


def write_npz(path: Path_, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to a compressed file for ``numpy.load``, completely or not at all. Every name is possible.

    Raises InputError: two names that ``numpy.load`` cannot distinguish. StorageError: the file could not be written.
    """
    for name in arrays:
        if f"{name}.npy" in arrays:
            raise InputError(
                f"{path}: got arrays {name!r} and {name + '.npy'!r}; expected names that differ by more than .npy; rename one"
            )
    with atomic(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)


def save_tensors(path: Path_, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write one safetensors file: tensors, JSON metadata, format version and the sha256 of the whole.

    Tied and non-contiguous tensors become copies. The same contents give the same bytes. Tuples in ``metadata`` are read as lists.

    Raises:
        InputError: Metadata that JSON cannot hold.
        StorageError: The file could not be written; see ``write_atomic``.
    """
    copies = {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    text = json_text(f"{path}: metadata", {"version": FORMAT, "metadata": dict(metadata)})
    # One entry only: safetensors writes several in random order, and equal contents should be equal files.
    data = safetensors.torch.save(copies, {"polyvae": f"{_BLANK} {text}"})
    digest = hashlib.sha256(data).hexdigest()
    write_atomic(path, data.replace(_MARK + _BLANK.encode(), _MARK + digest.encode(), 1))


def load_tensors(path: Path_, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, onto ``device``, and the metadata that ``save_tensors`` wrote. Any changed byte is detected.

    Raises:
        InputError: A file that is missing, truncated, damaged, of another kind, or of a newer format.
    """
    data = read_bytes(Path(path))
    at, stored = _header(path, data)
    view, digest = memoryview(data), hashlib.sha256()
    for part in (view[:at], _BLANK.encode(), view[at + len(_BLANK) :]):
        digest.update(part)
    if digest.hexdigest().encode() != data[at : at + len(_BLANK)]:
        raise InputError(
            f"{path}: got contents that do not match their sha256; expected the file as written; copy it again"
        )
    with reading(f"{path}: tensors", "those that polyvae wrote", "copy the file again"):
        tensors = safetensors.torch.load(data)
        return {name: tensor.to(device) for name, tensor in tensors.items()}, stored["metadata"]


def _header(path: Path_, data: bytes) -> tuple[int, dict[str, Any]]:
    """The position of the digest, and what is stored beside the tensors."""
    size = 8 + int.from_bytes(data[:8], "little")
    if data[8:9] != b"{":
        raise InputError(
            f"{path}: got {len(data)} bytes that are not a safetensors file; expected one that polyvae wrote; check the path"
        )
    if len(data) < size:
        raise InputError(
            f"{path}: got {len(data)} bytes; expected at least {size}: the file is truncated or damaged; copy it again"
        )
    try:
        if size > _HEADER:
            raise ValueError("too long")
        header = parsed(data[8:size])
        text = header.get("__metadata__", {}).get("polyvae")
        stored = parsed(text[len(_BLANK) + 1 :].encode()) if text else None
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        version, metadata = (stored["version"], stored["metadata"]) if stored else (0, {})
        if not all(type(number) is int for number in [version, *ends]) or not isinstance(metadata, dict):
            raise TypeError("another type")
        size += max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(
            f"{path}: got a header that cannot be read; expected the file as written; copy it again"
        ) from None
    if not stored:
        raise InputError(
            f"{path}: got a safetensors file without polyvae's metadata; expected one that polyvae wrote; check the path"
        )
    if version > FORMAT:
        raise InputError(f"{path}: got format version {version}; expected {FORMAT} or older; upgrade polyvae")
    if len(data) < size:
        raise InputError(
            f"{path}: got {len(data)} bytes; expected {size}: the file is truncated; copy it again"
        )
    return data.find(_MARK) + len(_MARK), stored


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The contents of a regular file of at most ``most`` bytes. Raises InputError: it cannot be read, is no such file, or is larger."""
    try:
        # Opening a pipe that no process writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            state = os.fstat(handle)
            if stat.S_ISDIR(state.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EINVAL, "a pipe, socket or device, no regular file")
            if most is not None and state.st_size > most:
                raise OSError(errno.EFBIG, f"{state.st_size:,} bytes; at most {most:,} are read")
            with open(handle, "rb", closefd=False) as file:
                return file.read(state.st_size)
        finally:
            os.close(handle)
    except (OSError, ValueError) as problem:  # ValueError: a name that no system accepts
        why = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise InputError(
            f"{short(str(path), 1000)}: cannot be read ({why}); expected a file that polyvae wrote; check the path"
        ) from None


def file_digest(path: Path, most: int | None = None) -> str:
    """24 hexadecimal digits of a file's content. Raises InputError as ``read_bytes``."""
    return hashlib.blake2b(read_bytes(path, most), digest_size=12).hexdigest()


def read_text(path: Path) -> str:
    """A text file in UTF-8. Raises InputError as ``read_bytes``, and UnicodeDecodeError."""
    return read_bytes(path, _TEXT).decode("utf-8")


def parsed(text: bytes) -> Any:
    """JSON whose values are not nested more deeply than polyvae's own files. Raises ValueError; one of its kinds are repeated keys."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key occurs twice in one object")
        return found

    try:
        value = json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("values are nested too deeply") from None
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raises ValueError where lists and dicts are nested too deeply for the recursive functions of libraries."""
    level = [value]
    for _ in range(_DEEP):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError("values are nested too deeply")


def unwritten(path: Path, problem: OSError) -> StorageError:
    """The error to raise where ``path`` could not be written."""
    return StorageError(
        f"{path}: not written ({problem.strerror}); expected a writable folder with room; what was there before "
        "is unchanged; free space or write elsewhere"
    )


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, and a rename is on disk as it is
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_text(where: str, value: Any, indent: int | None = None) -> str:
    """``value`` as JSON. Raises InputError, which begins with ``where``: JSON cannot hold it."""
    try:
        return json.dumps(value, indent=indent)
    except (TypeError, ValueError) as problem:
        raise InputError(
            f"{where}: got a value that JSON cannot hold ({problem}); expected numbers, strings, lists and dicts; "
            "convert it first"
        ) from None


def read_object(path: Path, remedy: str, otherwise: dict[str, Any] | None = None) -> dict[str, Any]:
    """The object in a JSON file; ``otherwise``, if given, where there is no file. Raises InputError, which ends with ``remedy``."""
    if otherwise is not None and not path.exists():
        return otherwise
    data, problem = read_bytes(path, _TEXT), "something else"
    try:
        found = parsed(data)
    except ValueError as torn:
        found, problem = None, str(torn)
    if not isinstance(found, dict):
        raise InputError(
            f"{path}: got something that is not JSON, or no object ({problem}); expected a file that polyvae wrote; {remedy}"
        )
    return found


def short(text: str, width: int) -> str:
    """``text`` on one line of at most ``width`` characters."""
    return textwrap.shorten(text, width, placeholder=" ...")


def finite_json(value: Any) -> Any:
    """``value`` with null in place of numbers that are not finite, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite_json(x) for key, x in value.items()}
    return [finite_json(x) for x in value] if isinstance(value, list | tuple) else value

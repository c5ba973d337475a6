"""Files of data sets: where they are, whether they are the published ones, and how they are downloaded."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import os
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

from polyvae.utils.errors import InputError
from polyvae.utils.files import StorageError, read_bytes, write_atomic

_TIMEOUT = 30.0  # seconds without a byte
_MOST = 64 * 2**20  # bytes; the largest file of MNIST has 47,040,016


def cache_folder(cache: str | Path | bool | None) -> Path | None:
    """The folder for ``cache``: True is the environment variable POLYVAE_CACHE, else ~/.cache/polyvae; False or None is none."""
    if cache is None or cache is False:
        return None
    if cache is True:
        cache = os.environ.get("POLYVAE_CACHE") or Path.home() / ".cache" / "polyvae"
    return Path(cache)


def unpacked(path: Path, md5: str, homes: Sequence[str]) -> bytes:
    """The content of the gzip file ``path``, downloaded there from the first of ``homes`` that has it where it is missing.

    ``md5`` is the published digest of the content, not of the packing: gzip writes dates and levels, so packings differ. A packing or a
    content of more than 64 MB is none of the published ones, and is not unpacked any further.
    Raises InputError: no file and no way to download it, a content that is not the published one.
    """
    packed = read_bytes(path, _MOST) if path.exists() else download(path.name, homes, path)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            content = file.read(_MOST + 1)
        if len(content) > _MOST:
            raise OSError(f"more than {_MOST:,} bytes when unpacked")
    except (OSError, EOFError, zlib.error) as problem:
        raise InputError(
            f"{path}: got {problem}; expected a gzip file; delete it to download it again"
        ) from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise InputError(
            f"{path}: got content with md5 {found}; expected the published {md5}; delete it to download it again"
        )
    if not path.is_file():
        _keep(path, packed)
    return content


def download(name: str, homes: Sequence[str], path: Path) -> bytes:
    """The file ``name`` from the first of ``homes`` that has it; nothing is written. Raises InputError, naming ``path``."""
    reason = "no address known"
    for home in homes:
        try:
            with urllib.request.urlopen(f"{home}/{name}", timeout=_TIMEOUT) as answer:
                content: bytes = answer.read(_MOST + 1)
                if len(content) > _MOST:
                    raise OSError(f"more than {_MOST:,} bytes")
                missing = int(answer.headers.get("Content-Length", 0)) - len(content)
                if missing > 0:
                    raise http.client.IncompleteRead(content, missing)
                return content
        except (OSError, ValueError, http.client.HTTPException) as problem:  # URLError is an OSError
            reason = " ".join(str(problem).split())
    raise InputError(
        f"{path}: there is no such file and it cannot be downloaded ({reason}); expected {name} there; put it there, from "
        f"{' or '.join(homes) or 'where the data are published'}"
    )


def _keep(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except (OSError, StorageError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "no permission, or no room"
        raise InputError(
            f"{path}: cannot be written ({why}); expected a folder to keep the download in; pass another root="
        ) from None

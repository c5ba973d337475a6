"""Files of data sets: where they are, whether they are the published ones, and how they are downloaded."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

from polyvae.utils.errors import InputError

_TIMEOUT = 30.0  # seconds without a byte


def cache_folder(cache: str | Path | bool | None) -> Path | None:
    """The folder for ``cache``: True is the environment variable POLYVAE_CACHE, else ~/.cache/polyvae; False or None is none."""
    if cache is None or cache is False:
        return None
    if cache is True:
        cache = os.environ.get("POLYVAE_CACHE") or Path.home() / ".cache" / "polyvae"
    return Path(cache)


def unpacked(path: Path, md5: str, homes: Sequence[str]) -> bytes:
    """The content of the gzip file ``path``, downloaded there from the first of ``homes`` that has it where it is missing.

    ``md5`` is the published digest of the content, not of the packing: gzip writes dates and levels, so packings differ.
    Raises InputError: no file and no way to download it, a content that is not the published one.
    """
    packed = path.read_bytes() if path.is_file() else download(path.name, homes, path)
    try:
        content = gzip.decompress(packed)
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
                content: bytes = answer.read()
                return content
        except (OSError, ValueError, http.client.HTTPException) as problem:  # URLError is an OSError
            reason = " ".join(str(problem).split())
    raise InputError(
        f"{path}: there is no such file and it cannot be downloaded ({reason}); expected {name} there; put it there, from "
        f"{' or '.join(homes) or 'where the data are published'}"
    )


def file_digest(path: Path) -> str:
    """24 hexadecimal digits of a file's content."""
    return hashlib.blake2b(path.read_bytes(), digest_size=12).hexdigest()


def _keep(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError as problem:
        with contextlib.suppress(OSError):
            part.unlink()
        raise InputError(
            f"{path}: cannot be written ({problem.strerror}); expected a folder to keep the download in; pass another "
            "root="
        ) from None

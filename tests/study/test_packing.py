"""Folders as bytes: what arrives is what was sent, and nothing else can be."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from polyvae.study.packing import pack, unpack
from polyvae.utils.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "MMVAE+,private=1,seed=0"
    (made / "checkpoints").mkdir(parents=True)
    (made / "config.toml").write_bytes(b"a = 1\n")
    (made / "checkpoints" / "step-3.safetensors").write_bytes(bytes(range(256)) * 5)
    (made / "checkpoints" / "latest").write_bytes(b"")
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def test_a_folder_arrives_as_it_was_sent_and_replaces_the_one_that_was_there(
    folder: Path, tmp_path: Path
) -> None:
    before = contents(folder)
    (folder / ".lock").write_text("1")
    (folder / ".config.toml.01234567.partial").write_text("a =")
    packed = pack(folder)
    there = tmp_path / "there" / folder.name
    there.mkdir(parents=True)
    (there / "old").write_text("old")
    unpack(packed, there)
    assert contents(there) == before
    assert os.listdir(there.parent) == [there.name]
    assert pack(there) == packed  # no time or owner of a file is in it


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "./a", "a//b", "..", ""])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    packed = tar_of((tarfile.TarInfo("fine"), b"1"), (tarfile.TarInfo(name), b"2"))
    with pytest.raises(InputError, match="expected plain files inside the folder, each once; nothing was"):
        unpack(packed, tmp_path / "in" / "folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    entry = tarfile.TarInfo("link")
    entry.type, entry.linkname = kind, "/etc/passwd"
    with pytest.raises(InputError, match="got the entry 'link'"):
        unpack(tar_of((entry, b"")), tmp_path / "in" / "folder")
    assert not list(tmp_path.iterdir())


def test_names_that_occur_twice_and_bytes_that_are_no_tar_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="each once"):
        unpack(tar_of((tarfile.TarInfo("a"), b"1"), (tarfile.TarInfo("a"), b"2")), tmp_path / "x")
    with pytest.raises(InputError, match="that are not a tar file"):
        unpack(b"no tar file" * 100, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_links_are_not_sent(folder: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="link: got a link, or no plain file"):
        pack(folder)
    outer = folder.with_name("outer")
    outer.symlink_to(folder)
    with pytest.raises(InputError, match="outer: got a link"):
        pack(outer)

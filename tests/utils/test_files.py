"""Files: tensors and metadata come back bit for bit, damage is noticed, a failed write leaves the old file."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from polyvae.utils import files
from polyvae.utils.files import StorageError, atomic, load_tensors, save_tensors, write_atomic, write_npz
from polyvae.utils.partial import claimed_folder
from tests.helpers.storage import message


@pytest.fixture
def tensors():
    tied = torch.arange(6.0).view(2, 3)
    return {
        "tied": tied,
        "a.b/c": tied,
        "turned": tied.T,
        "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        "flag": torch.tensor([True, False]),
        "step": torch.tensor(7),
        "empty": torch.empty(0, 4, dtype=torch.float64),
    }


@pytest.fixture
def metadata():
    return {
        "share": 0.1,
        "sha256": "0" * 64,
        "polyvae": '"polyvae":"' + "0" * 64,
        "name": "modalité",
        "nested": {"list": [1, None, True]},
    }


@pytest.fixture
def file(tmp_path, tensors, metadata):
    path = tmp_path / "file.safetensors"
    save_tensors(path, tensors, metadata)
    return path


def test_tensors_and_metadata_come_back_bit_for_bit(file, tensors, metadata):
    loaded, told = load_tensors(file)
    assert told == metadata
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert safetensors.torch.load_file(file).keys() == tensors.keys()  # others can read it too


def test_equal_contents_are_equal_files(file, tensors, metadata, tmp_path):
    save_tensors(tmp_path / "again", dict(reversed(tensors.items())), metadata)
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_any_changed_byte_is_noticed(file):
    whole = file.read_bytes()
    for place in range(len(whole)):
        for flip in (0x01, 0x20, 0xFF):  # 0x20 changes the case of hexadecimal digits
            file.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            assert str(file) in message(load_tensors, file)


def test_any_truncation_and_any_addition_is_noticed(file):
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        message(load_tensors, file)
    assert f"got {len(whole) - 1} bytes; expected {len(whole)}: the file is truncated" in message(
        load_tensors, file
    )
    file.write_bytes(whole + b"\0")
    assert "do not match their sha256" in message(load_tensors, file)


def test_files_of_another_kind_are_named_as_such(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    assert "No such file" in message(load_tensors, path)
    assert "Is a directory" in message(load_tensors, tmp_path)
    torch.save({"a": torch.ones(1)}, path)
    assert "not a safetensors file" in message(load_tensors, path)
    safetensors.torch.save_file({"a": torch.ones(1)}, path)
    assert "without polyvae's metadata" in message(load_tensors, path)
    monkeypatch.setattr(files, "FORMAT", 3)
    save_tensors(path, {}, {})
    monkeypatch.undo()
    assert "format version 3; expected 2 or older; upgrade polyvae" in message(load_tensors, path)


def test_metadata_that_json_cannot_hold_is_refused_and_the_old_file_stays(file):
    before = file.read_bytes()
    assert "JSON cannot hold" in message(save_tensors, file, {}, {"bad": torch.ones(1)})
    assert file.read_bytes() == before


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_atomic(path, b"old")

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert "not written (No space left on device)" in message(write_atomic, path, b"new", kind=StorageError)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def killed_while_writing(folder, pipe):
    with atomic(folder / "model.safetensors") as file, claimed_folder(folder / "cache") as cache:
        file.write(b"half")
        Path(cache, "x.npy").write_bytes(b"half")
        pipe.send("ready")
        pipe.recv()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    fork = multiprocessing.get_context("fork")  # which has imported everything already
    pipe, theirs = fork.Pipe()
    process = fork.Process(target=killed_while_writing, args=(tmp_path, theirs))
    process.start()
    assert pipe.recv() == "ready"
    (tmp_path / ".mine.partial").write_text("mine")
    write_atomic(tmp_path / "other", b"")
    assert len(list(tmp_path.glob(".*.partial"))) == 3
    pipe.send("go on")
    process.join()
    write_atomic(tmp_path / "other", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.partial", "other"]


def test_samples_keep_their_names_and_a_failed_write_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    arrays = {
        name: np.arange(3.0) + n
        for n, name in enumerate(("file", "allow_pickle", "a/b", "x.y", "self", "args"))
    }
    write_npz(path, arrays)
    with np.load(path) as found:
        assert set(found.files) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
    assert "differ by more than .npy" in message(write_npz, path, {"a": np.ones(1), "a.npy": np.ones(1)})
    before = path.read_bytes()

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert "No space left" in message(write_npz, path, {"a": np.ones(1)}, kind=StorageError)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npz"]


def test_write_to_a_missing_folder_says_so(tmp_path):
    assert "No such file or directory" in message(
        write_atomic, Path(tmp_path, "no", "x"), b"", kind=StorageError
    )


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices with a path")
def test_a_pipe_and_a_device_are_named_as_what_they_are(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        assert "cannot be read (a pipe, socket or device, no regular file)" in message(load_tensors, path)


def test_a_key_that_occurs_twice_is_refused():
    for text in (b'{"a": 1, "a": 1}', b'[{"b": {"a": 1, "a": 2}}]'):
        with pytest.raises(ValueError, match="a key occurs twice"):
            files.parsed(text)
    assert files.parsed(b'[{"a": 1}, {"a": 2}]') == [{"a": 1}, {"a": 2}]


def test_numbers_that_json_does_not_have_are_null():
    given = {"a": [1.0, float("nan")], "b": {"c": float("inf")}, "d": (2, -float("inf"))}
    assert files.finite_json(given) == {"a": [1.0, None], "b": {"c": None}, "d": [2, None]}

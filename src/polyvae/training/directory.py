"""Run directories: where everything that a run writes is kept."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyvae.models.bundles import MODEL, no_such_run
from polyvae.utils.errors import InputError
from polyvae.utils.files import (
    Path_,
    finite_json,
    json_text,
    parsed,
    read_bytes,
    read_object,
    unwritten,
    write_atomic,
)
from polyvae.utils.locks import LOCK
from polyvae.utils.partial import sweep
from polyvae.utils.records import StoredEpoch
from polyvae.utils.text import named

_log = logging.getLogger("polyvae")

CONFIG, FIT = "config.toml", "fit.json"
"""What makes a directory a run: of ``fit``, or of ``polyvae fit``."""
MADE = (
    CONFIG,
    "model.safetensors",
    "fitted_prior.safetensors",
    "history.jsonl",
    "evaluation.json",
    "report.html",
    "checkpoints/step-*.safetensors",
    "checkpoints/best.safetensors",
    "checkpoints/latest",
)
"""What a run writes, beside its figures."""

_RECORD = ".written"
"""In the folder of the figures: the names of those that reports have written, one in each line."""
_LONGEST = 256 * 2**20  # bytes of a history


class RunDirectory:
    """The paths of a run. The constructor only names them; ``create`` and ``open`` look at the disk."""

    def __init__(self, path: Path_) -> None:
        self.path = Path(path)
        self.config = self.path / CONFIG
        self.model = self.path / MODEL
        self.fitted_prior = self.path / "fitted_prior.safetensors"
        self.checkpoints = self.path / "checkpoints"
        self.history = self.path / "history.jsonl"
        self.evaluation = self.path / "evaluation.json"
        self.report = self.path / "report.html"
        self.figures = self.path / "figures"

    @classmethod
    def create(cls, path: Path_, force: bool = False) -> RunDirectory:
        """A new, empty run directory. ``force`` removes what an earlier run wrote there, and never anything else, nor through a link.

        Raises InputError: see ``check_new``.
        """
        run = cls.check_new(path, force)
        try:
            run._sweep()
            for file in run._written():
                file.unlink()
            run.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise unwritten(run.path, problem) from None
        return run

    @classmethod
    def check_new(cls, path: Path_, force: bool = False) -> RunDirectory:
        """The run directory that ``create`` would make; nothing is written.

        Raises InputError: a run exists and ``force`` is not given; something that is not a run exists, with or without ``force``.
        """
        run = cls(path)
        # Many programs write a config.toml, so a second sign is required before files are removed.
        ours = run.config.is_file() and any(
            sign.exists() for sign in (run.checkpoints, run.history, run.model)
        )
        # A run that was killed at its start may have left only a part of config.toml.
        there = [
            entry
            for entry in _entries(run.path)
            if not entry.match(".config.toml.*.partial") and entry.name != LOCK
        ]
        empty = all(entry in (run.checkpoints, run.figures) and not any(entry.glob("*")) for entry in there)
        if not empty and not ours:
            raise InputError(
                f"{run.path}: got something that is not a run; expected a run or an empty directory; choose another path"
            )
        if not empty and not force:
            raise InputError(
                f"{run.path}: got an existing run; expected an empty directory; --resume continues it, --force replaces it"
            )
        if run.checkpoints.is_symlink():
            raise InputError(
                f"{run.checkpoints}: got a link; expected a folder of the run, because nothing is removed through links; "
                "remove the link, or choose another path"
            )
        return run

    @classmethod
    def open(cls, path: Path_) -> RunDirectory:
        """An existing run directory. Raises InputError: there is none; the nearest run beside it is named."""
        run = cls(path)
        if not os.path.isdir(run.path):
            raise no_such_run(run.path)
        if not any(file.exists() for file in (run.config, run.model, run.history, run.checkpoints)):
            raise _not_a_run(run.path)
        run._sweep()
        return run

    def write_figures(self, files: Mapping[str, bytes]) -> None:
        """Write files of figures, and record their names, by which ``create`` knows them. Raises StorageError."""
        try:
            self.figures.mkdir(exist_ok=True)
        except OSError as problem:
            raise unwritten(self.figures, problem) from None
        names = dict.fromkeys([*self._recorded(), *files])
        write_atomic(self.figures / _RECORD, "".join(f"{name}\n" for name in names).encode())
        for name, content in files.items():
            write_atomic(self.figures / name, content)

    def _recorded(self) -> list[str]:
        """The names of figures that reports have written: plain names, whatever the file may contain."""
        record = self.figures / _RECORD
        lines = read_bytes(record, 2**20).decode("utf-8", "replace").split("\n") if record.is_file() else []
        return [name for name in lines if name and name == os.path.basename(name) and name not in (".", "..")]

    def _written(self) -> list[Path]:
        """The existing files that runs and reports wrote. A link counts as the file that it replaced."""
        files = [file for pattern in MADE for file in self.path.glob(pattern)]
        if not self.figures.is_symlink():
            files += [self.figures / name for name in (*self._recorded(), _RECORD)]
        return [file for file in files if file.is_symlink() or file.is_file()]

    def _sweep(self) -> None:
        """Remove what killed processes left."""
        for folder in (self.path, self.checkpoints, self.figures):
            if folder == self.path or not folder.is_symlink():
                sweep(folder)

    def append_history(self, record: Mapping[str, Any]) -> None:
        """Add one line to history.jsonl, with null in place of numbers that are not finite. Raises StorageError: a full disk."""
        line = json_text(f"{self.history}: record", finite_json(dict(record))).encode() + b"\n"
        try:
            with self.history.open("ab+") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(end - 1, 0))
                # A line that a full disk or kill -9 cut short must not run into this one.
                file.write(line if file.read() in (b"", b"\n") else b"\n" + line)
        except OSError as problem:
            raise unwritten(self.history, problem) from None

    def read_history(self) -> list[dict[str, Any]]:
        """The records of history.jsonl, none if there is no such file. Incomplete lines are skipped with a warning in the log.

        Raises InputError: a line that is complete, and contains something else than polyvae writes.
        """
        records = []
        for number, line in enumerate(
            read_bytes(self.history, _LONGEST).splitlines() if self.history.exists() else [], 1
        ):
            try:
                record = parsed(line)
            except ValueError:
                record = None
            if isinstance(record, dict):
                StoredEpoch.check(record, f"{self.history}: line {number}", "remove the line")
                records.append(record)
            else:
                _log.warning("%s: line %d is torn, skipped", self.history, number)
        return records

    def last_step(self) -> int | None:
        """The step of the last checkpoint, by its name; None without one. The checkpoint is not read."""
        steps = [
            int(found[1])
            for file in self.checkpoints.glob("step-*.safetensors")
            if (found := re.fullmatch(r"step-(\d+)\.safetensors", file.name))
        ]
        return max(steps, default=None)

    def cut_history(self, step: int) -> None:
        """Drop the records whose "step" is above ``step``, and incomplete lines; records without "step" stay."""
        if self.history.exists():
            kept = [record for record in self.read_history() if record.get("step", step) <= step]
            self.write_text(
                self.history.name, "".join(json.dumps(finite_json(record)) + "\n" for record in kept)
            )

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run directory completely or not at all. Raises StorageError."""
        write_atomic(self.path / name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run directory completely or not at all. Raises InputError, StorageError."""
        self.write_text(name, json_text(str(self.path / name), value, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run directory. Raises InputError: missing, or not a JSON object."""
        return read_object(self.path / name, "write it again")


def _entries(folder: Path) -> list[Path]:
    """The entries of a folder; none where it does not exist. A file is its own entry, because it blocks the folder's name."""
    return list(folder.iterdir()) if folder.is_dir() else [folder] if folder.exists() else []


def _not_a_run(path: Path) -> InputError:
    """The error where a directory is not a run: it is one of polyvae fit, it contains runs, or it is something else."""
    if (path / FIT).is_file():
        return InputError(
            f"{path}: got a run of polyvae fit; expected one of polyvae train; polyvae report, score, impute, embed and predict take it"
        )
    inside = [
        str(path / name)
        for name in sorted(os.listdir(path))
        if any((path / name / file).is_file() for file in (CONFIG, FIT))
    ]
    if inside:
        return InputError(
            f"{path}: got a directory that is not a run, but contains some; expected one of them; {named(inside)}"
        )
    return InputError(
        f"{path}: got a directory that is not a run; expected one with config.toml; check the path"
    )

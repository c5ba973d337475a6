"""Files that survive: bundles, checkpoints and run directories.

Tensors go into safetensors files with JSON metadata and a digest; nothing is unpickled, ever. Every file appears whole or not at all:
it is written beside its place, fsynced and renamed, so neither a full disk nor kill -9 costs what was there before.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import safetensors.torch
import torch
from torch import Tensor

from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE
from polyvae.models import build, name_of
from polyvae.utils.errors import InputError, nearest

FORMAT = 1
MADE = (
    "config.toml",
    "model.safetensors",
    "fitted_prior.safetensors",
    "history.jsonl",
    "evaluation.json",
    "report.html",
    "checkpoints/step-*.safetensors",
    "checkpoints/best.safetensors",
    "checkpoints/latest",
    "figures/*",
    ".*.partial",
    "*/.*.partial",
)
"""What a run makes, and all that ``RunDirectory.create(force=True)`` removes."""

_MARK = b'"polyvae":"'  # followed by 64 hexadecimal digits of sha256; inside JSON strings the quotes are escaped, so it is found once
_BLANK = "0" * 64
_log = logging.getLogger("polyvae")

Path_ = str | os.PathLike[str]


class StorageError(InputError):
    """A file could not be written. What was there before is unchanged."""


class Bundle(NamedTuple):
    """A model as stored: name or import path, ``{"options": ..., "modalities": [...]}``, name -> tensor, and whatever else was put in."""

    name: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    extra: dict[str, Any]


# ---- files -----------------------------------------------------------------------------------------------------------------------


def write_atomic(path: Path_, data: bytes) -> None:
    """Write a file so that at every moment, and after a power cut, either the old or the new one is there, whole.

    Raises StorageError (full disk, no permission, no such folder): the old file is unchanged and no temporary one is left.
    """
    path = Path(path)
    partial = path.with_name(
        f".{path.name}.{uuid4().hex[:8]}.partial"
    )  # unique: two processes may fill the same cache
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as problem:
        raise _unwritten(path, problem) from None
    finally:
        partial.unlink(missing_ok=True)


def save_tensors(path: Path_, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """One safetensors file: tensors (tied and non-contiguous ones become copies), JSON metadata, version and sha256 of the whole.

    The same contents give the same bytes. Tuples in ``metadata`` come back as lists.

    Raises InputError: metadata that JSON cannot hold. StorageError: see ``write_atomic``.
    """
    copies = {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    text = _json(f"{path}: metadata", {"version": FORMAT, "metadata": dict(metadata)})
    # One entry only: safetensors writes several in random order, and equal contents should be equal files.
    data = safetensors.torch.save(copies, {"polyvae": f"{_BLANK} {text}"})
    digest = hashlib.sha256(data).hexdigest()
    write_atomic(path, data.replace(_MARK + _BLANK.encode(), _MARK + digest.encode(), 1))


def load_tensors(path: Path_, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on ``device``, and the metadata that ``save_tensors`` wrote. Any changed byte is noticed.

    Raises InputError: a file that is missing, truncated, damaged, of another kind, or of a newer format.
    """
    data = _read(Path(path))
    at, stored = _header(path, data)
    view, digest = memoryview(data), hashlib.sha256()
    for part in (view[:at], _BLANK.encode(), view[at + len(_BLANK) :]):
        digest.update(part)
    if digest.hexdigest().encode() != data[at : at + len(_BLANK)]:
        raise InputError(
            f"{path}: got contents that do not match their sha256; expected the file as written; copy it again"
        )
    tensors = safetensors.torch.load(data)
    return {name: tensor.to(device) for name, tensor in tensors.items()}, stored["metadata"]


def _header(path: Path_, data: bytes) -> tuple[int, dict[str, Any]]:
    """Where the digest stands, and what is stored beside the tensors."""
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
        header = json.loads(data[8:size])
        text = header.get("__metadata__", {}).get("polyvae")
        stored = json.loads(text[len(_BLANK) + 1 :]) if text else None
        size += max(
            (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0
        )
        version = int(stored["version"]) if stored else 0
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise InputError(
            f"{path}: cannot be read ({problem.strerror}); expected a file that polyvae wrote; check the path"
        ) from None


def _unwritten(path: Path, problem: OSError) -> StorageError:
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


def _json(where: str, value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent)
    except (TypeError, ValueError) as problem:
        raise InputError(
            f"{where}: got a value that JSON cannot hold ({problem}); expected numbers, strings, lists and dicts; "
            "convert it first"
        ) from None


# ---- bundles ---------------------------------------------------------------------------------------------------------------------


def save_bundle(
    path: Path_,
    *,
    model_name: str,
    config: dict[str, Any],
    state: Mapping[str, Tensor],
    extra: dict[str, Any],
) -> None:
    """A model in one file. Raises InputError, StorageError: see ``save_tensors``."""
    save_tensors(path, state, {"kind": "model", "name": model_name, "config": config, "extra": extra})


def load_bundle(path: Path_, device: torch.device | str = "cpu") -> Bundle:
    """The model stored in a ``.safetensors`` file, or in the run directory ``path``. No code is imported.

    Raises InputError: see ``load_tensors``; a run without a model yet; a polyvae file that is not a model.
    """
    path = Path(path)
    if path.is_dir() or not (path.exists() or path.suffix == ".safetensors"):
        run = RunDirectory.open(path)
        path = run.model
        if not path.exists():
            raise InputError(
                f"{run.path}: got a run without model.safetensors; expected a finished run; continue it with --resume"
            )
    state, metadata = load_tensors(path, device)
    if metadata.get("kind") != "model":
        raise InputError(
            f"{path}: got a polyvae file that is not a model; expected model.safetensors of a run, or an exported bundle"
        )
    return Bundle(metadata["name"], metadata["config"], state, metadata["extra"])


def save_model(model: MultimodalVAE, path: Path_, extra: dict[str, Any] | None = None) -> None:
    """The model in one file, from which ``load_model`` builds it again, bit for bit.

    Raises InputError: see ``check_storable``. StorageError: see ``write_atomic``.
    """
    save_bundle(
        path,
        model_name=name_of(model),
        config=check_storable(model),
        state=model.state_dict(),
        extra=extra or {},
    )


def load_model(path: Path_, trust: Sequence[str] = (), device: torch.device | str = "cpu") -> MultimodalVAE:
    """The model stored in a bundle or run directory, in the dtype it was stored in, on ``device``, in evaluation mode.

    ``trust`` names the packages that may be imported for what the bundle gives by import path: a model that is not in MODELS, encoders and
    decoders; polyvae's own always may.

    Raises InputError: see ``load_bundle``; a package that is not trusted; weights that do not fit the model described beside them.
    """
    bundle = load_bundle(path)
    if ":" in bundle.name:
        check_import("model", bundle.name, trust, "Class")
    modalities = [read_modality(table) for table in bundle.config["modalities"]]
    for modality in modalities:
        check_trust(modality, trust)
    with torch.random.fork_rng(
        devices=[]
    ):  # the initial weights are overwritten, so drawing them should leave no trace
        model = build(bundle.name, modalities, **bundle.config["options"])
    model.to(
        max(
            (tensor.dtype for tensor in bundle.state.values() if tensor.is_floating_point()),
            key=lambda dtype: dtype.itemsize,
        )
    )
    try:
        model.load_state_dict(bundle.state)
    except RuntimeError as problem:
        raise InputError(
            f"{path}: got weights that do not fit model {bundle.name!r} ({_short(str(problem), 200)}); expected those of the "
            "same version; load it with the polyvae that wrote it"
        ) from None
    return model.to(device).eval()


def check_storable(model: MultimodalVAE) -> dict[str, Any]:
    """What of a model goes into a bundle beside the weights: ``{"options": ..., "modalities": [...]}``.

    Raises InputError, before any training: a model, encoder or decoder that cannot be named by an import path; an option JSON cannot hold.
    """
    if ":" in name_of(model):
        _import_path(f"model {model.name!r}", type(model), "Class")
    config = {
        "options": dict(model.options),
        "modalities": [describe_modality(net.spec) for net in model.modalities.values()],
    }
    loaded: dict[str, Any] = json.loads(_json(f"model {model.name!r}", config))
    return loaded


def describe_modality(modality: Modality) -> dict[str, Any]:
    """A ``[[modality]]`` table: every field but those that are None. Raises InputError: a factory without an import path."""
    table: dict[str, Any] = {
        field.name: getattr(modality, field.name) for field in dataclasses.fields(modality)
    }
    table |= {"shape": list(modality.shape), "params": dict(modality.params)}
    for side in ("encoder", "decoder"):
        if callable(table[side]):
            table[side] = _import_path(f"modality {modality.name!r}: {side}", table[side])
    return {key: value for key, value in table.items() if value is not None}


def read_modality(table: Mapping[str, Any]) -> Modality:
    """The inverse of ``describe_modality``. Raises InputError: an unknown or missing key, and what Modality raises."""
    where = f"modality {table.get('name', '?')!r}"
    known = [field.name for field in dataclasses.fields(Modality)]
    for key in table:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; {nearest(key, known)}")
    for key in ("name", "shape"):
        if key not in table:
            raise InputError(
                f"{where}: got no {key!r}; expected a table with at least name and shape; add it"
            )
    return Modality(**table)


def check_trust(modality: Modality, trust: Sequence[str]) -> None:
    """Raises InputError: an encoder or decoder whose import path is not of a package in ``trust``, nor of polyvae."""
    for side in ("encoder", "decoder"):
        given = getattr(modality, side)
        if isinstance(given, str) and ":" in given:
            check_import(f"modality {modality.name!r}: {side}", given, trust, "factory")


def check_import(where: str, given: str, trust: Sequence[str], what: str) -> None:
    """Raises InputError: ``given`` is not an import path "package.module:NAME", or not of a package in ``trust``, nor of polyvae."""
    # No dots after the colon: through a module's attributes one reaches whatever else it has imported.
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", given):
        raise InputError(
            f"{where}: got {given!r}; expected an import path 'package.module:{what}'; correct it"
        )
    module = given.partition(":")[0]
    if not any(module == name or module.startswith(f"{name}.") for name in ("polyvae", *trust)):
        package = module.partition(".")[0]
        raise InputError(
            f"{where}: {given!r} would import {package!r}, which is not trusted; expected polyvae's own or a trusted package; "
            f"if you know it, pass trust=[{package!r}], or --trust {package}"
        )


def _import_path(where: str, factory: Callable[..., Any], what: str = "factory") -> str:
    module, name = getattr(factory, "__module__", ""), getattr(factory, "__qualname__", "")
    if module in ("", "__main__") or not name.isidentifier():
        raise InputError(
            f"{where}: got {_short(repr(factory), 80)}, which no other program can import; expected it at the top level of "
            f"a module; move it into one, and give it or 'package.module:{what}'"
        )
    return f"{module}:{name}"


def _short(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder=" ...")


# ---- checkpoints -----------------------------------------------------------------------------------------------------------------


class Checkpoints:
    """The last ``keep`` checkpoints in a folder, ``step-000000123.safetensors``, and the file ``latest`` that names one of them.

    The pointer moves only after its checkpoint is on disk, and older ones go only after that: after kill -9 at any moment
    the latest can be loaded.
    """

    def __init__(self, directory: Path_, keep: int = 2) -> None:
        if keep < 1:
            raise InputError(
                f"checkpoints: got keep={keep}; expected 1 or more; with 2, one stands in if the newest is damaged"
            )
        self.directory, self.keep = Path(directory), keep

    def save(self, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
        """Write the checkpoint of ``step``, point to it, and remove those beyond ``keep`` (and of later steps: another future).

        Raises StorageError: not written; the checkpoints that were there still are.
        """
        path = self.directory / f"step-{step:09d}.safetensors"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise _unwritten(path, problem) from None
        save_tensors(path, tensors, metadata)
        write_atomic(self.directory / "latest", f"{path.name}\n".encode())
        files = self._files()
        kept = [file for file in files if file <= path][-self.keep :]
        for file in ({*files} - {*kept}) | {*self.directory.glob(".*.partial")}:
            file.unlink(missing_ok=True)
        return path

    def latest(self) -> Path | None:
        """The newest checkpoint that is whole, or None where there is none. Raises InputError: there are some, all damaged."""
        found = self._newest("cpu")
        return found[0] if found else None

    def load(self, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of ``latest()``. Raises InputError: no checkpoint, or all are damaged."""
        found = self._newest(device)
        if found is None:
            raise InputError(
                f"{self.directory}: got no checkpoint; expected at least one step-*.safetensors; start the run afresh"
            )
        return found[1], found[2]

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("step-*.safetensors"))

    def _newest(self, device: torch.device | str) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
        files = self._files()[::-1]
        try:
            pointed = (self.directory / "latest").read_text("utf-8", "replace").strip()
        except OSError:
            pointed = ""
        files.sort(key=lambda file: file.name != pointed)  # stable: the one pointed to, then from new to old
        for file in files:
            try:
                return file, *load_tensors(file, device)
            except InputError as problem:
                _log.warning("checkpoint skipped, trying the one before: %s", problem)
        if files:
            raise InputError(
                f"{self.directory}: got {len(files)} checkpoints, all damaged; expected a whole one; start the run afresh"
            )
        return None


def flatten_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``optimizer.state_dict()`` as tensors (the optimiser's own, not copies) and JSON values; inverse: ``restore_optimizer``."""
    rows = {f"state.{index}": row for index, row in state["state"].items()}
    rows |= {f"group.{index}": group for index, group in enumerate(state["param_groups"])}
    tensors = {
        f"{where}.{key}": value
        for where, row in rows.items()
        for key, value in row.items()
        if isinstance(value, Tensor)
    }
    return tensors, {
        where: {key: value for key, value in row.items() if not isinstance(value, Tensor)}
        for where, row in rows.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], jsonable: Mapping[str, Any]
) -> None:
    """Give ``optimizer`` the state that ``flatten_optimizer`` took from one of its kind; it continues bit for bit.

    ``tensors`` are copied. Raises InputError: another number of parameters or groups.
    """
    rows: dict[str, dict[str, Any]] = {where: dict(row) for where, row in jsonable.items()}
    for name, tensor in tensors.items():
        where, _, key = name.rpartition(".")
        rows[where][key] = tensor.clone()  # optimisers update their state in place, and it is not theirs
    groups = [rows[f"group.{index}"] for index in range(sum(where.startswith("group.") for where in rows))]
    for group, live in zip(groups, optimizer.param_groups, strict=False):
        group.update({key: tuple(value) for key, value in group.items() if isinstance(live.get(key), tuple)})
    state = {
        int(where.removeprefix("state.")): row for where, row in rows.items() if where.startswith("state.")
    }
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as problem:
        raise InputError(
            f"optimizer: got a state that does not fit ({problem}); expected one of the same model and optimiser; "
            "start the run afresh"
        ) from None


# ---- run directories -------------------------------------------------------------------------------------------------------------


class RunDirectory:
    """Where a run lives. The constructor only names it; ``create`` and ``open`` look at the disk."""

    def __init__(self, path: Path_) -> None:
        self.path = Path(path)
        self.config = self.path / "config.toml"
        self.model = self.path / "model.safetensors"
        self.fitted_prior = self.path / "fitted_prior.safetensors"
        self.checkpoints = self.path / "checkpoints"
        self.history = self.path / "history.jsonl"
        self.evaluation = self.path / "evaluation.json"
        self.report = self.path / "report.html"
        self.figures = self.path / "figures"

    @classmethod
    def create(cls, path: Path_, force: bool = False) -> RunDirectory:
        """A new, empty run directory. ``force`` removes what an earlier run made there (MADE), and never anything else.

        Raises InputError: a run is there and ``force`` is not given; something that is not a run is there, forced or not.
        """
        run = cls(path)
        # A config.toml alone is what many programs write, so it takes a second sign to believe that the files are ours to remove.
        ours = run.config.is_file() and any(
            sign.exists() for sign in (run.checkpoints, run.history, run.model)
        )
        # Of a run that was killed as it began, half a config.toml may be all there is.
        there = [entry for entry in _entries(run.path) if not entry.match(".config.toml.*.partial")]
        empty = all(entry in (run.checkpoints, run.figures) and not any(entry.glob("*")) for entry in there)
        if not empty and not ours:
            raise InputError(
                f"{run.path}: got something that is not a run; expected a run or an empty directory; choose another path"
            )
        if not empty and not force:
            raise InputError(
                f"{run.path}: got an existing run; expected an empty directory; --resume continues it, --force replaces it"
            )
        try:
            for file in (file for pattern in MADE for file in run.path.glob(pattern) if not file.is_dir()):
                file.unlink()
            run.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise _unwritten(run.path, problem) from None
        return run

    @classmethod
    def open(cls, path: Path_) -> RunDirectory:
        """An existing run directory. Raises InputError: there is none; the nearest run beside it is named."""
        run = cls(path)
        if not run.path.is_dir():
            beside = run.path.absolute().parent
            runs = sorted(entry.name for entry in _entries(beside) if (entry / "config.toml").is_file())
            raise InputError(
                f"{run.path}: no such run; expected a run directory; {_short(nearest(run.path.name, runs), 200)}"
            )
        if not any(file.exists() for file in (run.config, run.model, run.history, run.checkpoints)):
            raise InputError(
                f"{run.path}: got a directory that is not a run; expected one with config.toml; check the path"
            )
        return run

    def append_history(self, record: Mapping[str, Any]) -> None:
        """Add one line to history.jsonl. Raises StorageError: a full disk."""
        line = _json(f"{self.history}: record", dict(record)).encode() + b"\n"
        try:
            with self.history.open("ab+") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(end - 1, 0))
                # A line torn by a full disk or kill -9 must not swallow this one.
                file.write(line if file.read() in (b"", b"\n") else b"\n" + line)
        except OSError as problem:
            raise _unwritten(self.history, problem) from None

    def read_history(self) -> list[dict[str, Any]]:
        """The records of history.jsonl, none if there is no such file. Torn lines are skipped, with a note in the log."""
        records = []
        for number, line in enumerate(_read(self.history).splitlines() if self.history.exists() else [], 1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if isinstance(record, dict):
                records.append(record)
            else:
                _log.warning("%s: line %d is torn, skipped", self.history, number)
        return records

    def cut_history(self, step: int) -> None:
        """Drop the records whose "step" is above ``step``, and torn lines; records without "step" stay."""
        if self.history.exists():
            kept = [record for record in self.read_history() if record.get("step", step) <= step]
            self.write_text(self.history.name, "".join(json.dumps(record) + "\n" for record in kept))

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run directory, whole or not at all. Raises StorageError."""
        write_atomic(self.path / name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file into the run directory, whole or not at all. Raises InputError, StorageError."""
        self.write_text(name, _json(str(self.path / name), value, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run directory. Raises InputError: missing, or not a JSON object."""
        return read_object(self.path / name, "make it again")


def read_object(path: Path, remedy: str, otherwise: dict[str, Any] | None = None) -> dict[str, Any]:
    """The object in a JSON file; ``otherwise``, if that is given, where there is no file. Raises InputError that ends with ``remedy``."""
    if otherwise is not None and not path.exists():
        return otherwise
    try:
        found, problem = json.loads(_read(path)), "something else"
    except ValueError as torn:
        found, problem = None, str(torn)
    if not isinstance(found, dict):
        raise InputError(
            f"{path}: got something that is not JSON, or no object ({problem}); expected a file that polyvae wrote; {remedy}"
        )
    return found


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where there is none; a file counts as its own entry, for it stands in the way."""
    return list(folder.iterdir()) if folder.is_dir() else [folder] if folder.exists() else []

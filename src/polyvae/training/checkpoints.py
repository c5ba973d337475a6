"""Checkpoints: what a training resumes from."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyvae.training.sound import unsound
from polyvae.utils.errors import InputError, reading
from polyvae.utils.files import Path_, load_tensors, read_bytes, save_tensors, short, unwritten, write_atomic

_log = logging.getLogger("polyvae")


class Checkpoints:
    """The last ``keep`` checkpoints in a folder, ``step-000000123.safetensors``, and the file ``latest`` that names one of them.

    The pointer moves only after its checkpoint is on disk, and older ones are removed only after that: after kill -9 at any moment
    the latest can be loaded.
    """

    def __init__(self, directory: Path_, keep: int = 2) -> None:
        if keep < 1:
            raise InputError(
                f"checkpoints: got keep={keep}; expected 1 or more; 2 keeps a replacement for a damaged one"
            )
        self.directory, self.keep = Path(directory), keep

    def save(self, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
        """Write the checkpoint of ``step``, point to it, and remove those beyond ``keep`` and those of later steps.

        Raises StorageError: not written; the earlier checkpoints are unchanged.
        """
        path = self.directory / f"step-{step:09d}.safetensors"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise unwritten(path, problem) from None
        save_tensors(path, tensors, metadata)
        write_atomic(self.directory / "latest", f"{path.name}\n".encode())
        files = self._files()
        kept = [file for file in files if file <= path][-self.keep :]
        for file in {*files} - {*kept}:
            file.unlink(missing_ok=True)
        return path

    def latest(self) -> Path | None:
        """The newest checkpoint that is intact, or None where there is none. Raises InputError: all are damaged."""
        found = self._newest("cpu", ())
        return found[0] if found else None

    def load(
        self, device: torch.device | str = "cpu", any_value: Collection[str] = ()
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of the newest checkpoint that is intact and whose values are finite.

        Args:
            device: Where the tensors are put.
            any_value: Names of tensors that may have values that are not finite.

        Raises:
            InputError: No checkpoint, or all are damaged.
        """
        found = self._newest(device, any_value)
        if found is None:
            raise InputError(
                f"{self.directory}: got no checkpoint; expected at least one step-*.safetensors; start the run again"
            )
        return found[1], found[2]

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("step-*.safetensors"))

    def _newest(
        self, device: torch.device | str, any_value: Collection[str]
    ) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
        files = self._files()[::-1]
        try:
            pointed = read_bytes(self.directory / "latest", 1000).decode("utf-8", "replace").strip()
        except InputError:
            pointed = ""
        files.sort(key=lambda file: file.name != pointed)  # stable: the one pointed to, then from new to old
        for file in files:
            try:
                tensors, metadata = load_tensors(file, device)
                name = unsound({name: x for name, x in tensors.items() if name not in any_value})
                if name is None:
                    return file, tensors, metadata
                raise InputError(
                    f"{file}: got values that are not finite in {name!r}; expected finite ones; resume from an earlier one"
                )
            except InputError as problem:
                _log.warning("checkpoint skipped, trying the one before: %s", problem)
        if files:
            raise InputError(
                f"{self.directory}: got {len(files)} checkpoints, all damaged; expected an intact one; start the run again"
            )
        return None


def flatten_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``optimizer.state_dict()`` as tensors (shared with the optimiser, not copied) and JSON values; inverse: ``restore_optimizer``."""
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
    """Restore in ``optimizer`` the state that ``flatten_optimizer`` returned for one of the same kind; it continues bit for bit.

    Parameters are matched by position, so names do not matter. ``tensors`` are copied.

    Raises InputError: another number of parameters or groups.
    """
    rows: dict[str, dict[str, Any]] = {where: dict(row) for where, row in jsonable.items()}
    for name, tensor in tensors.items():
        where, _, key = name.rpartition(".")
        if where not in rows:
            raise InputError(
                f"optimizer: got tensor {name!r} of no parameter; expected those that were stored; start the run again"
            )
        rows[where][key] = tensor.clone()  # optimisers update their state in place
    with reading("optimizer", "a state that polyvae wrote", "start the run again"):
        groups = [
            rows[f"group.{index}"] for index in range(sum(where.startswith("group.") for where in rows))
        ]
        numbers = [group["params"] for group in optimizer.state_dict()["param_groups"]]
        if [group["params"] for group in groups] != numbers:
            raise InputError(
                "optimizer: got a state that does not fit; expected one of the same parameters; start the run again"
            )
        for group, live in zip(groups, optimizer.param_groups, strict=True):
            _check_group(group, live)
            # A newer version of torch may have further settings; JSON has lists for tuples.
            now = {key: value for key, value in live.items() if key != "params"}
            listed = {key: tuple(value) for key, value in group.items() if isinstance(now.get(key), tuple)}
            group.update(now | group | listed)
        state = {
            int(where.removeprefix("state.")): row
            for where, row in rows.items()
            if where.startswith("state.")
        }
        _check_rows(state, optimizer)
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as problem:
        raise InputError(
            f"optimizer: got a state that does not fit ({problem}); expected one of the same model and optimiser; "
            "start the run again"
        ) from None


def _check_group(group: Mapping[str, Any], live: Mapping[str, Any]) -> None:
    """Raises InputError where a stored setting is not of the kind of the live one: compiled code would not check it."""
    for key, value in group.items():
        if key == "params":
            continue
        now = live.get(key)
        if isinstance(now, Tensor):
            fits = isinstance(value, Tensor) and value.shape == now.shape
        elif isinstance(now, tuple):
            fits = isinstance(value, list | tuple) and len(value) == len(now) and all(map(_finite, value))
        elif isinstance(now, float):
            fits = _finite(value)
        else:  # a switch, which chooses the code that is run
            fits = key in live and value == now and type(value) is type(now)
        if not fits:
            raise InputError(
                f"optimizer: got {key}={short(repr(value), 80)}; expected {'such as ' + repr(now) if key in live else 'none'}; "
                "start the run again"
            )


def _check_rows(state: Mapping[int, Mapping[str, Any]], optimizer: torch.optim.Optimizer) -> None:
    """Raises InputError where a stored tensor has neither the shape of its parameter nor that of a number."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    keys = {frozenset(row) for row in state.values()}
    if len(keys) > 1 or not set(state) <= set(range(len(parameters))):
        raise InputError(
            "optimizer: got other entries for some parameters than for others; expected the same for each; start the run again"
        )
    for index, row in state.items():
        for key, value in row.items():
            shape = torch.Size() if key == "step" else parameters[index].shape
            if isinstance(value, Tensor) and (value.shape != shape or not value.is_floating_point()):
                raise InputError(
                    f"optimizer: got {key!r} of parameter {index} in {value.dtype} {list(value.shape)}; expected "
                    f"floating-point numbers {list(shape)}; start the run again"
                )
            if not isinstance(value, Tensor) and value is not None and not _finite(value):
                raise InputError(
                    f"optimizer: got {key}={short(repr(value), 80)}; expected a tensor or a number; start the run again"
                )


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

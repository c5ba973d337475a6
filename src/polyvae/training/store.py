"""What a training reads from its run directory and writes there."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyvae.config import RunConfig, TrainConfig, write_config
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.models import name_of
from polyvae.models.bundles import check_storable, describe_modality, migrated, save_model
from polyvae.training.checkpoints import Checkpoints, flatten_optimizer, restore_optimizer
from polyvae.training.directory import RunDirectory
from polyvae.training.history import TrainingError
from polyvae.training.inputs import Inputs
from polyvae.training.processes import Ranks
from polyvae.training.resume import check_same, with_other_processes
from polyvae.training.sound import constants, unsound
from polyvae.training.state import State
from polyvae.utils.errors import InputError
from polyvae.utils.files import load_tensors, save_tensors, unwritten
from polyvae.utils.locks import only_writer
from polyvae.utils.progress import Reporter
from polyvae.utils.records import StoredTraining


def newest(out: str | Path | None, infinite: Collection[str] = ()) -> dict[str, Any] | None:
    """The metadata of the checkpoint that a training in ``out`` would resume from; None: there is none yet.

    ``infinite``: the tensors of the model that may have infinite values.
    """
    folder = RunDirectory(out).checkpoints if out is not None else None
    if folder is None or not any(folder.glob("step-*")):
        return None
    return _checked(Checkpoints(folder).load(any_value=[f"model.{name}" for name in infinite])[1])


def check_trained_on(
    run: RunDirectory, model: MultimodalVAE, data: MultimodalData, train: TrainConfig
) -> None:
    """Raises InputError: the run was trained on other data, by their digest. Warns where no checkpoint states it."""
    kept = newest(run.path, constants(model))
    if kept is None or not kept["data"]:
        warnings.warn(
            f"{run.path}: no checkpoint states the digest of the training data, so that these data are not compared with them",
            stacklevel=3,
        )
        return
    part = data.train if "train" in data.splits else data
    if kept["data"] == part.digest():
        return
    if not 0 < train.validation < 1 or kept["data"] != part.carve(train.validation, train.seed)[0].digest():
        raise InputError(
            f"{run.path}: got data with another digest; expected the data that the run was trained on, with the same values, labels, "
            "splits and card; pass those"
        )


def _checked(kept: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a checkpoint. Raises InputError: they have other types than polyvae writes."""
    StoredTraining.check(kept, "resume: metadata of the checkpoint", "start the run again")
    return kept


@contextmanager
def opened(
    out: str | Path | None, model: MultimodalVAE, resume: bool, force: bool, ranks: Ranks
) -> Iterator[Store | None]:
    """The run directory, locked against other writers; None where nothing is stored.

    Raises InputError: nothing to resume, something in the place of a new run, another writer, a model that cannot be stored.
    """
    if out is None:
        if resume:
            raise InputError(
                "fit: got resume=True without out=; expected the run directory to resume; pass out="
            )
        yield None
        return
    check_storable(model)
    leads = ranks.first
    if not leads:
        directory = RunDirectory(out)
    elif resume:
        directory = RunDirectory.open(out)
    else:
        directory = RunDirectory.check_new(out, force)
        try:
            directory.path.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise unwritten(directory.path, problem) from None
    with only_writer(directory.path) if leads else nullcontext():
        if leads and not resume:
            RunDirectory.create(out, force=force)
        yield Store(directory, model, ranks)


class Store:
    """The run directory of one training. Only the first of several processes writes."""

    def __init__(self, directory: RunDirectory, model: MultimodalVAE, ranks: Ranks) -> None:
        self.directory, self.model = directory, model
        self.checkpoints = Checkpoints(directory.checkpoints)
        self.leads = ranks.first
        self.constants = {f"model.{name}" for name in constants(model)}

    def append(self, record: Mapping[str, Any]) -> None:
        if self.leads:
            self.directory.append_history(record)

    def write_config(self, run: RunConfig | None, train: TrainConfig) -> None:
        """Called once nothing can be refused any more: a refused resume must not change the stored configuration."""
        if not self.leads:
            return
        config = run or RunConfig.model_validate(
            {
                "data": {"name": "custom"},
                "model": {"name": name_of(self.model), **self.model.options},
                "modality": [describe_modality(spec) for spec in self.model.specs],
            }
        )
        self.directory.write_text("config.toml", write_config(config.model_copy(update={"train": train})))

    def save(
        self,
        state: State,
        sums: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        inputs: Inputs,
        train: TrainConfig,
        precision: str,
    ) -> None:
        """Write a checkpoint, with the ``sums`` of all processes. Raises TrainingError: a value is not finite."""
        if not self.leads:
            return
        flat, groups = flatten_optimizer(optimizer.state_dict())
        tensors = {f"model.{name}": x for name, x in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": x for name, x in flat.items()}
        tensors |= {f"sums.{name}": x for name, x in sums.items()}
        name = unsound({name: x for name, x in tensors.items() if name not in self.constants})
        if name is not None:
            raise TrainingError(
                f"training: got values that are not finite in {name!r} at step {state.step}; expected finite ones; no checkpoint of "
                "them is written; lower lr, or set clip="
            )
        self.checkpoints.save(
            state.step,
            tensors,
            state.metadata()
            | {
                "optimizer": groups,
                "model": self.model.name,
                "options": self.model.options,
                "rows": inputs.rows,
                "per_epoch": len(inputs.loader),
                "data": inputs.digest,
                "modalities": check_storable(self.model)["modalities"],
                "train": train.model_dump(),
                "precision": precision,
            },
        )

    def save_best(self, state: State) -> None:
        if self.leads:
            save_tensors(
                self.directory.checkpoints / "best.safetensors",
                state.kept,
                {"bound": state.best, "step": state.step},
            )

    def restore(
        self,
        state: State,
        optimizer: torch.optim.Optimizer,
        inputs: Inputs,
        train: TrainConfig,
        precision: str,
        report: Reporter,
    ) -> list[str]:
        """Continue from the newest sound checkpoint. Returns what is changed in the run, for its history.

        Raises InputError: the settings, the model or the data are not those of the run.
        """
        if not any(self.directory.checkpoints.glob("step-*")):
            report.say("no checkpoint yet; starting at step 0")
            return []
        tensors, kept = self.checkpoints.load(any_value=self.constants)
        changed = check_same(
            _checked(kept), self.model, train, precision, inputs.rows, inputs.digest, self.failed()
        )

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}

        self.model.load_state_dict(self._migrated(part("model.")))
        restore_optimizer(optimizer, part("optimizer."), kept["optimizer"])
        state.restore(kept, part("sums."), next(self.model.parameters()).device)
        sums = {name: x.shape for name, x in state.sums.items()}
        if sums and sums != {"total": torch.Size([len(state.names)]), "count": torch.Size()}:
            raise InputError(
                "resume: got sums of other terms than are named; expected the same; start the run again"
            )
        if self.leads:
            self.directory.cut_history(state.step)
        else:  # the sums of all processes count once
            state.sums = {name: torch.zeros_like(x) for name, x in state.sums.items()}
        state.history.records = [
            record
            for record in self.directory.read_history()
            if "train" in record and record["step"] <= state.step
        ]
        best = self.directory.checkpoints / "best.safetensors"
        if train.patience is not None and best.exists():
            state.kept = self._migrated(load_tensors(best)[0])
            shapes = {name: x.shape for name, x in self.model.state_dict().items()}
            if shapes != {
                name: x.shape for name, x in state.kept.items()
            }:  # they are loaded only after training
                raise InputError(
                    f"{best}: got weights that do not fit the model; expected those of this run; start the run again"
                )
        if kept["stopped"] == "early" and kept["train"]["patience"] == train.patience:
            state.history.stopped = "early"
        steps = len(inputs.loader)
        if kept["train"].get("devices", 1) != train.devices:
            state.shift, note = with_other_processes(kept, train, inputs.rows, steps)
            changed.append(note)
        if kept["train"]["epochs"] != train.epochs and train.schedule != "constant":
            assert train.epochs is not None
            changed.append(
                f"schedule {train.schedule!r} recomputed for {train.epochs * steps} steps (it was for "
                f"{kept['train']['epochs'] * steps})"
            )
        report.say(f"resumed at step {state.step}")
        return changed

    def failed(self) -> bool:
        """Whether the run ended with a TrainingError and was not changed or continued since."""
        failed = False
        for record in self.directory.read_history():
            failed = "failed" in record or (failed and not {"train", "note"} & {*record})
        return failed

    def fail(self, problem: TrainingError, step: int) -> None:
        """Record why training ended. The record has no "step", so it stays when a resumed run begins before it."""
        self.append({"failed": str(problem), "failed_at": step})

    def finish(self, state: State) -> None:
        """Write the trained model. What was computed from other weights is removed."""
        if not self.leads:
            return
        extra = {"step": state.step, "stopped": state.history.stopped}
        weights, stored = self._stored()
        now = {name: x.detach().cpu() for name, x in self.model.state_dict().items()}
        same = weights.keys() == now.keys() and all(
            now[name].dtype == x.dtype and torch.equal(now[name], x) for name, x in weights.items()
        )
        if not same:
            for judged in (self.directory.evaluation, self.directory.fitted_prior, self.directory.report):
                judged.unlink(missing_ok=True)
        if not same or stored != extra:
            save_model(self.model, self.directory.model, extra)

    def _stored(self) -> tuple[dict[str, Tensor], Any]:
        """The weights of the trained model that is stored, and what is stored beside them; nothing if there is none."""
        try:
            tensors, metadata = load_tensors(self.directory.model)
        except InputError:  # none yet, or a damaged one, which is replaced
            return {}, None
        return tensors, metadata.get("extra")

    def _migrated(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return migrated(self.model.name, tensors, self.model.state_dict().keys())


def summary(name: str, state: State, total: int, store: Store | None) -> str:
    """Why and where training ended."""
    history = state.history
    of = f" of {total - state.shift}" if state.place < total < sys.maxsize else ""
    place = f"{'' if history.step > history.resumed else 'no step was left to take, '}{history.stopped} at step {state.step}{of}"
    parts = [f"{name}: {place} after {len(history.records)} epochs and {state.elapsed:.1f} s of training"]
    if history.records:
        kind = "validation" if "validation" in history.records[-1] else "train"
        parts.append(
            f"{'validation' if kind == 'validation' else 'training'} bound {history.records[-1][kind]['bound']:.2f}"
        )
    if store is not None:
        parts.append(f"written to {store.directory.path}")
        parts += ["resume to continue"] if history.stopped in ("interrupted", "time") else []
    return "; ".join(parts)

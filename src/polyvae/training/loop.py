"""fit(): the training loop, readable from top to bottom."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from polyvae.config import RunConfig, TrainConfig, write_config
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.vae import MultimodalVAE
from polyvae.data.loaders import Loader
from polyvae.data.multimodal import MultimodalData
from polyvae.models import name_of
from polyvae.models.bundles import check_storable, describe_modality, migrated, save_model
from polyvae.training.checkpoints import Checkpoints, flatten_optimizer, restore_optimizer
from polyvae.training.directory import RunDirectory
from polyvae.training.history import History, TrainingError
from polyvae.training.inputs import check_batch, check_model, inputs_of
from polyvae.training.resume import check_same
from polyvae.training.scopes import interruptible, max_rows, threads
from polyvae.training.settings import TrainSettings
from polyvae.utils.errors import InputError
from polyvae.utils.files import load_tensors, save_tensors
from polyvae.utils.progress import Reporter, reporter
from polyvae.utils.seeds import fold_in

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp64": "64-true"}
Watch = Callable[[MultimodalVAE, dict[str, Any]], Mapping[str, Any] | None]


def fit(
    model: MultimodalVAE,
    data: MultimodalData | Loader,
    *,
    out: str | Path | None = None,
    validation_data: MultimodalData | None = None,
    resume: bool = False,
    force: bool = False,
    show: bool = True,
    run: RunConfig | None = None,
    watch: Watch | None = None,
    **settings: Unpack[TrainSettings],
) -> History:
    """Train a model in place.

    Ctrl-C finishes the step, writes a checkpoint and returns. The model is left in evaluation mode on the device of the training.

    Args:
        model: The model to train.
        data: MultimodalData, of which the training part is used where there are splits, or a Loader for data that are streamed.
        out: A run directory for checkpoints, history and the trained model; None stores nothing.
        validation_data: Data to validate on after each epoch. By default the validation split, or else the share ``validation`` of the
            training data, which is set aside.
        resume: Continue from the newest checkpoint in ``out``, bit for bit on one device. More ``epochs`` may be given.
        force: Replace the run in ``out``.
        show: Show progress on standard error.
        run: A complete configuration to store in ``out``; its ``[train]`` table gives the defaults of ``settings``.
        watch: Called as ``watch(model, record)`` after every epoch. Its time and its random draws do not count. A mapping that it returns
            is stored in the record as "watched".
        **settings: The fields of ``polyvae.config.TrainConfig``, where each is described: ``epochs``, ``batch_size``, ``lr``, ``patience``,
            ``max_rows`` and others.

    Returns:
        The history: a record per epoch, and why training stopped.

    Raises:
        InputError: Rows in which nothing was observed, values outside the support of a likelihood, an unknown or invalid setting, a run
            that exists already, or a resumed run that differs from the one that was started.
        TrainingError: The bound is not finite.

    Example:
        >>> import polyvae as pv
        >>> data = pv.load_dataset("polydigits", train=200, test=50).select("m0", "m1")
        >>> model = pv.MVAE(data.modalities(), latent=4)
        >>> history = pv.fit(model, data, epochs=1, lr=1e-3, show=False)
        >>> history.stopped
        'done'
    """
    from lightning_fabric import Fabric  # seconds of import that only training needs

    check_model(model, data)
    train = _settings(run, settings)
    try:
        fabric = Fabric(accelerator=train.device, devices=train.devices, precision=_precision(model, train))  # type: ignore[arg-type]
    except (RuntimeError, ValueError) as problem:
        raise InputError(
            f"fit: got device={train.device!r}, which cannot be used ({' '.join(str(problem).split())}); "
            "expected 'auto', 'cpu', 'cuda' or 'mps'"
        ) from None
    fabric.launch()
    with (
        torch.random.fork_rng(),
        threads(train.threads),
        max_rows(model, train.max_rows),
        reporter(show and fabric.is_global_zero) as report,
        interruptible() as interrupted,
    ):
        return _Training(fabric, model, train, report, run).go(
            data, validation_data, out, resume, force, interrupted, watch
        )


class _Training:
    """One call of fit: the state that a checkpoint contains, and the steps that change it."""

    def __init__(
        self,
        fabric: Fabric,
        model: MultimodalVAE,
        train: TrainConfig,
        report: Reporter,
        run: RunConfig | None,
    ) -> None:
        self.fabric, self.model, self.train, self.report, self.run = fabric, model, train, report, run
        self.step, self.elapsed, self.best, self.stale = 0, 0.0, -math.inf, 0
        self.sums: dict[str, Tensor] = {}
        self.names: list[str] = []
        self.kept: dict[str, Tensor] = {}
        self.history = History()
        self.directory: RunDirectory | None = None
        self.checkpoints: Checkpoints | None = None

    def go(
        self,
        data: MultimodalData | Loader,
        validation_data: MultimodalData | None,
        out: str | Path | None,
        resume: bool,
        force: bool,
        interrupted: Callable[[], bool],
        watch: Watch | None,
    ) -> History:
        self.inputs = inputs_of(data, validation_data, self.model, self.train, self.fabric)
        loader, validation = self.inputs.loader, self.inputs.validation
        per_epoch = len(loader)
        total = len(loader) * self.train.epochs if self.train.epochs is not None else sys.maxsize
        self._open(out, resume, force)
        module = self.fabric.setup(self.model.train(), move_to_device=True)
        optimizer = self.fabric.setup_optimizers(_optimizer(self.model, self.train))
        if resume:
            self._restore(optimizer, loader, total)
        self._write_config()
        first = self.step
        if self.step == 0:
            self._checkpoint(optimizer)  # so that whenever it is killed, there is something to resume
        self.report.start(
            f"training {self.model.name}", total if self.train.epochs is not None else None, self.step
        )
        began = time.monotonic() - self.elapsed
        while self.step < total and self.history.stopped == "done":
            epoch, start = divmod(self.step, per_epoch)
            before = self.step
            for batch in loader.epoch(epoch, start):
                if self.inputs.streamed and epoch == 0:
                    check_batch(self.model, batch)
                self._step(module, optimizer, batch, total, per_epoch)
                self.step += 1
                self.elapsed = time.monotonic() - began
                if self.step % per_epoch == 0:
                    self._end_of_epoch(epoch, optimizer, validation, watch)
                    began = time.monotonic() - self.elapsed  # validation and watching are not training time
                if self.history.stopped == "done":
                    self.history.stopped = self._stop(interrupted())
                if (
                    self.history.stopped != "done"
                    or self.step % self.train.checkpoint_every == 0
                    or self.step == total
                ):
                    self._checkpoint(optimizer)
                    began = time.monotonic() - self.elapsed
                if self.history.stopped != "done" or self.step % per_epoch == 0:
                    break
            if self.history.stopped == "done" and (self.step == before or self.step % per_epoch):
                raise InputError(
                    f"fit: the loader gave {self.step - before + start} batches in epoch {epoch + 1}; expected {per_epoch}, "
                    "as its length says; correct its length"
                )
        self._finish(total, moved=self.step != first)
        return self.history

    def _stop(self, interrupted: bool) -> str:
        """Why to stop now, or "done". All ranks stop together if one of them has to."""
        late = self.train.max_seconds is not None and self.elapsed >= self.train.max_seconds
        if self.fabric.world_size > 1:
            votes = torch.tensor([float(interrupted), float(late)], device=self.fabric.device)
            interrupted, late = (bool(vote > 0) for vote in self.fabric.all_reduce(votes, reduce_op="sum"))
        return "interrupted" if interrupted else "time" if late else "done"

    # ---- one step ----------------------------------------------------------------------------------------------------------------

    def _step(
        self, module: Callable[..., Bound], optimizer: Any, batch: Batch, total: int, per_epoch: int
    ) -> None:
        torch.manual_seed(fold_in(self.train.seed, "step", self.step, self.fabric.global_rank))
        for group in optimizer.param_groups:
            group["lr"] = self.train.lr * _schedule(self.train, self.step, total)
        warm = (
            min(1.0, (self.step + 1) / (self.train.warmup_epochs * per_epoch))
            if self.train.warmup_epochs
            else 1.0
        )
        bound = module(batch, warm)
        loss = -bound.value.mean()
        last = (self.step + 1) % self.train.checkpoint_every == 0 or (self.step + 1) % per_epoch == 0
        if (
            loss.device.type == "cpu" or self.step % 50 == 0 or last
        ):  # a look at a GPU's value makes the host wait for it
            self._look(loss, bound)
        self.fabric.backward(loss)
        if self.train.clip is not None:
            self.fabric.clip_gradients(self.model, optimizer, max_norm=self.train.clip)
        optimizer.step()
        optimizer.zero_grad()
        self._add({"bound": bound.value.detach(), **bound.terms}, batch.size)
        self.report.advance(note=f"bound {-loss.item():.2f}" if loss.device.type == "cpu" else "")

    def _look(self, loss: Tensor, bound: Bound) -> None:
        if bool(loss.isfinite()):
            return
        bad = [name for name, term in bound.terms.items() if not bool(term.isfinite().all())]
        raise TrainingError(
            f"training: the bound is {loss.item():.3g} at step {self.step}; the first term that is not finite is "
            f"{bad[0] if bad else 'none'!r}; expected finite values; lower lr, set clip=, or widen that modality's scale"
        )

    def _add(self, terms: Mapping[str, Tensor], size: int) -> None:
        totals = torch.stack([term.sum() for term in terms.values()])
        totals = totals if totals.device.type == "mps" else totals.double()
        if self.sums:
            self.sums["total"] += totals
            self.sums["count"] += size
        else:
            self.sums = {"total": totals, "count": torch.tensor(float(size), dtype=totals.dtype)}
        self.names = list(terms)

    # ---- around an epoch ---------------------------------------------------------------------------------------------------------

    def _end_of_epoch(
        self, epoch: int, optimizer: Any, validation: MultimodalData | None, watch: Watch | None
    ) -> None:
        means = (self.sums["total"] / self.sums["count"]).tolist()
        record: dict[str, Any] = {
            "step": self.step,
            "epoch": epoch + 1,
            "seconds": round(self.elapsed, 3),
            "lr": optimizer.param_groups[0]["lr"],
            "train": dict(zip(self.names, means, strict=True)),
        }
        self.sums = {}
        if validation is not None:
            record["validation"] = validate(
                self.model, validation, self.train.seed, self.train.batch_size, self.fabric.autocast
            )
            self._judge(record["validation"]["bound"])
        if watch is not None:
            self.model.eval()
            watched = watch(self.model, record)
            self.model.train()
            record |= {"watched": dict(watched)} if watched else {}
        self.history.records.append(record)
        self.history.step = self.step
        if self.directory is not None and self.fabric.is_global_zero:
            self.directory.append_history(record)
        shown = record.get("validation", record["train"])["bound"]
        self.report.advance(0, f"bound {shown:.2f}")

    def _judge(self, bound: float) -> None:
        """Early stopping: remember the best weights, count the epochs since."""
        if self.train.patience is None:
            return
        if bound > self.best:
            self.best, self.stale = bound, 0
            self.kept = {name: x.detach().clone() for name, x in self.model.state_dict().items()}
            if self.directory is not None and self.fabric.is_global_zero:
                save_tensors(
                    self.directory.checkpoints / "best.safetensors",
                    self.kept,
                    {"bound": bound, "step": self.step},
                )
            return
        self.stale += 1
        if self.stale >= self.train.patience:
            self.history.stopped = "early"

    # ---- what is stored --------------------------------------------------------------------------------------------------------------

    def _open(self, out: str | Path | None, resume: bool, force: bool) -> None:
        if out is None:
            if resume:
                raise InputError(
                    "fit: got resume=True without out=; expected the run directory to resume; pass out="
                )
            return
        check_storable(self.model)
        if not self.fabric.is_global_zero:
            self.directory = RunDirectory(Path(out))
        elif resume:
            self.directory = RunDirectory.open(out)
        else:
            self.directory = RunDirectory.create(out, force=force)
        self.checkpoints = Checkpoints(self.directory.checkpoints)
        self.fabric.barrier()

    def _write_config(self) -> None:
        """Called once nothing can be refused any more: a refused resume must not change the stored configuration."""
        if self.directory is None or not self.fabric.is_global_zero:
            return
        config = self.run or RunConfig.model_validate(
            {
                "data": {"name": "custom"},
                "model": {"name": name_of(self.model), **self.model.options},
                "modality": [describe_modality(spec) for spec in self.model.specs],
            }
        )
        self.directory.write_text(
            "config.toml", write_config(config.model_copy(update={"train": self.train}))
        )

    def _checkpoint(self, optimizer: Any) -> None:
        if self.checkpoints is None or not self.fabric.is_global_zero:
            return
        flat, groups = flatten_optimizer(optimizer.state_dict())
        tensors = {f"model.{name}": x for name, x in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": x for name, x in flat.items()} | {
            f"sums.{name}": x for name, x in self.sums.items()
        }
        self.checkpoints.save(
            self.step,
            tensors,
            {
                "step": self.step,
                "elapsed": self.elapsed,
                "best": self.best if math.isfinite(self.best) else None,
                "stale": self.stale,
                "stopped": self.history.stopped,
                "optimizer": groups,
                "model": self.model.name,
                "options": self.model.options,
                "names": self.names,
                "rows": self.inputs.rows,
                "data": self.inputs.digest,
                "modalities": check_storable(self.model)["modalities"],
                "train": self.train.model_dump(),
            },
        )

    def _restore(self, optimizer: Any, loader: Loader, total: int) -> None:
        assert self.checkpoints is not None
        assert self.directory is not None
        if not any(self.directory.checkpoints.glob("step-*")):
            self.report.say("no checkpoint yet; starting at step 0")
            return
        tensors, kept = self.checkpoints.load()
        check_same(kept, self.model, self.train, self.inputs.rows, self.inputs.digest)
        self.model.load_state_dict(
            self._migrated({name[6:]: x for name, x in tensors.items() if name.startswith("model.")})
        )
        flat = {name[10:]: x for name, x in tensors.items() if name.startswith("optimizer.")}
        restore_optimizer(optimizer, flat, kept["optimizer"])
        device = next(self.model.parameters()).device
        self.sums = {
            name[5:]: x.to(device) if name == "sums.total" else x
            for name, x in tensors.items()
            if name.startswith("sums.")
        }
        self.step, self.elapsed, self.stale, self.names = (
            kept["step"],
            kept["elapsed"],
            kept["stale"],
            kept["names"],
        )
        self.best = -math.inf if kept["best"] is None else kept["best"]
        if self.fabric.is_global_zero:
            self.directory.cut_history(self.step)
        self.fabric.barrier()
        self.history.records = [record for record in self.directory.read_history() if "train" in record]
        self.history.step = self.step
        if self.train.patience is not None and (self.directory.checkpoints / "best.safetensors").exists():
            self.kept = self._migrated(load_tensors(self.directory.checkpoints / "best.safetensors")[0])
        if kept["stopped"] == "early" and kept["train"]["patience"] == self.train.patience:
            self.history.stopped = "early"
        if kept["train"]["epochs"] != self.train.epochs and self.train.schedule != "constant":
            note = f"schedule {self.train.schedule!r} recomputed for {total} steps (it was for {kept['train']['epochs'] * len(loader)})"
            if self.fabric.is_global_zero:
                self.directory.append_history({"step": self.step, "note": note})
            self.report.say(note)
        self.report.say(f"resumed at step {self.step}")

    def _migrated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return migrated(self.model.name, state, self.model.state_dict().keys())

    def _finish(self, total: int, moved: bool) -> None:
        if self.kept and self.history.stopped in (
            "early",
            "done",
        ):  # patience asks for the best weights, not the last
            self.model.load_state_dict(self.kept)
        self.model.eval()
        self.history.step = self.step
        if self.directory is None:
            return
        if self.fabric.is_global_zero:
            for judged in (
                (self.directory.evaluation, self.directory.fitted_prior, self.directory.report)
                if moved
                else ()
            ):
                judged.unlink(missing_ok=True)  # they describe other weights
            save_model(self.model, self.directory.model, {"step": self.step, "stopped": self.history.stopped})
        if self.history.stopped == "interrupted":
            self.report.say(
                f"stopped at step {self.step} of {total}; a checkpoint is kept; resume to continue"
            )


@torch.no_grad()
def validate(
    model: MultimodalVAE,
    data: MultimodalData,
    seed: int = 0,
    batch_size: int = 256,
    autocast: Callable[[], Any] | None = None,
) -> dict[str, float]:
    """The mean bound and its terms over ``data``, in nats per sample, in evaluation mode, with the same noise at every call."""
    training, state = model.training, torch.get_rng_state()
    model.eval()
    torch.manual_seed(fold_in(seed, "validation"))
    sums: dict[str, float] = {}
    for batch in data.batches(batch_size):
        with autocast() if autocast is not None else torch.autocast("cpu", enabled=False):
            bound = model(batch)
        for name, term in {"bound": bound.value, **bound.terms}.items():
            sums[name] = sums.get(name, 0.0) + float(term.double().sum())
    torch.set_rng_state(state)
    model.train(training)
    return {name: value / len(data) for name, value in sums.items()}


def _settings(run: RunConfig | None, settings: Mapping[str, Any]) -> TrainConfig:
    train = TrainConfig.check({**({} if run is None else run.train.model_dump()), **settings})
    if train.epochs is None and train.schedule != "constant":
        raise InputError(
            f"fit: got schedule {train.schedule!r} with epochs=None, whose end is unknown; expected a number of epochs, "
            "or schedule='constant'"
        )
    return train


def _precision(model: MultimodalVAE, train: TrainConfig) -> str:
    """A model in double precision stays in double precision."""
    double = next(model.parameters()).dtype == torch.float64
    return _PRECISIONS["fp64" if double and train.precision == "fp32" else train.precision]


def _optimizer(model: MultimodalVAE, train: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=train.lr, amsgrad=train.amsgrad, fused=True)


def _schedule(train: TrainConfig, step: int, total: int) -> float:
    """The factor of the learning rate at a step: "constant"; "cosine" to zero; "flat-cosine": flat for a share ``flat``, then cosine."""
    flat = {"constant": 1.0, "cosine": 0.0, "flat-cosine": train.flat}[train.schedule]
    place = step / max(1, total)
    return 1.0 if place <= flat else 0.5 * (1 + math.cos(math.pi * (place - flat) / (1 - flat)))

"""fit(): the training loop, readable from top to bottom."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from polyvae.config import RunConfig, TrainConfig, read_config
from polyvae.core import noise
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.vae import MultimodalVAE
from polyvae.data.loaders import Loader
from polyvae.data.multimodal import MultimodalData
from polyvae.training.checkpoints import flatten_optimizer
from polyvae.training.directory import RunDirectory
from polyvae.training.history import History, TrainingError
from polyvae.training.inputs import Inputs, alike, check_batch, check_model, check_shares, inputs_of
from polyvae.training.machine import check_machine, fabric_of, out_of_memory
from polyvae.training.processes import LocalError, Ranks, launched, variables
from polyvae.training.resume import begun_with
from polyvae.training.schedules import optimizer_of, rate, warmth
from polyvae.training.scopes import interruptible, max_rows, one_at_a_time, threads
from polyvae.training.settings import TrainSettings
from polyvae.training.sound import constants, gradient_sum, unsound
from polyvae.training.state import State
from polyvae.training.store import Store, newest, opened, summary
from polyvae.training.validation import validate
from polyvae.utils.errors import InputError, reading
from polyvae.utils.files import finite_json
from polyvae.utils.progress import Reporter, reporter
from polyvae.utils.seeds import fold_in

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Watch = Callable[[MultimodalVAE, dict[str, Any]], Mapping[str, Any] | None]

_OF_THIS_CALL = {
    "max_seconds",
    "device",
    "devices",
    "threads",
}  # settings that a resumed run does not take over
_LOOK = 50  # steps between looks at a GPU's values, for which the host waits, and at all gradients
_DIVERGED = 1000  # times the size of the first bound; below, a bound can recover
_WORSE = 3
_REMEDY = "lower lr, set clip= or precision='fp32' (a resumed run accepts these), or start again with a wider scale of that modality"


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

    Calls from several threads run one after the other, because torch's generator and its number of threads belong to the process. With
    ``devices`` above 1 every device has a process that runs the calling script from its beginning, so that script must be a file whose
    work before and after ``fit`` may be repeated. Two processes with ``batch_size=32`` train as one with ``batch_size=64``, up to rounding.
    If one of the processes ends, the others end within seconds.

    Args:
        model: The model to train.
        data: MultimodalData, of which the training part is used where there are splits, or a Loader for data that are streamed.
        out: A run directory for checkpoints, history and the trained model; None stores nothing.
        validation_data: Data to validate on after each epoch. By default the validation split, or else the share ``validation`` of the
            training data, which is set aside.
        resume: Continue from the newest sound checkpoint in ``out``, bit for bit on one device. Settings that are not given are those of
            the run. More ``epochs`` may be given; after a TrainingError another ``lr``, ``clip`` or ``precision``, too.
        force: Replace the run in ``out``.
        show: Show progress on standard error.
        run: A complete configuration to store in ``out``; its ``[train]`` table gives the defaults of ``settings``.
        watch: Called as ``watch(model, record)`` after every epoch, in each process. Its time and its random draws do not count. A mapping
            that it returns is stored in the record as "watched".
        **settings: The fields of ``polyvae.config.TrainConfig``, where each is described: ``epochs``, ``batch_size``, ``lr``, ``patience``,
            ``max_rows`` and others.

    Returns:
        The history: a record per epoch, and why training stopped.

    Raises:
        InputError: Rows in which nothing was observed, values outside the support of a likelihood, an unknown or invalid setting, a run
            that exists already, a resumed run that differs from the one that was started, a run directory that another process is
            writing to, more threads or devices than the machine has, or another number of devices than torchrun or srun started
            processes.
        TrainingError: The bound, a gradient or a weight is not finite, training diverged, memory ran out, or another process of the
            training ended. No checkpoint contains values that are not finite.

    Example:
        >>> import polyvae as pv
        >>> data = pv.load_dataset("polydigits", train=200, test=50).select("m0", "m1")
        >>> model = pv.MVAE(data.modalities(), latent=4)
        >>> history = pv.fit(model, data, epochs=1, lr=1e-3, show=False)
        >>> history.stopped
        'done'
    """
    check_model(model, data)
    if run is None and resume and out is not None and RunDirectory(out).config.is_file():
        stored = read_config(RunDirectory(out).config).train.model_dump(exclude=_OF_THIS_CALL)
        settings = {**stored, **settings}  # type: ignore[typeddict-item]
    train = _settings(run, settings)
    check_machine(train)
    kept = newest(out, constants(model)) if resume and train.precision == "auto" else None
    if kept is not None:
        train = train.model_copy(update={"precision": kept["train"]["precision"]})
    with one_at_a_time, variables():
        recorded = None if kept is None else begun_with(kept, model)
        fabric, precision, why = fabric_of(model, train, recorded)
        with (
            launched(fabric, train) as ranks,
            torch.random.fork_rng(),
            threads(train.threads),
            max_rows(model, train.max_rows),
            reporter(show and ranks.first) as report,
            interruptible() as interrupted,
            ExitStack() as folder,
        ):
            with ranks.together():
                inputs = inputs_of(data, validation_data, model, train, fabric)
                store = folder.enter_context(opened(out, model, resume, force, ranks))
            with ranks.together():
                ranks.check_alike(**alike(inputs, model, train))
            report.say(f"precision {precision}" + (f" ({why})" if why else ""))
            training = _Training(fabric, ranks, model, train, inputs, store, report, precision)
            return training.go(resume, run, interrupted, watch)


class _Training:
    """One call of fit: the steps that change its state."""

    def __init__(
        self,
        fabric: Fabric,
        ranks: Ranks,
        model: MultimodalVAE,
        train: TrainConfig,
        inputs: Inputs,
        store: Store | None,
        report: Reporter,
        precision: str,
    ) -> None:
        self.fabric, self.model, self.train, self.inputs = fabric, model, train, inputs
        self.ranks, self.store, self.report, self.precision = ranks, store, report, precision
        self.state = State()
        self.per_epoch = len(inputs.loader)
        self.total = self.per_epoch * train.epochs if train.epochs is not None else sys.maxsize
        self.overflow: Tensor | None = None  # on the device: whether the norm of a gradient was not finite
        self.constants = constants(model)
        self.note = ""  # the bound that was read last, for the progress line

    def go(
        self, resume: bool, run: RunConfig | None, interrupted: Callable[[], bool], watch: Watch | None
    ) -> History:
        state, store = self.state, self.store
        with self.ranks.together():
            self._check_weights("before training")
        module = self.fabric.setup(self.model.train(), move_to_device=True)
        optimizer: Any = self.fabric.setup_optimizers(optimizer_of(self.model, self.train))
        changed: list[str] = []
        if resume and store is not None:
            where = f"{store.directory.path}: checkpoint"
            with (
                self.ranks.together(),
                reading(where, "one of this model and these settings", "start the run again"),
            ):
                changed = store.restore(
                    state, optimizer, self.inputs, self.train, self.precision, self.report
                )
        state.history.resumed = state.step
        if state.step == 0 or changed:
            self._checkpoint(optimizer)  # so that whenever it is killed, there is something to resume
        if store is not None:
            store.write_config(run, self.train)
            for note in changed:
                store.append({"step": state.step, "note": note})
                self.report.say(note)
        late = self.train.max_seconds is not None and state.elapsed >= self.train.max_seconds
        if late and state.place < self.total and state.history.stopped == "done":
            state.history.stopped = "time"
            self.report.say(
                f"the run has used its max_seconds={self.train.max_seconds:g}, so nothing is changed; a larger max_seconds continues it"
            )
        self.report.start(
            f"training {self.model.name}", self.total if self.train.epochs is not None else None, state.place
        )
        try:
            self._epochs(module, optimizer, interrupted, watch)
        except TrainingError as problem:
            if store is not None:
                store.fail(problem, state.step)
            raise
        return self._finish()

    def _epochs(
        self, module: Any, optimizer: Any, interrupted: Callable[[], bool], watch: Watch | None
    ) -> None:
        state, loader, per_epoch = self.state, self.inputs.loader, self.per_epoch
        began = time.monotonic() - state.elapsed
        while state.place < self.total and state.history.stopped == "done":
            epoch, start = divmod(state.place, per_epoch)
            before = state.step
            for batch in loader.epoch(epoch, start):
                if self.inputs.streamed and state.step == state.history.resumed:
                    check_shares(self.ranks, batch)
                if self.inputs.streamed and epoch == 0:
                    check_batch(self.model, batch, values=state.step == 0)
                self._step(module, optimizer, batch)
                state.step += 1
                state.elapsed = time.monotonic() - began
                if state.place % per_epoch == 0:
                    self._end_of_epoch(epoch, optimizer, watch)
                    began = time.monotonic() - state.elapsed  # validation and watching are not training time
                if state.history.stopped == "done":
                    state.history.stopped = self._stop(interrupted())
                if (
                    state.history.stopped != "done"
                    or state.step % self.train.checkpoint_every == 0
                    or state.place == self.total
                ):
                    self._checkpoint(optimizer)
                    began = time.monotonic() - state.elapsed
                if state.history.stopped != "done" or state.place % per_epoch == 0:
                    break
            if state.history.stopped == "done" and (state.step == before or state.place % per_epoch):
                raise InputError(
                    f"fit: the loader gave {state.step - before + start} batches in epoch {epoch + 1}; expected {per_epoch}, "
                    "which is its length; correct its length"
                )

    def _stop(self, interrupted: bool) -> str:
        """Why to stop now, or "done". All ranks stop together if one of them has to."""
        late = self.train.max_seconds is not None and self.state.elapsed >= self.train.max_seconds
        # Each vote makes the host wait for a GPU.
        if self.ranks.count > 1 and (self.fabric.device.type == "cpu" or self.state.step % _LOOK == 0):
            interrupted, late = self.ranks.any(interrupted, late)
        elif self.ranks.count > 1:
            return "done"
        return "interrupted" if interrupted else "time" if late else "done"

    # ---- one step ----------------------------------------------------------------------------------------------------------------

    def _step(self, module: Callable[..., Bound], optimizer: Any, batch: Batch) -> None:
        state, train = self.state, self.train
        torch.manual_seed(fold_in(train.seed, "step", state.step, self.ranks.rank))
        for group in optimizer.param_groups:
            group["lr"] = train.lr * rate(train, state.place, self.total)
        try:
            with self._noise(batch.size, "step", state.step, 0):
                bound = module(batch, warmth(train, state.place, self.per_epoch))
            loss = -bound.value.mean() * self._weight(batch)
            on_host = loss.device.type == "cpu"
            if on_host:
                self._check_bound(bound, loss.item())
            if not loss.requires_grad:
                raise InputError(
                    f"fit: got a bound without a gradient at step {state.step}; expected a parameter that requires one in every step; "
                    "call requires_grad_(True) on more of the model"
                )
            self.fabric.backward(loss)
        except RuntimeError as problem:
            if not out_of_memory(problem):
                raise
            raise LocalError(
                f"training: memory ran out at step {state.step}; expected room for a batch of {batch.size} samples; lower max_rows "
                "(a resumed run accepts it), or start again with a smaller batch_size"
            ) from None
        # A look at a GPU's value makes the host wait for it.
        look = on_host or state.step % _LOOK == 0 or self._last()
        self._clip(optimizer, look)
        if look:
            self._look(bound, loss.detach())
        optimizer.step()
        if self._last():
            # Nothing that is not finite is validated, kept as the best, or stored.
            stored = (state.step + 1) % train.checkpoint_every == 0 or state.place + 1 == self.total
            self._check_weights(f"after step {state.step}", optimizer if stored else None)
        optimizer.zero_grad()
        state.add({"bound": bound.value.detach(), **bound.terms}, batch.size)
        self.report.advance(note=self.note)

    def _noise(self, size: int, *path: str | int) -> AbstractContextManager[None]:
        """Inside, each process draws for its ``size`` samples what one process would draw that has those of all.

        Processes may have different numbers of samples of a stream.
        """
        count = self.ranks.count
        if count == 1 or self.inputs.streamed:
            return nullcontext()
        stream = noise.Stream(fold_in(self.train.seed, *path))
        return noise.part(stream, self.ranks.rank, count, size * count)

    def _weight(self, batch: Batch) -> Tensor | float:
        """The factor by which a mean over the processes becomes one over samples, of which a stream may give each another number."""
        if self.ranks.count == 1 or not self.inputs.streamed:
            return 1.0
        size = torch.tensor(float(batch.size), device=self.fabric.device)
        return size * self.ranks.count / self.ranks.summed(size)

    def _last(self) -> bool:
        """Whether the next step ends an epoch or writes a checkpoint."""
        after = self.state.step + 1
        return after % self.train.checkpoint_every == 0 or (self.state.place + 1) % self.per_epoch == 0

    def _look(self, bound: Bound, loss: Tensor) -> None:
        """Check the gradients, and on a GPU the bound of this step and those since the last look, by one read."""
        overflow: Tensor | float = False if self.overflow is None else self.overflow
        if loss.device.type != "cpu":
            earlier = self.state.sums.get("total", loss).isfinite().all()
            flags = [earlier, torch.zeros_like(earlier) | overflow]
            value, sound, overflow = torch.stack([loss, *(flag.to(loss.dtype) for flag in flags)]).tolist()
            self._check_bound(bound, value, bool(sound))
        if overflow:
            gradients = {name: x.grad for name, x in self.model.named_parameters() if x.grad is not None}
            where = unsound(gradients)
            raise TrainingError(
                f"training: the gradient is not finite at step {self.state.step}"
                + (f"; the first is that of {where!r}" if where else "")
                + f"; expected a finite norm; {_REMEDY}"
            )

    def _check_bound(self, bound: Bound, loss: float, sound: bool = True) -> None:
        """Raises TrainingError unless the loss is finite, and the bounds of earlier steps are ``sound``, in all processes."""
        if any(self.ranks.any(not (sound and math.isfinite(loss)))):
            terms = [name for name, term in bound.terms.items() if not bool(term.isfinite().all())]
            weights = unsound(dict(self.model.named_parameters()))
            place = (
                f"term that is not finite is {terms[0]!r}"
                if terms
                else "term that is not finite is in another process"
            )
            place = f"weight that is not finite is {weights!r}" if weights else place
            raise TrainingError(
                f"training: the bound is {loss:.3g} at step {self.state.step}; the first {place}; expected finite values; {_REMEDY}"
            )
        if self.state.step == 0:
            self.state.first = -loss
        self.note = f"bound {-loss:.2f}"

    def _clip(self, optimizer: Any, look: bool) -> None:
        """Scale the gradients down, and note whether their norm is finite. All processes have the same gradients."""
        clip, norm = self.train.clip, None
        if clip is not None:
            norm = self.fabric.clip_gradients(self.model, optimizer, max_norm=clip, error_if_nonfinite=False)
        elif look:
            # All of them would take more than a hundredth of a step.
            some = self.state.step % _LOOK != 0 and not self._last()
            norm = gradient_sum(self.model.parameters(), vectors=some)
        if norm is not None:
            bad = ~norm.isfinite()
            self.overflow = bad if self.overflow is None else self.overflow | bad

    def _check_weights(self, when: str, optimizer: Any = None) -> None:
        tensors = {name: x for name, x in self.model.state_dict().items() if name not in self.constants}
        if optimizer is not None:
            tensors |= {
                f"the optimiser's {name}": x
                for name, x in flatten_optimizer(optimizer.state_dict())[0].items()
            }
        name = unsound(tensors)
        remedy = "initialise them again, or load another model" if when == "before training" else _REMEDY
        if name is not None:
            raise TrainingError(
                f"training: got weights that are not finite {when}, first in {name!r}; expected finite values; {remedy}"
            )

    # ---- around an epoch ---------------------------------------------------------------------------------------------------------

    def _end_of_epoch(self, epoch: int, optimizer: Any, watch: Watch | None) -> None:
        state, validation = self.state, self.inputs.validation
        record: dict[str, Any] = {
            "step": state.step,
            "epoch": epoch + 1,
            "seconds": round(self.ranks.gathered(state.elapsed)[0], 3),
            "lr": optimizer.param_groups[0]["lr"],
            "precision": self.precision,
            "train": state.means(self.ranks.summed),
        }
        self.ranks.share_buffers(self.model)
        problem = self._diverged(record["train"]["bound"], _DIVERGED)
        if validation is not None and not problem:
            record["validation"] = validate(
                self.model,
                validation,
                self.train.seed,
                self.train.batch_size,
                self.fabric.autocast,
                self.ranks,
            )
            bad = [name for name, value in record["validation"].items() if not math.isfinite(value)]
            if bad:
                found = record["validation"]["bound"]
                problem = (
                    f"training: the validation bound is {found:.3g} after epoch {epoch + 1}; a term that is not finite is "
                    f"{bad[-1]!r}; expected finite values; check the validation data for outliers; {_REMEDY}"
                )
            else:
                self._judge(record["validation"]["bound"])
        if watch is not None and not problem:
            self.model.eval()
            watched = watch(self.model, record)
            self.model.train()
            record |= {"watched": dict(watched)} if watched else {}
        record = finite_json(record) | ({"note": problem} if problem else {})
        state.history.records.append(record)
        state.history.step = state.step
        if self.store is not None:
            with self.ranks.together():
                self.store.append(record)
        if problem:
            raise TrainingError(problem)
        shown = record.get("validation", record["train"])["bound"]
        self.report.advance(0, f"bound {shown:.2f}")

    def _diverged(self, bound: float, times: float) -> str:
        first = self.state.first
        if not any(self.ranks.any(first is not None and bound < first - times * max(1.0, abs(first)))):
            return ""
        return (
            f"training: the bound is {bound:.3g} nats per sample, and was {first:.3g} at the first step; expected it to rise; lower lr "
            f"(it is {self.train.lr:g}), or set clip="
        )

    def _judge(self, bound: float) -> None:
        """Early stopping: remember the best weights, count the epochs since."""
        state = self.state
        if self.train.patience is None:
            return
        if bound > state.best:
            state.best, state.stale = bound, 0
            state.kept = {name: x.detach().clone() for name, x in self.model.state_dict().items()}
            if self.store is not None:
                with self.ranks.together():
                    self.store.save_best(state)
            return
        state.stale += 1
        if state.stale >= self.train.patience:
            state.history.stopped = "early"

    def _checkpoint(self, optimizer: Any) -> None:
        if self.store is not None:
            sums = {name: self.ranks.summed(x) for name, x in self.state.sums.items()}
            with self.ranks.together():
                self.store.save(self.state, sums, optimizer, self.inputs, self.train, self.precision)

    def _finish(self) -> History:
        state, history = self.state, self.state.history
        if state.kept and history.stopped in ("early", "done"):
            self.model.load_state_dict(state.kept)  # patience asks for the best weights, not the last
        self.ranks.share_buffers(self.model)
        self.model.eval()
        history.step = state.step
        if self.store is not None:
            with self.ranks.together():
                self.store.finish(state)
        # With patience the best weights are kept, whatever followed.
        last = history.records[-1] if history.records and not state.kept else None
        warning = self._diverged(last["train"]["bound"], _WORSE) if last else ""
        if warning and self.ranks.first:
            warnings.warn(warning, stacklevel=4)
        self.report.say(summary(self.model.name, state, self.total, self.store))
        return history


def _settings(run: RunConfig | None, settings: Mapping[str, Any]) -> TrainConfig:
    train = TrainConfig.check({**({} if run is None else run.train.model_dump()), **settings})
    if train.epochs is None and train.schedule != "constant":
        raise InputError(
            f"fit: got schedule {train.schedule!r} with epochs=None, whose end is unknown; expected a number of epochs, "
            "or schedule='constant'; set one"
        )
    return train

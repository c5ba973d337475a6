"""Several models of one kind, trained side by side in one batched graph, each without a fold of the samples."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._pytree import tree_map

from polyvae.core.batch import Batch
from polyvae.core.covariates import Covariates
from polyvae.core.distributions import Mixture
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE
from polyvae.imputation.methods.wide import Wide
from polyvae.imputation.tables import Floats, Tables
from polyvae.models import build
from polyvae.training.scopes import one_at_a_time, threads
from polyvae.utils.progress import Reporter, Silent
from polyvae.utils.seeds import fold_in

_HIDDEN = 0.5  # the largest share of the entries of a sample that training hides from the encoders
_CHECKS = 20  # looks at the samples left out, in a full training
_ROWS = 2048  # samples that inference takes at a time
_SMALL = 3e8  # operations of a step, below which a second thread costs more than it saves
_DRAWS = 32  # draws over which the mean of a mixture is taken


class Schedule(NamedTuple):
    """How the members are trained.

    Attributes:
        steps: The largest number of steps.
        batch_size: Samples in a step of each member.
        lr: The learning rate at the start; it falls to zero along a cosine.
        patience: Looks at the samples left out without an improvement of any member, after which training stops.
        max_seconds: The largest time, in seconds; None: no limit.
    """

    steps: int
    batch_size: int = 128
    lr: float = 8e-3
    patience: int = 6
    max_seconds: float | None = None


class Members:
    """E models with the same specification, whose parameters are stacked: [E, ...].

    A sample is left out by the member with the number of its fold, so each sample has a prediction by a model that did not see it.

    Args:
        name: A name in MODELS.
        specs: The specifications of the modalities.
        options: Options of the model.
        count: E.
        seed: Of initial weights, batches and noise.
        device: Where to compute.
        wide: The coordinates of wide tables, for which ``specs`` are.
        leaders: See ``Imputer``.
    """

    def __init__(
        self,
        name: str,
        specs: Sequence[Modality],
        options: Mapping[str, Any],
        count: int,
        seed: int,
        device: torch.device,
        wide: Wide,
        leaders: Mapping[str, NDArray[np.intp]] | None = None,
    ) -> None:
        self.wide = wide
        self.leaders = {
            name: torch.from_numpy(places).to(device)
            for name, places in (leaders or {}).items()
            if name not in wide.bases
        }
        self.name, self.count, self.seed, self.device = name, count, seed, device
        with one_at_a_time, forked(device):
            models = []
            for member in range(count):
                torch.manual_seed(fold_in(seed, "member", member))
                models.append(build(name, specs, **options).to(device))
        self.base: MultimodalVAE = copy.deepcopy(models[0])
        self.base.modalities.dense = True
        self.base.eval()
        self.parameters, self.buffers = stack_module_state(models)
        self.batched = True
        self.entries = any(spec.entries for spec in specs)
        self.encoded = [spec.name for spec in specs if spec.role != "target"]

    # ---- training --------------------------------------------------------------------------------------------

    def fit(
        self,
        tables: Tables,
        fold: NDArray[np.intp],
        schedule: Schedule,
        report: Reporter | None = None,
        label: str = "members",
    ) -> NDArray[np.float64]:
        """Train all members.

        Two trainings in one process run one after the other, because torch's generator belongs to the process.

        Args:
            tables: The training samples.
            fold: [N], the member that leaves out each sample.
            schedule: How to train.
            report: Receives the progress at each look at the samples left out. None: it is not reported.
            label: The name of the members in it.

        Returns:
            [E], the mean over modalities of the fraction of variance unexplained when each modality of the samples left out is
            predicted from the others, at the parameters that are kept; NaN where no member leaves out a sample to score.
        """
        tables = self.wide.down(tables)
        rows = min(schedule.batch_size, tables.size)
        operations = 6 * rows * sum(value.numel() for value in self.parameters.values())
        with one_at_a_time, threads(1 if operations < _SMALL else None):
            report = report or Silent()
            report.start(f"training {label}", schedule.steps)
            return self._fit(tables, fold, schedule, report)

    def _fit(
        self, tables: Tables, fold: NDArray[np.intp], schedule: Schedule, report: Reporter
    ) -> NDArray[np.float64]:
        data = tables.batch(self.device, self.entries)
        self.batched = self._can_be_batched(data)
        kept = [torch.from_numpy(np.flatnonzero(fold != e)).to(self.device) for e in range(self.count)]
        size = min(len(rows) for rows in kept)
        batch_size = min(schedule.batch_size, size)
        every, start = max(1, schedule.steps // _CHECKS), time.monotonic()
        optimizer = torch.optim.Adam(self.parameters.values(), lr=schedule.lr, betas=(0.9, 0.99))
        best = torch.full((self.count,), math.inf, device=self.device)
        stored = {key: value.detach().clone() for key, value in self.parameters.items()}
        self.base.train()
        with forked(self.device):
            torch.manual_seed(fold_in(self.seed, "members"))
            order, position, stale, shown = self._order(kept, size), 0, 0, 0
            for step in range(schedule.steps):
                for group in optimizer.param_groups:
                    group["lr"] = schedule.lr * _rate(step, schedule.steps)
                if position + batch_size > size:
                    order, position = self._order(kept, size), 0
                self._step(optimizer, data, order[:, position : position + batch_size])
                position += batch_size
                if (step + 1) % every and step + 1 < schedule.steps:
                    continue
                error = self._left_out(tables, fold)
                better = (error < best) | error.isnan()  # without any score, the last parameters are kept
                for key, value in self.parameters.items():
                    where = better.view(-1, *[1] * (value.ndim - 1))
                    stored[key] = torch.where(where, value.detach(), stored[key])
                stale = 0 if bool(better.any()) else stale + 1
                best = torch.where(better, error, best)
                report.advance(step + 1 - shown, f"unexplained variance {float(best.mean()):.3f}")
                shown = step + 1
                late = schedule.max_seconds is not None and time.monotonic() - start > schedule.max_seconds
                if stale >= schedule.patience or late:
                    break
        with torch.no_grad():
            for key, value in self.parameters.items():
                value.copy_(stored[key])
        self.base.eval()
        return best.double().cpu().numpy()

    def _order(self, kept: Sequence[Tensor], size: int) -> Tensor:
        """A permutation of each member's samples: [E, size]."""
        return torch.stack([rows[torch.randperm(len(rows), device=rows.device)[:size]] for rows in kept])

    def _step(self, optimizer: torch.optim.Optimizer, data: Batch, rows: Tensor) -> None:
        values = {name: x[rows] for name, x in data.data.items()}  # [E, B, F]
        seen = {name: x[rows] for name, x in data.entries.items()}
        mask = data.mask[:, rows].transpose(0, 1)  # [E, M, B]
        given = {name: x[rows] for name, x in data.covariates.values.items()}  # [E, B]
        optimizer.zero_grad(set_to_none=True)
        arguments = values, mask, seen, self._shown(seen), given
        loss = self._losses(self.parameters, self.buffers, *arguments).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def _losses(self, *arguments: Any) -> Tensor:
        """The negative objective of every member, [E]; each argument has the members as its first axis."""
        if self.batched:
            each: Tensor = vmap(self._objective, randomness="different")(*arguments)
            return each
        return torch.stack(
            [
                self._objective(*(tree_map(lambda x, e=e: x[e], one) for one in arguments))
                for e in range(self.count)
            ]
        )

    @torch.no_grad()
    def _can_be_batched(self, data: Batch) -> bool:
        """Whether the objective has shapes that do not depend on the data, as vmap needs; else members take turns."""
        rows = torch.arange(min(2, data.size), device=self.device).repeat(self.count, 1)
        values = {name: x[rows] for name, x in data.data.items()}
        seen = {name: x[rows] for name, x in data.entries.items()}
        mask = data.mask[:, rows].transpose(0, 1)
        given = {name: x[rows] for name, x in data.covariates.values.items()}
        with forked(self.device):
            try:
                vmap(self._objective, randomness="different")(
                    self.parameters, self.buffers, values, mask, seen, seen, given
                )
            except RuntimeError as problem:
                if "vmap" not in str(problem):
                    raise
                return False
        return True

    def _shown(self, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of the observed entries those that the encoders are given: a share of each sample's is hidden at random."""
        shown = {}
        for name, x in seen.items():
            share = _HIDDEN * torch.rand((*x.shape[:2], 1), device=x.device)
            lots = torch.rand(x.shape, device=x.device)
            if name in self.leaders:
                lots = lots[..., self.leaders[name]]
            shown[name] = x & (lots >= share)
        return shown

    def _objective(
        self,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        values: dict[str, Tensor],
        mask: Tensor,
        seen: dict[str, Tensor],
        shown: dict[str, Tensor],
        covariates: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The negative objective of one member, averaged over its samples."""
        batch = Batch(values, mask, seen, {}, False, Covariates(covariates or {}))
        given = batch
        if shown:
            visible = torch.stack([shown[name].any(-1) for name in values]) & mask
            given = Batch(
                {name: torch.where(shown[name], x, 0) for name, x in values.items()},
                visible,
                shown,
                {},
                False,
                batch.covariates,
            )
        value: Tensor = _call(self.base, parameters, buffers, _bound, batch, given)
        return -value.mean()

    @torch.no_grad()
    def _left_out(self, tables: Tables, fold: NDArray[np.intp]) -> Tensor:
        """[E], the error of each member on the samples that it leaves out; infinite where training diverged.

        A member that leaves out no sample to score has the mean error of the others. NaN: no member does.
        """
        self.base.eval()
        found = [
            self._error(member, tables.rows(np.flatnonzero(fold == member))) for member in range(self.count)
        ]
        self.base.train()
        scored = [math.inf if math.isnan(error) else error for error in found if error is not None]
        if not scored:
            return torch.full((self.count,), math.nan, device=self.device)
        mean, finite = sum(scored) / len(scored), iter(scored)
        errors = [mean if error is None else next(finite) for error in found]
        return torch.tensor(errors, dtype=torch.float32, device=self.device)

    def _error(self, member: int, part: Tables) -> float | None:
        """The mean over modalities of the error of each, predicted from the others (a single one: from itself); None: nothing to score."""
        errors = []
        for name in part.names:
            others = [other for other in self.encoded if other != name] or self.encoded
            given = part.only(tuple(other in others for other in part.names))
            rows = part.observed[name].any(1) & given.mask.any(1)
            x, seen = part.values[name][rows], part.observed[name][rows]
            total = float((np.where(seen, x, 0).astype(np.float64) ** 2).sum())
            if not total > 0:  # no sample, or constant columns, whose errors have no scale
                continue
            known = self.wide.known_to(member, given.rows(np.flatnonzero(rows)))
            predicted = self._mean_of(member, known)[name].cpu().numpy()
            squares = np.where(seen, predicted.astype(np.float64) - x, 0) ** 2
            errors.append(float(squares.sum()) / total)
        return float(np.mean(errors)) if errors else None

    # ---- inference -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, tables: Tables) -> dict[str, Floats]:
        """The mean over members of E[x_m | observed]: name -> [N, F], for observed modalities too."""
        total: dict[str, Floats] = {}
        for member in range(self.count):
            for name, x in self._chunks(member, tables).items():
                total[name] = total[name] + x if member else x
        return {name: np.asarray(x / self.count, np.float32) for name, x in total.items()}

    @torch.no_grad()
    def predict_left_out(self, tables: Tables, fold: NDArray[np.intp]) -> dict[str, Floats]:
        """E[x_m | observed] of each sample by the member that leaves it out: name -> [N, F]."""
        result = {name: np.zeros_like(x) for name, x in tables.values.items()}
        for member in range(self.count):
            rows = np.flatnonzero(fold == member)
            if len(rows):
                for name, x in self._chunks(member, tables.rows(rows)).items():
                    result[name][rows] = x
        return result

    @torch.no_grad()
    def expected(self, tables: Tables, seed: int) -> list[dict[str, Floats]]:
        """E[x_m | z] of every member, each with one draw of z given what was observed: E times name -> [N, F]."""
        down, results = self.wide.down(tables), []
        with _seeded(fold_in(seed, "expected"), self.device):
            for member in range(self.count):
                batch = self.wide.known_to(member, down).batch(self.device, self.entries)
                found = _call(self.base, *self._of(member), _drawn, batch, tables.like(batch), False)
                results.append(self.wide.up({name: x.cpu().numpy() for name, x in found.items()}))
        return results

    @torch.no_grad()
    def draw(self, tables: Tables, seed: int) -> dict[str, Floats]:
        """One draw of every modality given what was observed, from a member chosen for each sample: name -> [N, F]."""
        chosen = np.random.default_rng(fold_in(seed, "member of a draw")).integers(
            self.count, size=tables.size
        )
        result = {name: np.zeros_like(x) for name, x in tables.values.items()}
        with _seeded(fold_in(seed, "draw"), self.device):
            for member in range(self.count):
                rows = np.flatnonzero(chosen == member)
                for start in range(0, len(rows), _ROWS):
                    part = rows[start : start + _ROWS]
                    down = self.wide.known_to(member, self.wide.down(tables.rows(part)))
                    batch = down.batch(self.device, self.entries)
                    found = _call(self.base, *self._of(member), _drawn, batch, down.like(batch), True)
                    drawn = self.wide.up({name: x.cpu().numpy() for name, x in found.items()})
                    for name, x in drawn.items():
                        result[name][part] = x
        return result

    def _chunks(self, member: int, tables: Tables) -> dict[str, Floats]:
        result = {name: np.empty(x.shape, np.float32) for name, x in tables.values.items()}
        for start in range(0, tables.size, _ROWS):
            rows = slice(start, start + _ROWS)
            found = self._mean_of(member, self.wide.known_to(member, self.wide.down(tables.rows(rows))))
            for name, x in self.wide.up({name: x.cpu().numpy() for name, x in found.items()}).items():
                result[name][rows] = x
        return result

    def _mean_of(self, member: int, tables: Tables) -> dict[str, Tensor]:
        batch, seed = tables.batch(self.device, self.entries), fold_in(self.seed, "mean", member)
        found: dict[str, Tensor] = _call(self.base, *self._of(member), _mean, batch, tables.like(batch), seed)
        return found

    def _of(self, member: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return (
            {key: value[member].detach() for key, value in self.parameters.items()},
            {key: value[member] for key, value in self.buffers.items()},
        )

    def call(self, member: int, what: Callable[..., Any], *arguments: Any) -> Any:
        """``what(model, *arguments)`` with one member as the model; gradients pass to the arguments, and to no parameter."""
        return _call(self.base, *self._of(member), what, *arguments)

    # ---- as a file -------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """The stacked parameters and buffers, by name."""
        return {key: value.detach() for key, value in (*self.parameters.items(), *self.buffers.items())}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Set parameters and buffers to those of ``state``."""
        for stacked in (self.parameters, self.buffers):
            for key, value in stacked.items():
                value.copy_(state[key])
        self.base.eval()


def _rate(step: int, steps: int) -> float:
    """The learning rate as a share of the largest: a short linear rise, then half a cosine."""
    rise = min(50, max(1, steps // 10))
    return min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _call(
    base: MultimodalVAE,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    what: Callable[..., Any],
    *arguments: Any,
) -> Any:
    """``what(model, *arguments)`` with these parameters."""
    return functional_call(
        _Through(base, what), {f"base.{k}": v for k, v in (*parameters.items(), *buffers.items())}, arguments
    )


class _Through(torch.nn.Module):
    """A module whose call is any function of the model, because ``functional_call`` calls modules."""

    def __init__(self, base: MultimodalVAE, what: Callable[..., Any]) -> None:
        super().__init__()
        self.base, self.what = base, what

    def forward(self, *arguments: Any) -> Any:
        return self.what(self.base, *arguments)


def _bound(model: MultimodalVAE, batch: Batch, given: Batch) -> Tensor:
    return model.bound(batch, model.experts(given), 1.0).value


def _posterior(model: MultimodalVAE, batch: Batch) -> Mixture:
    return model.posterior(batch, model.experts(batch))


def forked(device: torch.device) -> AbstractContextManager[None]:
    """At the end, torch's generators of the host and of the device are as they were: ``manual_seed`` seeds both."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch draws from this seed, and no training in another thread draws."""
    with one_at_a_time, forked(device):
        torch.manual_seed(seed)
        yield


def _mean(model: MultimodalVAE, batch: Batch, like: Batch, seed: int) -> dict[str, Tensor]:
    """E[x | observed]: at the posterior mean for one component without private latents, else the mean of draws.

    ``like``: the batch with the covariates at which decoders predict.
    """
    q = _posterior(model, batch)
    if len(q.weights) == 1 and not len(model.owner):
        z = torch.where(q.observed[:, None], q.mean, model.prior.z().mean)
        return model.modalities.decode(z, z[..., :0], like=_covariates_alone(like))
    with _seeded(seed, batch.device):
        drawn = model.generate(batch, K=_DRAWS, covariates=_given(batch, like))
    return {name: x.mean(0) for name, x in drawn.items()}


def _drawn(model: MultimodalVAE, batch: Batch, like: Batch, sample: bool) -> dict[str, Tensor]:
    """One draw of every modality; ``sample``: from the likelihood, else its mean."""
    drawn = model.generate(batch, sample=sample, covariates=_given(batch, like))
    return {name: x[0] for name, x in drawn.items()}


def _given(batch: Batch, like: Batch) -> dict[str, Tensor] | None:
    """The values of covariates at which decoders predict; None: those of the batch."""
    return None if like is batch else {name: x.cpu() for name, x in like.covariates.values.items()}


def _covariates_alone(like: Batch) -> Batch | None:
    """Samples of which nothing but covariates is known; None: there are none."""
    return Batch({}, like.mask, covariates=like.covariates) if like.covariates.values else None

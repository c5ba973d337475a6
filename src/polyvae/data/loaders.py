"""Batches for training, the same ones whenever the same epoch is asked for, so that training can resume in the middle of one."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from polyvae.core.batch import Batch
from polyvae.data.multimodal import MultimodalData
from polyvae.utils.devices import to_device
from polyvae.utils.errors import InputError
from polyvae.utils.seeds import fold_in


@runtime_checkable
class Loader(Protocol):
    """Where ``fit`` takes its batches from."""

    @property
    def size(self) -> int:
        """Samples in an epoch, of all ranks together."""

    def __len__(self) -> int:
        """Steps in an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of this epoch from step ``start`` on. A function of its arguments alone."""


class SliceLoader:
    """Batches sliced out of whole tensors on the training device; nothing is collated sample by sample.

    An epoch visits every sample once, in an order that is a function of (seed, epoch); its last batch may be smaller.
    Of ``world`` ranks each takes every world-th sample of that one order; the order wraps around where it does not divide,
    so that all ranks take the same number of steps. ``batch_size`` counts the samples of one rank.
    """

    def __init__(
        self,
        data: MultimodalData,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1:
            raise InputError(
                f"loader: got batch_size={batch_size}; expected 1 or more; 64 to 256 suit most models"
            )
        if not 0 <= rank < world:
            raise InputError(
                f"loader: got rank {rank} of {world}; expected 0 to {world - 1}; ranks count from zero"
            )
        self.data, self.batch_size, self.seed, self.shuffle = data.to(device), batch_size, seed, shuffle
        self.rank, self.world = rank, world
        self._gaps = ~data.mask.all(0).cpu()

    @property
    def size(self) -> int:
        return len(self.data)

    def __len__(self) -> int:
        return -(-self._share // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = self.order(epoch)
        rows = torch.split(to_device(order, self.data.device), self.batch_size)
        whole = torch.split(~self._gaps[order], self.batch_size)
        # Computed before the epoch: step by step it would cost as much as gathering a small batch.
        known = [True] * len(whole) if not self._gaps.any() else [bool(part.all()) for part in whole]
        batches = (
            partial(self.data.gather, rows[step], known[step], on_host)
            for step, on_host in enumerate(torch.split(order, self.batch_size))
            if step >= start
        )
        # Reading from files takes as long as a step of a small model, and both can go on together.
        return ahead(batches) if self.data.kept else (batch() for batch in batches)

    def order(self, epoch: int) -> Tensor:
        """The row numbers that this rank visits in this epoch, in order, on the host."""
        draws = torch.Generator().manual_seed(fold_in(self.seed, "epoch", epoch))
        order = torch.randperm(self.size, generator=draws) if self.shuffle else torch.arange(self.size)
        wrapped = order.repeat(-(-self.world // self.size) + 1)[: self._share * self.world]
        return wrapped[self.rank :: self.world]

    @property
    def _share(self) -> int:
        return -(-self.size // self.world)


class StreamLoader:
    """Batches from any ``torch.utils.data.DataLoader``, for data that do not fit into memory.

    The DataLoader yields Batch, or mappings name -> [B, *shape] of which everything is observed. ``size`` and ``steps`` (per epoch)
    are required only where the DataLoader has no length. What is read is a function of (seed, epoch, step): shuffling and all draws of
    torch, NumPy and ``random`` from their global generators repeat, in this process and in workers, and so do those of the generators of
    the DataLoader and of torch's samplers, which are seeded for each epoch. ``start`` reads and drops the batches before it. Workers are
    started for every epoch, also with ``persistent_workers=True``, because workers that persist continue the draws of earlier epochs.

    Raises InputError: a DataLoader without a length and no ``size`` or ``steps``, batches of another kind.
    """

    def __init__(
        self,
        dataloader: DataLoader[Any],
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        size: int | None = None,
        steps: int | None = None,
    ) -> None:
        self.dataloader, self.seed, self.device = dataloader, seed, torch.device(device)
        try:
            self._size = len(dataloader.dataset) if size is None else size  # type: ignore[arg-type]
            self._steps = len(dataloader) if steps is None else steps
        except TypeError:
            raise InputError(
                f"loader: got a DataLoader over {type(dataloader.dataset).__name__}, which has no length; expected "
                "the length of an epoch; pass size= and steps="
            ) from None

    @property
    def size(self) -> int:
        return self._size

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self._seed_generators(epoch)
        dataloader = copy.copy(self.dataloader)
        # The constructor alone may set it; an iterator that persists would continue the draws of the epoch before.
        vars(dataloader)["persistent_workers"] = False
        with _apart(fold_in(self.seed, "loader", epoch)):
            batches = iter(dataloader)
        for step in range(self._steps):
            # Seeded for every step, in a stream other than that of training: a resumed epoch must not depend on what the model drew.
            with _apart(fold_in(self.seed, "batch", epoch, step)):
                item = next(batches, None)
            if item is None:
                return
            if step >= start:
                yield self._batch(item)

    def _seed_generators(self, epoch: int) -> None:
        outer = self.dataloader.batch_sampler
        samplers = [
            self.dataloader.sampler,
            outer,
            outer.sampler if isinstance(outer, BatchSampler) else None,
        ]
        generators = {id(self.dataloader.generator): self.dataloader.generator}
        for sampler in samplers:
            if isinstance(sampler, DistributedSampler):
                sampler.set_epoch(epoch)
            elif isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler):
                generators[id(sampler.generator)] = sampler.generator
        for generator in generators.values():
            if generator is not None:
                generator.manual_seed(fold_in(self.seed, "epoch", epoch))

    def _batch(self, item: Any) -> Batch:
        if isinstance(item, Batch):
            return item.to(self.device)
        if isinstance(item, Mapping):
            return Batch.of(item).to(self.device)
        raise InputError(
            f"loader: got {type(item).__name__} from the DataLoader; expected Batch or a mapping from names to tensors "
            "[B, *shape]; give the DataLoader a collate_fn that makes one"
        )


def ahead(calls: Iterable[Callable[[], Batch]]) -> Iterator[Batch]:
    """The results of the calls in order; each is computed by another thread while the one before is used."""
    with ThreadPoolExecutor(1, "polyvae-loader") as pool:
        waiting = None
        for call in calls:
            result, waiting = waiting, pool.submit(call)
            if result is not None:
                yield result.result()
        if waiting is not None:
            yield waiting.result()


@contextmanager
def _apart(seed: int) -> Iterator[None]:
    """Inside, the host's global generators start at ``seed``; afterwards they continue from their earlier states."""
    state, numpy_state, python_state = (
        torch.default_generator.get_state(),
        np.random.get_state(),  # noqa: NPY002 - data sets draw from it
        random.getstate(),
    )
    torch.default_generator.manual_seed(seed)
    np.random.seed(fold_in(seed, "numpy") % 2**32)  # noqa: NPY002
    random.seed(fold_in(seed, "random"))
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)

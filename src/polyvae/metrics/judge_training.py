"""The networks of judges, and how one is trained."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyvae.data.multimodal import MultimodalData
from polyvae.metrics import labels

Progress = Callable[[str, float], None]


class Recipe(NamedTuple):
    """How judges are trained: AdamW with a one-cycle schedule, and a small random transform of every image."""

    epochs: int = 3
    least: int = 400  # smallest number of steps, for small data sets
    most: int = 1400  # largest number of steps, for large data sets
    batch_size: int = 64
    rate: float = 3e-3
    decay: float = 0.05
    width: int = 32
    turn: float = 0.15  # radians, at most
    stretch: float = 0.12  # of either side, at most
    shift: float = 1.25  # pixels per 16 pixels of side, at most
    smoothing: float = 0.05


# Attributes may be places and sizes, which a shift or a change of scale would alter.
OF_ATTRIBUTES = Recipe(epochs=16, most=2000, turn=0.05, stretch=0.02, shift=0.25)


class Heads(NamedTuple):
    """What a judge answers: its logits are those of the label, if there are ``classes``, and then those of each attribute.

    Attributes:
        classes: The labels, sorted: [C] int64.
        attributes: Attribute -> the number of its classes.
    """

    classes: Tensor
    attributes: Mapping[str, int]

    @classmethod
    def of(cls, data: MultimodalData) -> Heads:
        """The heads for these data."""
        none = torch.zeros(0, dtype=torch.int64)
        known = none if data.labels is None else labels.classes(data.labels)
        return cls(known, {name: len(own) for name, own in data.classes.items()})

    @property
    def sizes(self) -> list[int]:
        """The numbers of logits; the first is that of the label."""
        return [len(self.classes), *self.attributes.values()]

    def truth(self, data: MultimodalData, name: str) -> Tensor:
        """The right answers for modality ``name``, numbered from 0; −1 where there is none: [N, 1 + attributes] on the host.

        There is none for a sample that lacks the modality or the label, nor for an attribute that the modality does not state.
        """
        missing, said = torch.full((len(data),), -1), data.said.get(name, {})
        columns = [missing]
        if data.labels is not None:
            y = data.labels.cpu()
            columns = [torch.where(labels.known(y), torch.searchsorted(self.classes, y), missing)]
        for attribute in self.attributes:
            y = data.attributes[attribute].cpu()
            columns.append(torch.where(said[attribute].cpu(), y, missing) if attribute in said else y)
        seen = data.mask[data.names.index(name)].cpu()
        return torch.where(seen[:, None], torch.stack(columns, 1), -1)


class Reader(nn.Module, abc.ABC):
    """A classifier: images [B, *shape] -> logits [B, classes]."""

    shape: tuple[int, ...]

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Judge(Reader):
    """A convolutional network for images of 8 to 64 pixels: [B, C, H, W] -> logits [B, classes]. It has batch norm.

    With several heads ``classes`` is the sum of their logits: the last layer is theirs, all others are shared.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, width: int) -> None:
        super().__init__()
        self.shape = shape
        channels, side = shape[0], min(shape[1:])
        first = (
            nn.Conv2d(channels, width, 4, 2, 1, bias=False)
            if side >= 16
            else nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        )
        self.body = nn.Sequential(
            first,
            nn.BatchNorm2d(width),
            nn.ReLU(),
            # Without this stride, a step at 64 pixels takes two to three times as long.
            nn.Conv2d(width, 2 * width, 3, 2 if side >= 48 else 1, 1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1, bias=False),
            nn.AdaptiveMaxPool2d(4),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * width * 16, classes)

    @classmethod
    def seeded(cls, shape: tuple[int, ...], classes: int, width: int, seed: int) -> Judge:
        """An untrained judge. The global random generator keeps its state."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return cls(shape, classes, width)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).flatten(1))
        return logits


@contextlib.contextmanager
def side_by_side() -> Iterator[ThreadPoolExecutor]:
    """One judge per core. Steps this small gain little from a second core, and wait if another program uses it."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def train_judge(
    data: MultimodalData,
    name: str,
    judge: Judge,
    heads: Heads,
    recipe: Recipe,
    seed: int,
    device: torch.device | str,
    progress: Progress | None,
) -> Judge:
    answers = heads.truth(data, name)
    rows = (answers >= 0).any(1).nonzero()[:, 0]
    truth = answers[rows].to(device)
    # On CPUs a step takes a quarter less time than with the default layout.
    judge = judge.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    draws = torch.Generator().manual_seed(seed)
    dtype = next(judge.parameters()).dtype
    optimiser = torch.optim.AdamW(judge.parameters(), recipe.rate, weight_decay=recipe.decay, fused=True)
    steps = max(recipe.least, min(recipe.most, recipe.epochs * -(-len(rows) // recipe.batch_size)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps)
    for step, picked in enumerate(_order(len(rows), steps, recipe.batch_size, draws), 1):
        index = picked.to(device)
        images = data.values(name, rows[picked]).to(device, dtype)
        logits = judge(moved(images, recipe, draws).contiguous(memory_format=torch.channels_last))
        loss = _loss(torch.split(logits, heads.sizes, 1), truth[index].unbind(1), recipe.smoothing)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if progress is not None and (step % 20 == 0 or step == steps):
            progress(name, step / steps)
    return judge.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


def _loss(logits: Sequence[Tensor], truth: Sequence[Tensor], smoothing: float) -> Tensor:
    """The sum of the cross-entropies of the heads, each over the samples with an answer."""
    return torch.stack(
        [
            functional.cross_entropy(own, answer, ignore_index=-1, label_smoothing=smoothing)
            for own, answer in zip(logits, truth, strict=True)
            if bool((answer >= 0).any())
        ]
    ).sum()


def _order(count: int, steps: int, batch_size: int, draws: torch.Generator) -> Iterator[Tensor]:
    """The rows of each step, from one random permutation after another."""
    batches: Iterator[Tensor] = iter(())
    for _ in range(steps):
        rows = next(batches, None)
        if rows is None:
            batches = iter(torch.split(torch.randperm(count, generator=draws), batch_size))
            rows = next(batches)
        # Batch norm needs two images; the last batch of a permutation may have one.
        yield rows if len(rows) > 1 else rows.repeat(2)


def moved(x: Tensor, recipe: Recipe, draws: torch.Generator) -> Tensor:
    """Images after a small random rotation, scaling and shift within the limits of ``recipe``: [B, C, H, W]."""
    turn, across, down, right, below = (2 * torch.rand(5, len(x), generator=draws) - 1).unbind()
    turn = turn * recipe.turn
    across, down = 1 + across * recipe.stretch, 1 + down * recipe.stretch
    # grid_sample's coordinates run from -1 to 1, so a pixel of 16 is an eighth.
    right, below = right * recipe.shift / 8, below * recipe.shift / 8
    upper = torch.stack([turn.cos() * across, -turn.sin() * across, right], 1)
    lower = torch.stack([turn.sin() * down, turn.cos() * down, below], 1)
    grid = functional.affine_grid(torch.stack([upper, lower], 1), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid.to(x), padding_mode="reflection", align_corners=False)

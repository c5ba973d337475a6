"""Judges, the classifiers used for evaluation: small networks that are trained on real images once per data set, and then cached.

``released.py`` uses published classifiers instead, if a data set has them.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from polyvae.data.multimodal import MultimodalData
from polyvae.data.sets.files import cache_folder
from polyvae.metrics import labels
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.files import StorageError, write_atomic
from polyvae.utils.seeds import fold_in

log = logging.getLogger(__name__)

FORMAT = 2  # increase it when the network or the training changes, so that cached judges are not used
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


class Reader(nn.Module, abc.ABC):
    """A classifier: images [B, *shape] -> logits [B, classes]."""

    shape: tuple[int, ...]

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Judge(Reader):
    """A convolutional network for images of 8 to 64 pixels: [B, C, H, W] -> logits [B, classes]. It has batch norm."""

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
            nn.Conv2d(width, 2 * width, 3, 1, 1, bias=False),
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


class Judges(Mapping[str, Reader]):
    """Modality -> judge, in evaluation mode.

    Attributes:
        accuracy: Modality -> accuracy on held-out images with a label; absent if there is none.
        agreement: The share of complete held-out samples on which all judges agree; None if there is none.
        classes: The labels [C].
        source: How the judges were made, in one line.
        seconds: The time of training.
        kinds: Modality -> "released" (published with the data) or "trained".
    """

    def __init__(
        self,
        judges: Mapping[str, Reader],
        classes: Tensor,
        accuracy: Mapping[str, float],
        agreement: float | None,
        source: str,
        seconds: float,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        self._judges = {name: judge.eval().requires_grad_(False) for name, judge in judges.items()}
        self.classes, self.accuracy, self.agreement = classes, dict(accuracy), agreement
        self.source, self.seconds = source, seconds
        self.kinds = dict.fromkeys(judges, "trained") | dict(kinds or {})

    def __getitem__(self, name: str) -> Reader:
        if name not in self._judges:
            raise KeyError(f"no judge for modality {name!r}; {nearest(name, self._judges)}")
        return self._judges[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._judges)

    def __len__(self) -> int:
        return len(self._judges)

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities with a judge."""
        return tuple(self._judges)

    @torch.no_grad()
    def predict(self, name: str, images: Tensor, batch_size: int = 1024) -> Tensor:
        """The predicted labels of images of modality ``name``: [..., C, H, W] -> [...], int64, on the device of the images.

        Raises InputError if this modality has no judge, or if the images have another shape than those of training.
        """
        if name not in self._judges:
            raise InputError(f"judges: there is none for modality {name!r}; {nearest(name, self._judges)}")
        judge = self._judges[name].eval().to(images.device)
        if tuple(images.shape[-3:]) != judge.shape:
            raise InputError(
                f"judges: got images of shape {tuple(images.shape)} for {name!r}; expected [..., *{judge.shape}]; "
                "pass decoder outputs or real images, not flattened"
            )
        flat = images.reshape(-1, *judge.shape).to(next(judge.parameters()).dtype)
        best = torch.cat([judge(part).argmax(1) for part in torch.split(flat, batch_size)])
        return self.classes.to(images.device)[best].reshape(images.shape[:-3])


def judgeable(data: MultimodalData) -> dict[str, tuple[int, ...]]:
    """The modalities that can have a judge, images (C, H, W) of 8 to 64 pixels, and their shapes."""
    shapes = {spec.name: spec.shape for spec in data.modalities()}
    return {
        name: shape
        for name, shape in shapes.items()
        if len(shape) == 3 and all(8 <= side <= 64 for side in shape[1:])
    }


def teachable(data: MultimodalData, names: Iterable[str]) -> list[str]:
    """Those of the modalities of which a training sample with a label was observed."""
    train = data.train
    if train.labels is None:
        return []
    known = labels.known(train.labels)
    return [name for name in names if bool((train.mask[train.names.index(name)] & known).any())]


def train_judges(
    data: MultimodalData,
    *,
    names: Collection[str] | None = None,
    seed: int = 0,
    cache: str | Path | bool | None = True,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    **recipe: Any,
) -> Judges:
    """Train a judge for every image modality on ``data.train``, test it on ``data.test``, and cache it.

    A negative label is missing; such samples, and those that lack the modality, are left out. A modality of which no labelled training
    sample is left has no judge.

    The same data, seed and recipe give the same judges on the same machine. The global random generator keeps its state.

    Args:
        data: Labelled data with a training and a test part.
        names: The modalities to train judges for; None: all.
        seed: Seed of initial weights, order and transforms.
        cache: A folder; True: the environment variable POLYVAE_CACHE, else ~/.cache/polyvae; False or None: no cache.
        device: The device of training.
        progress: Called as ``progress(modality, share)`` from several threads, because judges are trained in parallel.
        **recipe: Fields of Recipe to change, such as ``epochs=2``.

    Returns:
        The judges, with their accuracies.

    Raises:
        InputError: If there are no labels, no image modality (shape (C, H, W), 8 to 64 pixels) or no such split, or a setting is unknown.
    """
    for key in recipe:
        if key not in Recipe._fields:
            raise InputError(f"judges: unknown context {key!r}; {nearest(key, Recipe._fields)}")
    settings = Recipe(**recipe)
    specs = judgeable(data)
    for name in names or ():
        if name not in specs:
            raise InputError(f"judges: {name!r} is not an image modality of the data; {nearest(name, specs)}")
    specs = {name: shape for name, shape in specs.items() if names is None or name in names}
    if data.labels is None or not specs:
        what = "no labels" if data.labels is None else "no modality of shape (C, H, W) with 8 to 64 pixels"
        raise InputError(
            f"judges: got data with {what}; expected labelled images; remove coherence from the metrics for these data"
        )
    train, test = data.train, data.test
    able = teachable(data, specs)
    blind = [name for name in specs if name not in able]
    specs = {name: shape for name, shape in specs.items() if name not in blind}
    if not specs:
        raise InputError(
            f"judges: got no training sample with a label and an image of {', '.join(blind)}; expected one or more; remove coherence "
            "from the metrics for these data"
        )
    path = _path(cache, train, test, settings, seed, None if names is None else list(specs))
    known = _read(path, specs, settings)
    if known is not None:
        return known
    began = time.perf_counter()
    classes = labels.classes(data.labels)
    fresh = {
        name: Judge.seeded(shape, len(classes), settings.width, fold_in(seed, "judges/weights", number))
        for number, (name, shape) in enumerate(specs.items())
    }
    with _side_by_side() as pool:
        work = {
            name: pool.submit(
                _train,
                train,
                name,
                judge,
                classes,
                settings,
                fold_in(seed, "judges/training", number),
                device,
                progress,
            )
            for number, (name, judge) in enumerate(fresh.items())
        }
        judges = {name: training.result() for name, training in work.items()}
    source = (
        f"{settings.epochs} epochs, but {settings.least} to {settings.most} steps of {settings.batch_size} images, "
        f"on {len(train)} training tuples, seed {seed}; held out: {len(test)} tuples"
    )
    if blind:
        source += f"; none for {', '.join(blind)}, of which no training sample has a label"
    made = measured(judges, classes, test, source, time.perf_counter() - began)
    if path is not None:
        _write(path, made)
    return made


@contextlib.contextmanager
def _side_by_side() -> Iterator[ThreadPoolExecutor]:
    """One judge per core. Steps this small gain little from a second core, and wait if another program uses it."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _train(
    data: MultimodalData,
    name: str,
    judge: Judge,
    classes: Tensor,
    recipe: Recipe,
    seed: int,
    device: torch.device | str,
    progress: Progress | None,
) -> Judge:
    assert data.labels is not None
    seen = data.mask[data.names.index(name)] & labels.known(data.labels)
    rows, truth = (
        seen.nonzero()[:, 0].cpu(),
        torch.searchsorted(classes.to(data.device), data.labels[seen]).to(device),
    )
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
        loss = functional.cross_entropy(logits, truth[index], label_smoothing=recipe.smoothing)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if progress is not None and (step % 20 == 0 or step == steps):
            progress(name, step / steps)
    return judge.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


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


@torch.no_grad()
def measured(
    judges: Mapping[str, Reader],
    classes: Tensor,
    test: MultimodalData,
    source: str,
    seconds: float,
    kinds: Mapping[str, str] | None = None,
) -> Judges:
    """Judges with their accuracy and agreement on ``test``."""
    made = Judges(judges, classes, {}, None, source, seconds)
    assert test.labels is not None
    predicted = torch.stack(
        [
            made.predict(name, test.values(name).to(next(judge.parameters()).device)).cpu()
            for name, judge in judges.items()
        ]
    )
    seen = torch.stack([test.mask[test.names.index(name)] for name in judges]).cpu()  # [judges, N]
    counted = seen & labels.known(test.labels).cpu()
    right = (predicted == test.labels.cpu()) & counted
    agree = (predicted == predicted[0]).all(0)[seen.all(0)]
    return Judges(
        judges,
        classes,
        {
            name: int(right[row].sum()) / int(counted[row].sum())
            for row, name in enumerate(judges)
            if bool(counted[row].any())
        },
        float(agree.double().mean()) if len(agree) else None,
        source,
        seconds,
        kinds,
    )


def _path(
    cache: str | Path | bool | None,
    train: MultimodalData,
    test: MultimodalData,
    recipe: Recipe,
    seed: int,
    names: list[str] | None,
) -> Path | None:
    folder = cache_folder(cache)
    if folder is None:
        return None
    key = json.dumps([FORMAT, train.digest(), test.digest(), recipe, seed, names])
    return folder / f"judges-{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}.safetensors"


def _write(path: Path, judges: Judges) -> None:
    tensors = {
        f"{number}/{key}": value.cpu().contiguous()
        for number, judge in enumerate(judges.values())
        for key, value in judge.state_dict().items()
    }
    facts = {
        "names": judges.names,
        "classes": judges.classes.tolist(),
        "accuracy": judges.accuracy,
        "agreement": judges.agreement,
        "source": judges.source,
        "seconds": judges.seconds,
        "digest": _digest(tensors),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save(tensors, metadata={"judges": json.dumps(facts)}))
    except (OSError, SafetensorError, StorageError) as problem:
        log.info("judges: not cached at %s (%s)", path, problem)


def _read(path: Path | None, shapes: Mapping[str, tuple[int, ...]], recipe: Recipe) -> Judges | None:
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["judges"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if facts["digest"] != _digest(tensors) or facts["names"] != list(shapes):
            raise ValueError("the weights have changed since they were written")
        judges = {}
        for number, (name, shape) in enumerate(shapes.items()):
            judges[name] = Judge.seeded(shape, len(facts["classes"]), recipe.width, 0)
            judges[name].load_state_dict(
                {
                    key.split("/", 1)[1]: value
                    for key, value in tensors.items()
                    if key.startswith(f"{number}/")
                }
            )
        return Judges(
            judges,
            torch.tensor(facts["classes"]),
            facts["accuracy"],
            facts["agreement"],
            facts["source"],
            facts["seconds"],
        )
    except (
        SafetensorError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
    ) as problem:
        log.info(
            "judges: %s cannot be used, so judges are trained again (%s)",
            path,
            " ".join(str(problem).split()) or type(problem).__name__,
        )
        return None


def _digest(tensors: Mapping[str, Tensor]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for key in sorted(tensors):
        state.update(key.encode())
        state.update(tensors[key].flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()

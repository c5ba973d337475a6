"""Judges, the classifiers used for evaluation: small networks that are trained on real images once per data set, and then cached.

``released.py`` uses published classifiers instead, if a data set has them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from polyvae.data.multimodal import MultimodalData
from polyvae.data.sets.files import cache_folder
from polyvae.metrics.judge_training import (
    OF_ATTRIBUTES,
    Heads,
    Judge,
    Progress,
    Reader,
    Recipe,
    side_by_side,
    train_judge,
)
from polyvae.metrics.labels import known as known_labels
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.files import StorageError, write_atomic
from polyvae.utils.seeds import fold_in

log = logging.getLogger(__name__)

_ROWS = 1024  # images that are judged together
FORMAT = 3  # increase it when the network or the training changes, so that cached judges are not used


class Judges(Mapping[str, Reader]):
    """Modality -> judge, in evaluation mode.

    Attributes:
        accuracy: Modality -> accuracy on held-out images with a label; absent if there is none.
        agreement: The share of complete held-out samples on which all judges agree; None if there is none.
        classes: The labels [C].
        source: How the judges were made, in one line.
        seconds: The time of training.
        kinds: Modality -> "released" (published with the data) or "trained".
        attributes: Attribute -> the number of its classes; the judges have a head for each.
        stated: Modality -> the attributes that it states, of which its judge was trained.
        attribute_accuracy: Modality -> attribute -> accuracy on held-out images.
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
        attributes: Mapping[str, int] | None = None,
        stated: Mapping[str, Iterable[str]] | None = None,
        attribute_accuracy: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self._judges = {name: judge.eval().requires_grad_(False) for name, judge in judges.items()}
        self.classes, self.accuracy, self.agreement = classes, dict(accuracy), agreement
        self.source, self.seconds = source, seconds
        self.kinds = dict.fromkeys(judges, "trained") | dict(kinds or {})
        self.attributes = dict(attributes or {})
        self.stated = {name: tuple(own) for name, own in (stated or {}).items()}
        self.attribute_accuracy = {name: dict(own) for name, own in (attribute_accuracy or {}).items()}

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

    def facts(self) -> dict[str, Any]:
        """What an evaluation states about them: accuracies, kinds, source, and the agreement of several."""
        found: dict[str, Any] = {
            "judge_accuracy": self.accuracy,
            "judge_kind": self.kinds,
            "judges": self.source,
        }
        if self.agreement is not None and len(self) > 1:
            found["judge_agreement"] = self.agreement
        if self.attribute_accuracy:
            found["judge_accuracy_by_attribute"] = self.attribute_accuracy
        return found

    def predict(self, name: str, images: Tensor, batch_size: int = 1024) -> Tensor:
        """The predicted labels of images of modality ``name``: [..., C, H, W] -> [...], int64, on the device of the images.

        Raises InputError if this modality has no judge, or if the images have another shape than those of training.
        """
        return self._answers(name, images, batch_size)[0]

    def read(self, name: str, images: Tensor, batch_size: int = 1024) -> dict[str, Tensor]:
        """The predicted attributes of images of modality ``name``, those that it states: [..., C, H, W] -> attribute -> [...], int64.

        Raises InputError as ``predict`` does.
        """
        found = dict(zip(self.attributes, self._answers(name, images, batch_size)[1:], strict=False))
        return {attribute: found[attribute] for attribute in self.stated.get(name, ())}

    @torch.no_grad()
    def _answers(self, name: str, images: Tensor, batch_size: int) -> list[Tensor]:
        """The predicted label, and the class of each attribute for which there is a head: [...] each."""
        if name not in self._judges:
            raise InputError(f"judges: there is none for modality {name!r}; {nearest(name, self._judges)}")
        judge = self._judges[name].eval().to(images.device)
        if tuple(images.shape[-3:]) != judge.shape:
            raise InputError(
                f"judges: got images of shape {tuple(images.shape)} for {name!r}; expected [..., *{judge.shape}]; "
                "pass decoder outputs or real images, not flattened"
            )
        flat = images.reshape(-1, *judge.shape).to(next(judge.parameters()).dtype)
        logits = torch.cat([judge(part) for part in torch.split(flat, batch_size)])
        sizes = [len(self.classes), *(self.attributes.values() if name in self.stated else ())]
        best = [own.argmax(1) if own.shape[1] else None for own in torch.split(logits, sizes, 1)]
        found = [torch.full((len(flat),), -1, device=images.device) if own is None else own for own in best]
        if best[0] is not None:
            found[0] = self.classes.to(images.device)[found[0]]
        return [own.reshape(images.shape[:-3]) for own in found]


def judgeable(data: MultimodalData) -> dict[str, tuple[int, ...]]:
    """The modalities that can have a judge, images (C, H, W) of 8 to 64 pixels, and their shapes."""
    shapes = {spec.name: spec.shape for spec in data.modalities()}
    return {
        name: shape
        for name, shape in shapes.items()
        if len(shape) == 3 and all(8 <= side <= 64 for side in shape[1:])
    }


def teachable(data: MultimodalData, names: Iterable[str]) -> list[str]:
    """Those of the modalities of which a training sample with a label, or with an attribute that it states, was observed."""
    train, heads = lessons(data), Heads.of(data)
    return [name for name in names if bool((heads.truth(train, name) >= 0).any())]


def lessons(data: MultimodalData) -> MultimodalData:
    """The samples from which judges learn: the split "judges", where the data have one, else the training part.

    A judge that has seen only the combinations of attributes in the training part would find them in generated images too.
    """
    return data.part("judges") if "judges" in data.splits else data.train


def judged(data: MultimodalData) -> bool:
    """Whether the data have something to judge: labels, or attributes."""
    return data.labels is not None or bool(data.attributes)


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
    """Train a judge for every image modality on ``data.train``, or the split "judges" if there is one; test it on ``data.test``.

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
    settings = (OF_ATTRIBUTES if data.attributes else Recipe())._replace(**recipe)
    specs = judgeable(data)
    for name in names or ():
        if name not in specs:
            raise InputError(f"judges: {name!r} is not an image modality of the data; {nearest(name, specs)}")
    specs = {name: shape for name, shape in specs.items() if names is None or name in names}
    if not judged(data) or not specs:
        what = "no labels" if not judged(data) else "no modality of shape (C, H, W) with 8 to 64 pixels"
        raise InputError(
            f"judges: got data with {what}; expected labelled images; remove coherence from the metrics for these data"
        )
    train, test = lessons(data), data.test
    able = teachable(data, specs)
    blind = [name for name in specs if name not in able]
    specs = {name: shape for name, shape in specs.items() if name not in blind}
    if not specs:
        raise InputError(
            f"judges: got no training sample with a label and an image of {', '.join(blind)}; expected one or more; remove coherence "
            "from the metrics for these data"
        )
    heads = Heads.of(data)
    path = _path(cache, train, test, settings, seed, None if names is None else list(specs))
    known = _read(path, specs, settings, heads)
    if known is not None:
        return known
    began = time.perf_counter()
    fresh = {
        name: Judge.seeded(shape, sum(heads.sizes), settings.width, fold_in(seed, "judges/weights", number))
        for number, (name, shape) in enumerate(specs.items())
    }
    with side_by_side() as pool:
        work = {
            name: pool.submit(
                train_judge,
                train,
                name,
                judge,
                heads,
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
    stated = {
        name: [
            own
            for own, known in zip(
                heads.attributes, (heads.truth(train, name) >= 0)[:, 1:].any(0), strict=True
            )
            if known
        ]
        for name in judges
    }
    made = measured(
        judges,
        heads.classes,
        test,
        source,
        time.perf_counter() - began,
        attributes=heads.attributes,
        stated=stated if heads.attributes else {},
    )
    if path is not None:
        _write(path, made)
    return made


def judges_file(data: MultimodalData, names: Collection[str] | None = None) -> Path | None:
    """The file of the cache that ``train_judges(data, names=names)`` reads or writes."""
    settings = OF_ATTRIBUTES if data.attributes else Recipe()
    able = None if names is None else teachable(data, [name for name in judgeable(data) if name in names])
    return _path(True, lessons(data), data.test, settings, 0, able)


@torch.no_grad()
def measured(
    judges: Mapping[str, Reader],
    classes: Tensor,
    test: MultimodalData,
    source: str,
    seconds: float,
    kinds: Mapping[str, str] | None = None,
    attributes: Mapping[str, int] | None = None,
    stated: Mapping[str, Iterable[str]] | None = None,
) -> Judges:
    """Judges with their accuracy and agreement on ``test``.

    Where there are attributes but no labels, the accuracy is the mean over attributes, and there is no agreement.
    """
    made = Judges(judges, classes, {}, None, source, seconds, kinds, attributes, stated)
    heads = Heads(made.classes, made.attributes)
    right: dict[str, dict[str, float]] = {}
    predicted, seen = [], []
    for name, judge in judges.items():
        device = next(judge.parameters()).device
        parts = []
        for rows in torch.split(torch.arange(len(test)), _ROWS):
            images = test.values(name, rows).to(device)
            own = {"label": made.predict(name, images)}
            parts.append(own | (made.read(name, images) if made.attributes else {}))
        answers = {key: torch.cat([part[key].cpu() for part in parts]) for key in parts[0]}
        seen.append(test.mask[test.names.index(name)].cpu())
        predicted.append(answers["label"])
        truth = dict(zip(["label", *heads.attributes], heads.truth(test, name).unbind(1), strict=True))
        if test.labels is not None:
            truth["label"] = torch.where(seen[-1] & known_labels(test.labels).cpu(), test.labels.cpu(), -1)
        shares = {}
        for key, answer in answers.items():
            known = truth[key] >= 0
            if bool(known.any()):
                shares[key] = float((answer == truth[key])[known].double().mean())
        right[name] = shares
    alike = torch.stack(predicted)[:, torch.stack(seen).all(0)]
    return Judges(
        judges,
        classes,
        {name: own.get("label", sum(own.values()) / len(own)) for name, own in right.items() if own},
        float((alike == alike[0]).all(0).double().mean()) if alike.shape[1] and len(classes) else None,
        source,
        seconds,
        kinds,
        attributes,
        stated,
        {
            name: {key: share for key, share in own.items() if key != "label"}
            for name, own in right.items()
            if made.attributes
        },
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
        "attributes": judges.attributes,
        "stated": judges.stated,
        "attribute_accuracy": judges.attribute_accuracy,
        "digest": _digest(tensors),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save(tensors, metadata={"judges": json.dumps(facts)}))
    except (OSError, SafetensorError, StorageError) as problem:
        log.info("judges: not cached at %s (%s)", path, problem)


def _read(
    path: Path | None, shapes: Mapping[str, tuple[int, ...]], recipe: Recipe, heads: Heads
) -> Judges | None:
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
            judges[name] = Judge.seeded(shape, sum(heads.sizes), recipe.width, 0)
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
            None,
            facts.get("attributes"),
            facts.get("stated"),
            facts.get("attribute_accuracy"),
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

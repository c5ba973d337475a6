"""The classifiers published with PolyMNIST (Sutter, Daunhawer, Vogt 2021), as judges of the modalities that they were trained on.

The card of a data set names them by modality (``released_judges``). They are used if the folder of the data has them, in one of PLACES.
Judges are trained for all other modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyvae.data.multimodal import MultimodalData
from polyvae.metrics import labels
from polyvae.metrics.judge_training import Progress, Reader
from polyvae.metrics.judges import (
    Judges,
    judgeable,
    judged,
    judges_file,
    measured,
    teachable,
    train_judges,
)
from polyvae.utils.errors import InputError

# Next to the photos, or in the folders of the publication.
PLACES = ("polymnist", "polymnist/trained_clfs_polyMNIST", "trained_classifiers/trained_clfs_polyMNIST")


class ReleasedJudge(Reader):
    """conv 3-10-20 (4 x 4, stride 2), linear 980-128-10, with dropout between: [B, 3, 28, 28] -> logits of the data's ``classes`` [B, C].

    The evaluation code of the authors uses dropout in some places; here it is off, as in MMVAE+.
    """

    def __init__(self, weights: Mapping[str, Tensor], classes: Tensor) -> None:
        super().__init__()
        self.shape = (3, 28, 28)
        with torch.random.fork_rng(devices=[]):
            self.encoder = nn.Sequential(
                nn.Conv2d(3, 10, 4, 2, 1),
                nn.Dropout2d(0.5),
                nn.ReLU(),
                nn.Conv2d(10, 20, 4, 2, 1),
                nn.Dropout2d(0.5),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(980, 128),
                nn.Dropout(0.5),
                nn.ReLU(),
                nn.Linear(128, 10),
            )
        self.load_state_dict(weights)
        self.register_buffer("classes", classes, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.encoder(x)
        return logits[:, self.get_buffer("classes")]


def released(data: MultimodalData) -> dict[str, ReleasedJudge]:
    """Modality -> published classifier, if the card names one and the folder of the data has it.

    Raises InputError if a file has other contents.
    """
    if data.root is None or data.labels is None:
        return {}
    classes = labels.classes(data.labels)
    found = {}
    for name, file in data.card.get("released_judges", {}).items():
        path = next((path for place in PLACES if (path := data.root / place / file).is_file()), None)
        if path is not None:
            found[name] = _read(path, classes)
    return found


def file_of_judges(data: MultimodalData) -> Path | None:
    """The file of the cache that ``judges_for(data)`` reads or writes; None where no judge is trained."""
    if not judged(data) or not {"train", "test"} <= set(data.splits):
        return None
    known = released(data)
    rest = [name for name in judgeable(data) if name not in known]
    return judges_file(data, rest if known else None) if teachable(data, rest) else None


def judges_for(
    data: MultimodalData,
    *,
    seed: int = 0,
    cache: str | Path | bool | None = True,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    **recipe: Any,
) -> Judges:
    """Judges for ``data``: published classifiers if there are any, and trained judges for the other image modalities.

    All are tested on ``data.test``. Arguments and errors are those of ``train_judges``.
    """
    known = released(data)
    if not known:
        return train_judges(data, seed=seed, cache=cache, device=device, progress=progress, **recipe)
    rest = [name for name in judgeable(data) if name not in known]
    trained = (
        train_judges(data, names=rest, seed=seed, cache=cache, device=device, progress=progress, **recipe)
        if teachable(data, rest)
        else None
    )
    assert data.labels is not None
    source = f"published with PolyMNIST for {', '.join(known)}"
    if trained is not None:
        source += f"; trained for {', '.join(trained)}: {trained.source}"
    all_readers: dict[str, Reader] = {**(trained or {}), **known}
    readers = {name: all_readers[name] for name in judgeable(data) if name in all_readers}
    kinds = {name: "released" if name in known else "trained" for name in readers}
    return measured(
        readers,
        labels.classes(data.labels),
        data.test,
        source,
        trained.seconds if trained else 0.0,
        kinds,
    )


def _read(path: Path, classes: Tensor) -> ReleasedJudge:
    try:
        return ReleasedJudge(torch.load(path, map_location="cpu", weights_only=True), classes)
    except Exception as problem:  # torch can raise any error for a file with other contents
        raise InputError(
            f"{path}: got {' '.join(str(problem).split())[:120] or type(problem).__name__}; expected the weights of a "
            "published PolyMNIST classifier; replace it by the published file, or remove it to train a judge"
        ) from None

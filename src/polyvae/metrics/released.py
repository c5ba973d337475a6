"""The classifiers that were published with PolyMNIST (Sutter, Daunhawer, Vogt 2021), for the modalities that they were trained on.

A data set's card names them by modality (``released_judges``); they are used where its folder has them, in one of PLACES. All other
modalities get judges of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyvae.data.multimodal import MultimodalData
from polyvae.metrics.judges import Judges, Progress, Reader, judgeable, measured, train_judges
from polyvae.utils.errors import InputError

# Beside the photos, or as they were published.
PLACES = ("polymnist", "polymnist/trained_clfs_polyMNIST", "trained_classifiers/trained_clfs_polyMNIST")


class ReleasedJudge(Reader):
    """conv 3-10-20 (4 x 4, stride 2), linear 980-128-10, with dropout between: [B, 3, 28, 28] -> logits of the data's ``classes`` [B, C].

    The authors' evaluation code leaves dropout on in places; here it is off, as in MMVAE+.
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
    """Modality -> published classifier, where the card names one and the data's folder has it.

    Raises InputError for a file that holds something else.
    """
    if data.root is None or data.labels is None:
        return {}
    classes = torch.unique(data.labels.cpu())
    found = {}
    for name, file in data.card.get("released_judges", {}).items():
        path = next((path for place in PLACES if (path := data.root / place / file).is_file()), None)
        if path is not None:
            found[name] = _read(path, classes)
    return found


def judges_for(
    data: MultimodalData,
    *,
    seed: int = 0,
    cache: str | Path | bool | None = True,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    **recipe: Any,
) -> Judges:
    """The published classifiers where ``data`` has them, trained judges for its other image modalities, all measured on ``data.test``.

    Arguments and errors are those of ``train_judges``.
    """
    known = released(data)
    if not known:
        return train_judges(data, seed=seed, cache=cache, device=device, progress=progress, **recipe)
    rest = [name for name in judgeable(data) if name not in known]
    trained = (
        train_judges(data, names=rest, seed=seed, cache=cache, device=device, progress=progress, **recipe)
        if rest
        else None
    )
    assert data.labels is not None
    source = f"published with PolyMNIST for {', '.join(known)}"
    if trained is not None:
        source += f"; trained for {', '.join(rest)}: {trained.source}"
    readers: dict[str, Reader] = {
        name: known[name] if name in known or trained is None else trained[name] for name in judgeable(data)
    }
    kinds = {name: "released" if name in known else "trained" for name in readers}
    return measured(
        readers,
        torch.unique(data.labels.cpu()),
        data.test,
        source,
        trained.seconds if trained else 0.0,
        kinds,
    )


def _read(path: Path, classes: Tensor) -> ReleasedJudge:
    try:
        return ReleasedJudge(torch.load(path, map_location="cpu", weights_only=True), classes)
    except Exception as problem:  # whatever torch says of a file that is something else
        raise InputError(
            f"{path}: got {' '.join(str(problem).split())[:120] or type(problem).__name__}; expected the weights of a "
            "published PolyMNIST classifier; put the published file there, or take it away to have one trained"
        ) from None

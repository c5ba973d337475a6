"""What an input leaves open: several draws given a sentence that states only a part of the attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.fitted import FittedPrior
from polyvae.core.likelihoods import Text
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData, mix
from polyvae.report.drawing import MUTED, Drawing, Figure, label_width
from polyvae.report.gallery import Scene, source
from polyvae.report.tiles import tile

_STREAM = 24  # of seeds; those of the gallery end at 23
_GAP, _HEAD, _ROW = 3, 30, 960
_SAMPLES, _DRAWS = 3, 8


class Partial(NamedTuple):
    """Held-out samples whose value of modality ``given`` leaves attributes open.

    ``open`` has the names of these attributes, for each sample of the batch.
    """

    given: str
    batch: Batch
    open: Sequence[Sequence[str]]


def partial_samples(model: MultimodalVAE, data: MultimodalData, seed: int) -> Partial | None:
    """Samples for the first modality that states only some attributes of some samples; None if there is no such modality.

    They are chosen at random, with different numbers of attributes left open, at least one stated and at least one open.
    """
    for name, said in data.said.items():
        if name not in model.modalities or model.modalities[name].encoder is None or not said:
            continue
        stated = torch.stack([x.cpu() for x in said.values()], 1)
        count = torch.where(data.mask.cpu()[data.names.index(name)], stated.sum(1), 0)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(mix(seed, _STREAM)))
        sizes = count[order]
        few = [order[sizes == size][:1] for size in range(1, len(said))]  # the most open ones first
        rows = torch.cat([torch.zeros(0, dtype=torch.int64), *few])[:_SAMPLES].tolist()
        if rows:
            left = [[key for key, x in zip(said, stated[row].tolist(), strict=True) if not x] for row in rows]
            return Partial(name, model.admit(data.take(torch.tensor(rows))), left)
    return None


def partial_figure(scene: Scene, found: Partial) -> Figure | None:
    """Draws given each partial sentence, of the model alone and with the fitted prior; None if nothing can be drawn or shown."""
    targets = [
        name
        for name in scene.targets
        if name != found.given and not isinstance(scene.model.modalities[name].likelihood, Text)
    ]
    kinds: list[FittedPrior | None] = [None] if scene.model.shared else []
    if scene.conditional is not None:
        kinds.append(scene.conditional)
    if not targets or found.given not in scene.looks or not kinds:
        return None
    return _draws(scene, found, targets, kinds)


def _draws(
    scene: Scene, found: Partial, targets: Sequence[str], kinds: Sequence[FittedPrior | None]
) -> Figure:
    """For each sample a block: what was given on the left, and a row of draws for each target and kind of latents."""
    rows = [(kind, target) for kind in kinds for target in targets]
    names = [source(kind) + (f": {target}" if len(targets) > 1 else "") for kind, target in rows]
    side, wide = scene.side, scene.wide(found.given)
    across = max(map(scene.wide, targets)) + _GAP
    start = (
        wide + 2 * _GAP + label_width([target for _, target in rows if len(targets) > 1] + ["Fitted prior"])
    )
    draws = max(3, min(_DRAWS, int((_ROW - start) // across)))
    made = [_made(scene, found, number, kind, draws) for number, kind in enumerate(kinds)]
    block = len(rows) * (side + _GAP) + _HEAD + 12
    with Drawing("open", start + draws * across, block * found.batch.size) as drawing:
        board = drawing.board()
        for sample, left in enumerate(found.open):
            top = sample * block + _HEAD
            board.text(0, top - 14, f"given {found.given}; open: {', '.join(left)}", color=MUTED, va="center")
            value = found.batch.data[found.given][sample]
            tile(board, scene.looks[found.given], value, 1, top, side)
            for row, ((kind, target), name) in enumerate(zip(rows, names, strict=True)):
                y = top + row * (side + _GAP)
                label = name.replace(": ", "\n")
                board.text(start - 10, y + side / 2, label, ha="right", va="center")
                for k in range(draws):
                    x = made[kinds.index(kind)][target][k, sample]
                    tile(board, scene.looks[target], x, start + k * across, y, side)
        return drawing.done(
            f"Grid of generated values. Blocks: {found.batch.size} partial values of {found.given}, which leave open: "
            f"{'; '.join(', '.join(left) for left in found.open)}. Rows: {', '.join(names)}. Columns: {draws} draws.",
            f"Each row shows {draws} draws given the {found.given} on its left alone.",
        )


def _made(
    scene: Scene, found: Partial, number: int, prior: FittedPrior | None, draws: int
) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(mix(scene.seed, _STREAM, number))
        return scene.model.generate(found.batch.observe(found.given), draws, prior=prior)

"""Generated samples as grids of tiles: conditional and unconditional generation, and latent traversals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.fitted import FittedPrior
from polyvae.core.likelihoods import Text
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData, mix
from polyvae.report.drawing import MUTED, SERIES, Drawing, Figure, label_width, short
from polyvae.report.tiles import Look, look_of, look_of_text, outline, tile

_GAP, _SPACE = 3, 14  # pixels between tiles, and between groups of them
_ROW = 960  # pixels of a row with sentences or large tiles, about the width of the page
_FEW = 3  # the largest number of modalities whose tiles are large
_MOST = 6  # the largest number of modalities in a grid
_CROSS, _OWN, _FITTED = (
    21,
    22,
    23,
)  # streams of seeds: the draws of a figure do not depend on which others are made

_LATENTS = {
    "all": "Private latents of the others are drawn from the fitted prior, given the latents of the observed one.",
    "each": "The latents of the others are drawn from the fitted prior, given those of the observed one, and each modality is decoded from "
    "its own.",
}


@dataclass(frozen=True)
class Scene:
    """A model in evaluation mode, a few held-out samples ``batch`` with their ``labels``, and how each modality is shown.

    ``classes`` are the names of the labels; without them, a label is shown as its number.
    """

    model: MultimodalVAE
    batch: Batch
    labels: Sequence[int] | None
    looks: dict[str, Look]
    prior: FittedPrior | None
    seed: int
    classes: Sequence[str] = ()

    @property
    def inputs(self) -> list[str]:
        """Modalities to condition on."""
        return [
            name
            for name, row in zip(self.model.modalities, self.batch.mask, strict=True)
            if name in self.looks and self.model.modalities[name].encoder is not None and bool(row.any())
        ][:_MOST]

    @property
    def targets(self) -> list[str]:
        """Modalities to generate."""
        return [name for name in self.looks if self.model.modalities[name].decoder is not None][:_MOST]

    @property
    def fitted(self) -> bool:
        """Whether there is a fitted prior to draw from; one over z alone needs a shared latent."""
        return self.prior is not None and (self.model.shared > 0 or self.prior.latents != "z")

    @property
    def conditional(self) -> FittedPrior | None:
        """The fitted prior, if it draws latents of missing modalities; else None."""
        prior = self.prior
        if prior is None or not prior.conditional:
            return None
        usable = prior.latents == "each" or (prior.latents == "all" and len(self.model.owner))
        return prior if usable else None

    @property
    def mixed(self) -> bool:
        """Whether the posterior is a mixture, so that a draw chooses a component."""
        return len(self.model.posterior(self.batch, self.model.experts(self.batch)).weights) > 1

    @property
    def side(self) -> int:
        """The side of a tile, in pixels."""
        return max((look.side for look in self.looks.values()), default=0)

    def wide(self, name: str) -> float:
        """The width of a tile of one modality, in pixels."""
        return self.looks[name].wide or self.side

    @property
    def across(self) -> float:
        """The width of the widest tile of the targets, in pixels."""
        return max(map(self.wide, self.targets), default=self.side)

    @property
    def few(self) -> bool:
        """Whether tiles are large, or wide for sentences, so that a row has few of them."""
        return self.across > self.side or len(self.model.modalities) <= _FEW

    def fitting(self, tiles: int, others: int = 0) -> int:
        """How many tiles of the widest target fit into a row beside ``others``: ``tiles``, or fewer where they would be too small."""
        if not self.few:
            return tiles
        return max(3, min(tiles, int(_ROW // (self.across + _GAP)) - others))

    def title(self, row: int) -> str:
        """The title of a sample."""
        label = -1 if self.labels is None else self.labels[row]  # below 0: missing
        if label < 0:
            return f"sample {row + 1}"
        named = label < len(self.classes)
        return f"sample {row + 1}: {self.classes[label]}" if named else f"sample {row + 1}, class {label}"


def stage(
    model: MultimodalVAE, data: MultimodalData, prior: FittedPrior | None, seed: int, samples: int = 3
) -> Scene:
    """Choose held-out samples at random among the most completely observed ones, of different classes if there are labels.

    Models of the same modalities get the same samples.
    """
    rows = _choose(model, data, seed, samples)
    batch = model.admit(data.take(rows))
    few = data.rows(slice(0, 512)).take(slice(None))
    looks, large = {}, len(model.modalities) <= _FEW
    for name, net in model.modalities.items():
        seen = few.data[name][few.mask[few.names.index(name)]] if name in few.names else torch.zeros(0)
        look = (
            look_of_text(net.likelihood.vocabulary, large, net.spec.shape[0])
            if isinstance(net.likelihood, Text)
            else look_of(net.spec.shape, net.spec.likelihood, seen, large)
        )
        if look is not None:
            looks[name] = look
    labels = None if data.labels is None else data.labels[rows].tolist()
    return Scene(model, batch, labels, looks, prior, seed, _named(data))


def _named(data: MultimodalData) -> Sequence[str]:
    """The names of the labels: the classes of the attribute that is the label, if one is."""
    if data.labels is None:
        return ()
    labels = data.labels.cpu()
    return next(
        (
            data.classes[name]
            for name, x in data.attributes.items()
            if torch.equal(x.cpu().to(labels), labels)
        ),
        (),
    )


def _choose(model: MultimodalVAE, data: MultimodalData, seed: int, samples: int) -> Tensor:
    known = torch.tensor([name in model.modalities for name in data.names])
    observed = data.mask.cpu()[known].sum(0)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(mix(seed, _CROSS)))
    order = order[observed[order].argsort(descending=True, stable=True)]
    labels = torch.arange(len(data)) if data.labels is None else data.labels.cpu()
    first: dict[int, int] = {}
    for row in order.tolist():
        first.setdefault(int(labels[row]), row)
        if len(first) == samples:
            break
    chosen = list(first.values())
    chosen += [row for row in order.tolist() if row not in chosen][: samples - len(chosen)]
    return torch.tensor(chosen)


def cross_generation(scene: Scene, prior: FittedPrior | None = None) -> Figure:
    """Rows: an observed value of each input; columns: several draws of each target given that value alone.

    With ``prior``, the private latents of what is not observed are drawn from it.
    """
    name = "cross_generation" if prior is None else "cross_generation_fitted"
    inputs, targets, side = scene.inputs, scene.targets, scene.side
    left = label_width([*inputs, "given"])
    count = _count(scene)
    starts, end = _columns(scene, left + max(map(scene.wide, inputs)) + 2 * _SPACE, count)
    block = len(inputs) * (side + _GAP) + 38
    top = (
        30 if scene.conditional is None else 56
    )  # two figures differ in their latents, which a heading states
    with Drawing(name, end, top + block * scene.batch.size) as drawing:
        board = drawing.board()
        if scene.conditional is not None:
            board.text(left, 12, source(prior), va="center", weight="bold")
        board.text(left, top - 18, "observed", color=MUTED, va="center", fontsize=10)
        for target in targets:
            board.text(starts[target], top - 18, f"generated {short(target)}", va="center")
        for number, observed in enumerate(inputs):
            made = _given(scene, observed, number, count, prior)
            present = scene.batch.mask[list(scene.model.modalities).index(observed)]
            for row in range(scene.batch.size):
                y = top + row * block + 24 + number * (side + _GAP)
                given = f"given\n{short(observed)}"
                board.text(left - 10, y + side / 2, given, ha="right", va="center")
                if not bool(present[row]):
                    board.text(left + side / 2, y + side / 2, "–", ha="center", va="center", color=MUTED)
                    continue
                tile(board, scene.looks[observed], scene.batch.data[observed][row], left, y, side, muted=True)
                for target in targets:
                    x, step = starts[target], scene.wide(target) + _GAP
                    for k in range(count):
                        tile(board, scene.looks[target], made[target][k, row], x + k * step, y, side)
                    if target == observed:
                        outline(board, x - 2, y - 1.5, count * step + 1, side + _GAP, MUTED)
        for row in range(scene.batch.size):
            board.text(left, top + row * block + 10, scene.title(row), color=MUTED, va="center", fontsize=10)
        what = "; ".join(scene.title(row) for row in range(scene.batch.size))
        return drawing.done(
            f"Grid of generated values. Rows: {len(inputs)} observed modalities of each of: {what}. "
            f"Columns: {count} draws of each of {', '.join(targets)}.",
            f"Each row shows one observed value, and {count} draws of every modality given this value alone. Along a row, what is shared "
            "should stay the same, and the rest should vary. Framed: the reconstruction of the observed modality."
            + ("" if prior is None else f" {_LATENTS[prior.latents]}"),
        )


def source(prior: FittedPrior | None) -> str:
    """Where the latents of what is missing come from, as a heading."""
    return "Model alone" if prior is None else "Fitted prior"


def unconditional(scene: Scene, fitted: bool, draws: int = 20) -> Figure:
    """One column for each draw from the prior, with all modalities."""
    draws, step = scene.fitting(draws), scene.across + _GAP
    made = _fresh(scene, fitted, draws)
    names, side = scene.targets, scene.side
    left = label_width(names)
    name, kind = (
        ("unconditional_fitted", "the fitted prior")
        if fitted
        else ("unconditional", "the prior of the model")
    )
    with Drawing(name, left + draws * step + _GAP, len(names) * (side + _GAP) + 30) as drawing:
        board = drawing.board()
        board.text(
            left,
            12,
            f"{_drawn(scene, fitted)} from {kind}",
            color=MUTED,
            va="center",
            fontsize=10,
        )
        for row, name in enumerate(names):
            y = 26 + row * (side + _GAP)
            board.text(left - 10, y + side / 2, short(name), ha="right", va="center")
            for k in range(draws):
                tile(board, scene.looks[name], made[name][k], left + k * step, y, side)
        return drawing.done(f"{draws} draws from {kind}, one per column, with {', '.join(names)} stacked.")


def _drawn(scene: Scene, fitted: bool) -> str:
    """Which latents are drawn from the prior that is shown."""
    if fitted and scene.prior is not None and scene.prior.latents != "z":
        return "all latents" if scene.prior.latents == "all" else "the latents of each modality"
    return "z" if scene.model.shared else "private latents"


def _given(
    scene: Scene, observed: str, number: int, count: int, prior: FittedPrior | None = None
) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(mix(scene.seed, _CROSS, number))
        return scene.model.generate(scene.batch.observe(observed), count, prior=prior)


def _fresh(scene: Scene, fitted: bool, draws: int) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(mix(scene.seed, _FITTED if fitted else _OWN))
        return scene.model.sample(draws, scene.prior if fitted else None)


class Shown(NamedTuple):
    """The draws of one run in a comparison, from the same seeds as those of the others.

    ``given``: input -> target -> draws [K, B, ...]. ``fresh``: prior -> modality -> draws [N, ...].
    """

    label: str
    given: Mapping[str, Mapping[str, Tensor]]
    fresh: Mapping[str, Mapping[str, Tensor]]


def show(scene: Scene, label: str, draws: int = 10) -> Shown:
    """The draws for ``beside`` and ``beside_fresh``.

    A model without a shared latent has conditional draws only from a prior that is fitted to all latents.
    """
    count = _count(scene)
    prior = None if scene.model.shared else scene.conditional
    inputs = scene.inputs if scene.model.shared or prior is not None else []
    priors = {"own": False} | ({"fitted": True} if scene.fitted else {})
    return Shown(
        label,
        {
            observed: _given(scene, observed, number, count, prior)
            for number, observed in enumerate(scene.inputs)
            if observed in inputs
        },
        {name: _fresh(scene, fitted, scene.fitting(draws)) for name, fitted in priors.items()},
    )


def _count(scene: Scene) -> int:
    """The number of draws of each target that fit into a row."""
    if not scene.few:
        return max(2, min(6, 20 // max(1, len(scene.targets))))
    room = _ROW - scene.across - 4 * _SPACE  # beside the observed value
    return max(2, min(4, int(room // sum(scene.wide(name) + _GAP for name in scene.targets))))


def _columns(scene: Scene, start: float, count: int) -> tuple[dict[str, float], float]:
    """Where the ``count`` tiles of each target begin, side by side from ``start``, and where the last ones end."""
    starts = {}
    for name in scene.targets:
        starts[name] = start
        start += count * (scene.wide(name) + _GAP) + _SPACE
    return starts, start


def beside(scene: Scene, runs: Sequence[Shown]) -> Figure:
    """A block for each input with one observed value, and in it a row for each run: draws of every modality given that value."""
    inputs, targets, side, count = scene.inputs, scene.targets, scene.side, _count(scene)
    left = label_width([run.label for run in runs])
    starts, end = _columns(scene, left + max(map(scene.wide, inputs), default=side) + 2 * _SPACE, count)
    block = max(len(runs), 1) * (side + _GAP) + 38
    with Drawing("beside", end, 30 + block * len(inputs)) as drawing:
        board = drawing.board()
        board.text(left, 12, "observed", color=MUTED, va="center", fontsize=10)
        for target in targets:
            board.text(starts[target], 12, short(target), va="center")
        for number, observed in enumerate(inputs):
            present = scene.batch.mask[list(scene.model.modalities).index(observed)]
            seen = [row for row in range(scene.batch.size) if bool(present[row])]
            row, y = seen[number % len(seen)], 30 + number * block + 24
            board.text(
                left, y - 14, f"{observed} of {scene.title(row)}", color=MUTED, va="center", fontsize=10
            )
            tile(board, scene.looks[observed], scene.batch.data[observed][row], left, y, side, muted=True)
            for place, run in enumerate(runs):
                above = y + place * (side + _GAP)
                board.text(
                    left - 10,
                    above + side / 2,
                    short(run.label),
                    ha="right",
                    va="center",
                    color=SERIES[place % len(SERIES)],
                )
                made = run.given.get(observed, {})
                for target in targets:
                    step = scene.wide(target) + _GAP
                    for k in range(count):
                        x = starts[target] + k * step
                        if target in made:
                            tile(board, scene.looks[target], made[target][k, row], x, above, side)
                        else:
                            board.text(
                                x + step / 2, above + side / 2, "–", ha="center", va="center", color=MUTED
                            )
            if observed in targets:
                outline(
                    board,
                    starts[observed] - 2,
                    y - 1.5,
                    count * (scene.wide(observed) + _GAP) + 1,
                    len(runs) * (side + _GAP),
                    MUTED,
                )
        names = ", ".join(run.label for run in runs)
        return drawing.done(
            f"Grid of generated values. Blocks: {len(inputs)} observed values. Rows: {names}. Columns: {count} draws of each of "
            f"{', '.join(targets)}.",
            "Each block shows one observed value, the same for all runs; each row shows the draws of one run given this value alone. "
            "Framed: the reconstruction of the observed modality.",
        )


def beside_fresh(scene: Scene, runs: Sequence[Shown], prior: str) -> list[Figure]:
    """For each run with this ``prior`` (own, fitted): draws from it, one per column, with all modalities."""
    names, side, step = scene.targets, scene.side, scene.across + _GAP
    left, figures = label_width(names), []
    for place, run in enumerate(runs):
        if prior not in run.fresh:
            continue
        made = run.fresh[prior]
        draws = len(next(iter(made.values())))
        with Drawing(
            f"{prior}_{place}", max(left + draws * step + _GAP, 300), len(names) * (side + _GAP) + 30
        ) as drawing:
            board = drawing.board()
            board.text(left, 12, short(run.label, 34), color=SERIES[place % len(SERIES)], va="center")
            for row, name in enumerate(names):
                y = 26 + row * (side + _GAP)
                board.text(left - 10, y + side / 2, short(name), ha="right", va="center")
                for k in range(draws):
                    tile(board, scene.looks[name], made[name][k], left + k * step, y, side)
            figures.append(
                drawing.done(
                    f"{run.label}: {draws} draws from its {prior} prior, one per column, with {', '.join(names)} "
                    "stacked."
                )
            )
    return figures


def traverse(scene: Scene, through: str, steps: int = 11) -> Figure:
    """From the posterior mean of the first sample to that of the second, in z or in w; the other is fixed at the first."""
    model, side, wide = scene.model, scene.side, scene.across
    steps = scene.fitting(steps, others=2)
    latents = model.embed(scene.batch.rows(torch.tensor([0, 1], device=scene.batch.device)), private=True)
    z, w = latents[:, : model.shared], latents[:, model.shared :]
    share = torch.linspace(0, 1, steps, dtype=latents.dtype, device=latents.device)[:, None]
    moving, still = (z, w) if through == "z" else (w, z)
    path, fixed = torch.lerp(moving[:1], moving[1:], share), still[:1].expand(steps, -1)
    with torch.no_grad():
        made = model.decode(path, fixed) if through == "z" else model.decode(fixed, path)
    names = scene.targets
    left = label_width(names)
    start = left + wide + _SPACE
    end = start + steps * (wide + _GAP) + _SPACE - _GAP
    with Drawing(f"walk_{through}", end + wide + _GAP, len(names) * (side + _GAP) + 30) as drawing:
        board = drawing.board()
        for x, align, row in ((left, "left", 0), (end + wide, "right", 1)):
            board.text(x, 12, scene.title(row), ha=align, va="center", color=MUTED, fontsize=10)
        board.text(
            (start + end - _SPACE) / 2, 12, f"{through} changes →", ha="center", va="center", fontsize=10
        )
        for number, name in enumerate(names):
            y = 26 + number * (side + _GAP)
            board.text(left - 10, y + side / 2, short(name), ha="right", va="center")
            for row, x in ((0, left), (1, end)):
                if bool(scene.batch.mask[list(model.modalities).index(name), row]):
                    tile(board, scene.looks[name], scene.batch.data[name][row], x, y, side, muted=True)
            for k in range(steps):
                tile(board, scene.looks[name], made[name][k], start + k * (wide + _GAP), y, side)
        other = "w" if through == "z" else "z"
        return drawing.done(
            f"Traversal of {through} from {scene.title(0)} to {scene.title(1)} in {steps} steps, {other} fixed; "
            f"rows: {', '.join(names)}."
        )

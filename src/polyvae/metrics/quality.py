"""Image quality: sets of generated images compared with sets of real images, in the features of a network.

The measures are Fréchet and kernel distance, precision, recall, density and coverage, for unconditional draws and for each modality given
each other one (protocol of MMVAE+, Palumbo et al. 2023). They depend on the feature network. The reference is the distance between the
training part and the held-out part, ``real_*``, below which no model is expected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from polyvae.core.fitted import FittedPrior
from polyvae.data import MultimodalData
from polyvae.metrics import generation
from polyvae.metrics.context import Context
from polyvae.metrics.distances import Frechet, TorchmetricsFrechet, kernel_distance, neighbours
from polyvae.metrics.features import FeatureNet, Inception, JudgeFeatures, to_bytes
from polyvae.utils.errors import InputError
from polyvae.utils.seeds import fold_in

PARTIAL = 128  # batch size in the code of the authors, who drop a last partial batch
_ROUNDING = 1e-5  # of an image that was scaled to [0, 1]
_FEW = 10  # with fewer images of either set, nothing is computed
_K, _K_DENSITY = 3, 5
_Numbers = dict[str, float]


@torch.no_grad()  # also where a feature network has weights that could be trained
def quality(
    context: Context, *, kept: int = 5_000, subsets: int = 50, subset_size: int = 1_000
) -> dict[str, Any]:
    """``unconditional_*``, ``conditional_*`` (both also with ``_fitted``) and ``real_*``; ``quality`` has the details by modality or pair.

    * is frechet_distance, kernel_distance, precision, recall, density, coverage; fid and kid with the standard Inception weights. Headline
    numbers are means over modalities, or over pairs. Protocol "sound": input and target differ; judges and other feature networks see
    images as they were generated. "published": reconstructions count too, images are rounded to bytes as in a PNG, and a last partial
    batch of 128 is dropped. Bytes, which Inception sees in either protocol, need real images in [0, 1]; modalities with other values are
    left out, with a note.

    At most ``kept`` images of either set, chosen at random, are used for the kernel distance (``subsets`` of ``subset_size``) and for the
    neighbours. All images are used for the Fréchet distance, whose bias falls with their number, so that only equal numbers of images are
    comparable. The setting ``measures`` "frechet" computes that alone. Empty if there is no feature network for any modality.
    """
    model, nets = context.model, _nets(context)
    if not nets:
        context.report.say(
            "no image quality: it needs images, and judges or a feature network; it is left out"
        )
        return {}
    for name, net in model.modalities.items():
        if net.likelihood.ids:
            context.note(f"quality: {name!r} is left out, because sentences are no images")
    inputs = [
        name
        for name, net in model.modalities.items()
        if net.encoder is not None and name in context.data.names
    ]
    priors = {"unconditional": None} | (
        {"unconditional_fitted": context.prior} if context.prior is not None else {}
    )
    given: dict[str, FittedPrior | None] = {"conditional": None}
    if (fitted := generation.conditional_prior(context)) is not None:
        given["conditional_fitted"] = fitted
    context.report.start("quality", 1 + len(priors) + len(given) * len(inputs) + (context.train is not None))
    device = next(model.parameters()).device
    kept = kept if context.config.measures == "all" else 0
    sides = {
        name: _Side(net, context, device, kept, (subsets, subset_size), context.seed("quality/kept", number))
        for number, (name, net) in enumerate(nets.items())
    }
    for name, side in sides.items():
        side.real(name)
    context.report.advance()
    found: dict[str, Any] = {}
    for number, (suffix, prior) in enumerate(priors.items()):
        stream = generation.unconditional(context, prior, context.seed("quality/unconditional", number))
        found[suffix] = _judged(sides, stream, dict.fromkeys(sides, context.config.draws))
        context.report.advance()
    for suffix, prior in given.items():
        found[suffix] = {}
        for number, observed in enumerate(inputs):
            found[suffix][observed] = _given(context, sides, observed, number, prior)
            context.report.advance()
    if context.train is not None:
        found["real"] = {
            name: numbers for name, side in sides.items() if (numbers := side.floor(name, context.train))
        }
        context.report.advance()
    about = {
        "features": {name: net.name for name, net in nets.items()},
        "kept": kept,
        "subsets": subsets,
        "subset_size": subset_size,
        "neighbours": {"precision, recall": _K, "density, coverage": _K_DENSITY},
    }
    if isinstance(context.features, Inception):
        about["weights_sha256"] = context.features.digest
    return _headlines(found) | {"quality": found, "quality_settings": about}


def _given(
    context: Context, sides: Mapping[str, _Side], observed: str, number: int, prior: FittedPrior | None
) -> dict[str, _Numbers]:
    """The numbers of what is generated given one modality, by modality. ``number`` is that of the stream of draws."""
    targets = {
        name: side
        for name, side in sides.items()
        if context.config.protocol == "published" or name != observed
    }
    name = "quality/conditional" if prior is None else "quality/conditional/fitted"
    seed = context.seed(name, number)
    stream = generation.conditional(context, (observed,), list(targets), seed, prior=prior)
    total = int(context.data.mask[context.data.names.index(observed)].sum())
    images = ({name: x[0] for name, x in given.made.items()} for given in stream)
    return _judged(targets, images, dict.fromkeys(targets, total))


class _Side:
    """The features of the real images of one modality, and what is compared with them."""

    def __init__(
        self,
        net: FeatureNet,
        context: Context,
        device: torch.device,
        keep: int,
        subsets: tuple[int, int],
        seed: int,
    ) -> None:
        self.net, self.context, self.device, self.keep, self.subsets, self.seed = (
            net,
            context,
            device,
            keep,
            subsets,
            seed,
        )
        self.names = (
            ("fid", "kid")
            if isinstance(net, Inception) and net.standard
            else ("frechet_distance", "kernel_distance")
        )
        self.frechet: Frechet | TorchmetricsFrechet = Frechet()
        self.seen = _Kept(0, keep, seed)

    def real(self, name: str) -> None:
        """Add the held-out images of modality ``name``."""
        rows = _rows(self.context.data, name)
        self.seen = _Kept(self.limit(len(rows)), self.keep, fold_in(self.seed, "real"))
        for x in _real(self.context.data, name, rows, self.context.batch_size):
            features = self.look(x)
            if not self.seen.count and isinstance(self.net, Inception):
                self.frechet = TorchmetricsFrechet(features.shape[1])
            self.frechet.real(self.seen.add(features))

    def floor(self, name: str, train: MultimodalData) -> _Numbers | None:
        """The numbers of training images, chosen at random, in place of the same number of generated ones."""
        rows = _rows(train, name)
        order = (
            torch.randperm(len(rows), generator=torch.Generator().manual_seed(fold_in(self.seed, "floor")))[
                : self.seen.total
            ]
            .sort()
            .values
        )
        made = _Kept(len(order), self.keep, fold_in(self.seed, "generated"))
        for x in _real(train, name, rows[order], self.context.batch_size):
            self.add(x, made)
        return self.compare(made)

    def add(self, images: Tensor, made: _Kept) -> None:
        self.frechet.generated(made.add(self.look(images)))

    def compare(self, made: _Kept) -> _Numbers | None:
        """The numbers of the images added so far, which are then discarded; None if there are too few."""
        numbers = None
        if min(made.count, self.seen.count) >= _FEW:
            frechet, kernel = self.names
            numbers = {frechet: self.frechet.value(), "images": made.count, "real_images": self.seen.count}
            if self.keep:
                x, y = self.seen.features(), made.features()
                spread = kernel_distance(x, y, *self.subsets, seed=fold_in(self.seed, "subsets"))
                numbers |= {
                    kernel: spread.mean,
                    f"{kernel}_std": spread.std,
                    **neighbours(x, y, _K, _K_DENSITY)._asdict(),
                }
        self.frechet.forget()
        return numbers

    def look(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] -> features [N, F]."""
        images = images.to(self.device)
        if self.context.config.protocol == "published":
            images = to_bytes(images) / 255
        features = self.net(images)
        if features.ndim != 2 or len(features) != len(images):
            raise InputError(
                f"feature network {self.net.name!r}: got features of shape {tuple(features.shape)} for {len(images)} images; "
                "expected [images, features]; flatten its output"
            )
        return features

    def limit(self, total: int) -> int:
        """The number of images that count, out of ``total``."""
        return (
            total - total % PARTIAL
            if self.context.config.protocol == "published" and total >= PARTIAL
            else total
        )


class _Kept:
    """Features added chunk by chunk. The first ``total`` count; at most ``keep`` of these, chosen at random, are stored."""

    def __init__(self, total: int, keep: int, seed: int) -> None:
        self.total, self.count = total, 0
        self.chosen = torch.zeros(total, dtype=torch.bool)
        self.chosen[torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:keep]] = True
        self.filled = 0
        self.store = torch.zeros(0)

    def add(self, features: Tensor) -> Tensor:
        """Add features; return those that count."""
        features = features[: self.total - self.count]
        part = features[self.chosen[self.count : self.count + len(features)].to(features.device)]
        if (
            not self.count
        ):  # one tensor, because small ones that stay between large ones that go leave holes in memory
            self.store = features.new_zeros(int(self.chosen.sum()), *features.shape[1:])
        self.store[self.filled : self.filled + len(part)] = part
        self.filled += len(part)
        self.count += len(features)
        return features

    def features(self) -> Tensor:
        return self.store[: self.filled]


def _nets(context: Context) -> dict[str, FeatureNet]:
    """The feature network of each decoded image modality that is in the data."""
    nets: dict[str, FeatureNet] = {}
    for name, net in context.model.modalities.items():
        shape = net.spec.shape
        if net.decoder is None or name not in context.data.names or len(shape) != 3:
            continue
        if context.features is None:
            if context.judges is not None and name in context.judges:
                nets[name] = JudgeFeatures(context.judges[name], name)
        elif not isinstance(context.features, Inception) or shape[0] in (1, 3):
            nets[name] = context.features
    return {name: net for name, net in nets.items() if not _as_bytes(context) or _fits_bytes(context, name)}


def _as_bytes(context: Context) -> bool:
    """Whether the feature network sees bytes, as a PNG contains them."""
    return context.config.protocol == "published" or isinstance(context.features, Inception)


def _fits_bytes(context: Context, name: str) -> bool:
    """Whether all real images are in [0, 1]. Clamped to it, other images would be equal whatever was generated."""
    low, high = 0.0, 1.0
    for data in (context.data, context.train):
        if data is not None:
            for x in _real(data, name, _rows(data, name), context.batch_size):
                low, high = min(low, float(x.min())), max(high, float(x.max()))
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return True
    context.note(
        f"image quality of {name!r}: got real images with values from {low:.4g} to {high:.4g}; Inception and the published protocol need "
        'them in [0, 1]; it is left out: rescale the images, or use protocol="sound" with features="judges"'
    )
    return False


def _rows(data: MultimodalData, name: str) -> Tensor:
    """The indices of the samples in which this modality is observed, on the host."""
    return (
        data.mask[data.names.index(name)].nonzero()[:, 0].cpu()
        if name in data.names
        else torch.zeros(0, dtype=torch.long)
    )


def _real(data: MultimodalData, name: str, rows: Tensor, batch_size: int) -> Iterator[Tensor]:
    """The images of a modality in these samples. The other modalities are not read."""
    return (data.values(name, part) for part in torch.split(rows, batch_size) if len(part))


def _judged(
    sides: Mapping[str, _Side], stream: Iterator[dict[str, Tensor]], totals: Mapping[str, int]
) -> dict[str, _Numbers]:
    """The numbers of a stream of generated images, by modality."""
    made = {
        name: _Kept(side.limit(totals[name]), side.keep, fold_in(side.seed, "generated"))
        for name, side in sides.items()
    }
    for images in stream:
        for name, side in sides.items():
            side.add(images[name], made[name])
    return {name: numbers for name, side in sides.items() if (numbers := side.compare(made[name]))}


def _headlines(found: Mapping[str, Any]) -> _Numbers:
    """Means over modalities, or over pairs: for example "unconditional_fid_fitted" from "unconditional_fitted"."""
    means: _Numbers = {}
    for kind, by in found.items():
        cells = (
            [cell for row in by.values() for cell in row.values()]
            if kind.startswith("conditional")
            else list(by.values())
        )
        head, _, tail = kind.partition("_")
        for measure in cells[0] if cells else ():
            if not measure.endswith(("_std", "images")):
                means[f"{head}_{measure}{'_' if tail else ''}{tail}"] = sum(
                    cell[measure] for cell in cells
                ) / len(cells)
    return means

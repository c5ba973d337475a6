"""Variance explained by each latent dimension: what users of factor models read first.

Let x_f be a feature, and x̂_f its prediction: the mean of the likelihood, decoded from the posterior means of z and w given everything that
was observed of the sample. Over the samples in which x_f was observed,

    R²_f = 1 − Var(x_f − x̂_f) / Var(x_f).

A constant offset of a feature does not count, as with the intercept of a factor model. A latent dimension is judged alone: x̂_f is decoded
with all other dimensions at their means over the samples. With a linear decoder this is the R² of one factor and its loadings, as in MOFA
(Argelaguet et al. 2018), and the R² of dimensions add up to that of all where the dimensions are uncorrelated and the residual is
uncorrelated with each of them. With a nonlinear decoder they need not add up, because dimensions interact. "shared" keeps w at its mean,
and "private" keeps z at its mean.

"others" is of another kind: a modality predicted from the other ones. It is 1 − Σ (x_f − x̂_f)² / Σ (x_f − x̄_f)², so an offset counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.metrics.context import Context, subsample
from polyvae.metrics.explained import VarianceExplained
from polyvae.utils.errors import InputError, check_count
from polyvae.utils.seeds import fold_in

ROWS = 1000
_DECODED = 50_000  # samples that are decoded for one modality, in an evaluation
_DRAWS = 10  # over which a modality is predicted from the others, where the posterior is a mixture or there are private latents
_LISTED = 1000  # features of a modality whose numbers an evaluation contains
_TOP = 8  # features listed for each latent dimension
_VALUES = 2**22  # values of one modality that are decoded together


def variance(context: Context, *, rows: int = ROWS) -> dict[str, Any]:
    """``variance_explained`` by all latents, ``_shared`` by z, ``_private`` by w, ``_others`` from other modalities: means over modalities.

    ``variance`` has the details: by modality and part, by modality and latent dimension, the features of which a dimension explains most,
    and, for each feature of modalities of at most 1,000, its R² from all latents and from the other modalities. At most ``rows`` held-out
    samples are used, chosen at random, and fewer if there are many latent dimensions.
    """
    model = context.model
    rows = max(
        100,
        min(
            rows,
            _DECODED
            // (model.shared + max((net.private for net in model.modalities.values()), default=0) + 4),
        ),
    )
    few = subsample(context.data, rows, context.seed("variance/rows"))
    if not decoded_values(model, few) or len(few) < 2:
        return {}
    for name in few.names:
        if name in model.modalities and model.modalities[name].likelihood.ids:
            context.note(f"variance explained: {name!r} is left out, because ids of words have no variance")
    found = variance_explained(model, few, seed=context.seed("variance"), batch_size=context.batch_size)
    means = {}
    for part in found.parts:
        values = [value for name in found.modalities if not np.isnan(value := found.value(name, part))]
        if values:
            means["variance_explained" + ("" if part == "all" else f"_{part}")] = sum(values) / len(values)
    return means | {
        "variance": summary(found, [spec.name for spec in model.specs if len(spec.shape) == 1], len(few))
    }


def summary(found: VarianceExplained, flat: Sequence[str], rows: int) -> dict[str, Any]:
    """The table as what JSON can contain; of features, those of the modalities ``flat``, of one axis."""
    named = [name for name in found.modalities if name in flat]
    part = VarianceExplained(
        found.latents, found.parts, {name: found.features[name] for name in named}, found.r2, found.variance
    )

    def finite(values: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in values.items() if not np.isnan(value)}

    return {
        "rows": rows,
        "parts": {
            name: finite({what: found.value(name, what) for what in found.parts}) for name in found.modalities
        },
        "latents": {name: found.by_latent(name) for name in found.modalities},
        "top": {latent: [list(each) for each in part.top(latent, _TOP)] for latent in found.active()}
        if named
        else {},
        "features": {
            name: {
                what: finite(
                    dict(
                        zip(
                            found.features[name],
                            found.r2[name][len(found.latents) + at].tolist(),
                            strict=True,
                        )
                    )
                )
                for at, what in enumerate(found.parts)
                if what in ("all", "others")
            }
            for name in named
            if len(found.features[name]) <= _LISTED
        },
    }


@torch.no_grad()
def variance_explained(
    model: MultimodalVAE, data: MultimodalData, *, seed: int = 0, batch_size: int = 1000
) -> VarianceExplained:
    """R² of a model by latent dimension, modality and feature.

    For each modality, a latent dimension is judged alone: the likelihood's mean is decoded with all other dimensions at their means over
    the samples, and R² = 1 − Var(x − x̂) / Var(x) over the samples in which the feature was observed. The parts are "all" (all latents at
    their posterior means), "shared" (w at its mean), "private" (z at its mean) and "others", a modality predicted from the other ones:
    1 − Σ (x − x̂)² / Σ (x − x̄)². "others" is decoded from the posterior mean, or is a mean over 10 draws where the posterior is a mixture
    or the modality has private latents.

    Args:
        model: A trained model in evaluation mode.
        data: Held-out data. Missing modalities and entries do not count.
        seed: The seed of the draws.
        batch_size: The largest number of samples that are processed together.

    Returns:
        The table. Latent dimensions are named z0, z1, ..., and private ones after their modality, such as "rna.w0".

    Raises:
        InputError: The model is in training mode, there are fewer than two samples, or no modality has a variance to explain.

    References:
        Argelaguet, R., et al. (2018). Multi-Omics Factor Analysis. Molecular Systems Biology, 14(6), e8124.

    Example:
        >>> import torch
        >>> import polyvae as pv
        >>> data = pv.MultimodalData({"rna": torch.randn(50, 6), "protein": torch.randn(50, 3)})
        >>> model = pv.MVAE(data.modalities(), latent=2).eval()
        >>> table = pv.variance_explained(model, data)
        >>> table.latents, table.parts
        (('z0', 'z1'), ('all', 'shared', 'private', 'others'))
        >>> table.r2["protein"].shape  # two latent dimensions and four parts, three features
        (6, 3)
    """
    check_ready("variance explained", model, data)
    check_count("variance explained", "batch_size", batch_size)
    names = decoded_values(model, data)
    if not names:
        raise InputError(
            "variance explained: got no modality that is decoded into values; expected one with a likelihood of values; ids of words have "
            "no variance"
        )
    return explained(model, data, names, seed, batch_size)


@torch.no_grad()
def explained(
    model: MultimodalVAE,
    data: MultimodalData,
    names: Sequence[str],
    seed: int,
    batch_size: int = 1000,
    alone: bool = True,
) -> VarianceExplained:
    """The table for these modalities; without ``alone``, of the parts only."""
    z, w = latent_means(model, data, batch_size)
    latents = [f"z{at}" for at in range(z.shape[1])]
    spans = dict(zip(model.modalities, model.columns, strict=True))
    latents += [f"{name}.w{at}" for name, span in spans.items() for at in range(span.stop - span.start)]
    parts = ("all", "shared", "private", "others")
    r2, deviations, features = {}, {}, {}
    for name in names:
        moments = _Moments(model, data, name, z, w, batch_size)
        span, D = spans[name], z.shape[1]
        table = np.full((len(latents) + len(parts), moments.width), np.nan)
        seen = model.modalities[name].seen
        for at in (*range(seen), *range(D + span.start, D + span.stop)) if alone else ():
            table[at] = moments.r2(*_alone(z, w, [at]))
        if D or span.stop > span.start:
            table[-4] = moments.r2(z, w)
        if D:
            table[-3] = moments.r2(*_alone(z, w, range(D)))
        if span.stop > span.start:
            table[-2] = moments.r2(*_alone(z, w, range(D + span.start, D + span.stop)))
        if any(net.encoder is not None and other != name for other, net in model.modalities.items()):
            table[-1] = moments.from_others(fold_in(seed, "variance", names.index(name)))
        r2[name], deviations[name] = table, moments.deviations.numpy()
        features[name] = feature_names(data.columns, model.modalities[name].spec)
    return VarianceExplained(tuple(latents), parts, features, r2, deviations)


def feature_names(columns: Mapping[str, Sequence[str]], spec: Modality) -> tuple[str, ...]:
    """The names of the features of a modality; of those without, their indices, such as "3" or "0,5,5"."""
    if spec.name in columns:
        return tuple(str(each) for each in columns[spec.name])
    return tuple(",".join(map(str, index)) for index in np.ndindex(*spec.shape))


def check_ready(where: str, model: object, data: object, least: int = 2) -> None:
    """Raises InputError unless these are a model in evaluation mode and data of at least ``least`` samples."""
    if not isinstance(model, MultimodalVAE) or not isinstance(data, MultimodalData):
        raise InputError(
            f"{where}: got {type(model).__name__} and {type(data).__name__}; expected a model and MultimodalData, in this order; an "
            "Estimator has a method of this name"
        )
    if model.training:
        raise InputError(
            f"{where}: the model is in training mode; expected evaluation mode; call model.eval() first"
        )
    if len(data) < least:
        raise InputError(f"{where}: got {len(data)} samples; expected {least} or more; add samples")


def latent_means(model: MultimodalVAE, data: MultimodalData, batch_size: int = 1000) -> tuple[Tensor, Tensor]:
    """Posterior means given everything observed, on the host: [N, D] and [N, W]."""
    both = torch.cat([model.embed(batch, private=True).cpu() for batch in data.batches(batch_size)])
    return both[:, : model.shared], both[:, model.shared :]


def decoded_values(model: MultimodalVAE, data: MultimodalData) -> list[str]:
    """The modalities of the data that are decoded into values with a variance."""
    return [
        name
        for name, net in model.modalities.items()
        if net.decoder is not None and not net.likelihood.ids and name in data.names
    ]


def _alone(z: Tensor, w: Tensor, kept: range | list[int]) -> tuple[Tensor, Tensor]:
    """The latents with all columns but these at their means over the samples."""
    both = torch.cat([z, w], 1)
    fixed = both.mean(0, keepdim=True).expand_as(both).clone()
    index = list(kept)
    fixed[:, index] = both[:, index]
    return fixed[:, : z.shape[1]], fixed[:, z.shape[1] :]


class _Moments:
    """Sums over the observed entries of one modality, of the data and of residuals."""

    def __init__(
        self, model: MultimodalVAE, data: MultimodalData, name: str, z: Tensor, w: Tensor, batch_size: int
    ) -> None:
        self.model, self.data, self.name = model, data, name
        self.width = math.prod(model.modalities[name].spec.shape)
        self.step = max(1, min(batch_size, _VALUES // self.width))
        self.count = torch.zeros(self.width, dtype=torch.float64)
        total = torch.zeros_like(self.count)
        for _, _, x, seen in self._batches():
            self.count += seen.sum(0)
            total += torch.where(seen, x, 0).sum(0)
        self.mean = total / self.count.clamp(min=1)
        self.deviations = torch.zeros_like(self.count)
        for _, _, x, seen in self._batches():
            self.deviations += torch.where(seen, x - self.mean, 0).square().sum(0)
        self.varies = (self.count > 1) & (self.deviations > 0)

    def r2(self, z: Tensor, w: Tensor) -> Any:
        """1 − Var(x − x̂) / Var(x) of each feature, decoded from these latents: [F]."""
        first, second = torch.zeros_like(self.count), torch.zeros_like(self.count)
        for rows, batch, x, seen in self._batches():
            residual = torch.where(seen, x - self._decode(z[rows], w[rows], batch), 0)
            first += residual.sum(0)
            second += residual.square().sum(0)
        return self._share(second - first.square() / self.count.clamp(min=1))

    def from_others(self, seed: int) -> Any:
        """1 − Σ (x − x̂)² / Σ (x − x̄)² of each feature, over the samples in which another modality was observed: [F]."""
        second, whole, count, total = (torch.zeros_like(self.count) for _ in range(4))
        for number, (_, batch, x, seen) in enumerate(self._batches()):
            given = self.model.admit(batch).drop(self.name)
            seen = seen & given.mask[self.model.encoded].any(0).cpu()[:, None]
            predicted = expected(self.model, given, self.name, fold_in(seed, "others", number), like=batch)
            second += torch.where(seen, x - predicted.flatten(1).double().cpu(), 0).square().sum(0)
            offset = torch.where(seen, x - self.mean, 0)
            whole, total, count = whole + offset.square().sum(0), total + offset.sum(0), count + seen.sum(0)
        whole = whole - total.square() / count.clamp(min=1)
        share = 1 - second / torch.where(whole > 0, whole, 1)
        return torch.where((count > 1) & (whole > 0) & self.varies, share, torch.nan).numpy()

    def _share(self, residual: Tensor) -> Any:
        share = 1 - residual / torch.where(self.varies, self.deviations, 1)
        return torch.where(self.varies, share, torch.nan).numpy()

    def _decode(self, z: Tensor, w: Tensor, batch: Batch) -> Tensor:
        like = next(self.model.parameters())
        out = self.model.modalities.decode_one(
            self.name,
            z.to(like.device, like.dtype),
            w.to(like.device, like.dtype),
            like=self.model.admit(batch),
        )
        return out.flatten(1).double().cpu()

    def _batches(self) -> Iterator[tuple[slice, Batch, Tensor, Tensor]]:
        """Rows, the batch, its values [B, F] and which of them were observed."""
        for number, batch in enumerate(self.data.batches(self.step)):
            x = batch.data[self.name].flatten(1).double().cpu()
            seen = batch.mask[batch.names.index(self.name)][:, None].cpu().expand_as(x)
            if self.name in batch.entries:
                seen = seen & batch.entries[self.name].flatten(1).cpu()
            yield slice(number * self.step, number * self.step + len(x)), batch, x, seen


@torch.no_grad()
def expected(model: MultimodalVAE, given: Batch, name: str, seed: int, like: Batch | None = None) -> Tensor:
    """E[x_m | what was observed]: at the posterior mean for one component and no private latents of m, else the mean of draws."""
    span = model.columns[list(model.modalities).index(name)]
    q = model.posterior(given, model.experts(given))
    library = None if like is None else model.admit(like)
    if len(q.weights) == 1 and span.stop == span.start:
        both = model.embed(given, private=True)
        return model.modalities.decode_one(
            name, both[:, : model.shared], both[:, model.shared :], like=library
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        z, w = model.draw_latents(given, _DRAWS)
    return model.modalities.decode_one(name, z, w, like=library).mean(0)

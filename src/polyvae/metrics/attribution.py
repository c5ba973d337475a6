"""Attribution: how much each input contributes to a latent dimension or to a generated feature, by integrated gradients.

    a_i = (x_i − b_i) ∫₀¹ ∂f(b + t (x − b)) / ∂x_i dt          (Sundararajan, Taly & Yan 2017)

The attributions of a sample add up to f(x) − f(b), for a baseline b. For a linear f they are w_i (x_i − b_i). The integral is taken by
Gauss-Legendre quadrature, and ``Attribution.error`` is how far the sums are off. The masks stay as they are along the path: a missing entry
has attribution 0. Captum has the same method; it takes positional tensors and has no masks, so its adapter would be longer than this file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.metrics.variance import feature_names
from polyvae.utils.errors import InputError, check_count, nearest

STEPS = 64
_OFF = 0.05  # relative error of the sums above which a warning is given
Feature = str | int | tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Attribution:
    """Attributions of one output to all inputs.

    Attributes:
        of: What is attributed, such as "z0" or "protein CD3".
        values: Modality -> [B, *shape], in units of the output; 0 where nothing was observed.
        output: [B], f(x).
        baseline: [B], f(b).
        features: Modality -> the names of its features, flat.
    """

    of: str
    values: Mapping[str, Tensor]
    output: Tensor
    baseline: Tensor
    features: Mapping[str, tuple[str, ...]]

    @property
    def error(self) -> float:
        """The largest difference between a sum of attributions and f(x) − f(b), relative to the root mean square of the latter."""
        change = self.output - self.baseline
        total = torch.stack([x.flatten(1).sum(1) for x in self.values.values()]).sum(0)
        scale = float(change.square().mean().sqrt())
        off = float((total - change).abs().max())
        return off / scale if scale else off

    def top(self, count: int = 10) -> list[tuple[str, str, float, float]]:
        """The inputs with the largest mean absolute attribution: modality, feature, this number, and the mean attribution.

        Args:
            count: How many.
        """
        found = []
        for name, x in self.values.items():
            flat = x.flatten(1)
            size, mean = flat.abs().mean(0), flat.mean(0)
            best = size.argsort(descending=True)[:count].tolist()
            found += [(name, self.features[name][at], float(size[at]), float(mean[at])) for at in best]
        return sorted(found, key=lambda each: -each[2])[:count]

    def by_modality(self) -> dict[str, float]:
        """The share of each modality in the sum of mean absolute attributions."""
        sizes = {name: float(x.flatten(1).abs().sum(1).mean()) for name, x in self.values.items()}
        total = sum(sizes.values())
        return {name: size / total if total else 0.0 for name, size in sizes.items()}

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.by_modality().items())
        lines = [f"attribution of {self.of}, {len(self.output)} samples: {shares}"]
        rows = [
            (f"{name} {feature}", f"{size:.4g}", f"{mean:+.4g}") for name, feature, size, mean in self.top()
        ]
        wide = max((len(row[0]) for row in rows), default=0)
        return "\n".join(
            lines + [f"  {row[0]:<{wide}}  mean |a| {row[1]:>9}  mean {row[2]:>10}" for row in rows]
        )


@torch.inference_mode(False)
@torch.enable_grad()
def attribute(
    model: MultimodalVAE,
    data: Batch | MultimodalData,
    of: str | tuple[str, Feature],
    *,
    to: Sequence[str] | None = None,
    baseline: Mapping[str, Any] | None = None,
    steps: int = STEPS,
) -> Attribution:
    """Attribute a latent dimension, or a feature generated from other modalities, to the inputs.

    The output is the posterior mean of the latent dimension, or the mean of the likelihood decoded from the posterior means of the latents;
    private latents of a modality that is not among the inputs are at the mean of their prior.

    Args:
        model: A trained model in evaluation mode.
        data: The samples.
        of: A latent dimension such as "z0" or "rna.w1", or a modality and one of its features, by name or index: ("protein", "CD3").
        to: The modalities that are the inputs; the others are taken as missing. None: all that are encoded, but for the modality of the
            feature itself.
        baseline: Modality -> [*shape], where the path starts. A modality that is not named, and None: the mean of each feature over the
            observed entries of these samples.
        steps: Nodes of the quadrature.

    Returns:
        The attributions of each sample. They add up to the output minus its value at the baseline.

    Raises:
        InputError: An unknown latent dimension, modality or feature, an input of text, whose ids have no gradients, or a baseline of
            another shape.

    References:
        Sundararajan, M., Taly, A., & Yan, Q. (2017). Axiomatic attribution for deep networks. ICML.

    Example:
        >>> import torch
        >>> import polyvae as pv
        >>> data = pv.MultimodalData({"rna": torch.randn(20, 6), "protein": torch.randn(20, 3)})
        >>> model = pv.MVAE(data.modalities(), latent=2).eval()
        >>> found = pv.attribute(model, data, of=("protein", 0))
        >>> list(found.values), found.values["rna"].shape, found.error < 0.05
        (['rna'], torch.Size([20, 6]), True)
    """
    check_count("attribute", "steps", steps)
    names = _names(model, data)
    target = _target(model, of, names)
    batch = data.take(slice(None)) if isinstance(data, MultimodalData) else data
    inputs = _inputs(model, batch, target, to)
    batch = model.admit(batch.observe(*inputs), values=True)
    seen = {name: _seen(batch, name) for name in inputs}
    starts = {
        name: torch.where(
            seen[name], _start(name, (baseline or {}).get(name), batch.data[name], seen[name]), 0
        )
        for name in inputs
    }

    def output(values: Mapping[str, Tensor]) -> Tensor:
        return target(model, batch._replace(data={**batch.data, **values}))

    ends = {name: batch.data[name] for name in inputs}
    values, first, last = integrate(output, starts, ends, steps)
    return checked(
        Attribution(target.label, values, last, first, {name: names[name] for name in inputs}), steps
    )


def integrate(
    output: Callable[[Mapping[str, Tensor]], Tensor],
    starts: Mapping[str, Tensor],
    ends: Mapping[str, Tensor],
    steps: int,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Integrated gradients of ``output``, from name -> [B, *shape] to [B], and its values at the start and the end."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = {name: torch.zeros_like(x) for name, x in ends.items()}
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        at = {
            name: (starts[name] + float(node) * (x - starts[name])).detach().requires_grad_()
            for name, x in ends.items()
        }
        slopes = torch.autograd.grad(output(at).sum(), list(at.values()), allow_unused=True)
        for name, slope in zip(at, slopes, strict=True):
            if slope is not None:
                total[name] += float(weight) * slope
    with torch.no_grad():
        values = {name: (total[name] * (x - starts[name])).detach() for name, x in ends.items()}
        return values, output(starts), output(ends)


def checked(found: Attribution, steps: int) -> Attribution:
    """The same; warns where the sums are not close to the change of the output."""
    if found.error > _OFF:
        warnings.warn(
            f"attribute: the attributions of {found.of} add up to the change of the output only within {found.error:.0%}; more nodes are "
            f"needed: steps={4 * steps}",
            stacklevel=3,
        )
    return found


class _Latent:
    """The posterior mean of one latent dimension."""

    modality: str | None = None

    def __init__(self, label: str, column: int) -> None:
        self.label, self.column = label, column

    def __call__(self, model: MultimodalVAE, batch: Batch) -> Tensor:
        return torch.cat(posterior_means(model, batch), 1)[:, self.column]


class _Generated:
    """The mean of the likelihood of one feature."""

    def __init__(self, label: str, modality: str, column: int) -> None:
        self.label, self.modality, self.column = label, modality, column

    def __call__(self, model: MultimodalVAE, batch: Batch) -> Tensor:
        made = model.modalities.decode_one(self.modality, *posterior_means(model, batch), like=batch)
        return made.flatten(1)[:, self.column]


def posterior_means(model: MultimodalVAE, batch: Batch) -> tuple[Tensor, Tensor]:
    """Posterior means of z [B, D] and w [B, W], with gradients; those of the prior where nothing was observed."""
    experts = model.experts(batch)
    q = model.posterior(batch, experts)
    z = torch.where(q.observed[:, None], q.mean, model.prior.z().mean)
    return z, model.private(batch, experts, z, model.prior.w(z)).mean


def _names(model: object, data: object) -> dict[str, tuple[str, ...]]:
    """The names of the features of all modalities. Raises InputError for arguments of another type, and a model in training mode."""
    if not isinstance(model, MultimodalVAE) or not isinstance(data, Batch | MultimodalData):
        raise InputError(
            f"attribute: got {type(model).__name__} and {type(data).__name__}; expected a model, and a Batch or MultimodalData, in this "
            "order; an Estimator has a method of this name"
        )
    if model.training:
        raise InputError(
            "attribute: the model is in training mode; expected evaluation mode; call model.eval() first"
        )
    columns = data.columns if isinstance(data, MultimodalData) else {}
    return {spec.name: feature_names(columns, spec) for spec in model.specs}


def _target(model: MultimodalVAE, of: Any, names: Mapping[str, tuple[str, ...]]) -> _Latent | _Generated:
    if isinstance(of, str):
        latents = [f"z{at}" for at in range(model.shared)]
        for name, span in zip(model.modalities, model.columns, strict=True):
            latents += [f"{name}.w{at}" for at in range(span.stop - span.start)]
        if of not in latents:
            raise InputError(
                f"attribute: {of!r} is not a latent dimension of the model; {nearest(of, latents)}"
            )
        return _Latent(of, latents.index(of))
    if not isinstance(of, tuple) or len(of) != 2 or of[0] not in model.modalities:
        raise InputError(
            f"attribute: got of={of!r}; expected a latent dimension such as 'z0', or (modality, feature); modalities: "
            f"{', '.join(model.modalities)}"
        )
    name, feature = of
    net = model.modalities[name]
    if net.decoder is None or net.likelihood.ids:
        raise InputError(
            f"attribute: got of={of!r}; expected a modality that is decoded into values; choose another"
        )
    column = column_of("attribute", feature, names[name], net.spec.shape)
    return _Generated(f"{name} {names[name][column]}", name, column)


def column_of(where: str, feature: Any, names: Sequence[str], shape: Sequence[int]) -> int:
    """The place of a feature, given by name or index, in the flat modality. Raises InputError: there is none."""
    if isinstance(feature, str):
        if feature not in names:
            raise InputError(f"{where}: {feature!r} is not a feature; {nearest(feature, names)}")
        return names.index(feature)
    index = feature if isinstance(feature, tuple) else (feature,)
    if len(index) != len(shape) or not all(
        isinstance(at, int | np.integer) and 0 <= at < size for at, size in zip(index, shape, strict=True)
    ):
        raise InputError(
            f"{where}: got feature {feature!r}; expected a name, or an index inside {tuple(shape)}; correct it"
        )
    return int(np.ravel_multi_index(tuple(map(int, index)), tuple(shape)))


def _inputs(
    model: MultimodalVAE, batch: Batch, target: _Latent | _Generated, to: Sequence[str] | None
) -> list[str]:
    encoded = [
        name for name, net in model.modalities.items() if net.encoder is not None and name in batch.data
    ]
    if to is None:
        chosen = [name for name in encoded if name != target.modality]
    else:
        chosen = [to] if isinstance(to, str) else list(to)
        for name in chosen:
            if name not in encoded:
                raise InputError(
                    f"attribute: {name!r} is not a modality that is encoded; {nearest(str(name), encoded)}"
                )
    ids = [name for name in chosen if model.modalities[name].likelihood.ids]
    if ids or not chosen:
        raise InputError(
            f"attribute: got inputs {chosen}; expected modalities of values, because ids of words have no gradients; name them in to="
        )
    return chosen


def _seen(batch: Batch, name: str) -> Tensor:
    x = batch.data[name]
    row = batch.mask[batch.names.index(name)].view(-1, *[1] * (x.ndim - 1)).expand_as(x)
    return row & batch.entries[name] if name in batch.entries else row


def _start(name: str, given: Any, x: Tensor, seen: Tensor) -> Tensor:
    """The baseline: as it was given, or the mean of the observed entries."""
    if given is None:
        mean: Tensor = torch.where(seen, x, 0).sum(0) / seen.sum(0).clamp(min=1)
        return mean
    start = torch.as_tensor(given, dtype=x.dtype, device=x.device)
    if start.shape != x.shape[1:] or not bool(start.isfinite().all()):
        raise InputError(
            f"attribute: got a baseline of shape {tuple(start.shape)} for {name!r}; expected finite values of shape "
            f"{tuple(x.shape[1:])}; pass such an array"
        )
    return start

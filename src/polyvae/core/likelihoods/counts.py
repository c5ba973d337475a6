"""Log-masses and draws of counts. A mean stands as its logarithm, so that a proportion of 1e-30 is no special case. In nats."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from polyvae.core import noise


def log_shares(out: Tensor, shape: tuple[int, ...], observed: Tensor | None = None) -> Tensor:
    """Log-proportions over a sample's entries, or over the observed ones: out [..., *shape] -> [..., *shape]; 0 elsewhere."""
    lead = out.shape[: out.ndim - len(shape)]
    flat = out.reshape(*lead, prod(shape))
    if observed is None:
        return flat.log_softmax(-1).view(out.shape)
    counted = observed.reshape(*observed.shape[: observed.ndim - len(shape)], prod(shape)).expand_as(flat)
    some = counted | ~counted.any(
        -1, keepdim=True
    )  # of nothing, any finite number: it is removed, and so is its gradient
    shares = torch.where(some, flat, -torch.inf).log_softmax(-1)
    return torch.where(some, shares, 0).view(out.shape)


def library_size(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A sample's total count, at least 1: x [..., *shape] -> [..., 1, ..., 1]."""
    return x.sum(tuple(range(-len(shape), 0)), keepdim=True).clamp(min=1)


def poisson(x: Tensor, log_mean: Tensor) -> Tensor:
    """log of mean^x e^{−mean} / x!."""
    return x * log_mean - log_mean.exp() - torch.lgamma(x + 1)


def negative_binomial(x: Tensor, log_mean: Tensor, dispersion: Tensor) -> Tensor:
    """With mean μ, variance μ + μ²/θ and θ = ``dispersion``: log of Γ(x+θ) / (Γ(θ) x!) (θ/(θ+μ))^θ (μ/(θ+μ))^x."""
    total = torch.logaddexp(log_mean, dispersion.log())
    chosen = torch.lgamma(x + dispersion) - torch.lgamma(dispersion) - torch.lgamma(x + 1)
    return chosen + dispersion * (dispersion.log() - total) + x * (log_mean - total)


def zero_inflated(x: Tensor, log_mass: Tensor, logit: Tensor) -> Tensor:
    """log of γ 1{x = 0} + (1 − γ) exp(log_mass), where γ = sigmoid(logit) is the chance that a count is lost."""
    kept = log_mass - functional.softplus(logit)
    return torch.where(x == 0, torch.logaddexp(kept, functional.logsigmoid(logit)), kept)


def draw_poisson(log_mean: Tensor) -> Tensor:
    return noise.poisson(log_mean.exp(), "x", "")


def draw_negative_binomial(log_mean: Tensor, dispersion: Tensor) -> Tensor:
    """A Poisson draw whose rate is μ times a gamma draw of mean 1."""
    rate = noise.gamma(dispersion.expand_as(log_mean), "x.rate", "") / dispersion
    return noise.poisson(log_mean.exp() * rate, "x", "")


def draw_zero_inflated(count: Tensor, logit: Tensor) -> Tensor:
    """The count, or 0 where it is lost."""
    lost = noise.uniform(tuple(logit.shape), logit, "x.lost", "") < logit.sigmoid()
    return torch.where(lost, 0, count)

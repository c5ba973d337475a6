"""From log-weights to a bound. All values are in nats per datum; nobody here reduces over the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from polyvae.utils.errors import InputError, check_count, nearest

OBJECTIVES = ("elbo", "iwae", "dreg")


class Bound(NamedTuple):
    """``value`` [B], what is maximised; ``terms`` name -> [B], what it is made of (for looking at, detached)."""

    value: Tensor
    terms: Mapping[str, Tensor]


def elbo(log_weight: Tensor) -> Tensor:
    """The mean over K of log-weights [K, ...]: [...]. (Kingma & Welling 2014)"""
    return log_weight.mean(0)


def iwae(log_weight: Tensor) -> Tensor:
    """log of the mean weight over K, log-weights [K, ...]: [...]. (Burda et al. 2016)"""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def dreg(
    log_weight: Tensor, hooked: Mapping[Tensor, Tensor | None], beta: float, normalised: Tensor | None = None
) -> Tensor:
    """The doubly reparametrised gradient of ``iwae`` (Tucker et al. 2019), for any multiplier β of the densities.

    ``log_weight`` [K, ...] must hold the posterior's densities with detached parameters. ``hooked`` maps each tensor of draws
    [K, ..., D] that was decoded to the columns whose density is in the log-weight (bool, broadcastable; None: all). The gradient that
    reaches them is scaled from ŵ, the weight normalised over K, to (1 − β) ŵ + β ŵ²; decoders and priors keep ŵ. Draws that have no
    density in the log-weight must not be scaled.

    ``normalised`` [K, ...] replaces ŵ where the outer bound normalises over more than K. With stratified mixtures the denominator is
    not the density that was sampled from, so the gradient is slightly biased for K > 1.
    """
    weight = (log_weight.softmax(0) if normalised is None else normalised).detach()
    factor = (1 - beta) + beta * weight  # [K, ...]
    for draws, columns in hooked.items():
        if draws.requires_grad:
            scaled = factor[..., None]
            multiply = partial(torch.mul, scaled if columns is None else torch.where(columns, scaled, 1))
            draws.register_hook(multiply)  # type: ignore[no-untyped-call]
    return iwae(log_weight)


def estimate(
    objective: str, log_weight: Tensor, hooked: Mapping[Tensor, Tensor | None], beta: float
) -> Tensor:
    """``elbo``, ``iwae`` or ``dreg`` by name: log-weights [K, ...] -> [...]."""
    if objective == "dreg":
        return dreg(log_weight, hooked, beta)
    return elbo(log_weight) if objective == "elbo" else iwae(log_weight)


def check_objective(model: str, objective: str, K: int) -> None:
    """Raises InputError for an unknown objective or a number of samples below 1."""
    if objective not in OBJECTIVES:
        raise InputError(f"{model}: unknown objective {objective!r}; {nearest(objective, OBJECTIVES)}")
    check_count(model, "K", K)


def over_components(weights: Tensor, value: Tensor) -> Tensor:
    """Σ_v weights_v value_v over live views: weights [V, B], value [..., V, B] -> [..., B]. What a dead view holds has no influence."""
    return torch.where(weights > 0, weights * value, 0).sum(-2)


def log_over_components(weights: Tensor, log_value: Tensor) -> Tensor:
    """log Σ_v weights_v exp(log_value_v) over live views: [V, B] -> [B]; 0 where no view is live."""
    active = weights > 0
    any_live = active.any(0)
    shifted = torch.where(active, log_value + torch.where(active, weights, 1).log(), -torch.inf)
    return torch.where(any_live, torch.where(any_live, shifted, 0).logsumexp(0), 0)

"""From log-weights to a bound. All values are in nats per sample; nothing here is reduced over the batch."""

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
    """An objective and its parts.

    Attributes:
        value: [B], what is maximised, in nats per sample.
        terms: name -> [B], the parts of the objective, detached, for inspection.
    """

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
    """The doubly reparametrised gradient of ``iwae``, for any multiplier β of the densities.

    The gradient that reaches the decoded draws is scaled from ŵ, the weight normalised over K, to
    (1 − β) ŵ + β ŵ². Decoders and priors keep ŵ. (Tucker et al. 2019)

    With stratified mixtures the denominator is not the density that was sampled from, so the gradient of
    the encoders is biased for K > 1, and the bias grows with K. In a linear world
    (tests/models/test_gradients.py) it is 32 % of the norm of the gradient for MMVAE with K = 5, and
    10 % for MMVAE+ with K = 10. The gradient of ``iwae`` has no bias, and there 3 to 7 times the variance
    per sample: prefer it for mixtures of experts, because steps average variance, and not bias.

    Args:
        log_weight: [K, ...]. The parameters of the posterior densities in it must be detached.
        hooked: Each tensor of decoded draws, [K, ..., D], with the columns whose density is in the
            log-weight (bool, broadcastable; None: all). Draws whose density is not in the log-weight
            must not be scaled.
        beta: The multiplier β.
        normalised: [K, ...], replaces ŵ where the outer bound normalises over more than K.

    Returns:
        The value of ``iwae``, [...].
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
    """Raises InputError for an unknown objective or a number of draws below 1."""
    if objective not in OBJECTIVES:
        raise InputError(f"{model}: unknown objective {objective!r}; {nearest(objective, OBJECTIVES)}")
    check_count(model, "K", K)


def over_components(weights: Tensor, value: Tensor) -> Tensor:
    """Σ_v weights_v value_v over active components: weights [V, B], value [..., V, B] -> [..., B].

    The values of components with weight 0 have no influence.
    """
    return torch.where(weights > 0, weights * value, 0).sum(-2)


def log_over_components(weights: Tensor, log_value: Tensor) -> Tensor:
    """log Σ_v weights_v exp(log_value_v) over active components: [V, B] -> [B]; 0 where there is none."""
    active = weights > 0
    any_active = active.any(0)
    shifted = torch.where(active, log_value + torch.where(active, weights, 1).log(), -torch.inf)
    return torch.where(any_active, torch.where(any_active, shifted, 0).logsumexp(0), 0)

"""The variance-preserving diffusion of a score network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BETA = (0.1, 20.0)  # the noise rate β(t) at t = 0 and t = 1, between which it is linear


class Marginal(NamedTuple):
    """x_t = m x + s ε given x, with ε standard normal."""

    m: Tensor
    s: Tensor


def rate(t: Tensor) -> Tensor:
    """β(t), linear between its values at 0 and 1."""
    return BETA[0] + t * (BETA[1] - BETA[0])


def marginal(t: Tensor) -> Marginal:
    """The marginal of dx = −½ β(t) x dt + β(t)^½ dW at time t, given x at time 0: m = exp(−½ ∫β), s² = 1 − m²."""
    log_m = -0.25 * t.square() * (BETA[1] - BETA[0]) - 0.5 * t * BETA[0]
    return Marginal(log_m.exp(), (-torch.expm1(2 * log_m)).sqrt())

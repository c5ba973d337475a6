"""Parts of log-masses and log-densities that keep their digits in float32, where plain sums of logarithms cancel or overflow."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_NEAR, _TERMS = 0.1, 6  # where the series of a deviance is used, and its terms: the rest is below 1e-12 of it
_SERIES_FROM = 16.0  # where Stirling's series is used: its rest is below 1e-15


def deviance(a: Tensor, change: Tensor, log_ratio: Tensor) -> Tensor:
    """a log(a / m) − a + m for m = a − ``change`` and ``log_ratio`` = log(a / m), without cancellation where m is close to a."""
    both = (2 * a - change).clamp(min=torch.finfo(change.dtype).tiny)  # a + m
    v = change / both  # (a − m) / (a + m), and log(a / m) = 2 artanh v
    near = v.abs() < _NEAR
    v = torch.where(near, v, 0)
    square = v.square()
    series = torch.zeros_like(v)
    for power in range(_TERMS, 0, -1):
        series = square * (series + 1 / (2 * power + 1))
    return torch.where(near, change * v + 2 * a * v * series, a * log_ratio - change)


def stirling(n: Tensor) -> Tensor:
    """The remainder of Stirling's formula, log n! − (n + ½) log n + n − ½ log 2π, for n > 0."""
    large = n >= _SERIES_FROM
    inverse = 1 / torch.where(large, n, _SERIES_FROM)
    square = inverse.square()
    series = inverse * (
        1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188)))
    )
    small = torch.where(large, 1, n)
    return torch.where(
        large, series, torch.lgamma(small + 1) - (small + 0.5) * small.log() + small - HALF_LOG_TWO_PI
    )


def stirling_slope(n: Tensor) -> Tensor:
    """The derivative of ``stirling``, ψ(n + 1) − log n − 1 / 2n, for n > 0."""
    large = n >= _SERIES_FROM
    square = torch.where(large, n, _SERIES_FROM).square().reciprocal()
    series = -square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square / 132))))
    small = torch.where(large, 1, n)
    return torch.where(large, series, torch.digamma(small + 1) - small.log() - 0.5 / small)


def gamma_remainder(n: Tensor, log_n: Tensor) -> Tensor:
    """The remainder of Stirling's formula for a gamma function: log Γ(n) − n log n + n − ½ log 2π, given log n; n may underflow to 0."""
    large = n >= _SERIES_FROM
    series = stirling(torch.where(large, n, _SERIES_FROM)) - 0.5 * torch.where(large, log_n, 0)
    small, log_small = torch.where(large, 1, n), torch.where(large, 0, log_n)
    direct = torch.lgamma(small + 1) - (small + 1) * log_small + small - HALF_LOG_TWO_PI
    return torch.where(large, series, direct)


def factorial_remainder(n: Tensor) -> Tensor:
    """log n! − n log n + n − ½ log 2π of whole numbers n ≥ 0."""
    positive = torch.where(n > 0, n, 1)
    log_n = positive.log()
    return torch.where(n > 0, gamma_remainder(positive, log_n) + log_n, -HALF_LOG_TWO_PI)


def log_between(lower: Tensor, upper: Tensor, gap: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """log of sigmoid(upper) − sigmoid(lower), without cancellation or overflow.

    By the product sigmoid(upper) sigmoid(−lower) (1 − e^{lower − upper}).

    Args:
        lower: The lower end; −∞ where ``first``.
        upper: The upper end; ∞ where ``last``.
        gap: upper − lower, positive.
        first: Where there is no lower end.
        last: Where there is no upper end.
    """
    below = torch.where(last, 0, functional.logsigmoid(upper))
    above = torch.where(first, 0, functional.logsigmoid(-lower))
    return below + above + torch.where(first | last, 0, (-torch.expm1(-gap)).log())

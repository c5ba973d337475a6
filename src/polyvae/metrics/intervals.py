"""Intervals of shares and of ratios over samples, which the metrics of coherence report beside their numbers.

A number is often a mean over pairs of modalities, or over attributes, of ratios Σ_i a_i / Σ_i b_i over the same samples i. The terms of one
sample are dependent, so the variance is that of the sum over samples of their linearised contributions,

    u_i = mean_p (a_pi − R_p b_pi) / Σ_j b_pj,    variance = Σ_i u_i².

For a share R the interval is Wilson's for n = R (1 − R) / variance observations, the effective number. For one pair of binary
outcomes n is the number of samples, and the interval is exactly Wilson's. Where the variance is 0, n is the number of samples.

References:
    Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference. JASA 22, 209-212.
    Korn, E. L., & Graubard, B. I. (1998). Confidence intervals for proportions with small expected number of positive counts estimated
    from survey data. Survey Methodology 24, 193-201.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LEVEL = 1.959963984540054  # 95 %, two-sided


class Estimate(NamedTuple):
    """A number and the ends of its interval of 95 %."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> list[float]:
        """[low, high], as evaluations store it."""
        return [self.low, self.high]


def wilson(share: float, count: float) -> tuple[float, float]:
    """The ends of Wilson's interval of 95 % for a share of ``count`` observations."""
    if count <= 0:
        return 0.0, 1.0
    square = LEVEL * LEVEL / count
    centre = (share + square / 2) / (1 + square)
    half = LEVEL / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def shares(right: Tensor, counted: Tensor) -> Estimate | None:
    """The mean over P pairs of the share of what is right: [P, N] each, numbers of answers of each sample; None where nothing counts."""
    found = _linearised(right, counted)
    if found is None:
        return None
    share, variance = min(1.0, found[0]), found[1]
    samples = int((counted > 0).any(0).sum())
    count = share * (1 - share) / variance if variance > 0 and 0 < share < 1 else samples
    return Estimate(share, *wilson(share, count))


def ratios(above: Tensor, below: Tensor) -> Estimate | None:
    """The mean over P of Σ above / Σ below, with a normal interval: [P, N] each, ``below`` not negative; None where nothing counts."""
    found = _linearised(above, below)
    if found is None:
        return None
    half = LEVEL * math.sqrt(found[1])
    return Estimate(found[0], found[0] - half, found[0] + half)


def _linearised(above: Tensor, below: Tensor) -> tuple[float, float] | None:
    """The mean of the ratios, and its variance."""
    mean, count, each = 0.0, 0, torch.zeros(above.shape[1], dtype=torch.float64, device=above.device)
    for some, all_of in zip(
        above, below, strict=True
    ):  # one pair at a time, because there may be many, and many samples
        some, all_of = some.double(), all_of.double()
        total = float(all_of.sum())
        if total > 0:
            ratio = float(some.sum()) / total
            each += (some - ratio * all_of) / total
            mean, count = mean + ratio, count + 1
    return (mean / count, float((each / count).square().sum())) if count else None

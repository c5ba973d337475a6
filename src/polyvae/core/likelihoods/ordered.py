"""Likelihoods of ordered values with an end on either side: ordinal, and the discretised logistic distribution."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from polyvae.core import noise
from polyvae.core.distributions import softplus_scale
from polyvae.core.likelihoods.base import Entrywise, offending
from polyvae.core.likelihoods.continuous import WithScale
from polyvae.core.likelihoods.special import log_between
from polyvae.utils.errors import InputError, check_count, is_number

_MOST_LEVELS, _MOST_VALUES = 1000, 2**16
_FEW = 40  # thresholds on either side of a location: those farther off count 0 or 1 to 2e-9
_OFF = 0.05  # steps: multiples of 1/255 are rounded in float32
_FAR = 50.0  # scales beyond an end of the range at which nothing changes any more
_NARROW = 2.0  # a scale in steps, from which a sum over thresholds is an integral and three corrections, to 1e-8 of a step


class OrdinalLikelihood(Entrywise):
    """Ranks x from 0 to levels − 1, by cumulative logits: P(x ≤ k) = sigmoid(θ_k − out), with thresholds θ_0 < θ_1 < ...

    Each entry has its own levels − 1 thresholds, which are parameters and start where all levels have the same probability for out = 0.
    ``mean`` is the mean rank.

    Args:
        shape: Shape of one sample.
        levels: The number of levels, from 2.

    Raises:
        InputError: A number of levels below 2 or above 1,000.

    References:
        McCullagh, Regression Models for Ordinal Data, Journal of the Royal Statistical Society B, 1980.
    """

    remedy: ClassVar[str] = "number the levels from 0 in their order, and correct levels in params"

    def __init__(self, shape: tuple[int, ...], levels: int) -> None:
        super().__init__(shape)
        check_count("likelihood 'ordinal'", "levels", levels, 2, _MOST_LEVELS)
        self.levels = int(levels)
        shares = torch.arange(1, self.levels, dtype=torch.float64) / self.levels
        logits = (shares / (1 - shares)).log().to(torch.get_default_dtype())
        # The inverse of softplus_scale, up to its floor.
        raw_gaps = torch.expm1(logits.diff()).log() - math.log(math.e - 1)
        self.lowest = nn.Parameter(logits[0].expand(shape).clone())
        self.raw_gaps = nn.Parameter(raw_gaps.expand(*shape, -1).clone())

    @property
    def largest(self) -> int:
        return self.levels - 1

    @property
    def thresholds(self) -> Tensor:
        """[*shape, levels − 1], increasing."""
        lowest = self.lowest[..., None]
        return torch.cat([lowest, lowest + softplus_scale(self.raw_gaps).cumsum(-1)], -1)

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        rank = (x if observed is None else torch.where(observed, x, 0)).nan_to_num()
        rank = rank.clamp(0, self.levels - 1).long()  # [..., *shape]
        thresholds, inner = self.thresholds, self.levels - 1
        # The place of an entry's first threshold in the flat table; selecting from it needs no table for each sample.
        place = inner * torch.arange(self.lowest.numel(), device=out.device).view(self.shape)
        above = place + rank.clamp(max=inner - 1)
        upper = _selected(thresholds, above)
        lower = _selected(thresholds, place + (rank - 1).clamp(min=0))
        first, last = rank == 0, rank == self.levels - 1
        # Gaps below each threshold: as differences of thresholds far from 0 they would lose their digits.
        gaps = torch.cat([torch.ones_like(self.lowest)[..., None], softplus_scale(self.raw_gaps)], -1)
        gap = torch.where(last, 1, _selected(gaps, above))
        return log_between(lower - out, upper - out, gap, first, last)

    def mean(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return (out[..., None] - self.thresholds).sigmoid().sum(-1)

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        u = noise.uniform(tuple(out.shape), out, "x", "")
        return (u[..., None] >= (self.thresholds - out[..., None]).sigmoid()).sum(-1).to(out)

    def features(self, x: Tensor) -> Tensor:
        return x / (self.levels - 1)

    def invalid(self, x: Tensor, observed: Tensor) -> str:
        seen = x[observed]
        possible = (seen >= 0) & (seen < self.levels) & (seen == seen.round())
        return offending(seen, possible, f"ranks, whole numbers from 0 to {self.levels - 1}")


class DiscretisedLogisticLikelihood(WithScale, Entrywise):
    """Equally spaced values with a smallest and a largest one, such as those of 8-bit images: a logistic distribution in bins.

    The value number k of K is k · step. In units of the range, y = k / (K − 1) from 0 to 1, it has the probability of the interval
    y ± ½ / (K − 1) under a logistic distribution of location out and this scale; the intervals of the smallest and the largest value
    extend to infinity, so that the probabilities sum to 1.

    Args:
        shape: Shape of one sample.
        values: The number K of values, from 2.
        step: The distance of two neighbouring values; None: 1 / (K − 1), values from 0 to 1. 1: whole numbers from 0 to K − 1.
        scale: As in ``Scaled``, in units of the range. Learned scales start at 0.1.

    Raises:
        InputError: As in ``Scaled``, a number of values below 2 or above 65,536, or a step that is not a positive number.

    References:
        Salimans et al., PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other Modifications, ICLR 2017.
    """

    start: ClassVar[float] = 0.1
    remedy: ClassVar[str] = (
        "set step in params to the distance of two values (1 for whole numbers) and values to their number, or scale the data"
    )

    def __init__(
        self,
        shape: tuple[int, ...],
        values: int = 256,
        step: float | None = None,
        scale: float | str = "learned",
    ) -> None:
        super().__init__(shape, scale)
        check_count("likelihood 'discretised_logistic'", "values", values, 2, _MOST_VALUES)
        if step is not None and not (is_number(step) and step > 0):
            raise InputError(
                f"likelihood 'discretised_logistic': got step={step!r}; expected a finite number above 0, the distance of two values; "
                "leave it out for values from 0 to 1"
            )
        self.top = int(values) - 1
        self.step = 1 / self.top if step is None else float(step)

    @property
    def largest(self) -> int:
        return self.top

    @property
    def width_of_step(self) -> Tensor | float:
        """The scale in steps."""
        return self.scale * self.top

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        k = (x if observed is None else torch.where(observed, x, 0)).nan_to_num() / self.step
        k = k.round().clamp(0, self.top)
        width = self.width_of_step
        lower, upper = ((k + shift - out * self.top) / width for shift in (-0.5, 0.5))
        gap = torch.as_tensor(1 / width).to(out).expand_as(k)
        return log_between(lower, upper, gap, k == 0, k == self.top)

    def mean(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        # E[k] is the sum over the K − 1 thresholds of the probability of a value above it.
        centre, width = out * self.top, torch.as_tensor(self.width_of_step).to(out)
        if self.top <= 2 * _FEW:
            return self.step * self._near(centre, width)
        number = self._integral(centre, width.clamp(min=_NARROW))
        if bool((width < _NARROW).any()):
            number = torch.where(width < _NARROW, self._near(centre, width.clamp(max=_NARROW)), number)
        return self.step * number

    def _near(self, centre: Tensor, width: Tensor) -> Tensor:
        """E[k] by the thresholds near the location; all those below them count 1."""
        count = min(self.top, 2 * _FEW)
        first = (centre.detach().nan_to_num().round() - _FEW).clamp(0, self.top - count)
        number = first
        for place in range(count):
            number = number + ((centre - (first + place + 0.5)) / width).sigmoid()
        return number

    def _integral(self, centre: Tensor, width: Tensor) -> Tensor:
        """E[k] as an integral over thresholds from 0 to K − 1, with the corrections of Euler and Maclaurin for the midpoint rule."""
        extent = self.top / width
        low = torch.minimum((centre / width).clamp(min=-_FAR), extent + _FAR)
        high = low - extent
        number = width * (nn.functional.softplus(low) - nn.functional.softplus(high))
        for sign, at in ((-1, low), (1, high)):
            p = at.sigmoid()
            q = (-at).sigmoid()
            slope = p * q  # the derivatives of the sigmoid function of orders 1, 3 and 5
            third, fifth = slope * (1 - 6 * slope), slope * (1 - 30 * slope + 120 * slope.square())
            terms = slope / 24 / width - 7 * third / 5760 / width**3 + 31 * fifth / 967680 / width**5
            number = number + sign * terms
        return number

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        u = noise.uniform(tuple(out.shape), out, "x", "")
        k = out * self.top + self.width_of_step * torch.logit(u)
        return self.step * k.round().clamp(0, self.top)

    def features(self, x: Tensor) -> Tensor:
        return x / (self.step * self.top)

    def invalid(self, x: Tensor, observed: Tensor) -> str:
        seen = x[observed]
        k = seen / self.step
        possible = (k >= -_OFF) & (k <= self.top + _OFF) & ((k - k.round()).abs() < _OFF)
        return offending(seen, possible, f"multiples of {self.step:.6g} from 0 to {self.step * self.top:.6g}")


def _selected(table: Tensor, places: Tensor) -> Tensor:
    return table.flatten().index_select(0, places.flatten()).view(places.shape)

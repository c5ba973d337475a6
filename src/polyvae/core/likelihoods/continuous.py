"""Likelihoods of real values: normal, Laplace and Student's t, with a scale that does not depend on the latents."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyvae.core import noise
from polyvae.core.distributions import softplus_scale
from polyvae.core.likelihoods import linear
from polyvae.core.likelihoods.base import Likelihood
from polyvae.core.likelihoods.special import HALF_LOG_TWO_PI, stirling
from polyvae.utils.errors import InputError, is_number

_SMALL = 0.1  # a scale below which rounding errors of squares of the size of the data's variance count
_TINY = torch.finfo(torch.float32).tiny


class WithScale(Likelihood):
    """A scale that does not depend on the latents.

    Args:
        shape: Shape of one sample.
        scale: A positive number, "learned" (one parameter for the modality) or "per_entry" (one parameter for each entry). Learned scales
            start at ``start``.

    Attributes:
        start: Where learned scales start.

    Raises:
        InputError: A scale that is none of these.
    """

    start: ClassVar[float] = 1.0

    def __init__(self, shape: tuple[int, ...], scale: float | str = 1.0) -> None:
        super().__init__(shape)
        self.fixed, self.raw_scale = fixed_or_learned("scale", scale, shape)

    @property
    def scale(self) -> Tensor | float:
        """The given number, or the learned scale; broadcasts against [..., *shape]."""
        if self.raw_scale is not None:
            scale = softplus_scale(self.raw_scale)
            return scale if self.start == 1 else self.start * scale
        assert self.fixed is not None
        return self.fixed

    @property
    def one_scale(self) -> bool:
        """Whether all entries have the same scale."""
        return self.raw_scale is None or self.raw_scale.ndim == 0


def fixed_or_learned(
    key: str, value: float | str, shape: tuple[int, ...]
) -> tuple[float | None, nn.Parameter | None]:
    """A positive number, or a parameter of zeros: one ("learned"), or one for each entry ("per_entry").

    Raises InputError: a value that is none of these.
    """
    valid = value in ("learned", "per_entry") if isinstance(value, str) else is_number(value) and value > 0
    if not valid:
        raise InputError(
            f"likelihood: got {key}={value!r}; expected a finite number above 0, 'learned' or 'per_entry'; such as 1.0"
        )
    if not isinstance(value, str):
        return float(value), None
    return None, nn.Parameter(torch.zeros(shape if value == "per_entry" else ()))


class Scaled(WithScale):
    """A location from the decoder and a scale that does not depend on the latents.

    With ``center`` and ``std`` the networks see (x − center) / std, and ``scale`` is in units of ``std``. Densities, means and draws are in
    the units of x.

    Args:
        shape: Shape of one sample.
        scale: As in ``WithScale``.
        center: A number for each entry, in row-major order, or one for all, that is subtracted first. None: 0.
        std: A number above 0 for each entry, or one for all, that the result is divided by. None: 1.

    Attributes:
        power: The distance of an entry is |x − out| to this power; 0: the distance has another form.

    Raises:
        InputError: As in ``WithScale``; another number of values, or values that are not finite or, of ``std``, not above 0.
    """

    power: ClassVar[int] = 0
    center: Tensor
    std: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        scale: float | str = 1.0,
        center: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
    ) -> None:
        super().__init__(shape, scale)
        self.standardises = center is not None or std is not None
        # Parameters of the specification, which is stored with the model: no state of their own.
        self.register_buffer("center", _entries("center", 0.0 if center is None else center, shape), False)
        self.register_buffer("std", _entries("std", 1.0 if std is None else std, shape), False)

    @abstractmethod
    def distance(self, out: Tensor, x: Tensor) -> Tensor:
        """The distance of every entry from its location, in the family's measure: [..., *shape]."""

    @abstractmethod
    def density(self, distance: Tensor, scale: Tensor | float, count: Tensor | int) -> Tensor:
        """Log-likelihood in nats of ``count`` entries of one scale, whose distances sum to ``distance``."""

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        found = self.density(self.distance(out, self.features(x)), self.scale, 1)
        return found - self.std.log() if self.standardises else found

    def log_prob(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        if not self.one_scale or self.standardises:
            return self.summed(self.entries(out, x), observed)
        # With one scale only the distances are summed over entries; everything else is computed once per sample.
        count = prod(self.shape) if observed is None else self.summed(observed, None).to(out.dtype)
        return self.density(self.summed(self.distance(out, x), observed), self.scale, count)

    @property
    def takes_linear(self) -> bool:
        """Whether ``log_prob_linear`` is available."""
        return self.power > 0 and self.one_scale and not self.standardises

    def needs_no_output(self, last: nn.Linear, rows: int, data: int) -> bool:
        """Whether ``log_prob_linear`` of ``rows`` latents of ``data`` samples allocates no array of rows times the data's width."""
        return self.power == 2 and linear.squares_pay(last, rows, data)

    def log_prob_linear(
        self, hidden: Tensor, last: nn.Linear, x: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """``log_prob(last(hidden), x)`` without the array last(hidden).

        Args:
            hidden: Input of the decoder's last layer, [..., B, H], or [N, H] with ``rows``.
            last: The decoder's last layer.
            x: Values, [B, *shape].
            rows: [N], the sample of x that each row of ``hidden`` belongs to; None: the samples in order.

        Returns:
            [..., B], or [N] with ``rows``.
        """
        lead, hidden, x = hidden.shape[:-1], hidden.flatten(0, -2), x.flatten(1)
        if rows is None:
            rows = torch.arange(len(x), device=x.device).repeat(len(hidden) // max(1, len(x)))
        if self.needs_no_output(last, len(hidden), len(x)):
            # A learnt scale is not read from another device, which would have to be waited for.
            small = (self.fixed is None and x.device.type != "cpu") or float(
                torch.as_tensor(self.scale).detach()
            ) < _SMALL
            distance = linear.squares(hidden, last, x, rows, nearest=small)
        else:
            distance = linear.distances(hidden, last, x, rows, self.power)
        return self.density(distance.view(lead), self.scale, prod(self.shape))

    def mean(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return self.in_units(out)

    def in_units(self, x: Tensor) -> Tensor:
        """Standardised values in the units of the data."""
        return x * self.std + self.center if self.standardises else x

    def features(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.std if self.standardises else x

    def invalid(self, x: Tensor, observed: Tensor) -> str:
        return ""


class NormalLikelihood(Scaled):
    """x ~ N(out, scale²)."""

    power = 2

    def distance(self, out: Tensor, x: Tensor) -> Tensor:
        # The squared difference; this function needs one pass over the data forward and one backward.
        return functional.mse_loss(out, x.expand_as(out), reduction="none")

    def density(self, distance: Tensor, scale: Tensor | float, count: Tensor | int) -> Tensor:
        return distance * (-0.5 / scale**2) - count * (_log(scale) + HALF_LOG_TWO_PI)

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return self.in_units(out + self.scale * noise.normal(tuple(out.shape), out, "x", ""))


class LaplaceLikelihood(Scaled):
    """x ~ Laplace(out, scale). Scale 0.75 is the choice of the MMVAE and MMVAE+ papers for PolyMNIST."""

    power = 1

    def distance(self, out: Tensor, x: Tensor) -> Tensor:
        # The absolute difference: with beta below any difference that matters, this loss needs one pass forward and one backward.
        return functional.smooth_l1_loss(out, x.expand_as(out), reduction="none", beta=_TINY)

    def density(self, distance: Tensor, scale: Tensor | float, count: Tensor | int) -> Tensor:
        return distance * (-1 / scale) - count * _log(2 * scale)

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return self.in_units(out + self.scale * noise.laplace(tuple(out.shape), out, "x", ""))


class StudentTLikelihood(Scaled):
    """x = out + scale t, with t of Student's t distribution: outliers pull the location less than under a normal likelihood.

    The variance is scale² df / (df − 2) for df above 2, else infinite.

    Args:
        shape: Shape of one sample.
        scale: As in ``Scaled``.
        df: Degrees of freedom, a number above 1, below which there is no mean; or "learned": one parameter for the modality, which starts
            at 4 and is above 1.
        center: As in ``Scaled``.
        std: As in ``Scaled``.

    Raises:
        InputError: As in ``Scaled``, or degrees of freedom that are neither.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        scale: float | str = 1.0,
        df: float | str = 4.0,
        center: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
    ) -> None:
        super().__init__(shape, scale, center, std)
        if df != "learned" and not (is_number(df) and float(df) > 1):
            raise InputError(
                f"likelihood 'student_t': got df={df!r}; expected a finite number above 1 (at 1 and below there is no mean), or "
                "'learned'; such as 4.0"
            )
        self.fixed_df = None if isinstance(df, str) else float(df)
        self.raw_df = nn.Parameter(torch.zeros(())) if isinstance(df, str) else None

    @property
    def df(self) -> Tensor:
        """The degrees of freedom, []."""
        if self.raw_df is None:
            return torch.tensor(self.fixed_df, dtype=torch.float64)
        return 1 + 3 * softplus_scale(self.raw_df)

    def distance(self, out: Tensor, x: Tensor) -> Tensor:
        # ½ (df + 1) log(1 + t²), for t² that overflows as well.
        df = self.df.to(out)
        t = (x - out).abs() / (self.scale * df.sqrt())
        near = t < 1
        small, large = torch.where(near, t, 0), torch.where(near, 1, t)
        log = torch.where(
            near, torch.log1p(small.square()), 2 * large.log() + torch.log1p((1 / large).square())
        )
        return 0.5 * (df + 1) * log

    def density(self, distance: Tensor, scale: Tensor | float, count: Tensor | int) -> Tensor:
        # log Γ((df + 1)/2) − log Γ(df/2) − ½ log(π df), by Stirling's remainders: for many degrees of freedom the terms cancel.
        half = self.df / 2
        peak = half * torch.log1p(0.5 / half) - 0.5 + stirling(half + 0.5) - stirling(half) - HALF_LOG_TWO_PI
        return -distance + count * (peak.to(distance) - _log(scale))

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        half = (self.df / 2).to(out)
        width = (noise.gamma(half.expand_as(out), "x.rate", "") / half).sqrt()
        return self.in_units(out + self.scale * noise.normal(tuple(out.shape), out, "x", "") / width)


def _entries(key: str, given: Sequence[float] | float, shape: tuple[int, ...]) -> Tensor:
    """One number, [], or one for each entry, [*shape]. Raises InputError: anything else."""
    several = isinstance(given, Sequence) and not isinstance(given, str)
    values: list[Any] = list(given) if isinstance(given, Sequence) and several else [given]
    valid = all(is_number(value) and (key != "std" or float(value) > 0) for value in values)
    if not valid or (several and len(values) != prod(shape)):
        shown = f"{len(values)} values" if several and valid else repr(given)[:80]
        expected = "numbers above 0" if key == "std" else "numbers"
        raise InputError(
            f"likelihood: got {key}={shown}; expected finite {expected}: one, or one for each of {prod(shape)} entries; correct it"
        )
    found = torch.tensor([float(value) for value in values])
    return found.view(shape) if several else found[0]


def _log(x: Tensor | float) -> Tensor | float:
    return x.log() if isinstance(x, Tensor) else math.log(x)

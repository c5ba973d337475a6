"""From what a decoder says to a distribution over x. Log-likelihoods are in nats, summed over a modality's observed entries."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyvae.core import noise
from polyvae.core.distributions import softplus_scale
from polyvae.core.likelihoods import counts, linear
from polyvae.utils.errors import InputError

_LOG_TWO_PI = math.log(2 * math.pi)
_TINY = torch.finfo(torch.float32).tiny
_EMPTY = 1e-5  # a class that nobody has and nobody says: its overlap is 0, not 0/0


class Likelihood(nn.Module, ABC):
    """p(x | decoder output). ``shape`` is one sample's; x is [..., *shape] and so are the methods' results.

    ``joined``: the columns along this axis of a sample are one entry, observed together or not at all (None: each is its own).
    ``numbers``: what the decoder says of an entry.
    """

    joined: ClassVar[int | None] = None
    numbers: ClassVar[int] = 1

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    @property
    def output(self) -> tuple[int, ...]:
        """The shape that a decoder must give for one sample."""
        return self.shape if self.numbers == 1 else (*self.shape, self.numbers)

    @abstractmethod
    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Log-likelihood of every entry, in nats: [..., *shape] (a categorical entry's stands at its class).

        What stands at entries that were not ``observed`` (None: all were) has no influence on the others; its own is of no meaning.
        """

    @abstractmethod
    def log_prob(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Log-likelihood in nats, summed over the entries that were observed: [...]. ``observed`` is bool, shaped as x; None: all."""

    @abstractmethod
    def mean(self, out: Tensor) -> Tensor:
        """E[x]: [..., *shape]."""

    @abstractmethod
    def sample(self, out: Tensor) -> Tensor:
        """A draw of x: [..., *shape]."""

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """What an encoder is shown of x, unobserved entries of which are 0: [..., *shape]."""

    @abstractmethod
    def complaint(self, x: Tensor, observed: Tensor) -> str:
        """What is wrong with the observed ones of these values, or "" (checked at the door, never in a step). Both [N, *shape]."""

    def counted(self, observed: Tensor) -> Tensor:
        """Which entries count in the likelihood, given which were observed: bool, [..., *shape]."""
        if self.joined is None:
            return observed
        return observed.all(range(-len(self.shape), 0)[self.joined], keepdim=True).expand_as(observed)

    def summed(self, each: Tensor, observed: Tensor | None) -> Tensor:
        """The sum over the entries that count: [..., *shape] -> [...]."""
        if observed is not None:
            each = torch.where(self.counted(observed), each, 0)
        return each.flatten(each.ndim - len(self.shape)).sum(-1)


class Entrywise(Likelihood):
    """A likelihood that is summed entry by entry."""

    def log_prob(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.summed(self.entries(out, x, observed), observed)


class Scaled(Likelihood):
    """A location from the decoder and a scale that does not depend on z.

    ``scale`` is a number, "learned" (one for the modality, starting at 1) or "per_entry" (one per entry, starting at 1).
    ``power``: the distance of an entry is |x − out| to this power; 0: it is not of that form.
    """

    power: ClassVar[int] = 0

    def __init__(self, shape: tuple[int, ...], scale: float | str = 1.0) -> None:
        super().__init__(shape)
        if isinstance(scale, str) and scale not in ("learned", "per_entry"):
            raise InputError(
                f"likelihood: got scale={scale!r}; expected a positive number, 'learned' or 'per_entry'"
            )
        if not isinstance(scale, str) and not scale > 0:
            raise InputError(
                f"likelihood: got scale={scale}; expected a positive number, 'learned' or 'per_entry'"
            )
        self.fixed = None if isinstance(scale, str) else float(scale)
        self.raw_scale = (
            None
            if self.fixed is not None
            else nn.Parameter(torch.zeros(shape if scale == "per_entry" else ()))
        )

    @property
    def scale(self) -> Tensor | float:
        """The scale: the number that was given, which costs no operation, or what is learnt; broadcasts against [..., *shape]."""
        if self.raw_scale is not None:
            return softplus_scale(self.raw_scale)
        assert self.fixed is not None
        return self.fixed

    @property
    def one_scale(self) -> bool:
        """Whether all entries have the same scale."""
        return self.raw_scale is None or self.raw_scale.ndim == 0

    @abstractmethod
    def distance(self, out: Tensor, x: Tensor) -> Tensor:
        """How far every entry lies from its location, in the family's own measure: [..., *shape]."""

    @abstractmethod
    def density(self, distance: Tensor, scale: Tensor | float, count: Tensor | int) -> Tensor:
        """Log-likelihood in nats of ``count`` entries of one scale, whose distances add up to ``distance``."""

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.density(self.distance(out, x), self.scale, 1)

    def log_prob(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        if not self.one_scale:
            return self.summed(self.entries(out, x), observed)
        # With one scale the entries are only added up; everything else is done once per datum.
        count = prod(self.shape) if observed is None else self.summed(observed, None).to(out.dtype)
        return self.density(self.summed(self.distance(out, x), observed), self.scale, count)

    @property
    def takes_linear(self) -> bool:
        """Whether ``log_prob_linear`` is there."""
        return self.power > 0 and self.one_scale

    def needs_no_output(self, last: nn.Linear, rows: int, data: int) -> bool:
        """Whether ``log_prob_linear`` of ``rows`` codes of ``data`` samples does without any array of rows times the data's width."""
        return self.power == 2 and linear.squares_pay(last, rows, data)

    def log_prob_linear(
        self, hidden: Tensor, last: nn.Linear, x: Tensor, datum: Tensor | None = None
    ) -> Tensor:
        """``log_prob(last(hidden), x)`` without forming last(hidden): hidden [..., B, H], x [B, *shape] -> [..., B].

        ``datum`` [N]: hidden [N, H] belongs to these rows of x -> [N].
        """
        lead, hidden, x = hidden.shape[:-1], hidden.flatten(0, -2), x.flatten(1)
        if datum is None:
            datum = torch.arange(len(x), device=x.device).repeat(len(hidden) // max(1, len(x)))
        if self.needs_no_output(last, len(hidden), len(x)):
            distance = linear.squares(hidden, last, x, datum)
        else:
            distance = linear.distances(hidden, last, x, datum, self.power)
        return self.density(distance.view(lead), self.scale, prod(self.shape))

    def mean(self, out: Tensor) -> Tensor:
        return out

    def features(self, x: Tensor) -> Tensor:
        return x

    def complaint(self, x: Tensor, observed: Tensor) -> str:
        return ""


class NormalLikelihood(Scaled):
    """x ~ N(out, scale²)."""

    power = 2

    def distance(self, out: Tensor, x: Tensor) -> Tensor:
        return functional.mse_loss(
            out, x.expand_as(out), reduction="none"
        )  # the square of the difference, one pass each way

    def density(self, distance: Tensor, scale: Tensor | float, count: Tensor | int) -> Tensor:
        return distance * (-0.5 / scale**2) - count * (_log(scale) + 0.5 * _LOG_TWO_PI)

    def sample(self, out: Tensor) -> Tensor:
        return out + self.scale * noise.normal(tuple(out.shape), out, "x", "")


class LaplaceLikelihood(Scaled):
    """x ~ Laplace(out, scale). Scale .75 is the papers' choice for PolyMNIST."""

    power = 1

    def distance(self, out: Tensor, x: Tensor) -> Tensor:
        # The absolute difference: with a beta below any difference that counts, this loss is the one that makes one pass each way.
        return functional.smooth_l1_loss(out, x.expand_as(out), reduction="none", beta=_TINY)

    def density(self, distance: Tensor, scale: Tensor | float, count: Tensor | int) -> Tensor:
        return distance * (-1 / scale) - count * _log(2 * scale)

    def sample(self, out: Tensor) -> Tensor:
        return out + self.scale * noise.laplace(tuple(out.shape), out, "x", "")


class BernoulliLikelihood(Entrywise):
    """x in [0, 1] with logits from the decoder; values between 0 and 1 count as probabilities of a one (cross-entropy)."""

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return x * out - functional.softplus(out)

    def mean(self, out: Tensor) -> Tensor:
        return out.sigmoid()

    def sample(self, out: Tensor) -> Tensor:
        return (noise.uniform(tuple(out.shape), out, "x", "") < out.sigmoid()).to(out)

    def features(self, x: Tensor) -> Tensor:
        return x

    def complaint(self, x: Tensor, observed: Tensor) -> str:
        seen = x[observed]
        fits = bool(((seen >= 0) & (seen <= 1)).all())
        return (
            "" if fits else f"values from {float(seen.min()):.3g} to {float(seen.max()):.3g}; expected 0 to 1"
        )


class OneHot(Entrywise):
    """x one-hot over the axis ``joined``, with logits from the decoder. An entry is observed if all its columns are."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        assert self.joined is not None
        self.axis = range(-len(shape), 0)[self.joined]

    def mean(self, out: Tensor) -> Tensor:
        return out.softmax(self.axis)

    def sample(self, out: Tensor) -> Tensor:
        chance = out.movedim(self.axis, -1).softmax(-1)
        classes = chance.shape[-1]
        pick = noise.choice(chance.reshape(-1, classes).T, 1, "x", "")
        return functional.one_hot(pick[0], classes).view(chance.shape).movedim(-1, self.axis).to(out)

    def features(self, x: Tensor) -> Tensor:
        return x

    def complaint(self, x: Tensor, observed: Tensor) -> str:
        classes = x.shape[self.axis]
        rows = x.movedim(self.axis, -1)[self.counted(observed).movedim(self.axis, -1)].view(-1, classes)
        whole = bool(((rows == 0) | (rows == 1)).all()) and bool((rows.sum(-1) == 1).all())
        place = "last" if self.axis == -1 else "first"
        return (
            ""
            if whole
            else f"fractions or rows that do not sum to 1; expected one-hot rows over the {place} axis"
        )


class CategoricalLikelihood(OneHot):
    """x one-hot over its last axis, with logits from the decoder. An entry is observed if all its columns are."""

    joined = -1

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return x * out.log_softmax(-1)


class SegmentationLikelihood(OneHot):
    """Which of C classes every pixel has: x [C, *sizes], one-hot over its first axis; what is said has to overlap with it, too.

    With p = softmax(out) and N observed pixels, Dice_c = 2 Σ p_c x_c / (Σ p_c² + Σ x_c + 1e-5), a class that the sample lacks having 0:

        log p(x | out) = Σ x log p − dice N (1 − mean_c Dice_c)

    This is −N times the loss CE + Dice of Dorent et al. 2019 (the squares are Milletari et al.'s, 2016). ``dice=0`` is ``categorical``;
    above 0 it is sub-normalised: Dice ≤ 1, so p is at most the categorical's, and what is estimated where a segmentation is observed is
    a lower bound on the log-likelihood of the same decoder with ``categorical``.
    """

    joined = 0

    def __init__(self, shape: tuple[int, ...], dice: float = 1.0) -> None:
        super().__init__(shape)
        if len(shape) < 2:
            raise InputError(
                f"likelihood 'segmentation': got shape {shape}; expected (classes, *sizes); for one label per sample take "
                "'categorical'"
            )
        if not isinstance(dice, int | float) or not 0 <= dice < math.inf:
            raise InputError(
                f"likelihood 'segmentation': got dice={dice!r}; expected a number, 0 or more; leave it out for 1"
            )
        self.dice = dice

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        log_p = out.log_softmax(self.axis)
        x = x.expand_as(log_p)
        counted = (
            torch.ones_like(x, dtype=torch.bool) if observed is None else self.counted(observed).expand_as(x)
        )
        x, p = torch.where(counted, x, 0), torch.where(counted, log_p.exp(), 0)
        pixels = tuple(range(1 - len(self.shape), 0))
        size = (p.square() + x).sum(pixels, keepdim=True) + _EMPTY  # [..., C, 1, ...]
        share = counted.to(p.dtype).sum(pixels, keepdim=True) / self.shape[0]
        return x * (log_p - self.dice) + self.dice * share * 2 * p * x / size


class Counts(Entrywise):
    """x a count, whose mean is the sample's library size N times the proportions softmax(out) over its entries.

    The likelihood of x is given its library size, as is usual for sequencing data: N is the total of what was observed of x, and the
    proportions are those among the observed entries. Where there is no x, in ``mean`` and ``sample``, N is ``library``. A sample
    without a single count has N = 1.

    ``library="none"``: the mean is softplus(out), entry by entry, and x is given nothing.
    """

    def __init__(self, shape: tuple[int, ...], library: float | str = 10000.0) -> None:
        super().__init__(shape)
        if library != "none" and (isinstance(library, str) or not library > 0):
            raise InputError(
                f"likelihood: got library={library!r}; expected a positive number, the total count of a sample that is "
                "generated, or 'none'"
            )
        self.library = library

    def log_mean(self, out: Tensor, x: Tensor | None = None, observed: Tensor | None = None) -> Tensor:
        """log E of the count, [..., *shape], for a sample of x's library size, or of ``library``."""
        if isinstance(self.library, str):
            return functional.softplus(out).clamp(min=torch.finfo(out.dtype).tiny).log()
        size = out.new_full((), self.library) if x is None else counts.library_size(x, self.shape)
        return size.log() + counts.log_shares(out, self.shape, observed)

    def features(self, x: Tensor) -> Tensor:
        """log(1 + x), with x brought to a library size of ``library`` first."""
        return (
            x if isinstance(self.library, str) else x * self.library / counts.library_size(x, self.shape)
        ).log1p()

    def complaint(self, x: Tensor, observed: Tensor) -> str:
        seen = x[observed]
        whole = bool(((seen >= 0) & (seen == seen.round())).all())
        return (
            ""
            if whole
            else f"values from {float(seen.min()):.3g} to {float(seen.max()):.3g}; expected counts, whole numbers from 0"
        )


class PoissonLikelihood(Counts):
    """x ~ Poisson(μ), μ = N softmax(out)."""

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        x = _zeroed(x, observed)
        return counts.poisson(x, self.log_mean(out, x, observed))

    def mean(self, out: Tensor) -> Tensor:
        return self.log_mean(out).exp()

    def sample(self, out: Tensor) -> Tensor:
        return counts.draw_poisson(self.log_mean(out))


class Dispersed(Counts):
    """Counts with a learnt inverse dispersion θ for every entry, starting at 1: a variance of μ + μ²/θ."""

    def __init__(self, shape: tuple[int, ...], library: float | str = 10000.0) -> None:
        super().__init__(shape, library)
        self.raw_dispersion = nn.Parameter(torch.zeros(shape))

    @property
    def dispersion(self) -> Tensor:
        """θ, *shape."""
        return softplus_scale(self.raw_dispersion)


class NegativeBinomialLikelihood(Dispersed):
    """x ~ NB with mean μ = N softmax(out) and variance μ + μ²/θ."""

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        x = _zeroed(x, observed)
        return counts.negative_binomial(x, self.log_mean(out, x, observed), self.dispersion)

    def mean(self, out: Tensor) -> Tensor:
        return self.log_mean(out).exp()

    def sample(self, out: Tensor) -> Tensor:
        return counts.draw_negative_binomial(self.log_mean(out), self.dispersion)


class ZeroInflatedNegativeBinomialLikelihood(Dispersed):
    """x is lost (0) with chance γ, else negative binomial. The decoder says two numbers for each entry: its share, and the logit of γ.

    N softmax(out) is the mean of what is not lost; E[x] is 1 − γ times that.
    """

    numbers = 2

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        x = _zeroed(x, observed)
        log_mass = counts.negative_binomial(x, self.log_mean(out[..., 0], x, observed), self.dispersion)
        return counts.zero_inflated(x, log_mass, out[..., 1])

    def mean(self, out: Tensor) -> Tensor:
        return self.log_mean(out[..., 0]).exp() * (-out[..., 1]).sigmoid()

    def sample(self, out: Tensor) -> Tensor:
        return counts.draw_zero_inflated(
            counts.draw_negative_binomial(self.log_mean(out[..., 0]), self.dispersion), out[..., 1]
        )


def _log(x: Tensor | float) -> Tensor | float:
    return x.log() if isinstance(x, Tensor) else math.log(x)


def _zeroed(x: Tensor, observed: Tensor | None) -> Tensor:
    """x, and 0 where it was not observed, whatever stands there."""
    return x if observed is None else torch.where(observed, x, 0)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "normal": NormalLikelihood,
    "laplace": LaplaceLikelihood,
    "bernoulli": BernoulliLikelihood,
    "categorical": CategoricalLikelihood,
    "segmentation": SegmentationLikelihood,
    "poisson": PoissonLikelihood,
    "negative_binomial": NegativeBinomialLikelihood,
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomialLikelihood,
}

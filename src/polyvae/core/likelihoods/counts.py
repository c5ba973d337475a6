"""Likelihoods of counts: Poisson, negative binomial, zero-inflated negative binomial; below them their draws.

Means are kept as logarithms, so that a proportion of 1e-30 is no special case.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyvae.core import noise
from polyvae.core.distributions import softplus_scale
from polyvae.core.likelihoods.base import Entrywise, offending
from polyvae.core.likelihoods.masses import negative_binomial, poisson, zero_inflated
from polyvae.utils.errors import InputError, is_number


class Counts(Entrywise):
    """Counts x whose mean is the sample's library size N times the proportions softmax(out) over its entries.

    The likelihood of x is conditional on its library size, as is usual for sequencing data: N is the total of the observed entries of x,
    at least 1, and the proportions are those among the observed entries. ``mean`` and ``sample`` use the library size of a sample where
    it is given (``library_of``), else N = ``library``.

    Args:
        shape: Shape of one sample.
        library: Total count of a generated sample, a positive number; or "none": the mean is softplus(out) for each entry, and x is not
            conditional on its library size.

    Raises:
        InputError: A library that is neither.
    """

    def __init__(self, shape: tuple[int, ...], library: float | str = 10000.0) -> None:
        super().__init__(shape)
        if library != "none" and not (is_number(library) and float(library) > 0):
            raise InputError(
                f"likelihood: got library={library!r}; expected a finite number above 0, the total count of a sample that is "
                "generated, or 'none'; such as 1e4"
            )
        self.library = library

    def log_mean(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Log-mean of the counts given the library size of x, [..., *shape]."""
        if isinstance(self.library, str):
            return self._log_rate(out)
        return library_size(x, self.shape).log() + log_shares(out, self.shape, observed)

    def generated_log_mean(self, out: Tensor, library: Tensor | None) -> Tensor:
        """Log-mean of generated counts, [..., *shape], for these library sizes, [..., 1, ..., 1]; None: ``library``."""
        if isinstance(self.library, str):
            return self._log_rate(out)
        size = out.new_full((), self.library) if library is None else library
        return size.log() + log_shares(out, self.shape)

    def library_of(self, out: Tensor, x: Tensor, observed: Tensor) -> Tensor | None:
        """The library size of all entries of a sample, given its observed ones: [..., 1, ..., 1].

        The total of the observed counts, divided by the proportion of the observed entries; ``library`` where nothing was observed.
        """
        if isinstance(self.library, str):
            return None
        axes = tuple(range(-len(self.shape), 0))
        shares = torch.where(observed, log_shares(self.proportions(out), self.shape).exp(), 0)
        share = shares.sum(axes, keepdim=True)
        total = library_size(_zeroed(x, observed), self.shape)
        size = total / share.clamp(min=torch.finfo(share.dtype).tiny)
        return torch.where(observed.any(axes, keepdim=True), size, self.library)

    def proportions(self, out: Tensor) -> Tensor:
        """The logits of the proportions, [..., *shape]."""
        return out

    def _log_rate(self, out: Tensor) -> Tensor:
        return functional.softplus(out).clamp(min=torch.finfo(out.dtype).tiny).log()

    def features(self, x: Tensor) -> Tensor:
        """log(1 + x), after scaling x to a library size of ``library``."""
        return (
            x if isinstance(self.library, str) else x * self.library / library_size(x, self.shape)
        ).log1p()

    def invalid(self, x: Tensor, observed: Tensor) -> str:
        seen = x[observed]
        return offending(seen, (seen >= 0) & (seen == seen.round()), "counts, whole numbers from 0")


class PoissonLikelihood(Counts):
    """x ~ Poisson(μ), μ = N softmax(out)."""

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        x = _zeroed(x, observed)
        return poisson(x, self.log_mean(out, x, observed))

    def mean(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return self.generated_log_mean(out, library).exp()

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return draw_poisson(self.generated_log_mean(out, library))


class Dispersed(Counts):
    """Counts of variance μ + μ²/θ. The inverse dispersion θ of every entry is a parameter that starts at 1."""

    def __init__(self, shape: tuple[int, ...], library: float | str = 10000.0) -> None:
        super().__init__(shape, library)
        self.raw_dispersion = nn.Parameter(torch.zeros(shape))

    @property
    def dispersion(self) -> Tensor:
        """θ, [*shape]."""
        return softplus_scale(self.raw_dispersion)


class NegativeBinomialLikelihood(Dispersed):
    """x ~ NB with mean μ = N softmax(out) and variance μ + μ²/θ."""

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        x = _zeroed(x, observed)
        return negative_binomial(x, self.log_mean(out, x, observed), self.dispersion)

    def mean(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return self.generated_log_mean(out, library).exp()

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return draw_negative_binomial(self.generated_log_mean(out, library), self.dispersion)


class ZeroInflatedNegativeBinomialLikelihood(Dispersed):
    """x is 0 with probability γ (a dropout), else negative binomial with mean N softmax(out).

    The decoder has two outputs for each entry: the logit of its proportion, and the logit of γ. E[x] is 1 − γ times the mean of the
    negative binomial.
    """

    numbers = 2

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        x = _zeroed(x, observed)
        log_mass = negative_binomial(x, self.log_mean(out[..., 0], x, observed), self.dispersion)
        return zero_inflated(x, log_mass, out[..., 1])

    def proportions(self, out: Tensor) -> Tensor:
        return out[..., 0]

    def mean(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return self.generated_log_mean(out[..., 0], library).exp() * (-out[..., 1]).sigmoid()

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        log_mean = self.generated_log_mean(out[..., 0], library)
        return draw_zero_inflated(draw_negative_binomial(log_mean, self.dispersion), out[..., 1])


def log_shares(out: Tensor, shape: tuple[int, ...], observed: Tensor | None = None) -> Tensor:
    """Log-proportions over a sample's entries, or over the observed ones: [..., *shape] -> [..., *shape]; 0 at the others."""
    lead = out.shape[: out.ndim - len(shape)]
    flat = out.reshape(*lead, prod(shape))
    if observed is None:
        return flat.log_softmax(-1).view(out.shape)
    counted = observed.reshape(*observed.shape[: observed.ndim - len(shape)], prod(shape)).expand_as(flat)
    # A sample without observed entries gets finite numbers; the sum over entries removes them and their gradient.
    some = counted | ~counted.any(-1, keepdim=True)
    shares = torch.where(some, flat, -torch.inf).log_softmax(-1)
    return torch.where(some, shares, 0).view(out.shape)


def library_size(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A sample's total count, at least 1: [..., *shape] -> [..., 1, ..., 1]."""
    return x.sum(tuple(range(-len(shape), 0)), keepdim=True).clamp(min=1)


def draw_poisson(log_mean: Tensor) -> Tensor:
    """Poisson draws, one for each log-mean."""
    return noise.poisson(log_mean.exp(), "x", "")


def draw_negative_binomial(log_mean: Tensor, dispersion: Tensor) -> Tensor:
    """Poisson draws whose rates are μ times gamma draws of mean 1."""
    rate = noise.gamma(dispersion.expand_as(log_mean), "x.rate", "") / dispersion
    return noise.poisson(log_mean.exp() * rate, "x", "")


def draw_zero_inflated(count: Tensor, logit: Tensor) -> Tensor:
    """The count, or 0 with probability sigmoid(logit)."""
    lost = noise.uniform(tuple(logit.shape), logit, "x.lost", "") < logit.sigmoid()
    return torch.where(lost, 0, count)


def _zeroed(x: Tensor, observed: Tensor | None) -> Tensor:
    """x, with 0 at the entries that were not observed."""
    return x if observed is None else torch.where(observed, x, 0)

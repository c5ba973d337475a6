"""Likelihoods of shares: beta, and beta-binomial numbers of successes. The decoder returns the logit of the mean."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from polyvae.core import noise
from polyvae.core.likelihoods.base import Entrywise, offending
from polyvae.core.likelihoods.continuous import fixed_or_learned
from polyvae.core.likelihoods.special import (
    HALF_LOG_TWO_PI,
    deviance,
    factorial_remainder,
    gamma_remainder,
)
from polyvae.utils.errors import check_count

_LARGEST = 30.0  # e^30 is as good as infinite as a concentration
_LEAST = 1e-6
_MOST_TRIALS = 10**9
_TINY = torch.finfo(torch.float32).tiny


class Concentrated(Entrywise):
    """Beta distributed shares of mean m = sigmoid(out) and concentration φ: α = m φ, β = (1 − m) φ.

    Args:
        shape: Shape of one sample.
        concentration: φ: a positive number, "learned" (one parameter for the modality) or "per_entry" (one parameter for each entry).
            Learned concentrations start at 2, which with m = ½ is the uniform distribution.

    Raises:
        InputError: A concentration that is none of these.
    """

    def __init__(self, shape: tuple[int, ...], concentration: float | str = "per_entry") -> None:
        super().__init__(shape)
        self.fixed, self.raw_concentration = fixed_or_learned("concentration", concentration, shape)

    @property
    def concentration(self) -> Tensor:
        """φ; broadcasts against [..., *shape]."""
        if self.raw_concentration is not None:
            return _LEAST + 2 * self.raw_concentration.clamp(max=_LARGEST).exp()
        assert self.fixed is not None
        return torch.tensor(self.fixed, dtype=torch.float64)

    def parameters_of(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """φ, α, β, log α and log β; the logarithms are finite where α or β underflows."""
        phi = self.concentration.to(out)
        alpha, beta = phi * out.sigmoid(), phi * (-out).sigmoid()
        log_phi = phi.log()
        return phi, alpha, beta, functional.logsigmoid(out) + log_phi, functional.logsigmoid(-out) + log_phi

    def draw_share(self, out: Tensor) -> Tensor:
        """Beta draws, above 0 and below 1. They are ratios of gamma draws, whose logarithms do not underflow."""
        _, alpha, beta, _, _ = self.parameters_of(out)
        odds = _log_gamma(alpha, "x.rate") - _log_gamma(beta, "x.rest")
        return odds.sigmoid().clamp(_TINY, 1 - torch.finfo(out.dtype).eps / 2)


class BetaLikelihood(Concentrated):
    """x ~ Beta(α, β), above 0 and below 1."""

    remedy: ClassVar[str] = (
        "replace x by (x (N − 1) + 0.5) / N, with N samples, or choose 'normal'; for values of 0 and 1 alone 'bernoulli'"
    )

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        # Where a modality was not observed, x is 0: the term is removed later, but its gradient has to be a number.
        x = x if observed is None else torch.where(observed, x, 0.5)
        x = x.clamp(_TINY, 1 - torch.finfo(x.dtype).eps / 2)
        phi, alpha, beta, log_alpha, log_beta = self.parameters_of(out)
        log_x, log_rest = x.log(), torch.log1p(-x)
        # α − φ x, from the smaller of x and 1 − x, which has more digits.
        change = torch.where(x < 0.5, alpha - phi * x, phi * (1 - x) - beta)
        log_phi = phi.log()
        far = deviance(alpha, change, log_alpha - log_phi - log_x)
        far = far + deviance(beta, -change, log_beta - log_phi - log_rest)
        peak = gamma_remainder(phi, log_phi) - gamma_remainder(alpha, log_alpha)
        return peak - gamma_remainder(beta, log_beta) - far - log_x - log_rest - HALF_LOG_TWO_PI

    def mean(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return out.sigmoid()

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return self.draw_share(out)

    def features(self, x: Tensor) -> Tensor:
        return x

    def invalid(self, x: Tensor, observed: Tensor) -> str:
        seen = x[observed]
        return offending(seen, (seen > 0) & (seen < 1), "values above 0 and below 1")


class BetaBinomialLikelihood(Concentrated):
    """x successes out of ``total``, whose chance is a beta distributed share.

    The mean is total m and the variance total m (1 − m) (1 + (total − 1) ρ), with the dispersion ρ = 1 / (1 + φ): 0 for a binomial
    distribution.

    Args:
        shape: Shape of one sample.
        total: The number of trials of every entry, a whole number from 1.
        concentration: φ, as in ``Concentrated``.

    Raises:
        InputError: As in ``Concentrated``, or a total that is not a whole number from 1 to 10⁹.
    """

    remedy: ClassVar[str] = "correct total in params, or choose 'poisson' for counts without a largest one"

    def __init__(self, shape: tuple[int, ...], total: int, concentration: float | str = "per_entry") -> None:
        super().__init__(shape, concentration)
        check_count("likelihood 'beta_binomial'", "total", total, 1, _MOST_TRIALS)
        self.total = int(total)

    @property
    def largest(self) -> int:
        return self.total

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        x = (x if observed is None else torch.where(observed, x, 0)).clamp(0, self.total)
        phi, alpha, beta, log_alpha, log_beta = self.parameters_of(out)
        n = torch.full_like(phi, self.total)
        rest, both, log_both = n - x, n + phi, (n + phi).log()
        log_first, log_second = _log_sum(x, alpha, log_alpha), _log_sum(rest, beta, log_beta)
        # With the pooled share p = (x + α) / (n + φ): n KL(x/n ‖ p) + φ KL(m ‖ p), of four deviances. Their changes are x − n p.
        log_p, log_q, log_phi = log_first - log_both, log_second - log_both, phi.log()
        smaller = torch.where(x < rest, phi * x - n * alpha, n * beta - phi * rest)
        change = smaller / both
        far = deviance(x, change, torch.where(x > 0, _log(x) - n.log() - log_p, 0))
        far = far + deviance(rest, -change, torch.where(rest > 0, _log(rest) - n.log() - log_q, 0))
        far = far + deviance(alpha, -change, log_alpha - log_phi - log_p)
        far = far + deviance(beta, change, log_beta - log_phi - log_q)
        choices = factorial_remainder(n) - factorial_remainder(x) - factorial_remainder(rest)
        first = gamma_remainder(x + alpha, log_first) - gamma_remainder(alpha, log_alpha)
        second = gamma_remainder(rest + beta, log_second) - gamma_remainder(beta, log_beta)
        whole = gamma_remainder(phi, log_phi) - gamma_remainder(both, log_both)
        return choices + first + second + whole - far - HALF_LOG_TWO_PI

    def mean(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return self.total * out.sigmoid()

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return noise.binomial(self.total, self.draw_share(out), "x", "")

    def features(self, x: Tensor) -> Tensor:
        return x / self.total

    def invalid(self, x: Tensor, observed: Tensor) -> str:
        seen = x[observed]
        possible = (seen >= 0) & (seen <= self.total) & (seen == seen.round())
        return offending(seen, possible, f"numbers of successes, whole numbers from 0 to {self.total}")


def _log(count: Tensor) -> Tensor:
    """The logarithm, 0 where the count is 0."""
    return torch.where(count > 0, count, 1).log()


def _log_sum(count: Tensor, part: Tensor, log_part: Tensor) -> Tensor:
    """log(count + part), for a part that may underflow where the count is 0."""
    some = count > 0
    return torch.where(some, torch.where(some, count + part, 1).log(), log_part)


def _log_gamma(concentration: Tensor, name: str) -> Tensor:
    """Logarithms of gamma draws of rate 1: log Γ(a) is log Γ(a + 1) + log(u) / a, with u uniform."""
    u = noise.uniform(tuple(concentration.shape), concentration, f"{name}.u", "").clamp(min=_TINY)
    above = noise.gamma(concentration + 1, name, "")
    return above.log() + u.log() / concentration.clamp(min=_TINY)

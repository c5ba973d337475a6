"""Log-masses of counts, in nats, whose derivatives are in closed form: Poisson, negative binomial, zero-inflated.

A graph of the formulas would keep nine tensors or more for each entry; these keep their arguments. Most counts of sparse data are 0, where
the mass is short. On a CPU, the other entries are selected for the rest of it; elsewhere that would make the host wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from polyvae.core.likelihoods import special

_TWO_PI = 2 * math.pi
_LARGEST = 80.0  # a log-mean above it has no finite mean in float32


def poisson(x: Tensor, log_mean: Tensor) -> Tensor:
    """Log of mean^x e^{−mean} / x!. It has no gradient in x.

    By the deviance and Stirling's remainder (Loader, Fast and Accurate Computation of Binomial Probabilities, 2000), because the plain
    sum of x log(mean), −mean and −log x! cancels in float32: at x = 10⁸ its terms are 10⁹ and their sum is −10.
    """
    return _applied(_Poisson, x, log_mean)


def negative_binomial(x: Tensor, log_mean: Tensor, dispersion: Tensor) -> Tensor:
    """With mean μ, variance μ + μ²/θ and θ = ``dispersion``: log of Γ(x+θ) / (Γ(θ) x!) (θ/(θ+μ))^θ (μ/(θ+μ))^x.

    As ``poisson``, by two deviances and three remainders. They depend on x − μ, which has no rounding error where x is close to μ. It has
    no gradient in x.
    """
    return _applied(_NegativeBinomial, x, log_mean, dispersion)


def zero_inflated(x: Tensor, log_mass: Tensor, logit: Tensor) -> Tensor:
    """Log of γ 1{x = 0} + (1 − γ) exp(log_mass), with γ = sigmoid(logit)."""
    return _applied(_ZeroInflated, x, log_mass, logit)


class _Poisson(torch.autograd.Function):
    """The derivative in the log-mean is x − mean."""

    @staticmethod
    def forward(x: Tensor, log_mean: Tensor) -> Tensor:
        mean = _mean(log_mean)
        return _by_sign(x, -mean, _positive_poisson, log_mean, mean)

    @staticmethod
    def vmap(_: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        return _mapped(_Poisson, dims, inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _save(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        x, log_mean = ctx.saved_tensors
        slope = grad * (x - _mean(log_mean))
        return None, slope.sum_to_size(log_mean.shape)

    @staticmethod
    def jvp(ctx: Any, _: None, tangent: Tensor) -> Tensor:
        x, log_mean = ctx.saved_tensors
        return _moved((tangent, lambda: x - _mean(log_mean)))


class _NegativeBinomial(torch.autograd.Function):
    """The derivative in the log-mean is θ (x − μ) / (θ + μ), and that in θ is ``_InDispersion``."""

    @staticmethod
    def forward(x: Tensor, log_mean: Tensor, dispersion: Tensor) -> Tensor:
        mean = _mean(log_mean)
        zero = (mean / dispersion).log1p_().mul_(-dispersion)
        own = special.stirling(dispersion)
        return _by_sign(x, zero, _positive_negative_binomial, log_mean, mean, dispersion, own)

    @staticmethod
    def vmap(_: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        return _mapped(_NegativeBinomial, dims, inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _save(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        x, log_mean, dispersion = ctx.saved_tensors
        first = second = None
        if ctx.needs_input_grad[1]:
            first = (grad * _in_log_mean(x, log_mean, dispersion)).sum_to_size(log_mean.shape)
        if ctx.needs_input_grad[2]:
            slope = _applied(_InDispersion, x, log_mean, dispersion)
            second = (grad * slope).sum_to_size(dispersion.shape)
        return None, first, second

    @staticmethod
    def jvp(ctx: Any, _: None, log_mean_tangent: Tensor | None, dispersion_tangent: Tensor | None) -> Tensor:
        inputs = ctx.saved_tensors
        return _moved(
            (log_mean_tangent, lambda: _in_log_mean(*inputs)),
            (dispersion_tangent, lambda: _applied(_InDispersion, *inputs)),
        )


class _InDispersion(torch.autograd.Function):
    """The derivative of the log-mass of the negative binomial in θ: ψ(x+θ) − ψ(θ) − log(1 + μ/θ) + (μ − x) / (θ + μ).

    At x > 0 by a deviance and the derivatives of two remainders, because for large θ the terms cancel.
    """

    @staticmethod
    def forward(x: Tensor, log_mean: Tensor, dispersion: Tensor) -> Tensor:
        mean = _mean(log_mean)
        zero = mean / (dispersion + mean) - torch.log1p(mean / dispersion)
        own = special.stirling_slope(dispersion)
        return _by_sign(x, zero, _positive_in_dispersion, mean, dispersion, own)

    @staticmethod
    def vmap(_: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        return _mapped(_InDispersion, dims, inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _save(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        x, log_mean, dispersion = ctx.saved_tensors
        first, second = _second_derivatives(x, log_mean, dispersion)
        return (
            None,
            (grad * first).sum_to_size(log_mean.shape),
            (grad * second).sum_to_size(dispersion.shape),
        )

    @staticmethod
    def jvp(ctx: Any, _: None, log_mean_tangent: Tensor | None, dispersion_tangent: Tensor | None) -> Tensor:
        first, second = _second_derivatives(*ctx.saved_tensors)
        return _moved((log_mean_tangent, lambda: first), (dispersion_tangent, lambda: second))


class _ZeroInflated(torch.autograd.Function):
    """The derivatives are w and 1 − w − γ, with the probability w that x is no dropout: sigmoid(log_mass − logit) at x = 0, else 1."""

    @staticmethod
    def forward(x: Tensor, log_mass: Tensor, logit: Tensor) -> Tensor:
        kept = log_mass - functional.softplus(logit)
        zero = torch.logaddexp(kept, functional.logsigmoid(logit)).clamp(max=0)
        return torch.where(x == 0, zero, kept)

    @staticmethod
    def vmap(_: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        return _mapped(_ZeroInflated, dims, inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _save(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        x, log_mass, logit = ctx.saved_tensors  # once, because checkpoints give them once
        first, second = _in_inflation(x, log_mass, logit)
        return None, (grad * first).sum_to_size(log_mass.shape), (grad * second).sum_to_size(logit.shape)

    @staticmethod
    def jvp(ctx: Any, _: None, mass_tangent: Tensor | None, logit_tangent: Tensor | None) -> Tensor:
        first, second = _in_inflation(*ctx.saved_tensors)
        return _moved((mass_tangent, lambda: first), (logit_tangent, lambda: second))


# ---- formulas ------------------------------------------------------------------------------------------------------------------------


def _mean(log_mean: Tensor) -> Tensor:
    return log_mean.clamp(max=_LARGEST).exp()


def _positive_poisson(x: Tensor, log_mean: Tensor, mean: Tensor) -> Tensor:
    """The log-mass at x > 0."""
    deviance = special.deviance(x, x - mean, x.log() - log_mean)
    return -special.stirling(x) - deviance - 0.5 * (_TWO_PI * x).log()


def _positive_negative_binomial(
    x: Tensor, log_mean: Tensor, mean: Tensor, dispersion: Tensor, own: Tensor
) -> Tensor:
    """The log-mass at x > 0. ``own``: the remainder of the dispersion."""
    total = x + dispersion
    log_shift = torch.log1p(mean / dispersion) - torch.log1p(x / dispersion)  # log (θ + μ) / (θ + x)
    change = dispersion * ((x - mean) / (dispersion + mean))
    log_ratio = x.log() - log_mean + log_shift
    deviance = special.deviance(dispersion, -change, log_shift) + special.deviance(x, change, log_ratio)
    remainder = special.stirling(total) - own - special.stirling(x)
    peak = -torch.log1p(x / dispersion) - 0.5 * (_TWO_PI * x * (dispersion / total)).log()
    return remainder - deviance + peak


def _in_log_mean(x: Tensor, log_mean: Tensor, dispersion: Tensor) -> Tensor:
    """The derivative of the log-mass of the negative binomial in the log-mean."""
    mean = _mean(log_mean)
    return dispersion * ((x - mean) / (dispersion + mean))


def _positive_in_dispersion(x: Tensor, mean: Tensor, dispersion: Tensor, own: Tensor) -> Tensor:
    """``_InDispersion`` at x > 0. ``own``: the derivative of the remainder of the dispersion."""
    total, whole = x + dispersion, dispersion + mean
    log_shift = torch.log1p(mean / dispersion) - torch.log1p(x / dispersion)  # log (θ + μ) / (θ + x)
    deviance = special.deviance(whole, mean - x, log_shift) / whole
    return x / total / (2 * dispersion) + special.stirling_slope(total) - own - deviance


def _second_derivatives(x: Tensor, log_mean: Tensor, dispersion: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of ``_InDispersion`` in the log-mean and in θ."""
    mean = _mean(log_mean)
    whole = dispersion + mean
    share, gap = mean / whole, (x - mean) / whole
    change = torch.polygamma(1, x + dispersion) - torch.polygamma(1, dispersion)
    return share * gap, change + share / dispersion + gap / whole


def _in_inflation(x: Tensor, log_mass: Tensor, logit: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of the zero-inflated log-mass in the log-mass and in the logit."""
    zero, apart = x == 0, log_mass - logit
    first = torch.where(zero, apart.sigmoid(), 1)
    return first, torch.where(zero, (-apart).sigmoid(), 0) - logit.sigmoid()


# ---- functions of torch --------------------------------------------------------------------------------------------------------------


def _applied(function: Any, x: Tensor, *others: Tensor) -> Tensor:
    """The function of these tensors in one number type; x has no gradient."""
    kind = x.dtype
    for other in others:
        kind = torch.promote_types(kind, other.dtype)
    found: Tensor = function.apply(x.detach().to(kind), *(other.to(kind) for other in others))
    return found


def _by_sign(x: Tensor, zero: Tensor, positive: Callable[..., Tensor], *others: Tensor) -> Tensor:
    """``zero`` where x is 0, and ``positive(x, *others)`` elsewhere, which a CPU computes there alone."""
    x, zero, *others = torch.broadcast_tensors(x, zero, *others)  # type: ignore[no-untyped-call]
    some = x > 0
    if x.device.type != "cpu":  # where selecting entries would wait for the device
        return torch.where(some, positive(torch.where(some, x, 1), *others), zero)
    result = zero.contiguous()
    result[some] = positive(x[some], *(other[some] for other in others))
    return result


def _save(ctx: Any, inputs: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)
    ctx.save_for_forward(*inputs)


def _moved(*parts: tuple[Tensor | None, Callable[[], Tensor]]) -> Tensor:
    """The sum of tangents times derivatives; those of inputs without a tangent are not computed."""
    first, *rest = (tangent * slope() for tangent, slope in parts if tangent is not None)
    return sum(rest, first)


def _mapped(function: Any, dims: tuple[int | None, ...], inputs: tuple[Tensor, ...]) -> tuple[Tensor, int]:
    """The function of inputs of which those with a dimension are mapped over it."""
    axes = max(x.ndim - (dim is not None) for x, dim in zip(inputs, dims, strict=True))
    return function.apply(*(_leading(x, dim, axes) for x, dim in zip(inputs, dims, strict=True))), 0


def _leading(x: Tensor, dim: int | None, axes: int) -> Tensor:
    """The mapped axis first, then ``axes`` others."""
    x = x[None] if dim is None else x.movedim(dim, 0)
    return x.view(len(x), *[1] * (axes + 1 - x.ndim), *x.shape[1:])

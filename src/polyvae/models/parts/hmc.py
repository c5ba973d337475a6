"""Hamiltonian Monte Carlo, vectorised over chains, for posteriors that are known up to a constant."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from polyvae.core import noise

_TARGET = 0.8  # acceptance probability, the usual optimum for step sizes
_LENGTH = math.pi / 2  # a quarter of the period of a standard normal: draws one step apart are independent


def hmc(log_density: Callable[[Tensor], Tensor], start: Tensor, steps: int, leapfrog: int) -> Tensor:
    """The last states of chains of ``steps`` proposals, one chain for each draw and sample.

    Coordinates should be scaled such that the density is roughly standard normal. Each chain adapts its own step size
    in the first two thirds of its proposals (Robbins-Monro on the logarithm of the step size, towards an acceptance
    probability of 0.8), and keeps it afterwards, so that the last third leaves the density invariant. The length of a
    trajectory is at most a quarter of the period of a standard normal, times a random factor between 0.5 and 1.5, which
    avoids periodic orbits. A proposal whose energy is not finite is rejected.

    Args:
        log_density: Log-density up to a constant, [K, B, D] -> [K, B].
        start: First states, [K, B, D].
        steps: Proposals of each chain.
        leapfrog: Leapfrog steps of each proposal.

    Returns:
        [K, B, D], without gradients.
    """
    largest = _LENGTH / leapfrog
    u = start.detach().clone()
    value, slope = _slope(log_density, u)
    log_step = torch.full_like(value, math.log(largest))
    for step in range(steps):
        jitter = 0.5 + noise.uniform(tuple(value.shape), value, "hmc.length", "KB")
        size = (log_step.exp() * jitter)[..., None]
        momentum = noise.normal(tuple(u.shape), u, "hmc.momentum", "KBD")
        at, gradient, speed = u, slope, momentum
        for _ in range(leapfrog):
            speed = speed + size / 2 * gradient
            at = at + size * speed
            found, gradient = _slope(log_density, at)
            speed = speed + size / 2 * gradient
        energy = found - value - (speed.square() - momentum.square()).sum(-1) / 2
        chance = torch.where(energy.isfinite(), energy, -torch.inf).clamp(max=0).exp()
        moved = noise.uniform(tuple(value.shape), value, "hmc.accept", "KB") < chance
        u, slope = (torch.where(moved[..., None], *pair) for pair in ((at, u), (gradient, slope)))
        value = torch.where(moved, found, value)
        if 3 * step < 2 * steps:
            log_step = log_step + (chance - _TARGET) * (step + 1) ** -0.6
            log_step = log_step.clamp(max=math.log(largest))
    return u


def _slope(log_density: Callable[[Tensor], Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """The log-density and its gradient."""
    with torch.enable_grad():
        at = u.detach().requires_grad_()
        value = log_density(at)
        (slope,) = torch.autograd.grad(value.sum(), at)
    return value.detach(), slope

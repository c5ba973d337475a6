"""The only room that draws inside a step.

Draws come from torch's global generator (so ``torch.manual_seed`` repeats a call) unless prepared ones are fed. A draw is known by
its name and by the letters of its axes, so a test can say which row, view or modality a number belongs to:

    with noise.record() as draws:
        value = model(batch).value
    with noise.feed({name: pick_rows(draw) for name, draw in draws.items()}):
        assert model(batch.rows(rows)).value == value[rows]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from polyvae.utils.errors import InputError, nearest


class Draw(NamedTuple):
    """One draw: its axes (letters of M, K, V, B, D, W, in order) and its values."""

    axes: str
    value: Tensor


_fed: ContextVar[Mapping[str, Draw] | None] = ContextVar("fed", default=None)
_recorded: ContextVar[dict[str, Draw] | None] = ContextVar("recorded", default=None)


@contextmanager
def feed(draws: Mapping[str, Draw | Tensor]) -> Iterator[dict[str, Draw]]:
    """Inside, every draw is taken from ``draws``. A name that is drawn twice in one call gets ``#2``, ``#3`` appended.

    The dictionary that is yielded fills with what was taken, as that of ``record`` does.
    """
    token = _fed.set(
        {name: draw if isinstance(draw, Draw) else Draw("", draw) for name, draw in draws.items()}
    )
    taken: dict[str, Draw] = {}
    used = _recorded.set(taken)
    try:
        yield taken
    finally:
        _fed.reset(token)
        _recorded.reset(used)


@contextmanager
def record() -> Iterator[dict[str, Draw]]:
    """Inside, every draw is also written to the dictionary that is yielded."""
    draws: dict[str, Draw] = {}
    token = _recorded.set(draws)
    try:
        yield draws
    finally:
        _recorded.reset(token)


def components(membership: Tensor, weights: Tensor) -> None:
    """Say what the axis V of the draws that follow stands for: include [V, M, B], weights [V, B]. Kept beside the draws.

    A test that compares two models with different views finds there which view of one is which of the other.
    """
    _keep("components", "VMB", membership)
    _keep("components.weights", "VB", weights)


def normal(shape: tuple[int, ...], like: Tensor, name: str, axes: str) -> Tensor:
    """Standard normal draws."""
    return (
        _fetch(name, axes, shape, like)
        if _fed.get() is not None
        else _keep(name, axes, torch.randn(shape, dtype=like.dtype, device=like.device))
    )


def laplace(shape: tuple[int, ...], like: Tensor, name: str, axes: str) -> Tensor:
    """Laplace draws of location 0 and scale 1."""
    if _fed.get() is not None:
        return _fetch(name, axes, shape, like)
    # By the inverse distribution function, which is computed many at a time where exponential_ goes one by one; never log(0).
    u = (
        torch.rand(shape, dtype=like.dtype, device=like.device)
        .mul_(2)
        .sub_(1)
        .clamp_(min=torch.finfo(like.dtype).eps - 1)
    )
    return _keep(name, axes, torch.log1p(-u.abs()).mul_(-u.sign()))


def uniform(shape: tuple[int, ...], like: Tensor, name: str, axes: str) -> Tensor:
    """Uniform draws in [0, 1)."""
    return (
        _fetch(name, axes, shape, like)
        if _fed.get() is not None
        else _keep(name, axes, torch.rand(shape, dtype=like.dtype, device=like.device))
    )


def poisson(rate: Tensor, name: str, axes: str) -> Tensor:
    """Poisson draws, one for each rate. The draw that is fed or recorded is the count itself, not a number behind it."""
    return (
        _fetch(name, axes, tuple(rate.shape), rate)
        if _fed.get() is not None
        else _keep(name, axes, torch.poisson(rate.detach()))
    )


def gamma(concentration: Tensor, name: str, axes: str) -> Tensor:
    """Gamma draws of rate 1, one for each concentration. The draw that is fed or recorded is the value itself."""
    if _fed.get() is not None:
        return _fetch(name, axes, tuple(concentration.shape), concentration)
    law = torch.distributions.Gamma(
        concentration.detach(), torch.ones_like(concentration), validate_args=False
    )
    return _keep(name, axes, law.sample())


def choice(weights: Tensor, count: int, name: str, axes: str) -> Tensor:
    """``count`` draws per datum, with replacement, of an index into the first axis of ``weights`` [V, B]: [count, B] (int64).

    The draw that is fed or recorded is the uniform number behind each choice, in [0, 1): the choice is the first index at which
    the cumulative weight exceeds it, so an index of weight 0 is never chosen.
    """
    u = uniform((count, weights.shape[1]), weights, name, axes)
    edges = weights.double().cumsum(0)  # [V, B]
    return (u.double()[:, None] * edges[-1] >= edges).sum(1).clamp_(max=len(weights) - 1)


def _keep(name: str, axes: str, value: Tensor) -> Tensor:
    draws = _recorded.get()
    if draws is not None:
        draws[_next(name, draws)] = Draw(axes, value)
    return value


def _fetch(name: str, axes: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
    fed, used = _fed.get(), _recorded.get()
    assert fed is not None
    assert used is not None
    key = _next(name, used)
    if key not in fed:
        raise InputError(
            f"noise: draw {key!r} (axes {axes}, shape {shape}) was not prepared; {nearest(key, fed)}"
        )
    value = fed[key].value.to(like)
    if tuple(value.shape) != shape:
        raise InputError(
            f"noise: draw {key!r} was prepared with shape {tuple(value.shape)}; expected {shape}, axes {axes}"
        )
    used[key] = Draw(axes, value)
    return value


def _next(name: str, draws: Mapping[str, Draw]) -> str:
    count = sum(key.split("#")[0] == name for key in draws)
    return f"{name}#{count + 1}" if count else name

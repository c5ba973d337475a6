"""Every random draw of a training step, by name.

Draws come from torch's global generator, so ``torch.manual_seed`` repeats a call, unless prepared draws are fed. A draw has a name and a
letter for each axis, so that tests can select the numbers of a sample, a component or a modality:

    M   modalities
    E   encoded modalities, where they are not all M
    K   draws
    V   components of a mixture
    B   samples of the batch
    D   columns of the shared latent z
    W   columns of the private latents w, of all modalities side by side

The letters are in the order M, K, V, B, D or W; a table of subsets is [V, E, B]. Draws from a likelihood have no letters (""). Example:

    with noise.record() as draws:
        value = model(batch).value
    with noise.feed({name: pick_rows(draw) for name, draw in draws.items()}):
        assert model(batch.rows(rows)).value == value[rows]

Where several processes share a batch, ``part`` makes the draws of a sample those that one process with the whole batch would make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from polyvae.utils.errors import InputError, nearest


class Draw(NamedTuple):
    """One draw: the letters of its axes and its values."""

    axes: str
    value: Tensor


class Stream:
    """The draws of all samples that processes share: a generator on each device, which starts at ``seed``."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def on(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]


class _Part(NamedTuple):
    """Every ``world``-th of ``rows`` samples, from number ``rank`` on."""

    stream: Stream
    rank: int
    world: int
    rows: int

    @property
    def size(self) -> int:
        return len(range(self.rank, self.rows, self.world))


_part: ContextVar[_Part | None] = ContextVar("part", default=None)
_fed: ContextVar[Mapping[str, Draw] | None] = ContextVar("fed", default=None)
_recorded: ContextVar[dict[str, Draw] | None] = ContextVar("recorded", default=None)


@contextmanager
def feed(draws: Mapping[str, Draw | Tensor]) -> Iterator[dict[str, Draw]]:
    """Take every draw in the context from ``draws``, by name; the second and third draw of a name are ``name#2``, ``name#3``.

    Yields:
        A dictionary of the draws that were taken, filled during the context.

    Raises:
        InputError: During the context, where a draw was not prepared or has another shape.
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
    """Record every draw in the context.

    Yields:
        A dictionary of the draws, by name, filled during the context.
    """
    draws: dict[str, Draw] = {}
    token = _recorded.set(draws)
    try:
        yield draws
    finally:
        _recorded.reset(token)


@contextmanager
def part(stream: Stream, rank: int, world: int, rows: int) -> Iterator[None]:
    """Draw for every ``world``-th of ``rows`` samples, from number ``rank`` on, what a process with all of them would draw.

    Normal, Laplace and uniform draws with an axis B of that many samples are made for all ``rows`` samples, from ``stream``, and those of
    other samples are dropped. All other draws come from torch's global generator.
    """
    token = _part.set(_Part(stream, rank, world, rows))
    try:
        yield
    finally:
        _part.reset(token)


def components(membership: Tensor, weights: Tensor) -> None:
    """Record the meaning of the axis V of the draws that follow: membership [V, E, B], weights [V, B].

    A test that compares two models with different components reads from it which component of one corresponds to which of the other.
    """
    _keep("components", "VEB", membership)
    _keep("components.weights", "VB", weights)


def normal(shape: tuple[int, ...], like: Tensor, name: str, axes: str) -> Tensor:
    """Standard normal draws."""
    return (
        _fetch(name, axes, shape, like)
        if _fed.get() is not None
        else _keep(name, axes, _numbers(torch.randn, shape, like, axes))
    )


def laplace(shape: tuple[int, ...], like: Tensor, name: str, axes: str) -> Tensor:
    """Laplace draws of location 0 and scale 1."""
    if _fed.get() is not None:
        return _fetch(name, axes, shape, like)
    # The inverse distribution function is vectorised and exponential_ is not. The clamp avoids log(0).
    u = _numbers(torch.rand, shape, like, axes)
    u = u.mul_(2).sub_(1).clamp(min=torch.finfo(like.dtype).eps - 1)
    return _keep(name, axes, torch.log1p(-u.abs()).mul_(-u.sign()))


def uniform(shape: tuple[int, ...], like: Tensor, name: str, axes: str) -> Tensor:
    """Uniform draws in [0, 1)."""
    return (
        _fetch(name, axes, shape, like)
        if _fed.get() is not None
        else _keep(name, axes, _numbers(torch.rand, shape, like, axes))
    )


def poisson(rate: Tensor, name: str, axes: str) -> Tensor:
    """Poisson draws, one for each rate. The count itself is fed or recorded."""
    return (
        _fetch(name, axes, tuple(rate.shape), rate)
        if _fed.get() is not None
        else _keep(name, axes, torch.poisson(rate.detach()))
    )


def gamma(concentration: Tensor, name: str, axes: str) -> Tensor:
    """Gamma draws of rate 1, one for each concentration. The value itself is fed or recorded."""
    if _fed.get() is not None:
        return _fetch(name, axes, tuple(concentration.shape), concentration)
    law = torch.distributions.Gamma(
        concentration.detach(), torch.ones_like(concentration), validate_args=False
    )
    return _keep(name, axes, law.sample())


def binomial(count: float, chance: Tensor, name: str, axes: str) -> Tensor:
    """Numbers of successes out of ``count``, one for each chance. The number itself is fed or recorded."""
    if _fed.get() is not None:
        return _fetch(name, axes, tuple(chance.shape), chance)
    chance = chance.detach()
    return _keep(name, axes, torch.binomial(torch.full_like(chance, count), chance))


def choice(weights: Tensor, count: int, name: str, axes: str) -> Tensor:
    """Draws of an index into the first axis of ``weights``, with replacement.

    A uniform number in [0, 1) is fed or recorded for each choice: the choice is the first index whose cumulative weight exceeds that share
    of the total weight, so an index of weight 0 is never chosen.

    Args:
        weights: [V, B], not negative.
        count: How many draws for each sample.
        name: Name of the draw.
        axes: Letters of its axes.

    Returns:
        [count, B] int64.
    """
    u = uniform((count, weights.shape[1]), weights, name, axes)
    edges = weights.double().cumsum(0)  # [V, B]
    return (u.double()[:, None] * edges[-1] >= edges).sum(1).clamp(max=len(weights) - 1)


def _numbers(draw: Callable[..., Tensor], shape: tuple[int, ...], like: Tensor, axes: str) -> Tensor:
    """Independent draws, of all samples of a shared batch where this process has a part of it."""
    own, at = _part.get(), axes.find("B")
    if own is None or at < 0 or shape[at] != own.size:
        return draw(shape, dtype=like.dtype, device=like.device)
    whole = (*shape[:at], own.rows, *shape[at + 1 :])
    values = draw(whole, generator=own.stream.on(like.device), dtype=like.dtype, device=like.device)
    return values[(slice(None),) * at + (slice(own.rank, None, own.world),)].contiguous()


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
            f"noise: draw {key!r} was prepared with shape {tuple(value.shape)}; expected {shape}, axes {axes}; prepare it with this shape"
        )
    used[key] = Draw(axes, value)
    return value


def _next(name: str, draws: Mapping[str, Draw]) -> str:
    count = sum(key.split("#")[0] == name for key in draws)
    return f"{name}#{count + 1}" if count else name

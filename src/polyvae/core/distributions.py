"""Diagonal distributions over latents, and mixtures of them. Log-densities are in nats."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from polyvae.core import noise
from polyvae.utils.devices import to_device

_LOG_TWO_PI = math.log(2 * math.pi)
_FLOOR = 1e-6  # keeps scales from underflowing to 0; all maps still give exactly 1 at raw 0
_PIECE = 2**20  # numbers in one piece of a long sum of densities
_LEADING = ("", "B", "KB", "KVB", "MKVB")  # axis letters by how many axes come before the last one


def softplus_scale(raw: Tensor) -> Tensor:
    """Each scale depends on its own raw value; 1 at raw 0."""
    return _FLOOR + (1 - _FLOOR) * functional.softplus(raw + math.log(math.e - 1))


def exp_scale(raw: Tensor) -> Tensor:
    """The raw value is twice the log-scale, for a normal the log-variance; 1 at raw 0."""
    return _FLOOR + (1 - _FLOOR) * (raw / 2).exp()


def softmax_scale(raw: Tensor) -> Tensor:
    """The scales of one latent average 1: the map for Laplace posteriors in the public code of MMVAE (Shi et al. 2019) and MMVAE+.

    One column gets narrower only if another gets wider. With a single column the scale is 1 for every raw value.
    """
    return torch.add(_FLOOR, raw.softmax(-1), alpha=(1 - _FLOOR) * raw.shape[-1])


SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": softplus_scale,
    "exp": exp_scale,
    "softmax": softmax_scale,
}


class Diagonal(ABC):
    """A distribution of independent columns. A column's log-density is log_peak + rate · distance(x).

    Args:
        loc: Locations, [..., D].
        scale: Scales, positive, [..., D].

    Attributes:
        rate: Change of the log-density by one unit of distance.
    """

    rate: ClassVar[float]

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        self.scale = scale

    @abstractmethod
    def standard(self, shape: tuple[int, ...], name: str, axes: str) -> Tensor:
        """Draws of location 0 and scale 1, through ``noise``: [*shape]."""

    @abstractmethod
    def distance(self, x: Tensor) -> Tensor:
        """The distance of x from the location, in units of the scale and the family's measure: [..., D]."""

    @property
    @abstractmethod
    def log_peak(self) -> Tensor:
        """Log-density of each column at the location, in nats: [..., D]."""

    @abstractmethod
    def kl_columns(self, other: Self) -> Tensor:
        """KL(self || other) of each column, in nats, exact: [..., D]."""

    @property
    def mean(self) -> Tensor:
        """The mean, [..., D]."""
        return self.loc

    def rsample(self, K: int | None = None, name: str = "z", axes: str | None = None) -> Tensor:
        """Reparametrised draws, through ``noise``.

        Args:
            K: How many draws; None: one, without an axis of its own.
            name: Name under which the draw is recorded or fed.
            axes: Letters of the result's axes, as in ``noise``. None: from the number of axes (2: "B", 3: "KB", 4: "KVB", 5: "MKVB") and,
                for the last axis, "W" if the name (after its last dot) begins with w, else "D"; "" where there are no or more axes.

        Returns:
            [..., D], or [K, ..., D].
        """
        shape = tuple(self.loc.shape) if K is None else (K, *self.loc.shape)
        return self.loc + self.scale * self.standard(
            shape, name, _axes(len(shape), name) if axes is None else axes
        )

    def columns(self, x: Tensor) -> Tensor:
        """Log-density of each column, in nats: [..., D] -> [..., D]."""
        return self.log_peak + self.rate * self.distance(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, summed over the last axis: [..., D] -> [...]."""
        # log_peak does not depend on x, so it is summed before it is broadcast over draws.
        return self.log_peak.sum(-1) + self.rate * self.distance(x).sum(-1)

    def kl(self, other: Self) -> Tensor:
        """KL(self || other) in nats, summed over the last axis: [...]."""
        return self.kl_columns(other).sum(-1)

    def detach(self) -> Self:
        """The same distribution without gradients to location and scale."""
        return type(self)(self.loc.detach(), self.scale.detach())

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same family with ``change`` applied to location and scale, for indexing, expanding and casting."""
        return type(self)(change(self.loc), change(self.scale))

    def __getitem__(self, index: Any) -> Self:
        return self.map(lambda x: x[index])

    def where(self, condition: Tensor, other: Diagonal) -> Self:
        """self where ``condition`` [..., D] holds, ``other`` elsewhere."""
        return type(self)(
            torch.where(condition, self.loc, other.loc), torch.where(condition, self.scale, other.scale)
        )

    @classmethod
    def stack(cls, parts: list[Self], dim: int = 0) -> Self:
        """``torch.stack`` of locations and scales."""
        return cls(
            torch.stack([part.loc for part in parts], dim), torch.stack([part.scale for part in parts], dim)
        )

    @classmethod
    def cat(cls, parts: list[Self], dim: int = -1) -> Self:
        """``torch.cat`` of locations and scales."""
        return cls(
            torch.cat([part.loc for part in parts], dim), torch.cat([part.scale for part in parts], dim)
        )

    @classmethod
    def unit(cls, shape: tuple[int, ...], like: Tensor) -> Self:
        """Location 0 and scale 1, with dtype and device of ``like``."""
        return cls(like.new_zeros(shape), like.new_ones(shape))


class Normal(Diagonal):
    """Independent normal columns.

    Args:
        loc: Means, [..., D].
        scale: Standard deviations, positive, [..., D].

    Example:
        >>> import torch
        >>> from polyvae import Normal
        >>> q, p = Normal(torch.zeros(4, 2), torch.ones(4, 2)), Normal(torch.ones(4, 2), torch.ones(4, 2))
        >>> z = q.rsample(3)  # [K, B, D]
        >>> z.shape, q.log_prob(z).shape
        (torch.Size([3, 4, 2]), torch.Size([3, 4]))
        >>> q.kl(p)
        tensor([1., 1., 1., 1.])
    """

    rate = -0.5

    def standard(self, shape: tuple[int, ...], name: str, axes: str) -> Tensor:
        return noise.normal(shape, self.loc, name, axes)

    def distance(self, x: Tensor) -> Tensor:
        return ((x - self.loc) / self.scale).square()

    @property
    def log_peak(self) -> Tensor:
        return -self.scale.log() - 0.5 * _LOG_TWO_PI

    def kl_columns(self, other: Self) -> Tensor:
        ratio = self.scale / other.scale
        return 0.5 * (ratio.square() + ((self.loc - other.loc) / other.scale).square() - 1) - ratio.log()


class Laplace(Diagonal):
    """Independent Laplace columns.

    Args:
        loc: Means, [..., D].
        scale: Mean absolute deviations, positive, [..., D].

    Example:
        >>> import torch
        >>> from polyvae import Laplace
        >>> q = Laplace(torch.zeros(4, 2), torch.full((4, 2), 0.5))
        >>> q.log_prob(torch.zeros(4, 2))  # each column has density 1 at its mean
        tensor([0., 0., 0., 0.])
    """

    rate = -1.0

    def standard(self, shape: tuple[int, ...], name: str, axes: str) -> Tensor:
        return noise.laplace(shape, self.loc, name, axes)

    def distance(self, x: Tensor) -> Tensor:
        return (x - self.loc).abs() / self.scale

    @property
    def log_peak(self) -> Tensor:
        return -(2 * self.scale).log()

    def kl_columns(self, other: Self) -> Tensor:
        distance = (self.loc - other.loc).abs()
        overlap = self.scale * (-distance / self.scale).exp()
        return (overlap + distance) / other.scale - 1 + (other.scale / self.scale).log()


def _axes(count: int, name: str) -> str:
    """Axis letters of a draw with ``count`` axes; "" where they do not follow from the number."""
    if not 1 <= count <= len(_LEADING):
        return ""
    return _LEADING[count - 1] + ("W" if name.rpartition(".")[2].startswith("w") else "D")


FAMILIES: dict[str, type[Diagonal]] = {"normal": Normal, "laplace": Laplace}


class Mixture(NamedTuple):
    """A joint posterior: the mixture Σ_v weights_v components_v, for every sample.

    A product of experts is the case V = 1.

    Attributes:
        components: [V, B, D].
        weights: [V, B], positive for the active components of a sample and 0 for the others. They sum to 1, or to 0 where nothing was
            observed (the prior is then the posterior).
        membership: [V, E, B] bool, the experts that make up a component.
        on_host: The membership on the host, if the host knows it. A component is then active where it has a member.

    Example:
        >>> import torch
        >>> from polyvae import Mixture, Normal
        >>> components = Normal(torch.tensor([-1.0, 1.0]).view(2, 1, 1).expand(2, 4, 3), torch.ones(2, 4, 3))
        >>> membership = torch.eye(2, dtype=torch.bool)[..., None].expand(2, 2, 4)  # component v is expert v
        >>> q = Mixture(components, torch.full((2, 4), 0.5), membership)
        >>> z = q.stratified(5)  # [K, V, B, D]
        >>> z.shape, q.log_prob(z).shape
        (torch.Size([5, 2, 4, 3]), torch.Size([5, 2, 4]))
        >>> q.mean.shape
        torch.Size([4, 3])
    """

    components: Diagonal
    weights: Tensor
    membership: Tensor
    on_host: Tensor | None = None

    @property
    def table(self) -> Tensor:
        """The membership, [V, E, B]: on the host if it is known there."""
        return self.membership if self.on_host is None else self.on_host

    @property
    def active(self) -> Tensor:
        """Components of positive weight: [V, B] bool."""
        return self.weights > 0

    @property
    def observed(self) -> Tensor:
        """Samples of which anything was observed: [B] bool."""
        return self.active.any(0)

    @property
    def mean(self) -> Tensor:
        """The mean, [B, D]; 0 where nothing was observed."""
        return (self.weights[..., None] * self.components.mean).sum(0)

    def detach(self) -> Mixture:
        """The same mixture without gradients to its components."""
        return self._replace(components=self.components.detach())

    def compact(self) -> Mixture:
        """The same density with as few components as possible: V' is the largest number of active components of a sample.

        A sample's active components come first, in their order.
        """
        active = self.active if self.on_host is None else self.on_host.any(1)
        count = max(1, int(active.sum(0).max()))
        if count == len(self.weights):
            return self
        chosen = active.int().argsort(dim=0, descending=True, stable=True)[:count]  # [V', B]
        on_host = None if self.on_host is None else _memberships(self.on_host, chosen)
        chosen = to_device(chosen, self.weights.device)
        return Mixture(self.pick(chosen), self.weights.gather(0, chosen), self.memberships(chosen), on_host)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats: [..., V', B, D] -> [..., V', B]; 0 where nothing was observed."""
        return mixture_log_prob(self.components, self.weights, z)

    def stratified(self, K: int) -> Tensor:
        """K draws from every component: [K, V, B, D]."""
        noise.components(self.membership, self.weights)
        return self.components.rsample(K)

    def choose(self, K: int) -> Tensor:
        """K draws of a component's index for every sample: [K, B]; any component where nothing was observed."""
        if len(self.weights) == 1:
            return self.weights.new_zeros((K, self.weights.shape[1]), dtype=torch.long)
        noise.components(self.membership, self.weights)
        return noise.choice(self.weights, K, "component", "KB")

    def pick(self, choice: Tensor) -> Diagonal:
        """The chosen components: [K, B] -> [K, B, D]."""
        return self.components[choice, torch.arange(choice.shape[1], device=choice.device)]

    def memberships(self, choice: Tensor) -> Tensor:
        """The experts that make up the chosen components: [K, B] -> [K, E, B] bool."""
        return _memberships(self.membership, choice)


def _memberships(membership: Tensor, choice: Tensor) -> Tensor:
    columns = torch.arange(choice.shape[1], device=choice.device)
    return membership.permute(0, 2, 1)[choice, columns].permute(0, 2, 1)


def mixture_log_prob(components: Diagonal, weights: Tensor, z: Tensor) -> Tensor:
    """log Σ_v weights_v components_v(z), in nats.

    Args:
        components: [V, B, D]; B may be 1.
        weights: [V, B].
        z: [..., V', B, D].

    Returns:
        [..., V', B]; 0 where all weights are 0, so that no gradient contains -inf.
    """
    log_weights = torch.where(weights > 0, weights, 1).log()  # [V, B]
    log_weights = torch.where((weights > 0) | ~(weights > 0).any(0), log_weights, -torch.inf)
    each = torch.stack(
        [components[v].log_prob(z) + log_weights[v] for v in range(len(weights))]
    )  # [V, ..., V', B]
    total = each[0] if len(weights) == 1 else each.logsumexp(0)
    return torch.where((weights > 0).any(0), total, 0)


def sum_log_prob(components: Diagonal, z: Tensor) -> Tensor:
    """log Σ_c components_c(z), in nats: components [C, D], z [..., D] -> [...].

    Many components are evaluated in pieces and recomputed in the backward pass, so that memory does not grow with C.
    """
    size = max(1, _PIECE // max(1, z.numel()))
    if size >= len(components.loc):
        return _each(components, z).logsumexp(0)
    total: Tensor = _InPieces.apply(type(components), size, components.loc, components.scale, z)  # type: ignore[no-untyped-call]
    return total


def _each(components: Diagonal, z: Tensor) -> Tensor:
    return components.map(lambda x: x.view(len(x), *[1] * (z.ndim - 1), -1)).log_prob(z)


class _InPieces(torch.autograd.Function):
    """With L the result and l_c the log-density of a component, dL = Σ_c exp(l_c − L) dl_c."""

    @staticmethod
    def forward(ctx: Any, family: type[Diagonal], size: int, loc: Tensor, scale: Tensor, z: Tensor) -> Tensor:
        total = z.new_full(z.shape[:-1], -torch.inf)
        for part in zip(torch.split(loc, size), torch.split(scale, size), strict=True):
            total = torch.logaddexp(total, _each(family(*part), z).logsumexp(0))
        ctx.family, ctx.size = family, size
        ctx.save_for_backward(loc, scale, z, total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor, Tensor, Tensor]:
        loc, scale, z, total = ctx.saved_tensors
        by_loc, by_scale, by_z = [], [], torch.zeros_like(z)
        for part in zip(torch.split(loc, ctx.size), torch.split(scale, ctx.size), strict=True):
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_() for x in (*part, z)]
                each = _each(ctx.family(*leaves[:2]), leaves[2])
            a, b, c = torch.autograd.grad(each, leaves, (each.detach() - total).exp() * gradient)
            by_loc.append(a)
            by_scale.append(b)
            by_z += c
        return None, None, torch.cat(by_loc), torch.cat(by_scale), by_z

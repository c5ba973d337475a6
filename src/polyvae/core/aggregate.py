"""How experts are combined: tables of subsets, products of experts, mixtures.

A table defines which experts make up which component, as a function of what was observed:

    table(mask [E, B]) -> membership [V, E, B]   (bool, over the E encoded modalities)

A row of the power set is active only where all its members are observed. Otherwise subsets would be
counted twice.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from polyvae.core import noise
from polyvae.core.distributions import Diagonal, Mixture, Normal
from polyvae.utils.devices import to_device


class Experts(NamedTuple):
    """The outputs of the encoders, over the E encoded modalities.

    Where a modality was not observed, its expert has location 0 and scale 1: finite values that
    influence nothing.

    Attributes:
        z: The experts of the shared latent, [E, B, D].
        w: The experts of all private latents, [B, W].
        mask: [E, B] bool, which encoded modalities were observed.
        on_host: The mask on the host, if the experts are on a device and the host knows it.
    """

    z: Diagonal
    w: Diagonal
    mask: Tensor
    on_host: Tensor | None = None

    @property
    def observed(self) -> Tensor:
        """The mask from which tables of subsets are made: on the host if it is known there."""
        return self.mask if self.on_host is None else self.on_host


# ---- tables of subsets: mask [E, B] -> membership [V, E, B] --------------------------------------------
#
# A table of ``Experts.observed`` is on the host where that is. ``joint`` moves it to the components, and then no device is waited for to
# find the rows to decode.

POWERSET_LIMIT = 255  # components; above it, subsets are drawn in training and fixed in inference
_DIGITS = 8  # 2^8 - 1 = 255


def everything(mask: Tensor) -> Tensor:
    """One row: all that was observed."""
    return mask[None]


def singles(mask: Tensor) -> Tensor:
    """One row per encoded modality."""
    eye = torch.eye(len(mask), dtype=torch.bool, device=mask.device)
    return eye[:, :, None] & mask


def pairs(mask: Tensor) -> Tensor:
    """One row per pair of encoded modalities, active where both are observed."""
    E = len(mask)
    first, second = torch.triu_indices(E, E, 1, device=mask.device)
    eye = torch.eye(E, dtype=torch.bool, device=mask.device)
    return (eye[first] | eye[second])[:, :, None] & (mask[first] & mask[second])[:, None]


def powerset(mask: Tensor) -> Tensor:
    """All non-empty subsets in order of size. A row is active where all its members are observed."""
    E = len(mask)
    rows = [
        [e in members for e in range(E)]
        for size in range(1, E + 1)
        for members in combinations(range(E), size)
    ]
    member = to_device(torch.tensor(rows), mask.device)  # [V, E]
    complete = (~member[:, :, None] | mask).all(1)  # [V, B]
    return member[:, :, None] & complete[:, None]


def random_subsets(mask: Tensor, count: int, name: str = "subset") -> Tensor:
    """``count`` subsets per sample, uniform over the non-empty subsets of what was observed."""
    E, B = mask.shape
    fair = noise.uniform((count, E, B), torch.empty((), device=mask.device), name, "VEB")
    # A fair coin decides on each member. Where a subset is empty, all its coins are tossed again, which
    # makes the result uniform over the non-empty subsets. Each toss uses one binary digit of the same
    # uniform number, so one draw is enough.
    subset = torch.zeros((count, E, B), dtype=torch.bool, device=mask.device)
    empty = torch.ones((count, B), dtype=torch.bool, device=mask.device)
    for _ in range(20):
        toss = (fair >= 0.5) & mask
        subset = torch.where(empty[:, None], toss, subset)
        empty = empty & ~toss.any(1)
        fair = (2 * fair) % 1
    return torch.where((empty & mask.any(0))[:, None], mask, subset)


def thinned(mask: Tensor, keep: float, name: str = "subset") -> Tensor:
    """One subset per sample, of which each observed modality is a member with probability ``keep``.

    Where none would be a member, one is, chosen uniformly.

    Args:
        mask: [E, B], what was observed.
        keep: The probability.
        name: Name of the draw.

    Returns:
        membership [1, E, B].
    """
    u = noise.uniform((1, *mask.shape), torch.empty((), device=mask.device), name, "VEB")
    u = torch.where(mask, u, 2.0)
    # The smallest of independent uniform numbers is a uniform choice.
    return mask & (u <= u.amin(1, keepdim=True).clamp(min=keep))


def subsets(mask: Tensor, name: str = "subset") -> Tensor:
    """The power set of what was observed: mask [E, B] -> membership [V, E, B].

    If it has more than POWERSET_LIMIT rows, that many subsets are drawn per sample instead.
    """
    return (
        powerset(mask) if 2 ** len(mask) - 1 <= POWERSET_LIMIT else random_subsets(mask, POWERSET_LIMIT, name)
    )


def fixed_subsets(mask: Tensor) -> Tensor:
    """The power set of what was observed, or 255 subsets that represent it, without draws: [E, B] -> [V, E, B].

    The result depends on the mask of a sample alone. If E modalities have more than POWERSET_LIMIT subsets,
    the 255 subsets are the words of a linear code, one binary digit for each observed modality. A sample of
    up to 8 observed modalities gets all its subsets, each equally often. With more of them, the set of all
    observed modalities is among the subsets, and any three modalities are together in a subset as often as
    in the power set (up to 128 modalities). The mean of such a mixture differs from that over the whole power
    set, for 10 modalities, by about 0.001 of the standard deviation of the embeddings; with 255 random
    subsets it differs by 0.01.
    """
    E = len(mask)
    if 2**E - 1 <= POWERSET_LIMIT:
        return powerset(mask)
    rank = mask.cumsum(0) - 1  # [E, B], the position among the observed modalities
    member = _code(min(E, 2 ** (_DIGITS - 1))).to(mask.device)  # [V, R]
    return member[:, rank.clamp(min=0) % member.shape[1]] & mask


@cache
def _code(count: int) -> Tensor:
    """The words, except 0, of a binary linear code with ``count`` columns: [2^8 - 1, count] bool.

    Column c contains the parities of v & g_c for v = 1, 2, ...  The g_c are different odd numbers, so that
    three of them never add to 0 (without carry). Each is chosen such that it is the sum of as few
    combinations of small numbers of the others as possible.
    """
    words = range(2**_DIGITS)
    fewest = [0] + [_DIGITS + 1] * (len(words) - 1)  # how many chosen columns add to this number
    chosen: list[int] = []
    for _ in range(count):
        g = max((x for x in words if x % 2 and x not in chosen), key=lambda x: (fewest[x], -x))
        chosen.append(g)
        fewest = [min(fewest[x], fewest[x ^ g] + 1) for x in words]
    return torch.tensor([[(v & g).bit_count() % 2 == 1 for g in chosen] for v in words[1:]])


def random_sizes(mask: Tensor, count: int, name: str = "subset", proper: bool = False) -> Tensor:
    """``count`` subsets per sample: a uniform size, then uniform members (the sub-sampling of MVAE).

    Args:
        mask: [E, B], what was observed; A is the observed set of a sample.
        count: Number of subsets, V.
        name: Name of the draws.
        proper: Draw sizes from 1..|A| − 1 instead of 1..|A|, so that at least one modality is left out
            (the modality dropout of Nexus). Where one modality was observed, the subset is that
            modality.

    Returns:
        membership [V, E, B].
    """
    E, B = mask.shape
    like = torch.empty((), device=mask.device)
    score = noise.uniform((count, E, B), like, name, "VEB")
    u = noise.uniform((count, B), like, f"{name}.size", "VB")
    size = (u * (mask.sum(0) - int(proper))).floor() + 1  # [V, B]
    score = torch.where(mask, score, 2.0)
    rank = (score[:, :, None] > score[:, None]).sum(2)  # [V, E, B]
    return (rank < size[:, None]) & mask


# ---- how the experts of a component are combined -------------------------------------------------------


def product_of_experts(experts: Diagonal, membership: Tensor, prior: Diagonal | None = None) -> Diagonal:
    """The normalised product of each component's normal experts, weighted by precision: [V, B, D].

    Args:
        experts: [E, B, D].
        membership: [V, E, B].
        prior: [D], a further expert in every product. Without it, a component without members is
            standard normal.
    """
    precision = experts.scale.pow(-2)  # [E, B, D]
    counted = membership.to(precision.dtype)
    # Densities are computed in full precision, also under autocast.
    with torch.autocast(precision.device.type, enabled=False):
        total = torch.einsum("veb,ebd->vbd", counted, precision)
        pull = torch.einsum("veb,ebd->vbd", counted, precision * experts.loc)
    if prior is not None:
        strength = prior.scale.pow(-2)
        total, pull = total + strength, pull + strength * prior.loc
    else:
        total = torch.where(membership.any(1)[..., None], total, 1)
    return Normal(pull / total, total.rsqrt())


def geometric_mean(experts: Diagonal, membership: Tensor, prior: Diagonal | None = None) -> Normal:
    """The normalised geometric mean of each component's normal experts: [V, B, D].

    This is the product of the n experts to the power of 1/n. It has the location of the product and n
    times its variance.

    Args:
        experts: [E, B, D].
        membership: [V, E, B].
        prior: [D], a further expert in every mean.
    """
    product = product_of_experts(experts, membership, prior)
    count = membership.sum(1).to(product.scale.dtype) + (0 if prior is None else 1)  # [V, B]
    return Normal(product.loc, product.scale * count.clamp(min=1).sqrt()[..., None])


def barycentre(experts: Diagonal, membership: Tensor, prior: Diagonal | None = None) -> Normal:
    """The Wasserstein barycentre of each component's normal experts, with equal weights: [V, B, D].

    It minimises the sum of the squared 2-Wasserstein distances to the n experts. Diagonal normal distributions
    have the squared distance |μ − ν|² + |σ − τ|², so location and scale are the means of the experts' locations
    and scales. A component without members is standard normal.

    Args:
        experts: [E, B, D].
        membership: [V, E, B].
        prior: [D], a further expert in every barycentre.
    """
    counted = membership.to(experts.scale.dtype)
    members = membership.sum(1)[..., None]  # [V, B, 1]
    with torch.autocast(counted.device.type, enabled=False):
        loc, scale = (torch.einsum("veb,ebd->vbd", counted, x) for x in (experts.loc, experts.scale))
    if prior is not None:
        loc, scale, members = loc + prior.loc, scale + prior.scale, members + 1
    return Normal(loc / members.clamp(min=1), torch.where(members > 0, scale / members.clamp(min=1), 1))


def consensus(experts: Diagonal, membership: Tensor, correlation: float) -> Normal:
    """The consensus of normal experts whose errors have the same pairwise ``correlation`` ρ: [V, B, D].

    The experts are estimates μ of one number, with errors of covariance Σ = S R S, S = diag(σ),
    R = (1 − ρ) I + ρ 11'. The best linear estimate has precision 1'Σ⁻¹1 and location 1'Σ⁻¹μ / 1'Σ⁻¹1.
    For k experts R⁻¹ = [I − ρ/(1 + (k − 1)ρ) 11'] / (1 − ρ). With ρ = 0 it is the product of experts. A
    single expert is unchanged. A component without members is standard normal. (Winkler 1981; Mancisidor
    et al. 2025)

    Args:
        experts: [E, B, D].
        membership: [V, E, B].
        correlation: ρ.
    """
    root = experts.scale.reciprocal()  # [E, B, D], 1/σ
    counted = membership.to(root.dtype)
    members = counted.sum(1)[..., None]  # [V, B, 1], k
    with torch.autocast(root.device.type, enabled=False):
        squares, pulls = (
            torch.einsum("veb,ebd->vbd", counted, x) for x in (root.square(), root.square() * experts.loc)
        )
        roots, leans = (torch.einsum("veb,ebd->vbd", counted, x) for x in (root, root * experts.loc))
    shared = correlation / (1 + (members - 1) * correlation)
    precision = torch.where(members > 0, (squares - shared * roots.square()) / (1 - correlation), 1)
    pull = (pulls - shared * roots * leans) / (1 - correlation)
    return Normal(pull / precision, precision.rsqrt())


def uniform_weights(membership: Tensor, dtype: torch.dtype) -> Tensor:
    """Equal weights for all components that have a member: [V, B]; zero where nothing was observed."""
    active = membership.any(1).to(dtype)
    return active / active.sum(0).clamp(min=1)


def joint(components: Diagonal, membership: Tensor) -> Mixture:
    """A mixture of components with equal weights; ``membership`` may be on the host."""
    here = to_device(membership, components.loc.device)
    return Mixture(components, uniform_weights(here, components.loc.dtype), here, membership)


def mixture_of_experts(experts: Experts) -> Mixture:
    """One component per observed modality."""
    return joint(experts.z, singles(experts.observed))


def mixture_of_products(experts: Experts, membership: Tensor, prior: Diagonal | None = None) -> Mixture:
    """One component per row of a table, which may be on the host; each is the product of its experts."""
    here = to_device(membership, experts.z.loc.device)
    return joint(product_of_experts(experts.z, here, prior), membership)


def hoelder_pool(experts: Experts) -> Mixture:
    """The Hölder pool of order 1/2 of normal experts, q(z | X) ∝ (Σ_m √q_m(z))², without approximation.

    It has E + E(E − 1)/2 components. The square is Σ_m q_m + 2 Σ_{m<n} √(q_m q_n), where √(q_m q_n) is
    the Bhattacharyya coefficient of the pair times its normalised geometric mean. Before normalisation
    over what was observed, a component of one expert has weight 1, and a component of two experts has
    twice that coefficient.
    """
    membership = torch.cat([singles(experts.mask), pairs(experts.mask)])  # [V, E, B]
    E = len(experts.mask)
    first, second = torch.triu_indices(E, E, 1, device=experts.mask.device)
    overlap = log_bhattacharyya(experts.z[first], experts.z[second])  # [V − E, B]
    log_weight = torch.cat([overlap.new_zeros(E, overlap.shape[1]), overlap + math.log(2)])
    active = membership.any(1)
    counted = torch.where(active, log_weight, -torch.inf)
    # Where nothing was observed, any finite number will do.
    total = torch.where(active.any(0), counted, 0).logsumexp(0)
    return Mixture(geometric_mean(experts.z, membership), (counted - total).exp(), membership)


def log_bhattacharyya(a: Diagonal, b: Diagonal) -> Tensor:
    """log ∫ √(a(z) b(z)) dz of normal distributions, [..., D] -> [...]: 0 for equal ones, else negative."""
    variance = a.scale.square() + b.scale.square()
    columns = 0.5 * (2 * a.scale * b.scale / variance).log() - 0.25 * (a.loc - b.loc).square() / variance
    return columns.sum(-1)


def moment_matched(q: Mixture) -> Mixture:
    """One component: the diagonal normal distribution with the mean and the variances of the mixture.

    It is standard normal where nothing was observed.
    """
    weights, loc = q.weights[..., None], q.mean
    variance = (weights * (q.components.scale.square() + (q.components.loc - loc).square())).sum(0)
    variance = torch.where(q.observed[:, None], variance, 1)
    return joint(Normal(loc[None], variance.sqrt()[None]), q.membership.any(0)[None])

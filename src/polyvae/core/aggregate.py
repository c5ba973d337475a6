"""How experts agree: tables of subsets, products of experts, mixtures.

A table says which experts make up which view, as a function of what was observed: ``table(mask [M, B]) -> membership [V, M, B]`` (bool).
A row of the power set counts only where all its members are observed, else subsets would be counted twice.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from polyvae.core import noise
from polyvae.core.distributions import Diagonal, Mixture, Normal


class Experts(NamedTuple):
    """What the encoders said: ``z`` [M, B, D] over the source modalities, ``w`` [B, W] over all private columns, ``mask`` [M, B].

    Where nothing was encoded, location is 0 and scale is 1: finite, and never of influence.
    """

    z: Diagonal
    w: Diagonal
    mask: Tensor


# ---- tables of subsets: mask [M, B] -> include [V, M, B] -------------------------------------------------------------------------

POWERSET_LIMIT = 255  # views; above it, subsets are drawn per datum


def everything(mask: Tensor) -> Tensor:
    """One row: all that was observed."""
    return mask[None]


def singles(mask: Tensor) -> Tensor:
    """One row per modality."""
    eye = torch.eye(len(mask), dtype=torch.bool, device=mask.device)
    return eye[:, :, None] & mask


def pairs(mask: Tensor) -> Tensor:
    """One row per pair of modalities; a row counts where both are observed."""
    M = len(mask)
    first, second = torch.triu_indices(M, M, 1, device=mask.device)
    eye = torch.eye(M, dtype=torch.bool, device=mask.device)
    return (eye[first] | eye[second])[:, :, None] & (mask[first] & mask[second])[:, None]


def powerset(mask: Tensor) -> Tensor:
    """All non-empty subsets, the smallest first; a row counts where all its members are observed."""
    M = len(mask)
    rows = [
        [m in members for m in range(M)]
        for size in range(1, M + 1)
        for members in combinations(range(M), size)
    ]
    member = torch.tensor(rows, device=mask.device)  # [V, M]
    complete = (~member[:, :, None] | mask).all(1)  # [V, B]
    return member[:, :, None] & complete[:, None]


def random_subsets(mask: Tensor, count: int, name: str = "subset") -> Tensor:
    """``count`` subsets per datum, uniform over the non-empty subsets of what it observed."""
    M, B = mask.shape
    fair = noise.uniform((count, M, B), torch.empty((), device=mask.device), name, "VMB")
    # Every member by a fair coin, and where all coins said no, all are tossed again: uniform over the subsets that are not empty.
    # Each toss uses up one binary digit of the same number, so one draw serves them all.
    subset = torch.zeros((count, M, B), dtype=torch.bool, device=mask.device)
    open_ = torch.ones((count, B), dtype=torch.bool, device=mask.device)
    for _ in range(20):
        toss = (fair >= 0.5) & mask
        subset = torch.where(open_[:, None], toss, subset)
        open_ = open_ & ~toss.any(1)
        fair = (2 * fair) % 1
    return torch.where((open_ & mask.any(0))[:, None], mask, subset)


def subsets(mask: Tensor, name: str = "subset") -> Tensor:
    """The power set of what was observed; of more than POWERSET_LIMIT views as many subsets, drawn per datum: mask [M, B] -> [V, M, B]."""
    return (
        powerset(mask) if 2 ** len(mask) - 1 <= POWERSET_LIMIT else random_subsets(mask, POWERSET_LIMIT, name)
    )


def random_sizes(mask: Tensor, count: int, name: str = "subset", proper: bool = False) -> Tensor:
    """``count`` subsets per datum: a size uniform in 1..|A|, then members uniformly among what it observed (MVAE's sub-sampling).

    ``proper``: a size uniform in 1..|A| − 1, so that something is left out (Nexus' dropout); the one of one member is itself.
    """
    M, B = mask.shape
    like = torch.empty((), device=mask.device)
    score = noise.uniform((count, M, B), like, name, "VMB")
    u = noise.uniform((count, B), like, f"{name}.size", "VB")
    size = (u * (mask.sum(0) - int(proper))).floor() + 1  # [V, B]
    score = torch.where(mask, score, 2.0)
    rank = (score[:, :, None] > score[:, None]).sum(2)  # [V, M, B]
    return (rank < size[:, None]) & mask


# ---- how a view's experts agree --------------------------------------------------------------------------------------------------


def product_of_experts(experts: Diagonal, membership: Tensor, prior: Diagonal | None = None) -> Diagonal:
    """The normalised product of the included normal experts, precision-weighted: [V, B, D].

    experts [M, B, D], include [V, M, B]. ``prior`` [D] joins every product. Without it, a view without a member is standard normal.
    """
    precision = experts.scale.pow(-2)  # [M, B, D]
    counted = membership.to(precision.dtype)
    with torch.autocast(
        precision.device.type, enabled=False
    ):  # a product of experts is a density, not a network
        total = torch.einsum("vmb,mbd->vbd", counted, precision)
        pull = torch.einsum("vmb,mbd->vbd", counted, precision * experts.loc)
    if prior is not None:
        strength = prior.scale.pow(-2)
        total, pull = total + strength, pull + strength * prior.loc
    else:
        total = torch.where(membership.any(1)[..., None], total, 1)
    return Normal(pull / total, total.rsqrt())


def geometric_mean(experts: Diagonal, membership: Tensor, prior: Diagonal | None = None) -> Normal:
    """The normalised geometric mean of the included normal experts, and of the ``prior`` [D] if there is one: [V, B, D].

    It is their product to the power of one over their number n: the same location, n times the variance.
    """
    product = product_of_experts(experts, membership, prior)
    count = membership.sum(1).to(product.scale.dtype) + (0 if prior is None else 1)  # [V, B]
    return Normal(product.loc, product.scale * count.clamp(min=1).sqrt()[..., None])


def consensus(experts: Diagonal, membership: Tensor, correlation: float) -> Normal:
    """The consensus of normal experts whose errors all have the same ``correlation`` ρ: [V, B, D].

    They are estimates μ of one number with errors of covariance Σ = S R S, S = diag(σ), R = (1 − ρ) I + ρ 11': the best one has precision
    1'Σ⁻¹1 and location 1'Σ⁻¹μ / 1'Σ⁻¹1. For k experts R⁻¹ = [I − ρ/(1 + (k − 1)ρ) 11'] / (1 − ρ). With ρ = 0 it is the product of experts.
    A single expert is itself; a view without a member is standard normal. (Winkler 1981; Mancisidor et al. 2025)
    """
    root = experts.scale.reciprocal()  # [M, B, D], 1/σ
    counted = membership.to(root.dtype)
    members = counted.sum(1)[..., None]  # [V, B, 1], k
    with torch.autocast(root.device.type, enabled=False):
        squares, pulls = (
            torch.einsum("vmb,mbd->vbd", counted, x) for x in (root.square(), root.square() * experts.loc)
        )
        roots, leans = (torch.einsum("vmb,mbd->vbd", counted, x) for x in (root, root * experts.loc))
    shared = correlation / (1 + (members - 1) * correlation)
    precision = torch.where(members > 0, (squares - shared * roots.square()) / (1 - correlation), 1)
    pull = (pulls - shared * roots * leans) / (1 - correlation)
    return Normal(pull / precision, precision.rsqrt())


def uniform_weights(membership: Tensor, dtype: torch.dtype) -> Tensor:
    """Every view that has a member weighs the same: [V, B]; zero where nothing was observed."""
    active = membership.any(1).to(dtype)
    return active / active.sum(0).clamp(min=1)


def joint(components: Diagonal, membership: Tensor) -> Mixture:
    """A mixture of views with equal weights."""
    return Mixture(components, uniform_weights(membership, components.loc.dtype), membership)


def mixture_of_experts(experts: Experts) -> Mixture:
    """One view per observed modality."""
    return joint(experts.z, singles(experts.mask))


def mixture_of_products(experts: Experts, membership: Tensor, prior: Diagonal | None = None) -> Mixture:
    """One view per row of a table, each the product of its experts."""
    return joint(product_of_experts(experts.z, membership, prior), membership)


def hoelder_pool(experts: Experts) -> Mixture:
    """The normal experts' Hölder pool of order 1/2, q(z | X) ∝ (Σ_m √q_m(z))², exactly: M + M(M − 1)/2 views.

    The square is Σ_m q_m + 2 Σ_{m<n} √(q_m q_n); √(q_m q_n) is the pair's Bhattacharyya coefficient times its normalised geometric mean.
    So a view of one expert weighs 1 and a view of two weighs 2 times that coefficient, and all are normalised over what was observed.
    """
    membership = torch.cat([singles(experts.mask), pairs(experts.mask)])  # [V, M, B]
    M = len(experts.mask)
    first, second = torch.triu_indices(M, M, 1, device=experts.mask.device)
    overlap = log_bhattacharyya(experts.z[first], experts.z[second])  # [V − M, B]
    log_weight = torch.cat([overlap.new_zeros(M, overlap.shape[1]), overlap + math.log(2)])
    active = membership.any(1)
    counted = torch.where(active, log_weight, -torch.inf)
    total = torch.where(active.any(0), counted, 0).logsumexp(0)  # where nothing was observed: any number
    return Mixture(geometric_mean(experts.z, membership), (counted - total).exp(), membership)


def log_bhattacharyya(a: Diagonal, b: Diagonal) -> Tensor:
    """log ∫ √(a(z) b(z)) dz of normal distributions, [..., D] -> [...]: 0 for equal ones, else below."""
    variance = a.scale.square() + b.scale.square()
    return (0.5 * (2 * a.scale * b.scale / variance).log() - 0.25 * (a.loc - b.loc).square() / variance).sum(
        -1
    )


def moment_matched(q: Mixture) -> Mixture:
    """One view: the diagonal normal with the mixture's mean and variances; standard normal where nothing was observed."""
    weights, loc = q.weights[..., None], q.mean
    variance = (weights * (q.components.scale.square() + (q.components.loc - loc).square())).sum(0)
    variance = torch.where(q.observed[:, None], variance, 1)
    return joint(Normal(loc[None], variance.sqrt()[None]), q.membership.any(0)[None])

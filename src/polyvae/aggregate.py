"""How experts agree: tables of subsets, products of experts, mixtures.

A table says which experts make up which view, as a function of what was observed: ``table(mask [M, B]) -> include [V, M, B]`` (bool).
A row of the power set counts only where all its members are observed, else subsets would be counted twice.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from polyvae import noise
from polyvae.distributions import Diagonal, Mixture, Normal


class Experts(NamedTuple):
    """What the encoders said: ``z`` [M, B, D] over the source modalities, ``w`` [B, W] over all private columns, ``mask`` [M, B].

    Where nothing was encoded, location is 0 and scale is 1: finite, and never of influence.
    """

    z: Diagonal
    w: Diagonal
    mask: Tensor


# ---- tables of subsets: mask [M, B] -> include [V, M, B] -------------------------------------------------------------------------

POWERSET_LIMIT = 255                          # views; above it, subsets are drawn per datum


def everything(mask: Tensor) -> Tensor:
    """One row: all that was observed."""
    return mask[None]


def singles(mask: Tensor) -> Tensor:
    """One row per modality."""
    eye = torch.eye(len(mask), dtype=torch.bool, device=mask.device)
    return eye[:, :, None] & mask


def powerset(mask: Tensor) -> Tensor:
    """All non-empty subsets, the smallest first; a row counts where all its members are observed."""
    M = len(mask)
    rows = [[m in members for m in range(M)] for size in range(1, M + 1) for members in combinations(range(M), size)]
    member = torch.tensor(rows, device=mask.device)                                                     # [V, M]
    complete = (~member[:, :, None] | mask).all(1)                                                      # [V, B]
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


def random_sizes(mask: Tensor, count: int, name: str = "subset") -> Tensor:
    """``count`` subsets per datum: a size uniform in 1..|A|, then members uniformly among what it observed (MVAE's sub-sampling)."""
    M, B = mask.shape
    like = torch.empty((), device=mask.device)
    score = noise.uniform((count, M, B), like, name, "VMB")
    u = noise.uniform((count, B), like, f"{name}.size", "VB")
    size = (u * mask.sum(0)).floor() + 1                                                                # [V, B]
    score = torch.where(mask, score, 2.0)
    rank = (score[:, :, None] > score[:, None]).sum(2)                                                  # [V, M, B]
    return (rank < size[:, None]) & mask


# ---- how a view's experts agree --------------------------------------------------------------------------------------------------


def product_of_experts(experts: Diagonal, include: Tensor, prior: Diagonal | None = None) -> Diagonal:
    """The normalised product of the included normal experts, precision-weighted: [V, B, D].

    experts [M, B, D], include [V, M, B]. ``prior`` [D] joins every product. Without it, a view without a member is standard normal.
    """
    precision = experts.scale.pow(-2)                                                                   # [M, B, D]
    counted = include.to(precision.dtype)
    with torch.autocast(precision.device.type, enabled=False):   # a product of experts is a density, not a network
        total = torch.einsum("vmb,mbd->vbd", counted, precision)
        pull = torch.einsum("vmb,mbd->vbd", counted, precision * experts.loc)
    if prior is not None:
        strength = prior.scale.pow(-2)
        total, pull = total + strength, pull + strength * prior.loc
    else:
        total = torch.where(include.any(1)[..., None], total, 1)
    return Normal(pull / total, total.rsqrt())


def uniform_weights(include: Tensor, dtype: torch.dtype) -> Tensor:
    """Every view that has a member weighs the same: [V, B]; zero where nothing was observed."""
    live = include.any(1).to(dtype)
    return live / live.sum(0).clamp(min=1)


def joint(components: Diagonal, include: Tensor) -> Mixture:
    """A mixture of views with equal weights."""
    return Mixture(components, uniform_weights(include, components.loc.dtype), include)


def mixture_of_experts(experts: Experts) -> Mixture:
    """One view per observed modality."""
    return joint(experts.z, singles(experts.mask))


def mixture_of_products(experts: Experts, include: Tensor, prior: Diagonal | None = None) -> Mixture:
    """One view per row of a table, each the product of its experts."""
    return joint(product_of_experts(experts.z, include, prior), include)

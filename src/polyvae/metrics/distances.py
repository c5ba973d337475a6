"""Distances between two sets of features [N, F], x of real and y of generated images; in float64 and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polyvae.metrics.features import Handed, torchmetrics_fid

_NUMBERS = 2**23  # entries of a matrix of distances that are computed together: 64 MB


class Moments:
    """Mean and unbiased covariance of rows that are added chunk by chunk (Chan, Golub & LeVeque 1983)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._scatter = torch.zeros(0)
        self._root: Tensor | None = None

    def add(self, x: Tensor) -> None:
        x = _double(x)
        if not self.count:
            self.mean, self._scatter = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1], x.shape[1])
        total = self.count + len(x)
        mean = x.mean(0) if len(x) else self.mean
        gap = mean - self.mean
        x = x - mean
        self._scatter += x.T @ x + torch.outer(gap, gap) * (self.count * len(x) / max(total, 1))
        self.mean = self.mean + gap * (len(x) / max(total, 1))
        self.count, self._root = total, None

    @property
    def covariance(self) -> Tensor:
        """[F, F]."""
        return self._scatter / (self.count - 1)

    def root(self) -> Tensor:
        """The symmetric square root of the covariance, computed once."""
        if self._root is None:
            values, vectors = torch.linalg.eigh(self.covariance)
            self._root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        return self._root


def frechet_distance(x: Moments, y: Moments) -> float:
    """The squared 2-Wasserstein distance between two normals: |μ − ν|² + tr S + tr T − 2 tr (S½ T S½)½.

    Dowson & Landau 1982. The symmetric form has the eigenvalues of S T, and its numerical eigenvalues are real.
    """
    root = x.root()
    product = root @ y.covariance @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    return float((x.mean - y.mean).square().sum() + x.covariance.trace() + y.covariance.trace() - 2 * cross)


class Frechet:
    """The Fréchet distance of streams: add ``real`` features once, then repeat ``generated``, ``value`` and ``forget``."""

    def __init__(self) -> None:
        self._real, self._made = Moments(), Moments()

    def real(self, x: Tensor) -> None:
        self._real.add(x)

    def generated(self, y: Tensor) -> None:
        self._made.add(y)

    def value(self) -> float:
        return frechet_distance(self._real, self._made)

    def forget(self) -> None:
        """Discard the generated features."""
        self._made = Moments()


class TorchmetricsFrechet:
    """The same by torchmetrics, which computes every number called FID."""

    def __init__(self, num_features: int) -> None:
        self._metric = torchmetrics_fid(Handed(None, num_features))

    def real(self, x: Tensor) -> None:
        self._metric.to(x.device).update(_double(x), real=True)

    def generated(self, y: Tensor) -> None:
        self._metric.to(y.device).update(_double(y), real=False)

    def value(self) -> float:
        return float(self._metric.compute())

    def forget(self) -> None:
        """Discard the generated features."""
        self._metric.reset()


class Spread(NamedTuple):
    """``mean`` and ``std`` over subsets."""

    mean: float
    std: float


def kernel_distance(x: Tensor, y: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0) -> Spread:
    """Squared maximum mean discrepancy, unbiased, with the kernel (x·y / F + 1)³: the mean over random subsets of both sides.

    Binkowski et al. 2018. A subset is at most as large as either set. The value may be negative: its expectation is 0 for equal
    distributions.
    """
    size = min(size, len(x), len(y))
    subsets = 1 if size == len(x) == len(y) else subsets  # every subset would be the whole set
    draws = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(subsets):
        rows, others = (torch.randperm(len(side), generator=draws)[:size].to(side.device) for side in (x, y))
        found.append(discrepancy(x[rows], y[others]))
    values = torch.stack(found)
    return Spread(float(values.mean()), float(values.std(unbiased=False)))


def discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased squared maximum mean discrepancy; the numbers of rows may differ: []."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        # Dot products have the precision of the features. Differences of sums are small, so the rest is in float64.
        return _double(a @ b.T).div_(a.shape[1]).add_(1).pow_(3)

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.trace()) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


class Neighbours(NamedTuple):
    """``precision``, ``recall`` (Kynkäänniemi et al. 2019), ``density``, ``coverage`` (Naeem et al. 2020)."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbours(x: Tensor, y: Tensor, k: int = 3, k_density: int = 5) -> Neighbours:
    """Measures from balls around every row, whose radius is the distance to the k-th nearest other row of the same set.

    precision: the share of y inside a ball of x; recall: the share of x inside a ball of y (both with ``k``). With ``k_density``: density,
    the mean number of balls of x that contain a y, divided by k; coverage, the share of balls of x that contain a y. Balls are closed.
    """
    # Distances are differences of squares, which lose least precision about the common mean.
    centre = _double(x).mean(0)
    x, y = _double(x) - centre, _double(y) - centre
    reach, reach_density = radii(x, (k, k_density))
    (reach_y,) = radii(y, (k,))
    inside = dense = 0
    recalled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    covered = torch.zeros_like(recalled)
    for rows in torch.split(torch.arange(len(y), device=y.device), max(1, _NUMBERS // len(x))):
        squares = _squares(y[rows], x)  # [chunk, N]
        held = squares <= reach_density
        inside += int((squares <= reach).any(1).sum())
        dense += int(held.sum())
        recalled |= (squares <= reach_y[rows][:, None]).any(0)
        covered |= held.any(0)
    return Neighbours(
        inside / len(y),
        float(recalled.double().mean()),
        dense / (k_density * len(y)),
        float(covered.double().mean()),
    )


def radii(x: Tensor, ks: Sequence[int]) -> list[Tensor]:
    """For each k, every row's squared distance to its k-th nearest other row: [N]."""
    parts = []
    for rows in torch.split(torch.arange(len(x), device=x.device), max(1, _NUMBERS // len(x))):
        squares = _squares(x[rows], x)
        squares[torch.arange(len(rows), device=x.device), rows] = torch.inf
        parts.append(squares.topk(max(ks), largest=False).values)
    # The same distance, computed in the other order, may be larger by a rounding error.
    nearest = torch.cat(parts) * (1 + 1e-9) + 1e-13 * x.square().sum(1).amax()
    return [nearest[:, k - 1] for k in ks]


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances [A, B]."""
    return torch.addmm(a.square().sum(1)[:, None] + b.square().sum(1), a, b.T, alpha=-2).clamp(min=0)


def _double(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()

"""The tasks that are timed: sizes, data, masks. All follow from a seed, so that every contender receives the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Work(NamedTuple):
    """MMVAE+ on M modalities of one shape.

    ``hidden``  sizes of the MLPs (encoder's order); empty: the paper's residual networks, times ``width``.
    ``K``       draws; 1 is the ELBO, more is DReG. ``hide``: the share of modalities masked at random.
    ``family``  of posteriors and prior: "laplace" (softmax scales, the paper's) or "normal". ``likelihood`` with ``scale``.
    ``seed``    of the initial parameters and the noise.
    """

    name: str
    says: str
    shape: tuple[int, ...]
    modalities: int
    K: int
    batch: int
    hidden: tuple[int, ...] = ()
    width: float = 1.0
    hide: float = 0.0
    latent: int = 32
    family: str = "laplace"
    likelihood: str = "laplace"
    scale: float = 0.75
    beta: float = 2.5
    seed: int = 0

    @property
    def names(self) -> list[str]:
        return [f"m{m}" for m in range(self.modalities)]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Work:
        """From JSON, with lists converted to tuples."""
        return cls(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        )

    def data(self, seed: int = 0, rows: int | None = None) -> dict[str, Tensor]:
        """name -> [rows, *shape]: uniform in [0, 1] for images, standard normal for vectors."""
        draws = torch.Generator().manual_seed(seed)
        make = torch.rand if len(self.shape) == 3 else torch.randn
        return {name: make(rows or self.batch, *self.shape, generator=draws) for name in self.names}

    def mask(self, seed: int = 0) -> Tensor | None:
        """[M, B] bool: each modality of each sample is masked with probability ``hide``; a sample without any keeps one at random."""
        if not self.hide:
            return None
        draws = torch.Generator().manual_seed(seed + 1)
        kept = torch.rand(self.modalities, self.batch, generator=draws) >= self.hide
        spared = torch.zeros_like(kept).scatter_(
            0, torch.rand(kept.shape, generator=draws).argmax(0, keepdim=True), True
        )
        return torch.where(kept.any(0), kept, spared)


_IMAGES = Work("a", "5 images 3x28x28, residual networks, K 1, batch 128", (3, 28, 28), 5, 1, 128)
_VECTORS = Work(
    "c1",
    "3 vectors of 2,000, MLP 256-128, K 1, batch 256",
    (2000,),
    3,
    1,
    256,
    (256, 128),
    likelihood="normal",
    scale=1.0,
    beta=1.0,
)
WORKS = {
    work.name: work
    for work in (
        _IMAGES,
        _IMAGES._replace(name="b", says="as (a), K 10, batch 32", K=10, batch=32),
        _VECTORS,
        _VECTORS._replace(name="c10", says="as (c1), K 10", K=10),
        _VECTORS._replace(name="d1", says="as (c1), half of the modalities hidden at random", hide=0.5),
        _VECTORS._replace(
            name="d10", says="as (c10), half of the modalities hidden at random", K=10, hide=0.5
        ),
    )
}
DIGITS = Work(
    "polydigits",
    "5 images 3x16x16, MLP 512-256",
    (3, 16, 16),
    5,
    1,
    64,
    (512, 256),
    latent=16,
    family="normal",
    scale=0.3,
    beta=1.5,
)


def tiny(work: Work) -> Work:
    """The same task in sizes that take milliseconds."""
    if work.hidden:
        shape = (20,) if len(work.shape) == 1 else (3, 8, 8)
        return work._replace(shape=shape, batch=8, hidden=(16, 8), latent=4, K=min(work.K, 3))
    return work._replace(shape=(3, 8, 8), batch=4, width=1 / 16, latent=4, K=min(work.K, 3))


def chosen(letters: str) -> list[Work]:
    """ "a,c" -> the works (a), (c1), (c10)."""
    names = [letter.strip() for letter in letters.split(",") if letter.strip()]
    unknown = [name for name in names if name not in WORKS and name not in {known[0] for known in WORKS}]
    if unknown:
        raise SystemExit(
            f"bench: unknown work {unknown[0]!r}; expected some of {', '.join(WORKS)}; c and d select two each"
        )
    return [work for known, work in WORKS.items() if known in names or known[0] in names]

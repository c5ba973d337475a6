"""What a user says of a modality, and the networks that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from polyvae.errors import InputError, nearest
from polyvae.likelihoods import LIKELIHOODS

Factory = Callable[[tuple[int, ...], Any], nn.Module]


@dataclass(frozen=True)
class Modality:
    """One modality, as a user writes it; serialises to a ``[[modality]]`` table.

    ``shape``      of one sample, without the batch axis.
    ``likelihood`` a name in LIKELIHOODS; ``params`` holds its parameters (``scale``) and the network's (``width``, ``hidden``).
    ``network``    a name in NETWORKS, for encoder and decoder; "auto" chooses by shape.
    ``private``    columns of private code; None: the model's default.
    ``weight``     multiplies this modality's log-likelihood in the bound (never elsewhere).
    ``role``       "source" is encoded, never decoded; "target" is decoded, never encoded (labels, a segmentation).
    ``encoder``, ``decoder`` override ``network``: a name in NETWORKS, an import path "package.module:factory", or a factory
                   ``(in_shape, out) -> nn.Module``: an encoder maps [B, *in_shape] to [B, out], a decoder [N, *in_shape] to [N, *out].

    Raises InputError: empty name, a shape without positive sizes, an unknown likelihood or role, a weight or size below zero.
    """

    name: str
    shape: tuple[int, ...]
    likelihood: str = "normal"
    network: str = "auto"
    private: int | None = None
    weight: float = 1.0
    params: Mapping[str, Any] = field(default_factory=dict)
    role: Literal["both", "source", "target"] = "both"
    encoder: str | Factory | None = None
    decoder: str | Factory | None = None

    def __post_init__(self) -> None:
        where = f"modality {self.name!r}"
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"modality: got name {self.name!r}; expected a non-empty string; name it")
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)
        if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
            raise InputError(f"{where}: got shape {shape}; expected positive sizes without the batch axis, such as (200,) or (3, 32, 32)")
        object.__setattr__(self, "shape", shape)
        if self.likelihood not in LIKELIHOODS:
            raise InputError(f"{where}: unknown likelihood {self.likelihood!r}; {nearest(self.likelihood, LIKELIHOODS)}")
        if self.role not in ("both", "source", "target"):
            raise InputError(f"{where}: unknown role {self.role!r}; {nearest(str(self.role), ('both', 'source', 'target'))}")
        if self.private is not None and self.private < 0:
            raise InputError(f"{where}: got private={self.private}; expected 0 or more columns; leave it out for the model's default")
        if not self.weight >= 0:
            raise InputError(f"{where}: got weight={self.weight}; expected a number of 0 or more; 1 counts it as the likelihood says")

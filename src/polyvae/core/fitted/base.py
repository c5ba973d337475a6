"""What all fitted priors share: blocks of columns, draws, storage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from polyvae.utils.errors import InputError

_ALL = ", over all latents"


class FittedPrior(nn.Module, ABC):
    """A distribution of latents, fitted after training to draws from the aggregate posterior.

    ``restore`` rebuilds it from settings and tensors.

    Attributes:
        kind: Its name in FITTED.
        least: The smallest number of draws to fit it to (for a mixture, per component).
        conditional: Whether ``complete`` can draw some blocks given the others.
        latent: Columns, D.
        blocks: How many columns belong together: (D,) for z alone; for all latents, first those of z, then those of each w_m; for the
            latents of each modality, those of z and w_m together.
        settings: What JSON stores beside the tensors, ``kind`` and ``blocks`` included.
        summary: A short description for reports.
    """

    kind: ClassVar[str]
    least: ClassVar[int]
    conditional: ClassVar[bool]
    latent: int
    blocks: tuple[int, ...]
    settings: dict[str, Any]
    summary: str

    @property
    def latents(self) -> str:
        """ "z", "all" for z and the private latents of all modalities, or "each" for z and w_m as inferred from each modality alone."""
        if self.settings.get("each", False):
            return "each"
        return "all" if len(self.blocks) > 1 else "z"

    @property
    def known(self) -> tuple[int, ...] | None:
        """Of each block, the columns of what stands for it where it is given; None: the block itself."""
        return None

    def of_each(self) -> Self:
        """Declare that the blocks are the latents of each modality."""
        self.settings |= {"each": True}
        self.summary = f"{self.summary.removesuffix(_ALL)}, over the latents of each modality"
        return self

    def _restored(self, settings: Mapping[str, Any]) -> Self:
        """This prior with what ``of_each`` declared before it was stored. Raises InputError: a setting that is not valid."""
        each = settings.get("each", False)
        if type(each) is not bool:
            raise misfit(f"each={str(each)[:80]}", "true or false")
        return self.of_each() if each else self

    def describe(self, summary: str, blocks: Sequence[int] | None, **settings: Any) -> None:
        """Set ``blocks`` (None: one block), ``settings`` and ``summary``."""
        self.blocks = (self.latent,) if blocks is None else tuple(blocks)
        self.settings = {"kind": self.kind, **settings, "blocks": list(self.blocks)}
        self.summary = summary + (_ALL if self.latents == "all" else "")

    @classmethod
    @abstractmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The same distribution, bit for bit.

        Args:
            settings: Its ``settings``.
            tensors: Its ``state_dict()``.

        Raises:
            InputError: A setting or tensor is missing or invalid.
        """

    @abstractmethod
    def draw(self, n: int) -> Tensor:
        """n draws of all columns: [n, D]."""

    @abstractmethod
    def complete(self, x: Tensor, observed: Tensor, known: Tensor | None = None) -> Tensor:
        """Draw the blocks that are not observed, given those that are.

        Args:
            x: Latents, [N, D]; the values of blocks that are not observed are ignored.
            observed: [N, G] bool, which blocks are given.
            known: What stands for the blocks that are given, [N, C], of a prior with ``known``; None: ``x``.

        Returns:
            [N, D], with the observed columns of x unchanged.

        Raises:
            InputError: There are no conditional draws of this kind.
        """


def columns_of(each: Tensor, blocks: Sequence[int]) -> Tensor:
    """A value of each block as a value of each column: [..., G] -> [..., D]."""
    return each.repeat_interleave(torch.tensor(blocks, device=each.device), -1)


def stored_blocks(settings: Mapping[str, Any], latent: int) -> tuple[int, ...]:
    """The blocks in stored settings. Files of older versions have none, and contain z alone."""
    blocks = settings.get("blocks", [latent])
    if (
        not isinstance(blocks, list)
        or not all(type(size) is int and size >= 0 for size in blocks)
        or sum(blocks) != latent
    ):
        raise misfit(f"blocks={str(blocks)[:80]}", f"numbers of columns with sum {latent}")
    return tuple(blocks)


def misfit(got: str, expected: str) -> InputError:
    """The error for a stored prior that is not valid."""
    return InputError(
        f"fitted prior: got {got}; expected {expected}; fit it again with: polyvae evaluate RUN"
    )


def checked_tensors(tensors: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    """The tensors with these names. Raises InputError: one is missing, not finite, or of another dtype."""
    for name in names:
        if name not in tensors:
            raise misfit(f"no {name!r}", ", ".join(names))
        if not tensors[name].is_floating_point() or not bool(tensors[name].isfinite().all()):
            raise misfit(f"{name!r} with other values", "finite floating-point numbers")
    if len({tensors[name].dtype for name in names}) > 1:
        raise misfit("tensors of several dtypes", "one dtype")
    return [tensors[name] for name in names]


def check_samples(x: Tensor, least: int, what: str, remedy: str) -> None:
    """Raise InputError if there are no columns, or fewer draws than ``least``."""
    if x.shape[1] == 0:
        raise InputError(
            "fitted prior: got no shared latent (D = 0); expected one or more columns; sample from its own prior"
        )
    if len(x) < least:
        raise InputError(
            f"fitted prior: got {len(x)} posterior draws{what}; expected at least {least}; {remedy}"
        )

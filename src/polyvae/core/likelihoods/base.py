"""What every likelihood implements. Log-likelihoods are in nats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn


class Likelihood(nn.Module, ABC):
    """p(x | decoder output) of one modality.

    Values x are [..., *shape], decoder outputs [..., *output]. Entry masks are bool and shaped like x.

    Args:
        shape: Shape of one sample, without the batch axis.

    Attributes:
        joined: Axis of a sample along which columns form one entry, observed together or not at all; None: every column is its own entry.
        numbers: Decoder outputs for each entry.
        ids: Whether values are ids of classes, which have no differences and no mean: ``mean`` is the most probable value.
        remedy: What to do about invalid values.
    """

    joined: ClassVar[int | None] = None
    numbers: ClassVar[int] = 1
    ids: ClassVar[bool] = False
    remedy: ClassVar[str] = "rescale it or choose another likelihood"

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of the decoder output for one sample."""
        return self.shape if self.numbers == 1 else (*self.shape, self.numbers)

    @property
    def width(self) -> int:
        """Numbers of one row in the largest tensor of ``log_prob``."""
        return prod(self.output)

    @property
    def largest(self) -> int:
        """The largest whole number among the values that a model has to represent exactly; 0: values are numbers that may be rounded."""
        return 0

    @abstractmethod
    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Log-likelihood of every entry, in nats.

        Args:
            out: Decoder output, [..., *output].
            x: Values, [..., *shape].
            observed: Entry mask, [..., *shape] bool; None: all entries are observed.

        Returns:
            [..., *shape]. The value of a one-hot entry is in the column of its class. Values at unobserved entries have no meaning,
            and x at unobserved entries has no influence on the others.
        """

    @abstractmethod
    def log_prob(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Log-likelihood in nats, summed over the observed entries: arguments as in ``entries``, returns [...]."""

    @abstractmethod
    def mean(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        """E[x].

        Args:
            out: Decoder output, [..., *output].
            library: Of counts, the library sizes, [..., 1, ..., 1]; None: the likelihood's own.

        Returns:
            [..., *shape].
        """

    @abstractmethod
    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        """One draw of x: arguments and result as in ``mean``."""

    def library_of(self, out: Tensor, x: Tensor, observed: Tensor) -> Tensor | None:
        """Of counts, the library sizes of samples x given their observed entries, [..., 1, ..., 1]; None: there are none."""
        return None

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """The encoder's input, made from x whose unobserved entries are 0: [..., *shape] -> [..., *shape]."""

    @abstractmethod
    def invalid(self, x: Tensor, observed: Tensor) -> str:
        """Validate observed values, outside the training step.

        Args:
            x: Values, [N, *shape].
            observed: Entry mask, [N, *shape] bool.

        Returns:
            "" if the observed values are possible under this likelihood, else what is wrong with them.
        """

    def counted(self, observed: Tensor) -> Tensor:
        """The entries that count in the likelihood, given the entry mask: bool, [..., *shape]."""
        if self.joined is None:
            return observed
        return observed.all(range(-len(self.shape), 0)[self.joined], keepdim=True).expand_as(observed)

    def summed(self, each: Tensor, observed: Tensor | None) -> Tensor:
        """The sum over the entries that count: [..., *shape] -> [...]."""
        if observed is not None:
            each = torch.where(self.counted(observed), each, 0)
        return each.flatten(each.ndim - len(self.shape)).sum(-1)


def offending(seen: Tensor, possible: Tensor, expected: str) -> str:
    """How many of the values ``seen`` are not ``possible``, and the first of them; "" if all are possible."""
    wrong = seen[~possible]
    if not len(wrong):
        return ""
    values = "value" if len(wrong) == 1 else "values"
    return f"{len(wrong)} {values} of {len(seen)} that cannot occur, such as {float(wrong[0]):.6g}; expected {expected}"


class Entrywise(Likelihood):
    """A likelihood whose ``log_prob`` is the sum of its ``entries``."""

    def log_prob(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.summed(self.entries(out, x, observed), observed)

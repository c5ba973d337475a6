"""Likelihoods of values with few states: Bernoulli, categorical and segmentation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from polyvae.core import noise
from polyvae.core.likelihoods.base import Entrywise, offending
from polyvae.utils.errors import InputError, is_number

_EMPTY = 1e-5  # the overlap of a class without mass on either side is 0, not 0/0


class BernoulliLikelihood(Entrywise):
    """x in [0, 1], with logits from the decoder. Values between 0 and 1 count as probabilities of a 1 (cross-entropy)."""

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return x * out - functional.softplus(out)

    def mean(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return out.sigmoid()

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return (noise.uniform(tuple(out.shape), out, "x", "") < out.sigmoid()).to(out)

    def features(self, x: Tensor) -> Tensor:
        return x

    def invalid(self, x: Tensor, observed: Tensor) -> str:
        seen = x[observed]
        return offending(seen, (seen >= 0) & (seen <= 1), "0 to 1")


class OneHot(Entrywise):
    """x one-hot over the axis ``joined``, with logits from the decoder. An entry is observed if all its columns are."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        assert self.joined is not None
        self.axis = range(-len(shape), 0)[self.joined]

    def mean(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        return out.softmax(self.axis)

    def sample(self, out: Tensor, library: Tensor | None = None) -> Tensor:
        probability = out.movedim(self.axis, -1).softmax(-1)
        classes = probability.shape[-1]
        choice = noise.choice(probability.reshape(-1, classes).T, 1, "x", "")
        return functional.one_hot(choice[0], classes).view(probability.shape).movedim(-1, self.axis).to(out)

    def features(self, x: Tensor) -> Tensor:
        return x

    def invalid(self, x: Tensor, observed: Tensor) -> str:
        classes = x.shape[self.axis]
        rows = x.movedim(self.axis, -1)[self.counted(observed).movedim(self.axis, -1)].view(-1, classes)
        if bool(((rows == 0) | (rows == 1)).all()) and bool((rows.sum(-1) == 1).all()):
            return ""
        place = "last" if self.axis == -1 else "first"
        return f"fractions or rows that do not sum to 1; expected one-hot rows over the {place} axis"


class CategoricalLikelihood(OneHot):
    """x one-hot over its last axis, with logits from the decoder. An entry is observed if all its columns are."""

    joined = -1

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return x * out.log_softmax(-1)


class SegmentationLikelihood(OneHot):
    """The class of every pixel: x [C, *sizes], one-hot over its first axis; cross-entropy plus an overlap (Dice) term.

    With p = softmax(out) and N observed pixels, Dice_c = 2 Σ p_c x_c / (Σ p_c² + Σ x_c + 1e-5), and Dice_c = 0 for a class that the
    sample lacks:

        log p(x | out) = Σ x log p − dice N (1 − mean_c Dice_c)

    This is −N times the loss CE + Dice of Dorent et al.; the squares follow Milletari et al. ``dice=0`` is ``categorical``. A value above
    0 gives a sub-normalised density: Dice ≤ 1, so p is at most that of ``categorical``, and log-likelihood estimates of an observed
    segmentation are a lower bound on those of the same decoder with ``categorical``.

    Args:
        shape: (classes, *sizes).
        dice: Weight of the overlap term, 0 or more.

    Raises:
        InputError: A shape of fewer than two axes, or a weight below 0.

    References:
        Dorent et al., Hetero-Modal Variational Encoder-Decoder for Joint Modality Completion and Segmentation, MICCAI 2019.
        Milletari et al., V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation, 3DV 2016.
    """

    joined = 0

    def __init__(self, shape: tuple[int, ...], dice: float = 1.0) -> None:
        super().__init__(shape)
        if len(shape) < 2:
            raise InputError(
                f"likelihood 'segmentation': got shape {shape}; expected (classes, *sizes); for one label per sample take "
                "'categorical'"
            )
        if not is_number(dice) or not 0 <= dice < math.inf:
            raise InputError(
                f"likelihood 'segmentation': got dice={dice!r}; expected a number, 0 or more; leave it out for 1"
            )
        self.dice = dice

    def entries(self, out: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        log_p = out.log_softmax(self.axis)
        x = x.expand_as(log_p)
        counted = (
            torch.ones_like(x, dtype=torch.bool) if observed is None else self.counted(observed).expand_as(x)
        )
        x, p = torch.where(counted, x, 0), torch.where(counted, log_p.exp(), 0)
        pixels = tuple(range(1 - len(self.shape), 0))
        size = (p.square() + x).sum(pixels, keepdim=True) + _EMPTY  # [..., C, 1, ...]
        share = counted.to(p.dtype).sum(pixels, keepdim=True) / self.shape[0]
        return x * (log_p - self.dice) + self.dice * share * 2 * p * x / size

"""LIKELIHOODS: p(x | decoder output) by name. Log-likelihoods are in nats, summed over a modality's observed entries.

A likelihood is a class with ``shape``, the shape of one sample, as its first parameter; further parameters, such as ``scale``, come from
``Modality.params``.

Example:
    >>> import torch
    >>> from polyvae import LIKELIHOODS
    >>> sorted(LIKELIHOODS)[:3]
    ['bernoulli', 'categorical', 'laplace']
    >>> likelihood = LIKELIHOODS["normal"]((2, 3), scale=0.5)
    >>> out, x = torch.zeros(4, 2, 3), torch.zeros(4, 2, 3)
    >>> likelihood.log_prob(out, x).shape
    torch.Size([4])
"""

from __future__ import annotations

from polyvae.core.likelihoods.base import Entrywise, Likelihood
from polyvae.core.likelihoods.continuous import LaplaceLikelihood, NormalLikelihood, Scaled
from polyvae.core.likelihoods.counts import (
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    ZeroInflatedNegativeBinomialLikelihood,
)
from polyvae.core.likelihoods.discrete import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    OneHot,
    SegmentationLikelihood,
)
from polyvae.core.likelihoods.sequence import SequenceLikelihood, Text, TokensLikelihood

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "normal": NormalLikelihood,
    "laplace": LaplaceLikelihood,
    "bernoulli": BernoulliLikelihood,
    "categorical": CategoricalLikelihood,
    "segmentation": SegmentationLikelihood,
    "poisson": PoissonLikelihood,
    "negative_binomial": NegativeBinomialLikelihood,
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomialLikelihood,
    "sequence": SequenceLikelihood,
    "tokens": TokensLikelihood,
}

__all__ = ["LIKELIHOODS", "Entrywise", "Likelihood", "NormalLikelihood", "OneHot", "Scaled", "Text"]

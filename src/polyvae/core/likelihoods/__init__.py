"""LIKELIHOODS: p(x | decoder output) by name. Log-likelihoods are in nats, summed over a modality's observed entries.

A likelihood is a class with ``shape``, the shape of one sample, as its first parameter; further parameters, such as ``scale``, come from
``Modality.params``.

Example:
    >>> import torch
    >>> from polyvae import LIKELIHOODS
    >>> sorted(LIKELIHOODS)[:3]
    ['bernoulli', 'beta', 'beta_binomial']
    >>> likelihood = LIKELIHOODS["normal"]((2, 3), scale=0.5)
    >>> out, x = torch.zeros(4, 2, 3), torch.zeros(4, 2, 3)
    >>> likelihood.log_prob(out, x).shape
    torch.Size([4])
"""

from __future__ import annotations

from polyvae.core.likelihoods.base import Entrywise, Likelihood
from polyvae.core.likelihoods.continuous import NormalLikelihood, Scaled
from polyvae.core.likelihoods.discrete import OneHot
from polyvae.core.likelihoods.mixed import MixedLikelihood
from polyvae.core.likelihoods.plain import PLAIN
from polyvae.core.likelihoods.sequence import Text

LIKELIHOODS: dict[str, type[Likelihood]] = {**PLAIN, "mixed": MixedLikelihood}

__all__ = [
    "LIKELIHOODS",
    "Entrywise",
    "Likelihood",
    "MixedLikelihood",
    "NormalLikelihood",
    "OneHot",
    "Scaled",
    "Text",
]

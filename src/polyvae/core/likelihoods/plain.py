"""PLAIN: every likelihood by name but ``mixed``, which is made of these."""

from __future__ import annotations

from polyvae.core.likelihoods.base import Likelihood
from polyvae.core.likelihoods.continuous import LaplaceLikelihood, NormalLikelihood, StudentTLikelihood
from polyvae.core.likelihoods.counts import (
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    ZeroInflatedNegativeBinomialLikelihood,
)
from polyvae.core.likelihoods.discrete import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    SegmentationLikelihood,
)
from polyvae.core.likelihoods.ordered import DiscretisedLogisticLikelihood, OrdinalLikelihood
from polyvae.core.likelihoods.sequence import SequenceLikelihood, TokensLikelihood
from polyvae.core.likelihoods.shares import BetaBinomialLikelihood, BetaLikelihood

PLAIN: dict[str, type[Likelihood]] = {
    "normal": NormalLikelihood,
    "laplace": LaplaceLikelihood,
    "student_t": StudentTLikelihood,
    "beta": BetaLikelihood,
    "bernoulli": BernoulliLikelihood,
    "categorical": CategoricalLikelihood,
    "ordinal": OrdinalLikelihood,
    "segmentation": SegmentationLikelihood,
    "poisson": PoissonLikelihood,
    "negative_binomial": NegativeBinomialLikelihood,
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomialLikelihood,
    "beta_binomial": BetaBinomialLikelihood,
    "discretised_logistic": DiscretisedLogisticLikelihood,
    "sequence": SequenceLikelihood,
    "tokens": TokensLikelihood,
}

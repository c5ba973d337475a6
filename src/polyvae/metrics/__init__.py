"""METRICS: groups of metrics by name, which ``evaluate`` computes for a trained model and held-out data.

A metric is a function from the evaluation context to numbers by name. Floating-point numbers at the top level are headline numbers;
tables are nested.

Example:
    >>> import polyvae as pv
    >>> list(pv.METRICS)
    ['coherence', 'attributes', 'likelihood', 'quality', 'reconstruction', 'latents', 'conflict', 'prediction', 'variance', 'matching',
    'diagnosis', 'batches']
"""

from polyvae.metrics.attribution import Attribution, attribute
from polyvae.metrics.context import Context, fit_prior, posterior_samples
from polyvae.metrics.diagnosis import Diagnosis, Finding, diagnose
from polyvae.metrics.evaluation import METRICS, Evaluation, available, evaluate, judges_of
from polyvae.metrics.explained import VarianceExplained
from polyvae.metrics.features import FeatureNet
from polyvae.metrics.judges import Judges, train_judges
from polyvae.metrics.matching import Matching, match
from polyvae.metrics.released import judges_for
from polyvae.metrics.variance import variance_explained

__all__ = [
    "METRICS",
    "Attribution",
    "Context",
    "Diagnosis",
    "Evaluation",
    "FeatureNet",
    "Finding",
    "Judges",
    "Matching",
    "VarianceExplained",
    "attribute",
    "available",
    "diagnose",
    "evaluate",
    "fit_prior",
    "judges_for",
    "judges_of",
    "match",
    "posterior_samples",
    "train_judges",
    "variance_explained",
]

"""METRICS: groups of metrics by name, which ``evaluate`` computes for a trained model and held-out data.

A metric is a function from the evaluation context to numbers by name. Floating-point numbers at the top level are headline numbers;
tables are nested.

Example:
    >>> import polyvae as pv
    >>> list(pv.METRICS)
    ['coherence', 'attributes', 'likelihood', 'quality', 'reconstruction', 'latents', 'conflict', 'prediction', 'batches']
"""

from polyvae.metrics.context import Context, fit_prior, posterior_samples
from polyvae.metrics.evaluation import METRICS, Evaluation, available, evaluate, judges_of
from polyvae.metrics.features import FeatureNet
from polyvae.metrics.judges import Judges, train_judges
from polyvae.metrics.released import judges_for

__all__ = [
    "METRICS",
    "Context",
    "Evaluation",
    "FeatureNet",
    "Judges",
    "available",
    "evaluate",
    "fit_prior",
    "judges_for",
    "judges_of",
    "posterior_samples",
    "train_judges",
]

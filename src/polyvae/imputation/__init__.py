"""Imputation of tables: the estimator, how it is scored, and how several imputations are pooled.

Example:
    >>> from polyvae.imputation import Estimator
    >>> Estimator(members=3).members
    3
"""

from polyvae.imputation.estimator import Estimator
from polyvae.imputation.filling.rubin import pool
from polyvae.imputation.scoring.scores import Scores

__all__ = ["Estimator", "Scores", "pool"]

"""Distributions of latents that are fitted to the aggregate posterior after training."""

from __future__ import annotations

from polyvae.core.fitted.base import FittedPrior
from polyvae.core.fitted.flow import FittedFlow, check_flow
from polyvae.core.fitted.mixture import FittedMixture
from polyvae.core.fitted.score import FittedScore

__all__ = ["FITTED", "FittedFlow", "FittedMixture", "FittedPrior", "FittedScore", "check_flow"]

FITTED: dict[str, type[FittedPrior]] = {"gmm": FittedMixture, "flow": FittedFlow, "mld": FittedScore}

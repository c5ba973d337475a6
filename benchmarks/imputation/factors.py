"""MOFA (Argelaguet et al. 2020) by mofapy2, with its defaults except for the number of factors; an extra: pip install mofapy2."""

from __future__ import annotations

import contextlib
import importlib.util
import io

import numpy as np
from numpy.typing import NDArray

from benchmarks.imputation.tables import Skipped, Views

Array = NDArray[np.float64]
FACTORS = 30  # its documentation advises 10 to 15 for describing data, and many more for imputation, where small factors matter


class Mofa:
    """Factors are fitted once; a new sample's factors are their posterior mean given what was observed of it.

    mofapy2 has no prediction for new samples. Given the fitted loadings' first and second moments and the noise precision τ, the factors
    of a sample have posterior precision I + Σ τ_d E[w_d w_dᵀ] over its observed columns d, and mean that inverse times Σ τ_d E[w_d] x_d.
    """

    def __init__(self, train: Views) -> None:
        if importlib.util.find_spec("mofapy2") is None:
            raise Skipped("mofapy2 is not installed; pip install mofapy2")
        from mofapy2.run.entry_point import entry_point

        with contextlib.redirect_stdout(io.StringIO()):
            run = entry_point()
            run.set_data_options(scale_views=False)
            data = [[np.where(seen, x, np.nan).astype(np.float64)] for x, seen in train.values()]
            run.set_data_matrix(data, views_names=list(train), likelihoods=["gaussian"] * len(train))
            run.set_model_options(
                factors=min(FACTORS, len(data[0][0]) - 1), spikeslab_weights=True, ard_weights=True
            )
            run.set_train_options(convergence_mode="fast", seed=0, quiet=True)
            run.build()
            run.run()
        nodes = run.model.nodes
        weights, noise = nodes["W"].getExpectations(), nodes["Tau"].getExpectations()
        self.views = {}
        for name, w, tau in zip(train, weights, noise, strict=True):
            first, spread = np.asarray(w["E"]), np.asarray(w["E2"]) - np.asarray(w["E"]) ** 2
            self.views[name] = (
                first,
                spread,
                np.asarray(tau["E"]).mean(0),
            )  # the precision of a column is one number

    def factors(self, inputs: Views) -> Array:
        """Posterior means of the factors: [N, K]."""
        count, width = len(next(iter(inputs.values()))[0]), next(iter(self.views.values()))[0].shape[1]
        precision, pulled = np.tile(np.eye(width), (count, 1, 1)), np.zeros((count, width))
        for name, (x, seen) in inputs.items():
            first, spread, tau = self.views[name]
            outer = first[:, :, None] * first[:, None] + spread[:, :, None] * np.eye(width)
            known = seen * tau
            precision += np.einsum("nd,dkl->nkl", known, outer, optimize=True)
            pulled += (known * x) @ first
        return np.linalg.solve(precision, pulled[:, :, None])[:, :, 0]

    def __call__(self, inputs: Views, target: str) -> Array:
        return self.factors(inputs) @ self.views[target][0].T

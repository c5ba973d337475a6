"""Multimodal variational autoencoders: MMVAE+ and related models, with missing modalities.

The public names are listed by ``dir(polyvae)``. All models are classes of ``polyvae.models``.

Example:
    >>> import torch
    >>> import polyvae as pv
    >>> data = pv.MultimodalData({"rna": torch.randn(100, 50), "protein": torch.randn(100, 8)})
    >>> model = pv.MMVAEPlus(data.modalities(private=4), latent=4)
    >>> history = pv.fit(model, data, epochs=1, show=False)
    >>> batch = data.take(slice(0, 10))
    >>> model.embed(batch).shape
    torch.Size([10, 4])
    >>> model.generate(batch.observe("rna"), K=5)["protein"].shape
    torch.Size([5, 10, 8])
"""

import importlib
from typing import TYPE_CHECKING, Any

from polyvae import models
from polyvae.core.batch import Batch
from polyvae.core.covariates import Covariate
from polyvae.core.distributions import Laplace, Mixture, Normal
from polyvae.core.likelihoods import LIKELIHOODS
from polyvae.core.modality import Modality
from polyvae.core.networks import NETWORKS
from polyvae.data import DATASETS, MultimodalData, load_dataset, text
from polyvae.metrics import METRICS, attribute, diagnose, evaluate, fit_prior, variance_explained
from polyvae.metrics.results import embed, generate, log_marginal
from polyvae.models import MMVAE, MODELS, MVAE, VAE, MMVAEPlus, MoPoE, build, cite
from polyvae.models.bundles import load_model, save_model
from polyvae.training.extending import extend
from polyvae.training.loop import fit
from polyvae.utils.errors import InputError

__version__ = "0.1.0"
__all__ = [
    "DATASETS",
    "LIKELIHOODS",
    "METRICS",
    "MMVAE",
    "MODELS",
    "MVAE",
    "NETWORKS",
    "VAE",
    "Batch",
    "Covariate",
    "Estimator",
    "InputError",
    "Laplace",
    "MMVAEPlus",
    "Mixture",
    "MoPoE",
    "Modality",
    "MultimodalData",
    "Normal",
    "attribute",
    "build",
    "cite",
    "diagnose",
    "embed",
    "evaluate",
    "extend",
    "fit",
    "fit_prior",
    "generate",
    "load_dataset",
    "load_model",
    "log_marginal",
    "models",
    "pool",
    "save_model",
    "text",
    "variance_explained",
]


if TYPE_CHECKING:
    from polyvae.imputation import Estimator, pool

_LAZY = {"Estimator", "pool"}  # they need scikit-learn, whose import takes seconds


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module("polyvae.imputation"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

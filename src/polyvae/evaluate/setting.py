"""What a metric is given."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from polyvae.data import MultimodalData, mix
from polyvae.errors import InputError
from polyvae.evaluate.judges import Judges
from polyvae.priors import FittedPrior
from polyvae.progress import Reporter, Silent
from polyvae.vae import MultimodalVAE


@dataclass(frozen=True)
class Setting:
    """The held-out part, what there is beside it, and how much of everything.

    ``test`` held-out data. ``judges`` None where there are no labels or no images. ``prior`` None where no prior was fitted.
    ``draws`` unconditional draws. ``likelihood_samples``, ``likelihood_rows``: importance samples per datum, and how many data.
    """

    test: MultimodalData
    judges: Judges | None = None
    prior: FittedPrior | None = None
    seed: int = 0
    draws: int = 10_000
    likelihood_samples: int = 1000
    likelihood_rows: int = 200
    batch_size: int = 1000
    report: Reporter = field(default_factory=Silent)


@torch.no_grad()
def posterior_samples(model: MultimodalVAE, data: MultimodalData, seed: int = 0, limit: int = 20_000) -> torch.Tensor:
    """One draw of z for each of the first ``limit`` samples of ``data``: [N, D]."""
    with torch.random.fork_rng():
        torch.manual_seed(mix(seed, 1))
        return torch.cat([model.draw(batch).z[0] for batch in data.rows(slice(0, limit)).batches(1000)])


def fit_prior(model: MultimodalVAE, data: MultimodalData, components: int = 20, covariance: str = "full", seed: int = 0) -> FittedPrior:
    """A Gaussian mixture over z for ``model.sample(prior=)``, fitted to samples of the aggregate posterior of ``data`` (training)."""
    if model.seen == 0:
        raise InputError(f"fitted prior: {model.name} has no shared code; expected latent columns; sample from its own prior")
    return FittedPrior.fit(posterior_samples(model, data, seed), components, covariance, seed).to(next(model.parameters()).device)

"""What a metric is given."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from polyvae.core.fitted import FITTED, FittedFlow, FittedMixture, FittedPrior
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData, mix
from polyvae.metrics.features import FeatureNet
from polyvae.metrics.judges import Judges
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.progress import Reporter, Silent


@dataclass(frozen=True)
class Setting:
    """The held-out part, what there is beside it, and how much of everything.

    ``test`` held-out data. ``judges`` None where there are no labels or no images. ``prior`` None where no prior was fitted.
    ``draws`` unconditional draws. ``likelihood_samples``, ``likelihood_rows``: importance samples per datum, and how many data.
    ``train`` the training part, that probes are fitted to; None: they are left out.
    ``protocol`` "sound", or "published": as the authors' code of 2023 does it, quirks included. ``features`` the feature net of image
    quality; None: each modality's judge. ``values``: how many numbers of one modality are decoded at a time. ``inputs``: coherence given
    at most so many modalities; None: any number. ``conditional``: which conditional likelihoods, "none", "rest" or "pairs".
    ``measures`` of image quality: "all" or "frechet".
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
    train: MultimodalData | None = None
    protocol: str = "sound"
    features: FeatureNet | None = None
    values: int = 2**22
    inputs: int | None = None
    conditional: str = "none"
    measures: str = "all"

    def room(self, model: MultimodalVAE) -> int:
        """Rows that may be decoded at a time: the widest modality holds ``values`` numbers in them."""
        widest = max(
            max(math.prod(net.spec.shape), math.prod(net.likelihood.output))
            for net in model.modalities.values()
        )
        return max(1, self.values // widest)

    def step(self, model: MultimodalVAE, draws: int = 1) -> int:
        """Samples at a time, ``draws`` rows each: ``batch_size`` at most."""
        return max(1, min(self.batch_size, self.room(model) // draws))


def some(data: MultimodalData, rows: int, seed: int) -> MultimodalData:
    """At most so many samples, drawn at random: a part may be sorted by class."""
    if len(data) <= rows:
        return data
    return data.rows(
        torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:rows].sort().values
    )


@torch.no_grad()
def posterior_samples(
    model: MultimodalVAE, data: MultimodalData, seed: int = 0, limit: int = 20_000
) -> torch.Tensor:
    """One draw of z for each of the first ``limit`` samples of ``data``: [N, D]."""
    with torch.random.fork_rng():
        torch.manual_seed(mix(seed, 1))
        return torch.cat([model.draw(batch).z[0] for batch in data.rows(slice(0, limit)).batches(1000)])


def fit_prior(
    model: MultimodalVAE,
    data: MultimodalData,
    components: int = 20,
    covariance: str = "full",
    seed: int = 0,
    kind: str = "gmm",
    transforms: int = 3,
) -> FittedPrior:
    """A density over z for ``model.sample(prior=)``, fitted to samples of the aggregate posterior of ``data`` (training).

    ``kind`` "gmm": a Gaussian mixture with ``components`` and ``covariance``; "flow": a spline flow of ``transforms``. Raises InputError.
    """
    if model.shared == 0:
        raise InputError(
            f"fitted prior: {model.name} has no shared code; expected latent columns; sample from its own prior"
        )
    if kind not in FITTED:
        raise InputError(f"fitted prior: unknown kind {kind!r}; {nearest(kind, FITTED)}")
    z = posterior_samples(model, data, seed)
    prior = (
        FittedFlow.fit(z, transforms, seed)
        if kind == "flow"
        else FittedMixture.fit(z, components, covariance, seed)
    )
    return prior.to(next(model.parameters()).device)

"""The evaluation context: everything that a metric may use."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Unpack

import torch

from polyvae.config import EvaluateConfig, EvaluateSettings
from polyvae.core.fitted import FITTED, FittedFlow, FittedMixture, FittedPrior, FittedScore
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.metrics.features import FeatureNet
from polyvae.metrics.judges import Judges
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.progress import Reporter, Silent
from polyvae.utils.seeds import fold_in

LATENTS = ("z", "all")
_DRAWS = 10  # posterior draws of each sample for a score network


@dataclass(frozen=True)
class Context:
    """What a metric is computed from.

    Attributes:
        model: The trained model, in evaluation mode.
        data: The held-out data.
        config: The settings of the evaluation.
        judges: The classifiers used for evaluation; None where the data have no labels or no images.
        prior: The fitted prior; None where none was fitted.
        train: The training part, to which probes are fitted and with which images are compared; None: such numbers are left out.
        features: The feature network of image quality; None: the judge of each modality.
        report: Where progress is reported.
        batch_size: The largest number of samples that are processed together.
        values: How many numbers of one modality may be decoded together.
        notes: What a reader of the numbers has to know about this evaluation, such as what was left out; one line each.
    """

    model: MultimodalVAE
    data: MultimodalData
    config: EvaluateConfig = field(default_factory=EvaluateConfig)
    judges: Judges | None = None
    prior: FittedPrior | None = None
    train: MultimodalData | None = None
    features: FeatureNet | None = None
    report: Reporter = field(default_factory=Silent)
    batch_size: int = 1000
    values: int = 2**22
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        model: MultimodalVAE,
        data: MultimodalData,
        judges: Judges | None = None,
        *,
        prior: FittedPrior | None = None,
        train: MultimodalData | None = None,
        feature_net: FeatureNet | None = None,
        batch_size: int = 1000,
        values: int = 2**22,
        **settings: Unpack[EvaluateSettings],
    ) -> Context:
        """A context with these settings; the others keep their defaults. Raises InputError for a setting that is not valid."""
        return cls(
            model,
            data,
            EvaluateConfig.check(settings, "evaluate"),
            judges,
            prior,
            train,
            feature_net,
            batch_size=batch_size,
            values=values,
        )

    def seed(self, stream: str, *numbers: int) -> int:
        """The seed of a stream of random numbers by its name, as a function of the seed of the evaluation."""
        return fold_in(self.config.seed, stream, *numbers)

    def note(self, line: str) -> None:
        """Report this line once, and store it next to the numbers."""
        if line not in self.notes:
            self.notes.append(line)
            self.report.say(line)

    @property
    def rows(self) -> int:
        """How many rows may be decoded together, so that the widest modality has at most ``values`` numbers."""
        widest = max(
            max(math.prod(net.spec.shape), net.likelihood.width) for net in self.model.modalities.values()
        )
        return max(1, self.values // widest)

    def step(self, draws: int = 1) -> int:
        """How many samples with ``draws`` rows each are processed together."""
        return max(1, min(self.batch_size, self.rows // draws))


def subsample(
    data: MultimodalData, rows: int, seed: int, among: torch.Tensor | None = None
) -> MultimodalData:
    """At most ``rows`` samples, of all or of those ``among`` which to choose, [N] bool.

    They are chosen at random, because a part may be sorted by class.
    """
    numbers = torch.arange(len(data)) if among is None else among.cpu().nonzero()[:, 0]
    if len(numbers) <= rows:
        return data if among is None else data.rows(numbers)
    chosen = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))[:rows].sort().values
    return data.rows(numbers[chosen])


@torch.no_grad()
def posterior_samples(
    model: MultimodalVAE,
    data: MultimodalData,
    seed: int = 0,
    limit: int = 20_000,
    latents: str = "z",
    K: int = 1,
) -> torch.Tensor:
    """K posterior draws of z, or of "all" latents, for each of the first ``limit`` samples of ``data``: [K N, D] or [K N, D + W].

    For all latents, these are the first complete samples (see ``complete_rows``).
    """
    rows = torch.arange(len(data)) if latents == "z" else complete_rows(model, data)
    with torch.random.fork_rng():
        torch.manual_seed(fold_in(seed, "fitted prior"))
        draws = [model.draw(batch, K) for batch in data.rows(rows[:limit]).batches(1000)]
    parts = [draw.z if latents == "z" else torch.cat([draw.z, draw.w], -1) for draw in draws]
    return torch.cat([part.flatten(0, 1) for part in parts])


def complete_rows(model: MultimodalVAE, data: MultimodalData) -> torch.Tensor:
    """The samples in which every encoded modality with private latents is observed, and at least one modality is encoded: [N] int64.

    Only there are all latents inferred. Elsewhere some would be draws from the prior, unrelated to the rest.
    """
    mask = {name: row.cpu() for name, row in zip(data.names, data.mask, strict=True)}
    missing = torch.zeros(len(data), dtype=torch.bool)
    encoded = [net for net in model.modalities.values() if net.encoder is not None]
    rows = torch.stack([mask.get(net.spec.name, missing) for net in encoded])
    private = torch.tensor([net.private > 0 for net in encoded])
    return (rows[private].all(0) & rows.any(0)).nonzero()[:, 0]


def check_mode(what: str, model: MultimodalVAE) -> None:
    """Raises InputError for a model in training mode, whose dropout and batch statistics would change its results."""
    if model.training:
        raise InputError(
            f"{what}: the model is in training mode; expected evaluation mode; call model.eval() first"
        )


def check_finite(what: str, x: torch.Tensor) -> None:
    """Raises InputError if a latent is NaN or infinite; no classifier or density can be fitted to it."""
    bad = int((~x.isfinite()).any(-1).sum())
    if bad:
        raise InputError(
            f"{what}: got latents that are NaN or infinite for {bad} of {len(x)} samples; expected finite ones; the training "
            "diverged: train again with a smaller lr"
        )


def fit_prior(
    model: MultimodalVAE,
    data: MultimodalData,
    components: int = 20,
    covariance: str = "full",
    seed: int = 0,
    kind: str = "gmm",
    transforms: int = 3,
    latents: str = "z",
    steps: int = 4000,
) -> FittedPrior:
    """Fit a distribution of the latents to draws from the aggregate posterior.

    Over z, the result replaces p(z) in ``model.sample(n, prior)``. A posterior draw is taken for each of the first 20,000 samples.

    Over all latents [z, w_1, ..., w_M], it replaces p(z) p(w | z), and ``model.generate(batch, prior=prior)`` draws the private latents of
    missing modalities given z and those of the observed ones. Models without a shared latent can so generate across modalities. It is
    fitted to complete samples only, those in which every modality with private latents is observed. A score network is fitted to ten
    posterior draws of each sample.

    Args:
        model: A trained model.
        data: The training data.
        components: The number of components of the Gaussian mixture.
        covariance: "full" or "diag", the covariance of each Gaussian component. Over all latents, full covariances are shrunk towards
            their diagonals, as far as the likelihood of held-out draws increases.
        seed: Seed of the posterior draws and of the fit.
        kind: "gmm" for a Gaussian mixture, "flow" for a normalising flow (needs the extra ``flow``; no conditional draws), "mld" for a
            score network (multimodal latent diffusion).
        transforms: The number of spline transforms of the flow.
        latents: "z" or "all".
        steps: The number of training steps of the score network.

    Returns:
        The fitted prior, on the device of the model.

    Raises:
        InputError: If the model has no shared latent (with ``latents="z"``), a kind is unknown, an option is not valid, or there are too
            few samples.

    References:
        Ghosh, P., Sajjadi, M. S. M., Vergari, A., Black, M., & Schölkopf, B. (2020). From variational to deterministic autoencoders. ICLR.
        Bounoua, M., Franzese, G., & Michiardi, P. (2024). Multi-modal latent diffusion. Entropy, 26(4), 320.

    Example:
        >>> import polyvae as pv
        >>> data = pv.load_dataset("polydigits")
        >>> model = pv.build("mmvae+", data.modalities(), latent=2).eval()
        >>> prior = pv.fit_prior(model, data.train.rows(slice(0, 200)), components=2, latents="all")
        >>> model.sample(4, prior)["m0"].shape[0]
        4
        >>> model.generate(data.test.take([0, 1, 2]).observe("m0"), prior=prior)["m1"].shape[:2]
        torch.Size([1, 3])
    """
    if latents not in LATENTS:
        raise InputError(f"fitted prior: unknown latents {latents!r}; {nearest(latents, LATENTS)}")
    if model.shared == 0 and latents == "z":
        raise InputError(
            f"fitted prior: {model.name} has no shared latent; expected one or more latent dimensions; sample from the prior of the "
            "model, or fit one with latents='all'"
        )
    if kind not in FITTED:
        raise InputError(f"fitted prior: unknown kind {kind!r}; {nearest(kind, FITTED)}")
    if latents == "all" and not len(complete_rows(model, data)):
        raise InputError(
            "fitted prior: got no complete sample; expected samples in which every modality with private latents is observed; fit one "
            "with latents='z'"
        )
    # Clean blocks enter a score network without noise. With several draws, their values do not identify a training sample.
    x = posterior_samples(model, data, seed, latents=latents, K=_DRAWS if kind == "mld" else 1)
    check_finite("fitted prior", x)
    blocks = model.blocks if latents == "all" else None
    if kind == "flow":
        prior: FittedPrior = FittedFlow.fit(x, transforms, seed, blocks=blocks)
    elif kind == "mld":
        prior = FittedScore.fit(x, steps, seed, blocks)
    else:
        prior = FittedMixture.fit(x, components, covariance, seed, blocks)
    return prior.to(next(model.parameters()).device)

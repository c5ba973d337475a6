"""The evaluation context: everything that a metric may use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Unpack

import torch

from polyvae.config import EvaluateConfig, EvaluateSettings
from polyvae.core.fitted import FITTED, FittedFlow, FittedMixture, FittedPrior, FittedScore
from polyvae.core.fitted.score import check_design
from polyvae.core.separate import blocks_of_each, describe_each, infer_each
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.metrics.features import FeatureNet
from polyvae.metrics.judges import Judges
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.progress import Reporter, Silent
from polyvae.utils.seeds import fold_in

LATENTS = ("z", "all", "each")
_FITTED_TO = 20_000  # samples that a mixture or a flow is fitted to
_DRAWS = 10  # posterior draws of each sample for a score network
_ROWS = 200_000  # at most this many draws in all


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
    """K posterior draws of z, "all" latents, or those of "each" modality, for each of the first ``limit`` samples of ``data``: [K N, C].

    If not of z alone, these are the first complete samples (see ``complete_rows``).
    """
    rows = torch.arange(len(data)) if latents == "z" else complete_rows(model, data, latents)
    batches = data.rows(rows[:limit]).batches(1000)
    with torch.random.fork_rng():
        torch.manual_seed(fold_in(seed, "fitted prior"))
        if latents == "each":
            return torch.cat([infer_each(model, batch, K).flatten(0, 1) for batch in batches])
        draws = [model.draw(batch, K) for batch in batches]
    parts = [draw.z if latents == "z" else torch.cat([draw.z, draw.w], -1) for draw in draws]
    return torch.cat([part.flatten(0, 1) for part in parts])


@torch.no_grad()
def _described(model: MultimodalVAE, data: MultimodalData, limit: int, K: int) -> list[torch.Tensor]:
    """What stands for each modality where it is given, in the rows of ``posterior_samples``: [K N, C_m] for each."""
    rows = complete_rows(model, data, "each")[:limit]
    found = [describe_each(model, batch) for batch in data.rows(rows).batches(1000)]
    return [torch.cat([part.repeat(K, 1) for part in parts]) for parts in zip(*found, strict=True)]


def complete_rows(model: MultimodalVAE, data: MultimodalData, latents: str = "all") -> torch.Tensor:
    """The samples in which every encoded modality with private latents is observed, and at least one modality is encoded: [N] int64.

    Only there are all latents inferred. Elsewhere some would be draws from the prior, unrelated to the rest. For the latents of "each"
    modality, those in which every encoded modality is observed.
    """
    mask = {name: row.cpu() for name, row in zip(data.names, data.mask, strict=True)}
    missing = torch.zeros(len(data), dtype=torch.bool)
    encoded = [net for net in model.modalities.values() if net.encoder is not None]
    rows = torch.stack([mask.get(net.spec.name, missing) for net in encoded])
    private = torch.tensor([net.private > 0 or latents == "each" for net in encoded])
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


def _places(model: MultimodalVAE, latents: str, given: Sequence[str]) -> list[int]:
    """The blocks of the modalities that are most often given; z, which is always inferred, is among them. Raises InputError for others."""
    for name in given:
        if name not in model.modalities:
            raise InputError(f"fitted prior: got given={name!r}; {nearest(name, model.modalities)}")
    if given and (latents == "z" or set(given) == set(model.modalities)):
        raise InputError(
            f"fitted prior: got given={list(given)} with latents={latents!r}; expected some of the modalities, and latents that can be "
            "drawn given others; leave given out, or choose latents='each'"
        )
    places = [place for place, name in enumerate(model.modalities) if name in given]
    return places if latents == "each" else [0, *(place + 1 for place in places)] if given else []


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
    hidden: int = 256,
    layers: int = 3,
    design: str = "balanced",
    guidance: float = 0.0,
    given: Sequence[str] = (),
) -> FittedPrior:
    """Fit a distribution of the latents to draws from the aggregate posterior.

    Over z, the result replaces p(z) in ``model.sample(n, prior)``. A posterior draw is taken for each of the first 20,000 samples.

    Over all latents [z, w_1, ..., w_M], it replaces p(z) p(w | z), and ``model.generate(batch, prior=prior)`` draws the private latents of
    missing modalities given z and those of the observed ones. Models without a shared latent can so generate across modalities. It is
    fitted to complete samples only, those in which every modality with private latents is observed. A score network is fitted to ten
    posterior draws of each sample, or fewer so that these are at most 200,000.

    Over the latents of each modality, [z_1, w_1, ..., z_M, w_M] with z_m ~ q(z | x_m), every modality is decoded from its own. Given a
    caption, ``model.generate(batch, prior=prior)`` then draws the latents that an image has, in place of decoding an image from those of
    the caption. So an image differs from draw to draw in what the caption leaves open. It is fitted to samples in which all modalities
    are observed. Conditional draws of a mixture are given posterior draws of what was observed. Those of a score network are given the
    counts of the words of a sentence, and posterior means of the latents of other modalities.

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
        latents: "z", "all" or "each".
        steps: The number of training steps of the score network.
        hidden: Hidden units of the score network.
        layers: Residual layers of the score network.
        design: "balanced", "published", or "guided" for a score network that is trained for conditional draws.
        guidance: With the design "guided", 0 or more. Larger values make conditional draws agree more with what is given, and vary less; 0
            are draws from the conditional density.
        given: With ``kind="mld"``, modalities whose latents are most often given. Most of the training of the score network is then for
            draws given these.

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
    check_design(design, guidance)
    if latents != "z" and not len(complete_rows(model, data, latents)):
        which = "every modality with private latents" if latents == "all" else "every modality"
        raise InputError(
            f"fitted prior: got no complete sample; expected samples in which {which} is observed; fit one with latents='z'"
        )
    if latents == "each" and len(model.encoded) < len(model.modalities):
        raise InputError(
            "fitted prior: got latents='each' for a model with a modality that is not encoded; expected encoders of all, from which z is "
            "inferred; fit one with latents='all'"
        )
    # Clean blocks enter a score network without noise. With several draws, their values do not identify a training sample.
    limit = _ROWS if kind == "mld" else _FITTED_TO
    draws = min(_DRAWS, _ROWS // min(len(data), limit)) if kind == "mld" else 1
    x = posterior_samples(model, data, seed, limit, latents, draws)
    check_finite("fitted prior", x)
    blocks = {"z": None, "all": model.blocks, "each": blocks_of_each(model)}[latents]
    if kind == "flow":
        prior: FittedPrior = FittedFlow.fit(x, transforms, seed, blocks=blocks)
    elif kind == "mld":
        known = _described(model, data, limit, draws) if latents == "each" else None
        places = _places(model, latents, given)
        prior = FittedScore.fit(
            x,
            steps,
            seed,
            blocks,
            hidden,
            layers,
            design=design,
            guidance=guidance,
            known=known,
            given=places,
        )
    else:
        prior = FittedMixture.fit(x, components, covariance, seed, blocks)
    if latents == "each":
        prior = prior.of_each()
    return prior.to(next(model.parameters()).device)

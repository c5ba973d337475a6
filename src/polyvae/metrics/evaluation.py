"""evaluate(): from a trained model and held-out data to numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Unpack

from rich.table import Table

from polyvae.config import EvaluateConfig, EvaluateSettings
from polyvae.core.fitted import FITTED, FittedPrior, check_flow
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.metrics.checklist import checklist
from polyvae.metrics.coherence import coherence
from polyvae.metrics.conflict import conflict
from polyvae.metrics.context import Context, fit_prior
from polyvae.metrics.features import FeatureNet, load_feature_net
from polyvae.metrics.judges import Judges, judgeable
from polyvae.metrics.latents import latents
from polyvae.metrics.likelihood import likelihood
from polyvae.metrics.prediction import prediction
from polyvae.metrics.quality import quality
from polyvae.metrics.reconstruction import reconstruction
from polyvae.metrics.released import judges_for
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.progress import Reporter, reporter

METRICS: dict[str, Callable[[Context], dict[str, Any]]] = {
    "coherence": coherence,
    "likelihood": likelihood,
    "quality": quality,
    "reconstruction": reconstruction,
    "latents": latents,
    "conflict": conflict,
    "prediction": prediction,
}
"""Name -> a function from the evaluation context to numbers by name; floats at the top level are headline numbers."""


class Evaluation(Mapping[str, Any]):
    """Numbers by name.

    Headline numbers are floats at the top level; tables and settings are nested. ``prior`` is the fitted prior, or None.
    """

    def __init__(self, values: Mapping[str, Any], prior: FittedPrior | None = None) -> None:
        self._values = dict(values)
        self.prior = prior

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def headline(self) -> dict[str, float]:
        """The headline numbers."""
        return {name: value for name, value in self.items() if isinstance(value, float)}

    def table(self) -> Table:
        """The headline numbers and the accuracies of the judges, for a terminal."""
        table = Table("number", "value", title=f"{self['model']}, {self['rows']} held-out samples")
        for name, value in self.headline().items():
            table.add_row(name.replace("_", " "), f"{value:.4g}" if abs(value) >= 10 else f"{value:.3f}")
        joint = self.get("log_likelihood_joint")
        if joint is not None:  # the bound is loose where few samples are effective
            table.add_row(
                "  effective samples", f"{joint['effective_samples']:.1f} of {self['log_likelihood_samples']}"
            )
        for name, value in self.get("judge_accuracy", {}).items():
            kind = self.get("judge_kind", {}).get(name)
            table.add_row(f"judge accuracy {name}" + (f" ({kind})" if kind else ""), f"{value:.3f}")
        return table

    def __repr__(self) -> str:
        return "\n".join(f"{name:>40}  {value:.4f}" for name, value in self.headline().items())


def evaluate(
    model: MultimodalVAE,
    data: MultimodalData,
    *,
    judges: Judges | None = None,
    train: MultimodalData | None = None,
    feature_net: FeatureNet | None = None,
    show: bool = True,
    **settings: Unpack[EvaluateSettings],
) -> Evaluation:
    """Evaluate a trained model on held-out data.

    Judges (the classifiers used for evaluation) and the fitted prior are made from the training part that belongs to ``data``. Numbers
    that need what is missing (a training part, labels, images) are left out. The global random generator keeps its state.

    Args:
        model: A trained model in evaluation mode.
        data: Held-out data such as ``data.test``, or a data set, whose test part is used.
        judges: The judges; None: they are trained, or read from the cache.
        train: The training part, if it is not the one that belongs to ``data``.
        feature_net: A feature network for image quality, in place of the one that the setting ``features`` names.
        show: Whether to show progress.
        **settings: The fields of ``polyvae.config.EvaluateConfig``, where each is described: ``metrics``, ``draws``, ``seed``,
            ``protocol``, ``inputs``, ``measures``, ``features``, ``likelihood_samples``, ``likelihood_rows``,
            ``likelihood_conditional``, and ``fitted_prior`` such as ``{"kind": "gmm", "components": 20}``.

    Returns:
        The numbers by name. ``protocol`` describes the choices behind them.

    Raises:
        InputError: If a setting is unknown or not valid, a metric needs a package that is not installed, or the model is in training mode.

    References:
        Palumbo, E., Daunhawer, I., & Vogt, J. E. (2023). MMVAE+: Enhancing the generative quality of multimodal VAEs without
        compromises. ICLR.

    Example:
        >>> import polyvae as pv
        >>> data = pv.load_dataset("polydigits")
        >>> model = pv.build("mmvae+", data.modalities(), latent=2).eval()
        >>> result = pv.evaluate(model, data.test.rows(slice(0, 50)), metrics=["conflict"], show=False)
        >>> sorted(result.headline())
        ['gradient_conflict', 'gradient_cosine']
    """
    config = EvaluateConfig.check(settings, "evaluate")
    metrics, named = available(config, load=feature_net is None)
    net = named if feature_net is None else feature_net
    if model.training:
        raise InputError(
            "evaluate: the model is in training mode; expected evaluation mode; call model.eval() first"
        )
    whole = data.source or data
    test = data.test if "test" in data.splits else data
    with reporter(show) as report:
        if judges is None and ("coherence" in metrics or ("quality" in metrics and net is None)):
            judges = judges_of(whole, report.say)
        fitted_to = whole.train if train is None and "train" in whole.splits else train
        prior = None
        if {"coherence", "quality"} & set(metrics):
            prior = _fitted_prior(model, fitted_to, config, report)
        context = Context(model, test, config, judges, prior, fitted_to, net, report)
        values: dict[str, Any] = {
            "model": model.name,
            "rows": len(test),
            "seed": config.seed,
            "fitted_prior": prior.summary if prior else None,
            "protocol": checklist(context),
        }
        for name in metrics:
            values |= METRICS[name](context)
    return Evaluation(values, prior)


def _fitted_prior(
    model: MultimodalVAE, train: MultimodalData | None, config: EvaluateConfig, report: Reporter
) -> FittedPrior | None:
    """The prior that the configuration asks for; None, where there is nothing to fit, or too little."""
    wanted = config.fitted_prior
    if not wanted.components or not model.shared or train is None:
        return None
    few, least = min(wanted.components, max(1, len(train) // 20)), FITTED[wanted.kind].least
    if len(train) < least:
        report.say(
            f"no fitted prior: {wanted.kind!r} needs {least} training samples or more, got {len(train)}; it is left out"
        )
        return None
    if few < wanted.components and wanted.kind == "gmm":
        report.say(f"fitted prior: {few} components instead of {wanted.components}, for {len(train)} samples")
    return fit_prior(model, train, few, wanted.covariance, wanted.seed, wanted.kind, wanted.transforms)


def available(config: EvaluateConfig, load: bool = True) -> tuple[list[str], FeatureNet | None]:
    """The names of the metrics, and the feature network that the configuration names (None: the judges, or not to ``load``).

    Training calls it as well, so that an evaluation that is not possible is found before training.

    Raises:
        InputError: If a metric is unknown, the feature network cannot be read, or a package is not installed.
    """
    for name in config.metrics:
        if name not in [*METRICS, "all"]:
            raise InputError(
                f"evaluate: got metrics={config.metrics!r}; expected a list of names, or ['all']; {nearest(name, METRICS)}"
            )
    if config.fitted_prior.kind == "flow":
        check_flow()
    metrics = list(METRICS) if "all" in config.metrics else list(config.metrics)
    return metrics, load_feature_net(config.features) if load else None


def judges_of(data: MultimodalData, say: Callable[[str], None] = lambda text: None) -> Judges | None:
    """The judges for ``data`` (with its splits); None, after reporting why, where they are not possible."""
    if data.labels is None or not judgeable(data) or not {"train", "test"} <= set(data.splits):
        say("no judges: coherence needs labelled images with a training and a test part; it is left out")
        return None
    return judges_for(data)

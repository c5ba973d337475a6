"""METRICS, and evaluate(): a trained model and held-out data in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from polyvae.core.fitted import FITTED, FittedPrior, check_flow
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.metrics.checklist import check_protocol, checklist
from polyvae.metrics.coherence import coherence
from polyvae.metrics.conflict import conflict
from polyvae.metrics.features import FeatureNet, feature_net
from polyvae.metrics.judges import Judges, judgeable, train_judges
from polyvae.metrics.latents import latents
from polyvae.metrics.likelihood import likelihood
from polyvae.metrics.prediction import prediction
from polyvae.metrics.quality import quality
from polyvae.metrics.reconstruction import reconstruction
from polyvae.metrics.released import judges_for
from polyvae.metrics.setting import Setting, fit_prior, posterior_samples
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.progress import reporter

METRICS: dict[str, Callable[[MultimodalVAE, Setting], dict[str, Any]]] = {
    "coherence": coherence,
    "likelihood": likelihood,
    "quality": quality,
    "reconstruction": reconstruction,
    "latents": latents,
    "conflict": conflict,
    "prediction": prediction,
}


class Evaluation(Mapping[str, Any]):
    """Numbers by name, the headline ones at the top level; prints as a table. ``prior`` is the prior that was fitted, if any."""

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
        """The numbers that stand alone."""
        return {name: value for name, value in self.items() if isinstance(value, float)}

    def table(self) -> Table:
        """The headline numbers, with the judges' accuracies, for a terminal."""
        table = Table("number", "value", title=f"{self['model']}, {self['rows']} held-out samples")
        for name, value in self.headline().items():
            table.add_row(name.replace("_", " "), f"{value:.4g}" if abs(value) >= 10 else f"{value:.3f}")
        joint = self.get("log_likelihood_joint")
        if joint is not None:  # a bound is worth as much as its effective samples
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
    metrics: Sequence[str] = ("coherence", "likelihood"),
    judges: Judges | None = None,
    train: MultimodalData | None = None,
    components: int = 20,
    covariance: str = "full",
    seed: int = 0,
    draws: int = 10_000,
    prior_seed: int = 0,
    likelihood_samples: int = 1000,
    likelihood_rows: int = 200,
    likelihood_conditional: str = "none",
    inputs: int | None = None,
    measures: str = "all",
    protocol: str = "sound",
    features: FeatureNet | str | None = None,
    prior_kind: str = "gmm",
    transforms: int = 3,
    show: bool = True,
) -> Evaluation:
    """Judge ``model`` on held-out ``data``: a part such as ``data.test``, or data whose test split is taken.

    Judges and the fitted prior come from the training part that belongs to it (the prior from ``train`` where that is given); where there
    is none, or too little, or no labels or images, the numbers that need them are left out. The global generator is left as it was.
    ``prior_kind``: "gmm" (``components``, ``covariance``) or "flow" (``transforms``); 0 components: no prior is fitted.
    ``metrics``: names in METRICS, or ["all"]. ``protocol``: "sound", or "published" (MMVAE+, 2023); what that means stands in the result.
    ``features``: what image quality looks with: "judges" (or None), "inception:PATH" with the weights' file, or any feature net.
    ``inputs``: coherence given at most so many modalities; None: any number. ``measures`` of image quality: "all", or "frechet" alone.
    ``likelihood_conditional``: "rest" adds log p(x_m | the others), "pairs" also every log p(x_m | x_n), at so much more sampling.
    Raises InputError for an unknown metric, protocol or feature net, or a model in training mode.
    """
    metrics, net = available(metrics, protocol, features, prior_kind)
    if likelihood_conditional not in ("none", "rest", "pairs"):
        raise InputError(
            f"evaluate: got likelihood_conditional={likelihood_conditional!r}; expected 'none', 'rest' or 'pairs'"
        )
    if measures not in ("all", "frechet"):
        raise InputError(f"evaluate: got measures={measures!r}; expected 'all' or 'frechet'")
    if likelihood_samples < 20:
        raise InputError(
            f"evaluate: got likelihood_samples={likelihood_samples}; expected at least 20; 1000 is usual"
        )
    if model.training:
        raise InputError(
            "evaluate: the model is in training mode; expected evaluation mode; call model.eval() first"
        )
    whole = data.source or data
    test = data.test if "test" in data.splits else data
    with reporter(show) as report:
        if judges is None and ("coherence" in metrics or ("quality" in metrics and net is None)):
            judges = judges_of(whole, report.say)
        prior = None
        fitted_to = whole.train if train is None and "train" in whole.splits else train
        if components and model.shared and fitted_to is not None and {"coherence", "quality"} & set(metrics):
            few, least = min(components, max(1, len(fitted_to) // 20)), FITTED[prior_kind].least
            if len(fitted_to) < least:
                report.say(
                    f"no fitted prior: {prior_kind!r} needs {least} training rows or more, there are {len(fitted_to)}; left out"
                )
            else:
                if few < components and prior_kind == "gmm":
                    report.say(
                        f"fitted prior: {few} components instead of {components}, for {len(fitted_to)} rows"
                    )
                prior = fit_prior(model, fitted_to, few, covariance, prior_seed, prior_kind, transforms)
        setting = Setting(
            test,
            judges,
            prior,
            seed,
            draws,
            likelihood_samples,
            likelihood_rows,
            report=report,
            train=fitted_to,
            protocol=protocol,
            features=net,
            conditional=likelihood_conditional,
            inputs=inputs,
            measures=measures,
        )
        values: dict[str, Any] = {
            "model": model.name,
            "rows": len(test),
            "seed": seed,
            "fitted_prior": prior.summary if prior else None,
            "protocol": checklist(model, setting),
        }
        for name in metrics:
            values |= METRICS[name](model, setting)
    return Evaluation(values, prior)


def available(
    metrics: Sequence[str], protocol: str, features: FeatureNet | str | None, prior_kind: str
) -> tuple[list[str], FeatureNet | None]:
    """The names of the metrics asked for, and the feature net, once it is known that all can be had: ``evaluate``'s door, and training's.

    Raises InputError for an unknown metric, protocol, kind of prior or feature net, and for what is not installed.
    """
    for name in [metrics] if isinstance(metrics, str) else metrics:
        if name not in [*METRICS, "all"] or isinstance(metrics, str):
            raise InputError(
                f"evaluate: got metrics={metrics!r}; expected a list of names, or ['all']; {nearest(name, METRICS)}"
            )
    check_protocol(protocol)
    if prior_kind not in FITTED:
        raise InputError(f"fitted prior: unknown kind {prior_kind!r}; {nearest(prior_kind, FITTED)}")
    if prior_kind == "flow":
        check_flow()
    return list(METRICS) if "all" in metrics else list(metrics), feature_net(features)


def judges_of(data: MultimodalData, say: Callable[[str], None] = lambda text: None) -> Judges | None:
    """The judges that belong to ``data`` (with its splits); None, after saying why, where there can be none."""
    if data.labels is None or not judgeable(data) or not {"train", "test"} <= set(data.splits):
        say("no judges: coherence needs labelled images with a train and a test part; left out")
        return None
    return judges_for(data)


__all__ = [
    "METRICS",
    "Evaluation",
    "FeatureNet",
    "Judges",
    "Setting",
    "available",
    "evaluate",
    "fit_prior",
    "judges_for",
    "judges_of",
    "posterior_samples",
    "train_judges",
]

"""evaluate(): from a trained model and held-out data to numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Unpack

import torch
from rich.table import Table

from polyvae.config import EvaluateConfig, EvaluateSettings
from polyvae.core.fitted import FITTED, FittedPrior, check_flow
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.metrics import labels
from polyvae.metrics.attributes import attributes
from polyvae.metrics.checklist import checklist
from polyvae.metrics.coherence import coherence
from polyvae.metrics.conflict import conflict
from polyvae.metrics.context import Context, check_mode, complete_rows, fit_prior
from polyvae.metrics.diagnosis import Finding, diagnosis
from polyvae.metrics.features import FeatureNet, load_feature_net
from polyvae.metrics.judges import Judges, judgeable, judged, teachable
from polyvae.metrics.latents import latents
from polyvae.metrics.likelihood import likelihood
from polyvae.metrics.matching import matching
from polyvae.metrics.mixing import batches
from polyvae.metrics.prediction import prediction
from polyvae.metrics.quality import quality
from polyvae.metrics.reconstruction import reconstruction
from polyvae.metrics.released import judges_for, released
from polyvae.metrics.variance import variance
from polyvae.utils.devices import on_device
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.progress import reporter

METRICS: dict[str, Callable[[Context], dict[str, Any]]] = {
    "coherence": coherence,
    "attributes": attributes,
    "likelihood": likelihood,
    "quality": quality,
    "reconstruction": reconstruction,
    "latents": latents,
    "conflict": conflict,
    "prediction": prediction,
    "variance": variance,
    "matching": matching,
    "diagnosis": diagnosis,
    "batches": batches,
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
        findings = [str(Finding(**each)) for each in self.get("diagnosis", {}).get("findings", ())]
        notes = "\n".join([*self.get("notes", ()), *findings])
        title = f"{self['model']}, {self['rows']} {self.get('part', 'held-out')} samples"
        table = Table("number", "value", title=title, caption=notes or None, caption_justify="left")
        for name, value in self.headline().items():
            shown = f"{value:.4g}" if abs(value) >= 10 else f"{value:.3f}"
            ends = self.get("intervals", {}).get(name)
            table.add_row(
                name.replace("_", " "), f"{shown} [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else shown
            )
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
        lines = [f"{name:>40}  {value:.4f}" for name, value in self.headline().items()]
        return "\n".join(lines or self.get("notes", ())) or "no headline numbers"


@torch.inference_mode(False)  # the metric of conflict needs gradients
def evaluate(
    model: MultimodalVAE,
    data: MultimodalData,
    *,
    judges: Judges | None = None,
    train: MultimodalData | None = None,
    feature_net: FeatureNet | None = None,
    show: bool = True,
    device: torch.device | str | None = None,
    **settings: Unpack[EvaluateSettings],
) -> Evaluation:
    """Evaluate a trained model on held-out data.

    Judges (the classifiers used for evaluation) and the fitted prior are made from the training part that belongs to ``data``. Numbers
    that need what is missing (a training part, labels, images) are left out. Samples with a negative label, such as −1, have none. The
    global random generator keeps its state.

    Args:
        model: A trained model in evaluation mode.
        data: Held-out data such as ``data.test``, or a data set, whose test part is used. Of data without a test part all samples are
            used, which a note states.
        judges: The judges; None: they are trained, or read from the cache.
        train: The training part, if it is not the one that belongs to ``data``.
        feature_net: A feature network for image quality, in place of the one that the setting ``features`` names.
        show: Whether to show progress.
        device: Where to compute, such as "cuda"; None: where the model is. Afterwards the model and the fitted prior are where the model
            was.
        **settings: The fields of ``polyvae.config.EvaluateConfig``, where each is described: ``metrics``, ``draws``, ``seed``,
            ``protocol``, ``inputs``, ``measures``, ``features``, ``likelihood_samples``, ``likelihood_rows``,
            ``likelihood_conditional``, and ``fitted_prior`` such as ``{"kind": "gmm", "components": 20}`` or
            ``{"kind": "mld", "latents": "all"}``.

    Returns:
        The numbers by name. ``protocol`` describes the choices behind them; ``notes`` lists what to know about these data: what was
        left out, and why.

    Raises:
        InputError: If the model or the data are of another type, a setting is unknown or not valid, a metric needs a package that is not
            installed, the model is in training mode, its weights are NaN or infinite, or the device is not there.

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
    _check_given(model, data)
    config = EvaluateConfig.check(settings, "evaluate")
    metrics, named = available(config, load=feature_net is None)
    net = named if feature_net is None else feature_net
    check_mode("evaluate", model)
    _check_weights(model)
    whole = data.source or data
    test = data.test if "test" in data.splits else data
    with reporter(show) as report, on_device("evaluate", model, device):
        notes: list[str] = []

        def note(line: str) -> None:
            notes.append(line)
            report.say(line)

        if judges is None and (
            {"coherence", "attributes"} & set(metrics) or ("quality" in metrics and net is None)
        ):
            judges = judges_of(whole, note)
        fitted_to = whole.train if train is None and "train" in whole.splits else train
        prior = None
        given = (
            config.fitted_prior.latents != "z"
        )  # else it has no conditional draws, from which attributes and diversity are read
        if {"coherence", "quality"} & set(metrics) or (
            {"attributes", "reconstruction"} & set(metrics) and given
        ):
            prior = _fitted_prior(model, fitted_to, config, note)
        context = Context(model, test, config, judges, prior, fitted_to, net, report, notes=notes)
        part = _describe(context, data)
        values: dict[str, Any] = {
            "model": model.name,
            "rows": len(test),
            "part": part,
            "seed": config.seed,
            "fitted_prior": prior.summary if prior else None,
            "protocol": checklist(context),
        }
        for name in metrics:
            found = METRICS[name](context)
            intervals = {**values.get("intervals", {}), **found.get("intervals", {})}
            values |= found | ({"intervals": intervals} if intervals else {})
    prior = None if prior is None else prior.to(next(model.parameters()).device)
    return Evaluation(values | {"notes": notes}, prior)


def _check_given(model: object, data: object) -> None:
    if not isinstance(model, MultimodalVAE):
        remedy = "build one, such as pv.MVAE(data.modalities())"
        if isinstance(data, MultimodalVAE):
            remedy = "exchange the two"
        elif isinstance(model, str | os.PathLike):
            remedy = "load it first with pv.load_model(path), or use the command polyvae evaluate"
        raise InputError(
            f"evaluate: got {type(model).__name__} as the model; expected a MultimodalVAE, evaluate(model, data); {remedy}"
        )
    if not isinstance(data, MultimodalData):
        raise InputError(
            f"evaluate: got data of type {type(data).__name__}; expected MultimodalData; MultimodalData({{name: array}}) makes one"
        )


def _check_weights(model: MultimodalVAE) -> None:
    bad = [name for name, x in model.named_parameters() if not bool(x.isfinite().all())]
    if bad:
        raise InputError(
            f"evaluate: got {len(bad)} weights with values that are NaN or infinite, such as {bad[0]!r}; expected finite ones; the "
            "training diverged: train again with a smaller lr"
        )


def _describe(context: Context, given: MultimodalData) -> str:
    """Which samples are judged, in one word or two; with a note for everything that these data lack."""
    test, train = context.data, context.train
    held_out = "test" in given.splits or given.source is not None
    if not held_out:
        context.note(
            f"the data have no test part: all {len(test):,} samples are judged, also those that the model was trained on; split the data "
            "before training for numbers of held-out samples"
        )
    parts = (("judged", test),) if train is None else (("judged", test), ("training", train))
    for what, part in parts:
        for name in context.model.modalities:
            if name not in part.names or not bool(part.mask[part.names.index(name)].any()):
                why = (
                    "so there is no number for it"
                    if what == "judged"
                    else "so what is generated of it is untrained"
                )
                context.note(f"modality {name!r}: no {what} sample contains it, {why}")
        if part.labels is not None:
            missing = int((~labels.known(part.labels)).sum())
            if missing:
                context.note(
                    f"labels: {missing:,} of {len(part):,} {what} samples have none (a negative label); judges, coherence, probes and real "
                    "diversity leave them out"
                )
    return "held-out" if held_out else "given"


def _fitted_prior(
    model: MultimodalVAE, train: MultimodalData | None, config: EvaluateConfig, say: Callable[[str], None]
) -> FittedPrior | None:
    """The prior that the configuration asks for; None, where there is nothing to fit, or too little."""
    wanted = config.fitted_prior
    if not wanted.components or train is None or (wanted.latents == "z" and not model.shared):
        return None
    rows = len(train) if wanted.latents == "z" else len(complete_rows(model, train, wanted.latents))
    which = "training samples" if wanted.latents == "z" else "complete training samples"
    few, least = min(wanted.components, max(1, rows // 20)), FITTED[wanted.kind].least
    if rows < least:
        say(f"no fitted prior: {wanted.kind!r} needs {least} {which} or more, got {rows}; it is left out")
        return None
    if few < wanted.components and wanted.kind == "gmm":
        say(f"fitted prior: {few} components instead of {wanted.components}, for {rows} samples")
    if wanted.latents != "z" and rows < len(train):
        inferred = "all private latents" if wanted.latents == "all" else "the latents of each modality"
        say(
            f"fitted prior: fitted to the {rows:,} of {len(train):,} training samples in which {inferred} are inferred"
        )
    return fit_prior(
        model,
        train,
        few,
        wanted.covariance,
        wanted.seed,
        wanted.kind,
        wanted.transforms,
        wanted.latents,
        wanted.steps,
        wanted.hidden,
        wanted.layers,
        wanted.design,
        wanted.guidance,
        wanted.given,
    )


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
    if not judged(data) or not judgeable(data) or not {"train", "test"} <= set(data.splits):
        say("no judges: coherence needs labelled images with a training and a test part; it is left out")
        return None
    images = judgeable(data)
    if not teachable(data, images) and not released(data):
        say(
            "no judges: no training sample has a label and an image; coherence and quality that need them are left out"
        )
        return None
    judges = judges_for(data)
    for name in images:
        if name not in judges:
            say(
                f"no judge for {name!r}: no training sample with a label contains it; what needs the judge is left out"
            )
        elif name not in judges.accuracy:
            say(
                f"judge of {name!r}: no held-out sample with a label contains it, so its accuracy is not known"
            )
    return judges

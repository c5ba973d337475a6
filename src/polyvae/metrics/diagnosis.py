"""Diagnosis: which modality is ignored, collapsed, or in conflict, by which number, and what to do about it.

Each check compares a number with a threshold. A modality has one finding for its decoder or else one for its encoder, the first that
applies, because the others follow from it. What the model reaches is compared with ridge regression on the same samples (in five folds): a
modality that no method predicts from the others has nothing to share, which is not a fault of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.likelihoods.continuous import Scaled
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.metrics.conflict import conflict
from polyvae.metrics.context import Context, subsample
from polyvae.metrics.latents import usage
from polyvae.metrics.variance import check_ready, decoded_values, explained
from polyvae.utils.seeds import fold_in

ROWS = 1000
LEAST_KL = 0.1
"""Nats per sample below which an expert, or z, is taken as equal to the prior."""
LEAST_R2 = 0.02
"""R² below which a decoder ignores its latents."""
SHARED = 0.05
"""R² of ridge regression below which a modality has nothing in common with the others."""
BEHIND = 0.15
"""By how much R² from the other modalities may be below that of ridge regression."""
LEAST_INFLUENCE = 1e-3
"""Influence on the joint posterior below which an encoder is ignored; with equal shares of three modalities it is about 0.1."""
APART = 1.5
"""Squared distance of the posteriors given a modality and given the others, over the sum of their variances; about 1 at most if these are
right."""
OPPOSED = -0.5
"""Mean cosine of two gradients below which they are in conflict."""
MOST_SHARE = 0.95
"""Share of the gradient norm above which one modality dominates the others."""
OVERFIT = 0.15
"""By how much R² of training samples may exceed that of held-out ones."""
SCALES = (0.1, 100.0)
"""Standard deviations of the data, in units of the scale of the likelihood, between which a fixed scale fits."""
OFFSET = 10.0
"""Means, in standard deviations, above which data are far from centred."""
IGNORED = "the joint posterior ignores its encoder: its influence on z"
_COMPONENTS = 50  # of the other modalities, for ridge regression
_COLUMNS = 200  # features of a modality that ridge regression predicts
_ALPHAS = np.logspace(-2, 4, 13)


class Finding(NamedTuple):
    """One thing that is wrong.

    Attributes:
        what: What was found, in words.
        modality: The modality, or two of them "a, b"; "" for z.
        number: The number that shows it.
        threshold: The value beyond which it is a finding.
        remedy: What to do.
    """

    what: str
    modality: str
    number: float
    threshold: float
    remedy: str

    def __str__(self) -> str:
        name = f"{self.modality}: " if self.modality else ""
        return f"{name}{self.what} ({self.number:.3g}; threshold {self.threshold:g}); {self.remedy}"


@dataclass(frozen=True)
class Diagnosis:
    """Findings, and the numbers behind them.

    Attributes:
        findings: What is wrong; empty if nothing is.
        measures: Number -> modality -> value.

    Example:
        >>> from polyvae.metrics import Diagnosis
        >>> Diagnosis()
        no findings
    """

    findings: tuple[Finding, ...] = ()
    measures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def asdict(self) -> dict[str, Any]:
        """What JSON can contain."""
        return {
            "findings": [each._asdict() for each in self.findings],
            "measures": {
                what: {name: value for name, value in by.items() if np.isfinite(value)}
                for what, by in self.measures.items()
            },
        }

    def __repr__(self) -> str:
        return "\n".join(map(str, self.findings)) or "no findings"


def diagnosis(context: Context) -> dict[str, Any]:
    """``diagnosis``: the findings and measures of ``diagnose``, on held-out samples."""
    if len(context.data) < 2:
        return {}
    found = diagnose(context.model, context.data, train=context.train, seed=context.seed("diagnosis"))
    return {"diagnosis": found.asdict()}


def diagnose(
    model: MultimodalVAE, data: MultimodalData, *, train: MultimodalData | None = None, seed: int = 0
) -> Diagnosis:
    """Find what is wrong with a trained model, by modality.

    The checks are: z is not used; a decoder ignores the latents; a modality has nothing in common with the others; an encoder carries
    no information on z, or is ignored by the joint posterior; private latents contain what should be shared; generation from the other
    modalities is worse than ridge regression; gradients of two modalities are opposed; one modality dominates the others; overfitting;
    data on a scale that does not fit the likelihood. At most 1,000 samples of each part are used, chosen at random.

    Args:
        model: A trained model in evaluation mode.
        data: Held-out data such as ``data.test``, or a data set, whose test part is used.
        train: The training part. None: the one that belongs to ``data``, if there is one; without one, overfitting is not checked.
        seed: The seed of the choice of samples and of all draws.

    Returns:
        The findings, each with its number, its threshold and a remedy, and the numbers of all modalities in ``measures``: "kl" of the
        expert of each modality, its "influence" on the joint posterior, "r2" given everything, "r2 shared" from z alone, "r2 others" from
        the other modalities and "r2 ridge" by ridge regression, "nats" per sample, and its "share" of the gradient norm.

    Raises:
        InputError: The model is in training mode, or there are fewer than two samples.

    Example:
        >>> import torch
        >>> import polyvae as pv
        >>> x = torch.randn(200, 4)
        >>> data = pv.MultimodalData({"a": x, "b": 2 * x[:, :3]})
        >>> untrained = pv.MVAE(data.modalities(), latent=2).eval()
        >>> found = pv.diagnose(untrained, data)
        >>> len(found.findings) > 0, found.measures["r2 ridge"]["b"] > 0.9
        (True, True)
    """
    whole = data.source or data if isinstance(data, MultimodalData) else data
    test = data.test if isinstance(data, MultimodalData) and "test" in data.splits else data
    check_ready("diagnose", model, test)
    if train is None and "train" in whole.splits:
        train = whole.train
    few = subsample(test, ROWS, fold_in(seed, "diagnosis/rows"))
    measures = _measures(model, few, seed)
    scales = _scales(model, few)
    if model.shared and measures["kl"].get("z", np.inf) < LEAST_KL:
        finding = Finding(
            "z is not used: the KL of the posterior given everything, in nats",
            "",
            measures["kl"]["z"],
            LEAST_KL,
            "train longer, lower beta, warm it up over more epochs, or lower the scale of the likelihoods",
        )
        return Diagnosis((*scales, finding), measures)
    found = [*scales]
    for name in model.modalities:
        found += _decoder(model, measures, name) or [
            *_encoder(measures, name),
            *_generation(model, measures, name),
        ]
    # Experts that are too certain put z where gradients are opposed: one finding for one cause.
    found += _between(measures, opposed=not any(each.what == IGNORED for each in found))
    if train is not None and len(train) > 1:
        found += _overfitting(model, subsample(train, ROWS, fold_in(seed, "diagnosis/train")), measures, seed)
    return Diagnosis(tuple(found), measures)


# ---- measures ----------------------------------------------------------------------------------------------------


def _measures(model: MultimodalVAE, data: MultimodalData, seed: int) -> dict[str, dict[str, float]]:
    encoded = [
        name
        for name, net in model.modalities.items()
        if net.encoder is not None and name in data.names and bool(data.mask[data.names.index(name)].any())
    ]
    measures: dict[str, dict[str, float]] = {
        "kl": {},
        "influence": {},
        "r2": {},
        "r2 shared": {},
        "r2 others": {},
    }
    if model.shared and encoded:
        sets = {name: (name,) for name in encoded} | {"z": tuple(encoded)}
        for number, (name, members) in enumerate(sets.items()):
            measures["kl"][name] = usage(model, data, members, fold_in(seed, "diagnosis/kl", number))[0].total
        measures["influence"] = _influence(model, data, encoded, seed)
        measures["apart"] = {name: _apart(model, data, name) for name in encoded if len(encoded) > 1}
    names = decoded_values(model, data)
    table = explained(model, data, names, seed, alone=False)
    for name in names:
        for what, part in (("r2", "all"), ("r2 shared", "shared"), ("r2 others", "others")):
            measures[what][name] = table.value(name, part)
    measures["r2 ridge"] = _ridge(model, data, names, encoded)
    measures["nats"] = _nats(model, data, seed)
    gradients = conflict(Context.of(model, data, seed=fold_in(seed, "diagnosis/conflict")), rows=500).get(
        "gradients", {}
    )
    measures["share"] = dict(gradients.get("share", {}))
    measures |= {f"cosine {name}": dict(row) for name, row in gradients.get("cosine", {}).items()}
    return measures


@torch.no_grad()
def _influence(
    model: MultimodalVAE, data: MultimodalData, names: Sequence[str], seed: int
) -> dict[str, float]:
    """The mean squared change of z when one modality is exchanged between samples, relative to that when all are.

    1: z depends on this modality alone; 0: not at all. Of samples in which all modalities are observed; NaN where there are few.
    """
    lines = [data.names.index(name) for name in names]
    rows = data.mask[lines].all(0).cpu().nonzero()[:, 0]
    if len(rows) < 10:
        return dict.fromkeys(names, np.nan)
    batch = data.take(rows).observe(*names)
    other = torch.randperm(len(rows), generator=torch.Generator().manual_seed(fold_in(seed, "influence"))).to(
        batch.device
    )
    z = model.embed(batch)
    whole = float((z - z[other]).square().sum())
    return {
        name: float((model.embed(_exchanged(batch, name, other)) - z).square().sum()) / whole
        if whole
        else np.nan
        for name in names
    }


@torch.no_grad()
def _apart(model: MultimodalVAE, data: MultimodalData, name: str) -> float:
    """The mean squared distance of the posteriors of z given one modality and given the others, in units of the sum of their variances.

    NaN where the posterior is a mixture, or no sample has both.
    """
    total, count = 0.0, 0
    for batch in data.batches(250):
        batch = model.admit(batch)
        alone, rest = (
            model.posterior(part, model.experts(part)) for part in (batch.observe(name), batch.drop(name))
        )
        both = alone.observed & rest.observed
        if len(alone.weights) > 1 or not bool(both.any()):
            continue
        one, other = (q.components.map(lambda x: x[0, both]) for q in (alone, rest))  # noqa: B023  # used at once
        each = (one.mean - other.mean).square() / (one.scale.square() + other.scale.square())
        total, count = total + float(each.mean(1).sum()), count + len(each)
    return total / count if count else np.nan


def _exchanged(batch: Batch, name: str, other: Tensor) -> Batch:
    entries = {key: x[other] if key == name else x for key, x in batch.entries.items()}
    return batch._replace(data={**batch.data, name: batch.data[name][other]}, entries=entries)


def _ridge(
    model: MultimodalVAE, data: MultimodalData, names: Sequence[str], encoded: Sequence[str]
) -> dict[str, float]:
    """R² of each modality predicted from the principal components of the others by ridge regression, in five folds."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    found: dict[str, float] = {}
    for name in names:
        rows = data.mask[data.names.index(name)].cpu().numpy()
        inputs = [
            _filled(model, data, other)[rows]
            for other in encoded
            if other != name and not model.modalities[other].likelihood.ids
        ]
        y, seen = _values(data, name, rows)
        if not inputs or len(y) < 20:
            continue
        columns = np.random.default_rng(0).permutation(y.shape[1])[:_COLUMNS]
        y, seen = y[:, columns], seen[:, columns]
        mean = np.where(seen, y, 0).sum(0) / np.maximum(seen.sum(0), 1)
        y = np.where(seen, y, mean)
        x = np.concatenate(inputs, 1)
        width = min(_COMPONENTS, x.shape[1], len(x) * 4 // 5)
        method = make_pipeline(PCA(width, random_state=0), RidgeCV(_ALPHAS))
        guess = cross_val_predict(method, x, y, cv=KFold(5, shuffle=True, random_state=0)).reshape(y.shape)
        total = np.where(seen, (y - mean) ** 2, 0).sum()
        if total > 0:
            found[name] = float(1 - np.where(seen, (y - guess) ** 2, 0).sum() / total)
    return found


def _filled(model: MultimodalVAE, data: MultimodalData, name: str) -> NDArray[np.float64]:
    """The encoder's features of one modality, standardised, 0 where missing: [N, F]."""
    with torch.no_grad():
        x = model.modalities[name].likelihood.features(model.admit(data.take(slice(None))).data[name])
    flat = x.flatten(1).double().cpu().numpy()
    seen = data.observed(name).flatten(1).cpu().numpy()
    count = np.maximum(seen.sum(0), 1)
    flat = np.where(seen, flat - np.where(seen, flat, 0).sum(0) / count, 0)
    scale = np.sqrt((flat**2).sum(0) / count)
    return np.asarray(flat / np.where(scale > 0, scale, 1))


def _values(
    data: MultimodalData, name: str, rows: Any = slice(None)
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The values of one modality and which were observed: [n, F]."""
    x = data.values(name).flatten(1).double().cpu().numpy()[rows]
    return x, data.observed(name).flatten(1).cpu().numpy()[rows]


@torch.no_grad()
def _nats(model: MultimodalVAE, data: MultimodalData, seed: int) -> dict[str, float]:
    """Mean log-likelihood of each modality at a posterior draw, over the samples in which it was observed."""
    total, count = torch.zeros(len(model.modalities)), torch.zeros(len(model.modalities))
    with torch.random.fork_rng():
        torch.manual_seed(fold_in(seed, "diagnosis/nats"))
        for batch in data.batches(250):
            batch = model.admit(batch)
            draws = model.draw(batch)
            total += model.log_likelihood(batch, draws.z, draws.w)[:, 0].sum(1).cpu()
            count += batch.mask.sum(1).cpu()
    return {
        name: float(value / n)
        for (name, net), value, n in zip(model.modalities.items(), total, count, strict=True)
        if net.decoder is not None and n
    }


# ---- findings ----------------------------------------------------------------------------------------------------


def _decoder(model: MultimodalVAE, measures: Mapping[str, Mapping[str, float]], name: str) -> list[Finding]:
    """Whether the decoder of a modality ignores the latents; of a modality that has nothing in common with the others, that."""
    r2, ridge = measures["r2"].get(name, np.nan), measures["r2 ridge"].get(name, np.nan)
    if not r2 < LEAST_R2:
        return []
    if ridge < SHARED:
        remedy = "leave it out, or give it private latents if it is to be reconstructed (private=)"
        what = "it has nothing in common with the others: R² by ridge regression from them"
        return [Finding(what, name, ridge, SHARED, remedy)]
    share = measures["share"].get(name)
    gradient = "" if share is None else f" (it has {share:.0%} of the gradient)"
    remedy = f"raise its weight{gradient}, lower the scale of its likelihood, or train longer"
    return [Finding("its decoder ignores the latents: R² given everything", name, r2, LEAST_R2, remedy)]


def _encoder(measures: Mapping[str, Mapping[str, float]], name: str) -> list[Finding]:
    """Whether the encoder carries no information on z, or the joint posterior ignores it."""
    kl, ridge = measures["kl"].get(name, np.nan), measures["r2 ridge"].get(name, np.nan)
    if kl < LEAST_KL and not ridge < SHARED:
        remedy = "raise its weight, warm up beta over more epochs, or hide the other modalities more often in training"
        return [
            Finding(
                "its encoder carries no information on z: the KL of its expert, in nats",
                name,
                kl,
                LEAST_KL,
                remedy,
            )
        ]
    influence = measures["influence"].get(name, np.nan)
    # Where the others know z much better, to ignore a modality is right: then the posteriors agree within their variances.
    if kl >= LEAST_KL and influence < LEAST_INFLUENCE and measures.get("apart", {}).get(name, np.nan) > APART:
        remedy = "the experts of others are too certain: use a mixture (mmvae+, mopoe), or hide these modalities in training"
        what = IGNORED
        return [Finding(what, name, influence, LEAST_INFLUENCE, remedy)]
    return []


def _generation(
    model: MultimodalVAE, measures: Mapping[str, Mapping[str, float]], name: str
) -> list[Finding]:
    """Whether a modality is generated from the others much worse than ridge regression predicts it."""
    r2, shared, others, ridge = (
        measures[what].get(name, np.nan) for what in ("r2", "r2 shared", "r2 others", "r2 ridge")
    )
    behind = others - ridge
    if not behind < -BEHIND:
        return []
    if model.modalities[name].private and r2 - shared > BEHIND:
        what = "its private latents contain what should be shared: R² from the others, minus that of ridge regression"
        remedy = "give it fewer private latents, or z more dimensions"
        if not model.shared:
            remedy = "the model has no z: generate with a prior that is fitted to all latents (fit_prior(..., latents='all'))"
        return [Finding(what, name, behind, -BEHIND, remedy)]
    what = (
        "it is generated worse than by ridge regression: R² from the others, minus that of ridge regression"
    )
    return [Finding(what, name, behind, -BEHIND, "train longer, give z more dimensions, or lower beta")]


def _between(measures: Mapping[str, Mapping[str, float]], opposed: bool) -> list[Finding]:
    """Gradients that are opposed, and one modality that dominates others which suffer."""
    found, names = [], list(measures["share"])
    for a, b in combinations(names, 2) if opposed else ():
        cosine = measures.get(f"cosine {a}", {}).get(b, np.nan)
        if cosine < OPPOSED:
            remedy = "give them private latents, more dimensions of z, or weights that are closer"
            what = "their gradients with respect to z are opposed: the mean cosine"
            found.append(Finding(what, f"{a}, {b}", cosine, OPPOSED, remedy))
    behind = [
        name
        for name in names
        if measures["r2 others"].get(name, np.nan) < measures["r2 ridge"].get(name, np.nan) - BEHIND / 3
        and not measures["r2"].get(name, np.nan) < LEAST_R2
    ]
    for name, share in measures["share"].items():
        lost = [other for other in behind if other != name]
        if share > MOST_SHARE and lost:
            remedy = f"lower its weight, raise the scale of its likelihood, or raise the weight of {', '.join(lost)}"
            found.append(
                Finding(
                    "it dominates the others: its share of the gradient norm", name, share, MOST_SHARE, remedy
                )
            )
    return found


def _overfitting(
    model: MultimodalVAE, train: MultimodalData, measures: dict[str, dict[str, float]], seed: int
) -> list[Finding]:
    names = [name for name in decoded_values(model, train) if name in measures["r2"]]
    table = explained(model, train, names, seed, alone=False)
    measures["r2 train"] = {name: table.value(name, "all") for name in names}
    remedy = "stop earlier (train.patience), use smaller networks or dropout, or add samples"
    what = "it is overfitted: R² of training samples, minus that of held-out ones"
    gaps = {name: measures["r2 train"][name] - measures["r2"][name] for name in names}
    return [Finding(what, name, gap, OVERFIT, remedy) for name, gap in gaps.items() if gap > OVERFIT]


def _scales(model: MultimodalVAE, data: MultimodalData) -> list[Finding]:
    """Data whose scale does not fit a likelihood with a fixed scale, and data far from centred."""
    found: list[Finding] = []
    for name, net in model.modalities.items():
        likelihood = net.likelihood
        if not isinstance(likelihood, Scaled) or name not in data.names or net.decoder is None:
            continue
        if likelihood.standardises:
            continue
        x, seen = _values(data, name)
        count = np.maximum(seen.sum(0), 1)
        mean = np.where(seen, x, 0).sum(0) / count
        spread = float(np.sqrt(np.where(seen, (x - mean) ** 2, 0).sum() / max(1, seen.sum())))
        if spread == 0:
            continue
        if likelihood.fixed is not None:
            ratio, remedy = spread / likelihood.fixed, 'standardise it, or set params={"scale": "learned"}'
            if not SCALES[0] <= ratio <= SCALES[1]:
                what = "its scale does not fit its likelihood: the standard deviation in units of the scale"
                found.append(
                    Finding(what, name, ratio, SCALES[0] if ratio < SCALES[0] else SCALES[1], remedy)
                )
                continue
        offset = float(np.sqrt((mean**2 * count).sum() / count.sum())) / spread
        if offset > OFFSET:
            what = "it is far from centred: its mean in standard deviations"
            found.append(Finding(what, name, offset, OFFSET, "subtract the means of its features"))
    return found

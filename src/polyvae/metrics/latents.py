"""Latent representations: linear probes of z and of each w_m, active units, and the KL of each dimension.

Probes are logistic regressions (lbfgs, 1,000 iterations) on posterior draws, as in the protocol of MMVAE+ (Palumbo et al. 2023), and ridge
regressions for continuous factors. z should predict what is shared, and w_m what is private to its modality; the other two are leaks.
Active units are dimensions whose posterior mean has a variance above 0.01 over the data (Burda et al. 2016).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.distributions import Diagonal, Mixture
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.metrics import labels
from polyvae.metrics.context import Context, check_finite, subsample
from polyvae.utils.errors import InputError

ACTIVE = 0.01  # variance of the posterior mean above which a dimension is active
ROWS = 5_000  # samples of each part, chosen at random
_DRAWS = 10  # per sample, for a divergence without a closed form
_NUMBERS = 2**22  # values of the components of a mixture that are processed together
_Probes = dict[str, dict[str, Any]]


class Codes(NamedTuple):
    """Latents ``z`` [N, D] and ``w`` [N, W] of the samples with the indices ``rows`` [N], on the host."""

    rows: Tensor
    z: Tensor
    w: Tensor


class Usage(NamedTuple):
    """How much each latent dimension is used.

    ``variance`` of the posterior mean; ``kl``, mean over the data, in nats (for a mixture, between marginals); ``total``, the KL of all
    dimensions jointly; ``exact``, whether the KL is by formula instead of Monte Carlo.
    """

    variance: Tensor
    kl: Tensor
    total: float
    exact: bool

    def asdict(self) -> dict[str, Any]:
        return {
            "active": int((self.variance > ACTIVE).sum()),
            "columns": len(self.kl),
            "kl_total": self.total,
            "kl": self.kl.tolist(),
            "variance": self.variance.tolist(),
            "how": "exact" if self.exact else f"Monte Carlo, {_DRAWS} draws per sample",
        }


def latents(context: Context, *, on: str = "samples", rows: int = ROWS) -> dict[str, Any]:
    """Probe accuracies (``_r2`` for continuous factors), active units, and KL of z and of the w_m; details in ``probes`` and ``units``.

    ``probe_z_*`` and ``probe_w_*`` are means over modalities, each encoded alone; ``probe_z_shared_joint`` is z given all modalities.
    What does not exist is left out: z or w, labels, factors, a training part.

    Args:
        context: The evaluation context.
        on: Whether to probe "samples" or "means" of the posterior.
        rows: The largest number of samples of the training part (to fit) and of the held-out data (to test).

    Raises:
        InputError: For any other ``on``.
    """
    if on not in ("samples", "means"):
        raise InputError(
            f"latents: got on={on!r}; expected 'samples' or 'means'; the published protocol probes samples"
        )
    model = context.model
    test = subsample(context.data, rows, context.seed("latents/test"))
    sets = _sets(model, test)
    probed = context.train is not None and (test.labels is not None or bool(test.factors))
    context.report.start("latents", len(sets) * (1 + probed))
    result, units = _usage(context, test, sets)
    if probed and context.train is not None:
        train = subsample(context.train, rows, context.seed("latents/train"))
        headline, probes = _probe_all(context, train, test, sets, on)
        return (
            headline
            | result
            | {"probes": probes, "probed": f"posterior {on}", "probe_rows": len(train), "units": units}
        )
    return result | {"units": units}


# ---- latents -----------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def encode(
    model: MultimodalVAE,
    data: MultimodalData,
    members: tuple[str, ...],
    on: str = "samples",
    seed: int = 0,
    batch_size: int = 1000,
) -> Codes:
    """Posterior draws or means given these modalities, for the samples in which any of them is observed."""
    z, w = [], []
    rows = _observed(data, members)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for batch in _batches(model, data, members, rows, batch_size):
            if on == "samples":
                draws = model.draw(batch)
                z.append(draws.z[0].cpu())
                w.append(draws.w[0].cpu())
            else:
                both = model.embed(batch, private=True).cpu()
                z.append(both[:, : both.shape[1] - len(model.owner)])
                w.append(both[:, both.shape[1] - len(model.owner) :])
    codes = Codes(rows, torch.cat(z), torch.cat(w))
    check_finite("latents", torch.cat([codes.z, codes.w], 1))
    return codes


def _batches(
    model: MultimodalVAE, data: MultimodalData, members: tuple[str, ...], rows: Tensor, batch_size: int
) -> Iterator[Batch]:
    """Batches of these rows, observed in ``members``, small enough for the memory that a posterior of many components needs."""
    first = model.admit(data.take(rows[:1]).observe(*members))
    components = model.posterior(first, model.experts(first)).components.loc
    step = max(1, min(batch_size, _NUMBERS // max(1, components.numel())))
    for start in range(0, len(rows), step):
        yield data.take(rows[start : start + step]).observe(*members)


def _observed(data: MultimodalData, members: tuple[str, ...]) -> Tensor:
    """The indices of the samples in which any of these is observed, on the host."""
    return data.mask[[data.names.index(name) for name in members]].any(0).nonzero()[:, 0].cpu()


def _sets(model: MultimodalVAE, data: MultimodalData) -> list[tuple[str, ...]]:
    """Each encoded modality with observed samples alone, then all of them."""
    inputs = [
        name
        for name, net in model.modalities.items()
        if net.encoder is not None and name in data.names and bool(data.mask[data.names.index(name)].any())
    ]
    return [(name,) for name in inputs] + ([tuple(inputs)] if len(inputs) > 1 else [])


# ---- probes ----------------------------------------------------------------------------------------------------------------------


def probe(
    x: NDArray[Any], y: NDArray[Any], x_test: NDArray[Any], y_test: NDArray[Any]
) -> dict[str, Any] | None:
    """A linear probe of latents x [N, D]: its ``score``, and ``chance``, the score without latents.

    Integers y [N]: accuracy of a logistic regression, with chance the frequency of the most frequent class. Floating-point numbers: R² of
    a ridge regression, with chance 0. None if there are no dimensions, or fewer than two classes or samples.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    if not x.shape[1] or len(y) < 2 or len(y_test) < 2 or len(np.unique(y)) < 2:
        return None
    if y.dtype.kind == "f":
        return {
            "score": float(Ridge().fit(x, y).score(x_test, y_test)),
            "chance": 0.0,
            "kind": "r2",
            "rows": len(y_test),
        }
    classes, counts = np.unique(y, return_counts=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ``converged`` reports it
        fitted = LogisticRegression(max_iter=1000).fit(x, y)
    return {
        "score": float(fitted.score(x_test, y_test)),
        "chance": float((y_test == classes[counts.argmax()]).mean()),
        "kind": "accuracy",
        "rows": len(y_test),
        "converged": bool((fitted.n_iter_ < fitted.max_iter).all()),
    }


class Question(NamedTuple):
    """A factor y to predict from latents, and the rows in which it is known (``seen``, bool), for fitting and for testing."""

    y: Tensor
    y_test: Tensor
    seen: Tensor
    seen_test: Tensor


def _probe_all(
    context: Context,
    train: MultimodalData,
    test: MultimodalData,
    sets: list[tuple[str, ...]],
    on: str,
) -> tuple[dict[str, float], dict[str, Any]]:
    model = context.model
    found: dict[str, dict[str, _Probes]] = {"z": {}, "w": {}}
    headline: dict[str, list[float]] = {}
    names = list(model.modalities)
    for number, members in enumerate(sets):
        context.report.advance()
        if not set(members) <= set(train.names) or not len(_observed(train, members)):
            continue
        fit, judge = (
            encode(model, data, members, on, context.seed("latents/probe", number, part), context.batch_size)
            for part, data in enumerate((train, test))
        )
        questions = _questions(train, test, fit.rows, judge.rows, members)
        found["z"][",".join(members)] = _ask(questions, fit.z, judge.z)
        if len(members) == 1:
            span = model.columns[names.index(members[0])]
            found["w"][members[0]] = _ask(questions, fit.w[:, span], judge.w[:, span])
    for latent, by in found.items():
        for key, probes in by.items():
            for what, result in probes.items():
                whose, amount = "shared" if what == "label" else "private", result["kind"] == "r2"
                if (key,) in sets:
                    headline.setdefault(f"probe_{latent}_{whose}{'_r2' if amount else ''}", []).append(
                        result["score"]
                    )
                    if not amount:
                        headline.setdefault(f"probe_{whose}_chance", []).append(result["chance"])
                elif whose == "shared":
                    headline["probe_z_shared_joint"] = [result["score"]]
    means = {name: sum(values) / len(values) for name, values in headline.items()}
    return means, {
        latent: {key: probes for key, probes in by.items() if probes} for latent, by in found.items()
    }


def _questions(
    train: MultimodalData,
    test: MultimodalData,
    rows: Tensor,
    rows_test: Tensor,
    members: tuple[str, ...],
) -> dict[str, Question]:
    """The label ("label"), and the factors of the encoded modalities ("modality/factor")."""
    found = {}
    if train.labels is not None and test.labels is not None:
        found["label"] = Question(
            train.labels.cpu()[rows],
            test.labels.cpu()[rows_test],
            labels.known(train.labels).cpu()[rows],
            labels.known(test.labels).cpu()[rows_test],
        )
    for owner in members:
        seen, seen_test = (
            data.mask[data.names.index(owner)].cpu()[index]
            for data, index in ((train, rows), (test, rows_test))
        )
        own = test.factors.get(owner, {})
        for name, y in train.factors.get(owner, {}).items():
            if name in own:
                found[f"{owner}/{name}"] = Question(y[rows], own[name][rows_test], seen, seen_test)
    return found


def _ask(questions: Mapping[str, Question], x: Tensor, x_test: Tensor) -> _Probes:
    answers = {
        what: probe(
            x[seen].double().numpy(),
            y[seen].numpy(),
            x_test[seen_test].double().numpy(),
            y_test[seen_test].numpy(),
        )
        for what, (y, y_test, seen, seen_test) in questions.items()
    }
    return {what: answer for what, answer in answers.items() if answer is not None}


# ---- units -----------------------------------------------------------------------------------------------------------------------


def _usage(
    context: Context,
    data: MultimodalData,
    sets: list[tuple[str, ...]],
) -> tuple[dict[str, float], dict[str, Any]]:
    units: dict[str, dict[str, Any]] = {"z": {}, "w": {}}
    headline: dict[str, float] = {}
    for number, members in enumerate(sets):
        z, w = usage(context.model, data, members, context.seed("latents/usage", number), context.batch_size)
        if len(z.kl):
            units["z"][",".join(members)] = z.asdict()
            headline |= {
                "active_units_z": float((z.variance > ACTIVE).sum()),
                "kl_z": z.total,
            }  # the last set is all of them
        if len(members) == 1 and len(w[members[0]].kl):
            own = w[members[0]]
            units["w"][members[0]] = own.asdict()
            headline["active_units_w"] = headline.get("active_units_w", 0.0) + float(
                (own.variance > ACTIVE).sum()
            )
            headline["kl_w"] = headline.get("kl_w", 0.0) + own.total
        context.report.advance()
    return headline, {latent: by for latent, by in units.items() if by}


@torch.no_grad()
def usage(
    model: MultimodalVAE,
    data: MultimodalData,
    members: tuple[str, ...],
    seed: int = 0,
    batch_size: int = 1000,
) -> tuple[Usage, Mapping[str, Usage]]:
    """The use of z given these modalities, and of the w_m of each that was observed, over the samples in which any of them is observed.

    The KL of a single normal or Laplace distribution is exact. That of a mixture, or from a mixture prior, is a Monte Carlo mean. The KL of
    w_m is exact given z.
    """
    rows = _observed(data, members)
    means, columns, total, exact = [], [], [], True
    private = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for batch in _batches(model, data, members, rows, batch_size):
            means.append(model.embed(batch, private=True).double().cpu())
            batch = model.admit(batch)
            experts = model.experts(batch)
            q = model.posterior(batch, experts)
            kl, joint, by_formula = _divergence(q, model.prior.z())
            z = q.pick(q.choose(1)).rsample(None, "z", "KBD")  # [1, B, D]
            columns.append(kl.double().cpu())
            total.append(joint.double().cpu())
            p_w = model.prior.w(z)
            private.append(model.private(batch, experts, z, p_w).kl_columns(p_w)[0].double().cpu())
            exact = exact and by_formula
    mean, kl_w = torch.cat(means), torch.cat(private)
    mean_z, mean_w = mean[:, : mean.shape[1] - kl_w.shape[1]], mean[:, mean.shape[1] - kl_w.shape[1] :]
    own = {}
    for m, name in enumerate(model.modalities):
        if name in members:
            seen, span = data.mask[data.names.index(name)].cpu()[rows], model.columns[m]
            if not bool(seen.any()):
                continue
            own[name] = Usage(
                _variance(mean_w[seen, span]),
                kl_w[seen, span].mean(0),
                float(kl_w[seen, span].sum(1).mean()),
                True,
            )
    return Usage(_variance(mean_z), torch.cat(columns).mean(0), float(torch.cat(total).mean()), exact), own


def _variance(x: Tensor) -> Tensor:
    """Variance over the data, [N, D] -> [D]; 0 for one sample."""
    return x.var(0) if len(x) > 1 and x.shape[1] else torch.zeros_like(x[0])


def _divergence(q: Mixture, p: Diagonal | Mixture) -> tuple[Tensor, Tensor, bool]:
    """KL(q || p) of the marginal of each dimension [B, D], of all dimensions jointly [B], and whether it is exact."""
    if isinstance(p, Diagonal) and bool((q.active.sum(0) == 1).all()):
        kl = q.pick(q.weights.argmax(0, keepdim=True))[0].kl_columns(p)
        return kl, kl.sum(-1), True
    columns, joint = [], []
    for _ in range(_DRAWS):
        z = q.pick(q.choose(1)).rsample(None, "z", "KBD")  # [1, B, D]
        columns.append(_marginals(q, z[0]) - _marginals(p, z[0]))
        joint.append((q.log_prob(z) - p.log_prob(z))[0])
    return torch.stack(columns).mean(0), torch.stack(joint).mean(0), False


def _marginals(p: Diagonal | Mixture, z: Tensor) -> Tensor:
    """Log-density of the marginal of each dimension at z [B, D]: [B, D]."""
    if isinstance(p, Diagonal):
        return p.columns(z)
    return (p.components.columns(z) + p.weights.log()[..., None]).logsumexp(0)

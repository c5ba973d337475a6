"""Importance-sampled log-likelihoods in nats per sample: a lower bound, which is tight if the effective sample size is large."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from polyvae.core.inference import Estimate
from polyvae.metrics.context import Context

_Condition = tuple[str, tuple[str, ...]]  # a modality, and those that are given


def likelihood(context: Context) -> dict[str, Any]:
    """Joint, marginal and conditional log-likelihoods, with standard errors and effective sample sizes.

    ``log_likelihood`` is that of all observed modalities jointly; ``log_likelihood_by_modality`` and ``log_likelihood_by_condition`` have
    names such as "m0" and "m0|m1,m2". The setting ``likelihood_conditional`` selects the conditionals; ``log_likelihood_conditional`` is
    the mean over modalities given all others. A conditional is taken over the samples in which the modality and at least one of the given
    ones are observed. It is the difference of two estimates, so it is not a bound; its effective sample size is the smaller of the two.
    Only decoded modalities have a likelihood; those that are only encoded improve the proposals of the joint one. Empty for models without
    a joint density, and if no decoded modality was observed.
    """
    model = context.model
    if not model.facts.density:
        return {}
    data = context.data.rows(slice(0, context.config.likelihood_rows))
    batch = data.take(slice(None))
    seen = {
        name: batch.mask[data.names.index(name)]
        for name, net in model.modalities.items()
        if net.decoder is not None and name in data.names
    }
    names = tuple(name for name, row in seen.items() if bool(row.any()))
    if not names:
        return {}
    rest: list[_Condition] = [
        (name, tuple(other for other in names if other != name)) for name in names if len(names) > 1
    ]
    pairs: list[_Condition] = [(name, (other,)) for name, other in permutations(names, 2)]
    asked = dict.fromkeys(
        {"none": [], "rest": rest, "pairs": rest + pairs}[context.config.likelihood_conditional]
    )
    wanted = [frozenset(names), *(frozenset({name}) for name in names)]
    wanted += [frozenset(part) for name, given in asked for part in (given, (name, *given))]
    known: dict[frozenset[str], Estimate] = {}
    context.report.start("likelihood", len(set(wanted)))
    with torch.random.fork_rng():
        torch.manual_seed(context.seed("likelihood"))
        for members in dict.fromkeys(wanted):
            part = batch if members == wanted[0] else batch.observe(*members)
            known[members] = model.log_marginal(
                part, K=context.config.likelihood_samples, rows=min(8192, context.rows)
            )
            context.report.advance()

    joint = _summary(known[wanted[0]], _any(seen, names))
    by_modality = {name: _summary(known[frozenset({name})], seen[name]) for name in names}
    found = {
        (name, given): _summary(
            _ratio(known[frozenset((name, *given))], known[frozenset(given)]), seen[name] & _any(seen, given)
        )
        for name, given in asked
        if bool((seen[name] & _any(seen, given)).any())
    }
    means = [found[key]["mean"] for key in rest if key in found]
    return {
        "log_likelihood": joint["mean"],
        **({"log_likelihood_conditional": sum(means) / len(means)} if means else {}),
        "log_likelihood_joint": joint,
        "log_likelihood_by_modality": by_modality,
        "log_likelihood_by_condition": {
            f"{name}|{','.join(given)}": line for (name, given), line in found.items()
        },
        "log_likelihood_samples": context.config.likelihood_samples,
    }


def _any(seen: dict[str, Tensor], names: tuple[str, ...]) -> Tensor:
    """Whether any of these was observed: [B] bool."""
    return torch.stack([seen[name] for name in names]).any(0)


def _ratio(joint: Estimate, given: Estimate) -> Estimate:
    return Estimate(
        joint.value - given.value,
        torch.hypot(joint.standard_error, given.standard_error),
        torch.minimum(joint.effective_samples, given.effective_samples),
    )


def _summary(estimate: Estimate, seen: Tensor) -> dict[str, float]:
    """Over the samples that have it: the mean, its standard errors (from data, and from sampling), and the median effective size."""
    value, error, effective = (part[seen.to(part.device)].double().cpu() for part in estimate)
    spread = float(value.std()) / math.sqrt(len(value)) if len(value) > 1 else math.nan
    return {
        "mean": float(value.mean()),
        "standard_error": spread,
        "sampling_error": float(error.square().sum().sqrt() / len(error)),
        "effective_samples": float(effective.median()),
        "rows": len(value),
    }

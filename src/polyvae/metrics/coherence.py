"""Coherence: whether generated modalities agree with the observed ones, and with one another.

Conditional coherence (protocol of MMVAE+, Palumbo et al. 2023) takes one posterior draw, the private latents of unobserved modalities from
p(w), and the mean of the likelihood. It is the share of generated images to which the judge assigns the label of the sample. Input and
target differ. Accuracies are micro-averages over samples. The protocol "published" uses one draw of w for all unobserved modalities, as
the code of the authors does (see ``generation``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from polyvae.core.fitted import FittedPrior
from polyvae.metrics import generation, labels
from polyvae.metrics.context import Context
from polyvae.metrics.judges import Judges

_SUBSETS = 64  # the largest number of observed sets for each number of inputs


def coherence(context: Context) -> dict[str, Any]:
    """Conditional coherence (with its matrix, and by number of observed modalities) and unconditional coherence (with its histogram).

    With a fitted prior, unconditional coherence is also computed for draws from it. If it is over all latents and has conditional draws,
    so is conditional coherence, with the private latents of what is not observed drawn from it.
    The held-out accuracies of the judges are included for comparison. Samples without a label are left out. Agreement needs two judges:
    with one, it would be 1 for any model, so it is absent. Empty if there are no judges for the decoded modalities.
    """
    model, judges = context.model, context.judges
    if judges is None:
        return {}
    targets = [name for name, net in model.modalities.items() if net.decoder is not None and name in judges]
    if not targets:
        return {}
    inputs = [
        name
        for name, net in model.modalities.items()
        if net.encoder is not None and name in context.data.names
    ]
    sizes = range(1, min(len(inputs), (context.config.inputs or len(inputs)) + 1))
    sets = [
        members
        for size in sizes
        for members in _some(list(combinations(inputs, size)), context.seed("coherence/sets", size))
    ]
    fitted = generation.conditional_prior(context)
    context.report.start("coherence", len(sets) * (1 if fitted is None else 2) + 1)
    result: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    for suffix, prior in ({"": None} | ({"_fitted": fitted} if fitted is not None else {})).items():
        pairs, matrix, by_number = _conditional(context, judges, targets, inputs, sets, prior)
        result |= {f"conditional_coherence{suffix}": _mean(pairs)} if pairs else {}
        tables |= {f"coherence_matrix{suffix}": matrix, f"coherence_by_observed{suffix}": by_number}
    priors = {"": None} | ({"_fitted": context.prior} if context.prior is not None else {})
    drawn = {
        suffix: unconditional(context, judges, targets, prior, number)
        for number, (suffix, prior) in enumerate(priors.items())
    }
    if len(targets) > 1:
        result |= {f"unconditional_coherence{suffix}": share for suffix, (share, _) in drawn.items()}
    else:
        context.note(
            f"unconditional coherence: {targets[0]!r} is the only judged modality, so there is nothing that it could agree with; it is "
            "left out"
        )
    if judges.agreement is not None and len(judges) > 1:
        result["judge_agreement"] = judges.agreement
    result |= {
        "judge_accuracy": judges.accuracy,
        "judge_kind": judges.kinds,
        **tables,
        "judges": judges.source,
    }
    for suffix, (_, histogram) in drawn.items():
        result[f"unconditional_histogram{suffix}"] = histogram
        result[f"unconditional_entropy{suffix}"] = entropy(list(histogram.values()))
    context.report.advance()
    return result


def unconditional(
    context: Context, judges: Judges, targets: list[str], prior: FittedPrior | None, stream: int = 0
) -> tuple[float, dict[str, int]]:
    """The share of draws from the prior on which all judges agree, and the number of agreements for each class.

    A constant output always agrees, so the share is meaningful only together with the histogram. ``stream`` numbers the draws.
    """
    agreed: list[Tensor] = []
    for images in generation.unconditional(context, prior, context.seed("coherence/unconditional", stream)):
        read = torch.stack([judges.predict(name, images[name]) for name in targets])
        agreed.append(read[0][(read == read[0]).all(0)])
    classes = torch.cat(agreed)
    return len(classes) / context.config.draws, {
        str(label): int((classes == label).sum()) for label in judges.classes.tolist()
    }


def entropy(counts: list[int]) -> float:
    """Normalised entropy of a histogram: 1 for equal counts, 0 for one class only."""
    total = sum(counts)
    if total == 0 or len(counts) < 2:
        return 0.0
    return -sum(n / total * math.log(n / total) for n in counts if n) / math.log(len(counts))


def _conditional(
    context: Context,
    judges: Judges,
    targets: list[str],
    inputs: list[str],
    sets: list[tuple[str, ...]],
    prior: FittedPrior | None,
) -> tuple[list[float], dict[str, dict[str, float]], dict[str, float]]:
    """The accuracies of all pairs, their matrix, and their means by number of observed modalities."""
    stream = "coherence/conditional" if prior is None else "coherence/conditional/fitted"
    matrix: dict[str, dict[str, float]] = {name: {} for name in inputs}
    by_number: dict[str, list[float]] = {}
    for number, members in enumerate(sets):
        found = _accuracies(
            context,
            judges,
            members,
            [name for name in targets if name not in members],
            context.seed(stream, number),
            prior,
        )
        by_number.setdefault(str(len(members)), []).extend(found.values())
        if len(members) == 1:
            matrix[members[0]] = found
        context.report.advance()
    pairs = [value for row in matrix.values() for value in row.values()]
    return pairs, matrix, {size: _mean(values) for size, values in by_number.items() if values}


def _accuracies(
    context: Context,
    judges: Judges,
    members: tuple[str, ...],
    targets: list[str],
    seed: int,
    prior: FittedPrior | None,
) -> dict[str, float]:
    right = dict.fromkeys(targets, 0)
    count = 0
    for batch, made in generation.conditional(context, members, targets, seed, prior=prior):
        truth = batch.extra["labels"]
        seen = labels.known(truth)
        for name, images in made.items():
            found = judges.predict(name, images[0]) == truth.to(images.device)
            right[name] += int((found & seen.to(images.device)).sum())
        count += int(seen.sum())
    return {name: value / count for name, value in right.items()} if count else {}


def _some(sets: list[tuple[str, ...]], seed: int) -> Iterator[tuple[str, ...]]:
    if len(sets) <= _SUBSETS:
        yield from sets
        return
    order = torch.randperm(len(sets), generator=torch.Generator().manual_seed(seed))
    yield from (sets[int(i)] for i in order[:_SUBSETS])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan

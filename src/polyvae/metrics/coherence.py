"""Coherence: do generated modalities show what the observed ones show, and what one another show?

Conditional (MMVAE+ protocol, Palumbo et al. 2023): one posterior draw, w of what was not observed from p(w), decoder mean; the share of
generated images that their judge gives the sample's label. Source and target differ. Accuracies are micro-averages over samples.
The protocol "published" shares one draw of w among all that is not observed, as the authors' code of 2023 does (see ``generation``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from polyvae.core.fitted import FittedPrior
from polyvae.metrics import generation
from polyvae.metrics.context import Context
from polyvae.metrics.judges import Judges

_SUBSETS = 64  # observed sets that are tried per number of inputs, at most


def coherence(context: Context) -> dict[str, Any]:
    """``conditional_coherence`` with its matrix and by number of observed modalities; ``unconditional_coherence`` with its histogram.

    Every coherence stands beside its judges' own held-out accuracy. Empty where there are no judges, or none of what is decoded.
    """
    model, judges = context.model, context.judges
    if judges is None:
        return {}
    targets = [name for name, net in model.modalities.items() if net.decoder is not None and name in judges]
    if not targets:
        return {}
    sources = [
        name
        for name, net in model.modalities.items()
        if net.encoder is not None and name in context.data.names
    ]
    sizes = range(1, min(len(sources), (context.config.inputs or len(sources)) + 1))
    sets = [
        members for size in sizes for members in _some(list(combinations(sources, size)), context.config.seed)
    ]
    context.report.start("coherence", len(sets) + 1)
    matrix: dict[str, dict[str, float]] = {name: {} for name in sources}
    by_number: dict[str, list[float]] = {}
    for number, members in enumerate(sets):
        found = _accuracies(
            context,
            judges,
            members,
            [name for name in targets if name not in members],
            context.seed(number),
        )
        by_number.setdefault(str(len(members)), []).extend(found.values())
        if len(members) == 1:
            matrix[members[0]] = found
        context.report.advance()
    pairs = [value for row in matrix.values() for value in row.values()]
    result: dict[str, Any] = {"conditional_coherence": _mean(pairs)} if pairs else {}
    result |= {"unconditional_coherence": None, "unconditional_coherence_fitted": None}
    result |= {
        "judge_agreement": judges.agreement,
        "judge_accuracy": judges.accuracy,
        "judge_kind": judges.kinds,
        "coherence_matrix": matrix,
        "coherence_by_observed": {size: _mean(values) for size, values in by_number.items()},
        "judges": judges.source,
    }
    for suffix, prior in (("", None), ("_fitted", context.prior)):
        if not suffix or prior is not None:
            share, histogram = unconditional(context, judges, targets, prior)
            result[f"unconditional_coherence{suffix}"] = share
            result[f"unconditional_histogram{suffix}"] = histogram
            result[f"unconditional_entropy{suffix}"] = entropy(list(histogram.values()))
    context.report.advance()
    return result


def unconditional(
    context: Context, judges: Judges, targets: list[str], prior: FittedPrior | None
) -> tuple[float, dict[str, int]]:
    """The share of draws from the prior on which all judges agree, and how often they agree on each class.

    A constant output agrees with itself: read the share beside the histogram.
    """
    agreed: list[Tensor] = []
    for images in generation.unconditional(context, prior, context.seed(2)):
        read = torch.stack([judges.predict(name, images[name]) for name in targets])
        agreed.append(read[0][(read == read[0]).all(0)])
    classes = torch.cat(agreed)
    return len(classes) / context.config.draws, {
        str(label): int((classes == label).sum()) for label in judges.classes.tolist()
    }


def entropy(counts: list[int]) -> float:
    """Entropy of a histogram as a share of the largest possible: 1 is even, 0 is one class only."""
    total = sum(counts)
    if total == 0 or len(counts) < 2:
        return 0.0
    return -sum(n / total * math.log(n / total) for n in counts if n) / math.log(len(counts))


def _accuracies(
    context: Context,
    judges: Judges,
    members: tuple[str, ...],
    targets: list[str],
    seed: int,
) -> dict[str, float]:
    right = dict.fromkeys(targets, 0)
    count = 0
    for batch, made in generation.conditional(context, members, targets, seed):
        labels = batch.extra["labels"]
        for name, images in made.items():
            right[name] += int((judges.predict(name, images[0]) == labels.to(images.device)).sum())
        count += batch.size
    return {name: value / count for name, value in right.items()} if count else {}


def _some(sets: list[tuple[str, ...]], seed: int) -> Iterator[tuple[str, ...]]:
    if len(sets) <= _SUBSETS:
        yield from sets
        return
    order = torch.randperm(len(sets), generator=torch.Generator().manual_seed(seed))
    yield from (sets[int(i)] for i in order[:_SUBSETS])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan

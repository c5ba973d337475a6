"""Errors of reconstruction and cross-reconstruction, and the diversity of draws.

Errors are per entry, of the mean of the likelihood at one posterior draw. The baseline predicts the mean of the training part. Errors of
cross-reconstruction cannot be zero, because the input has no information on what is private to the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polyvae.core.fitted import FittedPrior
from polyvae.data import MultimodalData
from polyvae.metrics import generation, labels
from polyvae.metrics.context import Context, subsample

_Numbers = dict[str, float]


def reconstruction(context: Context, *, rows: int = 1_000, draws: int = 5) -> dict[str, Any]:
    """``reconstruction_error`` and ``cross_reconstruction_error`` (mean squared, per entry), ``diversity`` and ``diversity_real``.

    Errors are means over modalities, or over pairs of two; ``_relative`` divides by the error of the baseline, if there is a training part.
    ``reconstruction`` has the details, input -> target, with the mean absolute error ``mae``. Entries that are not observed do not count.

    Diversity is the distance (root mean square per entry) between two draws of a target given one sample of an input, with w from p(w). It
    is a mean over pairs of ``draws`` draws for ``rows`` samples, chosen at random; ``diversity_matrix`` has it by pair of modalities.
    ``diversity_real`` is the distance between two held-out samples of one class, if there are labels, and the reference for diversity;
    ``diversity_by_modality`` has it by modality. ``diversity_fitted`` and ``diversity_matrix_fitted`` are those of draws from a fitted
    prior, if it has conditional draws.
    """
    model, names = context.model, list(context.model.modalities)
    inputs = [
        name for name in names if model.modalities[name].encoder is not None and name in context.data.names
    ]
    decoded = [
        name for name in names if model.modalities[name].decoder is not None and name in context.data.names
    ]
    targets = [name for name in decoded if not model.modalities[name].likelihood.ids]
    for name in decoded:
        if name not in targets:
            context.note(
                f"reconstruction and diversity: {name!r} is left out, because ids of words have no distances"
            )
    few = subsample(context.data, rows, context.seed("reconstruction/rows"))
    fitted = generation.conditional_prior(context)
    priors = {"": None} | ({"_fitted": fitted} if fitted is not None else {})
    context.report.start("reconstruction", (1 + len(priors)) * len(inputs) + 1)
    means = {} if context.train is None else baseline(context.train, targets, context.batch_size)
    found: dict[str, dict[str, _Numbers]] = {}
    spread: dict[str, dict[str, _Numbers]] = {suffix: {} for suffix in priors}
    for number, observed in enumerate(inputs):
        found[observed] = _errors(
            context, observed, targets, means, context.seed("reconstruction/errors", number)
        )
        context.report.advance()
        others = [name for name in targets if name != observed]
        for suffix, prior in priors.items():
            seed = context.seed(f"reconstruction/diversity{suffix}", number)
            spread[suffix][observed] = _diversity(context, observed, others, few, draws, seed, prior)
            context.report.advance()
    result: dict[str, Any] = {}
    for head, cells in (
        ("", [row[name] for name, row in found.items() if name in row]),
        (
            "cross_",
            [cell for observed, row in found.items() for name, cell in row.items() if name != observed],
        ),
    ):
        result |= _means(f"{head}reconstruction_error", cells)
    varied = {
        suffix: [value for row in own.values() for value in row.values()] for suffix, own in spread.items()
    }
    if varied[""]:
        result |= {f"diversity{suffix}": sum(values) / len(values) for suffix, values in varied.items()}
        real = {
            name: value
            for number, name in enumerate(targets)
            if (value := within_classes(context.data, name, context.seed("reconstruction/pairs", number)))
            is not None
        }
        if real:
            result |= {"diversity_real": sum(real.values()) / len(real), "diversity_by_modality": real}
    context.report.advance()
    return result | {
        "reconstruction": found,
        **{f"diversity_matrix{suffix}": own for suffix, own in spread.items()},
        "diversity_draws": draws,
        "diversity_rows": len(few),
    }


def baseline(data: MultimodalData, names: list[str], batch_size: int = 1000) -> dict[str, Tensor]:
    """The mean of every entry over the samples in which it is observed: name -> [*shape], float64; 0 if it is never observed."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    names = [name for name in names if name in data.names]
    for batch in data.batches(batch_size):
        for name in names:
            x = batch.data[name].double()
            seen = _seen(batch.mask[data.names.index(name)], x, batch.entries.get(name))
            sums[name] = sums.get(name, 0) + torch.where(seen, x, 0).sum(0)
            counts[name] = counts.get(name, 0) + seen.sum(0)
    return {name: sums[name] / counts[name].clamp(min=1) for name in names}


def pairwise(x: Tensor) -> Tensor:
    """The mean distance, root mean square per entry, between two of the K draws of each row: [K, B, *shape] -> [B]."""
    K = len(x)
    flat = x.flatten(2).transpose(0, 1)  # [B, K, E]
    apart = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist") / flat.shape[-1] ** 0.5
    mean: Tensor = apart.sum((1, 2)) / (K * (K - 1))
    return mean


def within_classes(data: MultimodalData, name: str, seed: int = 0, batch_size: int = 1000) -> float | None:
    """The mean distance (root mean square per entry) between two samples of one class; each is paired with another at random.

    Samples without a label are left out, and only entries that are observed in both count. None without labels, or if no class has two
    samples.
    """
    if data.labels is None:
        return None
    rows = data.mask[data.names.index(name)].nonzero()[:, 0].cpu()
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    numbers = data.labels.cpu()
    total, count = 0.0, 0
    for label in labels.classes(numbers):
        members = rows[numbers[rows] == label]
        if len(members) < 2:
            continue
        for one, other in zip(
            torch.split(members, batch_size), torch.split(members.roll(1), batch_size), strict=True
        ):
            a, b = data.take(one), data.take(other)
            x, y = a.data[name].flatten(1), b.data[name].flatten(1)
            both = (
                (a.entries[name] & b.entries[name]).flatten(1)
                if name in a.entries
                else torch.ones_like(x, dtype=torch.bool)
            )
            seen = both.sum(1)
            apart = (torch.where(both, x - y, 0).square().sum(1) / seen.clamp(min=1)).sqrt()
            total, count = total + float(apart.sum()), count + int((seen > 0).sum())
    return total / count if count else None


def _errors(
    context: Context,
    observed: str,
    targets: list[str],
    means: Mapping[str, Tensor],
    seed: int,
) -> dict[str, _Numbers]:
    sums = {name: torch.zeros(5, dtype=torch.float64) for name in targets}
    for batch, made, _ in generation.conditional(context, (observed,), targets, seed):
        for name, images in made.items():
            y = images[0].cpu().double()
            x = batch.data[name].cpu().double()
            gaps = batch.entries.get(name)
            seen = _seen(
                batch.mask[context.data.names.index(name)].cpu(), x, None if gaps is None else gaps.cpu()
            )
            gap, base = (x - y)[seen], (x - means[name].cpu())[seen] if name in means else x.new_zeros(1)
            sums[name] += torch.stack(
                [seen.sum(), *(part for d in (gap, base) for part in (d.square().sum(), d.abs().sum()))]
            )
    found = {}
    for name, (count, *parts) in ((name, total.tolist()) for name, total in sums.items()):
        if count:
            keys = ("mse", "mae", "baseline_mse", "baseline_mae")[: 4 if name in means else 2]
            found[name] = {key: part / count for key, part in zip(keys, parts, strict=False)} | {
                "entries": count
            }
    return found


def _diversity(
    context: Context,
    observed: str,
    targets: list[str],
    data: MultimodalData,
    draws: int,
    seed: int,
    prior: FittedPrior | None,
) -> _Numbers:
    sums, count = dict.fromkeys(targets, 0.0), 0
    for batch, made, _ in generation.conditional(context, (observed,), targets, seed, draws, data, prior):
        for name, images in made.items():
            sums[name] += float(pairwise(images).sum())
        count += batch.size
    return {name: total / count for name, total in sums.items()} if count else {}


def _means(head: str, cells: list[_Numbers]) -> _Numbers:
    result = {head: sum(cell["mse"] for cell in cells) / len(cells)} if cells else {}
    known = [cell["mse"] / cell["baseline_mse"] for cell in cells if cell.get("baseline_mse")]
    return result | ({f"{head}_relative": sum(known) / len(known)} if known else {})


def _seen(line: Tensor, x: Tensor, entries: Tensor | None) -> Tensor:
    """Which entries of x [B, *shape] are observed: both the modality and the entry."""
    rows = line.view(-1, *[1] * (x.ndim - 1)).expand_as(x)
    return rows if entries is None else rows & entries

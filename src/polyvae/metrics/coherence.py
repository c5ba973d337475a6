"""Coherence: whether generated modalities agree with the observed ones, and with one another.

Conditional coherence (protocol of MMVAE+, Palumbo et al. 2023) takes one posterior draw, the private latents of unobserved modalities from
p(w), and the mean of the likelihood. It is the share of generated images to which the judge assigns the label of the sample. Input and
target differ. Accuracies are micro-averages over samples. The protocol "published" uses one draw of w for all unobserved modalities, as
the code of the authors does (see ``generation``).

Of data with several attributes, such as images and captions, each attribute counts that the input states and that the generated modality
states. Sentences are parsed; what they do not state is not counted.

Joint (1→N) coherence compares the modalities that are generated from one draw given one input with each other: of labels, whichever class
it is; of attributes, those that the input does not state, which the targets have to choose in common.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polyvae.core.fitted import FittedPrior
from polyvae.metrics import generation
from polyvae.metrics.context import Context
from polyvae.metrics.intervals import Estimate, shares
from polyvae.metrics.reading import Readers, compared

_SUBSETS = 64  # the largest number of observed sets for each number of inputs
_LISTED = 6  # up to this number of inputs, the mean of each number is a headline number


class _Agreement:
    """How often modalities that were generated together state the same class, by attribute."""

    def __init__(self, attributes: Mapping[str, Tensor]) -> None:
        self.classes = attributes
        self.agree: dict[str, list[Tensor]] = {name: [] for name in attributes}
        self.counted: dict[str, list[Tensor]] = {name: [] for name in attributes}
        self.agreed: dict[str, list[Tensor]] = {name: [] for name in attributes}

    def add(
        self, answers: Mapping[str, Mapping[str, Tensor]], loose: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Add modality -> attribute -> classes [n]. Only samples count in which the attribute is ``loose`` (None: all).

        Returns the number of attributes of each of them that agree, and that count: [n] each.
        """
        count = len(next(iter(next(iter(answers.values())).values())))
        for name in self.classes:
            read = torch.stack([own.get(name, torch.full((count,), -1)) for own in answers.values()])
            states = read >= 0
            # One modality alone agrees with itself; it counts where nothing else can be read.
            counted = states.sum(0) >= min(2, len(answers))
            if loose is not None:
                counted = counted & loose[name]
            most = read.max(0).values
            agree = counted & ((read == most) | ~states).all(0)
            self.agree[name].append(agree)
            self.counted[name].append(counted)
            self.agreed[name].append(most[agree])
        agree, counted = (
            torch.stack([own[-1] for own in of.values()]).sum(0) for of in (self.agree, self.counted)
        )
        return agree, counted

    def estimate(self) -> Estimate | None:
        """The share of attributes that agree, with its interval over the draws."""
        agree, counted = (
            torch.stack([torch.cat(own) for own in of.values()]).sum(0, keepdim=True)
            for of in (self.agree, self.counted)
        )
        return shares(agree, counted)

    def exact(self) -> Estimate | None:
        """The share of the draws with something to compare in which everything agrees."""
        agree, counted = (
            torch.stack([torch.cat(own) for own in of.values()]) for of in (self.agree, self.counted)
        )
        some = counted.any(0)
        return shares(((agree | ~counted).all(0) & some)[None], some[None])

    def histogram(self, name: str) -> dict[str, int]:
        """Class -> how often it was agreed on."""
        found = torch.cat(self.agreed[name])
        return {str(label): int((found == label).sum()) for label in self.classes[name].tolist()}

    def entropy(self) -> float:
        """The normalised entropy of the classes that were agreed on, its mean over attributes that were compared."""
        known = [name for name in self.classes if bool(torch.cat(self.counted[name]).any())]
        return _mean([entropy([*self.histogram(name).values()]) for name in known])

    def by_attribute(self, agreement: bool = True) -> dict[str, Any]:
        """Attribute -> agreement (if it is asked for), entropy and histogram of those that were compared."""
        found = {}
        for name in self.classes:
            agree, counted = torch.cat(self.agree[name]), torch.cat(self.counted[name])
            estimate = shares(agree[None], counted[None])
            if estimate is not None:
                histogram = self.histogram(name)
                shown = {"agreement": estimate.value, "interval": estimate.interval} if agreement else {}
                found[name] = {
                    **shown,
                    "entropy": entropy([*histogram.values()]),
                    "histogram": histogram,
                }
        return found


class _Given(NamedTuple):
    """Of one observed set: target -> answers that are right and that count [N]; and those in which the targets agree with each other."""

    right: dict[str, Tensor]
    counted: dict[str, Tensor]
    joint: _Agreement
    agree: Tensor
    compared: Tensor


def coherence(context: Context) -> dict[str, Any]:
    """Conditional coherence (with its matrix, and by number of observed modalities), joint and unconditional coherence.

    With a fitted prior, unconditional coherence is also computed for draws from it. If it is over all latents and has conditional draws,
    so are conditional and joint coherence, with the private latents of what is not observed drawn from it.

    ``intervals`` contains the interval of 95 % of each number (see ``intervals``), ``coherence_intervals`` those of the matrix. The
    held-out accuracies of the judges are included for comparison. Samples without a label are left out. Agreement needs two modalities
    that can be read: with one, it would be 1 for any model, so it is absent. Empty if no decoded modality can be read.
    """
    model, readers = context.model, Readers(context.data, context.judges)
    targets = [
        name for name, net in model.modalities.items() if net.decoder is not None and name in readers.names
    ]
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
    intervals: dict[str, list[float]] = {}
    for suffix, prior in ({"": None} | ({"_fitted": fitted} if fitted is not None else {})).items():
        stream = "coherence/conditional" if prior is None else "coherence/conditional/fitted"
        given: dict[tuple[str, ...], _Given] = {}
        for number, members in enumerate(sets):
            others = [name for name in targets if name not in members]
            given[members] = _given(context, readers, members, others, context.seed(stream, number), prior)
            context.report.advance()
        for more, ends in (_conditional(given, inputs), _joint(given, inputs, len(targets))):
            result |= {f"{name}{suffix}": value for name, value in more.items()}
            intervals |= {f"{name}{suffix}": value for name, value in ends.items()}
    priors = {"": None} | ({"_fitted": context.prior} if context.prior is not None else {})
    for number, (suffix, prior) in enumerate(priors.items()):
        more, ends = _free(unconditional(context, readers, targets, prior, number), suffix, len(targets))
        result, intervals = result | more, intervals | ends
    if len(targets) == 1:
        context.note(
            f"unconditional coherence: {targets[0]!r} is the only judged modality, so there is nothing that it could agree with; it is "
            "left out"
        )
    context.report.advance()
    known = {} if context.judges is None else context.judges.facts()
    return result | known | {"intervals": intervals}


def unconditional(
    context: Context, readers: Readers, targets: list[str], prior: FittedPrior | None, stream: int = 0
) -> _Agreement:
    """On which draws from the prior all modalities agree, and on which class.

    A constant output always agrees, so the share is meaningful only together with the histogram. ``stream`` numbers the draws.
    """
    found = _Agreement(readers.attributes)
    for made in generation.unconditional(context, prior, context.seed("coherence/unconditional", stream)):
        found.add({name: readers.read(name, made[name]) for name in targets})
    return found


def entropy(counts: list[int]) -> float:
    """Normalised entropy of a histogram: 1 for equal counts, 0 for one class only."""
    total = sum(counts)
    if total == 0 or len(counts) < 2:
        return 0.0
    return 0.0 - sum(n / total * math.log(n / total) for n in counts if n) / math.log(len(counts))


def _given(
    context: Context,
    readers: Readers,
    members: tuple[str, ...],
    targets: list[str],
    seed: int,
    prior: FittedPrior | None,
) -> _Given:
    count = len(context.data)
    right = {name: torch.zeros(count, dtype=torch.int16) for name in targets}
    counted = {name: torch.zeros(count, dtype=torch.int16) for name in targets}
    joint = _Agreement(readers.attributes)
    agree, together = torch.zeros(2, count, dtype=torch.int16)
    for batch, made, rows in generation.conditional(context, members, targets, seed, prior=prior):
        truth, stated = readers.truth(batch), readers.stated(batch, members)
        answers = {name: readers.read(name, x[0]) for name, x in made.items()}
        for name, own in answers.items():
            found, counts = compared(own, truth, stated).sums()
            right[name][rows], counted[name][rows] = found.short(), counts.short()
        if len(members) == 1 and len(targets) > 1:
            loose = None if readers.plain else {name: ~own for name, own in stated.items()}
            found, counts = joint.add(answers, loose)
            agree[rows], together[rows] = found.short(), counts.short()
    return _Given(right, counted, joint, agree, together)


def _conditional(
    given: Mapping[tuple[str, ...], _Given], inputs: list[str]
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The matrix of single inputs, and the means over pairs for each number of inputs."""
    matrix: dict[str, dict[str, float]] = {name: {} for name in inputs}
    ends: dict[str, dict[str, list[float]]] = {name: {} for name in inputs}
    pairs: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for members, found in given.items():
        for name in found.right:
            pair = found.right[name], found.counted[name]
            pairs.setdefault(len(members), []).append(pair)
            estimate = shares(pair[0][None], pair[1][None])
            if len(members) == 1 and estimate is not None:
                matrix[members[0]][name], ends[members[0]][name] = estimate.value, estimate.interval
    by_number = {
        size: estimate
        for size, own in pairs.items()
        if (estimate := shares(torch.stack([r for r, _ in own]), torch.stack([c for _, c in own])))
        is not None
    }
    headlines = {"conditional_coherence": by_number[1]} if 1 in by_number else {}
    if len(by_number) > 1 and len(inputs) <= _LISTED:
        headlines |= {f"coherence_{size}_inputs": found for size, found in by_number.items()}
    result: dict[str, Any] = {name: found.value for name, found in headlines.items()}
    result |= {
        "coherence_matrix": matrix,
        "coherence_intervals": ends,
        "coherence_by_observed": {str(size): found.value for size, found in by_number.items()},
    }
    return result, {name: found.interval for name, found in headlines.items()}


def _joint(
    given: Mapping[tuple[str, ...], _Given], inputs: list[str], targets: int
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Agreement of the modalities generated from one draw given one input, with the entropy of what they agree on."""
    known = {
        name: given[(name,)]
        for name in inputs
        if targets > 1 and (name,) in given and bool(given[(name,)].compared.any())
    }
    estimate = (
        shares(
            torch.stack([own.agree for own in known.values()]),
            torch.stack([own.compared for own in known.values()]),
        )
        if known
        else None
    )
    if estimate is None:
        return {}, {}
    result = {
        "joint_coherence": estimate.value,
        "joint_entropy": _mean([own.joint.entropy() for own in known.values()]),
        "joint_by_input": {name: own.joint.by_attribute() for name, own in known.items()},
    }
    return result, {"joint_coherence": estimate.interval}


def _free(found: _Agreement, suffix: str, targets: int) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The numbers of unconditional draws."""
    spread = found.entropy()
    result: dict[str, Any] = {f"unconditional_entropy{suffix}": spread} if math.isfinite(spread) else {}
    plain = [*found.classes] == ["label"]
    if plain:
        result[f"unconditional_histogram{suffix}"] = found.histogram("label")
    else:
        result[f"unconditional_by_attribute{suffix}"] = found.by_attribute(agreement=targets > 1)
    if targets < 2:
        return result, {}
    numbers = {"coherence": found.estimate()} | ({} if plain else {"exact": found.exact()})
    known = {f"unconditional_{key}{suffix}": own for key, own in numbers.items() if own is not None}
    return {name: own.value for name, own in known.items()} | result, {
        name: own.interval for name, own in known.items()
    }


def _some(sets: list[tuple[str, ...]], seed: int) -> Iterator[tuple[str, ...]]:
    if len(sets) <= _SUBSETS:
        yield from sets
        return
    order = torch.randperm(len(sets), generator=torch.Generator().manual_seed(seed))
    yield from (sets[int(i)] for i in order[:_SUBSETS])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan

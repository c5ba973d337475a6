"""Attributes of what is generated: which are right, by attribute; and whether what the input does not state differs from draw to draw.

Images are read by judges with a head for each attribute. Sentences are parsed, so a judge of them makes no error.

A caption that states the colour alone fits many images. A model that always draws the same one, or their average, can be right about
everything that was stated. So the diversity of what was not stated belongs beside the accuracy of what was. For a sample i whose input does
not state attribute a, let p_ia be the distribution of the judged class over K draws given this input, and q_ia the distribution of a among
the training samples that agree with i in everything that was stated. Then

    entropy   = mean_a  Σ_i Ĥ(p_ia) / Σ_i Ĥ(q_ia),     Ĥ(p) = −Σ_c p_c log p_c + (m − 1) / 2K     (Miller-Madow; m classes occur),
    diversity = mean_a  Σ_i D̂(p_ia) / Σ_i D̂(q_ia),     D̂(p) = (1 − Σ_c p_c²) K / (K − 1),

where D̂ is the share of pairs of draws that differ, without bias. Both are 1 where draws are as diverse as the data and 0 where all draws
given one input agree. They are taken for each input separately: one constant per input is not diverse, however many inputs there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from polyvae.config import EvaluateConfig
from polyvae.core.fitted import FittedPrior
from polyvae.data import MultimodalData
from polyvae.metrics import generation
from polyvae.metrics.context import Context, subsample
from polyvae.metrics.intervals import Estimate, ratios, shares
from polyvae.metrics.reading import Readers, compared

_Numbers = dict[str, Any]


def attributes(context: Context, *, draws: int = 20, rows: int = 200) -> dict[str, Any]:
    """Accuracy by attribute of what is generated given one modality, sentences that are exact and grammatical, and what was not stated.

    Headline numbers are means over pairs of input and target:

    * ``attribute_accuracy``: of targets read by judges, the share of the stated attributes that are right; ``attribute_accuracy_all``
      of all attributes; ``attribute_exact`` the share of samples in which all that was stated is right; ``attribute_chance`` the
      accuracy, of what ``attribute_accuracy`` counts, of always guessing the class that is most frequent in the training part.
    * ``sentence_accuracy``: of targets that are parsed, the share of the attributes stated in them that are right;
      ``sentence_grammatical``; ``sentence_exact`` the share that are grammatical and right in all they state; ``sentence_stated`` the
      share of attributes stated; ``sentence_chance`` as above.
    * ``unsaid_entropy``, ``unsaid_diversity``: see the module; from ``draws`` draws for each of at most ``rows`` samples.
      ``unsaid_accuracy`` is the accuracy of what was stated, in the same draws.
    * the same with ``_fitted``, if the fitted prior has conditional draws of the latents from which a missing modality is decoded.

    The held-out accuracies of the judges are included: their errors limit these numbers. ``attributes`` has the numbers by input,
    target and attribute, ``unsaid`` those of what was not stated, each with an interval of 95 %.
    Empty for data without attributes.
    """
    model, readers = context.model, Readers(context.data, context.judges)
    targets = [
        name for name, net in model.modalities.items() if net.decoder is not None and name in readers.names
    ]
    inputs = [
        name
        for name, net in model.modalities.items()
        if net.encoder is not None and name in context.data.names
    ]
    if readers.plain or not targets:
        # By default it is among the metrics of all data, of which most have no attributes.
        if not readers.plain or context.config.metrics != EvaluateConfig().metrics:
            context.report.say(
                "no attributes: the data have labels alone, or nothing that can be read; it is left out"
            )
        return {}
    fitted = generation.conditional_prior(context)
    context.report.start("attributes", (2 if fitted is None else 4) * len(inputs))
    result: dict[str, Any] = {"intervals": {}}
    for suffix, prior in ({"": None} | ({"_fitted": fitted} if fitted is not None else {})).items():
        found, ends = _with_prior(context, readers, inputs, targets, prior, draws, rows)
        result |= {f"{key}{suffix}": value for key, value in found.items()}
        result["intervals"] |= {f"{key}{suffix}": value for key, value in ends.items()}
    if context.judges is not None:
        result |= context.judges.facts()
    if "unsaid" in result:
        result["unsaid_settings"] = {"draws": draws, "samples": rows}
    return result


def _with_prior(
    context: Context,
    readers: Readers,
    inputs: list[str],
    targets: list[str],
    prior: FittedPrior | None,
    draws: int,
    rows: int,
) -> tuple[_Numbers, _Numbers]:
    """The numbers of ``attributes`` for what is generated with this prior, and their intervals."""
    stream = "attributes" if prior is None else "attributes/fitted"
    table: dict[str, dict[str, _Numbers]] = {}
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for number, name in enumerate(inputs):
        others = [target for target in targets if target != name]
        seed = context.seed(f"{stream}/table", number)
        table[name] = _table(context, readers, name, others, seed, pairs, prior)
        context.report.advance()
    unsaid: dict[str, dict[str, _Numbers]] = {}
    varied: dict[str, list[_Varied]] = {}
    for number, name in enumerate(inputs):
        others = [target for target in targets if target != name and not readers.parsed(target)]
        seed = context.seed(f"{stream}/unsaid", number)
        for target, found in _unsaid(context, readers, name, others, seed, draws, rows, prior).items():
            unsaid.setdefault(name, {})[target] = found.by_attribute([*readers.attributes])
            varied.setdefault(name, []).append(found)
        context.report.advance()
    estimates = {key: shares(*_stacked(own)) for key, own in pairs.items()} | _summary(varied)
    # Chance does not depend on what is generated.
    known = {
        key: own for key, own in estimates.items() if own and (prior is None or not key.endswith("chance"))
    }
    result: _Numbers = {key: own.value for key, own in known.items()} | {"attributes": table}
    if unsaid:
        result["unsaid"] = unsaid
    return result, {key: own.interval for key, own in known.items()}


def entropies(counts: Tensor) -> Tensor:
    """Entropy of each histogram in nats, with the correction of Miller and Madow: [..., C] -> [...]; 0 without observations."""
    total = counts.sum(-1, keepdim=True).clamp(min=1).double()
    share = counts / total
    plain: Tensor = -torch.special.xlogy(share, share).sum(-1)
    occurring = (counts > 0).sum(-1)
    return plain + (occurring - 1).clamp(min=0) / (2 * total.squeeze(-1))


def disagreements(counts: Tensor) -> Tensor:
    """The share of pairs of observations that differ: [..., C] -> [...]; 0 for fewer than two observations."""
    counts = counts.double()
    total = counts.sum(-1)
    alike = (counts * (counts - 1)).sum(-1)
    return torch.where(total > 1, 1 - alike / (total * (total - 1)).clamp(min=1), 0.0)


def histograms(answers: Tensor, classes: int) -> Tensor:
    """How often each class occurs along the first axis: [K, B] -> [B, C]; −1 is not counted."""
    return torch.stack([(answers == label).sum(0) for label in range(classes)], -1)


def most_frequent(data: MultimodalData) -> dict[str, int]:
    """Attribute -> its most frequent class, the first of those equally frequent; attributes without a known value are left out."""
    known = {name: x[x >= 0].cpu() for name, x in data.attributes.items()}
    return {name: int(torch.bincount(values).argmax()) for name, values in known.items() if len(values)}


def references(data: MultimodalData, truth: Tensor, stated: Tensor, place: int, classes: int) -> Tensor:
    """The histogram of attribute ``place`` among the samples of ``data`` that agree in what was stated: [B, C].

    Args:
        data: The samples to count, most often the training part.
        truth: The attributes of B samples: [B, A].
        stated: Which of them their input states: [B, A] bool.
        place: The attribute.
        classes: The number of its classes.
    """
    known = torch.stack([x.cpu() for x in data.attributes.values()], 1)  # [N, A]
    found = torch.zeros(len(truth), classes, dtype=torch.int64)
    for row, (own, seen) in enumerate(zip(truth, stated, strict=True)):
        alike = (known[:, seen] == own[seen]).all(1)
        values = known[alike, place]
        found[row] = torch.bincount(values[values >= 0], minlength=classes)
    return found


class _Varied(NamedTuple):
    """Of one input and target: of each attribute and sample, its variety and that of the data, and how often what was stated is right."""

    entropy: Tensor  # [A, N] each
    entropy_data: Tensor
    disagreement: Tensor
    disagreement_data: Tensor
    right: Tensor
    counted: Tensor

    def by_attribute(self, names: list[str]) -> _Numbers:
        """Attribute -> entropy and diversity relative to the data, with their intervals, and the number of samples."""
        found: _Numbers = {}
        for place, name in enumerate(names):
            entropy = ratios(self.entropy[place][None], self.entropy_data[place][None])
            diversity = ratios(self.disagreement[place][None], self.disagreement_data[place][None])
            if entropy is not None and diversity is not None:
                found[name] = {
                    "entropy": entropy.value,
                    "entropy_interval": entropy.interval,
                    "diversity": diversity.value,
                    "diversity_interval": diversity.interval,
                    "samples": int((self.entropy_data[place] > 0).sum()),
                }
        return found


def _summary(varied: dict[str, list[_Varied]]) -> dict[str, Estimate | None]:
    """The headline numbers of what was not stated: means over attributes, targets and inputs."""
    every = [own for found in varied.values() for own in found]
    if not every:
        return {}
    longest = max(own.entropy.shape[1] for own in every)

    def joined(field: str) -> Tensor:
        parts = [getattr(own, field) for own in every]
        return torch.cat([torch.nn.functional.pad(x.double(), (0, longest - x.shape[1])) for x in parts])

    return {
        "unsaid_entropy": ratios(joined("entropy"), joined("entropy_data")),
        "unsaid_diversity": ratios(joined("disagreement"), joined("disagreement_data")),
        "unsaid_accuracy": shares(
            joined("right").sum(0, keepdim=True), joined("counted").sum(0, keepdim=True)
        ),
    }


def _unsaid(
    context: Context,
    readers: Readers,
    name: str,
    targets: list[str],
    seed: int,
    draws: int,
    rows: int,
    prior: FittedPrior | None,
) -> dict[str, _Varied]:
    """Target -> how what this input does not state varies; empty if it states everything."""
    data = context.data
    said = data.said.get(name)
    if said is None or not targets:
        return {}
    seen = data.mask[data.names.index(name)].cpu()
    some = seen & ~torch.stack([x.cpu() for x in said.values()]).all(0)
    if not bool(some.any()):
        return {}
    part = subsample(data, rows, seed, some)
    columns: dict[str, list[list[Tensor]]] = {target: [] for target in targets}
    for batch, made, _ in generation.conditional(context, (name,), targets, seed, draws, part, prior):
        truth, stated = readers.truth(batch), readers.stated(batch, (name,))
        values = torch.stack([*truth.values()], 1)
        known = torch.stack([stated[key] for key in truth], 1)
        for target, x in made.items():
            answers = readers.read(target, x)
            own = [
                _one(context, answers.get(key), values, known, place, len(labels))
                for place, (key, labels) in enumerate(readers.attributes.items())
            ]
            columns[target].append([torch.stack(field) for field in zip(*own, strict=True)])
    return {
        target: _Varied(*(torch.cat(field, 1) for field in zip(*parts, strict=True)))
        for target, parts in columns.items()
    }


def _one(
    context: Context, answers: Tensor | None, truth: Tensor, stated: Tensor, place: int, classes: int
) -> list[Tensor]:
    """The six rows of ``_Varied`` for one attribute and a batch; zeros where they do not count. ``answers``: [K, B]."""
    nothing = torch.zeros(len(truth), dtype=torch.float64)
    if answers is None:
        return [nothing] * 6
    own, given = truth[:, place], stated[:, place]
    # Without its stated attributes, a sample has no reference.
    complete = ((truth >= 0) | ~stated).all(1)
    counts = histograms(answers, classes)
    data = references(context.train or context.data, truth, stated, place, classes)
    usable = ~given & complete & (data.sum(1) > 1)
    varied = [f(x) for f in (entropies, disagreements) for x in (counts, data)]
    counted = given & (own >= 0)
    return [
        *(torch.where(usable, x, nothing) for x in varied),
        torch.where(counted, (answers == own).sum(0).double(), nothing),
        torch.where(counted, torch.full_like(nothing, len(answers)), nothing),
    ]


def _table(
    context: Context,
    readers: Readers,
    name: str,
    targets: list[str],
    seed: int,
    pairs: dict[str, list[tuple[Tensor, Tensor]]],
    prior: FittedPrior | None,
) -> dict[str, _Numbers]:
    """Target -> its numbers given one modality. What enters the headline numbers is added to ``pairs``: [N] each."""
    count = len(context.data)
    columns: dict[str, dict[str, tuple[Tensor, Tensor]]] = {target: {} for target in targets}

    def note(target: str, key: str, rows: Tensor, right: Tensor, counted: Tensor) -> None:
        if key not in columns[target]:
            columns[target][key] = (
                torch.zeros(count, dtype=torch.int16),
                torch.zeros(count, dtype=torch.int16),
            )
        columns[target][key][0][rows], columns[target][key][1][rows] = (
            (right & counted).short(),
            counted.short(),
        )

    usual = most_frequent(context.train or context.data)
    for batch, made, rows in generation.conditional(context, (name,), targets, seed, prior=prior):
        truth, stated = readers.truth(batch), readers.stated(batch, (name,))
        every = dict.fromkeys(stated, torch.ones(batch.size, dtype=torch.bool))
        for target, x in made.items():
            answers = readers.read(target, x[0])
            found, all_of = compared(answers, truth, stated), compared(answers, truth, every)
            for key in answers:
                note(target, f"said/{key}", rows, found.right[key], found.counted[key])
                note(target, f"chance/{key}", rows, truth[key] == usual.get(key, -1), found.counted[key])
                note(target, f"all/{key}", rows, all_of.right[key], all_of.counted[key])
                note(target, f"stated/{key}", rows, answers[key] >= 0, every[key])
            right = torch.stack([found.right[key] | ~found.counted[key] for key in answers]).all(0)
            some = torch.stack([found.counted[key] for key in answers]).any(0)
            if readers.parsed(target):
                grammatical = readers.parse(target, x[0]).grammatical
                note(target, "grammatical", rows, grammatical, torch.ones_like(grammatical))
                right, some = right & grammatical, torch.ones_like(some)
            note(target, "exact", rows, right, some)
    for target, own in columns.items():
        kind = "sentence" if readers.parsed(target) else "attribute"
        wanted = {"accuracy": "said/", "chance": "chance/", "exact": "exact"}
        wanted |= (
            {"grammatical": "grammatical", "stated": "stated/"}
            if kind == "sentence"
            else {"accuracy_all": "all/"}
        )
        for key, start in wanted.items():
            parts = [pair for column, pair in own.items() if column.startswith(start)]
            if parts:
                right, counted = _stacked(parts)
                pairs.setdefault(f"{kind}_{key}", []).append((right.sum(0), counted.sum(0)))
    return {target: _numbers(own) for target, own in columns.items()}


def _numbers(columns: dict[str, tuple[Tensor, Tensor]]) -> _Numbers:
    """ "said", "chance", "all" and "stated" by attribute, "exact" and "grammatical": shares with their intervals."""
    found: _Numbers = {}
    for key, (right, counted) in columns.items():
        estimate = shares(right[None], counted[None])
        if estimate is not None:
            kind, _, attribute = key.partition("/")
            number = {"share": estimate.value, "interval": estimate.interval}
            if attribute:
                found.setdefault(kind, {})[attribute] = number
            else:
                found[kind] = number
    return found


def _stacked(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([right for right, _ in pairs]), torch.stack([counted for _, counted in pairs])

"""Streams of random numbers in an evaluation: each has a name, and no two start from one state."""

from __future__ import annotations

import itertools

import torch

import polyvae.utils.seeds as seeds
from polyvae import Modality, MultimodalData, build, evaluate
from polyvae.metrics import context, generation, judges, quality
from polyvae.metrics.judge_training import Judge
from polyvae.metrics.judges import Judges
from polyvae.utils.seeds import fold_in


def test_no_two_draws_of_an_evaluation_start_from_one_state(monkeypatch):
    """All metrics on three modalities: every seed of the global generator, and every stream that has a seed."""
    started: list[int] = []
    named: dict[int, tuple] = {}

    def recorded(seed, *path):
        value = seeds.fold_in(seed, *path)
        assert named.setdefault(value, (seed, *path)) == (seed, *path)
        return value

    for module in (context, generation, judges, quality):
        monkeypatch.setattr(module, "fold_in", recorded)
    begin = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: (started.append(seed), begin(seed))[1])
    draws = torch.Generator().manual_seed(0)
    x = {name: torch.rand(80, 1, 8, 8, generator=draws) for name in "abc"}
    labels = torch.arange(80) % 2
    data = MultimodalData(x, labels=labels, splits={"train": range(40), "test": range(40, 80)})
    data = data.with_labels_as("label")
    model = build("mmvae+", data.modalities(private=2), latent=2).eval()
    known = Judges(
        {name: Judge.seeded((1, 8, 8), 2, 4, 0) for name in "abc"}, torch.arange(2), {}, 0.5, "none", 0
    )
    evaluate(
        model,
        data,
        judges=known,
        metrics=["all"],
        draws=30,
        fitted_prior={"components": 2, "latents": "all"},
        likelihood_samples=20,
        likelihood_rows=5,
        show=False,
    )
    assert len(started) > 30
    repeated = {seed for seed in started if started.count(seed) > 1}
    assert not repeated, [named.get(seed) for seed in repeated]


def test_streams_of_judges_are_not_those_of_training():
    """For equal seeds, a judge neither starts from an epoch's order nor is ordered by a step's noise."""
    training = {fold_in(seed, "epoch", epoch) for seed in range(3) for epoch in range(30)}
    training |= {
        fold_in(seed, "step", step, rank)
        for seed, step, rank in itertools.product(range(3), range(30), range(3))
    }
    for name in ("judges/weights", "judges/training"):
        assert not training & {fold_in(seed, name, number) for seed in range(3) for number in range(30)}


def test_observed_sets_of_coherence_are_not_the_unconditional_draws():
    """With the numbers that streams had before, the third set was drawn from the state of the unconditional draws."""
    seen: dict[str, torch.Tensor] = {}
    model = build("mmvae+", [Modality(name, (2,)) for name in "abc"], latent=2).eval()
    here = context.Context.of(model, MultimodalData({name: torch.randn(20, 2) for name in "abc"}), draws=20)
    for number in range(8):
        with torch.random.fork_rng():
            torch.manual_seed(fold_in(here.seed("coherence/conditional", number), "conditional", 0))
            seen[f"set {number}"] = torch.randn(3)
    for number in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(fold_in(here.seed("coherence/unconditional", number), "unconditional", 0))
            seen[f"prior {number}"] = torch.randn(3)
    assert len({tuple(x.tolist()) for x in seen.values()}) == len(seen)

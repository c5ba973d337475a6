"""MoPoE: the formula, and subsets drawn for each sample."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from polyvae import Batch, Modality, build
from polyvae.core import noise
from polyvae.testing import roles_world
from tests.helpers.hand import WORLDS, Hand, kl_normal, product


@pytest.mark.parametrize("private", [0, 2])
@pytest.mark.parametrize(
    ("stratified", "prior_expert"), [(True, "none"), (False, "none"), (True, "full"), (False, "full")]
)
def test_mopoe(stratified, prior_expert, private, monkeypatch):
    monkeypatch.setitem(
        WORLDS, "private", lambda: tuple(replace(spec, private=private) for spec in roles_world())
    )
    hand = Hand("private", "mopoe", stratified=stratified, K=2, prior_expert=prior_expert, beta=1.5)
    model = hand.model
    sources = range(len(model.encoded))
    everyone = [subset for size in range(1, len(sources) + 1) for subset in combinations(sources, size)]

    def value() -> float:
        here = [model.encoded.index(m) for m in hand.S]
        active = [v for v, subset in enumerate(everyone) if set(subset) <= set(here)]
        made = {}
        for v in active:
            experts = [hand.z[model.encoded[i]] for i in everyone[v]]
            full = prior_expert == "full" and len(experts) == len(hand.S)
            made[v] = product([*experts, (np.zeros(2), np.ones(2))] if full else experts)
        total = -hand.beta * float(np.mean([kl_normal(*made[v]) for v in active]))
        total -= hand.beta * sum(kl_normal(*hand.w[m]) for m in hand.S)
        for k in range(2):
            views = active if stratified else [active[int(hand.draws["component"][k, hand.b] * len(active))]]
            for v in views:
                strip = v if stratified else 0
                eps = hand.draws["z"][k, v, hand.b] if stratified else hand.draws["z"][k, hand.b]
                z = made[v][0] + made[v][1] * eps
                for n in hand.A:
                    if model.specs[n].role == "input":
                        continue
                    loc, scale = hand.w.get(n, (np.zeros(private), np.ones(private)))
                    w = loc + scale * hand.draws["w"][k, strip, hand.b, model.columns[n]]
                    total += hand.log_x(n, z, w) / len(views) / 2
        return total

    hand.check(value)


def test_a_batch_of_eight_trains_all_31_subsets():
    """By position in the batch, as the authors' code has it, eight rows would train one subset of five: here all are drawn alike."""
    model = build("mopoe", [Modality(f"m{m}", (2,), params={"hidden": (3,)}) for m in range(5)], latent=2)
    batch, counts = Batch.of({f"m{m}": torch.randn(8, 2) for m in range(5)}), np.zeros(31)
    for _ in range(100):
        with noise.record() as draws:
            model(batch)
        chosen = (draws["component"].value[0] * 31).long()  # equal weights, in order
        assert len(set(chosen.tolist())) > 1
        counts += np.bincount(chosen.numpy(), minlength=31)
    assert counts.min() > 0
    assert chisquare(counts).pvalue > 1e-4

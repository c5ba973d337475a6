"""mmJSD: the authors' numbers, the formula, the dynamic prior."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import norm

from polyvae import Batch, build
from polyvae.testing import example_model, plain_world, roles_world
from tests.helpers.golden import DOUBLE, D, by_position, eps, hold_golden, recorded
from tests.helpers.hand import UNIT, WORLDS, Hand, decodes, kl, kl_normal
from tests.helpers.worlds import GRID, World


@recorded("mmjsd")
def test_mmjsd_is_the_authors(case):
    """Three modalities, the expert by position in the batch, the prior's own KL among the M + 1."""
    M, B, private = case["M"], case["B"], case["private"]
    draws = {
        "component": ((by_position(B, M) + 0.5) / M)[None],
        "z": eps(0.15, 1, B, D),
        "w": eps(0.85, 1, 1, B, M * private),
    }
    hold_golden("mmjsd", case, draws)


@pytest.mark.parametrize("private", [0, 2])
@pytest.mark.parametrize("stratified", [True, False])
def test_mmjsd(stratified, private, monkeypatch):
    monkeypatch.setitem(
        WORLDS, "private", lambda: tuple(replace(spec, private=private) for spec in roles_world())
    )
    hand = Hand("private", "mmjsd", stratified=stratified, K=2, beta=1.5)
    model = hand.model

    def value() -> float:
        n = len(hand.S) + 1
        precision = (1 + sum(hand.z[m][1] ** -2 for m in hand.S)) / n
        f = sum(hand.z[m][0] * hand.z[m][1] ** -2 for m in hand.S) / n / precision, precision**-0.5
        total = -hand.beta / n * (kl(UNIT, f) + sum(kl(hand.z[m], f) for m in hand.S))
        total -= hand.beta * sum(kl_normal(*hand.w[m]) for m in hand.S)
        for k in range(2):
            experts = (
                hand.S if stratified else [hand.S[int(hand.draws["component"][k, hand.b] * len(hand.S))]]
            )
            for m in experts:
                v = model.encoded.index(m) if stratified else 0
                eps = hand.draws["z"][k, v, hand.b] if stratified else hand.draws["z"][k, hand.b]
                z = hand.z[m][0] + hand.z[m][1] * eps
                for t in filter(partial(decodes, hand), hand.A):
                    loc, scale = hand.w.get(t, (np.zeros(private), np.ones(private)))
                    w = loc + scale * hand.draws["w"][k, v, hand.b, model.columns[t]]
                    total += hand.log_x(t, z, w) / len(experts) / 2
        return total

    hand.check(value)


def test_the_dynamic_prior_is_the_geometric_mean_by_quadrature():
    """f ∝ exp of the mean log-density of the observed experts and the prior; the divergence is the mean KL to it, the prior's included."""
    world = World()
    model = world.model("mmjsd")
    batch = world.every_mask()
    with torch.no_grad():
        experts, terms = model.experts(batch), model(batch).terms
        f = model.dynamic_prior(experts)
    step = GRID[1] - GRID[0]
    for row in range(7):
        q = [
            (float(experts.z.loc[m, row, 0]), float(experts.z.scale[m, row, 0]))
            for m in range(3)
            if batch.mask[m, row]
        ]
        logs = [norm(*each).logpdf(GRID) for each in [*q, (0, 1)]]
        mean = np.mean(logs, 0)
        log_f = mean - np.log(np.exp(mean).sum() * step)
        assert norm(float(f.loc[row, 0]), float(f.scale[row, 0])).logpdf(GRID) == pytest.approx(
            log_f, abs=1e-6
        )
        divergence = np.mean([(np.exp(log) * (log - log_f)).sum() * step for log in logs])
        assert float(terms["kl/z"][row]) == pytest.approx(divergence, abs=1e-8)


def test_a_small_batch_trains_every_expert_of_mmjsd():
    """The expert is drawn per datum, whatever its place: two rows reach all four of them (by position, only the last would be)."""
    model = example_model(lambda specs: build("mmjsd", specs, latent=2, beta=0.0), plain_world())
    batch = Batch.of(
        {name: torch.rand(2, *net.spec.shape, dtype=DOUBLE).round() for name, net in model.modalities.items()}
    )
    trained = torch.zeros(4, 2, dtype=torch.bool)
    for _ in range(40):
        for row in range(2):
            model.zero_grad()
            model(batch).value[row].backward()
            reached = [
                any(bool(p.grad.any()) for p in net.encoder.parameters()) for net in model.modalities.values()
            ]
            trained[:, row] |= torch.tensor(reached)
    assert bool(trained.all()), trained

"""DMVAE: the authors' numbers, the formula, its divergence in parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from polyvae import Batch, build
from polyvae.core import noise
from polyvae.testing import example_model, plain_world
from tests.helpers.golden import DOUBLE, D, W, eps, leaves, recorded
from tests.helpers.golden_joint import golden_model, hold
from tests.helpers.hand import WORLDS, Hand, decodes, product
from tests.helpers.truth import held_below
from tests.helpers.worlds import World


@recorded("dmvae")
def test_dmvae_is_the_authors(case):
    """Their weights of the aggregate density are r times ours: TC(z, w) = log q − Σ_d log q_d of C columns differs by (1 − C) log r."""
    M, B, n, tau = case["M"], case["B"], case["n"], case["total_correlation"]
    of = leaves(M, B, D, W)
    model = golden_model("dmvae", case, of, variant="published", n=n, total_correlation=tau)
    r = n * (B - 1) / (B * (n - 1))
    constant = (tau - 1) * (1 + M) * M * (1 - D - W) * math.log(r)
    hold(model, case, of, {"z": eps(0.15, 1 + M, B, D)[None], "w": eps(0.85, B, M * W)[None]}, constant)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("variant", "tau", "n"), [("paper", 1.0, None), ("paper", 3.0, None), ("published", 0.5, 50)]
)
def test_dmvae(world, variant, tau, n):
    """The aggregate density by loops over all data that have the view and the private code in question."""
    hand = Hand(world, "dmvae", K=2, beta=1.5, variant=variant, total_correlation=tau, n=n)
    model, sources = hand.model, hand.model.encoded
    said: list[dict] = []  # of each datum: what each view and each w_m is
    for b in range(hand.batch.size):
        hand.at(b)
        several = len(hand.S) > 1
        everything = (
            {}
            if not hand.S
            else {0: product([hand.z[m] for m in hand.S] + ([(np.zeros(2), np.ones(2))] if several else []))}
        )
        said.append(
            {"views": everything | {1 + sources.index(m): hand.z[m] for m in hand.S}, "w": dict(hand.w)}
        )

    def correlation(u: np.ndarray, v: int, m: int) -> float:
        """TC of u = (z_v, w_m) of the datum that is looked at."""
        members = [b for b, other in enumerate(said) if v in other["views"] and m in other["w"]]
        N, B = n or len(members), len(members)
        rows = []
        for b in members:
            loc, scale = (
                np.concatenate(pair) for pair in zip(said[b]["views"][v], said[b]["w"][m], strict=True)
            )
            share = 1 / N if b == hand.b else (N - 1) / (N * (B - 1))
            rows.append(
                (-0.5 * ((u - loc) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi), np.log(share))
            )
        whole = logsumexp([each.sum() + log_share for each, log_share in rows])
        return whole - sum(
            logsumexp([each[d] + log_share for each, log_share in rows]) for d in range(len(u))
        )

    def value() -> float:
        total = 0.0
        for v, (loc, scale) in said[hand.b]["views"].items():
            for k in range(2):
                z = loc + scale * hand.draws["z"][k, v, hand.b]
                count = len(hand.S) if variant == "published" else 1
                total -= hand.beta * count * (hand.log(z, loc, scale) - hand.log(z, 0, 1)) / 2
                for m in hand.A:
                    noise_w = hand.draws["w"][k, hand.b, model.columns[m]]
                    w_loc, w_scale = hand.w.get(m, (np.zeros_like(noise_w), np.ones_like(noise_w)))
                    w = w_loc + w_scale * noise_w
                    if m in hand.S:
                        total -= hand.beta * (hand.log(w, w_loc, w_scale) - hand.log(w, 0, 1)) / 2
                        if tau != 1:
                            total -= hand.beta * (tau - 1) * correlation(np.concatenate([z, w]), v, m) / 2
                    if decodes(hand, m) and (v or variant == "paper"):
                        total += hand.log_x(m, z, w) / 2
        return total

    hand.check(value)


def test_the_likelihood_of_dmvae_is_one_number_whatever_the_chunking():
    """All within 5 standard errors of the truth, however many data are decoded at a time."""
    world = World(private=1)
    model = world.model("dmvae")
    batch = world.every_mask()
    truth = world.log_p(batch)
    for rows in (1, 2000, 6000, 100_000):
        estimate = model.log_marginal(batch, K=2000, rows=rows)
        assert (np.abs(estimate.value.numpy() - truth) <= 5 * estimate.standard_error.numpy()).all()
        assert (estimate.standard_error < 0.2).all()


def test_the_parts_of_dmvaes_divergence_add_up_to_it():
    """With τ = 1 the aggregate density cancels: a batch equals its rows; with τ ≠ 1 it does not."""
    specs = plain_world()
    for tau, coupled in ((1.0, False), (3.0, True)):
        model = example_model(
            lambda modalities, tau=tau: build("dmvae", modalities, latent=2, total_correlation=tau), specs
        )
        batch = Batch.of(
            {
                name: net.likelihood.sample(torch.randn(4, *net.likelihood.output, dtype=DOUBLE)).detach()
                for name, net in model.modalities.items()
            }
        )
        with noise.record() as draws:
            whole = model(batch).value
        with noise.feed(
            {
                name: draw.value[..., :1, :]
                for name, draw in draws.items()
                if not name.startswith("components")
            }
        ):
            alone = model(batch.rows(slice(0, 1))).value
        assert (abs(float(whole[0] - alone[0])) > 1e-3) == coupled
        if not coupled:
            assert float(whole[0]) == pytest.approx(float(alone[0]), rel=1e-12)


def test_independent_codes_have_no_total_correlation():
    """One datum alone, whose columns are independent given it, and a data set that is one posterior, many times: TC = 0, so τ is free."""
    world = World(private=1)
    batch = Batch.of({name: x.expand(5, -1) for name, x in world.data(1).items()})
    draws = {"z": torch.randn(1, 4, 5, 1), "w": torch.randn(1, 5, 3)}
    values = []
    for tau in (1.0, 7.0):
        with noise.feed(draws):
            values.append(world.model("dmvae", total_correlation=tau, n=1000)(batch).value.detach())
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)


def test_the_elbos_of_dmvae_stay_below_their_truths():
    """Every view decodes all that was observed: |A| + 1 ELBOs of log p(x_A)."""
    world = World(private=1)
    held_below(
        world.model("dmvae"), world, lambda batch: (1 + batch.mask.sum(0).numpy()) * world.log_p(batch)
    )

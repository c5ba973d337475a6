"""MMVM: the authors' numbers, the formula, and what its embeddings and imputations are."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from polyvae import Batch, InputError, build
from polyvae.core import noise
from polyvae.testing import example_model, plain_world
from tests.helpers.golden import DOUBLE, eps, hold_golden, recorded
from tests.helpers.hand import WORLDS, Hand, decodes, kl, kl_normal
from tests.helpers.worlds import GRID


@recorded("mmvm")
@pytest.mark.parametrize("annealed", [False, True])
def test_mmvm_is_the_authors(case, annealed):
    """Their α is our share, given or reached by warm-up (where warm also multiplies β, so β is divided by it)."""
    M, B, private, share = case["M"], case["B"], case["private"], case["share"]
    if annealed and share == 1:
        return
    draws = {"z": torch.zeros(1, 1, B, 0), "w": eps(0.85, 1, B, M * private), "component": torch.zeros(1, B)}
    warm, options = (1 - share, {"anneal": True}) if annealed else (1.0, {"prior_share": share})
    hold_golden("mmvm", case, draws, 0, warm, divergence="pairwise", **options)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("divergence", "options"),
    [
        ("mixture", {"K": 2}),
        ("mixture", {"prior_share": 0.3}),
        ("pairwise", {"K": 2}),
        ("pairwise", {"prior_share": 0.1, "anneal": True}),
    ],
)
def test_mmvm(world, divergence, options):
    """Warm-up stands at 0.7. A target is decoded from the code of one of the observed, drawn per datum and sample."""
    hand = Hand(world, "mmvm", divergence=divergence, beta=1.5, **options)
    model, K = hand.model, hand.model.K
    share = model.prior_share + 0.3 * (1 - model.prior_share) * model.anneal

    def value() -> float:
        total = 0.0
        for k in range(K):
            at = hand.draws["w"][k, hand.b]
            for n in hand.A:
                q = (
                    hand.w[n]
                    if n in hand.S
                    else hand.w[hand.S[int(hand.draws["component"][k, hand.b] * len(hand.S))]]
                )
                code = q[0] + q[1] * at[model.columns[n]]
                total += hand.log_x(n, np.zeros(0), code) / K if decodes(hand, n) else 0
                if n in hand.S and divergence == "mixture":
                    h = np.mean([np.exp(hand.log(code, *hand.w[m])) for m in hand.S])
                    prior = np.log((1 - share) * h + share * np.exp(hand.log(code, 0, 1)))
                    total -= hand.beta * (hand.log(code, *q) - prior) / K
                elif n in hand.S:
                    pairs = np.mean([kl(q, hand.w[m]) for m in hand.S])
                    total -= hand.beta * ((1 - share) * pairs + share * kl_normal(*q)) / K
        return total

    hand.check(value)


def mmvm(**options):
    return example_model(lambda specs: build("mmvm", specs, latent=1, **options), plain_world())


def some(model, B: int) -> Batch:
    return Batch.of(
        {name: torch.rand(B, *net.spec.shape, dtype=DOUBLE).round() for name, net in model.modalities.items()}
    )


@pytest.mark.parametrize("divergence", ["mixture", "pairwise"])
def test_mmvm_with_one_observed_modality_has_no_divergence(divergence):
    """Its prior is its posterior; only a share of N(0, I) charges anything: all of that KL, or that share of it."""
    model = mmvm(divergence=divergence)
    batch = some(model, 3).observe("values")
    assert bool((model(batch).terms["kl/w"] == 0).all())
    q = model.modalities["values"].encode(batch.data["values"]).w
    exact = kl_normal(q.loc.detach().numpy(), q.scale.detach().numpy())
    model.prior_share = 1.0 if divergence == "mixture" else 0.25
    model.K = 20000 if divergence == "mixture" else 1
    charged = float(model(batch).terms["kl/w"].sum())
    assert charged == pytest.approx(exact * model.prior_share, rel=0.1 if divergence == "mixture" else 1e-12)


def test_the_divergence_of_mmvm_by_quadrature():
    """The sampled KL to the mixture has the exact one as its mean; the pairwise one is above it, by convexity."""
    model, count = mmvm(), 4000
    batch = some(model, 1).observe("values", "type", "forward")
    many = batch.rows(torch.zeros(count, dtype=torch.long))
    with torch.no_grad():
        sampled = model(many).terms["kl/w"]
        model.divergence = "pairwise"
        pairs = float(model(batch).terms["kl/w"])
        experts = [
            model.modalities[name].encode(batch.data[name]).w for name in ("values", "type", "forward")
        ]
    densities = np.array([norm(float(q.loc), float(q.scale)).pdf(GRID) for q in experts])
    inside = densities * (np.log(densities + 1e-300) - np.log(densities.mean(0) + 1e-300))
    exact = inside.sum() * (GRID[1] - GRID[0])
    assert abs(float(sampled.mean()) - exact) <= 5 * float(sampled.std()) / count**0.5
    assert pairs > exact > 0


def test_mmvm_under_the_prior_alone_is_independent_vaes():
    model = mmvm(divergence="pairwise", prior_share=1.0, beta=1.5)
    vae = build("vae", plain_world(), latent=1, beta=1.5).double()
    vae.load_state_dict(model.state_dict())
    batch = some(model, 5)
    eps_w = torch.randn(1, 5, 4, dtype=DOUBLE)
    nothing = torch.zeros(1, 1, 5, 0)
    with noise.feed({"z": nothing, "w": eps_w, "component": torch.rand(1, 5)}):
        value = model(batch).value
    with noise.feed({"z": nothing, "w": eps_w[:, None]}):
        torch.testing.assert_close(value, vae(batch).value, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_mmvm_decodes_an_observed_code_with_the_decoder_of_what_is_missing():
    """n from m: z_m, decoded by n; from several, the source is drawn per datum and sample; what was observed is decoded from its own."""
    model = mmvm().eval()
    batch = some(model, 50).observe("values", "forward")
    with noise.record() as draws:
        made = model.generate(batch, K=40)
    own = {name: model.modalities[name].encode(batch.data[name]).w for name in ("values", "forward")}
    columns = dict(zip(model.modalities, model.columns, strict=True))
    drawn = draws["w"].value

    def decode(name: str, source: str) -> Tensor:
        return model.modalities[name].mean(own[source].loc + own[source].scale * drawn[..., columns[name]])

    for name in own:
        torch.testing.assert_close(made[name], decode(name, name))
    first = draws["component"].value < 0.5  # [K, B]
    for name in ("rna.counts", "type"):
        each = first.view(*first.shape, *[1] * (made[name].ndim - 2))
        torch.testing.assert_close(
            made[name], torch.where(each, decode(name, "values"), decode(name, "forward"))
        )
    assert 0.4 < float(first.double().mean()) < 0.6
    assert bool((first.any(0) & ~first.all(0)).all())
    assert bool((first.any(1) & ~first.all(1)).all())


@torch.no_grad()
def test_mmvm_embeds_what_is_missing_as_the_mean_of_what_is_there():
    model = mmvm().eval()
    batch = some(model, 4).observe("values", "forward")
    embedded = model.embed(batch)
    loc = {name: model.modalities[name].encode(batch.data[name]).w.loc for name in ("values", "forward")}
    middle = (loc["values"] + loc["forward"]) / 2
    torch.testing.assert_close(embedded, torch.cat([middle, loc["values"], middle, loc["forward"]], 1))
    assert torch.equal(embedded, model.embed(batch))


def test_mmvm_refuses_codes_of_several_sizes_and_what_needs_a_joint_density():
    specs = plain_world()
    with pytest.raises(InputError, match="expected one size, because every decoder takes every latent"):
        build("mmvm", (replace(specs[0], private=3), *specs[1:]), latent=2)
    model = mmvm()
    for what in (partial(model.log_marginal, K=100), partial(model.generate, resample=True)):
        with pytest.raises(InputError, match="got mmvm, a model without a joint density"):
            what(some(model, 2))

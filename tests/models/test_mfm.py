"""MFM: the formula, the discrepancy, the surrogate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import norm

from polyvae import Batch, Modality, build
from polyvae.testing import example_data, example_model, plain_world, roles_world
from tests.helpers.hand import Hand, codes_of, decodes, joint_by_hand, kl, product
from tests.helpers.worlds import GRID

pytestmark = pytest.mark.filterwarnings("error")


def by_quadrature(of: Callable[[np.ndarray], np.ndarray]) -> float:
    """E f(v), v standard normal."""
    return float((of(GRID) * norm.pdf(GRID)).sum() * (GRID[1] - GRID[0]))


def kernel(a: np.ndarray, b: np.ndarray, published: bool) -> float:
    """The authors' is written as it is in their code: the mean of the squares, divided by their number."""
    squares = (a - b) ** 2
    return (
        float(np.exp(-squares.mean() / len(a))) if published else float(np.exp(-squares.sum() / (2 * len(a))))
    )


def share_by_hand(u: np.ndarray, others: list[np.ndarray], published: bool) -> float:
    """E_{u'} k(u, u') − 2 E_v k(u, v) + E_{v, v'} k(v, v'): products over columns of one-dimensional integrals; v − v' ~ N(0, 2)."""
    if not others or not len(u):
        return 0.0
    D = len(u)
    width = D**2 if published else 2 * D
    to_prior = np.prod([by_quadrature(lambda v, c=c: np.exp(-((c - v) ** 2) / width)) for c in u])
    within = by_quadrature(lambda v: np.exp(-2 * v**2 / width)) ** D
    return float(np.mean([kernel(u, other, published) for other in others]) - 2 * to_prior + within)


@pytest.mark.parametrize("world", ["plain", "roles"])
@pytest.mark.parametrize("published", [False, True])
def test_mfm(world, published):
    """By loops over data, modalities and samples; Φ of the random part by the textbook's product of normals."""
    hand = Hand(
        world,
        "mfm",
        K=2,
        beta=1.5,
        surrogate=0.3,
        joint_width=5,
        kernel="published" if published else "scaled",
    )
    sources = hand.model.encoded
    codes = []  # of each datum: of z (None) and of each m, K samples
    for b in range(hand.batch.size):
        hand.at(b)
        q = joint_by_hand(hand) if hand.S else None
        here = {} if q is None else {None: [q[0] + q[1] * hand.draws["z"][k, 0, b] for k in range(2)]}
        codes.append(here | {m: [codes_of(hand, m, (k, 0)) for k in range(2)] for m in hand.S})

    def value() -> float:
        b, q = hand.b, joint_by_hand(hand)
        size = int(hand.draws["subset.size"][0, b] * (len(hand.S) - 1)) + 1
        part = sorted(hand.S, key=lambda m: hand.draws["subset"][0, sources.index(m), b])[:size]
        total = -0.3 * kl(q, product([hand.z[m] for m in part]))
        for k in range(2):
            z = codes[b][None][k]
            total += sum(hand.log_x(n, z, codes_of(hand, n, (k, 0))) for n in hand.A if decodes(hand, n)) / 2
            for key in codes[b]:
                others = [row[key][k] for c, row in enumerate(codes) if c != b and key in row]
                total -= hand.beta * share_by_hand(codes[b][key][k], others, published) / 2
        return total

    hand.check(value)


def test_two_points_by_hand():
    """Two data at ±a, one column, v = 1: among exp(−2a²), to the prior √½ exp(−a²/4), the prior's own √⅓.

    ∫ exp(−(a − v)²/2) N(v; 0, 1) dv = √(2π) N(a; 0, 2) = √½ exp(−a²/4), and for a ~ N(0, 1) that is √(2π) N(0; 0, 3) = √⅓.
    """
    model = build("mfm", plain_world()[:2], latent=1)
    a = torch.tensor([[0.9], [-0.9], [50.0]])
    share = model._discrepancy(a, torch.tensor([True, True, False]))
    expected = np.exp(-2 * 0.81) - 2 * np.sqrt(1 / 2) * np.exp(-0.81 / 4) + np.sqrt(1 / 3)
    assert share.tolist() == pytest.approx([expected, expected, 0.0], abs=1e-6)
    assert model._discrepancy(a, torch.tensor([True, False, False])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["scaled", "published"])
def test_the_discrepancy_is_unbiased_and_zero_for_the_prior_only(kind):
    """Its mean over batches of 8 data: 0 for codes from N(0, I), for N(1, 4 I) what quadrature says of the two densities."""
    model = build("mfm", plain_world()[:2], latent=3, kernel=kind)
    u = torch.randn(4000, 8, 3, dtype=torch.float64)
    here = torch.ones(8, dtype=torch.bool)
    width = 9 if kind == "published" else 6
    for loc, scale in ((0.0, 1.0), (1.0, 2.0)):
        each = model._discrepancy(loc + scale * u, here).mean(-1)
        within, across, prior = (
            by_quadrature(lambda t, at=at, s=s: np.exp(-((at + s * t) ** 2) / width)) ** 3
            for at, s in ((0, scale * 2**0.5), (loc, (1 + scale**2) ** 0.5), (0, 2**0.5))
        )
        assert abs(float(each.mean()) - (within - 2 * across + prior)) <= 5 * float(each.std()) / 4000**0.5
    assert within - 2 * across + prior > 0.01


@torch.no_grad()
def test_labels_are_told_by_z_alone():
    """Their decoder has no other input, and what they say of a datum does not change with the private codes."""
    model = example_model(partial(build, "mfm", latent=2), roles_world()).eval()
    label = model.modalities["type"]
    assert label.private == 0
    assert len(model.owner) == 6  # of the three that are encoded
    z, w = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    assert torch.equal(model.decode(z, w)["type"], model.decode(z, w + 1)["type"])


def test_the_surrogate_teaches_experts_and_leaves_the_codes_alone():
    """With nothing but γ in the bound, complete data move the experts of z, and not the joint network."""
    model = example_model(
        partial(build, "mfm", latent=2, beta=0.0, joint_width=5),
        [replace(spec, weight=0.0) for spec in plain_world()],
    )
    model(Batch.of(example_data(model, 60))).value.sum().backward()  # so many that no modality is never drawn
    assert all(bool((net.encoder[-1].bias.grad[:4] != 0).any()) for net in model.modalities.values())
    for module in (model.joint, *(net.parts["joint"] for net in model.modalities.values())):
        assert all(p.grad is None or bool((p.grad == 0).all()) for p in module.parameters())


def test_it_learns_labels_from_what_was_observed_and_its_codes_become_the_priors():
    """A class seen in both inputs, half of the labels missing: told from both, by the surrogate from one; z's moments are N(0, I)'s."""
    draws = torch.Generator().manual_seed(0)
    label = torch.randint(3, (600,), generator=draws)
    centre = 2 * torch.randn(2, 3, 4, generator=draws)
    data = {
        name: centre[m, label] + 0.5 * torch.randn(600, 4, generator=draws) for m, name in enumerate("ab")
    }
    data["label"] = torch.nn.functional.one_hot(label, 3).float()[:, None]
    mask = torch.ones(3, 600, dtype=torch.bool)
    mask[2, :300] = False
    batch, small = Batch.of(data, mask), {"hidden": (32,)}
    specs = [
        Modality("a", (4,), params=small),
        Modality("b", (4,), params=small),
        Modality("label", (1, 3), "categorical", role="target", params=small),
    ]
    model = build("mfm", specs, latent=2, joint_width=32)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(200):
        optimiser.zero_grad()
        (-model(batch.rows(torch.randint(600, (128,)))).value.mean()).backward()
        optimiser.step()
    model.eval()
    for given in (("a", "b"), ("a",), ("b",)):
        made = (
            model.generate(batch.rows(slice(0, 300)).observe(*given), K=20)["label"].mean(0)[:, 0].argmax(-1)
        )
        assert float((made == label[:300]).double().mean()) > 0.9, given
    z = model.draw(batch, 1).z[0].detach()
    assert z.mean(0).abs().max() < 0.25
    assert (z.std(0) - 1).abs().max() < 0.25

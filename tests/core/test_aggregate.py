"""How experts agree: tables of subsets by enumeration, products by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from polyvae import Laplace, Normal
from polyvae.core.aggregate import (
    Experts,
    barycentre,
    everything,
    fixed_subsets,
    joint,
    mixture_of_experts,
    mixture_of_products,
    powerset,
    product_of_experts,
    random_sizes,
    random_subsets,
    singles,
    uniform_weights,
)

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture
def mask():
    """Three modalities; what five data have: all, none, the first, the last two, the first and the last."""
    return torch.tensor([[1, 0, 1, 0, 1], [1, 0, 0, 1, 0], [1, 0, 0, 1, 1]], dtype=torch.bool)


@pytest.fixture
def experts(mask):
    return Experts(
        Normal(torch.randn(3, 5, 2), torch.rand(3, 5, 2) + 0.3),
        Normal(torch.zeros(5, 0), torch.ones(5, 0)),
        mask,
    )


def sets(membership, b):
    """The views of datum b, as tuples of members; the empty ones left out."""
    return [
        tuple(m for m in range(membership.shape[1]) if row[m]) for row in membership[:, :, b] if row.any()
    ]


def test_tables_by_enumeration(mask):
    for b, members in enumerate(((0, 1, 2), (), (0,), (1, 2), (0, 2))):
        assert sets(everything(mask), b) == ([members] if members else [])
        assert sets(singles(mask), b) == [(m,) for m in members]
        assert sets(powerset(mask), b) == [
            subset for size in (1, 2, 3) for subset in combinations(members, size)
        ]
    assert len(powerset(mask)) == 7
    assert singles(mask)[1, 1, 3]  # view m is modality m


def test_live_views_weigh_the_same(mask):
    weights = uniform_weights(powerset(mask), torch.float64)
    assert weights.sum(0).tolist() == pytest.approx([1, 0, 1, 1, 1])
    assert [sorted(set(column.tolist()) - {0}) for column in weights.T] == [
        [1 / 7],
        [],
        [1],
        [1 / 3],
        [1 / 3],
    ]


def test_a_product_is_the_normalised_product_of_densities(experts, mask):
    """log Π q_m(z) − log q(z) is the same constant for all z; the constant is the logarithm of the product's integral."""
    membership = powerset(mask)
    made = product_of_experts(experts.z, membership)
    z = torch.randn(50, 2)
    for v in range(7):
        for b in range(5):
            members = [m for m in range(3) if membership[v, m, b]]
            if not members:
                assert made.loc[v, b].tolist() == [0, 0]
                assert made.scale[v, b].tolist() == [1, 1]
                continue
            each = sum(
                stats.norm(experts.z.loc[m, b].numpy(), experts.z.scale[m, b].numpy()).logpdf(z.numpy())
                for m in members
            )
            ratio = each - stats.norm(made.loc[v, b].numpy(), made.scale[v, b].numpy()).logpdf(z.numpy())
            assert np.ptp(ratio, 0) == pytest.approx(np.zeros(2), abs=1e-9)
            if len(members) == 1:
                torch.testing.assert_close(made.loc[v, b], experts.z.loc[members[0], b])


def test_a_prior_joins_every_product_once(experts, mask):
    prior = Normal(torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.7]))
    made = product_of_experts(experts.z, everything(mask), prior)
    for b in range(5):
        members = [m for m in range(3) if mask[m, b]]
        precision = prior.scale**-2 + sum(experts.z.scale[m, b] ** -2 for m in members)
        loc = (
            prior.loc * prior.scale**-2
            + sum(experts.z.loc[m, b] * experts.z.scale[m, b] ** -2 for m in members)
        ) / precision
        torch.testing.assert_close(made.loc[0, b], loc)
        torch.testing.assert_close(made.scale[0, b], precision**-0.5)


def test_what_is_not_included_has_no_influence_on_a_product(mask):
    loc = torch.randn(3, 5, 2, requires_grad=True)
    made = product_of_experts(Normal(loc, torch.ones(3, 5, 2)), everything(mask))
    made.loc.square().sum().backward()
    assert (loc.grad[~mask] == 0).all()
    assert (loc.grad[mask] != 0).all()


def test_mixtures_keep_family_weights_and_members(experts, mask):
    q = mixture_of_experts(experts)
    assert torch.equal(q.components.loc, experts.z.loc)
    assert q.weights.T.tolist() == [[1 / 3] * 3, [0] * 3, [1, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]]
    assert torch.equal(q.membership, singles(mask))
    assert torch.equal(mixture_of_products(experts, powerset(mask)).membership, powerset(mask))
    assert isinstance(
        joint(Laplace(torch.zeros(1, 5, 2), torch.ones(1, 5, 2)), everything(mask)).components, Laplace
    )


# ---- drawn subsets ---------------------------------------------------------------------------------------------------------------


def counts(membership, members):
    """How often each set of the members was drawn, by its bits."""
    bits = (membership * (2 ** torch.arange(membership.shape[1]))[:, None]).sum(1).flatten()
    allowed = sum(2**m for m in members)
    assert ((bits & ~allowed) == 0).all()
    return torch.bincount(bits, minlength=2 ** membership.shape[1]).numpy()


def assert_uniform(got, expected):
    statistic = ((got - expected) ** 2 / expected).sum()
    assert statistic < stats.chi2(len(got) - 1).ppf(0.9999)


@pytest.mark.parametrize("members", [(0, 1, 2, 3), (0, 2, 3), (1,)])
def test_random_subsets_are_uniform_over_the_non_empty(members):
    mask = torch.tensor([m in members for m in range(4)])[:, None].expand(-1, 500)
    got = counts(random_subsets(mask, 40), members)
    assert got[0] == 0
    sets = [bits for bits in range(1, 16) if bits & ~sum(2**m for m in members) == 0]
    assert got[sets].sum() == 20000
    if len(sets) > 1:
        assert_uniform(got[sets], np.full(len(sets), 20000 / len(sets)))


@pytest.mark.parametrize("members", [(0, 1, 2, 3), (0, 2, 3), (1,)])
def test_random_sizes_are_uniform_in_size_then_in_members(members):
    mask = torch.tensor([m in members for m in range(4)])[:, None].expand(-1, 500)
    got = counts(random_sizes(mask, 40), members)
    sets = [bits for bits in range(1, 16) if bits & ~sum(2**m for m in members) == 0]
    per_size = np.bincount([bits.bit_count() for bits in sets], minlength=5)
    expected = np.array([20000 / len(members) / per_size[bits.bit_count()] for bits in sets])
    assert got[sets].sum() == 20000
    if len(sets) > 1:
        assert_uniform(got[sets], expected)


def test_subsets_of_nothing_are_empty():
    mask = torch.zeros(3, 5, dtype=torch.bool)
    assert not random_subsets(mask, 7).any()
    assert not random_sizes(mask, 7).any()


@pytest.mark.parametrize("E", [3, 8, 9, 12, 130])
def test_fixed_subsets_represent_the_power_set(E):
    """Up to 8 observed: each subset equally often. More: modalities, pairs and triples as often as in the power set."""
    mask = torch.ones(E, 3, dtype=torch.bool)
    mask[:, 1] = torch.arange(E) % 2 == 0
    mask[3:, 2] = False
    table = fixed_subsets(mask)
    assert torch.equal(table, fixed_subsets(mask))
    assert not (table & ~mask).any()
    for column in range(3):
        seen = mask[:, column]
        found = table[:, seen, column].int()
        found = found[found.any(1)]
        if len(found[0]) <= 8:
            subsets, times = found.unique(dim=0, return_counts=True)
            assert len(subsets) == 2 ** len(found[0]) - 1
            assert times.unique().numel() == 1
        elif len(found[0]) <= 128:
            assert len(found) == 255
            assert bool(found.all(1).any())
            for a, b, c in ((0, 1, 2), (3, 7, 8), (0, 4, len(found[0]) - 1)):
                both = found[:, a] * found[:, b]
                assert (found[:, a].sum(), both.sum(), (both * found[:, c]).sum()) == (128, 64, 32)


def test_a_mixture_over_fixed_subsets_is_nearer_than_one_over_drawn_ones(double):
    draws = torch.Generator().manual_seed(0)
    scale = 0.1 + 0.9 * torch.rand(10, 16, 4, generator=draws)
    z = torch.randn(16, 4, generator=draws) + scale * torch.randn(10, 16, 4, generator=draws)
    experts = Experts(Normal(z, scale), Normal(z[0], scale[0]), torch.ones(10, 16, dtype=torch.bool))
    exact = mixture_of_products(experts, powerset(experts.mask)).mean
    errors = [
        float((mixture_of_products(experts, table).mean - exact).square().mean().sqrt() / exact.std())
        for table in (fixed_subsets(experts.mask), random_subsets(experts.mask, 255))
    ]
    assert errors[0] < 0.002 < 5 * errors[0] < errors[1]


@pytest.mark.parametrize("with_prior", [False, True])
def test_the_barycentre_minimises_the_mean_squared_wasserstein_distance(mask, experts, with_prior):
    """In one dimension W² = ∫ (F⁻¹(u) − G⁻¹(u))² du, here on a grid of u, minimised numerically over location and scale."""
    prior = Normal(torch.tensor([0.3, -0.4]), torch.tensor([1.2, 0.7])) if with_prior else None
    membership = everything(mask)
    found = barycentre(experts.z, membership, prior)
    grid = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    for b in range(5):
        members = [(experts.z.loc[m, b], experts.z.scale[m, b]) for m in range(3) if membership[0, m, b]]
        members += [(prior.loc, prior.scale)] if prior is not None else []
        if not members:
            assert (found.loc[0, b] == 0).all()
            assert (found.scale[0, b] == 1).all()
            continue
        for d in range(2):
            quantiles = [float(loc[d]) + float(scale[d]) * grid for loc, scale in members]

            def cost(at, quantiles=quantiles):
                return np.mean([np.mean((at[0] + at[1] * grid - q) ** 2) for q in quantiles])

            best = optimize.minimize(cost, (0.0, 1.0), tol=1e-12).x
            expected = [float(found.loc[0, b, d]), float(found.scale[0, b, d])]
            assert best == pytest.approx(expected, abs=1e-5)

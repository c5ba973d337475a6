"""Distributions against scipy and against integrals; priors; prepared draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import logsumexp

from polyvae import InputError, Laplace, Mixture, Normal, build
from polyvae.core import distributions, noise
from polyvae.core.distributions import FAMILIES, SCALES, mixture_log_prob, sum_log_prob
from polyvae.core.fitted import FittedMixture
from polyvae.core.priors import MixturePrior, StandardPrior
from polyvae.testing import example_batch, example_model, plain_world
from tests.helpers.memory import Largest

pytestmark = pytest.mark.usefixtures("double")

SCIPY = {"normal": stats.norm, "laplace": stats.laplace}


@pytest.mark.parametrize("family", FAMILIES)
def test_log_densities_are_scipys(family):
    loc, scale, x = torch.randn(4, 3), torch.rand(4, 3) + 0.2, torch.randn(5, 4, 3)
    q = FAMILIES[family](loc, scale)
    expected = SCIPY[family](loc.numpy(), scale.numpy()).logpdf(x.numpy())
    assert q.columns(x).numpy() == pytest.approx(expected, rel=1e-12)
    assert q.log_prob(x).numpy() == pytest.approx(expected.sum(-1), rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("numbers", [(0.3, 0.7, -0.5, 1.4), (-2.0, 1.5, 1.0, 0.4), (0.0, 1.0, 0.0, 1.0)])
def test_divergences_are_their_integrals(family, numbers):
    a, s, b, t = numbers
    p, q = SCIPY[family](a, s), SCIPY[family](b, t)
    exact, _ = integrate.quad(
        lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), a - 40 * s, a + 40 * s, points=[a, b], limit=500
    )
    first, second = (
        FAMILIES[family](torch.tensor([loc, 0.2]), torch.tensor([scale, 1.3]))
        for loc, scale in ((a, s), (b, t))
    )
    assert first.kl_columns(second).tolist() == pytest.approx([exact, 0], abs=1e-8)
    assert float(first.kl(second)) == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_have_the_moments_and_the_distribution(family):
    q = FAMILIES[family](torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]))
    draws = q.rsample(20000)
    for column in range(2):
        scipys = SCIPY[family](float(q.loc[column]), float(q.scale[column]))
        assert stats.kstest(draws[:, column].numpy(), scipys.cdf).pvalue > 1e-4
    assert q.rsample().shape == (2,)
    assert float(torch.corrcoef(draws.T)[0, 1]) == pytest.approx(0, abs=5 / 20000**0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_are_reparametrised(family):
    """∂z/∂loc = 1 and ∂z/∂scale = (z − loc) / scale."""
    loc, scale = torch.randn(3, requires_grad=True), (torch.rand(3) + 0.5).requires_grad_()
    z = FAMILIES[family](loc, scale).rsample()
    z.sum().backward()
    assert torch.equal(loc.grad, torch.ones(3))
    torch.testing.assert_close(scale.grad, ((z - loc) / scale).detach())


@pytest.mark.parametrize("family", FAMILIES)
def test_detached_is_the_same_without_gradients(family):
    q = FAMILIES[family](torch.randn(2, requires_grad=True), torch.rand(2, requires_grad=True))
    fixed = q.detach()
    assert torch.equal(fixed.loc, q.loc)
    assert torch.equal(fixed.scale, q.scale)
    assert not fixed.loc.requires_grad
    assert not fixed.scale.requires_grad


@pytest.mark.parametrize("name", SCALES)
def test_scales_are_exactly_one_at_zero_and_positive(name):
    assert torch.equal(SCALES[name](torch.zeros(4)), torch.ones(4))
    far = SCALES[name](torch.tensor([[-5000.0, 3.0], [3.0, -5000.0], [40.0, 1.0]]))
    assert (far > 0).all()
    assert far.isfinite().all()


def test_scale_maps_are_their_formulas():
    raw = torch.randn(5, 3)
    close = {"rtol": 2e-6, "atol": 2e-6}  # the floor
    torch.testing.assert_close(SCALES["exp"](raw), (raw / 2).exp(), **close)
    torch.testing.assert_close(SCALES["softplus"](raw), (1 + (raw.exp() * (np.e - 1))).log(), **close)
    torch.testing.assert_close(
        SCALES["softmax"](raw), 3 * raw.exp() / raw.exp().sum(-1, keepdim=True), **close
    )


def test_the_softmax_scales_of_a_code_average_one():
    torch.testing.assert_close(SCALES["softmax"](torch.randn(7, 5)).mean(-1), torch.ones(7))


def test_where_and_stack_take_column_by_column():
    a, b = Normal(torch.zeros(2, 3), torch.ones(2, 3)), Normal(torch.ones(2, 3), 2 * torch.ones(2, 3))
    chosen = a.where(torch.tensor([True, False, True]), b)
    assert chosen.loc[0].tolist() == [0, 1, 0]
    assert chosen.scale[1].tolist() == [1, 2, 1]
    assert Normal.stack([a, b]).loc[:, 0, 0].tolist() == [0, 1]
    assert Normal.cat([a, b]).scale[0].tolist() == [1, 1, 1, 2, 2, 2]
    assert isinstance(Laplace.unit((2,), a.loc), Laplace)


def mixture():
    """Three views of two data; the second datum has one view dead."""
    loc = torch.tensor([[[0.0], [2.0]], [[1.0], [-1.0]], [[-3.0], [9.0]]])
    scale = torch.tensor([[[1.0], [0.5]], [[0.3], [2.0]], [[1.5], [1.0]]])
    weights = torch.tensor([[0.2, 0.5], [0.5, 0.5], [0.3, 0.0]])
    return Mixture(Normal(loc, scale), weights, torch.ones(3, 2, 2, dtype=torch.bool))


def test_mixtures_are_scipys():
    q, x = mixture(), torch.randn(5, 1, 2, 1)
    for b, active in ((0, 3), (1, 2)):
        expected = np.log(
            sum(
                float(q.weights[v, b])
                * stats.norm(float(q.components.loc[v, b, 0]), float(q.components.scale[v, b, 0])).pdf(
                    x[:, 0, b, 0].numpy()
                )
                for v in range(active)
            )
        )
        assert q.log_prob(x)[:, 0, b].numpy() == pytest.approx(expected, rel=1e-12)
    assert q.mean[:, 0].tolist() == pytest.approx([0.5 - 0.9, 0.5])


def test_dead_views_have_no_gradient_and_nothing_observed_has_density_one():
    loc = torch.randn(2, 3, 1, requires_grad=True)
    weights = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 0.0]])
    x = torch.randn(4, 3, 1)
    log_q = mixture_log_prob(Normal(loc, torch.ones(2, 3, 1)), weights, x)
    log_q.sum().backward()
    assert (log_q[:, 2] == 0).all()
    assert loc.grad.isfinite().all()
    assert (loc.grad[1, 0] == 0).all()
    assert (loc.grad[:, 2] == 0).all()
    assert (loc.grad[:, 1] != 0).all()


def test_chosen_views_follow_the_weights():
    q = mixture()
    choice = q.choose(20000)
    assert q.pick(choice).loc.shape == (20000, 2, 1)
    for b in range(2):
        share = torch.bincount(choice[:, b], minlength=3) / 20000
        assert ((share - q.weights[:, b]).abs() <= 5 * (q.weights[:, b] / 20000).sqrt()).all()
        assert torch.equal(q.pick(choice).loc[:, b, 0], q.components.loc[choice[:, b], b, 0])
    membership = torch.eye(3, dtype=torch.bool)[:, :, None].expand(3, 3, 2)
    assert torch.equal(q._replace(membership=membership).memberships(choice).int().argmax(1), choice)


def test_what_is_observed_and_what_is_live():
    q = mixture()._replace(weights=torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))
    assert q.observed.tolist() == [False, True]
    assert q.active.tolist() == [[False, True], [False, False], [False, False]]
    assert not mixture().detach().components.loc.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_the_standard_prior_is_standard(family):
    prior = StandardPrior(2, 3, family)
    x, w = torch.randn(4, 2), torch.randn(4, 3)
    assert prior.z().log_prob(x).numpy() == pytest.approx(SCIPY[family].logpdf(x.numpy()).sum(-1))
    assert prior.w(x).log_prob(w).numpy() == pytest.approx(SCIPY[family].logpdf(w.numpy()).sum(-1))
    assert stats.kstest(prior.draw(4000)[:, 1].numpy(), SCIPY[family].cdf).pvalue > 1e-4
    assert not list(prior.parameters())
    assert torch.equal(StandardPrior(2, 3, family, learn_scale=True).z().scale, torch.ones(2))


def test_the_mixture_prior_is_its_formula_and_draws_from_it():
    prior = MixturePrior(1, 0, "normal", 3).double()
    assert (prior.loc.abs() <= 1).all()
    prior.loc.data.copy_(torch.tensor([[-3.0], [0.0], [4.0]]))
    prior.logits.data.copy_(torch.tensor([0.5, -0.5, 0.0]))
    share = prior.logits.softmax(0).detach().numpy()
    x = np.linspace(-5, 6, 7)
    pdf = sum(p * stats.norm(loc, 1).pdf(x) for p, loc in zip(share, (-3, 0, 4), strict=True))
    assert prior.z().log_prob(torch.as_tensor(x)[:, None, None])[:, 0].detach().numpy() == pytest.approx(
        np.log(pdf)
    )
    draws = prior.draw(5000).detach()[:, 0].numpy()

    def cdf(x):
        return sum(p * stats.norm(loc, 1).cdf(x) for p, loc in zip(share, (-3, 0, 4), strict=True))

    assert stats.kstest(draws, cdf).pvalue > 1e-4


def test_a_fitted_prior_is_the_gaussian_mixture_it_says():
    weights, loc = torch.tensor([0.3, 0.7]), torch.tensor([[0.0, 0.0], [3.0, -2.0]])
    covariances = torch.tensor([[[1.0, 0.5], [0.5, 2.0]], [[0.5, -0.2], [-0.2, 0.3]]])
    prior = FittedMixture(weights, loc, torch.linalg.cholesky(covariances))
    x = torch.randn(6, 2)
    parts = zip(weights.tolist(), loc.numpy(), covariances.numpy(), strict=True)
    pdf = sum(
        weight * stats.multivariate_normal(mean, covariance).pdf(x.numpy())
        for weight, mean, covariance in parts
    )
    assert prior.log_prob(x).numpy() == pytest.approx(np.log(pdf))
    drawn = prior.draw(20000)
    again = FittedMixture.fit(drawn, components=2, seed=1)
    order = again.weights.argsort()
    torch.testing.assert_close(again.weights[order], weights, atol=0.02, rtol=0)
    torch.testing.assert_close(again.loc[order], loc, atol=0.1, rtol=0)
    tril = again.scale_tril[order]
    torch.testing.assert_close(tril @ tril.mT, covariances, atol=0.1, rtol=0)


def test_what_cannot_be_fitted_is_refused():
    for z, options, words in (
        (torch.zeros(50, 0), {}, "no shared latent"),
        (torch.zeros(10, 2), {"components": 20}, "expected at least 40"),
        (torch.randn(50, 2), {"covariance": "round"}, "covariance='round'"),
    ):
        with pytest.raises(InputError, match=words):
            FittedMixture.fit(z, **{"components": 5, **options})


def test_what_was_recorded_can_be_fed():
    q = Normal(torch.zeros(3), torch.ones(3))
    with noise.record() as draws:
        first, second = q.rsample(2, "z", "KB"), q.rsample(2, "z", "KB")
    assert list(draws) == ["z", "z#2"]
    assert draws["z"].axes == "KB"
    with noise.feed(draws) as taken:
        assert torch.equal(q.rsample(2, "z", "KB"), first)
        assert torch.equal(q.rsample(2, "z", "KB"), second)
    assert list(taken) == ["z", "z#2"]


@pytest.mark.parametrize(
    ("shape", "K", "name", "axes"),
    [
        ((3,), None, "z", "D"),
        ((4, 3), None, "z", "BD"),
        ((4, 3), 2, "z", "KBD"),
        ((5, 4, 3), 2, "z", "KVBD"),
        ((2, 5, 4, 3), None, "w", "KVBW"),
        ((6, 5, 4, 3), 2, "z", "MKVBD"),
        ((4, 3), None, "prior.z", "BD"),
        ((4, 3), None, "augmentation.w", "BW"),
        ((4, 3), 2, "told", "KBD"),
        ((7, 6, 5, 4, 3), 2, "z", ""),
        ((), None, "z", ""),
    ],
)
def test_letters_of_axes_follow_from_their_number_and_the_name(shape, K, name, axes):
    q = Normal(torch.zeros(shape), torch.ones(shape))
    with noise.record() as draws:
        q.rsample(K, name)
        q.rsample(K, f"given {name}", "MBD")
    assert [(key, draw.axes) for key, draw in draws.items()] == [(name, axes), (f"given {name}", "MBD")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vae", {("z", "KVBD"), ("w", "KVBW")}),
        ("mmvae+", {("z", "KVBD"), ("w", "KVBW")}),
        ("mopoe", {("z", "KBD"), ("w", "KVBW")}),
        ("mmvm", {("z", "KVBD"), ("w", "KBW")}),
        ("dmvae", {("z", "KVBD"), ("w", "KBW")}),
        ("idmvae", {("z", "KVBD"), ("w", "KVBW"), ("augmentation.z", "EBD"), ("augmentation.w", "BW")}),
    ],
)
def test_the_latents_of_a_step_are_recorded_with_the_letters_of_their_axes(name, expected):
    model = example_model(lambda specs: build(name, specs), plain_world())
    batch = example_batch(model)
    with noise.record() as draws:
        model(batch)
    latents = {(key, draw.axes) for key, draw in draws.items() if draw.axes.endswith(("D", "W"))}
    assert latents == expected


def test_draws_repeat_by_seed_and_never_otherwise():
    q = Laplace(torch.zeros(3), torch.ones(3))
    torch.manual_seed(1)
    first, second = q.rsample(), q.rsample()
    torch.manual_seed(1)
    assert torch.equal(q.rsample(), first)
    assert not torch.equal(first, second)


def test_draws_that_were_not_prepared_are_named():
    q = Normal(torch.zeros(3), torch.ones(3))
    with noise.feed({"zz": torch.zeros(3)}), pytest.raises(InputError, match=r"'z' .* did you mean 'zz'"):
        q.rsample(None, "z")
    with noise.feed({"z": torch.zeros(4)}), pytest.raises(InputError, match=r"shape \(4,\); expected \(3,\)"):
        q.rsample(None, "z")


def test_choices_follow_the_weights_and_never_pick_weight_zero():
    weights = torch.tensor([[0.0, 0.2], [0.5, 0.0], [0.0, 0.8], [0.5, 0.0]])
    choice = noise.choice(weights, 20000, "component", "KB")
    for column, active, share in ((0, (1, 3), 0.5), (1, (0, 2), 0.2)):
        values = choice[:, column]
        assert set(values.tolist()) == set(active)
        assert (
            abs(float((values == active[0]).double().mean()) - share)
            < 5 * (share * (1 - share) / 20000) ** 0.5
        )
    with noise.feed({"component": torch.tensor([[0.0, 0.0], [1 - 1e-9, 1 - 1e-9]], dtype=torch.float64)}):
        assert noise.choice(weights.double(), 2, "component", "KB").tolist() == [[1, 0], [3, 2]]


def test_views_that_do_not_count_can_be_left_out():
    """The same density and mean, in as many views as the fullest datum has; each keeps its experts, in their order."""
    weights = torch.tensor(
        [[0.0, 0.0, 0.3, 0.0], [0.4, 0.0, 0.0, 0.0], [0.0, 0.0, 0.7, 1.0], [0.6, 0.0, 0.0, 0.0]]
    )  # [V, B]
    membership = torch.eye(4, dtype=torch.bool)[:, :, None] & (weights > 0)[:, None]
    q = Mixture(Normal(torch.randn(4, 4, 2), torch.rand(4, 4, 2) + 0.2), weights, membership)
    less = q.compact()
    assert less.weights.tolist() == [[0.4, 0.0, 0.3, 1.0], [0.6, 0.0, 0.7, 0.0]]
    assert [less.membership[..., b].nonzero().tolist() for b in range(4)] == [
        [[0, 1], [1, 3]],
        [],
        [[0, 0], [1, 2]],
        [[0, 2]],
    ]
    z = torch.randn(5, 1, 4, 2)
    torch.testing.assert_close(less.log_prob(z), q.log_prob(z), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(less.mean, q.mean, rtol=1e-12, atol=1e-12)
    assert less.compact() is less


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_a_sum_of_densities_is_the_same_in_pieces(family, size, monkeypatch):
    """Seven components, 1, 3 or all of them at a time: scipy's value, and the gradients of all at once."""
    loc, scale, z = 3 * torch.randn(7, 2), torch.rand(7, 2) + 0.2, 3 * torch.randn(4, 5, 2)
    weights = torch.randn(4, 5)
    made = []
    for pieces in (size * z.numel(), z.numel() * 7):
        monkeypatch.setattr(distributions, "_PIECE", pieces)
        leaves = [x.clone().requires_grad_() for x in (loc, scale, z)]
        value = sum_log_prob(FAMILIES[family](*leaves[:2]), leaves[2])
        made.append([value, *torch.autograd.grad((weights * value).sum(), leaves)])
    each = SCIPY[family](loc.numpy(), scale.numpy()).logpdf(z[:, :, None].numpy()).sum(-1)
    np.testing.assert_allclose(made[0][0].detach(), logsumexp(each, -1), rtol=1e-12)
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_a_component_out_of_reach_has_no_share(monkeypatch):
    """Its density is 0: the value and the gradients, in pieces of one, are those of the others."""
    z = torch.randn(6, 2)
    loc = torch.tensor([[0.0, 1.0], [1e200, 1e200], [2.0, -1.0]])
    made = []
    for rows, pieces in (([0, 1, 2], z.numel()), ([0, 2], 10**6)):
        monkeypatch.setattr(distributions, "_PIECE", pieces)
        leaves = [
            loc[rows].clone().requires_grad_(),
            torch.ones(len(rows), 2, requires_grad=True),
            z.clone().requires_grad_(),
        ]
        value = sum_log_prob(Normal(*leaves[:2]), leaves[2])
        made.append([value, *torch.autograd.grad(value.sum(), leaves)])
    (value, by_loc, by_scale, by_z), (other, other_loc, other_scale, other_z) = made
    for one, two in (
        (value, other),
        (by_loc[[0, 2]], other_loc),
        (by_scale[[0, 2]], other_scale),
        (by_z, other_z),
    ):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-13)
    assert not by_loc[1].any()
    assert not by_scale[1].any()


def test_the_memory_of_a_sum_of_densities_does_not_grow_with_its_terms(monkeypatch):
    """What is kept for the backward pass beside what was given, and the largest tensor of both passes: of 4 or of 400 terms the same."""
    monkeypatch.setattr(distributions, "_PIECE", 4 * 1000)
    z = torch.randn(10, 50, 2, requires_grad=True)  # 1000 numbers
    kept, largest = [], []
    for count in (4, 40, 400):
        q = Normal(torch.randn(count, 2, requires_grad=True), torch.ones(count, 2, requires_grad=True))
        given = {x.untyped_storage().data_ptr() for x in (z, q.loc, q.scale)}
        seen = {}

        def keep(x, seen=seen, given=given):
            if x.untyped_storage().data_ptr() not in given:
                seen[x.untyped_storage().data_ptr()] = x.numel(), x  # held, so that no address comes twice
            return x

        with Largest() as made:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
                total = sum_log_prob(q, z).sum()
            total.backward()
        kept.append(sum(numbers for numbers, _ in seen.values()))
        largest.append(made.numbers)
    assert largest == [4000, 4000, 4000]
    assert kept[0] > 8000  # all at once: several of [4, 10, 50, 2]
    assert kept[1] == kept[2] <= 500  # in pieces: the sum, [10, 50]

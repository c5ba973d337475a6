"""Priors fitted to all latents: exact conditionals of a mixture, the diffusion of a score network, and what models do with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from polyvae import MODELS, InputError, Modality, MultimodalData, build, evaluate, fit_prior
from polyvae.core import noise
from polyvae.core.fitted import FITTED, FittedFlow, FittedMixture, FittedScore
from polyvae.core.fitted import score as mld
from polyvae.core.fitted.base import columns_of
from polyvae.metrics.context import complete_rows, posterior_samples
from polyvae.runs import fitted_prior
from polyvae.testing import default_worlds, example_data
from polyvae.training.directory import RunDirectory
from polyvae.utils.files import save_tensors

BLOCKS = (1, 2, 2)


def some(name):
    """An untrained model in evaluation mode, and data for it."""
    world = default_worlds(lambda specs: build(name, specs, latent=2))[0]
    model = build(name, world, latent=2).eval()
    return model, MultimodalData({key: x.float() for key, x in example_data(model, 64).items()})


def a_mixture(components: int, blocks=BLOCKS) -> FittedMixture:
    """A mixture with strong correlations, of components that overlap."""
    draws = torch.Generator().manual_seed(4)
    D = sum(blocks)
    tril = torch.randn(components, D, D, generator=draws).tril() * 0.6
    tril = tril - torch.diag_embed(tril.diagonal(dim1=1, dim2=2)) + 0.5 * torch.eye(D)
    weights = torch.rand(components, generator=draws).softmax(0)
    return FittedMixture(weights, torch.randn(components, D, generator=draws), tril, blocks=blocks)


def exact(prior: FittedMixture, x: torch.Tensor, known: list[int]):
    """Mean and covariance of the other columns given the known ones, for a single Gaussian."""
    mean, cov = prior.loc[0].numpy(), (prior.scale_tril[0] @ prior.scale_tril[0].T).numpy()
    other = [d for d in range(len(mean)) if d not in known]
    gain = cov[np.ix_(other, known)] @ np.linalg.inv(cov[np.ix_(known, known)])
    return (
        mean[other] + (x[:, known].numpy() - mean[known]) @ gain.T,
        cov[np.ix_(other, other)] - gain @ cov[np.ix_(known, other)],
    )


# ---- the mixture -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [[0], [1, 3], [0, 1, 2, 4], []])
def test_the_conditional_of_one_component_is_the_gaussian_conditional(double, known):
    prior, x = a_mixture(1), torch.randn(7, 5)
    found = prior.given(x, torch.tensor([d in known for d in range(5)]))
    mean, cov = exact(prior, x, known)
    assert found.weights.numpy() == pytest.approx(np.ones((7, 1)))
    assert found.loc[:, 0].numpy() == pytest.approx(mean, abs=1e-12)
    assert (found.scale_tril[0] @ found.scale_tril[0].T).numpy() == pytest.approx(cov, abs=1e-12)


def test_the_conditional_of_two_components_is_that_of_quadrature(double):
    """p(x_1 | x_0, x_2) = p(x) / ∫ p(x) dx_1, with the integral on a grid."""
    prior = a_mixture(2, (1, 1, 1))
    grid = torch.linspace(-9, 9, 4001)
    for first, last in ((0.3, -1.0), (2.0, -1.0)):
        x = torch.stack([torch.full_like(grid, first), grid, torch.full_like(grid, last)], -1)
        joint = prior.log_prob(x).exp()
        found = prior.given(x[:1], torch.tensor([True, False, True]))
        parts = zip(found.weights[0], found.loc[0, :, 0], found.scale_tril[:, 0, 0], strict=True)
        density = sum(float(p) * stats.norm(float(m), float(s)).pdf(grid.numpy()) for p, m, s in parts)
        assert density == pytest.approx((joint / torch.trapezoid(joint, grid)).numpy(), abs=1e-10)
        assert 0.02 < float(found.weights[0, 0]) < 0.98  # both components matter


def test_draws_follow_the_conditional_of_their_own_row(double):
    """Rows of three patterns in one call: nothing known, z alone, z and w_1. What is known is unchanged."""
    torch.manual_seed(0)
    prior, n = a_mixture(1), 20_000
    x = torch.tensor([0.5, -1.0, 0.3, 9.0, 9.0]).repeat(3 * n, 1)
    observed = torch.tensor([[False] * 3, [True, False, False], [True, True, False]]).repeat(n, 1)
    drawn = prior.complete(x, observed)
    assert torch.equal(drawn[columns_of(observed, BLOCKS)], x[columns_of(observed, BLOCKS)])
    for pattern, known in enumerate(([], [0], [0, 1, 2])):
        other = [d for d in range(5) if d not in known]
        mean, cov = exact(prior, x[:1], known)
        rows = drawn[pattern::3][:, other].numpy()
        assert rows.mean(0) == pytest.approx(mean[0], abs=4 * np.sqrt(cov.diagonal().max() / n))
        assert np.cov(rows.T) == pytest.approx(cov, abs=0.05)


def test_a_draw_does_not_depend_on_the_other_rows(double):
    prior, x = a_mixture(3), torch.randn(6, 5)
    observed = torch.tensor([[True, False, True], [True, True, False]]).repeat(3, 1)
    with noise.record() as draws:
        drawn = prior.complete(x, observed)
    rows = [4, 1]
    fed = {
        name: draw.value[:, rows] if draw.axes == "KB" else draw.value[rows] for name, draw in draws.items()
    }
    with noise.feed(fed):
        assert torch.allclose(prior.complete(x[rows], observed[rows]), drawn[rows])


def test_shrinkage_is_chosen_by_draws_held_out():
    """Few draws of many independent columns: shrinking to the diagonal is better. Strong correlations are kept."""
    torch.manual_seed(0)
    alone = FittedMixture.fit(torch.randn(120, 30), 1, blocks=(10, 20))
    common = torch.randn(2000, 1)
    together = FittedMixture.fit(common + 0.1 * torch.randn(2000, 30), 1, blocks=(10, 20))
    for prior, low, high in ((alone, 0.0, 0.05), (together, 0.95, 1.0)):
        cov = prior.scale_tril[0] @ prior.scale_tril[0].T
        correlation = cov / cov.diagonal().sqrt() / cov.diagonal().sqrt()[:, None]
        assert low <= float((correlation - torch.eye(30)).abs().sum() / 870) <= high


# ---- the score network -----------------------------------------------------------------------------------------------------------


def test_the_marginal_of_the_diffusion_is_that_of_quadrature(double):
    """m = exp(−½ ∫_0^t β), s² = ∫_0^t β(u) exp(−∫_u^t β) du."""

    def rate(u: float) -> float:
        return float(mld.rate(torch.tensor(u)))

    def integral(start: float, end: float) -> float:
        return integrate.quad(rate, start, end)[0]

    for t in (0.01, 0.3, 1.0):
        m, s = mld.marginal(torch.tensor(t))
        assert float(m) == pytest.approx(np.exp(-0.5 * integral(0, t)))
        variance = integrate.quad(lambda u, end=t: rate(u) * np.exp(-integral(u, end)), 0, t)
        assert float(s) ** 2 == pytest.approx(variance[0], rel=1e-6)


class ExactScore(nn.Module):
    """s(t) times the score of x_t given the clean columns (time 0), where x is Gaussian with mean 0 and covariance ``cov``."""

    def __init__(self, cov: torch.Tensor, blocks) -> None:
        super().__init__()
        self.cov, self.blocks = cov, blocks

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, b = (
            part.nonzero()[:, 0]
            for part in ((columns_of(t, self.blocks)[0] == 0), (columns_of(t, self.blocks)[0] > 0))
        )
        m, s = mld.marginal(t.max())
        gain = self.cov[b][:, a] @ torch.linalg.inv(self.cov[a][:, a])
        cov = self.cov[b][:, b] - gain @ self.cov[a][:, b]
        gap = x[:, b] - m * x[:, a] @ gain.T
        out = torch.zeros_like(x)
        out[:, b] = -s * gap @ torch.linalg.inv(m**2 * cov + s**2 * torch.eye(len(b)))
        return out


def test_with_the_exact_score_draws_follow_the_exact_conditional(double):
    """What remains is the error of 250 Euler steps, less than 3 % of a standard deviation."""
    torch.manual_seed(1)
    world, n = a_mixture(1), 8000
    cov = world.scale_tril[0] @ world.scale_tril[0].T
    scale = cov.diagonal().sqrt()
    prior = FittedScore(world.loc[0], scale, hidden=2, layers=1, blocks=BLOCKS)
    prior.net = ExactScore(cov / scale / scale[:, None], BLOCKS)
    x = torch.tensor([[0.5, -1.0, 0.3, 9.0, 9.0]])
    for observed, known in (
        ((False,) * 3, []),
        ((True, True, False), [0, 1, 2]),
        ((False, True, False), [1, 2]),
    ):
        other = [d for d in range(5) if d not in known]
        mean, expected = exact(world, x, known)
        drawn = prior.complete(x.expand(n, -1), torch.tensor([observed]).expand(n, -1))
        assert torch.equal(drawn[:, known], x.expand(n, -1)[:, known])
        size = np.sqrt(expected.diagonal())
        assert drawn[:, other].mean(0).numpy() == pytest.approx(mean[0], abs=0.06 * size.max())
        assert np.cov(drawn[:, other].T.numpy()) / np.outer(size, size) == pytest.approx(
            expected / np.outer(size, size), abs=0.07
        )


def test_a_block_without_columns_does_not_count():
    """z of a model with private latents alone, or a modality without private latents: whether it was observed has no influence."""
    torch.manual_seed(3)
    prior = FittedScore(torch.zeros(3), torch.ones(3), hidden=8, layers=1, blocks=(0, 1, 2))
    for parameter in prior.net.parameters():
        nn.init.normal_(parameter, std=0.5)
    x, found = torch.ones(4, 3), []
    for first in (False, True):
        torch.manual_seed(4)
        found.append(prior.complete(x, torch.tensor([[first, True, False]]).expand(4, -1)))
    assert torch.equal(*found)


def test_before_training_the_prediction_is_that_of_a_standard_normal(double):
    for design in mld.DESIGNS:
        prior = FittedScore(torch.zeros(5), torch.ones(5), 8, 1, blocks=BLOCKS, design=design)
        x, t = torch.randn(6, 5), torch.tensor([[0.0, 0.3, 0.3]])
        outside = columns_of(t[0], BLOCKS) > 0
        assert torch.allclose(prior.net(x, t)[:, outside], -mld.marginal(t[0, 1]).s * x[:, outside])


def test_an_unknown_design_is_refused_in_one_line():
    with pytest.raises(InputError, match="unknown design 'publish'; did you mean 'published'"):
        FittedScore.fit(torch.randn(30, 3), design="publish")
    prior = FittedScore.fit(torch.randn(30, 3), steps=1, hidden=4, layers=1, design="published")
    assert prior.summary == "score network, published design, 1 steps"


@pytest.mark.slow
def test_a_trained_network_draws_near_the_exact_conditional():
    torch.manual_seed(2)
    world = a_mixture(1, (1, 1, 1))
    prior = FittedScore.fit(world.draw(8000), steps=3000, blocks=(1, 1, 1), hidden=64)
    x = torch.tensor([[0.5, -1.0, 9.0]])
    for observed in ((True, True, False), (True, False, False), (False, False, False)):
        known = [d for d in range(3) if observed[d]]
        other = [d for d in range(3) if not observed[d]]
        mean, cov = exact(world, x, known)
        drawn = prior.complete(x.expand(4000, -1), torch.tensor([observed]).expand(4000, -1))[:, other]
        size = np.sqrt(cov.diagonal())
        assert (drawn.mean(0).numpy() - mean[0]) / size == pytest.approx(np.zeros(len(other)), abs=0.25)
        assert np.cov(drawn.T.numpy()) / np.outer(size, size) == pytest.approx(
            cov / np.outer(size, size), abs=0.3
        )


@pytest.mark.slow
def test_a_short_training_learns_which_way_two_blocks_depend():
    """Correlation .9: given 1, the mean is near .9, and given −1 near −.9."""
    torch.manual_seed(3)
    z = torch.randn(1000, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.436]])
    state = torch.get_rng_state()
    prior = FittedScore.fit(z, steps=250, blocks=(0, 1, 1), hidden=32, layers=1)
    assert torch.equal(torch.get_rng_state(), state)
    given = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(200, 1)
    drawn = prior.complete(given, torch.tensor([[False, True, False]]).expand(400, -1))
    up, down = drawn[::2, 1], drawn[1::2, 1]
    assert (float(up.mean()), float(down.mean())) == (
        pytest.approx(0.9, abs=0.4),
        pytest.approx(-0.9, abs=0.4),
    )


def test_a_share_of_the_rows_has_a_clean_subset_and_each_is_equally_frequent():
    shares = {"balanced": 0.5, "published": 0.2, "guided": 0.8}
    assert {name: design.clean for name, design in mld.DESIGNS.items()} == shares
    clean = mld.subsets(100_000, (2, 0, 3, 1), torch.Generator().manual_seed(0), 0.2)
    assert not clean[:, 1].any()  # a block without columns
    some_rows = clean[clean.any(-1)]
    assert len(some_rows) / len(clean) == pytest.approx(0.2, abs=0.005)
    _, counts = torch.unique(some_rows, dim=0, return_counts=True)
    assert len(counts) == 6  # of 3 blocks, neither none nor all
    assert counts / len(some_rows) == pytest.approx(np.full(6, 1 / 6), abs=0.01)
    assert not mld.subsets(50, (4,), torch.Generator().manual_seed(0), 0.2).any()
    often = mld.subsets(100_000, (2, 0, 3, 1), torch.Generator().manual_seed(0), 0.8, given=[1, 3])
    # The block without columns does not count, so block 3 is alone in 3/4 of these rows, and in 1/6 of the others.
    alone = (often == torch.tensor([False, False, False, True])).all(-1)
    assert float(often.any(-1).double().mean()) == pytest.approx(0.8, abs=0.005)
    assert float(alone.double().mean()) == pytest.approx(0.8 * (3 / 4 + 1 / 4 / 6), abs=0.005)


@pytest.mark.parametrize(
    ("design", "share", "power", "absent", "stands"),
    [
        ("published", 0.2, 1, 0, False),
        ("balanced", 0.5, 2, 0, False),
        ("guided", 0.8, 2, 0.15, False),
        ("guided", 0.8, 2, 0.15, True),
    ],
)
def test_the_loss_is_the_formula(double, design, share, power, absent, stands):
    """(1 + d_S / (D − d_S)) / D Σ_{outside S} (f + ε)², from the same draws; S contains x or what stands for it, or is absent."""
    torch.manual_seed(0)
    known = torch.randn(200, 5)
    blocks, x = (1, 2, 2), torch.randn(200, 5)
    sizes = (3, 1, 1) if stands else None
    prior = FittedScore(torch.zeros(5), torch.ones(5), 8, 1, blocks=blocks, design=design, known=sizes)
    nn.init.normal_(prior.net.last[2].weight)
    loss = prior.requires_grad_(False).loss(x, torch.Generator().manual_seed(7), known if stands else None)
    draws = torch.Generator().manual_seed(7)
    t, eps = torch.rand(200, 1, generator=draws) ** power, torch.randn(200, 5, generator=draws)
    clean = mld.subsets(200, blocks, draws, share)
    without = torch.rand(200, 1, generator=draws) < absent if absent else torch.zeros(200, 1) > 0
    assert bool(absent) == bool((clean & without).any())
    m, s = mld.marginal(t)
    for row in range(200):
        fixed = columns_of(clean[row], blocks)
        kept = torch.zeros(5) if without[row] else x[row]
        noisy = torch.where(fixed, kept, m[row] * x[row] + s[row] * eps[row])
        time = torch.where(clean[row], 1.0 * without[row], t[row])[None]
        f = prior.net(noisy[None], time, known[row][None])[0] if stands else prior.net(noisy[None], time)[0]
        d = int(fixed.sum())
        expected = (1 + d / (5 - d)) / 5 * (f + eps[row])[~fixed].square().sum()
        assert float(loss[row]) == pytest.approx(float(expected))


class Guided(nn.Module):
    """s(t) times the score of y_t, given x or without it, for a normal pair (x, y) of correlation .8."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        m, s = mld.marginal(t[:, 1:])
        seen = t[:, :1] == 0
        assert bool((seen | (t[:, :1] == 1)).all())
        assert bool(((x[:, :1] == 0) | seen).all())  # what is absent is 0
        variance = torch.where(seen, 0.36, 1.0) * m.square() + s.square()
        f = s * (m * torch.where(seen, 0.8 * x[:, :1], 0) - x[:, 1:]) / variance
        return torch.cat([torch.full_like(f, torch.nan), f], -1)


def test_guided_draws_have_the_moments_of_the_guided_diffusion(double):
    """With normal latents every step is linear, so that means and variances after 250 steps are known."""
    n, x = 20_000, 1.5
    for g in (0.0, 1.0, 3.0):
        prior = FittedScore(torch.zeros(2), torch.ones(2), 2, 1, blocks=(1, 1), design="guided", guidance=g)
        prior.net = Guided()
        torch.manual_seed(0)
        drawn = prior.complete(
            torch.tensor([[x, 0.0]]).expand(n, -1), torch.tensor([[True, False]]).expand(n, -1)
        )
        mean, variance, step = 0.0, 1.0, 1 / mld.EULER
        for number in range(mld.EULER, 0, -1):
            t = torch.tensor(number * step)
            m, beta = float(mld.marginal(t).m), float(mld.rate(t))
            own, without = 1 / (0.36 * m**2 + 1 - m**2), 1.0
            pull = 1 + step * beta * (0.5 - ((1 + g) * own - g * without))
            mean = pull * mean + step * beta * (1 + g) * own * m * 0.8 * x
            variance = pull**2 * variance + (step * beta if number > 1 else 0)
        assert drawn[:, 0].numpy() == pytest.approx(np.full(n, x))
        assert float(drawn[:, 1].mean()) == pytest.approx(mean, abs=4 * (variance / n) ** 0.5)
        assert float(drawn[:, 1].var()) == pytest.approx(variance, rel=0.05)
        if not g:
            assert (mean, variance) == (pytest.approx(0.8 * x, abs=0.02), pytest.approx(0.36, abs=0.03))


def test_a_design_or_guidance_that_is_not_valid_is_refused():
    for given, says in (
        ({"design": "guide"}, "unknown design 'guide'; did you mean 'guided'?"),
        ({"design": "guided", "guidance": -1}, "got guidance=-1; expected a number, 0 or more"),
        ({"guidance": 1.0}, "got guidance=1.0 with design 'balanced'; expected design 'guided'"),
    ):
        with pytest.raises(InputError) as caught:
            FittedScore(torch.zeros(2), torch.ones(2), **given)
        assert says in str(caught.value)
        with pytest.raises(InputError) as caught:
            fit_prior(*some("vae"), kind="mld", latents="all", **given)
        assert says in str(caught.value)


def test_what_stands_for_a_block_decides_and_not_the_block(double):
    """Draws depend on ``known`` of the blocks that are given, and neither on their values nor on ``known`` of the others."""
    x, generator = torch.randn(200, 5), torch.Generator().manual_seed(0)
    parts = [torch.randn(200, size, generator=generator) * 3 + 1 for size in (4, 2, 1)]
    prior = FittedScore.fit(x, 2, 0, BLOCKS, 4, 1, design="guided", guidance=1.0, known=parts)
    for parameter in prior.net.parameters():
        nn.init.normal_(parameter, std=0.5)
    assert prior.known == (4, 2, 1)
    known, observed = torch.cat(parts, -1), torch.tensor([[False, True, False]]).expand(200, -1)
    standard = (known - prior.known_loc) / prior.known_scale
    assert (float(standard.mean()), float(standard.std())) == (pytest.approx(0), pytest.approx(1, abs=0.01))

    def drawn(values, stands):
        torch.manual_seed(1)
        return prior.complete(values, observed, stands)

    first, other = drawn(x, known), torch.randn(200, 5)
    other[:, 1:3] = x[:, 1:3]
    assert torch.equal(first[:, 1:3], x[:, 1:3])
    assert torch.equal(drawn(other, known), first)
    apart = known.clone()
    apart[:, :4], apart[:, 6:] = 9, 9
    assert torch.equal(drawn(x, apart), first)
    apart[:, 4:6] = 9
    assert not torch.isclose(drawn(x, apart)[:, 3:], first[:, 3:]).any()
    moved = x.clone()
    moved[:, 1:3] += 1
    assert torch.equal(drawn(moved, known)[:, 3:], first[:, 3:])
    with pytest.raises(InputError, match="got known=None"):
        prior.complete(x, observed)


# ---- storage ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    """One prior of each kind over all latents."""
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    return {
        "gmm": FittedMixture.fit(x, 2, blocks=BLOCKS),
        "flow": FittedFlow.fit(x, 1, epochs=1, blocks=BLOCKS),
        "mld": FittedScore.fit(x, steps=2, blocks=BLOCKS, hidden=4, layers=1),
        "published": FittedScore.fit(x, steps=2, blocks=BLOCKS, hidden=4, layers=1, design="published"),
        "guided": FittedScore.fit(x, 2, 0, BLOCKS, 4, 1, design="guided", guidance=2),
    }


@pytest.mark.parametrize("kind", [*FITTED, "published", "guided"])
def test_what_was_stored_is_the_same_prior(fitted, kind, tmp_path):
    prior, run = fitted[kind], RunDirectory(tmp_path)
    save_tensors(run.fitted_prior, prior.state_dict(), prior.settings)
    again = fitted_prior(run)
    assert (again.settings, again.summary, again.blocks, again.latents) == (
        prior.settings,
        prior.summary,
        BLOCKS,
        "all",
    )
    torch.manual_seed(1)
    expected = prior.draw(5)
    torch.manual_seed(1)
    assert torch.equal(again.draw(5), expected)


@pytest.mark.parametrize(
    ("kind", "settings", "tensors", "says"),
    [
        ("gmm", {"blocks": [1, 2]}, {}, "got blocks=[1, 2]; expected numbers of columns with sum 5"),
        ("gmm", {"blocks": [-1, 6]}, {}, "got blocks=[-1, 6]"),
        ("flow", {"blocks": "5"}, {}, "got blocks=5"),
        ("mld", {"hidden": None}, {}, "got hidden=None; expected a whole number"),
        ("mld", {"hidden": 5}, {}, "got tensors of another network; expected those of its hidden units"),
        ("mld", {"hidden": 10**9}, {}, "got hidden=1000000000"),
        ("mld", {"layers": 2}, {}, "got tensors of another network"),
        ("mld", {"steps": True}, {}, "got steps=True"),
        (
            "mld",
            {"design": "other"},
            {},
            "got design='other'; expected balanced, published, guided",
        ),
        ("mld", {"design": None}, {}, "got tensors of another network"),
        ("mld", {"guidance": 1.0}, {}, "got guidance=1.0; expected a number, 0 or more, that its design"),
        ("guided", {"guidance": "1"}, {}, "got guidance=1; expected a number"),
        (
            "guided",
            {"known": [1, 2, -1]},
            {},
            "got known=[1, 2, -1]; expected a number of columns for each block",
        ),
        ("guided", {"known": [1, 2, 2]}, {}, "got tensors of another network"),
        ("mld", {"blocks": [1, 4]}, {}, "got tensors of another network"),
        ("mld", {}, {"loc": None}, "got no 'loc'; expected loc, scale"),
        ("mld", {}, {"scale": torch.zeros(5)}, "expected [D] both, scale positive"),
        ("mld", {}, {"net.first.bias": torch.full((4,), torch.nan)}, "'net.first.bias' with other values"),
        ("mld", {}, {"net.first.bias": torch.tensor(1.0)}, "got tensors of another network"),
    ],
)
def test_a_stored_prior_that_is_wrong_is_refused_in_one_line(fitted, kind, settings, tensors, says, tmp_path):
    run, prior = RunDirectory(tmp_path), fitted[kind]
    kept = {key: x for key, x in (prior.state_dict() | tensors).items() if x is not None}
    save_tensors(
        run.fitted_prior, kept, {k: x for k, x in (prior.settings | settings).items() if x is not None}
    )
    with pytest.raises(InputError) as caught:
        fitted_prior(run)
    assert str(caught.value).startswith(f"{run.fitted_prior}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- models ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_model_draws_what_it_did_not_infer_from_the_prior(name):
    """z and w of the observed modality are those of ``draw``; the others are the prior's, given these."""
    model, data = some(name)
    torch.manual_seed(0)
    prior = a_mixture(2, model.blocks)
    first = next(key for key, net in model.modalities.items() if net.encoder is not None)
    batch = data.take(slice(0, 5)).observe(first)
    experts = model.experts(model.admit(batch))
    own = model.own(experts)[0]  # [W]
    known = torch.tensor([True] + [bool(own[span].all()) for span in model.columns]).expand(15, -1)
    torch.manual_seed(1)
    draws = model.draw(batch, 3)
    latents = torch.cat([draws.z, draws.w], -1)
    expected = latents if known[0].all() else prior.complete(latents.flatten(0, 1), known).view_as(latents)
    torch.manual_seed(1)
    found = model.draw_latents(batch, 3, prior)
    assert torch.equal(torch.cat(found, -1), expected)
    assert torch.equal(found.w[..., own], draws.w[..., own])
    assert torch.equal(found.z, draws.z)
    assert not (found.w == draws.w)[..., ~own].any()
    torch.manual_seed(1)
    made = model.generate(batch, 3, prior=prior)
    assert all(torch.equal(made[key], x) for key, x in model.decode(*found).items() if key != first)


def test_conditional_draws_follow_the_prior_given_the_posterior_draw(double):
    """With w_a = 10 and almost no spread, w_b is N(9, .19) where the prior is a Gaussian with correlation .9."""
    model = build("vae", [Modality("a", (1,)), Modality("b", (1,))], latent=1).double().eval()
    tril = torch.tensor([[[1.0, 0.0], [0.9, 0.19**0.5]]])
    prior = FittedMixture(torch.ones(1), torch.zeros(1, 2), tril, blocks=(0, 1, 1))
    data = MultimodalData({"a": torch.randn(3, 1), "b": torch.randn(3, 1)})
    batch = data.take(slice(0, 3))
    torch.manual_seed(0)
    w = model.draw_latents(batch.observe("a"), 20_000, prior).w  # [K, B, 2]
    residual = w[..., 1] - 0.9 * w[..., 0]
    assert residual.mean(0).numpy() == pytest.approx(np.zeros(3), abs=0.015)
    assert residual.var(0).numpy() == pytest.approx(np.full(3, 0.19), abs=0.01)
    nothing = model.draw_latents(batch.observe(), 20_000, prior).w
    assert np.cov(nothing[:, 0].T.numpy()) == pytest.approx(np.array([[1, 0.9], [0.9, 1]]), abs=0.04)


def test_the_prior_of_all_latents_is_fitted_to_complete_samples():
    model, data = some("vae")
    mask = torch.ones_like(data.mask)
    mask[0, :40] = False
    part = MultimodalData(
        {name: data.values(name) for name in data.names}, mask=dict(zip(data.names, mask, strict=True))
    )
    assert complete_rows(model, part).tolist() == list(range(40, 64))
    assert posterior_samples(model, part, latents="all").shape == (24, sum(model.blocks))
    result = evaluate(
        model,
        part,
        train=part,
        metrics=["quality"],
        fitted_prior={"latents": "all", "components": 1},
        draws=20,
        show=False,
    )
    assert result.prior.blocks == model.blocks
    assert any("24 of 64 training samples" in note for note in result["notes"])
    with pytest.raises(InputError, match="got no complete sample"):
        fit_prior(model, part.rows(slice(0, 40)), latents="all")


@pytest.mark.parametrize(
    ("make", "call", "says"),
    [
        (
            lambda m: FittedFlow(torch.zeros(5), torch.ones(5), 1, blocks=m.blocks),
            "generate",
            "has no conditional draws",
        ),
        (lambda m: a_mixture(1, (sum(m.blocks),)), "generate", "over z alone; expected one over all latents"),
        (
            lambda m: a_mixture(1, (*m.blocks, 1)),
            "generate",
            "expected [1, 2, 2], those of z and of each private latent",
        ),
        (
            lambda m: a_mixture(1, (*m.blocks, 1)),
            "sample",
            "got a fitted prior over blocks of [1, 2, 2, 1] columns",
        ),
        (lambda m: a_mixture(1, m.blocks), "resample", "got prior and resample=True; expected one of them"),
    ],
)
def test_a_prior_that_does_not_fit_is_refused_in_one_line(make, call, says):
    model = build("mmvae+", [Modality("a", (3,), private=2), Modality("b", (2,), private=2)], latent=1).eval()
    batch = MultimodalData({"a": torch.randn(4, 3), "b": torch.randn(4, 2)}).take([0, 1])
    calls = {
        "sample": lambda prior: model.sample(2, prior),
        "generate": lambda prior: model.generate(batch, prior=prior),
        "resample": lambda prior: model.generate(batch, prior=prior, resample=True),
    }
    prior = make(model)
    with pytest.raises(InputError) as caught:
        calls[call](prior)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_latents_and_no_shared_latent_are_refused():
    with pytest.raises(InputError, match="unknown latents 'w'"):
        fit_prior(*some("vae"), latents="w")
    with pytest.raises(InputError, match="got given='other'"):
        fit_prior(*some("vae"), kind="mld", latents="all", given=["other"])
    names = list(some("vae")[0].modalities)
    for latents, given in (("z", names[:1]), ("all", names)):
        with pytest.raises(InputError, match="expected some of the modalities"):
            fit_prior(*some("mopoe" if latents == "z" else "vae"), kind="mld", latents=latents, given=given)
    with pytest.raises(InputError, match="or fit one with latents='all'"):
        fit_prior(*some("vae"))

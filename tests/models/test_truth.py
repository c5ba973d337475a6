"""Numbers known exactly: likelihoods, bounds and imputations in linear worlds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from polyvae import Batch, InputError
from tests.helpers.truth import JOINT, expected_bound
from tests.helpers.worlds import GRID, World


@pytest.mark.parametrize("private", [0, 1])
def test_the_quadrature_is_the_closed_form(private):
    world = World(private)
    batch = world.every_mask()
    for row, log_p in enumerate(world.log_p(batch)):
        seen = [m for m in range(3) if batch.mask[m, row]]
        x = np.concatenate([batch.data[world.names[m]][row].numpy() for m in seen])
        A = np.concatenate([world.A[m] for m in seen])
        covariance = A @ A.T
        at = 0
        for m in seen:
            size = len(world.b[m])
            covariance[at : at + size, at : at + size] += world.noise(m)
            at += size
        assert log_p == pytest.approx(
            multivariate_normal(np.concatenate([world.b[m] for m in seen]), covariance).logpdf(x), abs=1e-9
        )


DENSITIES = [
    ("vae", {"latent": 0, "private": 1}, {}),
    ("vae", {"latent": 0, "private": 1}, {"family": "laplace"}),
    ("mvae", {}, {}),
    ("mmvae", {}, {"family": "normal"}),
    ("mmvae", {}, {"family": "laplace"}),
    ("mopoe", {}, {}),
    ("mopoe", {"private": 1}, {}),
    ("mopoe", {}, {"prior_expert": "full"}),
    ("mmvae+", {"private": 1}, {}),
    ("mmvae+", {"private": 1}, {"family": "laplace"}),
    ("mmvae+", {"private": 1}, {"private_prior": "auxiliary"}),
    ("mmjsd", {}, {}),
    ("mmjsd", {"private": 1}, {}),
    ("mvtcae", {}, {}),
    ("crmvae", {}, {}),
    ("jmvae", {}, JOINT),
    ("telbo", {}, JOINT),
    ("jnf", {}, JOINT),
    ("set-fusion", {}, {"width": 8}),
    ("dmvae", {"private": 1}, {}),
    ("code-vae", {}, {}),
    ("code-vae", {"private": 1}, {}),
    ("scmm", {}, {"scale_map": "softplus", "family": "normal"}),
    ("cmvae", {"private": 1}, {"clusters": 2, "family": "normal", "scale_map": "softplus"}),
    ("hellinger", {}, {}),
    ("holder", {"private": 1}, {}),
    ("idmvae", {"private": 1}, {}),
    ("composed", {"private": 1}, {"subsets": "pairs"}),
]


@pytest.mark.parametrize(("name", "shape", "options"), DENSITIES)
def test_the_likelihood_is_the_truth(name, shape, options):
    """Within 5 standard errors, for every mask; the standard error itself is small."""
    world = World(**shape)
    model = world.model(name, **options)
    if options.get("private_prior") == "auxiliary":
        model.raw_r.data.fill_(0.8)
    prior = None
    if name == "cmvae":
        model.prior.loc.data = torch.tensor([[-2.0], [1.5]], dtype=torch.float64)

        def prior(z):
            return np.log(norm(-2, 1).pdf(z) / 2 + norm(1.5, 1).pdf(z) / 2)

    batch = world.every_mask()
    truth = world.log_p(batch, model.family, prior)
    estimate = model.log_marginal(batch, K=4000)
    error, spread = np.abs(estimate.value.numpy() - truth), estimate.standard_error.numpy()
    assert (error <= 5 * spread).all(), (error / spread).round(2)
    assert (spread < 0.06).all(), spread.round(3)
    assert (spread > 1e-4).all(), spread
    conditional = model.log_marginal(batch, given=("a",), K=4000)
    expected = truth - np.where(
        batch.mask[0].numpy(), world.log_p(batch.observe("a"), model.family, prior), 0
    )
    assert (np.abs(conditional.value.numpy() - expected) <= 5 * conditional.standard_error.numpy()).all()


def test_the_likelihood_under_a_mixture_prior():
    world = World(private=1)
    model = world.model("mmvae+", prior_components=2)
    model.prior.loc.data = torch.tensor([[-2.0], [1.5]], dtype=torch.float64)
    model.prior.logits.data = torch.tensor([0.0, 1.0], dtype=torch.float64)
    share = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()

    def prior(z):
        return np.log(share[0] * norm(-2, 1).pdf(z) + share[1] * norm(1.5, 1).pdf(z))

    batch = world.every_mask()
    estimate = model.log_marginal(batch, K=4000)
    assert (
        np.abs(estimate.value.numpy() - world.log_p(batch, prior=prior))
        <= 5 * estimate.standard_error.numpy()
    ).all()


def test_the_likelihood_under_a_learnt_prior_scale():
    world = World()
    model = world.model("mmvae", family="normal", learn_prior=True)
    model.prior.raw_scale.data.fill_(1.0)
    scale = float(model.prior.z().scale.detach())
    batch = world.every_mask()
    estimate = model.log_marginal(batch, K=4000)
    truth = world.log_p(batch, prior=norm(0, scale).logpdf)
    assert scale > 1.5
    assert (np.abs(estimate.value.numpy() - truth) <= 5 * estimate.standard_error.numpy()).all()


@pytest.mark.parametrize("name", ["mvae", "mmvae", "mopoe"])
def test_the_standard_error_is_honest(name):
    """Over 400 repetitions with a proposal that is too narrow, |error| / SE is as a t value: the defence bounds the weights."""
    world = World()
    model = world.model(name)
    for net in model.modalities.values():
        net.encoder.bias.data[1] -= 1.5
    batch = Batch.of({key: x.expand(400, -1) for key, x in world.data(1).items()})
    estimate = model.log_marginal(batch, K=300)
    ratio = (
        estimate.value.numpy()
        - world.log_p(batch.rows(slice(0, 1)), "normal" if name != "mmvae" else "laplace")
    ) / estimate.standard_error.numpy()
    assert (np.abs(ratio) > 3).mean() < 0.05
    assert 0.7 < ratio.std() < 1.5
    assert abs(ratio.mean()) < 0.3


def test_effective_samples_of_an_exact_proposal_are_all_of_them():
    """One input, exact expert: the weights p / (.9 p + .1 prior) differ by the defence only."""
    world = World(experts="exact")
    estimate = world.model("mmvae", family="normal").log_marginal(
        world.every_mask().observe("a").rows(slice(0, 1)), K=1000
    )
    assert 800 < float(estimate.effective_samples) <= 1000


def test_nothing_observed_has_likelihood_one():
    world = World(private=1)
    estimate = world.model("mmvae+").log_marginal(world.every_mask().observe(), K=100)
    assert (estimate.value == 0).all()


def test_chunks_do_not_change_what_is_estimated():
    world = World()
    batch = world.every_mask()
    estimate = world.model("mvae").log_marginal(batch, K=2000, rows=2000)
    assert (np.abs(estimate.value.numpy() - world.log_p(batch)) <= 5 * estimate.standard_error.numpy()).all()


def test_too_few_samples_are_refused():
    with pytest.raises(InputError, match="K=5; expected at least 20"):
        World().model("mvae").log_marginal(World().every_mask(), K=5)


PLUS = [{"cross": "prior"}, {"corrected": True}, {"cross": "posterior"}]


BOUNDS = [
    *[
        ("vae", {"latent": 0, "private": 1}, options)
        for options in ({}, {"objective": "iwae", "K": 3}, {"family": "laplace"}, {"beta": 2.5})
    ],
    *[
        ("mmvae", {}, options)
        for options in (
            {},
            {"objective": "iwae", "K": 3},
            {"objective": "iwae", "K": 3, "tight": True},
            {"objective": "iwae", "tight": True, "family": "normal"},
            {"beta": 2.5, "family": "normal"},
        )
    ],
    *[
        ("mopoe", {"private": private}, options)
        for private in (0, 1)
        for options in ({}, {"stratified": True}, {"beta": 2.5, "prior_expert": "full"})
    ],
    *[
        ("mmvae+", {"private": 1}, more | options)
        for more in PLUS
        for options in (
            {},
            {"objective": "iwae", "K": 3},
            {"beta": 2.5},
            {"family": "laplace", "source_experts": "random"},
        )
    ],
    ("jmvae", {}, JOINT),
    ("jmvae", {}, JOINT | {"alpha": 0.0, "beta": 2.5}),
    ("jnf", {}, JOINT),
    ("set-fusion", {}, {"variant": "mixture", "width": 8}),
    ("code-vae", {}, {"entropy": 0.0}),
    ("code-vae", {"private": 1}, {"entropy": 0.0, "correlation": -0.3, "K": 3}),
    ("code-vae", {}, {"entropy": 0.0, "beta": 2.5}),
    ("mvtcae", {}, {"alpha": 0.0, "beta": 1.0}),
    ("mvtcae", {}, {"alpha": 0.0, "K": 3}),
    ("hellinger", {}, {"beta": 1.0}),
    ("hellinger", {}, {"beta": 2.5}),
    ("holder", {"private": 1}, {"cross": "prior"}),
    ("holder", {"private": 1}, {"cross": "prior", "hierarchical": False, "objective": "iwae", "K": 3}),
    ("composed", {"private": 1}, {"subsets": "powerset", "agreement": "barycentre"}),
    ("composed", {"private": 1}, {"subsets": "pairs", "cross": "prior", "objective": "iwae", "K": 3}),
]


@pytest.mark.parametrize(("name", "shape", "options"), BOUNDS)
@pytest.mark.parametrize("experts", ["exact", "rough"])
def test_a_bound_stays_below_the_truth(name, shape, options, experts):
    world = World(experts=experts, **shape)
    model = world.model(name, **options)
    assert model.facts.bound
    if model.options.get("corrected"):
        model.raw_r.data.fill_(-1.5)
    if name == "code-vae":
        model.logits.data = torch.randn(7, dtype=torch.float64)
    truth = world.log_p(world.every_mask(), model.family)
    mean, spread = expected_bound(model, world)
    assert (mean <= truth + 5 * spread + 1e-9).all(), (mean - truth).round(3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mmvae+", {}),
        ("mmvae+", {"cross": "posterior-published"}),
        ("composed", {"cross": "auxiliary", "subsets": "singles"}),
        ("holder", {}),
        ("mvtcae", {}),
        ("code-vae", {}),
        ("idmvae", {"cross": "prior"}),
    ],
)
def test_facts_are_of_the_model_with_its_options(name, options):
    """The same models with other options are bounds, and are tested as such."""
    world = World(private=int(name in ("mmvae+", "composed", "holder", "idmvae")))
    assert not world.model(name, **options).facts.bound


def test_exact_posteriors_make_independent_bounds_exact():
    world = World(latent=0, private=1, experts="exact")
    truth = world.log_p(world.every_mask())
    for objective in ("iwae", "dreg"):
        value = world.model("vae", objective=objective, K=3)(world.every_mask()).value.detach().numpy()
        assert value == pytest.approx(truth, abs=1e-6)  # the weight does not depend on the draw
    mean, spread = expected_bound(world.model("vae"), world)
    assert (np.abs(mean - truth) <= 5 * spread).all()


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "iwae", "K": 3},
        {"objective": "dreg", "K": 2},
        {"objective": "iwae", "K": 3, "tight": True},
    ],
)
def test_one_exact_expert_makes_the_mixture_exact(options):
    world = World(experts="exact")
    alone = world.every_mask().rows(torch.tensor([0, 1, 3]))  # the masks with one modality
    value = world.model("mmvae", family="normal", **options)(alone).value.detach().numpy()
    assert value == pytest.approx(world.log_p(alone), abs=1e-6)


def test_products_of_likelihood_factors_make_mvae_exact():
    """L = log p(x_A) + Σ_{m∈A} log p(x_m), and the joint posterior is the exact one."""
    world = World(experts="factor")
    model = world.model("mvae", subsets=0)
    batch = world.every_mask()
    single = [world.log_p(batch.observe(name)) * batch.mask[m].numpy() for m, name in enumerate(world.names)]
    truth = world.log_p(batch) + sum(single)
    mean, spread = expected_bound(model, world)
    assert (np.abs(mean - truth) <= 5 * spread).all()
    for row in range(7):
        seen = tuple(name for m, name in enumerate(world.names) if batch.mask[m, row])
        q = model.posterior(batch, model.experts(batch)).components
        mean, variance = world.conditional(world.data(1), seen, "b")
        assert world.A[1][0, 0] * float(q.loc[0, row, 0].detach()) + world.b[1][0] == pytest.approx(
            mean[0, 0], abs=1e-5
        )
        assert (world.A[1][0, 0] * float(q.scale[0, row, 0].detach())) ** 2 == pytest.approx(
            variance[0], rel=1e-4
        )


def test_each_term_of_mvae_stays_below_its_own_truth():
    world = World()
    model = world.model("mvae", subsets=0)
    truth = world.log_p(world.every_mask())
    mean, spread = expected_bound(model, world, key=lambda bound: bound.value - bound.terms["subsets"])
    assert (mean <= truth + 5 * spread).all()
    alone = [0, 1, 3]  # there, "subsets" is the single one's own ELBO
    mean, spread = expected_bound(model, world, key=lambda bound: bound.terms["subsets"])
    assert (mean[alone] <= truth[alone] + 5 * spread[alone]).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [("mmvae", {}), ("mmvae", {"tight": True}), ("mmvae+", {"cross": "prior"}), ("mmvae+", {})],
)
def test_the_bound_does_not_fall_with_K(name, options):
    world = World(private=int(name == "mmvae+"), experts="rough")
    means, spreads = zip(
        *(expected_bound(world.model(name, objective="iwae", K=K, **options), world) for K in (1, 3, 12)),
        strict=True,
    )
    for a, b in ((0, 1), (1, 2)):
        assert (means[b] >= means[a] - 5 * np.hypot(spreads[a], spreads[b])).all()
    assert (means[2] > means[0] + 5 * np.hypot(spreads[0], spreads[2])).all()


def test_learnt_narrow_auxiliary_priors_make_no_bound():
    """Where x stands at its mean and the private part is wide, narrow r beats the truth; r = p, and the correction, do not."""
    world = World(private=1, C=3.0, experts="exact")
    batch = Batch.of(
        {name: torch.as_tensor(world.b[m]).expand(4000, -1) for m, name in enumerate(world.names)}
    )
    truth = world.log_p(batch.rows(slice(0, 1)))[0]
    results = {}
    for key, options in (("learnt", {}), ("corrected", {"corrected": True}), ("prior", {"cross": "prior"})):
        model = world.model("mmvae+", **options)
        if key != "prior":
            model.raw_r.data.fill_(-4.0)
        value = model(batch).value.detach()
        results[key] = float(value.mean()), float(value.std() / 4000**0.5)
    assert results["learnt"][0] > truth + 5 * results["learnt"][1]
    assert results["corrected"][0] <= truth + 5 * results["corrected"][1]
    assert results["prior"][0] <= truth + 5 * results["prior"][1]


def assert_moments(draws, mean, variance, effective):
    """draws [K, B, d] have this mean [B, d] and variance [d], within 5 standard errors of ``effective`` normal draws."""
    gap = np.abs(draws.mean(0).numpy() - mean) / np.sqrt(variance / effective)
    assert (gap <= 5).all(), gap.round(2)
    gap = np.abs(draws.var(0).numpy() / variance - 1) / np.sqrt(2 / effective)
    assert (gap <= 5).all(), gap.round(2)


@pytest.mark.parametrize("latent", [1, 2])
@pytest.mark.parametrize("given", [("a",), ("a", "c"), ("a", "b", "c")])
def test_imputation_is_the_gaussian_conditional(latent, given):
    world = World(latent=latent, experts="factor")
    x = world.data(2)
    made = world.model("mvae").generate(Batch.of(x).observe(*given), K=8000)
    for name in world.names:
        assert_moments(made[name], *world.conditional(x, given, name), 8000)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mmvae+", {"private": 1}),
        ("mopoe", {"private": 1}),
        ("mmvae", {}),
        ("mvae", {}),
        ("vae", {"latent": 0, "private": 1}),
    ],
)
@pytest.mark.parametrize("given", [("a",), ("b", "c")])
def test_resampled_imputation_is_the_gaussian_conditional(name, shape, given):
    world = World(experts="rough", **shape)
    x = world.data(2)
    model = world.model(name, **({"family": "normal"} if name == "mmvae" else {}))
    made = model.generate(Batch.of(x).observe(*given), K=400, resample=True)
    for target in world.names:
        assert_moments(made[target], *world.conditional(x, given, target), 300)


def test_imputation_with_noise_has_the_likelihoods_variance():
    world = World(experts="factor")
    x = world.data(2)
    made = world.model("mvae").generate(Batch.of(x).observe("a"), K=8000, sample=True)
    mean, variance = world.conditional(x, ("a",), "c")
    assert_moments(made["c"], mean, variance + world.s[2] ** 2, 8000)


@pytest.mark.parametrize(
    ("name", "family", "shape"),
    [
        ("mmvae+", "normal", {"private": 1}),
        ("mmvae+", "laplace", {"private": 1}),
        ("mvae", "normal", {}),
        ("vae", "normal", {"latent": 0, "private": 1}),
    ],
)
def test_samples_and_imputations_from_nothing_are_the_priors(name, family, shape):
    world = World(**shape)
    model = world.model(name, **({"family": family} if name != "mvae" else {}))
    scale = {"normal": 1, "laplace": 2}[family]  # variance of the unit distribution
    count = 20000
    nothing = model.generate(Batch.of(world.data(1)).observe(), K=count)
    for m, key in enumerate(world.names):
        L = np.concatenate([world.A[m], world.C[m]], 1)
        for made in (model.sample(count)[key], nothing[key][:, 0]):
            gap = made.mean(0).numpy() - world.b[m]
            variance = scale * np.diag(L @ L.T)
            assert (np.abs(gap) <= 5 * np.sqrt(variance / count)).all()
            assert (
                np.abs(made.var(0).numpy() / variance - 1) <= 5 * np.sqrt(5 / count)
            ).all()  # a Laplace's kurtosis is 6


def test_latents_of_nothing_are_drawn_from_a_learnt_prior():
    """Not from the unit distribution that stands where nothing was encoded."""
    world = World(private=1)
    model = world.model("mmvae+", prior_components=2)
    model.prior.loc.data = torch.tensor([[-2.0], [3.0]], dtype=torch.float64)
    z = model.draw(Batch.of(world.data(3)).observe(), 8000).z[:, 1, 0].detach()
    mean, variance = 0.5, 1 + 2.5**2
    assert abs(float(z.mean()) - mean) <= 5 * (variance / 8000) ** 0.5
    assert abs(float(z.var()) / variance - 1) <= 5 * (2 / 8000) ** 0.5


def test_imputation_by_a_mixture_is_the_mixture():
    """The expert is drawn per datum and sample: half from each, not the exact conditional."""
    world = World(experts="exact")
    x = world.data(2)
    model = world.model("mmvae", family="normal")
    made = model.generate(Batch.of(x).observe("a", "c"), K=8000)["b"]
    parts = [world.conditional(x, (name,), "b") for name in ("a", "c")]
    mean = (parts[0][0] + parts[1][0]) / 2
    variance = (parts[0][1] + parts[1][1]) / 2 + ((parts[0][0] - parts[1][0]) / 2) ** 2
    assert_moments(made, mean, variance, 4000)


def test_private_latents_of_what_was_not_observed_come_from_r_if_asked():
    world = World(private=1)
    model = world.model("mmvae+", private_prior="auxiliary")
    model.raw_r.data.copy_(torch.tensor([-1.0, 0.5, 1.0]))
    drawn = model.draw(Batch.of(world.data(1)).observe("a"), 20000)
    scale = model.r(model.prior.w(drawn.z)).scale[0, 0].detach()
    assert (drawn.w[:, 0, 1:].std(0) / scale[1:] - 1).abs().max() < 5 * (0.5 / 20000) ** 0.5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mvae", {}),
        ("mmvae", {}),
        ("mmvae", {"family": "normal"}),
        ("mopoe", {}),
        ("mopoe", {"prior_expert": "full"}),
        ("mmvae+", {}),
    ],
)
def test_posteriors_integrate_to_one(name, options):
    world = World(private=int(name == "mmvae+"))
    model = world.model(name, **options)
    batch = world.every_mask()
    with torch.no_grad():
        q = model.posterior(batch, model.experts(batch))
        log_q = q.log_prob(torch.as_tensor(GRID)[:, None, None, None].expand(-1, 1, 7, 1))[:, 0].numpy()
    assert np.exp(logsumexp(log_q, 0)) * (GRID[1] - GRID[0]) == pytest.approx(np.ones(7), abs=1e-4)
    first = (np.exp(log_q) * GRID[:, None]).sum(0) * (GRID[1] - GRID[0])
    assert model.embed(batch)[:, 0].numpy() == pytest.approx(first, abs=1e-3)


ALONE = [0, 1, 3]  # the masks with one modality


@pytest.mark.parametrize(
    ("name", "options", "share"),
    [("mvtcae", {"alpha": 0.0}, 1), ("mvtcae", {"alpha": 0.25}, 0.75), ("crmvae", {}, 1)],
)
def test_with_one_exact_expert_the_objective_is_its_share_of_the_truth(name, options, share):
    """The product is the expert, the coordination 0: MVTCAE is (1 − α) ELBO, CRMVAE the mean of two equal ELBOs; both are tight."""
    world = World(experts="exact")
    truth = world.log_p(world.every_mask())[ALONE]
    mean, spread = expected_bound(world.model(name, beta=1.0, **options), world)
    assert (np.abs(mean[ALONE] - share * truth) <= 5 * spread[ALONE]).all(), (
        mean[ALONE] - share * truth
    ).round(3)

"""Count likelihoods against scipy; library sizes; moments of their draws; values that are no counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from polyvae import Batch, InputError, Modality, build
from polyvae.core.likelihoods import LIKELIHOODS, masses
from polyvae.testing import check_model

pytestmark = pytest.mark.usefixtures("double")

SHAPE = (2, 3)


def scipys(
    name: str, x: np.ndarray, mean: np.ndarray, dispersion: np.ndarray, gamma: np.ndarray
) -> np.ndarray:
    """The log-mass of each entry. scipy's negative binomial counts failures before ``n`` successes of chance ``p``: n = θ, p = θ/(θ+μ)."""
    if name == "poisson":
        return stats.poisson(mean).logpmf(x)
    mass = stats.nbinom(dispersion, dispersion / (dispersion + mean))
    if name == "negative_binomial":
        return mass.logpmf(x)
    return np.log(gamma * (x == 0) + (1 - gamma) * mass.pmf(x))


def example(name: str, **params: object):
    """A likelihood away from its starting point, what its decoder says [4, 5, ...], its dispersion and its chance of loss."""
    likelihood = LIKELIHOODS[name](SHAPE, **params)
    dispersion = np.ones(SHAPE)
    if name != "poisson":
        assert torch.equal(likelihood.dispersion, torch.ones(SHAPE))
        likelihood.raw_dispersion.data.normal_()
        dispersion = likelihood.dispersion.detach().numpy()
    out = torch.randn(4, 5, *likelihood.output)
    lost = 1 / (1 + np.exp(-out[..., 1].numpy())) if name.startswith("zero") else np.zeros((4, 5, *SHAPE))
    return likelihood, out, (out[..., 0] if name.startswith("zero") else out).numpy(), dispersion, lost


COUNTS = ("poisson", "negative_binomial", "zero_inflated_negative_binomial")


@pytest.mark.parametrize("name", COUNTS)
def test_counts_given_their_library_size_are_scipys(name):
    likelihood, out, share, dispersion, lost = example(name)
    x = torch.randint(0, 9, (5, *SHAPE)).double()
    x[0], x[1, 0] = 0, 0  # a sample without a count has library size 1
    library = np.maximum(x.numpy().sum((-1, -2)), 1)[..., None, None]
    mean = library * np.exp(share) / np.exp(share).sum((-1, -2), keepdims=True)
    expected = scipys(name, x.numpy(), mean, dispersion, lost).sum((-1, -2))
    assert likelihood.log_prob(out, x).detach().numpy() == pytest.approx(expected, rel=1e-12)
    typical = 10000 * np.exp(share) / np.exp(share).sum((-1, -2), keepdims=True) * (1 - lost)
    assert likelihood.mean(out).numpy() == pytest.approx(typical, rel=1e-12)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_without_a_library_size_are_scipys_and_sum_to_one(name):
    likelihood, out, raw, dispersion, lost = example(name, library="none")
    mean = np.log1p(np.exp(raw))
    x = torch.arange(4000.0).view(-1, 1, 1).expand(-1, *SHAPE)
    each = likelihood.entries(out[0, 0], x).detach()
    assert each[:50].numpy() == pytest.approx(
        scipys(name, x[:50].numpy(), mean[0, 0], dispersion, lost[0, 0]), rel=1e-9, abs=1e-11
    )
    assert each.exp().sum(0).numpy() == pytest.approx(np.ones(SHAPE), abs=1e-9)
    assert (each.exp() * x).sum(0).numpy() == pytest.approx(likelihood.mean(out[0, 0]).numpy(), rel=1e-8)


@pytest.mark.parametrize("name", COUNTS)
def test_draws_of_counts_have_their_moments(name):
    """Mean (1 − γ) μ and variance (1 − γ) (μ + μ²/θ + γ μ²), within 5 standard errors; whole numbers; N is the library asked for."""
    likelihood, out, share, dispersion, lost = example(name, library=60.0)
    mean = 60 * np.exp(share) / np.exp(share).sum((-1, -2), keepdims=True)
    spread = np.zeros(SHAPE) if name == "poisson" else 1 / dispersion
    variance = (1 - lost) * (mean + mean**2 * (spread + lost))
    draws = likelihood.sample(out.expand(8000, *out.shape)).numpy()
    assert (draws == draws.round()).all()
    assert (np.abs(draws.mean(0) - (1 - lost) * mean) <= 5 * np.sqrt(variance / 8000)).all()
    kurtosis = ((draws - draws.mean(0)) ** 4).mean(0) / draws.var(0) ** 2
    assert (np.abs(draws.var(0) / variance - 1) <= 6 * np.sqrt(kurtosis / 8000)).all()


@pytest.mark.parametrize("name", COUNTS)
def test_with_gaps_a_sample_is_the_one_that_has_only_the_observed_entries(name):
    """Library size and proportions are those among the observed entries; a negative or huge value under the mask is not even looked at."""
    likelihood, out, *_ = example(name)
    x = torch.randint(0, 9, (5, *SHAPE)).double()
    observed = torch.tensor([[True, False, True], [False, False, True]]).expand(5, -1, -1)
    smaller = LIKELIHOODS[name]((3,))
    if name != "poisson":
        smaller.raw_dispersion.data = likelihood.raw_dispersion.data[observed[0]]
    expected = smaller.log_prob(out[:, :, observed[0]], x[:, observed[0]])
    for hidden in (-2.5, 1e30):
        torch.testing.assert_close(
            likelihood.log_prob(out, torch.where(observed, x, hidden), observed), expected
        )


def test_few_and_many_counts_stay_finite():
    """In float32, with proportions far below the smallest number: value and gradient."""
    for name in COUNTS:
        likelihood = LIKELIHOODS[name]((3,)).float()
        out = torch.zeros(1, *likelihood.output, dtype=torch.float32)
        out.view(-1)[0] = -300.0
        out.requires_grad_()
        total = likelihood.log_prob(out, torch.tensor([[2.0, 0.0, 3e6]]))
        total.sum().backward()
        assert bool(total.isfinite().all())
        assert bool(out.grad.isfinite().all())


def test_the_negative_binomial_ends_in_a_poisson():
    x, log_mean = torch.arange(20.0), torch.tensor(1.3)
    torch.testing.assert_close(
        masses.negative_binomial(x, log_mean, torch.tensor(1e6)),
        masses.poisson(x, log_mean),
        rtol=1e-4,
        atol=1e-4,
    )


def test_encoders_see_logarithms_of_counts_of_one_library_size():
    """Twice as deep a sample looks the same; without a library size it is log(1 + x)."""
    x, gaps = torch.tensor([[6.0, 0.0, 2.0], [12.0, 0.0, 4.0]]), torch.tensor([[True, True, False]] * 2)
    for library, expected in ((40.0, [31.0, 1.0, 11.0]), ("none", [7.0, 1.0, 3.0])):
        spec = Modality("rna", (3,), "poisson", params={"library": library, "hidden": (4,)})
        net = build("mmvae", [spec], latent=2).modalities["rna"]
        torch.testing.assert_close(net.features(x[:1], None).exp(), torch.tensor([expected]))
        a, b = net.encode(x).z.loc
        assert torch.allclose(a, b) is (library != "none")
    net = build("mmvae", [Modality("rna", (3,), "poisson", params={"library": 40.0})], latent=2).modalities[
        "rna"
    ]
    torch.testing.assert_close(net.features(x, gaps).exp(), torch.tensor([[41.0, 1.0, 1.0]] * 2))


@pytest.mark.parametrize("name", COUNTS)
def test_what_is_no_count_is_refused_at_the_door(name):
    model = build("mmvae", [Modality("rna", (3,), name, params={"hidden": (4,)})], latent=2)
    for bad in (0.5, -1.0):
        with pytest.raises(
            InputError,
            match=rf"modality 'rna' .*1 value of 3 that cannot occur, such as {bad:g}; expected counts, whole numbers from 0",
        ):
            model.embed(Batch.of({"rna": torch.tensor([[1.0, bad, 0.0]])}))
    gaps = {"rna": torch.tensor([[True, False, True]])}
    assert model.embed(Batch.of({"rna": torch.tensor([[1.0, 0.5, 0.0]])}, None, gaps)).shape == (1, 2)
    for library in (0, math.inf, True, "observed"):
        with pytest.raises(InputError, match=f"got library={library!r}; expected a finite number above 0"):
            LIKELIHOODS[name]((3,), library)


@pytest.mark.parametrize("name", ["scmm", "mmvae+"])
def test_models_of_counts_obey_the_laws(name):
    small = {"hidden": (5,), "library": 30.0}
    specs = [Modality(key, (3,), key, params=small) for key in COUNTS]
    check_model(name, modalities=specs, latent=2)


@pytest.mark.parametrize("dispersion", [None, 1e-2, 1.0, 30.0, 1e4, 1e6, 1e7])
def test_log_masses_do_not_cancel_in_float32(dispersion):
    """Within .01 nats of float64 for counts from 0 to 1e8 within 3 standard deviations of their mean, and never above 0."""
    mean = 10.0 ** torch.arange(9, dtype=torch.float64)[:, None].expand(-1, 61)
    variance = mean if dispersion is None else mean + mean**2 / dispersion
    x = (
        (mean + torch.linspace(-3, 3, 61, dtype=torch.float64) * variance.sqrt())
        .round()
        .clamp(0, 3e8)
        .float()
    )
    log_mean = mean.log().float()
    mu = log_mean.double().exp().numpy()
    if dispersion is None:
        found = masses.poisson(x, log_mean)
        expected = stats.poisson.logpmf(x.numpy().astype(float), mu)
    else:
        found = masses.negative_binomial(x, log_mean, torch.tensor(dispersion))
        theta = float(torch.tensor(dispersion))
        expected = stats.nbinom.logpmf(x.numpy().astype(float), theta, theta / (theta + mu))
        lost = masses.zero_inflated(x, found, torch.full_like(x, 20.0))
        assert float(lost.max()) <= 0
    assert float(found.max()) <= 0
    assert np.abs(found.numpy() - expected).max() < 0.01


def test_generated_counts_have_the_library_size_of_their_sample():
    """Proportions are the decoder's: 1/2, 1/4, 1/4. Of the second sample the first entry is missing: 30 counts are half of it."""
    spec = Modality("x", (3,), "poisson", decoder=lambda _, out: Proportions())
    model = build("vae", [spec], latent=1)
    x = torch.tensor([[50.0, 25.0, 25.0], [0.0, 10.0, 20.0], [1.0, 2.0, 3.0]])
    gaps = torch.ones(3, 3, dtype=torch.bool)
    gaps[1, 0] = False
    batch = Batch.of({"x": x}, mask={"x": torch.tensor([True, True, False])}, entries={"x": gaps})
    made = model.generate(batch)["x"][0]
    expected = torch.tensor([[50.0, 25.0, 25.0], [30.0, 15.0, 15.0], [5000.0, 2500.0, 2500.0]])
    torch.testing.assert_close(made, expected)
    assert float(model.generate(batch, K=4000, sample=True)["x"][:, 1, 0].mean()) == pytest.approx(
        30, abs=0.5
    )


class Proportions(torch.nn.Module):
    def forward(self, latents):
        return torch.tensor([0.5, 0.25, 0.25]).log().expand(len(latents), 3)


def mass(name: str, x: torch.Tensor):
    """The log-mass at x as a function of what has a gradient, in its order: log-mean, dispersion, logit of a dropout."""
    if name == "poisson":
        return lambda log_mean: masses.poisson(x, log_mean)
    if name == "negative_binomial":
        return lambda log_mean, dispersion: masses.negative_binomial(x, log_mean, dispersion)
    return lambda log_mass, logit: masses.zero_inflated(x, log_mass, logit)


def arguments(name: str, shape: tuple[int, ...], last: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """A log-mean [*shape], and a dispersion or the other arguments [*last]; a log-mass is below 0."""
    log_mean = torch.randn(shape)
    others = {"poisson": (), "negative_binomial": (torch.rand(last) * 3 + 0.05,)}
    return (log_mean, *others[name]) if name in others else (-log_mean.exp(), torch.randn(last))


SHAPES = [((2, 2, 3), (3,)), ((1, 3), (2, 3)), ((3,), (2, 2, 3))]


@pytest.mark.parametrize("name", COUNTS)
def test_the_derivatives_of_a_mass_are_exact(name):
    """The first and the second, backward and forward, with every argument and with one alone; shapes are broadcast."""
    torch.manual_seed(0)
    x = torch.tensor([[0.0, 1.0, 3.0], [0.0, 40.0, 900.0]])  # series are used for large ones
    for shape, last in SHAPES:
        given = arguments(name, shape, last)
        alone = shape == (1, 3) and len(given) > 1
        for some in [given, given[:1], given[1:]] if alone else [given]:
            inputs = [one.clone().requires_grad_(any(one is other for other in some)) for one in given]
            check = {"fast_mode": True, "atol": 1e-4, "rtol": 1e-4}
            assert torch.autograd.gradcheck(mass(name, x), inputs, check_forward_ad=True, **check)
            assert torch.autograd.gradgradcheck(mass(name, x), inputs, **check)


@pytest.mark.parametrize("name", COUNTS)
def test_a_mass_is_mapped_over_any_of_its_arguments(name):
    """Values and derivatives of members of a batch are those of the members one by one."""
    torch.manual_seed(0)
    x = torch.poisson(torch.full((2, 5, 4), 1.0))
    given = [
        torch.stack(own) for own in zip(*(arguments(name, (3, 5, 4), (4,)) for _ in range(2)), strict=True)
    ]

    def both(x, *given):
        value, gradient = torch.func.grad_and_value(lambda *all: mass(name, x)(*all).square().sum())(*given)
        return value, gradient

    for mapped in range(1 << (1 + len(given))):
        dims = tuple(0 if mapped >> place & 1 else None for place in range(1 + len(given)))
        if not mapped:
            continue
        found = torch.func.vmap(both, dims)(
            *(own if dim == 0 else own[1] for own, dim in zip([x, *given], dims, strict=True))
        )
        for member in range(2):
            one = both(*(own[member if dim == 0 else 1] for own, dim in zip([x, *given], dims, strict=True)))
            torch.testing.assert_close([part[member] for part in found], list(one))


@pytest.mark.parametrize("dispersion", [1e-2, 1.0, 30.0, 1e4, 1e6])
def test_derivatives_of_the_negative_binomial_do_not_cancel_in_float32(dispersion):
    """Within a thousandth of those in float64, and what a relative error of 2e-6 of the mean explains."""
    log_mean = torch.linspace(-12, 16, 29)[:, None].expand(-1, 5)
    x = (log_mean.exp() * torch.tensor([0.0, 0.5, 0.97, 1.0, 3.0])).round()
    found, exact = (
        torch.autograd.grad(masses.negative_binomial(x.to(kind), *inputs).sum(), inputs)
        for kind in (torch.float32, torch.float64)
        for inputs in [[own.to(kind).requires_grad_() for own in (log_mean, torch.full_like(x, dispersion))]]
    )
    share = log_mean.exp() / (log_mean.exp() + dispersion)
    for own, true, scale in zip(found, exact, (dispersion * share, share), strict=True):
        assert bool(own.isfinite().all())
        assert bool(((own - true).abs() <= 1e-3 * true.abs() + 4e-6 * scale).all())


@pytest.mark.parametrize(
    ("name", "kept"), [("poisson", 2), ("negative_binomial", 2), ("zero_inflated_negative_binomial", 4)]
)
def test_a_mass_keeps_its_arguments_alone(name, kept):
    """Tensors of the size of the data that a graph keeps; those of the likelihood around it are a few more."""
    x, sizes = torch.poisson(torch.full((50, 40), 0.1)), {}
    inputs = [torch.randn(50, 40, requires_grad=True) for _ in range(2)]
    theta = torch.ones(40, requires_grad=True)

    def note(y):
        sizes[y.data_ptr()] = y.numel()
        return y

    with torch.autograd.graph.saved_tensors_hooks(note, lambda y: y):
        if name == "poisson":
            masses.poisson(x, inputs[0])
        else:
            found = masses.negative_binomial(x, inputs[0], theta)
            if name.startswith("zero"):
                masses.zero_inflated(x, found, inputs[1])
    assert sum(size == 2000 for size in sizes.values()) == kept

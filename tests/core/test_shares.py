"""The beta and the beta-binomial likelihood against scipy; draws with their moments; values that they cannot have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from polyvae import InputError
from polyvae.core.likelihoods import LIKELIHOODS

pytestmark = pytest.mark.usefixtures("double")


def example(name: str, concentration="per_entry", **params):
    """A likelihood, decoder outputs, and scipy's α and β."""
    torch.manual_seed(1)
    likelihood = LIKELIHOODS[name]((2, 3), concentration=concentration, **params)
    for parameter in likelihood.parameters():
        torch.nn.init.normal_(parameter, std=2)
    out = 2 * torch.randn(4, 5, 2, 3)
    phi, mean = likelihood.concentration.detach().numpy(), 1 / (1 + np.exp(-out.numpy()))
    return likelihood, out, mean * phi, (1 - mean) * phi


@pytest.mark.parametrize("concentration", [0.3, "learned", "per_entry"])
def test_beta_is_scipys(concentration):
    likelihood, out, alpha, beta = example("beta", concentration)
    x = torch.rand(5, 2, 3)
    expected = stats.beta(alpha, beta).logpdf(x.numpy())
    assert likelihood.entries(out, x).detach().numpy() == pytest.approx(expected)
    assert likelihood.log_prob(out, x).detach().numpy() == pytest.approx(expected.sum((-1, -2)))
    assert likelihood.mean(out).numpy() == pytest.approx(stats.beta(alpha, beta).mean())


@pytest.mark.parametrize("concentration", [0.3, "learned", "per_entry"])
def test_beta_binomial_is_scipys_and_sums_to_one(concentration):
    likelihood, out, alpha, beta = example("beta_binomial", concentration, total=12)
    law = stats.betabinom(12, alpha, beta)
    mass = 0
    for k in range(13):
        found = likelihood.entries(out, torch.full((5, 2, 3), float(k))).detach().numpy()
        assert found == pytest.approx(law.logpmf(k), rel=1e-7, abs=1e-9)
        mass = mass + np.exp(found)
    assert mass == pytest.approx(np.ones_like(mass))
    assert likelihood.mean(out).numpy() == pytest.approx(law.mean())
    rho = 1 / (1 + likelihood.concentration.detach().numpy())
    share = alpha / (alpha + beta)
    assert law.var() == pytest.approx(12 * share * (1 - share) * (1 + 11 * rho))


def test_beta_integrates_to_one_and_starts_uniform():
    likelihood = LIKELIHOODS["beta"]((1,))
    x = torch.rand(9, 1)
    assert likelihood.log_prob(torch.zeros(9, 1), x).tolist() == pytest.approx([0] * 9, abs=1e-5)
    likelihood.raw_concentration.data.fill_(1.2)

    def density(x):
        out = torch.full((len(x), 1), 0.4)
        return likelihood.log_prob(out, torch.as_tensor(x)[:, None]).exp().detach().numpy()

    assert integrate.fixed_quad(density, 0, 1, n=200)[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("phi", [1e-2, 1.0, 30.0, 1e4, 1e7])
@pytest.mark.parametrize("mean", [1e-4, 0.3, 0.999])
def test_logarithms_do_not_cancel_in_float32(phi, mean):
    """Within 1e-4 of the size of the logarithm, and where scipy's own lose digits of float64 as well."""
    out = torch.logit(torch.tensor(mean)).float()
    m = float(out.double().sigmoid())
    x = stats.beta(m * phi, (1 - m) * phi).ppf(np.linspace(0.01, 0.99, 21)).clip(1e-30, 1 - 6e-8)
    x = torch.as_tensor(x).float()[:, None]
    beta = LIKELIHOODS["beta"]((1,), phi)
    found = beta.entries(out.expand(21, 1), x).double()
    expected = beta.entries(out.double().expand(21, 1), x.double())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        expected[:, 0],
        torch.as_tensor(stats.beta(m * phi, (1 - m) * phi).logpdf(x[:, 0].double())),
        rtol=1e-6,
        atol=1e-6,
    )
    for total in (1, 1000, 10**6):
        law = stats.betabinom(total, m * phi, (1 - m) * phi)
        k = np.unique((law.mean() + np.linspace(-3, 3, 21) * law.std()).round().clip(0, total))
        k = torch.as_tensor(k)[:, None]
        likelihood = LIKELIHOODS["beta_binomial"]((1,), total, phi)
        found = likelihood.entries(out.expand(len(k), 1), k.float()).double()
        expected = likelihood.entries(out.double().expand(len(k), 1), k)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(expected[:, 0], torch.as_tensor(law.logpmf(k[:, 0])), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("concentration", [0.01, 0.7, 40.0])
def test_draws_have_the_density(concentration):
    """Also in float32 where nearly all draws are next to 0 or 1."""
    beta = LIKELIHOODS["beta"]((1,), concentration)
    out = torch.full((20_000, 1), 0.6, dtype=torch.float32)
    x = beta.sample(out)
    assert beta.invalid(x, torch.ones_like(x, dtype=torch.bool)) == ""
    m = float(out[0].double().sigmoid())
    law = stats.beta(m * concentration, (1 - m) * concentration)
    assert float(x.double().mean()) == pytest.approx(law.mean(), abs=5 * law.std() / 20_000**0.5)
    inside = [0.2, 0.5, 0.8]
    assert [(x < edge).double().mean().item() for edge in inside] == pytest.approx(law.cdf(inside), abs=0.018)
    k = LIKELIHOODS["beta_binomial"]((1,), 4, concentration).sample(out)
    share = torch.stack([(k == n).double().mean() for n in range(5)]).numpy()
    law = stats.betabinom(4, m * concentration, (1 - m) * concentration)
    assert share == pytest.approx(law.pmf(range(5)), abs=0.018)


def test_what_cannot_be_is_one_line():
    def seen(name, values, **params):
        x = torch.tensor([values])
        return LIKELIHOODS[name]((len(values),), **params).invalid(x, torch.ones_like(x, dtype=torch.bool))

    assert seen("beta", [0.0, 0.5, 1.0]).startswith(
        "2 values of 3 that cannot occur, such as 0; expected values above 0"
    )
    assert "(x (N − 1) + 0.5) / N" in LIKELIHOODS["beta"].remedy
    assert "such as 7; expected numbers of successes, whole numbers from 0 to 6" in seen(
        "beta_binomial", [7.0, 2.0], total=6
    )
    assert "such as 1.5" in seen("beta_binomial", [1.5, 2.0], total=6)
    assert seen("beta_binomial", [0.0, 6.0], total=6) == ""
    for total in (0, 2.5, "5", True, 10**30):
        with pytest.raises(InputError, match="'beta_binomial': got total="):
            LIKELIHOODS["beta_binomial"]((1,), total)
    with pytest.raises(InputError, match="got concentration=-1; expected a finite number above 0"):
        LIKELIHOODS["beta"]((1,), -1)


def test_encoders_see_shares():
    assert LIKELIHOODS["beta_binomial"]((2,), 8).features(torch.tensor([2.0, 8.0])).tolist() == [0.25, 1]
    assert LIKELIHOODS["beta_binomial"]((2,), 8).largest == 8


@pytest.mark.parametrize("name", ["beta", "beta_binomial"])
def test_zeros_in_place_of_a_missing_modality_give_finite_gradients(name):
    """The term of a modality that was not observed is removed after it was computed, and 0 times NaN is NaN."""
    likelihood = LIKELIHOODS[name]((2,), **({"total": 5} if name == "beta_binomial" else {}))
    for value in (0.0, 1.0, 1e200):
        out = torch.randn(3, 2, requires_grad=True)
        likelihood.log_prob(out, torch.full((3, 2), value)).sum().backward()
        assert bool(out.grad.isfinite().all())
        assert bool(likelihood.raw_concentration.grad.isfinite().all())

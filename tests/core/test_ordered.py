"""The ordinal likelihood by its formula, and the discretised logistic one by scipy; means and draws that agree with the masses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from polyvae import InputError
from polyvae.core.likelihoods import LIKELIHOODS

pytestmark = pytest.mark.usefixtures("double")


def masses(likelihood, out: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The probability of each value: out [B, F], values [K] -> [K, B, F]."""
    x = values.to(out).view(-1, *[1] * out.ndim).expand(len(values), *out.shape)
    return likelihood.entries(out, x).exp()


def ordinal(levels: int, columns: int = 3):
    torch.manual_seed(2)
    likelihood = LIKELIHOODS["ordinal"]((columns,), levels=levels)
    for parameter in likelihood.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    return likelihood


@pytest.mark.parametrize("levels", [2, 3, 6])
def test_an_ordinal_mass_is_a_difference_of_cumulative_logits(levels):
    likelihood, out = ordinal(levels), 2 * torch.randn(4, 3)
    found = masses(likelihood, out, torch.arange(levels)).detach().numpy()
    theta = likelihood.thresholds.detach().numpy()
    assert theta.shape == (3, levels - 1)
    assert (np.diff(theta) > 0).all()
    for row in range(4):
        for column in range(3):
            below = [0.0] + [1 / (1 + math.exp(float(out[row, column]) - t)) for t in theta[column]] + [1.0]
            assert found[:, row, column] == pytest.approx(np.diff(below))
    mean = (np.arange(levels)[:, None, None] * found).sum(0)
    assert likelihood.mean(out).detach().numpy() == pytest.approx(mean)
    draws = likelihood.sample(out.expand(20_000, 4, 3))
    share = torch.stack([(draws == level).double().mean(0) for level in range(levels)]).numpy()
    assert share == pytest.approx(found, abs=0.018)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_ordinal_levels_start_equally_probable(levels):
    likelihood = LIKELIHOODS["ordinal"]((2,), levels=levels)
    found = masses(likelihood, torch.zeros(1, 2), torch.arange(levels)) * levels
    assert found.detach().numpy() == pytest.approx(np.ones((levels, 1, 2)), rel=0.01)


def test_grades_that_the_input_determines_are_not_drawn_together():
    """A small network before the likelihood, and no latent with noise: mean ranks are the grades after some hundred steps."""
    torch.manual_seed(0)
    grade = torch.arange(60) % 3
    z = (grade - 1 + 0.15 * torch.randn(60))[:, None]
    likelihood = LIKELIHOODS["ordinal"]((1,), levels=3)
    network = torch.nn.Sequential(torch.nn.Linear(1, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.Adam([*network.parameters(), *likelihood.parameters()], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        (-likelihood.log_prob(network(z), grade[:, None].double()).mean()).backward()
        optimizer.step()
    found = likelihood.mean(network(z)).detach()[:, 0]
    assert [float(found[grade == k].mean()) for k in range(3)] == pytest.approx([0, 1, 2], abs=0.1)


def test_ordinal_shapes_broadcast_and_every_parameter_gets_a_gradient():
    likelihood = ordinal(4)
    out, x = torch.randn(2, 5, 3, requires_grad=True), torch.randint(0, 4, (5, 3)).double()
    together = likelihood.log_prob(out, x)
    assert torch.allclose(together, torch.stack([likelihood.log_prob(out[k], x) for k in range(2)]))
    together.sum().backward()
    assert all(bool((parameter.grad != 0).all()) for parameter in likelihood.parameters())
    assert bool((out.grad != 0).all())
    assert LIKELIHOODS["ordinal"]((2, 2), levels=3).entries(
        torch.zeros(5, 2, 2), torch.ones(5, 2, 2)
    ).shape == (5, 2, 2)


def test_ordinal_values_that_cannot_be_are_refused():
    likelihood, seen = LIKELIHOODS["ordinal"]((2,), levels=3), torch.ones(1, 2, dtype=torch.bool)
    assert likelihood.invalid(torch.tensor([[0.0, 2.0]]), seen) == ""
    for value in (3, -1, 0.5):
        expected = (
            f"1 value of 2 that cannot occur, such as {value}; expected ranks, whole numbers from 0 to 2"
        )
        assert likelihood.invalid(torch.tensor([[0.0, float(value)]]), seen) == expected
    for levels in (1, 2.0, "3", True, 1001):
        with pytest.raises(InputError, match=f"'ordinal': got levels={levels!r}"):
            LIKELIHOODS["ordinal"]((2,), levels=levels)
    assert likelihood.features(torch.tensor([0.0, 1.0])).tolist() == [0, 0.5]
    assert likelihood.largest == 2


@pytest.mark.parametrize(("values", "step"), [(256, None), (256, 1.0), (5, 0.5), (2, None)])
@pytest.mark.parametrize("scale", [1e-3, 0.0078, 0.1, "learned", "per_entry"])
def test_the_discretised_logistic_is_scipys(values, step, scale):
    """Masses are differences of scipy's distribution function and sum to 1; the mean is that of the masses to 1e-7 of a step."""
    torch.manual_seed(0)
    likelihood = LIKELIHOODS["discretised_logistic"]((2,), values, step, scale)
    for parameter in likelihood.parameters():
        parameter.data.normal_()
    apart = 1 / (values - 1) if step is None else step
    out = torch.linspace(-0.5, 1.5, 22).view(11, 2)
    k = torch.arange(values)
    found = masses(likelihood, out, k * apart).detach().numpy()
    width = (torch.as_tensor(likelihood.scale) * torch.ones(2)).detach().numpy()
    law = stats.logistic(out.numpy(), width)
    edges = np.concatenate([[-np.inf], (np.arange(1, values) - 0.5) / (values - 1), [np.inf]])
    below = np.stack([law.cdf(edge) for edge in edges])
    assert found == pytest.approx(np.diff(below, axis=0), rel=1e-6, abs=1e-12)
    assert found.sum(0) == pytest.approx(np.ones((11, 2)))
    mean = (k.numpy()[:, None, None] * found).sum(0)
    assert likelihood.mean(out).detach().numpy() / apart == pytest.approx(mean, abs=1e-7)
    draws = likelihood.sample(out.expand(4000, 11, 2)).detach()
    assert likelihood.invalid(draws, torch.ones_like(draws, dtype=torch.bool).detach()) == ""
    spread = np.sqrt(((k.numpy()[:, None, None] - mean) ** 2 * found).sum(0))
    assert (np.abs(draws.mean(0).numpy() / apart - mean) <= 5 * spread / 4000**0.5 + 1e-2).all()
    assert torch.equal(likelihood.features(k * apart), k * apart / (apart * (values - 1)))


def test_the_tails_of_the_discretised_logistic_keep_their_digits_in_float32():
    """Far from the location, log-masses are those of float64; the plain difference of two sigmoids is 0 there."""
    x = (torch.arange(256) / 255).float()[:, None]
    likelihood = LIKELIHOODS["discretised_logistic"]((1,), scale=0.01)
    found = likelihood.entries(torch.zeros(1, dtype=torch.float32), x)
    torch.testing.assert_close(
        found.double(), likelihood.entries(torch.zeros(1), x.double()), rtol=1e-4, atol=1e-4
    )
    assert float(found.min()) < -90
    assert math.isinf(torch.log(torch.sigmoid(torch.tensor(90.5)) - torch.sigmoid(torch.tensor(90.0))))


def test_the_mean_of_a_discretised_logistic_has_a_gradient():
    for scale in (0.002, 0.05):
        likelihood = LIKELIHOODS["discretised_logistic"]((1,), scale=scale)
        out = torch.tensor([[0.41]], requires_grad=True)
        assert torch.autograd.gradcheck(likelihood.mean, (out,), eps=1e-7, atol=1e-4)


def test_discretised_values_that_cannot_be_are_refused():
    likelihood, seen = LIKELIHOODS["discretised_logistic"]((2,)), torch.ones(1, 2, dtype=torch.bool)
    assert likelihood.invalid((torch.tensor([[3.0, 255.0]]) / 255).float(), seen) == ""
    assert "such as 255; expected multiples of 0.00392157 from 0 to 1" in likelihood.invalid(
        torch.tensor([[0.0, 255.0]]), seen
    )
    assert "such as 0.3" in likelihood.invalid(torch.tensor([[0.0, 0.3]]), seen)
    whole = LIKELIHOODS["discretised_logistic"]((2,), step=1)
    assert whole.invalid(torch.tensor([[0.0, 255.0]]), seen) == ""
    assert "such as -1" in whole.invalid(torch.tensor([[0.0, -1.0]]), seen)
    for params in (
        {"values": 1},
        {"values": 2.5},
        {"values": 2**17},
        {"step": 0},
        {"step": True},
        {"scale": 0},
    ):
        with pytest.raises(InputError, match=f"got {next(iter(params))}="):
            LIKELIHOODS["discretised_logistic"]((2,), **params)


def test_a_narrow_level_far_from_zero_keeps_its_digits_in_single_precision():
    """Thresholds near −21, which float32 resolves to 2e-6, and gaps of 1e-6: log of gap · sigmoid' at −21, which is e^−21."""
    likelihood = LIKELIHOODS["ordinal"]((1,), levels=4).float()
    with torch.no_grad():
        likelihood.lowest.fill_(-21.0)
        likelihood.raw_gaps.fill_(-40.0)
    found = likelihood.log_prob(torch.zeros(1, 1, dtype=torch.float32), torch.tensor([[2.0]]))
    assert float(found) == pytest.approx(-21.0 + math.log(1e-6), abs=1e-3)
    found.sum().backward()
    assert torch.isfinite(likelihood.lowest.grad).all()
    assert torch.isfinite(likelihood.raw_gaps.grad).all()

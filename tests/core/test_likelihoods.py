"""Likelihoods against scipy; moments of their draws; entries that were not observed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from polyvae import InputError
from polyvae.core.likelihoods import LIKELIHOODS
from polyvae.core.likelihoods.linear import squares
from tests.helpers.likelihoods import NUMBERS, required

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize(("name", "scipys"), [("normal", stats.norm), ("laplace", stats.laplace)])
@pytest.mark.parametrize("scale", [0.75, "learned", "per_entry"])
def test_continuous_likelihoods_are_scipys(name, scipys, scale):
    likelihood = LIKELIHOODS[name]((2, 3), scale)
    width = np.full((2, 3), 0.75)
    if isinstance(scale, str):
        assert torch.equal(likelihood.scale, torch.ones(() if scale == "learned" else (2, 3)))
        likelihood.raw_scale.data.normal_()
        width = torch.as_tensor(likelihood.scale).detach().numpy() * np.ones((2, 3))
    out, x = torch.randn(4, 5, 2, 3), torch.randn(5, 2, 3)
    expected = scipys(out.numpy(), width).logpdf(x.numpy())
    assert likelihood.log_prob(out, x).detach().numpy() == pytest.approx(expected.sum((-1, -2)))
    assert torch.equal(likelihood.mean(out), out)
    draws = likelihood.sample(torch.zeros(20000, 2, 3)).detach()
    assert stats.kstest(draws[:, 1, 2].numpy(), scipys(0, width[1, 2]).cdf).pvalue > 1e-4


@pytest.mark.parametrize("scale", [0.75, "learned", "per_entry"])
@pytest.mark.parametrize("df", [1.5, 30.0, "learned"])
def test_student_t_is_scipys(scale, df):
    likelihood = LIKELIHOODS["student_t"]((2, 3), scale, df)
    assert df != "learned" or float(likelihood.df.detach()) == pytest.approx(4)
    for parameter in likelihood.parameters():
        parameter.data.normal_()
    width = (torch.as_tensor(likelihood.scale) * torch.ones(2, 3)).detach().numpy()
    law = stats.t(float(likelihood.df.detach()), 0, width)
    out, x = torch.randn(4, 5, 2, 3), 5 * torch.randn(5, 2, 3)
    expected = law.logpdf((x - out).numpy())
    assert likelihood.entries(out, x).detach().numpy() == pytest.approx(expected)
    assert likelihood.log_prob(out, x).detach().numpy() == pytest.approx(expected.sum((-1, -2)))
    assert torch.equal(likelihood.mean(out), out)
    draws = likelihood.sample(torch.zeros(20000, 2, 3)).detach()
    assert (
        stats.kstest(draws[:, 1, 2].numpy(), lambda t: stats.t(law.args[0], 0, width[1, 2]).cdf(t)).pvalue
        > 1e-4
    )


def test_student_t_with_many_degrees_of_freedom_is_normal_in_float32():
    x = torch.linspace(-5, 5, 11, dtype=torch.float32)
    for df in (1e6, 1e12, 1e30):
        found = LIKELIHOODS["student_t"]((11,), 1.0, df).entries(torch.zeros(11, dtype=torch.float32), x)
        torch.testing.assert_close(
            found.double(), torch.as_tensor(stats.norm.logpdf(x.numpy())), rtol=1e-5, atol=1e-4
        )


@pytest.mark.parametrize("name", ["normal", "laplace", "student_t"])
@pytest.mark.parametrize("scale", [0.75, "per_entry"])
def test_standardised_values_have_the_density_of_their_unit(name, scale):
    center, std = np.array([[20240131.0, -3, 0], [5, 1, 2]]), np.array([[300.0, 0.01, 1], [2, 3, 4]])
    plain = LIKELIHOODS[name]((2, 3), scale)
    likelihood = LIKELIHOODS[name]((2, 3), scale, center=center.ravel().tolist(), std=std.ravel().tolist())
    assert not likelihood.state_dict().keys() ^ plain.state_dict().keys()
    out, y = torch.randn(4, 5, 2, 3), torch.randn(5, 2, 3)
    x, observed = y * torch.tensor(std) + torch.tensor(center), torch.rand(5, 2, 3) < 0.7
    assert torch.allclose(likelihood.features(x), y)
    expected = plain.entries(out, y) - torch.tensor(std).log()
    assert torch.allclose(likelihood.entries(out, x), expected)
    assert torch.allclose(likelihood.log_prob(out, x), expected.sum((-1, -2)))
    assert torch.allclose(
        likelihood.log_prob(out, x, observed), torch.where(observed, expected, 0).sum((-1, -2))
    )
    assert torch.allclose(likelihood.mean(out), out * torch.tensor(std) + torch.tensor(center))
    torch.manual_seed(0)
    drawn = plain.sample(out)
    torch.manual_seed(0)
    assert torch.allclose(likelihood.features(likelihood.sample(out)), drawn, atol=1e-6)
    assert not likelihood.takes_linear


@pytest.mark.parametrize(
    "wrong",
    [
        {"std": 0.0},
        {"std": [1.0, -1.0]},
        {"center": [1.0]},
        {"center": "mean"},
        {"center": [1.0, float("nan")]},
    ],
)
def test_centers_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match=f"likelihood: got {next(iter(wrong))}=.*one for each of 2 entries"):
        LIKELIHOODS["normal"]((2,), **wrong)


@pytest.mark.parametrize("df", [1, 0.5, "free", float("inf"), True])
def test_degrees_of_freedom_that_cannot_be_are_refused(df):
    with pytest.raises(InputError, match=f"got df={df!r}; expected a finite number above 1"):
        LIKELIHOODS["student_t"]((2,), 1.0, df)


EXTREME = [
    ("student_t", {"scale": "learned", "df": "learned"}, [-3.0, 0.0, 1e30]),
    ("beta", {}, [1e-30, 0.5, 1 - 6e-8]),
    ("beta_binomial", {"total": 20}, [0.0, 7.0, 20.0]),
    ("ordinal", {"levels": 5}, [0.0, 2.0, 4.0]),
    ("discretised_logistic", {}, [0.0, 0.2, 1.0]),
]


@pytest.mark.parametrize(("name", "params", "values"), EXTREME)
@pytest.mark.parametrize("size", [0.0, 50.0, 1e4, 1e20])
def test_extreme_decoder_outputs_are_finite_in_float32(name, params, values, size):
    """Values, gradients and means are finite, and draws are possible values."""
    likelihood = LIKELIHOODS[name]((3,), **params).float()
    x = torch.tensor([values], dtype=torch.float32)
    for out in (torch.full((1, 3), sign * size, dtype=torch.float32, requires_grad=True) for sign in (-1, 1)):
        total = likelihood.log_prob(out, x)
        total.sum().backward()
        gradients = [out.grad, *(parameter.grad for parameter in likelihood.parameters())]
        assert all(bool(part.isfinite().all()) for part in (total, *gradients, likelihood.mean(out)))
        draws = likelihood.sample(out.detach().expand(200, 3))
        assert likelihood.invalid(draws, torch.ones(200, 3, dtype=torch.bool)) == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_laplace_distance_is_the_absolute_difference(dtype):
    """To the bit, however small, with its gradient: a sign, and 0 at no difference."""
    out = torch.tensor([0.0, 1e-20, -1e-20, 1e-3, -3.0, 7e8], dtype=dtype, requires_grad=True)
    distance = LIKELIHOODS["laplace"]((6,)).distance(out, torch.zeros(6, dtype=dtype))
    assert torch.equal(distance, out.abs())
    distance.sum().backward()
    assert out.grad.tolist() == [0, 1, -1, 1, -1, 1]


def test_bernoulli_is_scipys():
    likelihood = LIKELIHOODS["bernoulli"]((3,))
    out, x = torch.randn(4, 5, 3) * 3, (torch.rand(5, 3) < 0.5).double()
    chance = 1 / (1 + np.exp(-out.numpy()))
    assert likelihood.log_prob(out, x).numpy() == pytest.approx(
        stats.bernoulli(chance).logpmf(x.numpy()).sum(-1)
    )
    assert likelihood.mean(out).numpy() == pytest.approx(chance)
    draws = likelihood.sample(out.expand(5000, -1, -1, -1))
    assert set(draws.flatten().tolist()) == {0, 1}
    assert (np.abs(draws.mean(0).numpy() - chance) <= 5 * np.sqrt(chance * (1 - chance) / 5000) + 1e-3).all()
    assert float(
        likelihood.log_prob(torch.tensor([800.0, -800.0, 0.0]), torch.tensor([1.0, 0.0, 1.0]))
    ) == pytest.approx(-np.log(2))


def test_categorical_is_the_log_softmax_at_its_class():
    likelihood = LIKELIHOODS["categorical"]((2, 4))
    out, classes = torch.randn(3, 5, 2, 4), torch.randint(4, (5, 2))
    x = torch.nn.functional.one_hot(classes, 4).double()
    chance = np.exp(out.numpy()) / np.exp(out.numpy()).sum(-1, keepdims=True)
    expected = np.log(np.take_along_axis(chance, classes.numpy()[None, ..., None].repeat(3, 0), -1))[
        ..., 0
    ].sum(-1)
    assert likelihood.log_prob(out, x).numpy() == pytest.approx(expected)
    assert likelihood.mean(out).numpy() == pytest.approx(chance)
    draws = likelihood.sample(out.expand(4000, -1, -1, -1, -1))
    assert (draws.sum(-1) == 1).all()
    assert (np.abs(draws.mean(0).numpy() - chance) <= 5 * np.sqrt(chance * (1 - chance) / 4000)).all()


@pytest.mark.parametrize("name", sorted(set(NUMBERS) - {"mixed"}))
def test_unobserved_entries_are_absent(name):
    """The likelihood of some entries is that of a datum which has only those; no gradient comes from the others."""
    likelihood = LIKELIHOODS[name]((2, 4), **required(name))
    out = torch.randn(5, *likelihood.output, requires_grad=True)
    x = likelihood.sample(torch.randn(5, *likelihood.output)).detach()
    observed = torch.rand(5, 2, 4) < 0.6
    observed[0] = False
    total = likelihood.log_prob(out, torch.where(observed, x, 1e30), observed)
    joined = {"categorical": -1, "segmentation": -2}.get(name)
    counted = observed if joined is None else observed.all(joined, keepdim=True).expand_as(observed)
    each = likelihood.entries(out, x, observed)
    torch.testing.assert_close(total, (each * counted).sum((-1, -2)))
    assert float(total[0].detach()) == 0
    total.sum().backward()
    assert (out.grad[~counted] == 0).all()
    assert bool(out.grad.isfinite().all())
    assert (
        likelihood.log_prob(out, x, torch.ones_like(observed)).tolist()
        == likelihood.log_prob(out, x).tolist()
    )


def test_values_that_cannot_be_theirs_are_named():
    assert "0 to 1" in LIKELIHOODS["bernoulli"]((2,)).invalid(
        torch.tensor([[0.0, 255.0]]), torch.tensor([[True, True]])
    )
    assert (
        LIKELIHOODS["bernoulli"]((2,)).invalid(torch.tensor([[0.0, 1.0]]), torch.tensor([[True, True]])) == ""
    )
    assert "one-hot" in LIKELIHOODS["categorical"]((2,)).invalid(
        torch.tensor([[0.3, 0.7]]), torch.tensor([[True, True]])
    )
    assert "one-hot" in LIKELIHOODS["categorical"]((2,)).invalid(
        torch.tensor([[1.0, 1.0]]), torch.tensor([[True, True]])
    )
    assert (
        LIKELIHOODS["categorical"]((2,)).invalid(torch.tensor([[0.0, 1.0]]), torch.tensor([[True, True]]))
        == ""
    )
    assert (
        LIKELIHOODS["bernoulli"]((2,)).invalid(torch.tensor([[0.0, 255.0]]), torch.tensor([[True, False]]))
        == ""
    )
    assert "one-hot" in LIKELIHOODS["categorical"]((2,)).invalid(
        torch.tensor([[0.0, 0.0]]), torch.tensor([[True, True]])
    )
    assert (
        LIKELIHOODS["categorical"]((2,)).invalid(torch.tensor([[0.0, 0.0]]), torch.tensor([[True, False]]))
        == ""
    )
    assert (
        LIKELIHOODS["normal"]((2,)).invalid(torch.tensor([[-9.0, 1e9]]), torch.tensor([[True, True]])) == ""
    )


@pytest.mark.parametrize("scale", [0, -1.0, "learnt"])
def test_scales_that_cannot_be_are_refused(scale):
    with pytest.raises(InputError, match=f"scale={scale!r}"):
        LIKELIHOODS["normal"]((2,), scale)


def test_the_offending_value_is_named():
    x = torch.tensor([[0.0, 12.0, 1.5, 3.0]])
    seen = torch.ones_like(x, dtype=torch.bool)
    assert (
        LIKELIHOODS["poisson"]((4,))
        .invalid(x, seen)
        .startswith("1 value of 4 that cannot occur, such as 1.5; ")
    )
    assert (
        LIKELIHOODS["bernoulli"]((4,))
        .invalid(x, seen)
        .startswith("3 values of 4 that cannot occur, such as 12; ")
    )


@pytest.mark.parametrize("scale", [0.05, 0.01, 0.001])
def test_the_distance_of_a_good_draw_among_bad_ones_keeps_its_digits(scale):
    """One of 100 draws of a sample is right, and the others are far away: the sums that cancel are 1e6 times larger."""
    B, K, H, F = 16, 100, 32, 200
    last, hidden = torch.nn.Linear(H, F).float(), torch.randn(K * B, H).float()
    x = (last(hidden[:B]) + scale * torch.randn(B, F)).detach().float()
    likelihood = LIKELIHOODS["normal"]((F,), scale=scale)
    assert likelihood.needs_no_output(last, len(hidden), B)
    with torch.no_grad():
        found = likelihood.log_prob_linear(hidden.view(K, B, H), last, x)[0].double()
        out = torch.nn.functional.linear(hidden[:B].double(), last.weight.double(), last.bias.double())
        expected = likelihood.log_prob(out, x.double())
    # Where c is the mean, the error is 9.7 nats at the scale .001 and .05 at .01.
    assert (found - expected).abs().max() < 0.02


def test_distances_of_good_predictions_keep_their_digits():
    """The reference of each sample is its nearest prediction: large distances of other predictions cost no digits."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 200)
    near = torch.randn(8, 6)
    hidden = torch.stack([near, *(near + 300 * torch.randn(8, 6) for _ in range(3))]).flatten(0, 1)
    rows = torch.arange(8).repeat(4)
    with torch.no_grad():
        x = layer(near) + 0.01 * torch.randn(8, 200)
        predicted = hidden.double() @ layer.weight.double().T + layer.bias.double()
        exact = (x.double().index_select(0, rows) - predicted).square().sum(-1)
        found = squares(hidden, layer, x, rows, nearest=True)
    assert torch.allclose(found[:8].double(), exact[:8], rtol=1e-2)

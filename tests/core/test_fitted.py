"""Priors fitted after training: the densities they say, better than a Gaussian, stored without loss, for every model with a shared code."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy import stats

from polyvae import MODELS, InputError, MultimodalData, build, evaluate, fit_prior
from polyvae.config import read_config
from polyvae.core.fitted import FITTED, FittedFlow, FittedMixture
from polyvae.metrics.context import posterior_samples
from polyvae.runs import fitted_prior
from polyvae.testing import default_worlds, example_data
from polyvae.training.directory import RunDirectory
from polyvae.utils.files import save_tensors

KINDS = {"gmm": lambda z: FittedMixture.fit(z, 2), "flow": lambda z: FittedFlow.fit(z, epochs=40)}


def two_hills(n: int) -> torch.Tensor:
    """Half around (−3, 4), half around (3, 4), in both the covariance [[.25, .15], [.15, .25]]: [n, 2]."""
    side = torch.where(torch.arange(n) % 2 == 0, -3.0, 3.0)
    first = side + 0.5 * torch.randn(n)
    return torch.stack([first, 4 + 0.6 * (first - side) + 0.4 * torch.randn(n)], -1)


def some(name):
    """An untrained model in evaluation mode, and data for it."""
    world = default_worlds(lambda specs: build(name, specs, latent=2))[0]
    model = build(name, world, latent=2).eval()
    data = {key: x.float() for key, x in example_data(model, 64).items()}
    return model, MultimodalData(data)


@pytest.fixture(scope="module")
def priors():
    torch.manual_seed(3)
    z = two_hills(2000)
    return {kind: fit(z) for kind, fit in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fitted_density_integrates_to_one(priors, kind):
    """By the trapezoid rule far beyond the splines' domain, which ends 5 standard deviations out; and in one dimension."""
    one, two = torch.linspace(-40, 40, 801), torch.linspace(-3, 12, 151)
    at = torch.stack(torch.meshgrid(one, two, indexing="ij"), -1)
    total = torch.trapezoid(torch.trapezoid(priors[kind].log_prob(at).exp(), two), one)
    assert float(total) == pytest.approx(1, abs=0.01)


def test_a_flow_over_one_column_integrates_to_one_and_is_the_density_of_its_draws(double):
    prior = FittedFlow.fit(two_hills(1000)[:, :1].double(), epochs=10)
    z = torch.linspace(-60, 60, 240001)[:, None]
    density = prior.log_prob(z).exp().numpy()
    cdf = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * 0.0005)])
    assert cdf[-1] == pytest.approx(1, abs=1e-4)
    draws = prior.draw(4000)[:, 0].numpy()
    assert stats.kstest(draws, lambda x: np.interp(x, z[:, 0].numpy(), cdf)).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_two_hills_are_told_better_than_by_one_gaussian(priors, kind):
    """Held-out data: a Gaussian of their own moments loses about log 2 and more; draws fall into the valley as rarely as the data."""
    fresh, drawn = two_hills(4000), priors[kind].draw(4000)
    gaussian = (
        stats.multivariate_normal(fresh.mean(0).numpy(), np.cov(fresh.numpy().T)).logpdf(fresh.numpy()).mean()
    )
    truth = stats.multivariate_normal([0, 0], [[0.25, 0.15], [0.15, 0.25]]).logpdf(
        (fresh - torch.stack([fresh[:, 0].sign() * 3, torch.full((4000,), 4.0)], -1)).numpy()
    ).mean() - np.log(2)
    ours = float(priors[kind].log_prob(fresh).mean())
    assert gaussian + 0.6 < ours < truth + 0.02
    assert ours > truth - 0.15
    valley = float(
        (drawn[:, 0].abs() < 1.25).double().mean()
    )  # 3.5 of the hills' standard deviations from both tops
    assert valley < 0.05  # one Gaussian: 0.32
    assert float((drawn[:, 0] > 0).double().mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_stored_is_the_same_density(kind, dtype, tmp_path):
    """Through safetensors and JSON; the global generator is left as it was."""
    prior = (
        FittedMixture.fit(two_hills(200).to(dtype), 2)
        if kind == "gmm"
        else FittedFlow.fit(two_hills(200).to(dtype), 2, epochs=2)
    )
    run = RunDirectory(tmp_path)
    save_tensors(run.fitted_prior, prior.state_dict(), prior.settings)
    before = torch.get_rng_state()
    again = fitted_prior(run)
    assert torch.equal(torch.get_rng_state(), before)
    z = two_hills(50).to(dtype)
    assert torch.equal(again.log_prob(z), prior.log_prob(z))
    torch.manual_seed(1)
    expected = prior.draw(5)
    torch.manual_seed(1)
    assert torch.equal(again.draw(5), expected)
    assert (again.settings, again.summary) == (prior.settings, prior.summary)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_with_a_shared_code_is_sampled_from_a_flow(name):
    """What is decoded is the flow's z, and the flow is over the posterior's draws. Without a shared code: an error of one line."""
    model, data = some(name)
    if not model.shared:
        with pytest.raises(InputError, match="no shared latent"):
            fit_prior(model, data, kind="flow")
        with pytest.raises(
            InputError,
            match=r"over 2 columns; expected the 0 shared columns of .*; sample from its own prior",
        ):
            model.sample(3, FittedFlow(torch.zeros(2), torch.ones(2)))
        return
    prior = fit_prior(model, data, kind="flow", transforms=1)
    assert torch.allclose(prior.loc, posterior_samples(model, data).mean(0))
    torch.manual_seed(0)
    z = prior.draw(200)
    expected = model.decode(z, model.prior.w(z).rsample(None, "w", "BW"))
    torch.manual_seed(0)
    made = model.sample(200, prior)
    assert all(torch.equal(made[key], x) for key, x in expected.items())


def test_a_prior_of_another_model_is_refused():
    model, _ = some("mmvae+")
    with pytest.raises(InputError, match="over 7 columns; expected the"):
        model.sample(3, FittedFlow(torch.zeros(7), torch.ones(7)))


def test_a_flow_cannot_be_fitted_to_little_or_from_other_tensors():
    with pytest.raises(InputError, match="got 19 posterior draws; expected at least 20"):
        FittedFlow.fit(torch.randn(19, 2))
    with pytest.raises(InputError, match="no shared latent"):
        FittedFlow.fit(torch.zeros(50, 0))
    prior = FittedFlow(torch.zeros(2), torch.ones(2))
    with pytest.raises(InputError, match="do not fit this version's flow"):
        FittedFlow.restore(prior.settings | {"transforms": 2}, prior.state_dict())


@pytest.mark.parametrize(
    ("kind", "settings", "tensors", "says"),
    [
        ("gmm", {"kind": "vine"}, {}, "unknown kind of fitted prior 'vine'; known: gmm, flow"),
        ("gmm", {"kind": ["gmm"]}, {}, "unknown kind of fitted prior ['gmm']"),
        ("gmm", {}, {"loc": None}, "fitted prior: got no 'loc'; expected weights, loc, scale_tril"),
        (
            "gmm",
            {},
            {"weights": torch.ones(3) / 3},
            "loc (2, 2) and scale_tril (2, 2, 2); expected [C], [C, D] and [C, D, D]",
        ),
        ("gmm", {}, {"loc": torch.zeros(2)}, "got weights (2,), loc (2,) and scale_tril (2, 2, 2)"),
        ("gmm", {"covariance": None}, {}, "got covariance=None; expected 'full' or 'diag'"),
        ("flow", {}, {"scale": None}, "fitted prior: got no 'scale'; expected loc, scale"),
        ("flow", {}, {"scale": torch.ones(3)}, "got loc (2,) and scale (3,); expected [D] both"),
        ("flow", {"transforms": "3"}, {}, "got transforms='3'; expected a whole number, 1 or more"),
        ("flow", {"transforms": 0}, {}, "got transforms=0; expected a whole number, 1 or more"),
        (
            "flow",
            {"transforms": 2},
            {},
            "got tensors that do not fit this version's flow; expected those of the same zuko version",
        ),
    ],
)
def test_a_stored_prior_that_is_wrong_is_refused_in_one_line(priors, kind, settings, tensors, says, tmp_path):
    """The file, what is wrong, and how to make it again. None: left out."""
    run = RunDirectory(tmp_path)
    kept = {key: x for key, x in (priors[kind].state_dict() | tensors).items() if x is not None}
    save_tensors(
        run.fitted_prior,
        kept,
        {key: x for key, x in (priors[kind].settings | settings).items() if x is not None},
    )
    with pytest.raises(InputError) as caught:
        fitted_prior(run)
    assert str(caught.value).startswith(f"{run.fitted_prior}: ")
    assert says in str(caught.value)
    assert "; fit it again with: polyvae evaluate " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "rows", "least"), [("flow", 19, 20), ("gmm", 1, 2)])
def test_too_few_rows_for_a_prior_cost_the_prior_and_not_the_evaluation(kind, rows, least, capsys):
    model, data = some("mmvae")
    result = evaluate(
        model,
        data,
        train=data.rows(slice(0, rows)),
        metrics=["quality"],
        fitted_prior={"kind": kind},
        draws=20,
    )
    assert (result.prior, result["fitted_prior"]) == (None, None)
    said = [line for line in "".join(capsys.readouterr()).splitlines() if "prior" in line]
    assert said == [
        f"no fitted prior: {kind!r} needs {least} training samples or more, got {rows}; it is left out"
    ]


def test_without_zuko_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    for call in (
        lambda: FittedFlow(torch.zeros(2), torch.ones(2)),
        lambda: evaluate(*some("mmvae"), fitted_prior={"kind": "flow"}, show=False),
    ):
        with pytest.raises(InputError, match=r"pip install 'polyvae\[flow\]'") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_kind_is_a_setting():
    assert read_config(None, ["evaluate.fitted_prior.kind=flow"]).evaluate.fitted_prior.kind == "flow"
    with pytest.raises(
        InputError, match=r"evaluate.fitted_prior.kind: got 'flo'; expected 'gmm', 'flow' or 'mld'"
    ):
        read_config(None, ["evaluate.fitted_prior.kind=flo"])
    assert set(FITTED) == {*KINDS, "mld"}
    with pytest.raises(InputError, match="unknown kind 'flo'"):
        fit_prior(*some("mmvae"), kind="flo")


def test_a_diagonal_mixture_has_the_scales_of_the_data():
    """Scales, not variances: for one component these are the standard deviations, apart from what is added for stability."""
    z = torch.tensor([2.0, -1.0]) + torch.tensor([0.1, 3.0]) * torch.randn(500, 2)
    prior = FittedMixture.fit(z, 1, "diag")
    expected = (z.var(0, unbiased=False) + 1e-4).sqrt()
    assert torch.allclose(prior.scale_tril[0], expected.diag(), rtol=1e-4)
    assert prior.settings["covariance"] == "diag"


def test_a_flow_keeps_its_best_parameters():
    """Few draws, many epochs: later parameters are worse for the draws that were held out."""
    z = torch.randn(60, 2)
    held = z[torch.randperm(60, generator=torch.Generator().manual_seed(0))[:6]]
    values = [
        float(FittedFlow.fit(z, 1, epochs=epochs, patience=100).log_prob(held).mean())
        for epochs in (5, 20, 40)
    ]
    assert values == sorted(values)

"""The relational model and HMVAE, in which z generates the private latents: the truth in linear worlds."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from polyvae import Batch, build
from polyvae.cli.commands import models
from polyvae.testing import example_batch, example_data, example_model
from tests.helpers.hand import WORLDS
from tests.helpers.levels import LEVELS, assert_moments, two_levels

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize(("name", "blind"), LEVELS)
def test_the_likelihood_is_the_truth(name, blind):
    world, model = two_levels(name, "rough", blind)
    batch = world.every_mask()
    estimate = model.log_marginal(batch, K=4000)
    error, spread = np.abs(estimate.value.numpy() - world.log_p(batch)), estimate.standard_error.numpy()
    assert (error <= 5 * spread).all(), (error / spread).round(2)
    assert (spread < 0.1).all(), spread.round(3)


@pytest.mark.parametrize("experts", ["exact", "rough"])
@pytest.mark.parametrize("options", [{}, {"K": 3}, {"beta": 2.5}])
@pytest.mark.parametrize(("name", "blind"), LEVELS)
def test_a_bound_stays_below_the_truth(name, blind, options, experts):
    world, model = two_levels(name, experts, blind, **options)
    with torch.no_grad():
        value = model(world.every_mask(800)).value.view(7, 800)
    mean, spread = value.mean(1).numpy(), (value.std(1) / 800**0.5).numpy()
    gap = world.log_p(world.every_mask()) - mean
    assert (gap >= -5 * spread).all(), gap.round(3)
    if "beta" not in options:
        assert (gap < 2).all(), gap.round(3)  # a number far below would pass for a bound whatever it is


@pytest.mark.parametrize(("name", "blind"), LEVELS)
def test_resampled_imputation_is_the_gaussian_conditional(name, blind):
    world, model = two_levels(name, "rough", blind)
    x = world.data(2)
    assert_moments(
        model.generate(Batch.of(x).observe("b", "c"), K=400, resample=True), world, x, ("b", "c"), 300
    )


@pytest.mark.parametrize(("name", "blind"), LEVELS)
def test_samples_follow_the_relation_of_codes(name, blind):
    """The covariance of a sample's modalities is that of the model: what z tells the codes is not forgotten."""
    world, model = two_levels(name, "rough", blind)
    made = model.sample(20000)
    a, b = (made[key].numpy() - world.b[m] for m, key in enumerate("ab"))
    cross = (a[:, :, None] * b[:, None]).mean(0)
    spread = np.sqrt(np.outer(a.var(0), b.var(0)) * 2 / 20000)
    assert (np.abs(cross - world.A[0] @ world.A[1].T) <= 5 * spread).all()


@pytest.mark.parametrize("world", ["plain", "roles"])
@pytest.mark.parametrize("name", ["relational", "hmvae"])
def test_a_step_asks_once_what_z_tells_the_codes(name, world):
    """One call of every g_m, for the prior and the posterior of w together, on mixed and on complete data."""
    model = example_model(partial(build, name, latent=2, K=2, hidden=(5,)), WORLDS[world]())
    calls: Counter[str] = Counter()
    for key, net in model.modalities.items():
        net.parts["top_down"].register_forward_hook(partial(lambda key, *_: calls.update([key]), key))
    for batch in (example_batch(model), Batch.of(example_data(model, 3))):
        calls.clear()
        model(batch).value.sum().backward()
        assert calls == dict.fromkeys(model.modalities, 1)


def test_the_list_of_models_says_what_is_experimental(capsys):
    models()
    lines = dict(line.split("\t", 1) for line in capsys.readouterr().out.splitlines())
    assert {name for name, rest in lines.items() if "experimental" in rest} == {"relational", "hmvae"}

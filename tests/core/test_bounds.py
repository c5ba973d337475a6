"""From log-weights to bounds: formulas by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from polyvae import InputError
from polyvae.core.bounds import check_objective, elbo, estimate, iwae, log_over_components, over_components

pytestmark = pytest.mark.usefixtures("double")


def test_objectives_are_their_formulas():
    log_weight = torch.randn(5, 3, 2) * 4
    assert elbo(log_weight).numpy() == pytest.approx(log_weight.numpy().mean(0))
    assert iwae(log_weight).numpy() == pytest.approx(logsumexp(log_weight.numpy(), 0) - np.log(5))
    for name, same in (("elbo", elbo), ("iwae", iwae), ("dreg", iwae)):
        assert torch.equal(estimate(name, log_weight, {}, 1.0), same(log_weight))


def test_iwae_weighs_the_gradient_by_the_normalised_weights():
    log_weight = (torch.randn(4, 3) * 2).requires_grad_()
    iwae(log_weight).sum().backward()
    torch.testing.assert_close(log_weight.grad, log_weight.detach().softmax(0))


@pytest.mark.parametrize("dead", [torch.nan, torch.inf, -torch.inf, 1e300])
def test_dead_views_have_no_influence(dead):
    """Neither on the value nor on the gradient; where no view is live, the value is exactly 0."""
    weights = torch.tensor([[0.25, 1.0, 0.0], [0.75, 0.0, 0.0]])
    active = weights > 0
    given = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    for function, expected in (
        (over_components, [0.25 + 2.25, 2.0, 0.0]),
        (log_over_components, [float(np.log(0.25 * np.e + 0.75 * np.exp(3))), 2.0, 0.0]),
    ):
        value = torch.where(active, given, dead).requires_grad_()
        out = function(weights, value)
        assert out.tolist() == pytest.approx(expected)
        assert float(out[2].detach()) == 0
        out.sum().backward()
        assert value.grad[active].isfinite().all()
        assert float(value.grad[active][1]) == 1  # the only view of its datum
    assert weights.tolist() == [[0.25, 1.0, 0.0], [0.75, 0.0, 0.0]]


def test_weights_of_views_get_gradients():
    weights = torch.tensor([[0.25], [0.75]], requires_grad=True)
    value = torch.tensor([[1.0], [3.0]])
    over_components(weights, value).sum().backward()
    assert weights.grad[:, 0].tolist() == [1.0, 3.0]
    weights.grad = None
    log_over_components(weights, value).sum().backward()
    total = 0.25 * np.e + 0.75 * np.exp(3)
    assert weights.grad[:, 0].tolist() == pytest.approx([np.e / total, np.exp(3) / total])


def test_objectives_that_are_not_are_named():
    with pytest.raises(InputError, match="vae: unknown objective 'iwea'; did you mean 'iwae'"):
        check_objective("vae", "iwea", 1)
    with pytest.raises(InputError, match="K=0; expected a whole number, 1 or more"):
        check_objective("vae", "iwae", 0)

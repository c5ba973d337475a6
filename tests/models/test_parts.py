"""What several models share."""

from __future__ import annotations

import pytest

from polyvae import build
from polyvae.testing import plain_world

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("name", ["cmvae", "idmvae"])
def test_what_is_set_on_a_model_that_holds_another_reaches_it(name):
    """β, K and max_rows are one number in two places; what the holder adds stays its own."""
    model = build(name, plain_world(), latent=2)
    model.beta, model.K, model.max_rows = 0.5, 3, 7
    assert (model.held.beta, model.held.K, model.held.max_rows) == (0.5, 3, 7)
    assert model.options | {"beta": 0.5, "K": 3, "max_rows": 7} == model.options
    model.train(False)
    assert not model.held.training
    assert not {"beta", "K", "max_rows"} & set(vars(model))

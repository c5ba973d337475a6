"""The free combination: the formula, and the gradients of the papers that it contains."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from polyvae import build
from polyvae.core import noise
from polyvae.testing import example_batch, example_model, roles_world
from polyvae.testing.worlds import record, step
from tests.helpers.hand import WORLDS, Hand, auxiliary_scales, over_k, product

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize(
    ("subsets", "cross", "name", "options"),
    [
        ("singles", "auxiliary", "mmvae+", {}),
        ("singles", "prior", "mmvae+", {"cross": "prior"}),
        ("singles", "posterior", "mmvae+", {"cross": "posterior"}),
        ("pairs", "prior", None, {}),
        ("powerset", "auxiliary", None, {}),
    ],
)
@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_composed(subsets, cross, name, options, objective, monkeypatch):
    """By hand; and where it is a paper's, that model's bound on the same draws."""
    monkeypatch.setitem(WORLDS, "private", lambda: tuple(replace(spec, private=2) for spec in roles_world()))
    hand = Hand("private", "composed", subsets=subsets, cross=cross, objective=objective, K=2, beta=1.5)
    model = hand.model
    sizes = {"singles": (1,), "pairs": (1, 2), "powerset": (1, 2, 3)}[subsets]
    views = [subset for size in sizes for subset in combinations(model.encoded, size)]
    r_scale = auxiliary_scales(model)

    def log_weight(parts: dict, subset: tuple, k: int) -> float:
        v = views.index(subset)
        z = parts[subset][0] + parts[subset][1] * hand.draws["z"][k, v, hand.b]
        total = hand.beta * (
            hand.log(z, 0, 1)
            - logsumexp([hand.log(z, *part) for part in parts.values()])
            + np.log(len(parts))
        )
        for n in hand.A:
            span = model.columns[n]
            own = n in hand.w and (n in subset or cross == "posterior")
            loc, scale = hand.w[n] if own else (0, r_scale[span])
            w = loc + scale * hand.draws["w"][k, v, hand.b, span]
            if own:
                total += hand.beta * (hand.log(w, 0, 1) - hand.log(w, loc, scale))
            if model.specs[n].role != "input":
                total += hand.log_x(n, z, w)
        return total

    def value() -> float:
        parts = {
            subset: product([hand.z[m] for m in subset]) for subset in views if set(subset) <= set(hand.S)
        }
        return float(
            np.mean([over_k(objective, [log_weight(parts, subset, k) for k in range(2)]) for subset in parts])
        )

    hand.check(value)
    if name:
        paper = build(name, model.specs, latent=2, K=2, beta=1.5, objective=objective, **options).double()
        paper.load_state_dict(model.state_dict())
        with noise.feed({key: torch.as_tensor(draw) for key, draw in hand.draws.items()}):
            torch.testing.assert_close(
                paper(hand.batch, hand.warm).value, hand.bound.value, rtol=1e-10, atol=1e-10
            )


@pytest.mark.parametrize("cross", ["auxiliary", "prior", "posterior"])
def test_the_free_combination_has_the_gradient_of_the_paper_it_is(cross):
    """With singles and the doubly reparametrised gradient it is MMVAE+, whose own gradient is the authors'."""
    specs = [replace(spec, private=2) for spec in roles_world()]
    options = {"latent": 2, "K": 3, "beta": 1.5, "objective": "dreg", "cross": cross}
    model = example_model(lambda specs: build("composed", specs, subsets="singles", **options), specs)
    paper = build("mmvae+", specs, family="normal", scale_map="softplus", **options).double()
    paper.load_state_dict(model.state_dict())
    batch = example_batch(model)
    draws = record(model, batch)
    (value, gradients), (other, expected) = step(model, batch, draws), step(paper.train(), batch, draws)
    torch.testing.assert_close(value, other, rtol=1e-10, atol=1e-10)
    for key, gradient in expected.items():
        torch.testing.assert_close(gradients[key], gradient, rtol=1e-10, atol=1e-10, msg=key)

"""IDMVAE: the authors' terms, under masks as well, and MMVAE+ without them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from polyvae import Batch, build
from polyvae.core import noise
from polyvae.models.mmvaeplus import MMVAEPlus
from polyvae.testing import example_batch, example_model, plain_world
from tests.helpers.golden import SIZE, D, W, close, data_of, eps, golden_specs, leaves, raw, recorded, wave

pytestmark = pytest.mark.filterwarnings("error")


class Affine(torch.nn.Module):
    def __init__(self, of, m, in_shape, out) -> None:
        super().__init__()
        self.matrix = of[f"{m}.encoder"]

    def forward(self, x):
        z, z_log, w, w_log = torch.tanh(x @ self.matrix.T).split([D, D, W, W], -1)
        return torch.cat([z, raw(z_log.exp()), w, raw(w_log.exp())], -1)


@recorded("idmvae")
def test_idmvae_adds_the_authors_terms(case):
    """Their c and g are the batch means of ours, and so are the gradients of 80 c + 20 g; the rest of the bound is MMVAE+'s."""
    M, B = case["M"], case["B"]
    of = {key: leaf for key, leaf in leaves(M, B, D, W).items() if "_" not in key}
    of |= {f"{m}.encoder": torch.nn.Parameter(wave((2 * (D + W), SIZE), 3.3 + m)) for m in range(M)}
    specs = [replace(spec, encoder=partial(Affine, of, m)) for m, spec in enumerate(golden_specs(of, M, W))]
    model = build("idmvae", specs, latent=D).double()
    batch = Batch.of({f"m{m}": x for m, x in enumerate(data_of(M, B))})
    draws = {"augmentation.z": eps(0.15, M, B, D), "augmentation.w": eps(0.85, B, M * W)}
    with noise.feed(draws):
        c, g = model.regularisers(batch, model.experts(batch))
    close(c.mean(), case["cross_view"], "c")
    close(g.mean(), case["augmentation"], "g")
    (80 * c + 20 * g).mean().backward()
    assert set(case["gradients"]) == set(of)
    for key, leaf in of.items():
        close(leaf.grad, case["gradients"][key], f"gradient of {key}")
    with noise.record() as drawn:
        value, terms = model(batch)
    with noise.feed(drawn):
        plain = MMVAEPlus.bound(model, batch, model.experts(batch), 1.0).value
    close(plain - 80 * terms["cross_view"] - 20 * terms["augmentation"], value.detach(), "bound")


@torch.no_grad()
def test_the_terms_of_idmvae_see_what_was_observed():
    """c by hand under masks: pairs of observed modalities, negatives from data that have both, one over |A| − 1 for each datum."""
    model = example_model(lambda specs: build("idmvae", specs, latent=2, temperature=0.5), plain_world())
    batch = example_batch(model)
    c, g = model.regularisers(batch, model.experts(batch))
    mean = model.experts(batch).z.loc.numpy()
    mean = mean / np.linalg.norm(mean, axis=-1, keepdims=True).clip(1e-12)
    for b in range(batch.size):
        A = [m for m in range(4) if batch.mask[m, b]]
        total = 0.0
        for i, j in permutations(A, 2):
            others = [
                (m, n) for n in range(batch.size) if batch.mask[i, n] and batch.mask[j, n] for m in (i, j)
            ]
            for m, o in ((i, j), (j, i)):
                similar = [mean[m, b] @ mean[k, n] / 0.5 for k, n in others if (k, n) != (m, b)]
                total += (logsumexp(similar) - mean[m, b] @ mean[o, b] / 0.5) / 2
        assert float(c[b]) == pytest.approx(total / max(1, len(A) - 1), rel=1e-9, abs=1e-12)
        assert (float(g[b]) == 0) == (not A)


def test_idmvae_without_its_terms_is_mmvaeplus():
    specs = plain_world()
    model = example_model(
        lambda modalities: build("idmvae", modalities, latent=2, cross_view=0.0, augmentation=0.0), specs
    )
    plus = build("mmvae+", specs, latent=2, beta=2.5).double()
    plus.load_state_dict(model.state_dict())
    batch = example_batch(model)
    with noise.record() as draws:
        value = model(batch, 0.5).value
    with noise.feed(draws):
        torch.testing.assert_close(plus(batch, 0.5).value, value)

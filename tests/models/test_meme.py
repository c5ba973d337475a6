"""MEME: the formula, its bound, pseudo-inputs, the label decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm

from polyvae import Batch, InputError, build
from polyvae.core import distributions, noise
from polyvae.core.distributions import softplus_scale
from polyvae.testing import (
    example_batch,
    example_model,
    plain_world,
)
from polyvae.testing.worlds import record, step
from tests.helpers.hand import WORLDS, Hand, kl_normal
from tests.helpers.worlds import World

pytestmark = pytest.mark.filterwarnings("error")


def meme(**options):
    return example_model(lambda specs: build("meme", specs, latent=2, pseudo=4, **options), plain_world()[:2])


@pytest.mark.parametrize("of", [(0, 1), (2, 3)])
@pytest.mark.parametrize(("variant", "K"), [("sound", 1), ("sound", 3), ("published", 2)])
def test_meme(of, variant, K, monkeypatch):
    """Both directions where both were observed; the pseudo-inputs' mixture as prior where one was."""
    monkeypatch.setitem(WORLDS, "pair", lambda: tuple(plain_world()[m] for m in of))
    hand = Hand("pair", "meme", variant=variant, K=K, alpha=3.0, beta=1.5, pseudo=4)
    with torch.no_grad():
        nets = list(hand.model.modalities.values())
        loc, raw = zip(
            *(net.encoder(net.get_parameter("parts.pseudo.0")).tensor_split(2, -1) for net in nets),
            strict=True,
        )
        scale = [softplus_scale(x) for x in raw]

    def value() -> float:
        total = 0.0
        for s in hand.S:
            t = 1 - s
            z = [hand.z[s][0] + hand.z[s][1] * eps for eps in hand.draws["z"][:, s, hand.b]]
            log_s = [hand.log_x(s, z_k, np.zeros(0)) for z_k in z[:K]]
            log_q = [hand.log(z_k, *hand.z[s]) for z_k in z[:K]]
            if t not in hand.S:
                log_p = [
                    logsumexp([norm.logpdf(z_k, loc[t][i], scale[t][i]).sum() for i in range(4)]) - np.log(4)
                    for z_k in z[:K]
                ]
                total += np.mean([log_s[k] - hand.beta * (log_q[k] - log_p[k]) for k in range(K)])
                continue
            q_t = np.exp([hand.log_x(t, z_k, np.zeros(0)) for z_k in z])
            (mean_s, width_s), (mean_t, width_t) = hand.z[s], hand.z[t]
            for k in range(K):
                if variant == "published":
                    q_t_s = (q_t[k] + q_t[K:].sum()) / 11
                    kl = kl_normal((mean_s - mean_t) / width_t, width_s / width_t)
                else:
                    q_t_s = q_t.mean()
                    kl = log_q[k] - hand.log(z[k], mean_t, width_t)
                total += (
                    q_t[k] / q_t_s * (log_s[k] - np.log(q_t[k]) - hand.beta * kl) + 3.0 * np.log(q_t_s)
                ) / K
        return total / len(hand.S)

    hand.check(value)
    assert hand.draws["z"].shape[0] == K + 10 * (variant == "published")


def test_meme_with_exact_experts_is_known():
    """q(z | s) = p(s | z) p(z) / p(s), so log p(s | z) + log p(z | t) − log q(z | s) − log q(t | z) = log p(s) − log p(t), whatever z is:

    L(s, t) = log p(s) − log p(t) + log (1/K) Σ_k p(t | z_k) with α = β = 1, which is log p(s | t) for many samples, and below it for few.
    """
    world = World(experts="exact")
    specs = world.modalities()[:2]
    data = world.data(6)
    pair = {name: data[name] for name in ("a", "b")}
    batch = Batch.of(pair)
    every = Batch.of(data)
    log_p = {given: world.log_p(every.observe(*given)) for given in (("a",), ("b",), ("a", "b"))}
    model = build("meme", specs, latent=1, pseudo=2, K=7, alpha=1.0).double()
    with torch.no_grad(), noise.record() as draws:
        value = model(batch).value.numpy()
    expected = np.zeros(6)
    for v, s, t in ((0, "a", "b"), (1, "b", "a")):
        with torch.no_grad():
            q = model.modalities[s].encode(pair[s]).z
            z = q.loc + q.scale * draws["z"].value[:, v]
            cross = model.modalities[t].log_prob(pair[t], z).numpy()
        expected += (log_p[s,] - log_p[t,] + logsumexp(cross, 0) - np.log(7)) / 2
    np.testing.assert_allclose(
        value, expected, rtol=1e-6, atol=1e-7
    )  # log p is by quadrature, scales by a map and back
    truth = log_p["a", "b"] - (log_p["a",] + log_p["b",]) / 2  # ½ [log p(a | b) + log p(b | a)]
    with torch.no_grad():
        few = model(Batch.of({name: x.repeat(2000, 1) for name, x in pair.items()})).value.view(2000, 6)
        assert (few.mean(0).numpy() <= truth + 5 * few.std(0).numpy() / 2000**0.5).all()
        model.K = 4000
        np.testing.assert_allclose(model(batch).value, truth, atol=0.1)


def test_the_value_of_meme_is_below_the_importance_bound_of_the_conditional_for_every_draw():
    """With a_k the log-weights of p(s | t) and ŵ = softmax of log q(t | z): L = Σ ŵ (a − log ŵ) − log K ≤ log (1/K) Σ e^a (Gibbs)."""
    model, K = meme(K=5, alpha=1.0), 5
    batch = example_batch(model)
    with torch.no_grad(), noise.record() as draws:
        value = model(batch).value
        q, weights = model.experts(batch).z, [spec.weight for spec in model.specs]
        bounds = []
        for s, t in ((0, 1), (1, 0)):
            z = q[s].loc + q[s].scale * draws["z"].value[:, s]
            log_x = [
                weight * net.log_prob(batch.data[name], z, batch.entries.get(name))
                for weight, (name, net) in zip(weights, model.modalities.items(), strict=True)
            ]
            bounds.append((log_x[s] + q[t].log_prob(z) - q[s].log_prob(z)).logsumexp(0) - np.log(K))
    both = batch.mask.all(0)
    assert int(both.sum()) == 1
    assert (value <= torch.stack(bounds).mean(0) + 1e-9)[both].all()


@pytest.mark.parametrize("alpha", [1.0, 10.0])
def test_the_label_decoder_of_meme_learns_from_alpha_minus_one(alpha):
    """∇ of −(1/K) Σ w_k log q_k + α log (1/K) Σ q_k without a gradient through w is (α − 1)/K Σ w_k ∇ log q_k: at α = 1 it is nothing."""
    model = meme(K=3, alpha=alpha)
    with torch.no_grad():
        batch = Batch.of(example_batch(model).data).rows(slice(0, 5))
    with noise.record() as draws:
        model(batch).value.sum().backward()
    nets, q, objective = list(model.modalities.values()), model.experts(batch).z, 0.0
    for s, t in ((0, 1), (1, 0)):
        z = (q[s].loc + q[s].scale * draws["z"].value[:, s]).detach()
        log_s, log_t = (
            model.specs[m].weight * nets[m].log_prob(batch.data[nets[m].spec.name], z) for m in (s, t)
        )
        w = log_t.softmax(0).detach()
        objective = objective + (w * (log_s + (alpha - 1) * log_t)).sum() / 2
    decoders = [parameter for net in nets for parameter in net.decoder.parameters()]
    for parameter, gradient in zip(decoders, torch.autograd.grad(objective, decoders), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_pseudo_inputs_start_as_data_and_make_the_prior():
    """p_u after ``start`` is the experts' mean over the data of both modalities; its draws have its mean and variance."""
    model = meme()
    data = Batch.of({name: x.repeat(2, *[1] * (x.ndim - 1)) for name, x in example_batch(model).data.items()})
    model.start(data)
    with torch.no_grad():
        codes = [net.encode(data.data[name][:4]).z for name, net in model.modalities.items()]
        loc, scale = (torch.cat([getattr(code, key) for code in codes]) for key in ("loc", "scale"))
        prior = model.prior.z()
        z = torch.linspace(-3, 3, 10, dtype=torch.float64)[:, None, None].expand(-1, 1, 2)
        expected = logsumexp(norm.logpdf(z[:, None, 0], loc, scale).sum(-1), 1) - np.log(8)
        np.testing.assert_allclose(prior.log_prob(z)[:, 0], expected, rtol=1e-10)
        torch.manual_seed(0)
        drawn = model.prior.draw(40_000)
    mean, variance = loc.mean(0), (scale.square() + loc.square()).mean(0) - loc.mean(0).square()
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=5 * float(variance.max() / 40_000) ** 0.5)
    torch.testing.assert_close(drawn.var(0), variance, rtol=0.05, atol=0)


@pytest.mark.parametrize("variant", ["sound", "published"])
def test_pseudo_inputs_can_be_looked_at_one_by_one(variant, monkeypatch):
    """Bound and gradients, those of the pseudo-inputs among them, are what they are where all are looked at together."""
    model = meme(K=3, variant=variant)
    batch = example_batch(model)
    draws = record(model, batch)
    value, gradients = step(model, batch, draws)
    monkeypatch.setattr(distributions, "_PIECE", 1)
    again, others = step(model, batch, draws)
    torch.testing.assert_close(again, value, rtol=1e-12, atol=0)
    assert all(
        bool((net.get_parameter("parts.pseudo.0").grad != 0).any()) for net in model.modalities.values()
    )
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-10, atol=1e-12, msg=name)


def test_too_few_data_to_start_from_are_refused():
    model = meme()
    with pytest.raises(
        InputError,
        match=r"got 3 observed samples of modality .* for 4 pseudo-inputs; expected at least as many",
    ):
        model.start(Batch.of(example_batch(model).data).rows(slice(0, 3)))

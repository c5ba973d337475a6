"""MEME and the contrastive term: their formulas by hand, worlds in which they are known exactly, and the traps."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from test_distributions import Largest
from test_formulas import WORLDS, Hand, kl_normal
from worlds import World

from polyvae import Batch, InputError, build
from polyvae.core import distributions, noise
from polyvae.core.distributions import softplus_scale
from polyvae.models.contrastive import Contrastive
from polyvae.testing import (
    example_batch,
    example_data,
    example_model,
    law_nested,
    plain_world,
    roles_world,
    uneven,
)
from polyvae.testing.worlds import record, step

pytestmark = pytest.mark.filterwarnings("error")


# ---- meme ------------------------------------------------------------------------------------------------------------------------


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


# ---- contrastive -----------------------------------------------------------------------------------------------------------------

BASES = [
    ("mmvae", {}),
    ("mmvae", {"unrelated": "cubo"}),
    ("mvae", {"negatives": 1}),
    ("jmvae", {"K": 1}),
    ("mmvae+", {"negatives": 9}),
]


@torch.no_grad()
@pytest.mark.parametrize(
    "world", [plain_world(), roles_world(), plain_world()[1:3]], ids=["four", "roles", "two"]
)
@pytest.mark.parametrize(("base", "options"), BASES, ids=[f"{base}-{options}" for base, options in BASES])
def test_contrastive(world, base, options):
    """One pair of modalities, one pair of data, one view and one sample at a time."""

    def make(specs):
        return build(
            "mmvae-contrastive", specs, latent=2, gamma=0.6, **{"K": 2, "negatives": 2, **options}, base=base
        )

    model = example_model(make, uneven(make, world))
    batch, names, D = example_batch(model), list(model.modalities), model.latent
    if len(world) == 2:
        batch = Batch.of(
            example_data(model, 7),
            torch.tensor([[1, 0, 1, 0, 1, 1, 1], [1, 0, 0, 1, 1, 1, 1]], dtype=torch.bool),
        )
    with noise.record() as held, torch.no_grad():
        torch.manual_seed(4)
        plain = model.held(batch, 0.7).value
    with noise.record() as draws:
        torch.manual_seed(4)
        value, terms = model(batch, 0.7)
    (z_key,), w_key = (
        {key for key in draws.keys() - held.keys() if key.startswith("z")},
        max(key for key in draws if key.startswith("w")),
    )
    eps, eps_w = draws[z_key].value, draws[w_key].value
    position = 0

    def estimate(m: int, i: int, n: int, j: int, power: int) -> float:
        """1/power log of the mean of (p / q)^power."""
        mask = torch.tensor([[k in (m, n)] for k in range(len(names))])
        data = {name: batch.data[name][[{m: i, n: j}.get(k, 0)]] for k, name in enumerate(names)}
        entries = {name: x[[{m: i, n: j}.get(names.index(name), 0)]] for name, x in batch.entries.items()}
        pair = model.admit(Batch.of(data, mask, entries))
        experts = model.held.experts(pair)
        q = model.held.posterior(pair, experts)
        each = []
        for rank, v in enumerate(
            q.active[:, 0].nonzero()[:, 0].tolist()
        ):  # views that do not count draw nothing
            for k in range(model.K):
                z = q.components.loc[v] + q.components.scale[v] * eps[k, rank, position]
                q_w = model.held.private(pair, experts, z)
                w = q_w.loc + q_w.scale * eps_w[k, rank, position]
                log_x = 0.0
                for o in (m, n):
                    net, span = model.modalities[names[o]], model.columns[o]
                    log_x += model.specs[o].weight * float(
                        net.log_prob(
                            pair.data[names[o]], torch.cat([z, w[:, span]], -1), pair.entries.get(names[o])
                        )
                    )
                    log_x += float((model.prior.w(z).columns(w) - q_w.columns(w))[:, span].sum())
                density = logsumexp(
                    [
                        float(q.components[u].log_prob(z)) + np.log(float(q.weights[u, 0]))
                        for u in range(len(q.weights))
                        if q.weights[u, 0] > 0
                    ]
                )
                log_weight = log_x + float(model.prior.z().log_prob(z)) - density
                each.append(power * log_weight + np.log(float(q.weights[v, 0]) / model.K))
        return logsumexp(each) / power

    power = 2 if model.unrelated == "cubo" else 1
    totals, counts = np.zeros(batch.size), np.zeros(batch.size)
    for a, b in combinations(sorted(names), 2):
        m, n = names.index(a), names.index(b)
        roles = {model.specs[m].role, model.specs[n].role}
        if "source" in roles or roles == {"target"}:
            continue
        rows = [i for i in range(batch.size) if batch.mask[m, i] and batch.mask[n, i]]
        counts[rows] += 1
        log_p = {}
        for s in range(min(model.negatives + 1, len(rows))):
            for r, i in enumerate(rows):
                j = rows[(r + s) % len(rows)]
                log_p[i, j] = estimate(m, i, n, j, power if s else 1)
                position += 1
        for i in rows:
            first, second = (
                [x for (p, j), x in log_p.items() if p == i != j],
                [x for (j, p), x in log_p.items() if p == i != j],
            )
            assert len(first) == len(second) == min(model.negatives, len(rows) - 1)
            if first:
                totals[i] += log_p[i, i] - (logsumexp(first) + logsumexp(second)) / 2
    expected = totals / counts.clip(1)
    assert position == eps.shape[2]
    assert eps.shape[3] == D
    np.testing.assert_allclose(terms["contrast"], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(value.numpy(), plain.numpy() + 0.6 * expected, rtol=1e-9, atol=1e-9)
    assert (np.abs(expected) > 1e-3).sum() == (counts > 0).sum() > 2


@pytest.mark.parametrize("negatives", [5, 50])
def test_modalities_that_have_nothing_in_common_earn_only_what_is_usual(negatives):
    """p(x_m, x_n) = p(x_m) p(x_n): c_i = ½ Σ over both of log p(x^i) − log Σ_{j≠i} p(x^j), exactly, where the posterior is the prior."""
    world = World(experts="exact")
    world.A = [0 * A for A in world.A]
    model = world.model("mmvae-contrastive", negatives=negatives, K=1, base_options={"family": "normal"})
    batch = Batch.of(world.data(6))
    with torch.no_grad():
        c = model(batch).terms["contrast"].numpy()
    alone = np.stack([world.log_p(batch.observe(name)) for name in world.names])  # [M, B]
    unusual = np.stack([alone[:, i] - logsumexp(np.delete(alone, i, 1), axis=1) for i in range(6)], 1)
    np.testing.assert_allclose(c, unusual.mean(0), rtol=1e-6)  # the mean over pairs of ½ (a + b)


def test_of_a_batch_of_copies_the_contrast_is_what_was_counted():
    """All pairs are equally likely: c = −log of the number of partners, the least that tells nothing."""
    world = World(experts="exact")
    world.A = [0 * A for A in world.A]
    model = world.model("mmvae-contrastive", negatives=3, K=1, base_options={"family": "normal"})
    batch = Batch.of({name: x[:1].expand(7, -1) for name, x in world.data(1).items()})
    np.testing.assert_allclose(model(batch).terms["contrast"], -np.log(3), rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("base", ["mmvae", "mvae"])
def test_with_many_samples_the_contrast_is_that_of_the_true_likelihoods(base):
    world = World(experts="exact" if base == "mmvae" else "factor")
    model = world.model(
        "mmvae-contrastive",
        base=base,
        negatives=9,
        K=4000,
        base_options={"family": "normal"} if base == "mmvae" else {},
    )
    data = world.data(4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 1]], dtype=torch.bool)
    batch = Batch.of(data, mask)
    expected, counts = np.zeros(4), np.zeros(4)
    for m, n in combinations(range(3), 2):
        rows = [i for i in range(4) if mask[m, i] and mask[n, i]]
        keys = [(i, j) for i in rows for j in rows]
        mixed = {
            name: x[[i for i, _ in keys]] if k == m else x[[j for _, j in keys]]
            for k, (name, x) in enumerate(data.items())
        }
        log_p = dict(
            zip(keys, world.log_p(Batch.of(mixed).observe(world.names[m], world.names[n])), strict=True)
        )
        for i in rows:
            counts[i] += 1
            first, second = [log_p[i, j] for j in rows if j != i], [log_p[j, i] for j in rows if j != i]
            expected[i] += log_p[i, i] - (logsumexp(first) + logsumexp(second)) / 2
    torch.manual_seed(0)
    np.testing.assert_allclose(model(batch).terms["contrast"], expected / counts, atol=0.05)


@torch.no_grad()
def test_cubo_is_never_below_iwae_so_it_never_flatters():
    model = example_model(lambda specs: build("mmvae-contrastive", specs, latent=2, K=3), plain_world())
    batch = example_batch(model)
    with noise.record() as draws:
        plain = model(batch).terms["contrast"]
    model.unrelated = "cubo"
    with noise.feed(draws):
        assert (model(batch).terms["contrast"] <= plain + 1e-12).all()


@pytest.mark.parametrize("base", ["mmvae", "mvae", "mmvae+"])
def test_contrastive_is_nested_where_its_base_is(base):
    class Nested(Contrastive):
        facts = Contrastive.facts._replace(nested=True)

    for world in (plain_world(), roles_world()):
        law_nested(lambda specs: Nested(specs, base=base, latent=2, K=2, negatives=2), world)


def test_a_pair_costs_its_two_views_and_its_two_values():
    """K = 2 samples of 2 views, each decoded as 2 modalities, for every pair; of 4 wide modalities no value is gathered for a pair."""
    specs = [replace(spec, shape=(3000,), likelihood="normal") for spec in plain_world()]
    specs = [replace(spec, params={"scale": 1.0, "hidden": (6,)}) for spec in specs]
    model = example_model(lambda specs: build("mmvae-contrastive", specs, latent=2, K=2, negatives=3), specs)
    batch = Batch.of(example_data(model, 5))
    rows: dict[str, list[int]] = {name: [] for name in model.modalities}
    for name, net in model.modalities.items():
        net.decoder.register_forward_pre_hook(lambda _, inputs, name=name: rows[name].append(len(inputs[0])))
    with noise.record() as draws, Largest() as made:
        model(batch).value.sum().backward()
    pairs = 6 * 5 * (1 + 3)  # of modalities, data, partners
    assert draws["z#2"].value.shape == (2, 2, pairs, 2)
    assert list(rows.values()) == [[2 * 4 * 5, 2 * 2 * pairs // 2]] * 4
    assert made.numbers < pairs * 3000 / 4


# ---- what is refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "options", "message"),
    [
        ("meme", 3, {}, "expected exactly two, each with role='both'"),
        ("meme", 2, {"variant": "publish"}, "unknown variant 'publish'; did you mean 'published'"),
        ("meme", 2, {"alpha": -1.0}, "got alpha=-1.0; expected a number, 0 or more"),
        ("meme", 2, {"pseudo": 0}, "pseudo=0"),
        ("mmvae-contrastive", 2, {"base": "mmva"}, "unknown base 'mmva'; did you mean"),
        ("mmvae-contrastive", 2, {"unrelated": "elbo"}, r"unknown unrelated 'elbo'; .*known: iwae, cubo"),
        ("mmvae-contrastive", 2, {"gamma": -1.0}, "got gamma=-1.0; expected a weight"),
        ("mmvae-contrastive", 2, {"negatives": 0}, "negatives=0"),
        (
            "mmvae-contrastive",
            2,
            {"base": "mvae", "base_options": {"subset": 2}},
            r"unknown key 'subset' of base_options .*'subsets'",
        ),
        ("mmvae-contrastive", 2, {"base_options": {"beta": 2.0}}, "unknown key 'beta' of base_options"),
    ],
)
def test_what_cannot_be_built_is_refused(name, count, options, message):
    with pytest.raises(InputError, match=message):
        build(name, plain_world()[:count], latent=2, **options)


def test_modalities_without_a_role_in_it_are_refused():
    a, b, c, _ = plain_world()
    with pytest.raises(InputError, match="expected exactly two, each with role='both'"):
        build("meme", (a, replace(b, role="target")), latent=2)
    with pytest.raises(InputError, match="expected two that are decoded, one of them encoded"):
        build(
            "mmvae-contrastive",
            (replace(a, role="source"), replace(b, role="target"), replace(c, role="target")),
            latent=2,
        )


def test_too_few_data_to_start_from_are_refused():
    model = meme()
    with pytest.raises(
        InputError, match=r"got 3 observed data of modality .* for 4 pseudo-inputs; expected at least as many"
    ):
        model.start(Batch.of(example_batch(model).data).rows(slice(0, 3)))

"""The contrastive objective: the formula over several base models, and what it rewards."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from polyvae import Batch, build
from polyvae.core import noise
from polyvae.testing import (
    example_batch,
    example_data,
    example_model,
    law_nested,
    plain_world,
    roles_world,
    uneven,
)
from tests.helpers.memory import Largest
from tests.helpers.worlds import World

pytestmark = pytest.mark.filterwarnings("error")

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
                q_w = model.held.private(pair, experts, z, model.held.prior.w(z))
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
        if "input" in roles or roles == {"target"}:
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
    for world in (plain_world(), roles_world()):
        make = partial(build, "mmvae-contrastive", base=base, latent=2, K=2, negatives=2)
        assert make(world).facts.nested
        law_nested(make, world)


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


def test_what_is_set_on_the_model_reaches_its_base():
    model = build("mmvae-contrastive", plain_world(), latent=2)
    model.beta, model.K, model.max_rows = 0.5, 3, 7
    assert (model.held.beta, model.held.K, model.held.max_rows) == (0.5, 3, 7)
    assert model.options["beta"] == 0.5

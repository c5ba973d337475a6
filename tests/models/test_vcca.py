"""VCCA-private and BiVCCA: the formulas, the truth in linear worlds, the traps."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product as every

import numpy as np
import pytest
import torch

from polyvae import Batch, build
from polyvae.core import noise
from polyvae.core.vae import MultimodalVAE
from polyvae.testing import check_model, plain_world, roles_world
from tests.helpers.hand import WORLDS, Hand, codes_of, decodes, kl_normal
from tests.helpers.worlds import World, fixed

pytestmark = pytest.mark.filterwarnings("error")

TWO = {"plain": 0, "target": 1, "input": 2}  # the worlds of two modalities


OF_TWO = (plain_world()[:2], roles_world()[::2], roles_world()[1::2])


def one_of(monkeypatch, world: str, private: int | None) -> None:
    """A world of two modalities, for ``Hand``; ``private`` columns of what is encoded, None: the model's default."""
    specs = [spec if spec.role == "target" else replace(spec, private=private) for spec in OF_TWO[TWO[world]]]
    monkeypatch.setitem(WORLDS, world, lambda: tuple(specs))


def elbo_by_hand(hand: Hand, q: tuple[np.ndarray, np.ndarray], v: int) -> float:
    total = -hand.beta * (kl_normal(*q) + sum(kl_normal(*hand.w[m]) for m in hand.S))
    for k in range(2):
        z = q[0] + q[1] * hand.draws["z"][k, v, hand.b]
        total += sum(hand.log_x(n, z, codes_of(hand, n, (k, v))) for n in hand.A if decodes(hand, n)) / 2
    return total


@pytest.mark.parametrize("world", TWO)
def test_vcca_private(world, monkeypatch):
    """z of the first modality's expert, of the prior where that is missing."""
    one_of(monkeypatch, world, None)
    hand = Hand(world, "vcca-private", K=2, beta=1.5)
    unit = np.zeros(2), np.ones(2)
    hand.check(lambda: elbo_by_hand(hand, hand.z[0] if 0 in hand.S else unit, 0))


@pytest.mark.parametrize("world", TWO)
@pytest.mark.parametrize("private", [0, 2])
def test_bivcca(world, private, monkeypatch):
    one_of(monkeypatch, world, private)
    hand = Hand(world, "bivcca", K=2, beta=1.5, mu=0.3)

    def value() -> float:
        share = {m: (0.3, 0.7)[m] for m in hand.S}
        return sum(
            share[m] * elbo_by_hand(hand, hand.z[m], hand.model.encoded.index(m)) for m in hand.S
        ) / sum(share.values())

    hand.check(value)


def linear(world: World, name: str, **options) -> MultimodalVAE:
    """The model over a linear world's first two modalities; VCCA's second encoder says nothing of z."""
    specs = world.modalities()[:2]
    if name == "vcca-private":
        weight, bias = (part[2 * world.latent :] for part in world.encoder(1))
        specs[1] = (
            replace(specs[1], encoder=partial(fixed, weight, bias))
            if world.private
            else replace(specs[1], role="target")
        )
    return build(
        name,
        [replace(spec, private=0 if spec.role == "target" else world.private) for spec in specs],
        latent=world.latent,
        **options,
    ).double()


def three_masks(world: World, copies: int = 1) -> tuple[Batch, Batch]:
    """One datum of which a, b and both were observed: for the model, and for the world, which has a third that is never observed."""
    mask = torch.tensor([[True, False, True], [False, True, True]]).repeat_interleave(copies, 1)
    x = {name: value.expand(mask.shape[1], -1) for name, value in world.data(1).items()}
    return Batch.of({name: x[name] for name in ("a", "b")}, mask), Batch.of(
        x, torch.cat([mask, torch.zeros_like(mask[:1])])
    )


def gap(world: World, x: dict[str, np.ndarray], loc: np.ndarray, scale: np.ndarray) -> float:
    """KL(q || p(u | x)) of the latents u = (z, w_a, w_b), by the textbook: p(u | x) has precision 1 + Σ_m L_m' L_m / s_m²."""
    size = len(loc)
    precision, pull = np.eye(size), np.zeros(size)
    for m, name in enumerate(("a", "b")):
        if name in x:
            L = np.zeros((len(world.b[m]), size))
            L[:, : world.latent] = world.A[m]
            at = world.latent + m * world.private
            L[:, at : at + world.private] = world.C[m]
            precision, pull = (
                precision + L.T @ L / world.s[m] ** 2,
                pull + L.T @ (x[name] - world.b[m]) / world.s[m] ** 2,
            )
    away = np.linalg.solve(precision, pull) - loc
    trace = (np.diag(precision) * scale**2).sum() + away @ precision @ away - size
    return 0.5 * float(trace - np.linalg.slogdet(precision)[1] - 2 * np.log(scale).sum())


SHAPES = [
    ("vcca-private", 1, {}),
    ("vcca-private", 0, {}),
    ("bivcca", 0, {"mu": 0.3}),
    ("bivcca", 1, {"mu": 0.3}),
]


@pytest.mark.parametrize(("name", "private", "options"), SHAPES)
@pytest.mark.parametrize("experts", ["exact", "rough"])
@pytest.mark.parametrize("beta", [1.0, 2.5])
@torch.no_grad()
def test_the_bound_is_the_truth_less_what_the_posterior_is_off(name, private, options, experts, beta):
    """log p(x) − E L = Σ_v μ_v [KL(q_v || p(u | x)) + (β − 1) KL(q_v || p(u))], u = (z, w).

    For one view the ELBO is log p(x) − KL(q || p(u | x)), and β charges the KL to the prior β − 1 times more. In a linear world the
    log-likelihood is quadratic in u, and to average over noise of ±1, in all combinations of signs, is exact for quadratic functions.
    That shows at once, for every mask (b alone: q(z) = p(z) in VCCA), that L is below log p(x).
    """
    world = World(private, experts=experts)
    signs = torch.tensor(list(every([-1.0, 1.0], repeat=3)), dtype=torch.float64)  # [K, 3]: z, w_a, w_b
    model = linear(world, name, beta=beta, K=8, **options)
    batch, seen = three_masks(world)
    W, V = len(model.owner), 2 if name == "bivcca" else 1
    draws = {
        "z": signs[:, None, None, :1].expand(8, V, 3, 1),
        "w": signs[:, None, None, 1:][..., :W].expand(8, V, 3, W),
    }
    with noise.feed(draws):
        value = model(batch).value.numpy()
    experts_of = model.experts(batch)
    for row, (names, views) in enumerate(
        [("a", [(0, 1.0)]), ("b", [(1, 1.0)]), ("ab", [(0, 0.3), (1, 0.7)])]
    ):
        x = {key: batch.data[key][row].numpy() for key in names}
        off = 0.0
        for m, share in views if name == "bivcca" else [(0, 1.0)]:
            parts = [
                (experts_of.z[m, row].loc.numpy(), experts_of.z[m, row].scale.numpy()),
                (experts_of.w[row].loc.numpy(), experts_of.w[row].scale.numpy()),
            ]
            loc, scale = (np.concatenate(part) for part in zip(*parts, strict=True))
            off += share * (gap(world, x, loc, scale) + (beta - 1) * kl_normal(loc, scale))
        assert off > -1e-9
        if not batch.mask[model.encoded, row].any():  # a target alone: it counts nothing
            assert value[row] == 0
            continue
        assert value[row] == pytest.approx(world.log_p(seen.rows(slice(row, row + 1)))[0] - off, abs=1e-7), (
            names
        )


@pytest.mark.parametrize(("name", "private", "options"), SHAPES)
def test_the_likelihood_is_the_truth(name, private, options):
    """Within 5 standard errors, for every mask."""
    world = World(private)
    batch, seen = three_masks(world)
    estimate = linear(world, name, **options).log_marginal(batch, K=4000)
    error, spread = np.abs(estimate.value.numpy() - world.log_p(seen)), estimate.standard_error.numpy()
    assert (error <= 5 * spread).all(), (error / spread).round(2)
    assert (spread < 0.1).all(), spread.round(3)


@torch.no_grad()
def test_exact_experts_of_the_first_modality_make_its_bound_exact():
    """log p(x) where x alone was observed, without private codes."""
    world = World(experts="exact")
    batch, seen = three_masks(world)
    with noise.feed(
        {"z": torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 3, 1), "w": torch.zeros(2, 1, 3, 0)}
    ):
        value = linear(world, "vcca-private", K=2)(batch).value
    assert float(value[0]) == pytest.approx(world.log_p(seen)[0], abs=1e-6)


@torch.no_grad()
def test_the_second_view_tells_nothing_of_z():
    """Whatever y is, or whether it is there; from y alone, x is a sample of its prior."""
    world = World(private=1)
    model = linear(world, "vcca-private").eval()
    batch, _ = three_masks(world)
    first = batch.rows(torch.tensor([2, 2]))
    other = Batch.of({"a": first.data["a"], "b": first.data["b"] + 5})
    assert torch.equal(model.embed(first), model.embed(other))
    assert torch.equal(model.embed(first), model.embed(first.observe("a")))
    assert torch.equal(model.embed(first.observe("b")), torch.zeros(2, 1, dtype=torch.float64))
    assert not torch.equal(model.embed(first, private=True), model.embed(other, private=True))
    made = model.generate(first.observe("b"), K=8000)["a"][:, 0].numpy()
    variance = np.diag(world.A[0] @ world.A[0].T + world.C[0] @ world.C[0].T)
    assert (np.abs(made.mean(0) - world.b[0]) <= 5 * np.sqrt(variance / 8000)).all()
    assert (np.abs(made.var(0) / variance - 1) <= 5 * np.sqrt(2 / 8000)).all()


@torch.no_grad()
def test_bivcca_draws_from_both_views_by_their_weights():
    world = World(experts="exact")
    model = linear(world, "bivcca", mu=0.8)
    x = Batch.of({name: value for name, value in world.data(1).items() if name != "c"})
    made = model.generate(x, K=8000)["b"][:, 0, 0].numpy()
    (m, v), (n, u) = (world.conditional(world.data(1), (name,), "b") for name in ("a", "b"))
    mean, other = float(m[0, 0]), float(n[0, 0])
    variance = 0.8 * v[0] + 0.2 * u[0] + 0.16 * (mean - other) ** 2
    assert abs(made.mean() - (0.8 * mean + 0.2 * other)) <= 5 * np.sqrt(variance / 8000)


@pytest.mark.parametrize("world", TWO)
def test_bivcca_obeys_the_laws_with_private_codes(world):
    specs = OF_TWO[TWO[world]]
    check_model(
        "bivcca",
        modalities=[replace(spec, private=size) for spec, size in zip(specs, (3, 1), strict=True)],
        latent=2,
    )

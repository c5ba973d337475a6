"""VCCA-private, bi-VCCA and MFM: their formulas by hand, how far the bounds stay below the truth, and the traps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product as every

import numpy as np
import pytest
import torch
from scipy.stats import norm
from test_formulas import WORLDS, Hand, kl_normal, product
from test_models_b import decodes, joint_by_hand, kl
from worlds import GRID, World, fixed

from polyvae import Batch, InputError, Modality, build
from polyvae.core import noise
from polyvae.core.vae import MultimodalVAE
from polyvae.testing import check_model, example_data, example_model, plain_world, roles_world

pytestmark = pytest.mark.filterwarnings("error")
TWO = {"plain": 0, "target": 1, "source": 2}  # the worlds of two modalities
OF_TWO = (plain_world()[:2], roles_world()[::2], roles_world()[1::2])


def one_of(monkeypatch, world: str, private: int | None) -> None:
    """A world of two modalities, for ``Hand``; ``private`` columns of what is encoded, None: the model's default."""
    specs = [spec if spec.role == "target" else replace(spec, private=private) for spec in OF_TWO[TWO[world]]]
    monkeypatch.setitem(WORLDS, world, lambda: tuple(specs))


def codes_of(hand: Hand, n: int, strip: tuple[int, int]) -> np.ndarray:
    """w_n of one sample and view: the encoder's where there is one, the prior's elsewhere."""
    eps = hand.draws["w"][*strip, hand.b, hand.model.columns[n]]
    loc, scale = hand.w.get(n, (np.zeros_like(eps), np.ones_like(eps)))
    return loc + scale * eps


# ---- vcca-private and bivcca: the formulas ---------------------------------------------------------------------------------------


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


# ---- the truth -------------------------------------------------------------------------------------------------------------------


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


# ---- vcca-private and bivcca: the traps ------------------------------------------------------------------------------------------


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


A, B = plain_world()[:2]


@pytest.mark.parametrize(
    ("name", "specs", "options", "message"),
    [
        ("vcca-private", [A], {}, "vcca-private: got 1 modalities; expected exactly 2"),
        ("vcca-private", plain_world(), {}, "vcca-private: got 4 modalities; expected exactly 2"),
        ("bivcca", plain_world()[:3], {}, "bivcca: got 3 modalities; expected exactly 2"),
        (
            "vcca-private",
            [replace(A, role="target"), B],
            {},
            "vcca-private: got the target 'rna.counts' as the first modality",
        ),
        (
            "vcca-private",
            [A, replace(B, role="source")],
            {},
            "vcca-private: got 'values' with role='source' and private=None",
        ),
        (
            "vcca-private",
            [A, replace(B, private=0)],
            {},
            "vcca-private: got 'values' with role='both' and private=0",
        ),
        ("bivcca", [A, B], {"mu": 1.0}, "bivcca: got mu=1.0; expected a number between 0 and 1"),
        ("bivcca", [A, B], {"mu": "0.5"}, "bivcca: got mu='0.5'; expected a number"),
        (
            "mfm",
            [A, replace(B, role="target", private=2)],
            {},
            "mfm: got the target 'values' with private=2; expected 0",
        ),
        ("mfm", [A, B], {"kernel": "publshed"}, "mfm: unknown kernel 'publshed'; .*published"),
        ("mfm", [A, B], {"surrogate": -1.0}, "mfm: got surrogate=-1.0; expected a number, 0 or more"),
    ],
)
def test_what_cannot_be_built_is_said_at_construction(name, specs, options, message):
    with pytest.raises(InputError, match=f"^{message}[^\n]*$"):
        build(name, specs, **options)


# ---- mfm: the formula ------------------------------------------------------------------------------------------------------------


def by_quadrature(of: Callable[[np.ndarray], np.ndarray]) -> float:
    """E f(v), v standard normal."""
    return float((of(GRID) * norm.pdf(GRID)).sum() * (GRID[1] - GRID[0]))


def kernel(a: np.ndarray, b: np.ndarray, published: bool) -> float:
    """The authors' is written as it is in their code: the mean of the squares, divided by their number."""
    squares = (a - b) ** 2
    return (
        float(np.exp(-squares.mean() / len(a))) if published else float(np.exp(-squares.sum() / (2 * len(a))))
    )


def share_by_hand(u: np.ndarray, others: list[np.ndarray], published: bool) -> float:
    """E_{u'} k(u, u') − 2 E_v k(u, v) + E_{v, v'} k(v, v'): products over columns of one-dimensional integrals; v − v' ~ N(0, 2)."""
    if not others or not len(u):
        return 0.0
    D = len(u)
    width = D**2 if published else 2 * D
    to_prior = np.prod([by_quadrature(lambda v, c=c: np.exp(-((c - v) ** 2) / width)) for c in u])
    within = by_quadrature(lambda v: np.exp(-2 * v**2 / width)) ** D
    return float(np.mean([kernel(u, other, published) for other in others]) - 2 * to_prior + within)


@pytest.mark.parametrize("world", ["plain", "roles"])
@pytest.mark.parametrize("published", [False, True])
def test_mfm(world, published):
    """By loops over data, modalities and samples; Φ of the random part by the textbook's product of normals."""
    hand = Hand(
        world,
        "mfm",
        K=2,
        beta=1.5,
        surrogate=0.3,
        joint_width=5,
        kernel="published" if published else "scaled",
    )
    sources = hand.model.encoded
    codes = []  # of each datum: of z (None) and of each m, K samples
    for b in range(hand.batch.size):
        hand.at(b)
        q = joint_by_hand(hand) if hand.S else None
        here = {} if q is None else {None: [q[0] + q[1] * hand.draws["z"][k, 0, b] for k in range(2)]}
        codes.append(here | {m: [codes_of(hand, m, (k, 0)) for k in range(2)] for m in hand.S})

    def value() -> float:
        b, q = hand.b, joint_by_hand(hand)
        size = int(hand.draws["subset.size"][0, b] * (len(hand.S) - 1)) + 1
        part = sorted(hand.S, key=lambda m: hand.draws["subset"][0, sources.index(m), b])[:size]
        total = -0.3 * kl(q, product([hand.z[m] for m in part]))
        for k in range(2):
            z = codes[b][None][k]
            total += sum(hand.log_x(n, z, codes_of(hand, n, (k, 0))) for n in hand.A if decodes(hand, n)) / 2
            for key in codes[b]:
                others = [row[key][k] for c, row in enumerate(codes) if c != b and key in row]
                total -= hand.beta * share_by_hand(codes[b][key][k], others, published) / 2
        return total

    hand.check(value)


def test_two_points_by_hand():
    """Two data at ±a, one column, v = 1: among exp(−2a²), to the prior √½ exp(−a²/4), the prior's own √⅓.

    ∫ exp(−(a − v)²/2) N(v; 0, 1) dv = √(2π) N(a; 0, 2) = √½ exp(−a²/4), and for a ~ N(0, 1) that is √(2π) N(0; 0, 3) = √⅓.
    """
    model = build("mfm", plain_world()[:2], latent=1)
    a = torch.tensor([[0.9], [-0.9], [50.0]])
    share = model._discrepancy(a, torch.tensor([True, True, False]))
    expected = np.exp(-2 * 0.81) - 2 * np.sqrt(1 / 2) * np.exp(-0.81 / 4) + np.sqrt(1 / 3)
    assert share.tolist() == pytest.approx([expected, expected, 0.0], abs=1e-6)
    assert model._discrepancy(a, torch.tensor([True, False, False])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["scaled", "published"])
def test_the_discrepancy_is_unbiased_and_zero_for_the_prior_only(kind):
    """Its mean over batches of 8 data: 0 for codes from N(0, I), for N(1, 4 I) what quadrature says of the two densities."""
    model = build("mfm", plain_world()[:2], latent=3, kernel=kind)
    u = torch.randn(4000, 8, 3, dtype=torch.float64)
    here = torch.ones(8, dtype=torch.bool)
    width = 9 if kind == "published" else 6
    for loc, scale in ((0.0, 1.0), (1.0, 2.0)):
        each = model._discrepancy(loc + scale * u, here).mean(-1)
        within, across, prior = (
            by_quadrature(lambda t, at=at, s=s: np.exp(-((at + s * t) ** 2) / width)) ** 3
            for at, s in ((0, scale * 2**0.5), (loc, (1 + scale**2) ** 0.5), (0, 2**0.5))
        )
        assert abs(float(each.mean()) - (within - 2 * across + prior)) <= 5 * float(each.std()) / 4000**0.5
    assert within - 2 * across + prior > 0.01


# ---- mfm: the traps --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_labels_are_told_by_z_alone():
    """Their decoder has no other input, and what they say of a datum does not change with the private codes."""
    model = example_model(partial(build, "mfm", latent=2), roles_world()).eval()
    label = model.modalities["type"]
    assert label.private == 0
    assert len(model.owner) == 6  # of the three that are encoded
    z, w = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    assert torch.equal(model.decode(z, w)["type"], model.decode(z, w + 1)["type"])


def test_the_surrogate_teaches_experts_and_leaves_the_codes_alone():
    """With nothing but γ in the bound, complete data move the experts of z, and not the joint network."""
    model = example_model(
        partial(build, "mfm", latent=2, beta=0.0, joint_width=5),
        [replace(spec, weight=0.0) for spec in plain_world()],
    )
    model(Batch.of(example_data(model, 60))).value.sum().backward()  # so many that no modality is never drawn
    assert all(bool((net.encoder[-1].bias.grad[:4] != 0).any()) for net in model.modalities.values())
    for module in (model.joint, *(net.parts["joint"] for net in model.modalities.values())):
        assert all(p.grad is None or bool((p.grad == 0).all()) for p in module.parameters())


def test_it_learns_labels_from_what_was_observed_and_its_codes_become_the_priors():
    """A class seen in both inputs, half of the labels missing: told from both, by the surrogate from one; z's moments are N(0, I)'s."""
    draws = torch.Generator().manual_seed(0)
    label = torch.randint(3, (600,), generator=draws)
    centre = 2 * torch.randn(2, 3, 4, generator=draws)
    data = {
        name: centre[m, label] + 0.5 * torch.randn(600, 4, generator=draws) for m, name in enumerate("ab")
    }
    data["label"] = torch.nn.functional.one_hot(label, 3).float()[:, None]
    mask = torch.ones(3, 600, dtype=torch.bool)
    mask[2, :300] = False
    batch, small = Batch.of(data, mask), {"hidden": (32,)}
    specs = [
        Modality("a", (4,), params=small),
        Modality("b", (4,), params=small),
        Modality("label", (1, 3), "categorical", role="target", params=small),
    ]
    model = build("mfm", specs, latent=2, joint_width=32)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(200):
        optimiser.zero_grad()
        (-model(batch.rows(torch.randint(600, (128,)))).value.mean()).backward()
        optimiser.step()
    model.eval()
    for given in (("a", "b"), ("a",), ("b",)):
        made = (
            model.generate(batch.rows(slice(0, 300)).observe(*given), K=20)["label"].mean(0)[:, 0].argmax(-1)
        )
        assert float((made == label[:300]).double().mean()) > 0.9, given
    z = model.draw(batch, 1).z[0].detach()
    assert z.mean(0).abs().max() < 0.25
    assert (z.std(0) - 1).abs().max() < 0.25

"""scMM, CMVAE, HELVAE, Hölder, IDMVAE and the free combination: their formulas by hand, others' numbers, and the traps."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from inputs import DOUBLE, LIKELIHOODS, D, Decoder, Given, W, likelihood_weight, raw, wave
from scipy.special import logsumexp
from scipy.stats import entropy, norm
from test_formulas import WORLDS, Hand, kl_laplace, kl_normal, over_k, product
from test_models_a import SIZE, data_of, eps, leaves, recorded
from worlds import GRID, World

from polyvae import Batch, InputError, Modality, build
from polyvae.core import noise
from polyvae.core.aggregate import hoelder_pool, moment_matched
from polyvae.models.bundles import load_model, save_model
from polyvae.testing import example_batch, example_model, plain_world, roles_world
from polyvae.testing.worlds import record, step

pytestmark = pytest.mark.filterwarnings("error")


def expected_bound(model, world, copies=800):
    with torch.no_grad():
        value = model(world.every_mask(copies)).value.view(7, copies)
    return value.mean(1).numpy(), (value.std(1) / copies**0.5).numpy()


def golden_specs(of, M: int, private: int | None) -> list[Modality]:
    kinds = [LIKELIHOODS[m % 2] for m in range(M)]
    return [
        Modality(
            f"m{m}",
            (SIZE,),
            kind,
            private=private,
            weight=likelihood_weight(m),
            params={"scale": scale},
            encoder=partial(Given, of, m),
            decoder=partial(Decoder, of, m),
        )
        for m, (kind, scale) in enumerate(kinds)
    ]


def close(ours, theirs, what: str) -> None:
    expected = torch.as_tensor(theirs, dtype=DOUBLE).reshape(ours.shape)
    torch.testing.assert_close(
        ours.detach(),
        expected,
        rtol=1e-8,
        atol=1e-12 * float(expected.abs().max()),
        msg=lambda text: f"{what}: {text}",
    )


# ---- scmm ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("family", "scale_map", "learn", "K"), [("laplace", "softmax", False, 1), ("normal", "softplus", True, 2)]
)
def test_scmm(world, family, scale_map, learn, K):
    """Every expert's own ELBO with the exact KL, then their mean. For Laplace, scales b: KL = b e^{−|μ|/b} + |μ| − 1 − log b."""
    hand = Hand(world, "scmm", family=family, scale_map=scale_map, learn_prior=learn, K=K, beta=1.5)
    width = hand.model.prior.z().scale.detach().numpy()  # KL(q || p) is that of z / width
    exact = kl_laplace if family == "laplace" else kl_normal

    def value() -> float:
        total = 0.0
        for m in hand.S:
            loc, scale = hand.z[m]
            total -= hand.beta * exact(loc / width, scale / width)
            for k in range(K):
                z = loc + scale * hand.draws["z"][k, hand.model.encoded.index(m), hand.b]
                total += (
                    sum(hand.log_x(n, z, np.zeros(0)) for n in hand.A if hand.model.specs[n].role != "source")
                    / K
                )
        return total / len(hand.S)

    hand.check(value)


@pytest.mark.parametrize("family", ["normal", "laplace"])
def test_scmm_is_a_bound_below_that_of_the_mixture(family):
    """mean_m KL(q_m || p) ≥ KL(mean_m q_m || p): looser than MMVAE's, and equal where one modality was observed."""
    world = World()
    truth = world.log_p(world.every_mask(), family)
    mean, spread = expected_bound(world.model("scmm", family=family, scale_map="softplus"), world)
    tighter, more = expected_bound(world.model("mmvae", family=family), world)
    alone = np.array([0, 1, 3])  # the masks with one modality
    assert (mean <= truth + 5 * spread).all()
    assert (mean <= tighter + 5 * np.hypot(spread, more)).all()
    assert (np.abs(mean - tighter)[alone] <= 5 * np.hypot(spread, more)[alone]).all()


# ---- cmvae -----------------------------------------------------------------------------------------------------------------------


@recorded("cmvae")
def test_cmvae_is_the_port(case):
    """Its expectation over q(c | z) is our log-density of the mixture; gradients of π, μ and r, too."""
    M, B, K = case["M"], case["B"], case["K"]
    of = leaves(M, B, D, W)
    model = build(
        "cmvae",
        golden_specs(of, M, W),
        latent=D,
        beta=case["beta"],
        K=K,
        objective="iwae",
        clusters=case["clusters"],
        family="normal",
        scale_map="softplus",
    ).double()
    scale = (0.5 * wave((M * W,), 1.7)).exp().requires_grad_()
    model.prior.loc.data, model.prior.logits.data = (
        wave((case["clusters"], D), 0.3),
        wave((case["clusters"],), 0.8),
    )
    model.held.raw_r.data = raw(scale).detach()
    with noise.feed({"z": eps(0.15, K, M, B, D), "w": eps(0.85, K, M, B, M * W)}):
        value = model(Batch.of({f"m{m}": x for m, x in enumerate(data_of(M, B))})).value.sum()
    value.backward()
    theirs = case["gradients"]
    slope = torch.autograd.grad(raw(scale).sum(), scale)[0]
    ours = {
        "loc": model.prior.loc.grad,
        "logits": model.prior.logits.grad,
        "r_scale": model.held.raw_r.grad * slope,
    }
    close(value, case["value"], "bound")
    assert set(theirs) == set(of) | set(ours)
    for key in theirs:
        close(of[key].grad if key in of else ours[key], theirs[key], f"gradient of {key}")


def clustered(clusters: int = 5):
    model = example_model(
        lambda specs: build("cmvae", specs, latent=2, clusters=clusters), plain_world()
    ).eval()
    return model, example_batch(model)


@pytest.mark.parametrize("criterion", ["penalised", "entropy"])
@torch.no_grad()
def test_pruning_by_hand(criterion):
    """Greedy: votes of the observed modalities, the smallest cluster goes, π is renormalised; the mean criterion of each count."""
    model, batch = clustered()
    pi, at = model.prior.logits.softmax(0).numpy().copy(), model.prior.loc.numpy().copy()
    experts = model.experts(batch)
    with noise.record() as draws:
        found = model.prune(batch, criterion)
    z = (experts.z.loc + experts.z.scale * draws["z"].value).numpy()
    kept, expected, tables = list(range(5)), {}, {}
    while len(kept) > 1:
        mass, values = dict.fromkeys(kept, 0), []
        share = pi[kept] / pi[kept].sum()
        for b in range(batch.size):
            votes, each = [], []
            for m in range(4):
                if batch.mask[m, b]:
                    joint = (
                        share * np.exp([-np.abs(z[m, b] - at[c]).sum() for c in kept]) / 4
                    )  # Laplace, two columns: (1/2)²
                    q = joint / joint.sum()
                    votes.append(kept[int(q.argmax())])
                    clear = entropy(q) / np.log(len(kept))
                    each.append(clear if criterion == "entropy" else 2.5 * clear - np.log(joint.sum()) / 2)
            if votes:
                mass[max(sorted(set(votes)), key=votes.count)] += 1
                values.append(np.mean(each))
        expected[len(kept)], tables[len(kept)] = np.mean(values), list(kept)
        kept.remove(min(kept, key=lambda c: mass[c]))
    assert found == pytest.approx(expected, rel=1e-12)
    assert model.prior.logits.isfinite().nonzero()[:, 0].tolist() == tables[min(expected, key=expected.get)]


@torch.no_grad()
def test_pruning_finds_the_clusters_that_are_there(tmp_path):
    """Data in three places, five clusters of which two explain nothing: three stay; what went is never drawn and does not come back."""
    spec = Modality("x", (2,), "normal", private=0, encoder=Located, decoder=Same)
    model = (
        build(
            "cmvae",
            [spec],
            latent=2,
            clusters=5,
            family="normal",
            scale_map="softplus",
            cross="prior",
            beta=5.0,
        )
        .double()
        .eval()
    )
    places = torch.tensor([[0.0, 8.0], [9.0, 0.0], [-9.0, -9.0]], dtype=DOUBLE)
    model.prior.loc.data = torch.cat([places, places[:1] + 0.3, places.new_full((1, 2), 60.0)])
    model.prior.logits.data = torch.tensor([0.0, 0.0, 0.0, -0.5, 0.0], dtype=DOUBLE)
    truth = torch.arange(90) % 3
    batch = Batch.of({"x": places[truth] + 0.1 * torch.randn(90, 2, dtype=DOUBLE)})
    found = model.prune([batch.rows(slice(0, 40)), batch.rows(slice(40, 90))])
    assert min(found, key=found.get) == 3
    assert model.prior.logits.isfinite().tolist() == [True, True, True, False, False]
    assert torch.equal(model.cluster(batch), truth)
    drawn = model.sample(300)["x"]
    nearest = torch.cdist(drawn, places)
    assert float(nearest.amin(1).max()) < 6
    assert set(nearest.argmin(1).tolist()) == {0, 1, 2}
    save_model(model, tmp_path / "pruned.safetensors")
    again = load_model(tmp_path / "pruned.safetensors", trust=["test_models_d"])
    assert torch.equal(again.prior.logits, model.prior.logits)
    with torch.enable_grad():
        value = model.train()(batch).value.sum()
        value.backward()
        torch.optim.Adam([model.prior.logits, model.prior.loc], lr=0.1).step()
    assert bool(value.isfinite())
    assert model.prior.logits.isfinite().tolist() == [True, True, True, False, False]


class Located(torch.nn.Module):
    """The identity, with a scale of .02."""

    def __init__(self, in_shape, out) -> None:
        super().__init__()

    def forward(self, x):
        return torch.cat([x, raw(torch.full_like(x, 0.02))], -1)


class Same(Located):
    def forward(self, x):
        return x


# ---- hellinger and holder --------------------------------------------------------------------------------------------------------


def bhattacharyya(a, b) -> float:
    """∫ √(N_a N_b), by its closed form: Π_d √(2 σ τ / (σ² + τ²)) exp(−(μ − ν)² / 4(σ² + τ²))."""
    (mu, sigma), (nu, tau) = a, b
    total = sigma**2 + tau**2
    return float(np.prod(np.sqrt(2 * sigma * tau / total) * np.exp(-((mu - nu) ** 2) / (4 * total))))


def pool(experts: dict) -> dict:
    """subset -> (weight, loc, scale): √(q_m q_n) has half the precisions' sum as its precision."""
    parts = {(m,): (1.0, *experts[m]) for m in experts}
    for m, n in combinations(experts, 2):
        precision = (experts[m][1] ** -2 + experts[n][1] ** -2) / 2
        loc = (experts[m][0] * experts[m][1] ** -2 + experts[n][0] * experts[n][1] ** -2) / 2 / precision
        parts[m, n] = (2 * bhattacharyya(experts[m], experts[n]), loc, precision**-0.5)
    total = sum(weight for weight, _, _ in parts.values())
    return {key: (weight / total, loc, scale) for key, (weight, loc, scale) in parts.items()}


@torch.no_grad()
def test_the_pool_is_the_square_of_the_sum_of_roots_by_quadrature():
    """Of what was observed, for every mask; HELVAE's normal has its mean and its variance."""
    world = World()
    batch = world.every_mask()
    experts = world.model("hellinger").experts(batch)
    q, matched = hoelder_pool(experts), moment_matched(hoelder_pool(experts))
    log_q = q.log_prob(torch.as_tensor(GRID)[:, None, None, None].expand(-1, 1, 7, 1))[:, 0].numpy()
    step = GRID[1] - GRID[0]
    for row in range(7):
        here = [experts.z[m, row] for m in range(3) if batch.mask[m, row]]
        roots = sum(np.sqrt(norm(float(q_m.loc), float(q_m.scale)).pdf(GRID)) for q_m in here)
        density = roots**2 / (roots**2).sum() / step
        assert np.exp(log_q[:, row]) == pytest.approx(density, abs=1e-9)
        mean = (density * GRID).sum() * step
        assert float(matched.components.loc[0, row]) == pytest.approx(mean, abs=1e-9)
        assert float(matched.components.scale[0, row]) ** 2 == pytest.approx(
            (density * (GRID - mean) ** 2).sum() * step, rel=1e-8
        )


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("K", [1, 2])
def test_hellinger(world, K):
    hand = Hand(world, "hellinger", K=K, beta=1.5)

    def value() -> float:
        parts = pool({m: hand.z[m] for m in hand.S}).values()
        loc = sum(weight * mu for weight, mu, _ in parts)
        scale = np.sqrt(sum(weight * (sigma**2 + mu**2) for weight, mu, sigma in parts) - loc**2)
        total = -hand.beta * kl_normal(loc, scale)
        for k in range(K):
            z = loc + scale * hand.draws["z"][k, 0, hand.b]
            total += (
                sum(hand.log_x(n, z, np.zeros(0)) for n in hand.A if hand.model.specs[n].role != "source") / K
            )
        return total

    hand.check(value)


def auxiliary_scales(model) -> np.ndarray:
    if model.raw_r is None:
        return np.ones(len(model.owner))
    nets = model.modalities.values()
    return np.concatenate(
        [net.scale(model.raw_r[span]).detach().numpy() for net, span in zip(nets, model.columns, strict=True)]
    )


@torch.no_grad()
def told(model, n: int, z: np.ndarray, loc: np.ndarray, scale: np.ndarray):
    """q(w_n | x_n, z): the location moved, the scale multiplied by softplus (1 at 0)."""
    if not model.options.get("hierarchical"):
        return loc, scale
    move, stretch = (
        model.modalities[list(model.modalities)[n]]
        .parts["told"](torch.as_tensor(z)[None])[0]
        .numpy()
        .reshape(2, -1)
    )
    return loc + move, scale * (1e-6 + (1 - 1e-6) * np.log1p(np.exp(stretch + np.log(np.e - 1))))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    "options", [{}, {"hierarchical": False, "K": 2}, {"objective": "iwae", "K": 2}, {"cross": "prior"}]
)
def test_holder(world, options):
    hand = Hand(world, "holder", beta=1.5, **options)
    model = hand.model
    sources = model.encoded
    views = [(m,) for m in sources] + list(combinations(sources, 2))
    r_scale = auxiliary_scales(model)

    def log_weight(parts: dict, subset: tuple, k: int) -> float:
        v = views.index(subset)
        z = parts[subset][1] + parts[subset][2] * hand.draws["z"][k, v, hand.b]
        log_q = logsumexp([np.log(weight) + hand.log(z, loc, scale) for weight, loc, scale in parts.values()])
        total = hand.beta * (hand.log(z, 0, 1) - log_q)
        for n in hand.A:
            span = model.columns[n]
            loc, scale = told(model, n, z, *hand.w[n]) if n in subset else (0, r_scale[span])
            w = loc + scale * hand.draws["w"][k, v, hand.b, span]
            if n in subset:
                total += hand.beta * (hand.log(w, 0, 1) - hand.log(w, loc, scale))
            if model.specs[n].role != "source":
                total += hand.log_x(n, z, w)
        return total

    def value() -> float:
        parts = pool({m: hand.z[m] for m in hand.S})
        return sum(
            parts[subset][0] * over_k(model.objective, [log_weight(parts, subset, k) for k in range(model.K)])
            for subset in parts
        )

    hand.check(value)


# ---- composed --------------------------------------------------------------------------------------------------------------------


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
            if model.specs[n].role != "source":
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


# ---- truth -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "private", "options"),
    [
        ("scmm", 0, {"scale_map": "softplus", "family": "normal"}),
        ("cmvae", 1, {"clusters": 2, "family": "normal", "scale_map": "softplus"}),
        ("hellinger", 0, {}),
        ("holder", 1, {}),
        ("idmvae", 1, {}),
        ("composed", 1, {"subsets": "pairs"}),
    ],
)
def test_the_likelihood_is_the_truth(name, private, options):
    """Within 5 standard errors, for every mask; with z in q(w_n | x_n, z), and with a prior of two clusters."""
    world = World(private)
    model = world.model(name, **options)
    batch, prior = world.every_mask(), norm(0, 1).logpdf
    if name == "cmvae":
        model.prior.loc.data = torch.tensor([[-2.0], [1.5]], dtype=DOUBLE)

        def prior(z):
            return np.log(norm(-2, 1).pdf(z) / 2 + norm(1.5, 1).pdf(z) / 2)

    estimate = model.log_marginal(batch, K=4000)
    error, spread = (
        np.abs(estimate.value.numpy() - world.log_p(batch, prior=prior)),
        estimate.standard_error.numpy(),
    )
    assert (error <= 5 * spread).all(), (error / spread).round(2)
    assert (spread < 0.1).all(), spread.round(3)


@pytest.mark.parametrize("experts", ["exact", "rough"])
@pytest.mark.parametrize(
    ("name", "private", "options"),
    [
        ("hellinger", 0, {"beta": 1.0}),
        ("hellinger", 0, {"beta": 2.5}),
        ("holder", 1, {"cross": "prior"}),
        ("holder", 1, {"cross": "prior", "hierarchical": False, "objective": "iwae", "K": 3}),
        ("composed", 1, {"subsets": "powerset"}),
        ("composed", 1, {"subsets": "pairs", "cross": "prior", "objective": "iwae", "K": 3}),
    ],
)
def test_a_bound_stays_below_the_truth(name, private, options, experts):
    world = World(private, experts=experts)
    truth = world.log_p(world.every_mask())
    mean, spread = expected_bound(world.model(name, **options), world)
    assert (mean <= truth + 5 * spread).all(), (mean - truth).round(3)


# ---- idmvae ----------------------------------------------------------------------------------------------------------------------


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
        plain = model.held(batch).value
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


def test_idmvae_without_its_terms_is_mmvaeplus_and_registers_nothing_twice():
    specs = plain_world()
    model = example_model(
        lambda modalities: build("idmvae", modalities, latent=2, cross_view=0.0, augmentation=0.0), specs
    )
    plus = build("mmvae+", specs, latent=2, beta=2.5).double()
    plus.load_state_dict({key.removeprefix("held."): value for key, value in model.state_dict().items()})
    assert len(model.state_dict()) == len(plus.state_dict())
    batch = example_batch(model)
    with noise.record() as draws:
        value = model(batch, 0.5).value
    with noise.feed(draws):
        torch.testing.assert_close(plus(batch, 0.5).value, value)
    assert model.owner.data_ptr() == model.held.owner.data_ptr()


# ---- what is refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cmvae", {"clusters": 0}, "clusters"),
        ("scmm", {"K": 0}, "K=0"),
        ("holder", {"objective": "dreg"}, "unknown objective 'dreg'; known: elbo, iwae"),
        ("idmvae", {"augmentation": -1.0}, "got augmentation=-1.0; expected a weight"),
        ("idmvae", {"temperature": 0.0}, "got temperature=0.0; expected a positive number"),
        ("composed", {"subsets": "power"}, "unknown subsets 'power'; .*'powerset'"),
        ("composed", {"cross": "auxiliary"}, "0 private columns; expected private codes"),
    ],
)
def test_what_cannot_be_built_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        build(name, plain_world(), latent=2, **options)


def test_pruning_needs_data_and_a_known_criterion():
    model, batch = clustered()
    with pytest.raises(InputError, match="unknown criterion 'entropi'; did you mean 'entropy'"):
        model.prune(batch, "entropi")
    with pytest.raises(InputError, match="got no observed modality to prune by"):
        model.prune(batch.observe())


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

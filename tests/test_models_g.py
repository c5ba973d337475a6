"""DeepIMV, the relational VAE and HMVAE: their formulas by hand, derived cases, the truth in linear worlds, and the traps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from test_formulas import WORLDS, Hand, kl_normal, product
from worlds import Affine, World, fixed, raw

from polyvae import Batch, InputError, Modality, build
from polyvae.cli.commands import models
from polyvae.core import noise
from polyvae.core.vae import MultimodalVAE
from polyvae.testing import example_batch, example_data, example_model, labels_world

pytestmark = pytest.mark.filterwarnings("error")
NONE = np.zeros(0)
DOUBLE = torch.float64
HALF_LOG_TWO_PI = 0.5 * np.log(2 * np.pi)


def kl_between(loc, scale, other, width) -> float:
    """KL(N(loc, scale²) || N(other, width²)), the columns summed."""
    return float((np.log(width / scale) + (scale**2 + (loc - other) ** 2) / (2 * width**2) - 0.5).sum())


@torch.no_grad()
def told(hand: Hand, m: int, z: np.ndarray) -> np.ndarray:
    """g_m(z)."""
    return hand.model.modalities[hand.names[m]].parts["told"](torch.from_numpy(z)).numpy()


def decodes(hand: Hand, n: int) -> bool:
    return hand.model.specs[n].role != "source"


# ---- the formulas ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "K"), [(1.0, 1), (0.3, 2)])
def test_deepimv(alpha, K, monkeypatch):
    monkeypatch.setitem(WORLDS, "labels", labels_world)
    hand = Hand("labels", "deepimv", alpha=alpha, K=K, beta=1.5)
    b = hand.batch

    @torch.no_grad()
    def alone(m: int, t: int, z: np.ndarray) -> float:
        """s_t log p_m(y_t | z), by view m's own predictor."""
        name, row = hand.names[t], slice(hand.b, hand.b + 1)
        predictor = hand.model.modalities[hand.names[m]].parts["labels"][name]
        gaps = b.entries[name][row] if name in b.entries else None
        return hand.weights[t] * float(predictor.log_prob(b.data[name][row], torch.from_numpy(z)[None], gaps))

    def value() -> float:
        labels = [t for t in hand.A if t not in hand.model.encoded]
        if not labels:
            return 0.0
        views = {0: product([(np.zeros(2), np.ones(2)), *(hand.z[m] for m in hand.S)])}
        views |= {1 + hand.model.encoded.index(m): hand.z[m] for m in hand.S}
        total = 0.0
        for v, (loc, scale) in views.items():
            elbo = -hand.beta * kl_normal(loc, scale)
            for k in range(K):
                z = loc + scale * hand.draws["z"][k, v, hand.b]
                elbo += (
                    sum(
                        alone(hand.model.encoded[v - 1], t, z) if v else hand.log_x(t, z, NONE)
                        for t in labels
                    )
                    / K
                )
            total += (alpha if v else 1) * elbo
        return total

    hand.check(value)
    assert (
        hand.bound.value != 0
    ).sum() == 5  # the complete row and the four that lack one; a view alone has no label


@pytest.mark.parametrize("world", ["plain", "roles"])
@pytest.mark.parametrize("K", [1, 3])
def test_relational(world, K):
    hand = Hand(world, "relational", K=K, beta=1.5, hidden=(5,))
    model = hand.model
    everyone = [
        subset for size in range(1, len(model.encoded) + 1) for subset in combinations(model.encoded, size)
    ]

    @torch.no_grad()
    def relation(m: int) -> tuple[np.ndarray, np.ndarray]:
        net = model.modalities[hand.names[m]]
        loc, raw_scale = net.parts["relation"](torch.from_numpy(hand.w[m][0])).chunk(2)
        return loc.numpy(), net.scale(raw_scale).numpy()

    def value() -> float:
        made = [product([relation(m) for m in subset]) for subset in everyone if set(subset) <= set(hand.S)]
        total = -hand.beta * float(np.mean([kl_normal(*each) for each in made]))
        for k in range(K):
            loc, scale = made[int(hand.draws["component"][k, hand.b] * len(made))]
            z = loc + scale * hand.draws["z"][k, hand.b]
            for m in hand.S:
                total -= hand.beta * kl_between(*hand.w[m], told(hand, m, z), 1) / K
            for n in filter(lambda n: decodes(hand, n), hand.A):
                loc, scale = hand.w[n] if n in hand.w else (told(hand, n, z), 1)
                total += (
                    hand.log_x(n, NONE, loc + scale * hand.draws["w"][k, 0, hand.b, model.columns[n]]) / K
                )
        return total

    hand.check(value)


@pytest.mark.parametrize("world", ["plain", "roles"])
@pytest.mark.parametrize("K", [1, 3])
def test_hmvae(world, K):
    hand = Hand(world, "hmvae", K=K, beta=1.5, hidden=(5,))
    model = hand.model

    def value() -> float:
        loc, scale = product([(np.zeros(2), np.ones(2)), *(hand.z[m] for m in hand.S)])
        total = -hand.beta * kl_normal(loc, scale)
        for k in range(K):
            z = loc + scale * hand.draws["z"][k, 0, hand.b]
            codes = {m: product([(told(hand, m, z), np.ones_like(hand.w[m][0])), hand.w[m]]) for m in hand.S}
            for m in hand.S:
                total -= hand.beta * kl_between(*codes[m], told(hand, m, z), 1) / K
            for n in filter(lambda n: decodes(hand, n), hand.A):
                at, width = codes.get(n, (told(hand, n, z), 1))
                total += hand.log_x(n, z, at + width * hand.draws["w"][k, 0, hand.b, model.columns[n]]) / K
        return total

    hand.check(value)


# ---- derived by hand -------------------------------------------------------------------------------------------------------------


def says(*numbers: float):
    """An encoder that says these numbers whatever it is shown: locations as they are, scales as the softplus map takes them."""
    return partial(fixed, np.zeros((len(numbers), 1)), np.array(numbers))


def fed(model: MultimodalVAE, batch: Batch, draws: Mapping[str, torch.Tensor]) -> float:
    with torch.no_grad(), noise.feed(draws):
        return float(model(batch).value)


PLUS_MINUS = torch.tensor(
    [1.0, -1.0], dtype=DOUBLE
)  # mean 0 and variance 1: the mean of a quadratic over both is its expectation


def test_deepimv_by_hand():
    """One view, q_1 = N(1, 1/3); y = 1; p(y | z) = N(2z, 1) and p_1(y | z) = N(z, 1); β = ½, α = ¼.

    Joint: precision 1 + 3 and q = N(¾, ¼). E log p(y | z) = −½ log 2π − ½[(1 − 1½)² + 4 · ¼], KL = ½(¼ + 9/16 − 1 + log 4).
    Alone: E log p_1(y | z) = −½ log 2π − ½[(1 − 1)² + 1/3], KL = ½(1/3 + 1 − 1 + log 3).
    """
    specs = [
        Modality("x", (1,), role="source", encoder=says(1.0, float(raw(np.array(3**-0.5))))),
        Modality(
            "y",
            (1,),
            role="target",
            params={"scale": 1.0},
            decoder=partial(fixed, np.array([[2.0]]), np.zeros(1)),
        ),
    ]
    model = build("deepimv", specs, latent=1, beta=0.5, alpha=0.25, K=2).double()
    model.modalities["x"].parts["labels"]["y"].decoder.weight = torch.nn.Parameter(
        torch.ones(1, 1, dtype=DOUBLE)
    )
    together = -HALF_LOG_TWO_PI - 0.5 * (0.25 + 1) - 0.5 * 0.5 * (0.25 + 9 / 16 - 1 + np.log(4))
    alone = -HALF_LOG_TWO_PI - 0.5 * (1 / 3) - 0.5 * 0.5 * (1 / 3 + np.log(3))
    batch = Batch.of({"x": torch.zeros(1, 1), "y": torch.ones(1, 1)})
    draws = {"z": PLUS_MINUS[:, None, None, None].expand(2, 2, 1, 1)}
    assert fed(model, batch, draws) == pytest.approx(together + 0.25 * alone, rel=1e-9)


def one_modality(name: str, decoder: list[float], **parts: Affine) -> MultimodalVAE:
    """x = 1 from p(x | ·) = N(decoder · code, 1); experts N(1, 1/3) of z where the encoder says one, and N(2, 1/2) or N(2, 1) of w."""
    said = {
        "relational": [2.0, float(raw(np.array(0.5**0.5)))],
        "hmvae": [1.0, float(raw(np.array(3**-0.5))), 2.0, float(raw(np.array(1.0)))],
    }
    spec = Modality(
        "x",
        (1,),
        params={"scale": 1.0},
        encoder=says(*said[name]),
        decoder=partial(fixed, np.array([decoder]), np.zeros(1)),
    )
    model = build(name, [spec], latent=1, K=4, beta=0.5, hidden=()).double()
    for part, module in parts.items():
        model.modalities["x"].parts[part] = module
    model.prior.maps = (model.modalities["x"].parts["told"],)
    return model


TELLS_ITSELF = np.array([[1.0]]), np.zeros(1)  # g(z) = z
BOTH_SIGNS = PLUS_MINUS.repeat_interleave(2), PLUS_MINUS.repeat(2)  # of z and of w: all four pairs


def test_relational_by_hand():
    """q(w | x) = N(2, ½), one expert of z, h = N(1, 1/3), g(z) = z; x = 1, p(x | w) = N(w, 1); β = ½.

    E log p(x | w) = −½ log 2π − ½[(1 − 2)² + ½]. KL(q(z) || p) = ½(1/3 + 1 − 1 + log 3).
    KL(q(w) || N(z, 1)) = ½(½ + (2 − z)² − 1 + log 2), where E (2 − z)² = 1 + 1/3.
    """
    relation = Affine(np.zeros((2, 1)), np.array([1.0, float(raw(np.array(3**-0.5)))]))
    model = one_modality("relational", [1.0], told=Affine(*TELLS_ITSELF), relation=relation)
    expected = (
        -HALF_LOG_TWO_PI
        - 0.5 * 1.5
        - 0.5 * 0.5 * (1 / 3 + np.log(3))
        - 0.5 * 0.5 * (0.5 + 4 / 3 - 1 + np.log(2))
    )
    draws = {"z": BOTH_SIGNS[0].view(4, 1, 1), "w": BOTH_SIGNS[1].view(4, 1, 1, 1)}
    assert fed(model, Batch.of({"x": torch.ones(1, 1)}), draws) == pytest.approx(expected, rel=1e-9)


def test_hmvae_by_hand():
    """Experts N(1, 1/3) of z and N(2, 1) of w, g(z) = z; x = 1, p(x | z, w) = N(z + w, 1); β = ½.

    q(z) has precision 1 + 3: N(¾, ¼), KL ½(¼ + 9/16 − 1 + log 4). q(w | z) = N((z + 2)/2, ½), its KL to N(z, 1) is
    ½(½ + (2 − z)²/4 − 1 + log 2), where E (2 − z)² = (5/4)² + ¼. z + w is 1 + 3z/2 with variance ½ given z: E (x − z − w)² =
    9/4 (9/16 + ¼) + ½.
    """
    model = one_modality("hmvae", [1.0, 1.0], told=Affine(*TELLS_ITSELF))
    kl_z = 0.5 * (0.25 + 9 / 16 - 1 + np.log(4))
    kl_w = 0.5 * (0.5 + (25 / 16 + 0.25) / 4 - 1 + np.log(2))
    expected = -HALF_LOG_TWO_PI - 0.5 * (9 / 4 * 13 / 16 + 0.5) - 0.5 * (kl_z + kl_w)
    draws = {"z": BOTH_SIGNS[0].view(4, 1, 1, 1), "w": BOTH_SIGNS[1].view(4, 1, 1, 1)}
    assert fed(model, Batch.of({"x": torch.ones(1, 1)}), draws) == pytest.approx(expected, rel=1e-9)


# ---- the truth -------------------------------------------------------------------------------------------------------------------

TOLD = [np.array([[0.8]]), np.array([[-1.1]]), np.array([[0.6]])]


def two_levels(name: str, experts: str, blind: bool, **options: object) -> tuple[World, MultimodalVAE]:
    """w_m = G_m z + noise of scale 1 and x_m = A_m z + C_m w_m + b_m + noise: in log p(x), loadings A + C G of z and C of that noise.

    ``blind``: decoders do not look at z, A = 0. Experts are those of the world with these loadings, in which w_m is the noise alone; with
    "factor" that of w_m is p(x_m | w_m) as a density of w_m, exact where decoders are blind.
    """
    world = World(private=1, experts=experts)
    seen = [0 * A if blind else A for A in world.A]
    world.A = [A + C @ G for A, C, G in zip(seen, world.C, TOLD, strict=True)]
    specs = []
    for m, spec in enumerate(world.modalities()):
        weight, bias = world.encoder(m)
        if experts == "factor":
            strength = float((world.C[m].T @ world.C[m]).item()) / world.s[m] ** 2
            gain = world.C[m].T / (strength * world.s[m] ** 2)
            weight = np.concatenate([weight[:2], gain, 0 * gain])
            bias = np.concatenate([bias[:2], -gain @ world.b[m], raw(np.array([strength**-0.5]))])
        if name == "relational":
            weight, bias = weight[2:], bias[2:]
        decoder = world.C[m] if name == "relational" else np.concatenate([seen[m], world.C[m]], 1)
        specs.append(
            replace(spec, encoder=partial(fixed, weight, bias), decoder=partial(fixed, decoder, world.b[m]))
        )
    model = build(name, specs, latent=1, hidden=(), **options).double()
    for net, G in zip(model.modalities.values(), TOLD, strict=True):
        net.parts["told"] = Affine(G, np.zeros(1))
        if name == "relational":
            net.parts["relation"] = Affine(
                np.concatenate([G.T / (1 + G.T @ G), 0 * G]), np.array([0.1, -0.3])
            )
    model.prior.maps = tuple(net.parts["told"] for net in model.modalities.values())
    return world, model


LEVELS = [("relational", True), ("hmvae", True), ("hmvae", False)]


@pytest.mark.parametrize(("name", "blind"), LEVELS)
def test_the_likelihood_is_the_truth(name, blind):
    world, model = two_levels(name, "rough", blind)
    batch = world.every_mask()
    estimate = model.log_marginal(batch, K=4000)
    error, spread = np.abs(estimate.value.numpy() - world.log_p(batch)), estimate.standard_error.numpy()
    assert (error <= 5 * spread).all(), (error / spread).round(2)
    assert (spread < 0.1).all(), spread.round(3)


@pytest.mark.parametrize("experts", ["exact", "rough"])
@pytest.mark.parametrize("options", [{}, {"K": 3}, {"beta": 2.5}])
@pytest.mark.parametrize(("name", "blind"), LEVELS)
def test_a_bound_stays_below_the_truth(name, blind, options, experts):
    world, model = two_levels(name, experts, blind, **options)
    with torch.no_grad():
        value = model(world.every_mask(800)).value.view(7, 800)
    mean, spread = value.mean(1).numpy(), (value.std(1) / 800**0.5).numpy()
    gap = world.log_p(world.every_mask()) - mean
    assert (gap >= -5 * spread).all(), gap.round(3)
    if "beta" not in options:
        assert (gap < 2).all(), gap.round(3)  # a number far below would pass for a bound whatever it is


def test_the_right_experts_make_hmvae_exact_where_decoders_are_blind():
    """p(z | X) ∝ p(z) Π p(x_m | z) and p(w_m | z, x_m) ∝ p(w_m | z) p(x_m | w_m): q is the posterior, L is log p, imputation is exact."""
    world, model = two_levels("hmvae", "factor", True)
    with torch.no_grad():
        value = model(world.every_mask(2000)).value.view(7, 2000)
    mean, spread = value.mean(1).numpy(), (value.std(1) / 2000**0.5).numpy()
    assert (np.abs(mean - world.log_p(world.every_mask())) <= 5 * spread).all()
    assert (spread < 0.1).all()
    x = world.data(2)
    made = model.generate(Batch.of(x).observe("a"), K=8000)
    assert_moments(made, world, x, ("a",), 8000)


@pytest.mark.parametrize(("name", "blind"), LEVELS)
def test_resampled_imputation_is_the_gaussian_conditional(name, blind):
    world, model = two_levels(name, "rough", blind)
    x = world.data(2)
    assert_moments(
        model.generate(Batch.of(x).observe("b", "c"), K=400, resample=True), world, x, ("b", "c"), 300
    )


@pytest.mark.parametrize(("name", "blind"), LEVELS)
def test_samples_follow_the_relation_of_codes(name, blind):
    """The covariance of a sample's modalities is that of the model: what z tells the codes is not forgotten."""
    world, model = two_levels(name, "rough", blind)
    made = model.sample(20000)
    a, b = (made[key].numpy() - world.b[m] for m, key in enumerate("ab"))
    cross = (a[:, :, None] * b[:, None]).mean(0)
    spread = np.sqrt(np.outer(a.var(0), b.var(0)) * 2 / 20000)
    assert (np.abs(cross - world.A[0] @ world.A[1].T) <= 5 * spread).all()


def assert_moments(
    made: dict[str, torch.Tensor],
    world: World,
    x: dict[str, torch.Tensor],
    given: tuple[str, ...],
    effective: int,
) -> None:
    """The draws [K, B, d] have the conditional's mean and variance, within 5 standard errors of ``effective`` normal draws."""
    for name in world.names:
        mean, variance = world.conditional(x, given, name)
        gap = np.abs(made[name].mean(0).numpy() - mean) / np.sqrt(variance / effective)
        assert (gap <= 5).all(), (name, gap.round(2))
        gap = np.abs(made[name].var(0).numpy() / variance - 1) / np.sqrt(2 / effective)
        assert (gap <= 5).all(), (name, gap.round(2))


def test_every_bracket_of_deepimv_stays_below_log_p_of_the_label():
    """With β = 1 each is an ELBO of log p(y), y = A z + b + noise, whose posterior looks at x instead of y: there are 1 + |O|."""
    world = World()
    roles = ("source", "source", "target")
    specs = [replace(spec, role=role) for spec, role in zip(world.modalities(), roles, strict=True)]
    model = build("deepimv", specs, latent=1, beta=1.0).double()
    truth = multivariate_normal(world.b[2], world.A[2] @ world.A[2].T + world.s[2] ** 2 * np.eye(2)).logpdf(
        world.data(1)["c"]
    )
    for given, brackets in ((("a",), 2), (("b",), 2), (("a", "b"), 3)):
        batch = Batch.of({name: x.expand(800, -1) for name, x in world.data(1).items()}).observe(*given, "c")
        with torch.no_grad():
            value, terms = model(batch)
        together = value - terms["subsets"]
        assert float(value.mean()) <= brackets * truth + 5 * float(value.std()) / 800**0.5
        assert truth - 3 <= float(together.mean()) <= truth + 5 * float(together.std()) / 800**0.5


# ---- traps -----------------------------------------------------------------------------------------------------------------------


def labelled(rows: int, seed: int) -> Batch:
    """Three classes, whose centres two views show under noise that leaves neither perfect."""
    draws = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (rows,), generator=draws)
    centres = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(4))
    views = {
        name: centres[v][y] + torch.randn(rows, 6, generator=draws)
        for v, name in enumerate(("rna", "protein"))
    }
    return Batch.of(views | {"type": torch.nn.functional.one_hot(y, 3).float()[:, None]})


def test_deepimv_predicts_from_any_view_though_half_of_them_were_missing_in_training():
    """No datum of the training set has both views; the label is told by either alone, and better by both, which it never saw."""
    torch.manual_seed(0)
    net = {"hidden": (16,)}
    specs = [
        Modality("rna", (6,), role="source", params=net),
        Modality("protein", (6,), role="source", params=net),
        Modality("type", (1, 3), "categorical", role="target", params=net),
    ]
    model = build("deepimv", specs, latent=4)
    seen = labelled(400, 1)
    one = torch.arange(400) % 2 == 0
    train = Batch.of(seen.data, torch.stack([one, ~one, torch.ones_like(one)]))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimiser.zero_grad()
        (-model(train).value.mean()).backward()
        optimiser.step()
    model.eval()
    test = labelled(600, 2)
    truth, accuracy = test.data["type"][:, 0].argmax(-1), {}
    for given in (("rna",), ("protein",), ("rna", "protein")):
        torch.manual_seed(1)
        share = model.generate(test.observe(*given), K=50)["type"].mean(0)[:, 0]  # [B, 3]
        torch.testing.assert_close(share.sum(-1), torch.ones(600))
        accuracy[given] = float((share.argmax(-1) == truth).float().mean())
    assert min(accuracy.values()) > 0.6, accuracy  # chance is .33, and its standard error .02
    assert accuracy["rna", "protein"] > max(accuracy["rna",], accuracy["protein",]) + 0.02, accuracy


def test_what_deepimv_predicts_does_not_look_at_the_label():
    model = build("deepimv", labels_world(), latent=2).double().eval()
    batch = Batch.of(
        {
            name: net.likelihood.sample(torch.zeros(5, *net.likelihood.output, dtype=DOUBLE)).detach()
            for name, net in model.modalities.items()
        }
    )
    made = []
    for given in (batch, batch.observe("values", "forward")):
        torch.manual_seed(3)
        made.append(model.generate(given, K=3))
    assert set(made[0]) == {"rna.counts", "type"}
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


@pytest.mark.parametrize("world", ["plain", "roles"])
@pytest.mark.parametrize("name", ["relational", "hmvae"])
def test_a_step_asks_once_what_z_tells_the_codes(name, world):
    """One call of every g_m, for the prior and the posterior of w together, on mixed and on complete data."""
    model = example_model(partial(build, name, latent=2, K=2, hidden=(5,)), WORLDS[world]())
    calls: Counter[str] = Counter()
    for key, net in model.modalities.items():
        net.parts["told"].register_forward_hook(partial(lambda key, *_: calls.update([key]), key))
    for batch in (example_batch(model), Batch.of(example_data(model, 3))):
        calls.clear()
        model(batch).value.sum().backward()
        assert calls == dict.fromkeys(model.modalities, 1)


VIEW, LABEL = Modality("x", (2,), role="source"), Modality("y", (1,), role="target")
EMPTY = partial(fixed, np.zeros((1, 2)), np.zeros(1))  # for a code without columns, of which torch warns


@pytest.mark.parametrize(
    ("name", "specs", "options", "message"),
    [
        (
            "deepimv",
            [VIEW],
            {},
            "deepimv: got the views ['x'] and no label to predict; expected at least one modality with role='target'",
        ),
        ("deepimv", [LABEL], {}, "deepimv: got only targets; expected at least one modality that is encoded"),
        (
            "deepimv",
            [replace(VIEW, role="both"), LABEL],
            {},
            "deepimv: modality 'x' has role='both'; expected 'source' for a view",
        ),
        ("deepimv", [VIEW, LABEL], {"alpha": -1.0}, "deepimv: got alpha=-1.0; expected a number, 0"),
        (
            "deepimv",
            [replace(VIEW, private=2), LABEL],
            {},
            "DeepIMV: modality 'x' has private=2, but this model has no private codes",
        ),
        (
            "relational",
            [replace(VIEW, private=0, encoder=EMPTY)],
            {},
            "relational: modality 'x' has private=0; expected at least one column, for its decoder",
        ),
        (
            "hmvae",
            [replace(VIEW, private=0)],
            {},
            "hmvae: modality 'x' has private=0; expected at least one column, for its variation",
        ),
        ("hmvae", [VIEW], {"K": 0}, "hmvae: got K=0; expected"),
        ("relational", [VIEW], {"K": 0}, "relational: got K=0; expected"),
    ],
)
def test_what_cannot_be_is_refused(name, specs, options, message):
    with pytest.raises(InputError) as problem:
        build(name, specs, **options)
    assert str(problem.value).startswith(message)
    assert "\n" not in str(problem.value)


def test_the_list_of_models_says_what_is_experimental(capsys):
    models()
    lines = dict(line.split("\t", 1) for line in capsys.readouterr().out.splitlines())
    assert {name for name, rest in lines.items() if "experimental" in rest} == {"relational", "hmvae"}

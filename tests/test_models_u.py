"""U-HVED: its formula by loops over subsets and levels, the authors' loss, its network and likelihood, memory, and what it segments."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from test_formulas import WORLDS, Hand, product
from torch import Tensor
from worlds import World

import polyvae.models.uhved as uhved
from polyvae import Batch, InputError, Modality, build
from polyvae.core import noise
from polyvae.core.likelihoods import LIKELIHOODS
from polyvae.core.networks import NETWORKS
from polyvae.core.networks.volume import level_shapes
from polyvae.core.vae import MultimodalVAE
from polyvae.testing import check_model, example_batch, example_model

SEQUENCES = ("t1", "t1c", "t2", "flair")


def images(
    sizes: tuple[int, ...], classes: int = 3, count: int = 4, weight: float = 1.0, **dials: object
) -> list[Modality]:
    """Sequences of one channel, and what is to be segmented."""
    made = [
        Modality(name, (1, *sizes), network="volume", weight=weight, params=dials)
        for name in SEQUENCES[:count]
    ]
    return [
        *made,
        Modality("seg", (classes, *sizes), "segmentation", network="volume", role="target", params=dials),
    ]


def subsets(members: list[int]) -> list[tuple[int, ...]]:
    return [subset for size in range(1, len(members) + 1) for subset in combinations(members, size)]


def kl_columns(a, b) -> np.ndarray:
    """KL(a || b) of normals (location, scale) in each column, by the textbook."""
    return np.log(b[1] / a[1]) + (a[1] ** 2 + (a[0] - b[0]) ** 2) / (2 * b[1] ** 2) - 0.5


# ---- the formula, one subset, one level, one sample at a time --------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("piece", [uhved._PIECE, 1])
@pytest.mark.parametrize(("variant", "K"), [("paper", 1), ("published", 2)])
def test_uhved(world, variant, K, piece, monkeypatch):
    """Levels of 1 and 3 columns; subsets all at once, and one after another. ``S`` is found from its prepared draws."""
    monkeypatch.setattr(uhved, "_PIECE", piece)
    hand = Hand(world, "u-hved", latent=4, levels=[1, 3], variant=variant, K=K, beta=1.5)
    levels = [np.array([0]), np.array([1, 2, 3])]
    prior = np.zeros(4), np.ones(4)

    def over_levels(columns: np.ndarray) -> float:
        if variant == "paper":
            return sum(float(columns[level].sum()) for level in levels)
        return 4 * float(np.mean([columns[level].mean() for level in levels]))

    def q(members):
        return product([*(hand.z[m] for m in members), prior])

    def drawn() -> tuple[int, ...]:
        score = {m: hand.draws["subset"][0, hand.model.encoded.index(m), hand.b] for m in hand.S}
        size = int(hand.draws["subset.size"][0, hand.b] * len(hand.S)) + 1
        return tuple(sorted(sorted(hand.S, key=score.__getitem__)[:size]))

    def value() -> float:
        S, everyone = drawn(), subsets(hand.S)
        total = -hand.beta * float(np.mean([over_levels(kl_columns(q(A), prior)) for A in everyone]))
        others = [over_levels(kl_columns(q(S), q(A))) for A in everyone if A != S]
        total -= hand.beta * float(np.mean(others)) if others else 0
        for k in range(K):
            z = q(S)[0] + q(S)[1] * hand.draws["z"][k, 0, hand.b]
            total += sum(
                hand.log_x(n, z, np.zeros(0)) / K for n in hand.A if hand.model.specs[n].role != "source"
            )
        return total

    hand.check(value)


def test_with_one_observed_and_exact_the_objective_is_the_truth():
    """By hand: one subset, so S = A and the coordination is 0. With q(z | x) = p(z | x), L = E log p(x | z) − KL(q || p) = log p(x).

    The product has the prior in it, so experts are the likelihood's factors.
    """
    world = World(experts="factor")
    batch = world.every_mask(400)
    with torch.no_grad():
        value = world.model("u-hved", beta=1.0)(batch).value.view(7, 400)
    alone = [0, 1, 3]  # the masks with one modality
    error = (value.mean(1).numpy() - world.log_p(world.every_mask()))[alone]
    assert (np.abs(error) <= 5 * (value.std(1) / 20).numpy()[alone]).all(), error


def test_the_likelihood_is_the_truth():
    """The joint density p(z) Π_m p(x_m | z), within 5 standard errors, for every mask."""
    world = World()
    batch = world.every_mask()
    estimate = world.model("u-hved").log_marginal(batch, K=4000)
    error, spread = np.abs(estimate.value.numpy() - world.log_p(batch)), estimate.standard_error.numpy()
    assert (error <= 5 * spread).all(), (error / spread).round(2)


def test_the_published_variant_is_the_authors_loss():
    """CE + Dice + 0.1 MSE + 0.1 KLD of their code in means, on images of 4 x 4 pixels with two levels; L is −N times it, and constants."""
    N, D, M, B = 16, 16 + 8, 4, 3
    specs = images((4, 4), weight=0.2 / M, width=0.25, levels=2)
    model = example_model(lambda specs: build("u-hved", specs, variant="published", beta=0.1 * N / D), specs)
    batch = Batch.of(
        {
            name: net.likelihood.sample(torch.randn(B, *net.spec.shape, dtype=torch.float64))
            for name, net in model.modalities.items()
        }
    )
    with torch.no_grad(), noise.record() as draws:
        value = model(batch).value.numpy()
        experts = model.experts(batch)
    loc, logvar = experts.z.loc.numpy(), 2 * experts.z.scale.log().numpy()
    score, size = draws["subset"].value[0].numpy(), draws["subset.size"].value[0].numpy()
    for b in range(B):
        S = np.argsort(score[:, b])[: int(size[b] * M) + 1]

        def fused(members, b=b):
            T = np.exp(-logvar[members, b])
            var = 1 / (1 + T.sum(0))
            return (T * loc[members, b]).sum(0) * var, np.log(var)

        def mean_kl(a, b, level):
            mu_1, lv_1, mu_2, lv_2 = a[0][level], a[1][level], b[0][level], b[1][level]
            return 0.5 * np.mean(-1 + lv_2 - lv_1 + (np.exp(lv_1) + (mu_1 - mu_2) ** 2) / np.exp(lv_2))

        KLD = 0.0
        for level in (slice(0, 16), slice(16, 24)):
            of_all = [fused(list(A)) for A in subsets(list(range(M)))]
            KLD += sum(mean_kl(fused(S), q, level) for q in of_all) / 14 / 2
            KLD += sum(mean_kl(q, (np.zeros(D), np.zeros(D)), level) for q in of_all) / 15 / 2
        mu, lv = fused(S)
        z = torch.as_tensor(mu + np.exp(lv / 2) * draws["z"].value[0, 0, b].numpy())[None]
        with torch.no_grad():
            out = {name: net.decode(z)[0].numpy() for name, net in model.modalities.items()}
        MSE = np.mean([(out[name] - batch.data[name][b].numpy()) ** 2 for name in SEQUENCES])
        logits, truth = out["seg"].reshape(3, N).T, batch.data["seg"][b].numpy().reshape(3, N).T
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        CE = -np.mean(np.log((p * truth).sum(1)))
        dice = 1 - np.mean(2 * (p * truth).sum(0) / ((p**2).sum(0) + truth.sum(0) + 1e-5))
        constant = 0.2 / M * M * N / 2 * np.log(2 * np.pi)
        assert -value[b] == pytest.approx(N * (CE + dice + 0.1 * MSE + 0.1 * KLD) + constant, rel=1e-10)


# ---- the likelihood --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dice", [0.0, 1.0, 0.3])
def test_a_segmentation_is_cross_entropy_and_dice_of_the_observed_pixels(dice):
    out, classes = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(4, (3, 5))
    classes[0] = 1  # a sample that lacks the other classes
    x = torch.nn.functional.one_hot(classes, 4).movedim(-1, 1).double()
    observed = (torch.rand(3, 1, 5) < 0.7).expand(3, 4, 5)
    got = LIKELIHOODS["segmentation"]((4, 5), dice).log_prob(out, torch.where(observed, x, 7.0), observed)
    chance = np.exp(out.numpy()) / np.exp(out.numpy()).sum(2, keepdims=True)
    for k in range(2):
        for b in range(3):
            pixels = np.flatnonzero(observed[b, 0].numpy())
            p, t = chance[k, b][:, pixels], x[b].numpy()[:, pixels]
            overlap = np.mean(
                [2 * (p[c] * t[c]).sum() / ((p[c] ** 2).sum() + t[c].sum() + 1e-5) for c in range(4)]
            )
            expected = np.log((p * t).sum(0)).sum() - dice * len(pixels) * (1 - overlap)
            assert float(got[k, b]) == pytest.approx(expected, rel=1e-12)


def test_a_segmentation_is_sub_normalised():
    """Over all 3^4 maps the probabilities sum to 1 without Dice, to less with it, and each is at most the categorical's."""
    maps = torch.cartesian_prod(*[torch.arange(3)] * 4)
    x = torch.nn.functional.one_hot(maps, 3).movedim(-1, 1).double()
    out = torch.randn(3, 4, dtype=torch.float64).expand(81, 3, 4)
    plain, dice = (LIKELIHOODS["segmentation"]((3, 4), weight).log_prob(out, x) for weight in (0.0, 0.5))
    assert float(plain.exp().sum()) == pytest.approx(1, rel=1e-12)
    assert (dice < plain).all()
    sure = LIKELIHOODS["segmentation"]((3, 4), 1.0).log_prob(
        60 * x - 30, x
    )  # certain and right: only the 1e-5, and classes not there
    there = x.sum(-1)
    expected = -4 * (1 - (2 * there / (2 * there + 1e-5)).mean(-1))
    torch.testing.assert_close(sure, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dice", ["x", -1.0, float("nan"), float("inf"), None])
def test_dice_is_a_number(dice):
    with pytest.raises(
        InputError, match=f"got dice={dice!r}; expected a number, 0 or more; leave it out for 1"
    ):
        LIKELIHOODS["segmentation"]((4, 5), dice)


def test_without_dice_a_segmentation_is_categorical():
    """The same numbers, draws and complaints with the classes first as with them last."""
    first, last = LIKELIHOODS["segmentation"]((4, 2, 3), 0.0), LIKELIHOODS["categorical"]((2, 3, 4))
    out = torch.randn(5, 4, 2, 3, dtype=torch.float64)
    with noise.record() as draws:
        x = first.sample(out)
    with noise.feed(draws):
        assert torch.equal(last.sample(out.movedim(1, -1)), x.movedim(1, -1))
    torch.testing.assert_close(first.log_prob(out, x), last.log_prob(out.movedim(1, -1), x.movedim(1, -1)))
    torch.testing.assert_close(first.mean(out), last.mean(out.movedim(1, -1)).movedim(-1, 1))
    everything = torch.ones_like(x, dtype=torch.bool)
    assert first.invalid(x, everything) == ""
    assert "one-hot rows over the first axis" in first.invalid(x.movedim(-1, 1).reshape(x.shape), everything)
    assert "one-hot rows over the first axis" in first.invalid(x / 2, everything)


# ---- the network -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "levels"), [((4, 6), 2), ((4, 2, 4), 2)])
def test_laws_over_images_and_volumes(sizes, levels):
    check_model("u-hved", modalities=images(sizes, classes=2, count=2, width=0.25, levels=levels))


def symmetric(net: torch.nn.Module) -> None:
    """Kernels that are their own mirror images along the last axis."""
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim > 2:
                p.copy_((p + p.flip(-1)) / 2)


def mirrored(code: Tensor, shapes: list[tuple[int, ...]]) -> Tensor:
    """Every level of a code flipped along its last axis."""
    parts = code.split([int(np.prod(shape)) for shape in shapes], -1)
    return torch.cat(
        [part.view(-1, *shape).flip(-1).flatten(1) for part, shape in zip(parts, shapes, strict=True)], -1
    )


@pytest.mark.parametrize("sizes", [(8, 12), (4, 8, 8)])
def test_levels_lie_in_the_code_as_said(sizes):
    """With symmetric kernels, the code of a mirrored image is the mirrored code, level by level, and back; every level is used."""
    dials = {"width": 0.5, "levels": 3}
    shapes = level_shapes((1, *sizes), **dials)
    D = sum(int(np.prod(shape)) for shape in shapes)
    encoder, decoder = (
        NETWORKS["volume"].encoder((1, *sizes), 2 * D, **dials).double(),
        NETWORKS["volume"].decoder((D,), (3, *sizes), **dials).double(),
    )
    symmetric(encoder)
    symmetric(decoder)
    x, code = (
        torch.randn(2, 1, *sizes, dtype=torch.float64),
        torch.randn(2, D, dtype=torch.float64, requires_grad=True),
    )
    loc, raw = encoder(x).chunk(2, -1)
    other_loc, other_raw = encoder(x.flip(-1)).chunk(2, -1)
    torch.testing.assert_close(other_loc, mirrored(loc, shapes))
    torch.testing.assert_close(other_raw, mirrored(raw, shapes))
    assert not torch.allclose(loc, other_loc)
    out = decoder(code)
    torch.testing.assert_close(decoder(mirrored(code, shapes)), out.flip(-1))
    out.square().sum().backward()
    assert bool((code.grad != 0).all())


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: build("u-hved", images((8, 8), levels=3), latent=100), "latent=448"),
        (lambda: build("mvae", images((8, 8), levels=3), latent=100), "latent=448"),
        (lambda: build("u-hved", images((4, 4), levels=3)), "levels=3"),
        (lambda: build("u-hved", [Modality("a", (5,), network="volume")]), r"\(channels, height, width\)"),
        (
            lambda: build(
                "u-hved",
                [*images((8, 8), levels=2), Modality("b", (1, 8, 6), network="volume", params={"levels": 2})],
            ),
            "one grid",
        ),
        (lambda: build("u-hved", [Modality("a", (5,))], latent=4, levels=[1, 2]), "latent=4 and levels"),
        (lambda: build("u-hved", [Modality("a", (5,))], levels=[1, 0]), "levels=0"),
        (lambda: build("u-hved", [Modality("a", (5,))], variant="code"), "published"),
        (lambda: build("u-hved", [Modality("a", (5,), "segmentation")]), "categorical"),
    ],
)
def test_what_cannot_be_is_said_at_construction(make, part):
    with pytest.raises(InputError, match=part) as problem:
        make()
    assert "\n" not in str(problem.value)


# ---- memory ----------------------------------------------------------------------------------------------------------------------


def saved(model: MultimodalVAE, batch: Batch) -> int:
    """Bytes that a step keeps for its backward pass."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        held.append(x)
        return x

    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model(batch)
    return sum(kept.values())


def test_memory_does_not_grow_with_the_number_of_subsets(monkeypatch):
    """4 subsets of one, or all 15: a step keeps the same, where 15 at once would keep more than 15 latents more."""
    model = example_model(lambda specs: build("u-hved", specs), images((8, 8), width=0.25, levels=2))
    batch = example_batch(model, entries=False)
    latents = model.latent * batch.size * 8
    at_once = saved(model, batch)
    monkeypatch.setattr(uhved, "_PIECE", 1)
    looped = saved(model, batch)
    monkeypatch.setattr(
        uhved, "subsets", lambda mask, name: torch.eye(len(mask), dtype=torch.bool)[:, :, None] & mask
    )
    few = saved(model, batch)
    assert abs(looped - few) < latents / 2, (looped, few)
    assert at_once - looped > 15 * latents, (at_once, looped)


# ---- what it segments ------------------------------------------------------------------------------------------------------------


def balls(rows: int, sizes: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    """A ball with a core somewhere in every volume; four sequences with contrasts of their own, in noise of half a contrast."""
    draws = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.arange(size) / size for size in sizes), indexing="ij")
    centre = 0.35 + 0.3 * torch.rand(rows, len(sizes), *[1] * len(sizes), generator=draws)
    radius = 0.28 + 0.1 * torch.rand(rows, *[1] * len(sizes), generator=draws)
    distance = (torch.stack(axes) - centre).norm(dim=1)
    label = (distance < radius).long() + (distance < 0.6 * radius).long()
    contrast = torch.tensor([[0, 1, 2], [1, 0, -1], [0, 2, 1], [0, -1, 1.0]])
    data = {
        name: (tone[label] + 0.5 * torch.randn(label.shape, generator=draws))[:, None]
        for name, tone in zip(SEQUENCES, contrast, strict=True)
    }
    return data | {"seg": torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float()}


def dice(said: Tensor, truth: Tensor) -> float:
    """The classes' mean overlap, [N, C, *sizes] one-hot."""
    dims = (0, *range(2, said.ndim))
    return float((2 * (said * truth).sum(dims) / (said + truth).sum(dims)).mean())


@pytest.mark.parametrize(("sizes", "steps"), [((10, 10, 10), 30), ((16, 16), 40)])
def test_one_sequence_of_four_segments(sizes, steps):
    """Trained with a tenth of everything missing, each sequence alone beats the majority class in overlap and the classes' shares in

    cross-entropy, and completes another sequence better than that one's mean does.
    """
    model = build("u-hved", images(sizes, width=0.5, levels=2))
    data, test = balls(48, sizes, 0), balls(16, sizes, 1)
    mask = torch.rand(5, 48) < 0.9
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(steps):
        rows = torch.randperm(48)[:5]
        loss = -model(Batch.of({name: x[rows] for name, x in data.items()}, mask[:, rows])).value.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    truth, batch = test["seg"], Batch.of(test)
    majority = torch.nn.functional.one_hot(torch.zeros(truth[:, 0].shape, dtype=torch.long), 3).movedim(-1, 1)
    share = truth.mean([0, *range(2, truth.ndim)])
    for name in SEQUENCES:
        made = model.generate(batch.observe(name), K=4)
        p = made["seg"].mean(0)
        said = torch.nn.functional.one_hot(p.argmax(1), 3).movedim(-1, 1)
        entropy = -(truth * p.clamp(min=1e-9).log()).sum(1).mean()
        assert dice(said, truth) > dice(majority, truth) + 0.15
        assert entropy < 0.8 * -(share * share.log()).sum()
        other = "t2" if name != "t2" else "t1"
        assert (made[other].mean(0) - test[other]).square().mean() < 0.9 * test[other].var()

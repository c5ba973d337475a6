"""U-HVED: its formula by loops over subsets and levels, the authors' loss, memory, and what it segments."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

import polyvae.models.uhved as uhved
from polyvae import Batch, InputError, Modality, build
from polyvae.core import noise
from polyvae.core.vae import MultimodalVAE
from polyvae.testing import check_model, example_batch, example_model
from tests.helpers.hand import WORLDS, Hand, product
from tests.helpers.worlds import World

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
                hand.log_x(n, z, np.zeros(0)) / K for n in hand.A if hand.model.specs[n].role != "input"
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


@pytest.mark.parametrize(("sizes", "levels"), [((4, 6), 2), ((4, 2, 4), 2)])
def test_laws_over_images_and_volumes(sizes, levels):
    check_model("u-hved", modalities=images(sizes, classes=2, count=2, width=0.25, levels=levels))


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

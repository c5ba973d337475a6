"""Set fusion: the formula, computed a second way, for both pools and both variants."""

from __future__ import annotations

from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch

from polyvae import InputError, build
from polyvae.core import noise
from polyvae.testing import example_batch, example_model, plain_world
from tests.helpers.hand import NONE, UNIT, WORLDS, Hand, decodes, kl, kl_normal
from tests.helpers.worlds import small


def normalised(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def fused(hand: Hand, members: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """q(z | x_S): set by set, head by head, member by member."""
    if not members:
        return UNIT
    of = {key: value.detach().numpy() for key, value in hand.model.fusion.state_dict().items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ of[f"{name}.weight"].T + of.get(f"{name}.bias", 0)

    def relu(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)

    features = [
        relu(linear("of_loc", hand.z[m][0]) + linear("of_scale", np.log(hand.z[m][1]))) for m in members
    ]
    x = np.stack([linear("each", each) for each in features])  # [S, F]
    for b in range(len(hand.model.fusion.blocks)):
        name, width = f"blocks.{b}", x.shape[1]
        inner = linear(
            f"{name}.project", normalised(x, of[f"{name}.before.weight"], of[f"{name}.before.bias"])
        )
        query, key, value = np.split(inner, 3, -1)
        size, out = width // hand.model.heads, np.zeros_like(x)
        for start in range(0, width, size):
            head = slice(start, start + size)
            for i in range(len(x)):
                weight = np.exp(query[i, head] @ key[:, head].T / np.sqrt(size))
                out[i, head] = weight / weight.sum() @ value[:, head]
        x = x + linear(f"{name}.merge", out)
        after = normalised(x, of[f"{name}.after.weight"], of[f"{name}.after.bias"])
        x = x + linear(f"{name}.each.2", relu(linear(f"{name}.each.0", after)))
    if len(hand.model.fusion.blocks):
        x = normalised(x, of["norm.weight"], of["norm.bias"])
    hidden = relu(linear("pooled", x.sum(0)))
    raw = torch.from_numpy(linear("raw", hidden))
    return linear("loc", hidden), hand.model.modalities[hand.names[0]].scale(raw).numpy()


@pytest.mark.parametrize("variant", ["conditional", "mixture"])
@pytest.mark.parametrize(("world", "pool"), list(zip(WORLDS, ("attention", "sum"), strict=True)))
def test_set_fusion(world, pool, variant):
    options = {"pool": pool, "variant": variant, "width": 6, "heads": 2}
    hand = Hand(world, "set-fusion", K=2, beta=1.5, **options)
    sizes = set()

    def value() -> float:
        share, u = hand.draws["share"][hand.b], hand.draws["subset"][0, :, hand.b]
        S = [m for m in hand.S if u[hand.model.encoded.index(m)] < share]
        sizes.add(len(S))
        q_S, q_A = fused(hand, S), fused(hand, hand.S)
        total = -hand.beta * (kl_normal(*q_S) + (kl(q_A, q_S) if variant == "conditional" else 0))
        for n in filter(partial(decodes, hand), hand.A):
            row = int(variant == "conditional" and n not in S)
            loc, scale = (q_S, q_A)[row]
            for k in range(2):
                total += hand.log_x(n, loc + scale * hand.draws["z"][k, row, hand.b], NONE) / 2
        return total

    hand.check(value)
    assert len(sizes) > 2


@pytest.mark.parametrize("pool", ["sum", "attention"])
def test_the_posterior_is_that_of_a_set(pool):
    """Any order of the experts, with any values where one is missing, gives the same distribution."""
    model = example_model(
        lambda specs: build("set-fusion", specs, latent=3, pool=pool, width=8), plain_world()
    ).eval()
    batch = example_batch(model)
    experts = model.experts(batch)
    q = model.posterior(batch, experts).components
    for order in permutations(range(4)):
        rows = list(order)
        z = experts.z[rows].map(lambda x, rows=rows: torch.where(experts.mask[rows][..., None], x, 1e3))
        other = model.posterior(batch, experts._replace(z=z, mask=experts.mask[rows])).components
        torch.testing.assert_close((other.loc, other.scale), (q.loc, q.scale), rtol=1e-9, atol=1e-9)


def test_subsets_have_uniform_sizes():
    model = build("set-fusion", small(3), latent=2, width=4)
    torch.manual_seed(0)
    with noise.record():
        subset = model._subset(torch.ones(3, 20000, dtype=torch.bool))[0]
    counts = subset.sum(0).bincount(minlength=4) / 20000
    assert counts.numpy() == pytest.approx(0.25, abs=0.02)
    assert subset.double().mean(1).numpy() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "mean"}, "set-fusion: unknown pool 'mean'; known: sum, attention"),
        ({"variant": "masked"}, "set-fusion: unknown variant 'masked'"),
        (
            {"pool": "attention", "width": 6},
            "set-fusion: got width=6 with heads=4; expected heads that divide",
        ),
        ({"depth": 0}, "set-fusion: got depth=0; expected"),
    ],
)
def test_a_set_fusion_that_cannot_be(options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        build("set-fusion", small(2), latent=2, **options)

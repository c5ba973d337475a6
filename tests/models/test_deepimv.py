"""DeepIMV: the formula, its brackets below their truths, what it predicts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from polyvae import Batch, Modality, build
from polyvae.testing import labels_world
from tests.helpers.golden import DOUBLE
from tests.helpers.hand import NONE, WORLDS, Hand, kl_normal, product
from tests.helpers.levels import HALF_LOG_TWO_PI, PLUS_MINUS, fed, says
from tests.helpers.worlds import World, fixed, raw

pytestmark = pytest.mark.filterwarnings("error")


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


def test_deepimv_by_hand():
    """One view, q_1 = N(1, 1/3); y = 1; p(y | z) = N(2z, 1) and p_1(y | z) = N(z, 1); β = ½, α = ¼.

    Joint: precision 1 + 3 and q = N(¾, ¼). E log p(y | z) = −½ log 2π − ½[(1 − 1½)² + 4 · ¼], KL = ½(¼ + 9/16 − 1 + log 4).
    Alone: E log p_1(y | z) = −½ log 2π − ½[(1 − 1)² + 1/3], KL = ½(1/3 + 1 − 1 + log 3).
    """
    specs = [
        Modality("x", (1,), role="input", encoder=says(1.0, float(raw(np.array(3**-0.5))))),
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


def test_every_bracket_of_deepimv_stays_below_log_p_of_the_label():
    """With β = 1 each is an ELBO of log p(y), y = A z + b + noise, whose posterior looks at x instead of y: there are 1 + |O|."""
    world = World()
    roles = ("input", "input", "target")
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
        Modality("rna", (6,), role="input", params=net),
        Modality("protein", (6,), role="input", params=net),
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

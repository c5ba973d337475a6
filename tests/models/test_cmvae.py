"""CMVAE: the port's numbers and the pruning of clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from polyvae import Batch, InputError, Modality, build
from polyvae.core import noise
from polyvae.models.bundles import load_model, save_model
from polyvae.testing import example_batch, example_model, plain_world
from tests.helpers.golden import DOUBLE, D, W, close, data_of, eps, golden_specs, leaves, raw, recorded, wave

pytestmark = pytest.mark.filterwarnings("error")


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
    model.raw_r.data = raw(scale).detach()
    with noise.feed({"z": eps(0.15, K, M, B, D), "w": eps(0.85, K, M, B, M * W)}):
        value = model(Batch.of({f"m{m}": x for m, x in enumerate(data_of(M, B))})).value.sum()
    value.backward()
    theirs = case["gradients"]
    slope = torch.autograd.grad(raw(scale).sum(), scale)[0]
    ours = {
        "loc": model.prior.loc.grad,
        "logits": model.prior.logits.grad,
        "r_scale": model.raw_r.grad * slope,
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
    again = load_model(tmp_path / "pruned.safetensors", trust=["tests"])
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


def test_pruning_needs_data_and_a_known_criterion():
    model, batch = clustered()
    with pytest.raises(InputError, match="unknown criterion 'entropi'; did you mean 'entropy'"):
        model.prune(batch, "entropi")
    with pytest.raises(InputError, match="got no observed modality to prune by"):
        model.prune(batch.observe())

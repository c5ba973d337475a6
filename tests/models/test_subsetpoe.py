"""Subset-PoE against its formula, written out."""

import pytest
import torch

import polyvae as pv
from polyvae.core import noise
from polyvae.core.aggregate import thinned

LOG_TWO_PI = 1.8378770664093453


@pytest.fixture
def model() -> pv.models.SubsetPoE:
    torch.manual_seed(0)
    params = {"scale": 0.7, "hidden": [6], "dropout": 0.0}
    specs = [
        pv.Modality("a", 3, network="table", params=params),
        pv.Modality("b", 2, network="table", params=params),
    ]
    return pv.build("subset-poe", specs, latent=2, beta=1.3, K=2).double()


def test_the_objective_is_the_formula(model):
    batch = pv.Batch.of(
        {"a": torch.randn(5, 3).double(), "b": torch.randn(5, 2).double()},
        mask={"b": [True, False, True, True, False]},
    )
    with noise.record() as draws:
        found = model(batch).value
    u, z = draws["subset"].value[0], draws["z"].value[:, 0]
    z = torch.as_tensor(z)
    for row in range(5):
        observed = [m for m in range(2) if batch.mask[m, row]]
        members = [m for m in observed if u[m, row] <= 0.75] or [
            min(observed, key=lambda m: u[m, row].item())
        ]
        precision, pull = torch.ones(2).double(), torch.zeros(2).double()
        for m in members:
            name = model.modalities.at(m).spec.name
            q = model.modalities[name].encode(batch.data[name][row : row + 1]).z
            precision = precision + q.scale[0] ** -2
            pull = pull + q.loc[0] / q.scale[0] ** 2
        mean, scale = pull / precision, precision**-0.5
        kl = (0.5 * (mean**2 + scale**2 - 1) - scale.log()).sum()
        total = torch.zeros(()).double()
        for k in range(2):
            for m in observed:
                net = model.modalities.at(m)
                out = net.mean((mean + scale * z[k, row])[None])[0]
                x = batch.data[net.spec.name][row]
                total = (
                    total
                    - (0.5 * ((x - out) / 0.7) ** 2 + torch.tensor(0.7).log() + 0.5 * LOG_TWO_PI).sum() / 2
                )
        assert found[row].item() == pytest.approx((total - 1.3 * kl).item(), abs=1e-6)


def test_inference_uses_everything_observed(model):
    batch = pv.Batch.of({"a": torch.randn(4, 3).double(), "b": torch.randn(4, 2).double()})
    q = model.posterior(batch, model.experts(batch))
    assert q.weights.shape == (1, 4)
    assert bool(q.membership.all())


def test_members_are_kept_with_the_given_probability():
    mask = torch.tensor([[True], [True], [False]]).expand(3, 20_000)
    torch.manual_seed(0)
    members = thinned(mask, 0.75)[0]
    assert members[:2].any(0).all()
    assert not members[2].any()
    # Both are left out with probability 1/16; then one of the two is chosen.
    expected = 0.75 + 0.25**2 / 2
    assert members[:2].double().mean(1).tolist() == pytest.approx([expected] * 2, abs=0.01)


def test_a_dense_model_has_the_same_values_and_gradients(model):
    batch = pv.Batch.of(
        {"a": torch.randn(6, 3).double(), "b": torch.randn(6, 2).double()},
        mask={"a": [True, True, False, True, False, True], "b": [True, False, True, True, True, False]},
    )
    results = []
    for dense in (False, True):
        model.modalities.dense = dense
        model.zero_grad()
        torch.manual_seed(1)
        value = model(batch).value
        value.sum().backward()
        results.append((value.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(results[0][0], results[1][0], rtol=0, atol=1e-12)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("keep", [0, 1.5, "half"])
def test_keep_is_a_probability(keep):
    with pytest.raises(pv.InputError, match="probability"):
        pv.build("subset-poe", [pv.Modality("a", 3)], keep=keep)

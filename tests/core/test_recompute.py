"""Rows that count are gone through backwards, the others are not, and nobody can tell by the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polyvae import Batch, Modality, build
from polyvae.core.networks import NETWORKS
from polyvae.core.recompute import rows_apart, run_selectively, share_that_counts

MODELS = [
    ("mmvae+", {"objective": "dreg"}),
    ("mmvae+", {"objective": "iwae", "source_experts": "random"}),
    ("mmvae", {"objective": "dreg"}),
    ("mmvae", {"objective": "iwae", "tight": True}),
    ("mmvae", {"objective": "dreg", "tight": True}),
    ("cmvae", {"objective": "iwae"}),
    ("composed", {"objective": "dreg"}),
    ("holder", {"objective": "iwae"}),
]


def example(name="mmvae+", scale=0.01, rows=9, max_rows=None, **options):
    """A model, and a batch in which some of each modality is missing. ``scale``: small is a sharp likelihood."""
    torch.manual_seed(0)
    specs = [
        Modality("image", (1, 8, 8), "laplace", params={"scale": scale, "width": 0.25}),
        Modality("vector", (30,), "normal", params={"scale": scale, "hidden": [8]}),
        Modality("label", (3,), "categorical"),
        Modality("count", (20,), "negative_binomial"),
    ]
    model = build(name, specs, latent=3, K=6, **options).train()
    model.max_rows = max_rows
    data = {
        "image": torch.rand(rows, 1, 8, 8),
        "vector": torch.randn(rows, 30),
        "label": torch.eye(3)[torch.arange(rows) % 3],
        "count": torch.randint(0, 9, (rows, 20)).to(torch.get_default_dtype()),
    }
    mask = torch.ones(4, rows, dtype=torch.bool)
    mask[0, 1] = mask[1, 2] = mask[2, 0] = False
    mask[:, 4] = False
    return model, Batch.of(data, mask, {"vector": torch.rand(rows, 30) > 0.2})


def gradients(model, batch, monkeypatch, again):
    """The value, name -> gradient, and how many rows each decoder was given in each call."""
    calls = {name: [] for name in model.modalities}
    hooks = [
        net.decoder.register_forward_hook(lambda _, given, out, to=calls[name]: to.append(len(given[0])))
        for name, net in model.modalities.items()
    ]
    with monkeypatch.context() as patch:
        if not again:
            patch.setattr("polyvae.core.modalities.plan", lambda *_: frozenset())
        torch.manual_seed(1)
        model.zero_grad()
        value = model(batch).value
        value.sum().backward()
    for hook in hooks:
        hook.remove()
    return value.detach(), {name: p.grad for name, p in model.named_parameters()}, calls


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("max_rows", [None, 20])
@pytest.mark.parametrize(("name", "options"), MODELS)
def test_the_gradient_is_the_same(name, options, max_rows, monkeypatch):
    model, batch = example(name, max_rows=max_rows, **options)
    value, plain, calls = gradients(model, batch, monkeypatch, again=False)
    same, spared, others = gradients(model, batch, monkeypatch, again=True)
    torch.testing.assert_close(same, value, rtol=1e-12, atol=0)
    for key, one in plain.items():
        torch.testing.assert_close(spared[key], one, rtol=1e-8, atol=1e-11 * float(one.abs().max()))
    if max_rows is None:
        for key, (every,) in calls.items():
            first, whole, few = others[key]
            assert (first < every / 4, whole) == (True, every), key
            assert few < 0.4 * every, key  # here a sixth, and a few close seconds


class Draws(nn.Sequential):
    """Nobody knows what a module of one's own does to its rows: this one drops some."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5))


@pytest.mark.parametrize(
    ("change", "image", "vector"),
    [
        ({}, 3, 3),
        ({"scale": 100.0}, 2, 2),
        ({"rows": 7}, 1, 1),
        ({"K": 2}, 1, 1),
        ({"objective": "elbo"}, 1, 1),
        ({"draws": True}, 3, 2),
        ({"x": True}, 3, 2),
        ({"entries": False, "rows": 40}, 3, 2),
    ],
)
def test_who_is_run_selectively(change, image, vector, monkeypatch):
    """A look at a few, all, and some again; but not where many weights count, where there are few samples or weights, where a decoder might
    draw or mix, where data has a gradient, and where the Gram matrix spares the data's width (without gaps)."""
    options = {"objective": "dreg"} | {
        key: change[key] for key in ("scale", "rows", "objective") if key in change
    }
    model, batch = example(**options)
    model.K = change.get("K", model.K)
    if "draws" in change:
        model.modalities["vector"].decoder = Draws(model.modalities["vector"].decoder)
    if "x" in change:
        batch.data["vector"].requires_grad_()
    if "entries" in change:
        batch = batch._replace(entries={})
    _, _, calls = gradients(model, batch, monkeypatch, again=True)
    assert [len(calls[name]) for name in ("image", "vector")] == [image, vector]


def test_without_a_gradient_nothing_is_decoded_twice(monkeypatch):
    model, batch = example(objective="dreg")
    calls = []
    model.modalities["image"].decoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(batch)
    assert calls == [1]


def test_what_is_left_out_is_less_than_a_rounding_of_the_sum():
    code = torch.ones(4, 2, requires_grad=True)
    scale = nn.Parameter(torch.tensor(3.0))
    asked = []

    def run(code, datum):
        asked.append(datum.tolist())
        return scale * code.sum(-1)

    eps = torch.finfo(torch.float32).eps
    each = torch.tensor([1.0, eps / 8, -eps, torch.tensor(1e-44)])
    for rows, expected in ((None, [[0, 2]]), (1, [[0], [2]])):
        code.grad = scale.grad = None
        asked.clear()
        found = run_selectively(run, code, torch.arange(4), [scale], rows)
        assert asked == ([[0, 1, 2, 3]] if rows is None else [[0], [1], [2], [3]])
        asked.clear()
        found.backward(each)
        assert asked == expected
        assert code.grad[:, 0].tolist() == pytest.approx([3.0, 0, -3 * eps, 0])
        assert float(scale.grad) == pytest.approx(2 - 2 * eps)
    for bad in (torch.nan, torch.inf):  # never left out, and nothing beside them either
        found = run_selectively(run, code, torch.arange(4), [scale])
        code.grad = scale.grad = None
        asked.clear()
        found.backward(torch.tensor([0.0, bad, 1.0, 0.0]))
        assert asked == [[0, 1, 2, 3]]
        assert code.grad[[0, 2, 3], 0].tolist() == [0, 3, 0]
        assert not code.grad[1].isfinite().any()
        assert not scale.grad.isfinite()
    scale.grad = None
    run_selectively(run, code, torch.arange(4), [scale]).backward(torch.zeros(4))
    assert float(scale.grad) == 0  # never None: distributed training waits for it


def test_autocast_keeps_no_weights_without_a_graph(monkeypatch):
    """What is decoded for a first look is of the precision of the rest, and the rest still learns."""
    for scale in (0.01, 100.0):
        model, batch = example(objective="iwae", scale=scale)
        found = []
        for again in (False, True):
            with torch.autocast("cpu", torch.bfloat16):
                _, grads, _ = gradients(model, batch, monkeypatch, again)
            found.append(torch.cat([g.flatten() for g in grads.values()]))
        assert float((found[0] - found[1]).norm()) < 0.02 * float(found[0].norm())
        parts = [float(g.norm()) for name, g in grads.items() if "decoder" in name]
        assert min(parts) > 0


def test_the_backward_pass_has_the_precision_of_the_forward_pass():
    seen = []

    def run(code, _):
        seen.append((code @ torch.ones(2, 1)).dtype)
        return code.sum(-1)

    with torch.autocast("cpu", torch.bfloat16):
        found = run_selectively(run, torch.ones(3, 2, requires_grad=True), torch.arange(3), [])
    found.sum().backward()
    assert seen == [torch.bfloat16, torch.bfloat16]


def test_shares():
    flat = torch.zeros(4, 3)
    assert share_that_counts(torch.tensor([[0.0], [-1.0], [-200.0], [-300.0]])) == 0.5
    assert (
        share_that_counts(torch.cat([flat, torch.tensor([[0.0], [-1.0], [-200.0], [-300.0]])], 1)) == 0.5
    )  # flat: nothing was observed
    assert not share_that_counts(flat) < 0.5  # of nobody


def test_whose_rows_stand_apart():
    class Own(nn.Linear):
        pass

    class Says(nn.Linear):
        rows_apart = True

    for name, (_, decoder, _) in NETWORKS.items():
        out = (1, 16) if name == "series" else (1, 16, 16)
        assert rows_apart(decoder((1920 if name == "volume" else 4,), out)), name
    norm = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert not rows_apart(norm)
    assert rows_apart(norm.eval())
    assert rows_apart(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), Says(2, 2)))
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
    old = nn.utils.spectral_norm(nn.Linear(2, 2))
    says = Says(2, 2)
    says.inside = nn.Dropout()
    for other in (
        Own(2, 2),
        nn.Sequential(nn.Linear(2, 2), Own(2, 2)),
        nn.Dropout(),
        nn.RReLU(),
        spectral,
        old,
        says,
    ):
        assert not rows_apart(other)

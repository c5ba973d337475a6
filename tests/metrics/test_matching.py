"""FOSCTTM and recall: exact cases, and numbers of a second computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

import polyvae as pv
from polyvae.metrics.context import Context, subsample
from polyvae.metrics.matching import match, matching
from tests.helpers.worlds import World


def test_a_perfect_pairing():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    found = match(x, x + 1e-6)
    assert (found.foscttm, found.recall) == (0.0, {1: 1.0, 5: 1.0, 10: 1.0})
    assert found.chance == {1: 1 / 40, 5: 5 / 40, 10: 10 / 40}


def test_unrelated_embeddings_are_at_chance():
    """The expectation at random is (N − 1) / 2N, and k / N."""
    draws = torch.Generator().manual_seed(0)
    found = match(torch.randn(1500, 4, generator=draws), torch.randn(1500, 4, generator=draws))
    assert found.foscttm == pytest.approx(0.5, abs=0.02)
    assert found.recall[10] == pytest.approx(10 / 1500, abs=0.004)


def test_a_constant_embedding_is_at_chance_and_not_perfect():
    found = match(torch.zeros(20, 2), torch.randn(20, 2, generator=torch.Generator().manual_seed(0)))
    assert 0.4 < found.foscttm < 0.6
    both = match(torch.zeros(20, 2), torch.zeros(20, 2))
    assert both.foscttm == pytest.approx(19 / 40)
    assert both.recall == pytest.approx({1: 1 / 20, 5: 5 / 20, 10: 10 / 20})


def test_the_farthest_match():
    x = torch.tensor([[0.0], [1.0], [2.0]])
    found = match(x, -x + 2, ks=(1, 2, 3, 4))  # 0 is matched with 2, 1 with 1
    assert found.foscttm == pytest.approx((2 + 0 + 2) / 9)
    assert found.recall == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1.0})


def test_it_is_the_number_of_glue_where_no_distances_are_equal():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2100, 3))
    y = x + rng.normal(size=x.shape)
    d = cdist(x, y)
    theirs = ((d < np.diag(d)[:, None]).mean(1).mean() + (d < np.diag(d)).mean(0).mean()) / 2
    assert match(x, y).foscttm == pytest.approx(theirs, rel=1e-12)


def test_the_metric_uses_each_modality_alone():
    world = World(latent=2)
    model = world.model("mopoe").eval()
    x = world.data(50)
    mask = {"c": np.arange(50) < 30}
    found = matching(Context.of(model, pv.MultimodalData({k: v.numpy() for k, v in x.items()}, mask=mask)))
    batch = pv.Batch.of(x)
    expected = match(model.embed(batch.observe("a")), model.embed(batch.observe("b")))
    assert found["matching"]["a"]["b"]["foscttm"] == pytest.approx(expected.foscttm)
    assert [found["matching"][a][b]["rows"] for a, b in ("ab", "ac", "bc")] == [50, 30, 30]
    cells = [found["matching"][a][b] for a, b in ("ab", "ac", "bc")]
    assert found["foscttm"] == pytest.approx(np.mean([cell["foscttm"] for cell in cells]))
    assert found["recall_at_10"] == pytest.approx(np.mean([cell["recall"]["10"] for cell in cells]))


def test_samples_are_chosen_among_those_that_have_what_is_needed():
    data = pv.MultimodalData({"x": torch.arange(50.0)[:, None]})
    among = torch.arange(50) % 3 == 0
    for rows in (8, 17, 30):
        few = subsample(data, rows, 1, among)
        assert torch.equal(few.values("x"), subsample(data.rows(among), rows, 1).values("x"))
        assert bool(among[few.values("x")[:, 0].long()].all())


def test_without_a_shared_latent_there_is_none_and_invalid_embeddings_are_refused():
    world = World(latent=0, private=1)
    assert matching(Context.of(world.model("vae").eval(), pv.MultimodalData(world.data(9)))) == {}
    with pytest.raises(pv.InputError, match="two of one shape"):
        match(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(pv.InputError, match="NaN or infinite for 1 of 3"):
        match(np.full((3, 1), [[0], [1], [np.nan]]), np.zeros((3, 1)))

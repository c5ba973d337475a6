"""Hiding modalities: the rate, the stated dependence on values, determinism, and no sample that loses everything."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from scipy import sparse

from polyvae.core.modality import Modality
from polyvae.data import MultimodalData, hiding
from polyvae.data.hiding import SLOPE, driver, probabilities, scores
from polyvae.data.kept import Kept
from polyvae.utils.errors import InputError

N = 4000


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])


@pytest.fixture
def data():
    """Three independent modalities, each led by one factor; "y" lacks every tenth sample, "z" is a target."""
    draws = torch.Generator().manual_seed(0)
    factor = torch.randn(3, N, 1, generator=draws)
    loadings = torch.tensor([1.0, -2.0, 0.5, 1.0])
    x, y, z = (f * loadings + 0.3 * torch.randn(N, 4, generator=draws) for f in factor)
    mask = {"y": torch.arange(N) % 10 != 0}
    specs = [Modality("x", (4,)), Modality("y", (4,)), Modality("z", (4,), role="target")]
    return MultimodalData({"x": x, "y": y, "z": z}, mask=mask, modalities=specs)


def test_completely_at_random_draws_what_it_always_drew():
    """Recorded before there were mechanisms: runs with hidden modalities resume with the same data."""
    mask = torch.ones(5, 400, dtype=torch.bool)
    mask[1, ::3] = False
    arrays = {f"m{m}": torch.ones(400, 1) for m in range(5)}
    data = MultimodalData(arrays, mask=mask)
    for given in (
        data.hide(0.4, seed=3),
        data.hide(0.4, 3, "mcar"),
        data.hide(0.4, seed=3, mechanism="mcar"),
    ):
        digest = hashlib.blake2b(given.mask.numpy().tobytes(), digest_size=8).hexdigest()
        assert digest == "bac2f299636a8181"


def test_a_score_is_the_leading_factor_with_a_fixed_sign(data):
    score = scores(data.take(slice(None)), "x")
    assert abs(score.mean()) < 1e-9
    assert score.std(correction=0) == pytest.approx(1)
    assert correlation(score, data.values("x")[:, 0]) > 0.9
    # Units of the columns do not matter, and neither does the number of rows beyond those from which loadings are computed.
    scaled = MultimodalData({"x": data.values("x") * torch.tensor([1, 1e3, 1e-3, 5]) + 7})
    torch.testing.assert_close(scores(scaled.take(slice(None)), "x"), score, rtol=1e-3, atol=1e-3)
    missing = scores(data.take(slice(None)), "y")[::10]
    assert missing.eq(0).all()


@pytest.mark.parametrize(
    ("mechanism", "expected"), [("mar", "c04fd7b3910b1fe0"), ("mnar", "586c1f292c961dd3")]
)
def test_masks_are_those_of_values_read_all_at_once(mechanism, expected):
    """Recorded before values were read some samples at a time."""
    draws = torch.Generator().manual_seed(3)
    data = MultimodalData(
        {name: torch.randn(400, width, generator=draws) for name, width in (("a", 5), ("b", 3))}
    )
    mask = data.hide(0.4, 3, mechanism).mask
    assert hashlib.blake2b(mask.numpy().tobytes(), digest_size=8).hexdigest() == expected


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("kind", ["memory map", "sparse"])
def test_values_that_stay_in_place_are_read_some_at_a_time_with_the_same_scores(
    kind, gaps, tmp_path, monkeypatch
):
    """Bit for bit, also where pieces are small, whose sums are those of all values at once up to rounding."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=draws) * torch.rand(500, 6, generator=draws).round()
    entries = {"x": torch.rand(500, 6, generator=draws) > 0.2} if gaps and kind != "sparse" else {}
    mask = {"x": torch.arange(500) % 7 > 0}
    np.save(tmp_path / "x.npy", x.numpy())
    stored = (
        np.load(tmp_path / "x.npy", mmap_mode="r") if kind == "memory map" else sparse.csr_array(x.numpy())
    )
    other = torch.randn(500, 2, generator=draws)
    one, two = (MultimodalData({"x": own, "y": other}, mask=mask, entries=entries) for own in (x, stored))
    whole = scores(one.take(slice(None)), "x")
    for piece in (1_000_000, 60):
        monkeypatch.setattr(hiding, "_PIECE", piece)
        with monkeypatch.context() as patch:
            patch.setattr(Kept, "dense", None)
            found = scores(two._stored, "x", two.kept)
        assert torch.equal(found, scores(one.take(slice(None)), "x"))
        torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-11)
        for mechanism in ("mar", "mnar"):
            assert torch.equal(one.hide(0.5, 3, mechanism).mask, two.hide(0.5, 3, mechanism).mask)


def test_missing_entries_count_as_the_mean_of_their_column():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(1))
    entries = torch.rand(500, 3, generator=torch.Generator().manual_seed(2)) > 0.2
    entries[:, 0] = True
    data = MultimodalData({"x": x, "y": x}, entries={"x": entries})
    filled = torch.where(entries, x, (x * entries).sum(0) / entries.sum(0))
    z = filled.double() - filled.double().mean(0)
    z = z / ((z**2).sum(0) / entries.sum(0)).sqrt()
    first = torch.linalg.svd(z, full_matrices=False).Vh[0]
    assert abs(correlation(scores(data.take(slice(None)), "x"), z @ first)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("mechanism", ["mar", "mnar"])
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.7])
def test_the_mean_probability_is_the_rate_and_its_logit_has_the_stated_slope(data, mechanism, rate):
    stored = data.take(slice(None))
    chance = probabilities(stored, torch.tensor([True, True, False]), rate, mechanism)
    led = [1, 2] if mechanism == "mar" else [0, 1, 2]
    for m in led:
        score = scores(stored, "x" if mechanism == "mar" else data.names[m])
        there = data.mask[m]
        assert chance[m][there].mean() == pytest.approx(rate, abs=1e-9)
        slope = torch.logit(chance[m][there]).diff() / score[there].diff()
        torch.testing.assert_close(slope, torch.full_like(slope, SLOPE), rtol=1e-4, atol=1e-4)
    if mechanism == "mar":
        assert chance[0].eq(0).all()


@pytest.mark.parametrize(("mechanism", "led"), [("mar", [1, 2]), ("mnar", [0, 1, 2])])
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_hiding_has_its_rate_and_depends_on_what_is_stated(data, mechanism, led, rate):
    hidden = data.hide(rate, seed=4, mechanism=mechanism)
    stored = data.take(slice(None))
    chance = probabilities(stored, torch.tensor([True, True, False]), rate, mechanism)
    for m in led:
        there = data.mask[m]
        lost = ~hidden.mask[m][there]
        # Samples that would lose "x" and "y" keep one of them, each in half of the cases; "z" is no help to them.
        expected = chance[m][there]
        if mechanism == "mnar" and m < 2:
            other = torch.where(data.mask[1 - m], chance[1 - m], 1)[there]
            expected = expected * (1 - other / torch.where(data.mask[1 - m][there], 2, 1))
        spread = float((expected * (1 - expected)).sum().sqrt()) / int(there.sum())
        assert abs(float(lost.double().mean() - expected.mean())) < 4 * spread
        score = scores(stored, "x" if mechanism == "mar" else data.names[m])[there]
        stated = float(((expected - expected.mean()) * score).mean() / score.std(correction=0))
        stated /= math.sqrt(float(expected.mean() * (1 - expected.mean())))
        assert stated > 0.3
        assert correlation(lost, score) == pytest.approx(stated, abs=4 / math.sqrt(len(score)))
        if mechanism == "mar":  # given the driver, nothing else matters
            own = scores(stored, data.names[m])[there]
            assert abs(correlation(lost, own)) < 4 / math.sqrt(len(own))


@pytest.mark.parametrize("mechanism", ["mcar", "mar", "mnar"])
@pytest.mark.parametrize("rate", [0.0, 0.5, 0.95, 1.0])
def test_every_sample_keeps_something_to_encode_and_a_seed_repeats(data, mechanism, rate):
    once, again = data.hide(rate, 1, mechanism), data.hide(rate, 1, mechanism)
    assert torch.equal(once.mask, again.mask)
    assert not (once.mask & ~data.mask).any()
    assert once.mask[:2].any(0).all()
    if rate in (0.5, 0.95):
        assert not torch.equal(once.mask, data.hide(rate, 2, mechanism).mask)
    if rate == 0:
        assert torch.equal(once.mask, data.mask)
    if mechanism == "mar":
        assert torch.equal(once.mask[0], data.mask[0])
        if rate == 1:
            assert not once.mask[1:].any()


def test_the_driver_is_the_modality_observed_most_often_and_encoded(data):
    stored = data.take(slice(None))
    assert driver(stored, torch.tensor([True, True, False])) == 0
    assert driver(stored, torch.tensor([False, True, False])) == 1
    lacking = MultimodalData(
        {"x": data.values("x"), "y": data.values("y")}, mask={"x": torch.arange(N) % 2 == 0}
    )
    hidden = lacking.hide(0.9, seed=0, mechanism="mar")
    assert hidden.mask[1].all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda data: data.hide(0.5, mechanism="mra"), ["mechanism='mra'", "did you mean 'mar'"]),
        (lambda data: data.hide(-0.1, mechanism="mnar"), ["rate=-0.1", "between 0 and 1"]),
        (lambda data: data.select("x").hide(0.5, mechanism="mar"), ["expected two modalities", '"mcar"']),
        (
            lambda data: MultimodalData({"x": torch.full((9, 2), 0.1), "y": torch.ones(9, 1)}).hide(
                0.5, 0, "mnar"
            ),
            ["all samples of modality 'x' are equal", '"mcar"'],
        ),
    ],
)
def test_what_cannot_be_hidden_gets_one_line(data, call, words):
    with pytest.raises(InputError) as caught:
        call(data)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)

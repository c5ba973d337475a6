"""The segmentation likelihood: cross-entropy and Dice of the observed pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyvae import InputError
from polyvae.core import noise
from polyvae.core.likelihoods import LIKELIHOODS


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

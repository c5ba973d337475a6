"""Intervals of shares and ratios, against formulas and against simulation."""

from __future__ import annotations

import math

import pytest
import torch

from polyvae.metrics.intervals import LEVEL, ratios, shares, wilson


def test_wilson_solves_its_equation():
    """Its ends are the shares p with |share − p| = 1.96 √(p (1 − p) / n)."""
    for share, count in ((0.3, 50), (0.97, 200), (0.5, 10)):
        for end in wilson(share, count):
            assert abs(share - end) == pytest.approx(LEVEL * math.sqrt(end * (1 - end) / count))
    assert wilson(1.0, 100) == (pytest.approx(100 / (100 + LEVEL**2)), 1.0)
    assert wilson(0.0, 0) == (0.0, 1.0)


def test_one_pair_of_binary_outcomes_has_the_interval_of_wilson():
    right = (torch.arange(90) % 3 > 0)[None]
    counted = torch.ones_like(right)
    found = shares(right, counted)
    assert found.value == pytest.approx(2 / 3)
    assert found.interval == pytest.approx(wilson(2 / 3, 90))


def test_what_does_not_count_changes_nothing():
    right, counted = torch.tensor([[1, 0, 1, 0]]), torch.tensor([[1, 1, 1, 0]])
    assert shares(right, counted) == shares(right[:, :3], counted[:, :3])
    assert shares(right * 0, counted * 0) is None


def test_pairs_that_repeat_each_other_narrow_no_interval_and_independent_ones_do():
    draws = torch.Generator().manual_seed(0)
    right = torch.rand(4, 2000, generator=draws) < 0.8
    counted = torch.ones_like(right)
    once, twice, other = (
        shares(rows, counted[: len(rows)]) for rows in (right[:1], right[:1].repeat(4, 1), right)
    )
    assert twice.interval == pytest.approx(once.interval)
    assert (other.high - other.low) / (once.high - once.low) == pytest.approx(0.5, abs=0.05)


@pytest.mark.slow
def test_the_interval_of_a_ratio_covers_it_in_95_of_100_samples():
    draws = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(1000):
        below = torch.rand(2, 300, generator=draws) + 0.5
        above = below * (0.4 + 0.2 * torch.randn(2, 300, generator=draws)) + 0.1 * torch.randn(
            1, 300, generator=draws
        )
        found = ratios(above, below)
        covered += found.low <= 0.4 <= found.high
    assert covered / 1000 == pytest.approx(0.95, abs=0.02)

"""Rubin's rules: a case by hand, limits, coverage in simulations, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import stats

from polyvae.imputation.filling.rubin import pool
from polyvae.utils.errors import InputError


def test_a_case_in_exact_fractions():
    """Estimates 1, 2, 6 with variances 1, 2, 3: W = 2, B = 7, T = 2 + 4/3 · 7 = 34/3, λ = 14/17."""
    pooled = pool([[1], [2], [6]], [[1], [2], [3]])
    share = Fraction(14, 17)
    df = 2 / share**2
    ratio = share / (1 - share)
    assert pooled.estimate == pytest.approx([3])
    assert pooled.standard_error == pytest.approx([math.sqrt(34 / 3)])
    assert pooled.degrees_of_freedom == pytest.approx([float(df)])
    assert pooled.missing_information == pytest.approx([float((ratio + 2 / (df + 3)) / (1 + ratio))])


def test_degrees_of_freedom_of_small_samples():
    """The same case with 20 degrees of freedom if complete: ν_obs = 3/17 · 20 · 21 / 23."""
    pooled = pool([1, 2, 6], [1, 2, 3], complete_df=20)
    old, observed = 2 / Fraction(14, 17) ** 2, Fraction(3, 17) * 20 * Fraction(21, 23)
    assert pooled.degrees_of_freedom == pytest.approx([float(old * observed / (old + observed))])
    assert pooled.degrees_of_freedom < 20
    unlimited = pool([1, 2, 6], [1, 2, 3], complete_df=math.inf)
    assert unlimited.degrees_of_freedom == pytest.approx([float(old)])


def test_without_missing_data_the_analysis_is_that_of_complete_data():
    pooled = pool([[2.0, 5.0]] * 4, [[0.25, 1.0]] * 4)
    assert pooled.standard_error.tolist() == [0.5, 1.0]
    assert np.isinf(pooled.degrees_of_freedom).all()
    assert pooled.missing_information.tolist() == [0, 0]
    low, high = pooled.interval(0.95)
    assert high - low == pytest.approx(2 * stats.norm.ppf(0.975) * pooled.standard_error)
    few = pool([[2.0, 5.0]] * 4, [[0.25, 1.0]] * 4, complete_df=[7, 30])
    assert few.degrees_of_freedom == pytest.approx([7 * 8 / 10, 30 * 31 / 33])


def test_parameters_do_not_influence_each_other():
    rng = np.random.default_rng(0)
    estimates, variances = rng.normal(size=(5, 3)), rng.uniform(0.5, 2, size=(5, 3))
    together = pool(estimates, variances, complete_df=12)
    for p in range(3):
        alone = pool(estimates[:, p], variances[:, p], complete_df=12)
        for one, all_ in zip(alone, together, strict=True):
            assert one[0] == all_[p]


@pytest.mark.parametrize("size", [15, 200])
def test_intervals_cover_the_mean_of_a_half_observed_normal_sample(size):
    """Proper imputation: the mean and the variance are drawn from their posterior, then the missing values from the normal."""
    rng, covered, repeats, draws = np.random.default_rng(1), 0, 4000, 5
    observed = size - size // 3
    for _ in range(repeats):
        y = rng.normal(size=observed)
        variance = (observed - 1) * y.var(ddof=1) / rng.chisquare(observed - 1, draws)
        mean = y.mean() + np.sqrt(variance / observed) * rng.normal(size=draws)
        missing = mean[:, None] + np.sqrt(variance)[:, None] * rng.normal(size=(draws, size - observed))
        filled = np.concatenate([np.tile(y, (draws, 1)), missing], 1)
        low, high = pool(filled.mean(1), filled.var(1, ddof=1) / size, complete_df=size - 1).interval(0.9)
        covered += bool(low[0] <= 0 <= high[0])
    assert abs(covered / repeats - 0.9) < 4 * math.sqrt(0.9 * 0.1 / repeats)


def test_the_fraction_of_missing_information_is_that_of_the_missing_rows():
    """Of a mean of which a third of the values is missing, a third of the information is."""
    rng, size, draws = np.random.default_rng(2), 30_000, 2000
    observed = 2 * size // 3
    y = rng.normal(size=observed)
    variance = np.full(draws, y.var())
    mean = y.mean() + np.sqrt(variance / observed) * rng.normal(size=draws)
    means = (
        y.sum() + (size - observed) * (mean + rng.normal(size=draws) / math.sqrt(size - observed))
    ) / size
    pooled = pool(means, np.full(draws, 1 / size))
    assert pooled.missing_information[0] == pytest.approx(1 / 3, abs=0.03)
    assert pooled.standard_error[0] == pytest.approx(1 / math.sqrt(observed), rel=0.05)


def test_names_of_parameters_are_kept_and_matched():
    """Frames and Series give what arrays give, by name, whatever the order of the variances."""
    rng = np.random.default_rng(0)
    estimates, variances = rng.normal(size=(4, 3)), rng.uniform(0.5, 2, size=(4, 3))
    expected, names = pool(estimates, variances, complete_df=20), ["intercept", "P53", "EGFR"]
    frames = [pd.DataFrame(x, columns=names) for x in (estimates, variances)]
    series = [[row for _, row in frame.iterrows()] for frame in frames]
    turned = [row[::-1] for row in series[1]]
    for q, u in (
        frames,
        series,
        (frames[0], frames[1][names[::-1]]),
        (series[0], turned),
        (estimates, frames[1]),
        (pl.DataFrame(estimates, names), variances),
    ):
        pooled = pool(q, u, complete_df=20)
        for one, other in zip(
            [*pooled, *pooled.interval(0.9)], [*expected, *expected.interval(0.9)], strict=True
        ):
            assert one.index.tolist() == names
            assert np.array_equal(one.to_numpy(), other)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pool([[1.0]], [[1.0]]), ["at least 2"]),
        (lambda: pool([[1.0], [2.0]], [[1.0, 1.0], [1.0, 1.0]]), ["(2, 1)", "(2, 2)"]),
        (lambda: pool([1.0, np.nan], [1.0, 1.0]), ["not finite"]),
        (
            lambda: pool(pd.DataFrame({"a": [1.0, 2.0]}), pd.DataFrame({"b": [1.0, 1.0]})),
            ["'a'", "'b'", "the same parameters"],
        ),
        (
            lambda: pool([pd.Series([1.0], ["a"]), pd.Series([1.0], ["b"])], [[1.0], [1.0]]),
            ["'a'", "'b'", "in each analysis"],
        ),
        (lambda: pool([1.0, 2.0], [1.0, 0.0]), ["not positive"]),
        (lambda: pool([1.0, 2.0], [1.0, 1.0], complete_df=0), ["complete_df=0"]),
        (lambda: pool([1.0, 2.0], [1.0, 1.0], complete_df=[3, 4]), ["one per parameter"]),
        (lambda: pool([1.0, 2.0], [1.0, 1.0]).interval(90), ["level=90"]),
    ],
)
def test_what_cannot_be_pooled_gets_one_line(call, words):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)

"""Scores of imputations against formulas written out, undefined cases, and the table in its forms."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import r2_score, roc_auc_score

from polyvae.imputation.scoring.measures import (
    Interval,
    auroc,
    coverage,
    crps,
    fvu,
    log_loss,
    normal_crps,
    pearson,
    pooled_fvu,
    r2,
    rmse,
    width,
)
from polyvae.imputation.scoring.rows import Row, binary_rows, class_rows, numeric_rows
from polyvae.imputation.scoring.scores import Scores
from polyvae.utils.errors import InputError


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 3)) * [1, 10, 0.1]
    seen = rng.random((50, 3)) > 0.3
    return np.where(seen, truth, np.nan), truth + rng.normal(size=(50, 3)) * [0.5, 5, 0.2], seen


def test_measures_are_their_formulas_over_what_was_observed(arrays):
    truth, prediction, seen = arrays
    mean = np.array([0.1, 0.2, 0.3])
    for f in range(3):
        y, p = truth[seen[:, f], f], prediction[seen[:, f], f]
        assert rmse(truth, prediction, seen)[f] == pytest.approx(np.sqrt(np.mean((y - p) ** 2)))
        assert fvu(truth, prediction, mean, seen)[f] == pytest.approx(
            ((y - p) ** 2).sum() / ((y - mean[f]) ** 2).sum()
        )
        assert pearson(truth, prediction, seen)[f] == pytest.approx(stats.pearsonr(y, p)[0])
        own = r2(truth, prediction, np.full(3, y.mean()), seen)[f]
        assert own == pytest.approx(r2_score(y, p))
    assert fvu(truth, np.tile(mean, (50, 1)), mean, seen) == pytest.approx([1, 1, 1])


def test_the_pooled_fraction_does_not_depend_on_units_once_scaled(arrays):
    truth, prediction, seen = arrays
    scale = np.nanstd(truth, 0)
    units = np.array([3.0, 0.01, 100])
    once = pooled_fvu(truth, prediction, np.zeros(3), seen, scale)
    assert once == pytest.approx(
        pooled_fvu(truth * units, prediction * units, np.zeros(3), seen, scale * units)
    )
    error = np.where(seen, (np.nan_to_num(truth) - prediction) / scale, 0)
    assert once == pytest.approx((error**2).sum() / np.nansum((truth / scale) ** 2))


def test_crps_of_draws_is_the_mean_over_pairs_and_that_of_a_normal_its_integral():
    rng = np.random.default_rng(1)
    truth, draws = rng.normal(size=(4, 2)), rng.normal(size=(5, 4, 2))
    pairs = [abs(draws[i] - draws[j]) for i in range(5) for j in range(5) if i != j]
    expected = (abs(draws - truth).mean(0) - np.mean(pairs, 0) / 2).mean(0)
    assert crps(truth, draws) == pytest.approx(expected)
    y, mean, std = 0.7, -0.2, 1.3

    def squared(x):
        return (stats.norm.cdf(x, mean, std) - (x >= y)) ** 2

    exact = integrate.quad(squared, -20, y)[0] + integrate.quad(squared, y, 20)[0]
    assert normal_crps([[y]], [[mean]], [[std]]) == pytest.approx([exact], rel=1e-6)
    assert normal_crps([[y]], [[mean]], [[0.0]]) == pytest.approx([abs(y - mean)])


def test_fair_crps_of_few_draws_is_unbiased_for_that_of_the_normal():
    rng = np.random.default_rng(2)
    truth = np.full((40_000, 1), 0.5)
    for count in (2, 10):
        found = crps(truth, rng.normal(size=(count, *truth.shape)))
        assert found == pytest.approx(normal_crps(truth, 0 * truth, 0 * truth + 1), abs=0.01)


def test_coverage_and_width_of_intervals():
    truth = np.array([[0.0, 1.0], [2.0, 3.0], [9.0, np.nan]])
    interval = Interval(np.array([[0, 0], [0, 4], [0, 0]]), np.array([[1, 2], [1, np.inf], [10, 1]]))
    seen = np.isfinite(truth)
    assert coverage(truth, interval, seen) == pytest.approx([2 / 3, 1 / 2])
    assert width(truth, interval, seen).tolist() == [4, np.inf]


def test_scores_of_features_of_other_units_are_pooled_in_standard_deviations():
    rng = np.random.default_rng(5)
    truth, units = rng.normal(size=(50, 2)), np.array([1.0, 1000.0])
    about = {"features": ["a", "b"], "std": np.full((50, 2), 0.5)}

    def found(unit):
        interval = Interval((truth - 1.5) * unit, (truth + 0.5) * unit)
        given = {**about, "std": about["std"] * unit, "scale": unit, "interval": interval}
        rows = numeric_rows("m", "x", truth * unit, 0.5 * truth * unit, np.zeros(2), **given)
        return {(row.feature, row.score): row.value for row in rows}

    one, other = found(np.ones(2)), found(units)
    for score in ("rmse", "crps", "width"):
        assert other[None, score] == pytest.approx(one[None, score])
        assert other["b", score] == pytest.approx(1000 * one["b", score])
    assert other[None, "width"] == pytest.approx(2)
    assert (
        Scores([Row("m", None, None, "x", "width", 2.0, 50)])
        .table("width")
        .startswith("width of the interval, in standard deviations of the training samples")
    )


def test_classes_are_scored_as_by_scikit_learn():
    rng = np.random.default_rng(3)
    chance = rng.dirichlet(np.ones(3), 60)
    classes = rng.integers(0, 3, 60)
    classes[:5] = -1
    assert log_loss(classes, chance) == pytest.approx(sklearn_log_loss(classes[5:], chance[5:]))
    assert auroc(classes, chance) == pytest.approx(roc_auc_score(classes[5:], chance[5:], multi_class="ovr"))
    two, binary = classes % 2, np.stack([1 - chance[:, 0], chance[:, 0]], 1)
    assert auroc(two, binary) == pytest.approx(roc_auc_score(two, chance[:, 0]))
    rows = class_rows("label", "vae", classes, chance)
    assert [(row.score, row.n) for row in rows] == [("log_loss", 55), ("auroc", 55)]


def test_undefined_scores_are_absent():
    truth = np.array([[1.0, 5.0, 0.0], [2.0, 5.0, 0.0]])
    seen = np.array([[True, True, False], [True, True, False]])
    assert np.isnan(fvu(truth, truth, np.zeros(3), seen)).tolist() == [False, True, True]
    assert np.isnan(rmse(truth, truth, seen)).tolist() == [False, False, True]
    rows = numeric_rows("m", "mean", truth, 0 * truth, np.zeros(3), observed=seen, features=["a", "b", "c"])
    found = {(row.feature, row.score) for row in rows}
    assert {score for feature, score in found if feature == "a"} == {
        "r2",
        "fvu",
        "rmse",
    }  # a constant prediction
    assert {score for feature, score in found if feature == "b"} == {"rmse"}
    assert not [score for feature, score in found if feature == "c"]
    assert ("m", None, None, "mean", "rmse", (math.sqrt(2.5) + 5) / 2, 2) in [
        (*row[:5], pytest.approx(row.value), row.n) for row in rows
    ]
    one = numeric_rows("m", "mean", truth[:1], truth[:1], np.zeros(3))
    assert {row.score for row in one} == {"rmse"}
    assert class_rows("label", "vae", [-1, -1], np.ones((2, 2)) / 2) == []
    assert [row.score for row in class_rows("label", "vae", [1, 1], np.ones((2, 2)) / 2)] == ["log_loss"]
    assert numeric_rows("m", "mean", np.empty((0, 2)), np.empty((0, 2)), np.zeros(2)) == []


def test_rows_of_binary_features():
    rng = np.random.default_rng(4)
    truth, chance = rng.integers(0, 2, (40, 2)), rng.uniform(0.1, 0.9, (40, 2))
    truth[:, 1] = 0
    rows = binary_rows("mutations", "vae", truth, chance, features=["a", "b"])
    values = {(row.feature, row.score): row.value for row in rows}
    assert (
        values["a", "auroc"]
        == values[None, "auroc"]
        == pytest.approx(roc_auc_score(truth[:, 0], chance[:, 0]))
    )
    assert ("b", "auroc") not in values
    assert values["b", "log_loss"] == pytest.approx(-np.log(1 - chance[:, 1]).mean())


MADE_UP = Scores(
    [
        Row(modality, None, None, method, "fvu", value, 90)
        for modality, values in {
            "rna": [1, 0.4, 0.3, 0.35],
            "mirna": [1, 0.5, 0.6, 0.48],
            "dna": [1, 0.2, 0.3, 0.2],
        }.items()
        for method, value in zip(["mean", "ridge", "vae", "stack"], values, strict=True)
    ]
    + [
        Row("rna", None, None, "stack", "width", math.inf, 90),
        Row("rna", "TP53", "mirna", "stack", "coverage", 0.9, 80),
    ]
)


def test_the_table_in_its_forms():
    assert MADE_UP.table("fvu").splitlines() == [
        "fraction of variance unexplained",
        "        mean  ridge    vae  stack",
        "rna    1.000  0.400  0.300  0.350",
        "mirna  1.000  0.500  0.600  0.480",
        "dna    1.000  0.200  0.300  0.200",
    ]
    assert "inf" in MADE_UP.table()
    assert Scores().table() == "no scores"
    assert MADE_UP.value("rna", "vae", "fvu") == 0.3
    assert MADE_UP.value("rna", "vae", "rmse") is None
    assert MADE_UP.value("rna", "stack", "coverage", feature="TP53", pattern="mirna") == 0.9
    assert len(MADE_UP.select(modality="dna")) == 4
    assert len(MADE_UP + MADE_UP) == 28
    again = Scores.from_json(MADE_UP.to_json())
    assert again == MADE_UP
    json.loads(MADE_UP.to_json(), parse_constant=pytest.fail)  # no NaN and no Infinity, which are not JSON
    assert MADE_UP.to_columns()["value"][:2] == [1, 0.4]
    assert list(MADE_UP.to_frame()) == list(Row._fields)


def test_the_sentence_names_winners_and_where_the_vae_loses():
    assert MADE_UP.sentence() == (
        "vae has the lowest error for rna; stack has the lowest error for mirna; ridge has the lowest error for dna; the VAE alone "
        "is better than every simple method for rna; the VAE alone is not better than the best simple method for mirna, dna."
    )
    assert Scores().sentence() == "No error was measured."
    classes = Scores(
        [Row("label", None, None, name, "log_loss", x, 9) for name, x in (("mean", 0.7), ("vae", 0.6))]
    )
    assert classes.sentence().startswith("vae has the lowest error for label; the VAE alone is better")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: Scores([Row("a", None, None, "m", "fvu", math.nan, 2)]),
            ["NaN", "leave undefined scores out"],
        ),
        (lambda: Scores([Row("a", None, None, "m", "fvo", 1.0, 2)]), ["did you mean 'fvu'"]),
        (lambda: MADE_UP.table("R2"), ["'R2'"]),
        (lambda: MADE_UP.select(method_="x"), ["did you mean 'method'"]),
        (lambda: Scores.from_json("[]"), ["Scores.to_json()"]),
        (lambda: rmse([[1.0]], [[1.0, 2.0]]), ["(1, 1)", "(1, 2)"]),
        (lambda: rmse([[np.nan]], [[1.0]]), ["1 observed values"]),
        (lambda: crps([[1.0]], [[[1.0]]]), ["at least 2"]),
        (lambda: log_loss([2], [[0.5, 0.5]]), ["one column per class"]),
        (
            lambda: numeric_rows("m", "x", [[1.0]], [[1.0]], [0.0], features=["a", "b"]),
            ["2 names for 1 features"],
        ),
    ],
)
def test_bad_input_gets_one_line(call, words):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_the_c_index_has_a_row_for_each_method_with_its_interval():
    rows = [
        Row("(target)", None, None, method, score, value, 9)
        for method, values in {"Cox of rna": (0.7, 0.6, 0.8), "stack": (0.75, 0.65, 0.85)}.items()
        for score, value in zip(("c_index", "c_index_low", "c_index_high"), values, strict=True)
    ]
    lines = str(Scores(rows)).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["Cox", "of", "rna", "0.700", "0.600", "to", "0.800"],
        ["stack", "0.750", "0.650", "to", "0.850"],
    ]
    assert str(Scores(rows[:1])).splitlines()[-1].split() == ["Cox", "of", "rna", "0.700"]


def test_scores_that_are_no_headline_are_printed_where_there_is_no_other():
    row = Row("rna", None, None, "vae", "rmse", 0.5, 9)
    assert "root mean squared error" in str(Scores([row]))
    assert "1 score of features or patterns" in str(Scores([row._replace(feature="a")]))
    assert str(Scores()) == "no scores"

"""The imputation benchmark: leave-one-out is exact, folds leak nothing, methods impute what they should, the page is the JSON's."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.imputation.__main__ import main
from benchmarks.imputation.calibration import most_frequent, patterns, ridge_interval
from benchmarks.imputation.factors import Mofa
from benchmarks.imputation.linear import Ridge, conformal_halfwidth, decomposed, fit_dual, gaussian, linear
from benchmarks.imputation.memory import rows
from benchmarks.imputation.methods import METHODS, Iterative, Mean, Neighbours, complete
from benchmarks.imputation.page import page, paired
from benchmarks.imputation.protocol import Folds, fit_time, folds, hide, measure, score, standardise
from benchmarks.imputation.stack import Stack, as_data
from benchmarks.imputation.tables import Skipped, Table, load, pick, present, view, without


@pytest.fixture
def table():
    """Three views of four factors, with noise of variance .1; a sixth of the rows lacks "b"; one constant column."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(180, 4))
    arrays = {
        name: 3 + factors @ rng.normal(size=(4, size)) + 0.3 * rng.normal(size=(180, size))
        for name, size in {"a": 7, "b": 5, "c": 6}.items()
    }
    arrays["b"][::6] = np.nan
    arrays["c"][:, 2] = 5
    return Table(
        "made up", {name: view(x) for name, x in arrays.items()}, (factors[:, 0] > 0).astype(np.int64)
    )


# ---- ridge ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 30), (30, 5)])
def test_leave_one_out_of_ridge_equals_refitting(shape):
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape)
    y = x[:, :2] + rng.normal(size=(len(x), 2)) + 4
    model = linear(x, y)

    def refitted(x, y, new):
        centre, offset = x.mean(0), y.mean(0)
        gram = (x - centre).T @ (x - centre) + model.dual.penalty * np.eye(x.shape[1])
        return offset + (new - centre) @ np.linalg.solve(gram, (x - centre).T @ (y - offset))

    left_out = [y[i] - refitted(np.delete(x, i, 0), np.delete(y, i, 0), x[i]) for i in range(len(x))]
    np.testing.assert_allclose(model.dual.residuals, left_out, atol=1e-10)
    np.testing.assert_allclose(model.predict(x + 1), refitted(x, y, x + 1), atol=1e-10)
    assert model.dual.error == pytest.approx(np.mean(np.square(left_out)))


def test_leave_one_out_of_kernel_ridge_equals_an_unpenalised_row():
    """The row that is left out gets a column of its own, which fits it exactly; so its kernel entry says nothing of the others."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(20, 3))
    kernel = x @ x.T + 0.5 * (x @ x.T) ** 2
    y = rng.normal(size=(20, 2))
    centring = np.eye(20) - 1 / 20
    dual = fit_dual(*decomposed(centring @ kernel @ centring), y)
    for i in range(20):
        system = np.zeros((22, 22))
        system[:20, :20], system[:20, 20], system[20, :20] = kernel + dual.penalty * np.eye(20), 1, 1
        system[i, 21] = system[21, i] = 1  # the row's residual is free, and its weight zero
        solution = np.linalg.solve(system, np.concatenate([y, np.zeros((2, 2))]))
        np.testing.assert_allclose(dual.residuals[i], solution[21], atol=1e-8)


def test_a_gaussian_kernel_learns_a_curve():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 2))
    y = np.sin(2 * x[:, :1])
    model = gaussian(x[:150], y[:150])
    assert np.mean((model.predict(x[150:]) - y[150:]) ** 2) < 0.05
    assert np.mean((linear(x[:150], y[:150]).predict(x[150:]) - y[150:]) ** 2) > 0.2


def test_a_half_width_is_the_order_statistic_and_infinite_for_few_rows():
    residuals = np.array([[-1.0], [3], [2], [-5], [4], [6], [-7], [8], [9]])
    assert conformal_halfwidth(residuals, 0.9).tolist() == [9]
    assert conformal_halfwidth(residuals, 0.5).tolist() == [5]
    assert conformal_halfwidth(residuals[:8], 0.9).tolist() == [np.inf]


# ---- protocol ------------------------------------------------------------------------------------------------------------------------


def test_hiding_keeps_one_view_of_each_row_and_shows_nothing_else(table):
    hidden = hide(table.views, 0.6, np.random.default_rng(3))
    before, after = (np.stack([present(one) for one in views.values()]) for views in (table.views, hidden))
    assert not (after & ~before).any()
    assert (after.any(0) == before.any(0)).all()
    assert 0.3 < after.mean() < 0.6
    for x, seen in hidden.values():
        assert not x[~seen].any()


def test_folds_repeat_and_standardise_by_what_is_observed_in_training(table):
    how = Folds(4, 0.3)
    for one, again in zip(folds(table, how), folds(table._replace(labels=None), how), strict=True):
        assert all((one.rows[i] == again.rows[i]).all() for i in range(2))
        assert not set(one.rows[0]) & set(one.rows[1])
        for name, (x, seen) in one.train.items():
            assert (x == again.train[name][0]).all()
            assert x[seen].std() == pytest.approx(1, abs=1e-5)
            sums = np.where(seen, x, 0).sum(0)
            np.testing.assert_allclose(sums, 0, atol=1e-3)
        assert one.train["c"][0].shape[1] == one.test["c"][0].shape[1] == 5
        rows = one.rows[1]
        assert (
            present(one.test["b"]) == present(table.views["b"])[rows]
        ).all()  # nothing is hidden in the test part


def test_test_values_do_not_influence_the_scaling(table):
    train, test = pick(table.views, np.arange(100)), pick(table.views, np.arange(100, 180))
    wild = {name: (x + 1000, seen) for name, (x, seen) in test.items()}
    for name, (x, _) in standardise(train, test)[0].items():
        assert (x == standardise(train, wild)[0][name][0]).all()


# ---- methods -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["knn", "ridge", "ridge-complete", "kernel", "iterative"])
def test_methods_impute_what_the_other_views_determine(table, name):
    entries = measure(table, ["mean", name], Folds(3, 0.2), lambda line: None)
    values = {
        method: [entry["fvu"] for entry in entries if entry["method"] == method] for method in ("mean", name)
    }
    assert values["mean"] == pytest.approx([1] * 9)
    assert np.mean(values[name]) < (0.35 if name == "knn" else 0.2)


def test_the_target_of_the_test_rows_is_not_used(table):
    fold = next(folds(table, Folds(3, 0.3)))
    for method in (Mean, Neighbours, Ridge, METHODS["kernel"], Iterative):
        predictor = method(fold.train)
        rows = np.flatnonzero(present(fold.test["b"]))
        inputs = pick(without(fold.test, "a"), rows)
        assert predictor(inputs, "a").shape == (len(rows), 7)
    scores = score(Mean(fold.train), fold.test)
    assert scores["b"]["n"] == present(fold.test["b"]).sum()


def test_factors_of_a_new_sample_are_the_gaussian_conditional():
    """With loadings that are known exactly: x = W z + e, E[z | x] = Wᵀ (W Wᵀ + Ψ)⁻¹ x."""
    rng = np.random.default_rng(4)
    weights, noise = rng.normal(size=(6, 2)), rng.uniform(0.5, 2, size=6)
    model = Mofa.__new__(Mofa)
    model.views = {
        "a": (weights, 0 * weights, 1 / noise),
        "b": (rng.normal(size=(3, 2)), np.zeros((3, 2)), np.ones(3)),
    }
    x, seen = rng.normal(size=(5, 6)), rng.random((5, 6)) > 0.4
    found = model.factors({"a": (x, seen)})
    for row, known, z in zip(x, seen, found, strict=True):
        w = weights[known]
        expected = w.T @ np.linalg.solve(w @ w.T + np.diag(noise[known]), row[known])
        assert z == pytest.approx(expected)
    assert model({"a": (x, seen)}, "b") == pytest.approx(found @ model.views["b"][0].T)


def test_iterative_imputer_is_for_few_columns():
    with pytest.raises(Skipped, match="201 columns"):
        Iterative({"a": view(np.zeros((3, 201)))})


class Sevens:
    """In place of an Estimator: fills what is missing with 7, and records what it was given."""

    def impute(self, data, interval=None):
        self.given = data
        filled = as_data(
            {
                name: (
                    np.where(data.mask[m].numpy()[:, None], data.values(name).numpy(), 7),
                    np.ones((len(data), width), bool),
                )
                for m, (name, width) in enumerate({"a": 7, "b": 5, "c": 6}.items())
            }
        )
        return filled if interval is None else (filled, filled, filled)


def test_the_estimator_is_given_all_views_with_the_target_missing(table):
    stack = Stack.__new__(Stack)
    stack.columns, stack.estimator = {"a": 7, "b": 5, "c": 6}, Sevens()
    assert (stack(without(table.views, "a"), "a") == 7).all()
    given = stack.estimator.given
    assert given.names == ("a", "b", "c")
    assert not given.mask[0].any()
    assert (given.mask[1].numpy() == present(table.views["b"])).all()
    low = stack.interval(without(table.views, "a", "c"), "c", 0.9).low
    assert low.shape == (180, 6)
    assert (low == 7).all()


# ---- intervals, page, command --------------------------------------------------------------------------------------------------------


def test_patterns_are_all_others_all_but_one_and_each_alone():
    assert list(patterns(["a", "b", "c", "d"], "b")) == [
        ("a", "c", "d"),
        ("c", "d"),
        ("a", "d"),
        ("a", "c"),
        ("a",),
        ("c",),
        ("d",),
    ]
    assert list(patterns(["a", "b"], "b")) == [("a",)]


def test_the_least_coverage_is_the_share_of_the_most_frequent_value():
    y = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [1.0, 4.0]])
    seen = np.array([[True, False], [True, True], [True, True], [True, True]])
    assert most_frequent(y, seen) == pytest.approx([0.75, 1 / 3])
    assert np.isnan(most_frequent(y, np.zeros_like(seen))).all()


def test_conformal_intervals_of_ridge_cover_new_rows():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(3200, 4))
    y = x[:, :2] + rng.standard_t(5, size=(3200, 2))
    views = {"x": view(x), "y": view(y)}
    model = Ridge(pick(views, np.arange(1200)))
    test = pick(views, np.arange(1200, 3200))
    filled = ridge_interval(model, without(test, "y"), "y", 0.9)
    inside = ((test["y"][0] >= filled.low) & (test["y"][0] <= filled.high)).mean(0)
    assert inside == pytest.approx([0.9, 0.9], abs=0.035)


def test_a_paired_difference_has_the_standard_error_of_its_folds():
    mean, error = paired(np.array([1.0, 2, 4]), np.array([0.5, 1, 2.5]))
    assert (mean, error) == (pytest.approx(1), pytest.approx(0.5 / np.sqrt(3)))


def test_the_command_writes_json_and_its_page(table, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "nutrimouse"
    folder.mkdir()
    arrays = {f"x_{name}": np.where(seen, x, np.nan) for name, (x, seen) in table.views.items()}
    np.savez(folder / "nutrimouse.npz", genotype=table.labels, **arrays)
    monkeypatch.setenv("POLYVAE_DATA", str(tmp_path))
    assert load("nutrimouse").views["b"][1][0].any() == np.bool_(False)
    out = tmp_path / "out" / "found.json"
    command = ["--data", "nutrimouse", "--methods", "mean,ridge", "--folds", "2", "--missing", "0", "0.3"]
    main([*command, "--intervals", "--out", str(out)])
    found = json.loads(out.read_text())
    assert len(found["errors"]) == 2 * 2 * 2 * 3  # rates, methods, folds, views
    assert {entry["pattern"] for entry in found["intervals"] if entry["view"] == "a"} == {"b+c", "b", "c"}
    text = out.with_suffix(".md").read_text()
    assert text == page(found)
    assert text in capsys.readouterr().out + "\n"
    assert "| ridge | 0." in text


def test_some_folds_are_those_of_all(table):
    every, some = (list(folds(table, Folds(4, 0.3, 1, only))) for only in ((), (2, 4)))
    assert [fold.number for fold in some] == [1, 3]
    for fold in some:
        assert all((a == b).all() for a, b in zip(fold.rows, every[fold.number].rows, strict=True))
        assert all((x == every[fold.number].train[name][0]).all() for name, (x, _) in fold.train.items())


def test_complete_rows_alone_are_kept(table):
    kept = complete(table.views)
    assert all(present(one).all() and len(one[0]) == 150 for one in kept.values())
    with pytest.raises(Skipped, match="0 complete rows"):
        complete({"a": view(np.full((4, 2), np.nan)), "b": view(np.ones((4, 2)))})


def test_the_time_is_that_of_a_fit_to_all_rows(table, monkeypatch):
    sizes = []
    monkeypatch.setitem(METHODS, "stack", lambda train: sizes.append(len(train["a"][0])))
    found = fit_time(table, Folds(5, 0.2), lambda line: None)
    assert sizes == [180]
    assert [(one["data"], one["missing"], one["rows"]) for one in found] == [("made up", 0.2, 180)]
    text = page({"conditions": {}, "errors": [], "intervals": [], "probes": [], "times": found})
    assert "| made up | 20% | 180 | 0.0 |" in text


def test_every_sample_of_the_memory_benchmark_has_a_modality():
    tables = rows(0, 500)
    assert {x.shape for x in tables.values()} == {(500, 20)}
    observed = np.stack([~np.isnan(x) for x in tables.values()])
    assert (observed.all(2) == observed.any(2)).all()
    assert observed.any((0, 2)).all()  # every sample has a modality
    assert observed.mean() == pytest.approx(1 - 0.3 * 5 / 6, abs=0.03)


def test_an_unknown_method_is_refused():
    with pytest.raises(SystemExit, match="'rigde' is not one of mean, knn, ridge"):
        main(["--methods", "rigde"])
    with pytest.raises(SystemExit, match=r"--only: \[6\] are not all from 1 to 5"):
        main(["--methods", "none", "--only", "6"])

"""The benchmark of time to event: how the cohort is read, and that every method predicts every sample once."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.survival import __main__ as bench
from benchmarks.survival.__main__ import page, plain
from benchmarks.survival.cohort import load
from polyvae.imputation.targets.cox import Survival, concordance


def write(folder):
    """Four patients of three tables; the third was not measured in the second table."""
    home = folder / "tcga_acc_mini"
    home.mkdir()
    names = ["p", "q", "r", "s"]
    x = np.arange(8.0).reshape(4, 2).astype("f4")
    x[2] = np.nan
    np.savez(
        home / "tcga_acc_mini.npz",
        patients=np.array(names),
        x_one=np.ones((4, 3), "f4"),
        x_two=x,
        has_two=[1],
    )
    header = ["", "years_to_birth", "vital_status", "days_to_death", "days_to_last_followup", "gender"]
    header += ["pathologic_stage", "pathology_T_stage", "pathology_N_stage"]
    rows = [
        ["s", "50", "1", "12", "--", "male", "stage iv", "t2", "n1"],
        ["q", "--", "0", "--", "7", "female", "", "t1", "--"],
        ["p", "60", "1", "3", "2", "male", "stage i", "t4", "n0"],
        ["r", "70", "0", "--", "9", "male", "stage ii", "t3", "n0"],
    ]
    (home / "clinical.csv").write_text("\n".join(",".join(row) for row in [header, *rows]))


def test_rows_are_in_one_order_and_dashes_are_missing(tmp_path):
    write(tmp_path)
    found = load(tmp_path)
    assert found.times.time.tolist() == [3, 7, 9, 12]
    assert found.times.event.tolist() == [True, False, False, True]
    expected = [[60, 1, 4, 0, 1], [np.nan, np.nan, 1, np.nan, 0], [70, 2, 3, 0, 1], [50, 4, 2, 1, 1]]
    np.testing.assert_array_equal(found.tables["clinical"], expected)
    assert np.isnan(found.tables["two"]).any(1).tolist() == [False, False, True, False]
    with pytest.raises(SystemExit, match="POLYVAE_DATA"):
        load(tmp_path / "nowhere")


def test_simple_methods_find_what_matters_and_the_page_has_their_numbers(monkeypatch):
    monkeypatch.setattr(bench, "BOOTSTRAPS", 20)
    rng = np.random.default_rng(0)
    tables = {"clinical": rng.normal(size=(120, 2)), "omics": rng.normal(size=(120, 15))}
    tables["omics"][::5] = np.nan
    event = rng.exponential(np.exp(-1.5 * tables["clinical"][:, 0]))
    times = Survival(np.minimum(event, 2.0), event < 2)
    train = {name: x[:60] for name, x in tables.items()}
    found = plain(train, times.rows(np.arange(60)), {name: x[60:] for name, x in tables.items()})
    test = times.rows(np.arange(60, 120))
    assert concordance(test, found["Cox, clinical columns"]).value > 0.7
    assert concordance(test, found["Cox ridge, clinical columns"]).value > 0.7
    assert len(found) == 5
    entries = [{"repeat": 0, "method": name, "risk": risk.tolist()} for name, risk in found.items()]
    entries.append(
        {"repeat": 0, "method": "Estimator", "risk": found["Cox ridge, clinical columns"].tolist()}
    )
    text = page(entries, test)
    value = concordance(test, found["Cox, clinical columns"]).value
    assert f"| Cox, clinical columns | {value:.3f} |" in text
    assert "| Estimator |" in text

"""Columns that are read, and hardly mean what they are read as."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

import polyvae as pv
from polyvae.data.readers import read

N = 24
IDS = [f"s{i}" for i in range(N)]
RANDOM = np.random.default_rng(0)
DATES = 20190100 + RANDOM.integers(1, 29, N)


def frame(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"x": RANDOM.normal(size=N), **columns}, index=pd.Index(IDS, name="id"))


def warned(table, **given) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read(table, **given)
    return [str(each.message) for each in caught]


DOUBTFUL = [
    (DATES, "of whole numbers ('c'; such as ", "look like dates; convert them to a number of days"),
    (np.where(np.arange(N) == 3, np.nan, DATES), "of whole numbers ('c'", "look like dates"),
    (201900 + np.arange(N) % 12 + 1, "of whole numbers ('c'", "look like years and months"),
    (np.arange(1001, 1001 + N), "of whole numbers ('c'", "number the rows, as ids do; name the id column"),
    (RANDOM.permutation(N), "of whole numbers ('c'", "number the rows"),
    (
        np.array([10115, 20095, 80331])[np.arange(N) % 3],
        "('c'",
        "as codes do; take them as classes with kinds=",
    ),
    (
        np.array([1, 2, 3, 7])[np.arange(N) % 4],
        "('c'; such as 1, 2, 3, 7) is taken as numbers",
        "as codes are; take them as classes with kinds={NAME: {COLUMN: 'categorical'}}, as ranks with 'ordinal'",
    ),
    (1 + np.arange(N) % 2, "('c'; such as 1, 2) is taken as numbers", "two that are not 0 and 1"),
    (
        ["male", "Male", " male"] * 8,
        "classes of column 'c': ' male', 'Male', 'male' differ",
        "str.strip().str",
    ),
    (["adrenal"] * N, "of classes ('c'; such as 'adrenal')", "the same class in all rows"),
    ([True] * N, "of classes ('c'; such as 'True')", "the same class in all rows"),
]


@pytest.mark.parametrize(("column", "says", "remedy"), DOUBTFUL)
def test_a_doubtful_column_is_one_line_with_the_table_the_column_and_a_remedy(column, says, remedy):
    (line,) = warned({"clinical": frame(c=column)})
    assert line.startswith("modality 'clinical': ")
    assert says in line
    assert remedy in line
    assert "\n" not in line


def test_doubtful_columns_of_files_name_the_file(tmp_path):
    path = tmp_path / "clinical.csv"
    frame(c=DATES, zip=[f"0{place}" for place in 1234 + np.arange(N) % 5]).to_csv(path)
    zeros, dates = warned(path)
    assert zeros.startswith(
        f"{path}: 1 column of numbers with leading zeros ('zip'; such as '01234') is taken"
    )
    assert dates.startswith(f"{path}: 1 column of whole numbers ('c'")


def test_ids_by_name_and_several_columns_are_one_line():
    distinct = 1000 + RANDOM.permutation(5 * N)[:N]
    assert not warned(frame(c=distinct))
    (line,) = warned(frame(patient_id=distinct, case=distinct[::-1]))
    assert "2 columns of whole numbers ('patient_id', 'case'; such as" in line
    assert "as ids are" in line


@pytest.mark.parametrize(
    "column",
    [
        RANDOM.integers(2000, 2020, N),  # years
        RANDOM.poisson(20_000, N),
        500 * RANDOM.integers(30, 60, N),  # incomes
        RANDOM.integers(0, 4, N),
        1 + np.arange(N) % 5,  # grades, or people in a household
        np.array([10, 20, 50, 100])[np.arange(N) % 4],  # doses
        np.array([0, 1, 2, 7])[
            np.minimum(np.arange(N) % 9, 2) + (np.arange(N) == 5)
        ],  # counts with one large one
        np.where(np.arange(N) % 3, 2015, 2018),  # years
        np.arange(N) % 2,
        np.arange(N) / 10,
        ["female", "male"] * (N // 2),
        ["stage 1", "stage 1a", "stage 2"] * (N // 3),
    ],
)
def test_ordinary_columns_are_no_warning(column):
    assert not warned(frame(c=column))


def test_ordinary_tables_are_no_warning():
    for load in (load_diabetes, load_wine, load_breast_cancer):
        assert not warned(load(as_frame=True).frame)
    assert not warned(frame().iloc[:3].assign(n=[1, 2, 3]))  # too few rows to conclude anything


def test_what_a_person_stated_is_no_warning():
    codes = np.array([10115, 20095, 80331])[np.arange(N) % 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = pv.MultimodalData.from_frames(
            {"t": frame(zip=codes, c=DATES)}, kinds={"t": {"zip": "categorical", "c": "real"}}
        )
    assert data.columns["t"] == ("x", "zip=10115", "zip=20095", "zip=80331", "c")
    assert not data.entries


def test_few_codes_are_stated_and_wide_tables_of_counts_have_gaps_by_chance():
    codes = np.array([1, 2, 3, 7])[np.arange(N) % 4]
    for kind in ("count", "real", "categorical"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pv.MultimodalData.from_frames({"t": frame(c=codes)}, kinds={"t": {"c": kind}})
    wide = RANDOM.poisson(2, (N, 60))
    wide[:, 7] = codes
    assert not warned(pd.DataFrame(wide, index=IDS, columns=[f"g{at}" for at in range(60)]))


def test_labels_and_covariates_that_differ_in_spelling():
    labels = ["a", "A"] * (N // 2)
    with pytest.warns(UserWarning, match="labels: 'A', 'a' differ in case or white space alone"):
        pv.MultimodalData.from_frames({"t": frame()}, labels=labels)
    with pytest.warns(UserWarning, match="covariate 'site': 'A', 'a' differ in case or white space alone"):
        pv.MultimodalData.from_frames({"t": frame()}, covariates={"site": labels})

"""What y may be."""

import numpy as np
import pandas as pd
import pytest

import polyvae as pv
from polyvae.imputation.tables import Tables
from polyvae.imputation.targets.target import TARGET, Target

IDS = ["p", "q", "r", "s"]


@pytest.mark.parametrize(
    "y",
    [
        pd.Series(["a", None, "b", "a"], dtype="string"),
        pd.Series(["a", None, "b", "a"], dtype="category"),
        np.array(["a", float("nan"), "b", "a"], dtype=object),
        pd.Series(["a", "b", "a"], index=["s", "r", "p"]),
        pd.DataFrame({"y": ["a", None, "b", "a"]}, index=IDS),
        {"p": "a", "r": "b", "s": "a", "other": "c"},
    ],
)
def test_missing_values_and_orders_of_classes(y):
    found = Target.fit(y, IDS, 4, "auto")
    assert found.classes == ["a", "b"]
    assert found.known.tolist() == [True, False, True, True]


def test_nullable_integers_may_lack_values():
    found = Target.fit(pd.Series(pd.array([1, 2, None, 1], dtype="Int64")), None, 4, "auto")
    assert found.classes == [1, 2]
    assert found.known.tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (pd.Series(["a", "b"], index=["p", "p"]), "more than once"),
        ([1, "a", 2, "b"], "int, str"),
        ([1j, 2j, 1j, 2j], "complex"),
        (list(pd.date_range("2020", periods=4)), "Timestamp"),
        (np.zeros((4, 2)), "shape"),
    ],
)
def test_bad_targets_are_refused(y, match):
    with pytest.raises(pv.InputError, match=match):
        Target.fit(y, IDS, 4, "auto")


def test_ids_of_no_sample_are_named_beside_those_of_the_data():
    with pytest.raises(
        pv.InputError,
        match="none of which is a sample, such as 'x', 'y'; expected ids of the data, such as 'p', 'q', 'r' and 1",
    ):
        Target.fit({"x": 1, "y": 2}, IDS, 4, "auto")


def test_many_whole_numbers_are_said_to_be_classes():
    with pytest.warns(UserWarning, match="taken as classes"):
        Target.fit(list(range(20, 40)), None, 20, "auto")
    assert Target.fit(list(range(20, 40)), None, 20, "number").classes is None


def test_classes_of_y_that_differ_in_spelling_are_a_warning():
    with pytest.warns(UserWarning, match="y: 'Male', 'male', 'male ' differ in case or white space alone"):
        Target.fit(["male", "Male", "male ", "female"], None, 4, "auto")


def test_y_needs_its_name_and_a_sample():
    x = {"a": np.zeros((2, 3), "f4")}
    seen = {"a": np.ones((2, 3), bool)}
    found = Target.fit([None, None, "u", "v"], None, 4, "auto")
    with pytest.raises(pv.InputError, match="no known y"):
        found.beside(Tables(x, seen), np.array([0, 1]))
    with pytest.raises(pv.InputError, match="rename"):
        found.beside(Tables({TARGET: x["a"]}, {TARGET: seen["a"]}), np.array([2, 3]))


def test_scores_of_what_cannot_be_scored():
    found = Target.fit([0.1, 0.2, 0.4, 0.3], None, 4, "auto")
    predicted = np.array([0.1, 0.2, 0.3, 0.4])
    assert np.isfinite(found.score(predicted, np.ones(4), None, 4))
    for y in (["a"] * 4, [None] * 4):
        with pytest.raises(pv.InputError, match="score"):
            found.score(predicted, y, None, 4)


def test_y_of_other_samples_than_those_of_training():
    tables = Tables({"rna": np.zeros((2, 1), np.float32)}, {"rna": np.ones((2, 1), bool)})
    target = Target.fit([None, None, "a", "b"], None, 4, "auto")
    with pytest.raises(pv.InputError, match=r"no known y of a training sample, .* max_samples"):
        target.beside(tables, np.array([0, 1]))

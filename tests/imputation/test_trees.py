"""Trees: what other columns say without a line, and nothing of the column itself."""

import numpy as np
import pytest

from polyvae.imputation.trees import Trees, affordable


def test_trees_learn_what_no_linear_method_does():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (300, 3)).astype(np.float32)
    y = np.sign(x[:, 0] * x[:, 1])
    table = np.column_stack([x, y]).astype(np.float32)
    trees = Trees(table[:200], np.ones((200, 4), bool), slice(3, 4), np.array([0]), 0)
    found = trees.predict(table[200:])
    assert (np.sign(found[:, 0]) == y[200:]).mean() > 0.85


def test_a_prediction_depends_neither_on_the_columns_of_its_class_nor_on_unseen_rows():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(120, 5)).astype(np.float32)
    seen = np.ones(table.shape, bool)
    seen[100:, 1:3] = False
    leader = np.array([0, 1, 1, 3])
    first = Trees(table, seen, slice(0, 4), leader, 0)
    changed = table.copy()
    changed[:, 1:3] += 5
    assert np.array_equal(first.predict(table)[:, 1:3], first.predict(changed)[:, 1:3])
    assert not np.array_equal(first.predict(table)[:, 0], first.predict(changed)[:, 0])
    other = table.copy()
    other[100:, 1:3] = 9
    assert np.array_equal(
        Trees(other, seen, slice(0, 4), leader, 0).predict(table)[:, 1], first.predict(table)[:, 1]
    )


def test_a_column_without_values_is_predicted_by_its_mean():
    table, seen = np.ones((90, 2), np.float32), np.ones((90, 2), bool)
    seen[:, 0] = False
    assert Trees(table, seen, slice(0, 1), np.array([0]), 0).predict(table).tolist() == [[0.0]] * 90


@pytest.mark.parametrize(
    ("samples", "columns", "expected"), [(500, 64, True), (79, 3, False), (5000, 64, False)]
)
def test_which_tables_are_narrow_enough(samples, columns, expected):
    assert affordable(samples, columns) is expected

"""Trees: what other columns say without a line, and nothing of the column itself."""

import numpy as np
import pytest

from polyvae.imputation.methods.trees import Trees, affordable


def test_trees_learn_what_no_linear_method_does():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (300, 3)).astype(np.float32)
    y = np.sign(x[:, 0] * x[:, 1])
    table = np.column_stack([x, y]).astype(np.float32)
    seen, zero, leader = np.ones(table.shape, bool), np.zeros_like(table), np.arange(4)
    trees = Trees(table[:200], seen[:200], zero[:200], leader, 0)
    found = trees.predict(table[200:], seen[200:], zero[200:], slice(3, 4))
    assert (np.sign(found[:, 0]) == y[200:]).mean() > 0.85


def test_a_prediction_depends_neither_on_the_columns_of_its_class_nor_on_missing_values():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(120, 5)).astype(np.float32)
    seen, first = np.ones(table.shape, bool), np.zeros_like(table)
    seen[100:, 1:3] = False
    leader = np.array([0, 1, 1, 3, 4])
    trees = Trees(table, seen, first, leader, 0)
    found = trees.predict(table, seen, first, slice(0, 4))
    changed = table.copy()
    changed[:, 1:3] += 5
    other = trees.predict(changed, seen, first, slice(0, 4))
    assert np.array_equal(found[:, 1:3], other[:, 1:3])
    assert not np.array_equal(found[:, 0], other[:, 0])
    missing = table.copy()
    missing[100:, 1:3] = 9
    again = Trees(missing, seen, first, leader, 0)
    assert np.array_equal(again.predict(missing, seen, first, slice(0, 4)), found)


def test_a_column_without_values_keeps_what_was_given():
    table, seen = np.ones((90, 2), np.float32), np.ones((90, 2), bool)
    seen[:, 0] = False
    given = np.full_like(table, 0.25)
    trees = Trees(table, seen, given, np.arange(2), 0)
    assert trees.predict(table, seen, given, slice(0, 1)).tolist() == [[0.25]] * 90


@pytest.mark.parametrize(
    ("samples", "columns", "expected"), [(500, 64, True), (79, 3, False), (5000, 64, False)]
)
def test_which_tables_are_narrow_enough(samples, columns, expected):
    assert affordable(samples, columns) is expected

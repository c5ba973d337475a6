"""Likelihoods of columns by their values, and what they give as parts of a mixed table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyvae import InputError
from polyvae.core.likelihoods import LIKELIHOODS
from polyvae.data.kinds import infer_parts

OWN = {"library": "none"}
NORMAL = {"scale": "per_entry"}


def table(rows: int = 400) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.column_stack(
        [
            random.normal(size=(rows, 2)),
            random.integers(0, 2, rows),
            random.poisson(3, rows),
            random.negative_binomial(1, 0.1, rows),
            np.eye(3)[random.integers(0, 3, rows)],
            np.eye(2)[random.integers(0, 2, rows)],
            random.integers(0, 4, rows),
            random.integers(1990, 2020, rows),
            random.integers(3, 5, rows) + random.integers(0, 2, rows),
        ]
    )


GIVEN = {"groups": [(5, 3), (8, 2)], "ranks": {10: 4}}
EXPECTED = [
    ["normal", 2, NORMAL],
    ["bernoulli", 1],
    ["poisson", 1, OWN],
    ["negative_binomial", 1, OWN],
    ["categorical", 3],
    ["categorical", 2],
    ["ordinal", 1, {"levels": 4}],
    ["normal", 2, NORMAL],
]


def test_each_kind_of_column():
    x = table()
    assert infer_parts(x, **GIVEN) == EXPECTED
    likelihood = LIKELIHOODS["mixed"]((13,), parts=EXPECTED)
    values = torch.as_tensor(x, dtype=torch.float32)
    assert likelihood.invalid(values, torch.ones_like(values, dtype=torch.bool)) == ""


def test_only_observed_values_count():
    x = table()
    x[::3, 2], x[1::3, 3] = 7.5, -1.0
    observed = np.ones(x.shape, bool)
    observed[::3, 2], observed[1::3, 3] = False, False
    assert infer_parts(x, observed, **GIVEN) == EXPECTED
    assert infer_parts(np.where(observed, x, np.nan), **GIVEN) == EXPECTED
    assert infer_parts(x, **GIVEN)[:1] == [["normal", 4, NORMAL]]
    assert infer_parts(np.full((3, 2), np.nan)) == [["normal", 2, NORMAL]]


def test_what_is_inferred_can_be_overridden():
    x = table()
    parts = infer_parts(x, **GIVEN, overrides={0: ["student_t"], 11: ["normal", {"scale": "learned"}]})
    assert parts[:2] == [["student_t", 1], ["normal", 1, NORMAL]]
    assert parts[-2:] == [["normal", 1, {"scale": "learned"}], ["normal", 1, NORMAL]]
    assert infer_parts(x[:, :1], overrides={0: ["beta"]}) == [["beta", 1]]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"values": np.zeros(3)}, r"got values of shape \(3,\)"),
        ({"values": [["a", "b"]]}, r"got values of shape \(1, 2\); expected numbers"),
        ({"observed": np.ones((2, 2))}, r"got observed of shape \(2, 2\) and float64"),
        ({"values": [[1.0, np.inf]]}, "got observed values that are infinite"),
        ({"groups": [(1, 3)]}, r"got the group \(1, 3\)"),
        ({"groups": [(0, 2), (1, 1)]}, "column 1 is in the group"),
        ({"groups": [(0, 2)], "ranks": {1: 3}}, "column 1 is in the group"),
        ({"overrides": {2: ["beta"]}}, "got column 2; expected columns from 0 to 1"),
    ],
)
def test_what_is_wrong_is_one_line(given, says):
    with pytest.raises(InputError, match=says):
        infer_parts(**{"values": np.ones((2, 2)), **given})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"overrides": {0: "normal"}}, r"overrides\[0\]: got 'normal'; expected \[likelihood\] or"),
        ({"overrides": {0: "normle"}}, r"overrides\[0\]: got 'normle'.*did you mean 'normal'"),
        (
            {"overrides": {0: ["normle"]}},
            "unknown likelihood 'normle'; did you mean 'normal'",
        ),
        ({"overrides": {0: ["ordinal"]}}, "got no 'levels'"),
        ({"overrides": {0: ["ordinal", {"level": 3}]}}, "unknown parameter 'level'; did you mean 'levels'"),
        ({"overrides": {0: ["normal", 3]}}, "got params=3; expected a mapping"),
        ({"overrides": {0: ["normal", {"scale": -1}]}}, "scale"),
        ({"overrides": {0: ["categorical"]}}, "expected a group of one-hot columns"),
        ({"overrides": {0: None}}, "got None"),
        ({"overrides": {0: []}}, r"got \[\]"),
        ({"overrides": {"a": ["normal"]}}, "expected numbers of columns"),
        ({"overrides": {True: ["normal"]}}, "expected numbers of columns"),
        ({"overrides": ["normal"]}, "expected numbers of columns"),
        ({"ranks": {0: "x"}}, r"ranks\[0\]='x'"),
        ({"ranks": [3]}, "expected numbers of columns with levels"),
        ({"groups": [(0,)]}, r"got the group \(0,\)"),
        ({"groups": 3}, "got the group 3"),
    ],
)
def test_what_is_stated_wrongly_is_one_line(given, says):
    with pytest.raises(InputError, match=says) as caught:
        infer_parts(np.ones((2, 2)), **given)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("infer_parts: ")

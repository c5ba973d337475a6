"""Values of samples as numbers or levels."""

from __future__ import annotations

import numpy as np
import pytest

from polyvae import InputError
from polyvae.utils.levels import column


@pytest.mark.parametrize(
    ("values", "numbers", "names"),
    [
        ([np.str_("b"), "a", np.str_("a")], [1, 0, 0], ("a", "b")),
        (np.array([np.str_("b"), "a", "a"], dtype=object), [1, 0, 0], ("a", "b")),
        ([True, np.bool_(False), True], [1, 0, 1], ("False", "True")),
        ([np.int64(3), 2, np.float32(0.5)], [3, 2, 0.5], None),
        (np.array([np.int64(3), 2, 0.5], dtype=object), [3, 2, 0.5], None),
    ],
)
def test_values_of_python_and_numpy_may_stand_side_by_side(values, numbers, names):
    found, levels = column("site", values, 3)
    assert found.tolist() == numbers
    assert levels == names


@pytest.mark.parametrize(
    ("values", "types"),
    [
        ([True, 2, 0], "bool, int"),
        ([np.True_, 2, 0], "bool, int"),
        (np.array([True, 2, 0.5], dtype=object), "bool, float, int"),
        (["a", 1, "b"], "int, str"),
        ([1j, 1j, 1j], ""),
    ],
)
def test_values_of_several_kinds_are_refused(values, types):
    with pytest.raises(InputError, match=f"site: got .*{types}.*expected texts, booleans or numbers"):
        column("site", values, 3)

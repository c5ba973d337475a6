"""The benchmark of tables with columns of several kinds: what is hidden, how it is scored, and what imputers of numbers are given."""

import numpy as np
import pytest

from benchmarks.imputation.mixed import KINDS, RATE, TABLES, coded, errors, hidden, page


@pytest.fixture(params=["wine", "diabetes", "breast_cancer"])
def data(request):
    return TABLES[request.param]()


def test_every_kind_occurs_and_a_share_of_the_entries_is_hidden(data):
    kinds = set(data.kinds["table"].values())
    assert kinds >= {"real", "ordinal", "class"}
    given, masks = hidden(data, 0)
    assert masks["table"].mean() == pytest.approx(RATE, abs=0.03)
    assert np.array_equal(given["table"].isna().to_numpy(), masks["table"])
    assert given["table"].notna().any(axis=1).all()


@pytest.mark.parametrize("one_hot", [True, False])
def test_a_complete_matrix_is_read_back_without_error(data, one_hot):
    _, masks = hidden(data, 0)
    matrix = coded(data, data.frames, one_hot)
    found = errors(data, matrix.read(matrix.x), masks)
    assert found["class"] == 1
    assert [found[kind] for kind in KINDS if kind != "class" and kind in found] == pytest.approx(
        [0.0] * (len(found) - 1), abs=1e-9
    )
    assert np.nanmean(matrix.x, 0) == pytest.approx(np.zeros(matrix.x.shape[1]), abs=1e-9)


def test_the_page_has_the_mean_and_the_standard_deviation_over_seeds():
    entries = [
        {
            "data": "wine",
            "method": "k-NN",
            "seed": seed,
            "seconds": 1.0,
            "errors": {"real": value, "class": 0.5},
        }
        for seed, value in enumerate((0.4, 0.6))
    ]
    assert "| wine | k-NN | 0.500 ± 0.100 | – | – | 0.500 ± 0.000 | 1.0 |" in page(entries)

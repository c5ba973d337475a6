"""Which samples are trained on: as many as asked for, the same in any order; and data in files that memory cannot hold are refused."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import polyvae as pv
from polyvae.imputation import choosing
from polyvae.imputation.choosing import check_memory, chosen_rows, free_memory, needed

QUICK = {"steps": 10, "members": 2, "latent": 2, "seed": 0, "network": {"hidden": [8]}}


def data(n: int = 50, ids: bool = True) -> pv.MultimodalData:
    x = np.random.default_rng(0).normal(size=(n, 3))
    mask = {"a": np.arange(n) != 4}
    return pv.MultimodalData({"a": x}, mask=mask, ids=[f"p{i}" for i in range(n)] if ids else None)


@pytest.mark.parametrize("ids", [True, False])
def test_as_many_samples_as_asked_for_and_none_without_an_entry(ids: bool) -> None:
    with pytest.warns(UserWarning, match="1 of 50 samples have no observed entry"):
        rows = chosen_rows(data(ids=ids), 20, 0)
    assert len(set(rows.tolist())) == 20
    assert 4 not in rows
    with pytest.warns(UserWarning, match="1 of 50"):
        assert chosen_rows(data(ids=ids), None, 0).tolist() == [i for i in range(50) if i != 4]
    assert chosen_rows(data(ids=ids).rows(slice(5, 50)), 45, 0) is None


def test_the_choice_depends_on_ids_and_the_seed_alone() -> None:
    given = data().rows([i for i in range(50) if i != 4])
    order = np.random.default_rng(1).permutation(49)
    turned = given.rows(order)
    chosen = [{each.ids[row] for row in chosen_rows(each, 20, 0)} for each in (given, turned)]
    assert chosen[0] == chosen[1]
    assert chosen[0] != {given.ids[row] for row in chosen_rows(given, 20, 1)}


def test_a_memory_map_is_trained_on_in_part_and_predicted_as_a_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 2))
    np.save(tmp_path / "a.npy", (z @ rng.normal(size=(2, 6))).astype(np.float32))
    stays = np.load(tmp_path / "a.npy", mmap_mode="r")
    given = pv.MultimodalData({"a": stays, "b": z}, mask={"b": np.arange(300) % 3 > 0})
    y = z[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est = pv.Estimator(**QUICK, max_samples=80).fit(given, y)
    assert est._imputer.tables.size == 80
    assert est.impute(given).values("b").shape == (300, 2)
    assert np.corrcoef(est.predict(given), y)[0, 1] > 0.9
    est.save(tmp_path / "part.polyvae")
    assert pv.Estimator.load(tmp_path / "part.polyvae").max_samples == 80


def test_data_in_files_that_memory_cannot_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1000, 50), np.float32))
    stays = np.load(tmp_path / "a.npy", mmap_mode="r")
    given = pv.MultimodalData({"a": stays, "b": np.zeros((1000, 2))})
    check_memory(given)
    free = needed(500, 50)
    monkeypatch.setattr(choosing, "free_memory", lambda: free)
    with pytest.raises(pv.InputError, match=r"max_samples=250$") as problem:
        pv.Estimator(**QUICK).fit(given)
    assert "\n" not in str(problem.value)
    check_memory(given.rows(slice(0, 250)))
    check_memory(given.rows(slice(0, 500)))
    check_memory(given.select("b"))
    monkeypatch.setattr(choosing, "free_memory", lambda: 10**7)
    with pytest.raises(pv.InputError, match=r"; free some memory$"):
        check_memory(given)
    monkeypatch.setattr(choosing, "free_memory", lambda: None)
    check_memory(given)


def test_free_memory_is_stated_in_bytes() -> None:
    free = free_memory()
    assert free is None or 2**20 < free < 2**60


def test_too_few_samples() -> None:
    with pytest.raises(pv.InputError, match="expected at least 2"):
        chosen_rows(pv.MultimodalData({"a": np.ones((2, 1))}, mask={"a": [True, False]}), None, 0)
    with pytest.raises(pv.InputError, match="max_samples"):
        pv.Estimator(**QUICK, max_samples=1).fit({"a": pd.DataFrame(np.ones((4, 2)))})


def test_the_estimate_is_near_what_was_measured() -> None:
    """Peaks above the memory at the start, in MB, of fits to (samples, columns) in two memory maps."""
    for (count, width), peak in {
        (100, 210): 113,
        (2000, 210): 428,
        (10_000, 30): 899,
        (30_000, 210): 1010,
    }.items():
        assert 0.6 < needed(count, width) / 1e6 / peak < 1.05

"""Which samples calibrate a prediction, and targets beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyvae.imputation.imputer import Imputer
from polyvae.imputation.recipe import designs
from polyvae.imputation.tables import Tables


class Settings:
    model, latent, options, network, steps, max_seconds = "subset-poe", 2, None, None, 5, None


@pytest.fixture(scope="module")
def imputer() -> Imputer:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(40, 3)).astype(np.float32) for name in ("a", "b", "y")}
    seen = {name: np.ones((40, 3), bool) for name in values}
    seen["b"][:15] = False
    seen["a"][30:] = False
    values = {name: np.where(seen[name], x, 0).astype(np.float32) for name, x in values.items()}
    made = Imputer(Tables(values, seen), designs(Settings, 40), 2, 0, torch.device("cpu"), ("y",))
    return made.fit()


def test_samples_without_another_modality_do_not_calibrate(imputer: Imputer) -> None:
    assert len(imputer.combination(imputer.others("a"), "a").y) == 15
    assert len(imputer.combination(imputer.others("b"), "b").y) == 15
    assert (
        len(imputer.combination(imputer.others("y"), "y").y) == 40
    )  # every sample has a or b; pooled below 100


def test_without_the_target_the_same_is_imputed(imputer: Imputer) -> None:
    everything = imputer.tables
    given = Tables(
        {name: everything.values[name] for name in ("a", "b")},
        {name: everything.observed[name] for name in ("a", "b")},
    )
    found = {(each.name, tuple(each.rows)): each.values for each in imputer.impute(given)}
    assert {name for name, _ in found} == {"a", "b"}
    hidden = imputer.complete(given)
    assert not hidden.observed["y"].any()
    beside = {(each.name, tuple(each.rows)): each.values for each in imputer.impute(hidden)}
    assert {name for name, _ in beside} == {"a", "b", "y"}
    for key, values in found.items():
        assert np.array_equal(values, beside[key])


def test_of_few_samples_every_entry_is_hidden_once_and_has_no_influence_on_its_prediction(
    imputer: Imputer,
) -> None:
    everything = (True, True, False)
    turn = imputer.turns("a", np.random.default_rng(0).random((1000, 3)))
    assert np.bincount(turn.ravel()) == pytest.approx(600, abs=90)
    before = imputer.combination(everything, "a")
    assert before.seen.all()
    values, others = imputer.tables.values["a"], list[bool]()
    for row in (12, 20):
        kept, values[row, 1] = values[row, 1], values[row, 1] + 5
        imputer._combinations.clear()
        after = imputer.combination(everything, "a").left_out
        values[row, 1] = kept
        for name in ("vae", "linear vae", "factors"):
            changed = after[name][row] != before.left_out[name][row]
            assert not changed[1]
            others.append(bool(changed.any()))
    imputer._combinations.clear()
    assert any(others)  # predictions of entries that were hidden in other rounds depend on it

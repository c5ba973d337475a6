"""Files of estimators: what they keep, and that forged ones are refused in one line before they take memory."""

import copy

import numpy as np
import pytest
import torch

import polyvae as pv
from polyvae.utils.files import load_tensors, save_tensors

PARAMS = {
    "options": {"keep": 0.6},
    "network": {"hidden": [7]},
    "units": {"a": {"a_0": "kg"}},
    "missing_columns": "mask",
}


@pytest.fixture(scope="module")
def fitted() -> pv.Estimator:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(30, 2))
    data = {"a": z @ rng.normal(size=(2, 4)), "b": z @ rng.normal(size=(2, 3))}
    est = pv.Estimator(seed=4, steps=3, members=2, latent=3, **PARAMS)
    return est.fit(data, np.array(["u", "v"] * 15))


@pytest.fixture(scope="module")
def stored(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "e.polyvae"
    fitted.save(path)
    return load_tensors(path)


def test_parameters_and_results_are_kept(fitted, tmp_path):
    fitted.save(tmp_path / "e.polyvae")
    loaded = pv.Estimator.load(tmp_path / "e.polyvae")
    assert loaded.get_params() == fitted.get_params()
    new = {"b": np.random.default_rng(1).normal(size=(5, 3))}
    assert np.array_equal(loaded.impute(new)["a"], fitted.impute(new)["a"])
    assert np.array_equal(loaded.predict_proba(new), fitted.predict_proba(new))


def test_a_model_that_would_be_imported_is_not_saved(fitted, tmp_path):
    other = copy.copy(fitted).set_params(model="package.module:Model")
    with pytest.raises(pv.InputError, match="MODELS"):
        other.save(tmp_path / "e.polyvae")


FORGED = {
    "params.model": [3, "nope", "json:JSONDecoder"],
    "params.latent": ["x", 4, 10**9],
    "params.members": [0, 3, 10**7],
    "params.options": [[1], {"latent": 10**5}, {"nope": 1}],
    "params.network": [3, {"hidden": [10**7]}, {"hidden": [10] * 1000}, {"hidden": "x"}],
    "params.steps": ["x", 0],
    "params.seed": ["x"],
    "params.nan": [5],
    "params": [[1], None],
    "schema": [5],
    "tables": [5, ["a"], ["a", "b", "c"]],
    "target.classes": [5, ["u"], ["u", "v", "w"]],
    "target.center": ["x", [1.0]],
    "target.scale": [[0.0, 0.0], [1.0]],
    "target": [5, None],
    "scores": [5, "[]"],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in FORGED.items() for value in values]
)
def test_forged_metadata_are_refused_in_one_line(stored, tmp_path, key, value):
    tensors, metadata = stored
    metadata = copy.deepcopy(metadata)
    *path, last = key.split(".")
    place = metadata
    for part in path:
        place = place[part]
    place[last] = value
    save_tensors(tmp_path / "f.polyvae", tensors, metadata)
    with pytest.raises(pv.InputError) as problem:
        pv.Estimator.load(tmp_path / "f.polyvae")
    assert "\n" not in str(problem.value)
    assert len(str(problem.value)) < 1000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("values.0", torch.zeros(30, 5)),
        ("values.0", torch.zeros(29, 4)),
        ("values.0", torch.zeros(30)),
        ("values.0", torch.zeros(30, 4, dtype=torch.int64)),
        ("values.0", torch.full((30, 4), float("nan"))),
        ("observed.1", torch.ones(30, 3)),
        ("observed.1", torch.ones(30, 4, dtype=torch.bool)),
        ("embedding.mean", torch.zeros(2)),
        ("embedding.axes", torch.zeros(7)),
        ("members", torch.zeros(())),
        ("members", torch.zeros(1)),
        ("members.vae.unknown", torch.zeros(2, 3)),
    ],
)
def test_forged_tensors_are_refused_in_one_line(stored, tmp_path, key, value):
    tensors, metadata = stored
    first = next(name for name in tensors if name.startswith("members."))
    save_tensors(tmp_path / "f.polyvae", {**tensors, first if key == "members" else key: value}, metadata)
    with pytest.raises(pv.InputError) as problem:
        pv.Estimator.load(tmp_path / "f.polyvae")
    assert "\n" not in str(problem.value)


# ---- time to event -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored_times(tmp_path_factory):
    rng = np.random.default_rng(0)
    data = {"a": rng.normal(size=(30, 4)), "b": rng.normal(size=(30, 3))}
    y = np.stack([rng.exponential(size=30), np.arange(30) % 4 > 0], 1)
    path = tmp_path_factory.mktemp("times") / "e.polyvae"
    pv.Estimator(steps=1, members=2, latent=2, target="time").fit(data, y).save(path)
    return load_tensors(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("inputs", []),
        ("inputs", ["a", "b"]),
        ("inputs", 5),
        ("weights", [1.0]),
        ("weights", [-1.0] * 5),
        ("hazards.time", torch.zeros(30)),
        ("hazards.time", torch.full((30,), -1.0, dtype=torch.float64)),
        ("hazards.time", torch.full((30,), float("nan"), dtype=torch.float64)),
        ("hazards.event", torch.zeros(30, dtype=torch.bool)),
        ("hazards.event", torch.ones(29, dtype=torch.bool)),
        ("hazards.left_out", torch.zeros(5, 30, dtype=torch.float64)),
        ("hazards.0.weights", torch.zeros(4)),
        ("hazards.2.centre", torch.zeros(7)),
        ("hazards.4.weights", torch.zeros(1)),
    ],
)
def test_forged_hazards_are_refused_in_one_line(stored_times, tmp_path, key, value):
    tensors, metadata = stored_times
    metadata = copy.deepcopy(metadata)
    if key in metadata["hazards"]:
        metadata["hazards"][key] = value
    else:
        tensors = {**tensors, key: value}
    save_tensors(tmp_path / "f.polyvae", tensors, metadata)
    with pytest.raises(pv.InputError) as problem:
        pv.Estimator.load(tmp_path / "f.polyvae")
    assert "\n" not in str(problem.value)

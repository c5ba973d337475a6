"""Members trained side by side: the same as one after the other, each without its fold."""

import threading

import numpy as np
import pytest
import torch

import polyvae as pv
from polyvae.imputation.methods.members import Members, Schedule, forked
from polyvae.imputation.methods.wide import Wide
from polyvae.imputation.tables import Tables, patterns
from polyvae.utils.progress import Silent


def tables(n: int = 60, missing: float = 0.3, gaps: bool = False, seed: int = 0) -> Tables:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    values = {
        "a": z @ rng.normal(size=(2, 5)),
        "b": z @ rng.normal(size=(2, 4)),
        "c": z @ rng.normal(size=(2, 3)),
    }
    rows = rng.random((3, n)) >= missing
    rows[0] |= ~rows.any(0)
    observed = {}
    for row, (name, x) in zip(rows, values.items(), strict=True):
        seen = np.repeat(row[:, None], x.shape[1], 1)
        observed[name] = seen & (rng.random(x.shape) >= 0.2) if gaps else seen
    return Tables({name: np.where(observed[name], x, 0).astype("f4") for name, x in values.items()}, observed)


def members(entries: bool = False, name: str = "subset-poe", count: int = 3, **options: object) -> Members:
    specs = [
        pv.Modality(m, size, network="table", params={"hidden": [8], "scale": "per_entry"}, entries=entries)
        for m, size in (("a", 5), ("b", 4), ("c", 3))
    ]
    return Members(name, specs, {"latent": 3, **options}, count, 0, torch.device("cpu"), Wide(tables()))


class Recorded(Silent):
    """Keeps what a reporter is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def start(self, what: str, total: int | None, done: int = 0) -> None:
        self.calls.append((what, total))

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.calls.append((steps, note))

    def say(self, line: str) -> None:
        self.calls.append((line,))


def test_progress_is_one_bar_of_all_steps():
    seen = Recorded()
    found = members().fit(tables(), np.arange(60) % 3, Schedule(43, patience=99), seen, "vae")
    first, *looks = seen.calls
    assert first == ("training vae", 43)
    assert sum(steps for steps, _ in looks) == 43
    assert len(looks) == 22  # every second step, and the last
    assert looks[-1][1] == f"unexplained variance {found.mean():.3f}"


@pytest.mark.parametrize("gaps", [False, True])
def test_training_lowers_the_error_of_samples_left_out(gaps):
    data = tables(100, gaps=gaps)
    found = members(entries=gaps)
    fold = np.arange(100) % 3
    short = members(entries=gaps).fit(data, fold, Schedule(1))
    long = found.fit(data, fold, Schedule(120))
    assert (long < 0.6 * short).all()


def test_the_batched_objective_is_that_of_each_member():
    data, found = tables(), members()
    batch = data.batch(torch.device("cpu"), False)
    rows = torch.arange(12).repeat(3, 1)
    values = {name: x[rows] for name, x in batch.data.items()}
    mask = batch.mask[:, rows].transpose(0, 1)
    found.base.eval()
    found.base.keep = 1.0  # nothing is drawn of the subsets
    each = []
    for e in range(3):
        parameters, buffers = found._of(e)
        torch.manual_seed(0)
        each.append(
            found._objective(parameters, buffers, {name: x[e] for name, x in values.items()}, mask[e], {}, {})
        )
    torch.manual_seed(0)
    together = torch.func.vmap(found._objective, randomness="same")(
        found.parameters, found.buffers, values, mask, {}, {}
    )
    assert torch.allclose(torch.stack(each), together, atol=1e-4)


def test_missing_values_have_no_influence():
    data = tables()
    found = members()
    rng = np.random.default_rng(1)
    other = Tables(
        {name: np.where(data.observed[name], x, 0).astype("f4") for name, x in data.values.items()},
        data.observed,
    )
    disturbed = Tables(
        {
            name: np.where(data.observed[name], x, rng.normal(size=x.shape)).astype("f4")
            for name, x in data.values.items()
        },
        data.observed,
    )
    a, b = found.predict(other), found.predict(disturbed)
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_left_out_is_the_prediction_of_the_member_with_that_fold():
    data, found = tables(), members()
    fold = np.arange(60) % 3
    left = found.predict_left_out(data, fold)
    one = found._chunks(1, data)
    assert np.allclose(left["a"][fold == 1], one["a"][fold == 1], atol=1e-6)


def test_a_member_does_not_see_its_fold():
    """Samples that differ only in the fold of member 0 leave that member's parameters unchanged."""
    data = tables(missing=0.0)
    fold = np.arange(60) % 3
    disturbed = Tables({name: x + (fold == 0)[:, None] for name, x in data.values.items()}, data.observed)
    first, second = members(), members()
    for one, source in ((first, data), (second, disturbed)):
        one._left_out = lambda tables, fold: torch.zeros(3)  # type: ignore[method-assign]
        one.fit(source, fold, Schedule(5, patience=99))
    same = [
        torch.equal(a[0], b[0])
        for a, b in zip(first.parameters.values(), second.parameters.values(), strict=True)
    ]
    others = [
        torch.equal(a[1], b[1])
        for a, b in zip(first.parameters.values(), second.parameters.values(), strict=True)
    ]
    assert all(same)
    assert not all(others)


def test_training_is_repeatable_and_leaves_the_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    data, fold = tables(), np.arange(60) % 3
    found = [members() for _ in range(2)]
    for one in found:
        one.fit(data, fold, Schedule(8))
    assert all(torch.equal(a, b) for a, b in zip(*(one.state().values() for one in found), strict=True))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["mmvae", "mmvae+", "mopoe", "mvae", "mvtcae"])
def test_other_models_take_the_place_of_members(name):
    data, fold = tables(40), np.arange(40) % 2
    found = members(name=name, count=2)
    assert np.isfinite(found.fit(data, fold, Schedule(10))).all()
    assert all(np.isfinite(x).all() for x in found.predict(data).values())
    assert np.array_equal(found.predict(data)["a"], found.predict(data)["a"])


def test_patterns_are_a_partition():
    mask = np.array([[1, 0], [1, 1], [1, 0], [0, 1]], bool)
    found = patterns(mask)
    assert {pattern: rows.tolist() for pattern, rows in found.items()} == {
        (True, False): [0, 2], (True, True): [1], (False, True): [3]
    }  # fmt: skip


def without_scores(kind: str) -> tuple[Tables, np.ndarray]:
    """Data of which some fold, or every fold, has no sample whose modalities can be predicted from others; and the folds."""
    data = tables(60, missing=0)
    if kind == "an empty fold":
        return data, np.arange(60) % 2
    observed = {name: seen.copy() for name, seen in data.observed.items()}
    together = np.arange(60) % 3 == 0 if kind == "one fold" else np.zeros(60, bool)
    for place, seen in enumerate(observed.values()):
        seen[~together & (np.arange(60) // 3 % 3 != place)] = False
    values = {name: np.where(observed[name], x, 0).astype("f4") for name, x in data.values.items()}
    return Tables(values, observed), np.arange(60) % 3


@pytest.mark.parametrize("kind", ["an empty fold", "one fold", "no fold"])
def test_a_member_that_leaves_out_nothing_to_score_is_trained_too(kind):
    found = members()
    before = {key: x.detach().clone() for key, x in found.parameters.items()}
    data, fold = without_scores(kind)
    error = found.fit(data, fold, Schedule(10))
    assert np.isnan(error).all() if kind == "no fold" else np.isfinite(error).all()
    moved = torch.stack([(x - before[key]).abs().flatten(1).amax(1) for key, x in found.parameters.items()])
    assert (moved.amax(0) > 0.01).all()


def test_a_constant_modality_has_no_part_in_the_error_of_samples_left_out():
    data = tables(60, missing=0)
    flat = Tables({**data.values, "c": np.zeros_like(data.values["c"])}, data.observed)
    assert (members().fit(flat, np.arange(60) % 3, Schedule(5)) < 3).all()


def test_a_single_modality_beside_a_target_is_scored_from_itself():
    specs = [
        pv.Modality("a", 5, network="table", params={"hidden": [8]}, entries=True),
        pv.Modality("b", 4, network="table", params={"hidden": [8]}, role="target"),
    ]
    found = Members("subset-poe", specs, {"latent": 3}, 2, 0, torch.device("cpu"), Wide(tables()))
    data = tables(100, missing=0)
    part = Tables(
        {"a": data.values["a"], "b": np.zeros((100, 4), "f4")},
        {"a": data.observed["a"], "b": np.zeros((100, 4), bool)},
    )
    assert (found.fit(part, np.arange(100) % 2, Schedule(80)) < 0.8).all()


def test_a_training_is_the_same_beside_inference_in_another_thread():
    data, fold, done = tables(), np.arange(60) % 3, threading.Event()
    alone, beside, other = members(), members(), members(name="mmvae+", latent=4)
    alone.fit(data, fold, Schedule(20))

    def infer() -> None:
        while not done.is_set():
            other.predict(data)
            other.draw(data, 0)
            members()

    thread = threading.Thread(target=infer)
    thread.start()
    beside.fit(data, fold, Schedule(20))
    done.set()
    thread.join()
    assert all(torch.equal(x, beside.parameters[key]) for key, x in alone.parameters.items())


def test_seeds_of_numpy_are_seeds():
    found = members()
    drawn = found.draw(tables(), np.int64(3))  # type: ignore[arg-type]
    assert np.array_equal(drawn["a"], found.draw(tables(), 3)["a"])


def test_the_generators_of_the_device_are_restored(monkeypatch):
    kept = []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: kept.append(devices))
    forked(torch.device("cuda", 1))
    forked(torch.device("cpu"))
    assert kept == [[torch.device("cuda", 1)], []]

"""Training: what resumes resumes bit for bit, what cannot be trained on is refused, what was done is written down."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import polyvae as pv
from polyvae.data import SliceLoader, mix
from polyvae.training.checkpoints import Checkpoints
from polyvae.training.directory import RunDirectory
from polyvae.training.history import TrainingError
from polyvae.training.validation import validate
from tests.helpers.tiny import small_data, small_model


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([x.flatten() for x in model.state_dict().values()])


SETTINGS: dict[str, object] = {
    "batch_size": 7,
    "show": False,
    "checkpoint_every": 3,
    "lr": 1e-2,
    "precision": "fp32",
}


@pytest.mark.parametrize(
    "extra",
    [{}, {"amsgrad": True, "clip": 1.0}, {"warmup_epochs": 2.5}, {"precision": "bf16"}, {"patience": 2}],
)
def test_a_run_that_was_stopped_and_resumed_has_the_same_bits(
    tmp_path: Path, extra: dict[str, object]
) -> None:
    straight, stopped = small_model(), small_model()
    settings = SETTINGS | extra
    whole = pv.fit(straight, small_data(), out=tmp_path / "a", epochs=5, **settings)
    pv.fit(stopped, small_data(), out=tmp_path / "b", epochs=5, max_seconds=1e-9, **settings)
    for _ in range(3):
        stopped = small_model(seed=9)  # whatever it starts from, the checkpoint decides
        more = Checkpoints(tmp_path / "b" / "checkpoints").load()[1]["elapsed"] + 1e-9  # one more step
        pv.fit(stopped, small_data(), out=tmp_path / "b", epochs=5, resume=True, max_seconds=more, **settings)
    again = pv.fit(stopped, small_data(), out=tmp_path / "b", epochs=5, resume=True, **settings)
    assert again.step > 4
    assert torch.equal(weights(straight), weights(stopped))
    assert (again.step, again.stopped) == (whole.step, whole.stopped)
    clockless = [
        [{k: v for k, v in record.items() if k != "seconds"} for record in h.records] for h in (whole, again)
    ]
    assert clockless[0] == clockless[1]


def test_more_epochs_than_first_asked_for_equal_the_longer_run(tmp_path: Path) -> None:
    longer, extended = small_model(), small_model()
    pv.fit(longer, small_data(), out=tmp_path / "a", epochs=6, **SETTINGS)
    pv.fit(extended, small_data(), out=tmp_path / "b", epochs=2, **SETTINGS)
    pv.fit(extended, small_data(), out=tmp_path / "b", epochs=6, resume=True, **SETTINGS)
    assert torch.equal(weights(longer), weights(extended))


def test_a_schedule_that_depends_on_the_total_is_recomputed_and_the_log_says_so(tmp_path: Path) -> None:
    model = small_model()
    pv.fit(model, small_data(), out=tmp_path, epochs=2, schedule="cosine", **SETTINGS)
    pv.fit(model, small_data(), out=tmp_path, epochs=4, schedule="cosine", resume=True, **SETTINGS)
    notes = [record["note"] for record in RunDirectory(tmp_path).read_history() if "note" in record]
    steps = len(SliceLoader(small_data().carve(0.05, 0)[0], 7))
    assert notes == [f"schedule 'cosine' recomputed for {4 * steps} steps (it was for {2 * steps})"]


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=1, **SETTINGS)
    with pytest.raises(
        pv.InputError, match=r"^resume: got train\.batch_size=8; expected 7, as the run began"
    ):
        pv.fit(
            small_model(), small_data(), out=tmp_path, epochs=2, resume=True, **{**SETTINGS, "batch_size": 8}
        )
    for key, value in (("lr", 1e-3), ("clip", 1.0), ("precision", "bf16")):  # remedies of a failure only
        with pytest.raises(pv.InputError, match=rf"^resume: got train\.{key}=.*{value}.*, as the run began"):
            pv.fit(
                small_model(), small_data(), out=tmp_path, epochs=2, resume=True, **{**SETTINGS, key: value}
            )
    with pytest.raises(pv.InputError, match=r"^resume: got model\.beta=2\.0; expected 1\.0"):
        pv.fit(small_model(beta=2.0), small_data(), out=tmp_path, epochs=2, resume=True, **SETTINGS)
    with pytest.raises(pv.InputError, match="number of training rows"):
        pv.fit(small_model(), small_data(50), out=tmp_path, epochs=2, resume=True, **SETTINGS)


def _train(out: Path, resume: bool = False) -> None:
    pv.fit(small_model(), small_data(), out=out, resume=resume, epochs=20, validation=0.0, **SETTINGS)


def _kill_and_resume(tmp_path: Path, moments: list[float]) -> None:
    """Kill processes, each so many seconds after the first checkpoint was seen, and resume; compare with the uninterrupted run."""
    _train(tmp_path / "straight")
    out = tmp_path / "killed"
    for number, moment in enumerate(moments):
        # A fork, which has imported everything already: torch runs on one thread here.
        process = multiprocessing.get_context("fork").Process(target=_train, args=(out, number > 0))
        process.start()
        end = time.monotonic() + 60
        while process.is_alive() and not (out / "checkpoints" / "latest").exists() and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(moment)
        process.kill()
        process.join(60)
        assert process.exitcode in ((0, -signal.SIGKILL) if number else (-signal.SIGKILL,))
    assert not (out / "model.safetensors").exists() or len(moments) > 1
    _train(out, resume=True)
    assert torch.equal(weights(pv.load_model(tmp_path / "straight")), weights(pv.load_model(out)))


def test_killed_in_the_middle_and_resumed_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    _kill_and_resume(tmp_path, [0.1])


@pytest.mark.soak
def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(20)
    for number in range(20):
        _kill_and_resume(tmp_path / str(number), [float(torch.rand((), generator=draws)) * 0.6])


def test_killed_before_the_first_checkpoint_it_starts_again(tmp_path: Path) -> None:
    straight = small_model()
    pv.fit(straight, small_data(), out=tmp_path / "a", epochs=2, **SETTINGS)
    RunDirectory.create(tmp_path / "b")
    resumed = small_model()
    pv.fit(resumed, small_data(), out=tmp_path / "b", epochs=2, resume=True, **SETTINGS)
    assert torch.equal(weights(straight), weights(resumed))


def test_an_existing_run_is_never_overwritten_without_force(tmp_path: Path) -> None:
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=1, **SETTINGS)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(pv.InputError, match=r"got an existing run; .*--resume.*--force"):
        pv.fit(small_model(seed=3), small_data(), out=tmp_path, epochs=1, **SETTINGS)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_rows_in_which_nothing_was_observed_are_refused_and_counted() -> None:
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[:, [2, 7, 8]] = False
    data = pv.MultimodalData({"a": torch.zeros(10, 3), "b": torch.zeros(10, 2)}, mask=mask)
    with pytest.raises(pv.InputError, match=r"^fit: nothing was observed in 3 of 10 rows;"):
        pv.fit(small_model(), data, epochs=1, show=False)


def test_values_that_a_likelihood_cannot_explain_are_refused() -> None:
    data = pv.MultimodalData(
        {"a": torch.full((20, 3), 0.5)}, modalities=[pv.Modality("a", (3,), likelihood="categorical")]
    )
    model = pv.VAE(data.modalities(), latent=2)
    with pytest.raises(pv.InputError, match=r"^modality 'a' \(categorical\): got fractions"):
        pv.fit(model, data, epochs=1, show=False)


def test_a_factory_that_cannot_be_stored_is_refused_before_training(tmp_path: Path) -> None:
    def local(in_shape: tuple[int, ...], out: int) -> torch.nn.Module:
        return torch.nn.Linear(in_shape[0], out)

    model = pv.VAE([pv.Modality("a", (3,), encoder=local)], latent=2)
    with pytest.raises(pv.InputError, match="'a'"):
        pv.fit(model, pv.MultimodalData({"a": torch.zeros(40, 3)}), out=tmp_path / "x", epochs=1)
    assert not (tmp_path / "x").exists()


def test_a_bound_that_is_not_finite_names_the_term_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        next(model.modalities["b"].decoder.parameters()).fill_(1e30)  # type: ignore[union-attr]
    with pytest.raises(
        TrainingError, match=r"at step 0; the first term that is not finite is 'log_likelihood/b'"
    ):
        pv.fit(model, small_data(), out=tmp_path, epochs=1, **SETTINGS)
    assert Checkpoints(tmp_path / "checkpoints").latest() is not None


def test_the_history_is_the_mean_bound_and_its_terms_add_up(tmp_path: Path) -> None:
    model = small_model(beta=1.7)
    history = pv.fit(model, small_data(), out=tmp_path, epochs=2, **SETTINGS)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines == history.records
    for record in lines:
        for part in (record["train"], record["validation"]):
            total = part["log_likelihood/a"] + part["log_likelihood/b"] - 1.7 * (part["kl/z"] + part["kl/w"])
            assert part["bound"] == pytest.approx(total, rel=1e-5)


def test_validation_neither_sees_training_rows_nor_leaves_a_trace() -> None:
    data = small_data()
    train, held = data.carve(0.2, 3)
    rows = [
        tuple(row.tolist())
        for part in (train, held)
        for row in part.take(slice(None)).data["a"][part.mask[0]]
    ]
    assert len(set(rows)) == int(data.mask[0].sum())
    model = small_model().train()
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    first = validate(model, held)
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert validate(model, held) == first


def test_fit_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    model = small_model()
    torch.manual_seed(4)
    pv.fit(model, small_data(), epochs=1, **SETTINGS)
    assert torch.equal(torch.rand(3), expected)


def test_a_stream_trains_to_the_same_bits_as_its_tensors_in_the_same_order() -> None:
    """An ordinary DataLoader, unshuffled, against SliceLoader, unshuffled."""
    data = small_data().complete()
    tensors = data.take(slice(None)).data
    rows = [{name: x[i] for name, x in tensors.items()} for i in range(len(data))]
    one, other = small_model(), small_model()
    pv.fit(one, SliceLoader(data, 7, shuffle=False), epochs=2, **SETTINGS)
    pv.fit(other, pv.data.StreamLoader(torch.utils.data.DataLoader(rows, batch_size=7)), epochs=2, **SETTINGS)
    assert torch.equal(weights(one), weights(other))


def test_early_stopping_keeps_the_best_weights() -> None:
    model = small_model()
    history = pv.fit(model, small_data(), epochs=60, patience=2, **{**SETTINGS, "lr": 0.5})
    bounds = [record["validation"]["bound"] for record in history.records]
    assert history.stopped == "early"
    assert len(bounds) - 1 - bounds.index(max(bounds)) == 2
    held = small_data().carve(0.05, 0)[1]
    assert validate(model, held, 0, 7)["bound"] == pytest.approx(max(bounds), rel=1e-6)


def test_seeds_of_steps_do_not_collide() -> None:
    seeds = {mix(seed, step) for seed in range(10) for step in range(1000)}
    assert len(seeds) == 10_000


def test_a_refused_resume_changes_nothing(tmp_path: Path) -> None:
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=1, **SETTINGS)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(pv.InputError, match=r"^resume: got train\.lr"):
        pv.fit(small_model(), small_data(), out=tmp_path, epochs=2, resume=True, **{**SETTINGS, "lr": 0.5})
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_resume_notices_other_values_and_other_modalities(tmp_path: Path) -> None:
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=1, **SETTINGS)
    moved = small_data().take(slice(None))
    moved = pv.MultimodalData({name: x + 1 for name, x in moved.data.items()}, mask=moved.mask)
    with pytest.raises(pv.InputError, match="data with digest"):
        pv.fit(small_model(), moved, out=tmp_path, epochs=2, resume=True, **SETTINGS)
    other = pv.MMVAEPlus(
        [pv.Modality("a", (3,), weight=7, params={"scale": 0.5, "hidden": [8]}), small_model().specs[1]],
        latent=2,
    )
    with pytest.raises(
        pv.InputError, match=r"modality\.a\.weight=7\.0; expected 1\.0|modality\.a\.weight=7; expected 1\.0"
    ):
        pv.fit(other, small_data(), out=tmp_path, epochs=2, resume=True, **SETTINGS)
    turned = pv.MMVAEPlus(small_model().specs[::-1], latent=2)
    with pytest.raises(pv.InputError, match=r"^resume: got modalities=\['b', 'a'\]; expected \['a', 'b'\]"):
        pv.fit(turned, small_data(), out=tmp_path, epochs=2, resume=True, **SETTINGS)


def test_fit_trains_on_the_training_part_only() -> None:
    """What stands in the test rows has no influence, although all of the data was handed over."""
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    models = []
    for test in (0.0, 50.0):
        values = rows.clone()
        values[40:] = test
        data = pv.MultimodalData(
            {"a": values, "b": values[:, :2]}, splits={"train": range(40), "test": range(40, 60)}
        )
        models.append(small_model())
        pv.fit(models[-1], data, epochs=2, **SETTINGS)
    assert torch.equal(weights(models[0]), weights(models[1]))


def test_a_stream_that_ends_early_or_holds_empty_rows_is_refused() -> None:
    data = small_data().complete()

    class Short(SliceLoader):
        def __len__(self) -> int:
            return 100

    with pytest.raises(pv.InputError, match="expected 100, which is its length"):
        pv.fit(small_model(), Short(data, 7), epochs=1, **SETTINGS)
    empty = pv.MultimodalData(
        {"a": torch.zeros(9, 3), "b": torch.zeros(9, 2)}, mask=torch.arange(18).view(2, 9) % 9 > 0
    )
    with pytest.raises(pv.InputError, match=r"^fit: nothing was observed in 1 of"):
        pv.fit(small_model(), SliceLoader(empty, 9), epochs=1, **SETTINGS)


def test_patience_keeps_the_best_weights_even_if_it_never_ran_out() -> None:
    model = small_model()
    history = pv.fit(model, small_data(), epochs=6, patience=50, **{**SETTINGS, "lr": 0.5})
    bounds = [record["validation"]["bound"] for record in history.records]
    assert history.stopped == "done"
    assert bounds.index(max(bounds)) < 5
    assert validate(model, small_data().carve(0.05, 0)[1], 0, 7)["bound"] == pytest.approx(
        max(bounds), rel=1e-6
    )


@pytest.mark.parametrize("name", pv.MODELS)
def test_densities_stay_in_full_precision_whatever_autocast_does(name: str) -> None:
    """bf16 reaches the networks only: the bound is float32, close to the exact one, and trains under a mask."""
    torch.manual_seed(0)
    data = small_data()
    specs = data.modalities(params={"hidden": [8]})
    if pv.MODELS[name].requires.labels:
        specs = [replace(spec, role=role) for spec, role in zip(specs, ("input", "target"), strict=True)]  # type: ignore[arg-type]
    model = pv.build(name, specs, latent=2)
    batch = data.take(slice(None))
    torch.manual_seed(1)
    exact = model(batch).value
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(batch)
    rounded.value.mean().backward()
    assert {term.dtype for term in (rounded.value, *rounded.terms.values())} == {torch.float32}
    assert torch.allclose(rounded.value, exact, rtol=0.02, atol=0.05)


def test_a_device_that_is_not_there_is_one_line() -> None:
    with pytest.raises(
        pv.InputError,
        match=r"^fit: got device='gpu7', which cannot be used .*; expected 'auto', 'cpu', 'cuda' or 'mps'; choose one$",
    ):
        pv.fit(small_model(), small_data(), epochs=1, device="gpu7", show=False)


def test_threads_are_set_for_training_only() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    watch = lambda model, record: seen.append(torch.get_num_threads())  # noqa: E731
    pv.fit(small_model(), small_data(), epochs=1, threads=before + 1, watch=watch, **SETTINGS)
    assert (seen, torch.get_num_threads()) == ([before + 1], before)


@pytest.mark.parametrize("options", [{"latent": 2.5}, {"latent": "8"}, {"beta": "1"}, {"K": True}])
def test_options_of_the_wrong_type_are_refused_at_construction(options: dict[str, object]) -> None:
    key, value = next(iter(options.items()))
    with pytest.raises(pv.InputError, match=rf"got {key}={value!r}; expected"):
        pv.MMVAEPlus([pv.Modality("a", (3,))], **options)  # type: ignore[arg-type]


def test_an_evaluation_goes_with_the_weights_it_spoke_of_and_only_then(tmp_path: Path) -> None:
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=1, **SETTINGS)
    run = RunDirectory(tmp_path)
    run.write_json("evaluation.json", {"conditional_coherence": 0.9})
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=1, resume=True, **SETTINGS)
    assert run.read_json("evaluation.json") == {"conditional_coherence": 0.9}
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=2, resume=True, **SETTINGS)
    assert not run.evaluation.exists()


def test_a_resumed_run_keeps_the_settings_that_are_not_given(tmp_path: Path) -> None:
    settings = {"lr": 5e-4, "batch_size": 7, "show": False, "precision": "fp32"}
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=1, **settings)  # type: ignore[arg-type]
    history = pv.fit(small_model(), small_data(), out=tmp_path, resume=True, show=False)
    assert len(history.records) == 1
    history = pv.fit(small_model(), small_data(), out=tmp_path, resume=True, epochs=3, show=False)
    assert [record["lr"] for record in history.records] == [5e-4] * 3


def test_every_step_draws_other_noise() -> None:
    """The same sample in every row and weights that stay where they are: only the draws of a step can move its bound."""
    data = pv.MultimodalData(
        {name: x[:1].expand(14, *x.shape[1:]) for name, x in small_data().take([0]).data.items()}
    )
    history = pv.fit(
        small_model(), data, epochs=3, batch_size=14, lr=1e-30, validation=0.0, precision="fp32", show=False
    )
    bounds = {record["train"]["bound"] for record in history.records}
    assert len(bounds) == 3

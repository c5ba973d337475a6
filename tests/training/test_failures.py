"""Training that goes wrong stops, says where, leaves nothing that is not finite behind, and can continue with a remedy."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import polyvae as pv
from polyvae.config import read_config
from polyvae.training.checkpoints import Checkpoints
from polyvae.training.directory import RunDirectory
from polyvae.training.history import TrainingError
from polyvae.utils.files import load_tensors, save_tensors
from tests.helpers.tiny import small_data, small_model

SETTINGS: dict[str, Any] = {
    "batch_size": 7,
    "show": False,
    "checkpoint_every": 3,
    "lr": 1e-2,
    "precision": "fp32",
    "validation": 0.2,
}


def strict(path: Path) -> list[dict[str, Any]]:
    """The records of a history; NaN and Infinity are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def finite(path: Path) -> bool:
    return all(bool(x.isfinite().all()) for x in load_tensors(path)[0].values() if x.is_floating_point())


def poison_gradient(model: pv.MMVAEPlus, step: int, place: int = 1) -> torch.Tensor:
    """The gradient of a bias, or (place 0) of a weight, becomes infinite in one step; the parameter is returned."""
    weight = list(model.modalities["b"].decoder.parameters())[place]  # type: ignore[union-attr]
    count = iter(range(1000))
    weight.register_hook(lambda g: torch.full_like(g, torch.inf) if next(count) == step else g)
    return weight


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tmp_path: Path, clip: float | None) -> None:
    model = small_model()
    weight = poison_gradient(model, 5)
    name = next(name for name, x in model.named_parameters() if x is weight)
    with pytest.raises(
        TrainingError, match=rf"^training: the gradient is not finite at step 5; .*{name!r}.*lower lr"
    ):
        pv.fit(model, small_data(), out=tmp_path, epochs=3, clip=clip, **SETTINGS)
    assert all(bool(x.isfinite().all()) for x in model.parameters())
    assert Checkpoints(tmp_path / "checkpoints").load()[1]["step"] == 3
    failed = strict(tmp_path / "history.jsonl")[-1]
    assert failed["failed_at"] == 5
    assert failed["failed"].startswith("training: the gradient is not finite at step 5")


def test_a_weight_that_is_not_finite_is_noticed_in_the_next_step(tmp_path: Path) -> None:
    """All gradients are looked at now and then only; what is stored is looked at always."""
    model = small_model()
    weight = poison_gradient(model, 3, place=0)
    name = next(name for name, x in model.named_parameters() if x is weight)
    with pytest.raises(TrainingError, match=rf"at step 4; the first weight that is not finite is {name!r}"):
        pv.fit(model, small_data(), out=tmp_path, epochs=3, **SETTINGS)
    assert Checkpoints(tmp_path / "checkpoints").load()[1]["step"] == 3
    assert all(map(finite, tmp_path.rglob("*.safetensors")))


def test_weights_that_overflow_in_the_last_step_are_not_done() -> None:
    draws = torch.Generator().manual_seed(0)
    data = pv.MultimodalData({"a": 1000 * torch.randn(64, 4, generator=draws)})
    torch.manual_seed(0)
    model = pv.MVAE(data.modalities(), latent=2, scale_map="exp")
    settings = SETTINGS | {"batch_size": 64, "validation": 0.0}
    with pytest.raises(TrainingError), pytest.warns(UserWarning, match="root mean square"):
        pv.fit(model, data, epochs=1, **settings)


def test_nothing_that_is_not_finite_is_ever_stored(tmp_path: Path) -> None:
    """A learning rate that overflows: whatever the step at which it is noticed, every file is sound."""
    for lr in (1e6, 1e12, 1e30, 1e38):
        out = tmp_path / str(lr)
        with pytest.raises(TrainingError):
            pv.fit(small_model(), small_data(), out=out, epochs=8, **(SETTINGS | {"lr": lr}))
        files = [*out.rglob("*.safetensors")]
        assert files
        assert all(map(finite, files))
        assert not (out / "model.safetensors").exists()
        strict(out / "history.jsonl")


def test_a_failed_run_continues_with_the_remedies_of_its_message_and_records_them(tmp_path: Path) -> None:
    model = small_model()
    poison_gradient(model, 7)
    with pytest.raises(
        TrainingError, match=r"lower lr, set clip= or precision='fp32' \(a resumed run accepts these\)"
    ):
        pv.fit(model, small_data(), out=tmp_path, epochs=3, **SETTINGS)
    before = Checkpoints(tmp_path / "checkpoints").load()[1]
    with pytest.raises(pv.InputError, match=r"^resume: got train\.batch_size=8"):  # no remedy
        pv.fit(
            small_model(), small_data(), out=tmp_path, resume=True, epochs=3, **(SETTINGS | {"batch_size": 8})
        )
    remedied = SETTINGS | {"lr": 1e-3, "clip": 1.0, "precision": "bf16"}
    history = pv.fit(small_model(), small_data(), out=tmp_path, resume=True, epochs=3, max_rows=5, **remedied)
    assert history.stopped == "done"
    notes = [
        (record["step"], record["note"]) for record in strict(tmp_path / "history.jsonl") if "note" in record
    ]
    assert notes == [
        (before["step"], "train.lr is 0.001 from here on (it was 0.01)"),
        (before["step"], "train.clip is 1.0 from here on (it was None)"),
        (before["step"], "train.precision is 'bf16' from here on (it was 'fp32')"),
    ]
    config = read_config(tmp_path / "config.toml").train
    assert (config.lr, config.clip, config.precision, config.max_rows) == (1e-3, 1.0, "bf16", 5)
    assert [record["precision"] for record in history.records][-1] == "bf16"
    with pytest.raises(pv.InputError, match=r"^resume: got train\.lr"):  # it is a sound run again
        pv.fit(small_model(), small_data(), out=tmp_path, resume=True, epochs=4, **(remedied | {"lr": 1e-4}))
    pv.fit(small_model(), small_data(), out=tmp_path, resume=True, epochs=4, **remedied)


def test_a_remedy_survives_a_kill_before_the_next_checkpoint(tmp_path: Path) -> None:
    model = small_model()
    poison_gradient(model, 4)
    with pytest.raises(TrainingError):
        pv.fit(model, small_data(), out=tmp_path, epochs=3, **SETTINGS)

    class Killed(Exception):
        pass

    def stop(*inputs: object) -> None:
        raise Killed

    model = small_model()
    model.register_forward_pre_hook(stop)
    with pytest.raises(Killed):
        pv.fit(model, small_data(), out=tmp_path, epochs=3, resume=True, **(SETTINGS | {"lr": 1e-3}))
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=3, resume=True, **(SETTINGS | {"lr": 1e-3}))


def test_a_checkpoint_with_nan_is_passed_over(tmp_path: Path) -> None:
    """Earlier versions wrote them."""
    pv.fit(small_model(), small_data(), out=tmp_path, epochs=2, **SETTINGS)
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    tensors, metadata = load_tensors(newest)
    next(x for name, x in tensors.items() if name.startswith("optimizer.") and x.ndim).view(-1)[0] = torch.nan
    save_tensors(newest, tensors, metadata)
    found = Checkpoints(tmp_path / "checkpoints").load()[1]
    assert found["step"] < metadata["step"]
    assert (
        pv.fit(small_model(), small_data(), out=tmp_path, epochs=2, resume=True, **SETTINGS).stopped == "done"
    )


def test_a_mask_of_minus_infinity_is_a_constant_and_no_failure(tmp_path: Path) -> None:
    model = small_model()
    model.register_buffer("causal", torch.full((3, 3), -torch.inf).triu(1))
    pv.fit(model, small_data(), out=tmp_path, epochs=1, **SETTINGS)
    model = small_model()
    model.register_buffer("causal", torch.full((3, 3), -torch.inf).triu(1))
    assert pv.fit(model, small_data(), out=tmp_path, epochs=2, resume=True, **SETTINGS).stopped == "done"


def test_weights_that_are_not_finite_before_training_are_refused(tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        next(model.parameters())[0] = torch.nan
    with pytest.raises(TrainingError, match=r"weights that are not finite before training, first in 'raw_r'"):
        pv.fit(model, small_data(), out=tmp_path, epochs=1, **SETTINGS)
    assert not [*tmp_path.rglob("*.safetensors")]


def test_a_validation_bound_that_is_not_finite_stops_with_the_reason(tmp_path: Path) -> None:
    train = small_data().complete()
    far = pv.MultimodalData({"a": torch.full((5, 3), 1e25), "b": torch.zeros(5, 2)})
    with pytest.raises(
        TrainingError, match=r"^training: the validation bound is (-inf|nan) after epoch 1;.*outliers"
    ):
        pv.fit(small_model(), train, validation_data=far, out=tmp_path, epochs=9, patience=2, **SETTINGS)
    record, failed = strict(tmp_path / "history.jsonl")
    assert record["validation"]["bound"] is None
    assert record["note"] == failed["failed"]
    assert not (tmp_path / "checkpoints" / "best.safetensors").exists()


def test_what_a_watch_measures_may_be_nan_and_the_history_stays_json(tmp_path: Path) -> None:
    watch = lambda model, record: {"coherence": float("nan"), "more": [float("inf"), 1.0]}  # noqa: E731
    history = pv.fit(small_model(), small_data(), out=tmp_path, epochs=1, watch=watch, **SETTINGS)
    assert strict(tmp_path / "history.jsonl") == history.records
    assert history.records[0]["watched"] == {"coherence": None, "more": [None, 1.0]}
    RunDirectory(tmp_path).cut_history(100)
    assert strict(tmp_path / "history.jsonl") == history.records


def test_memory_that_runs_out_is_a_line_and_fewer_rows_are_accepted(tmp_path: Path) -> None:
    model, count = small_model(), iter(range(100))

    def full(*inputs: object) -> None:
        if next(count) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    handle = model.register_forward_pre_hook(full)
    with pytest.raises(
        TrainingError, match=r"^training: memory ran out at step 4; .*lower max_rows \(a resumed run"
    ):
        pv.fit(model, small_data(), out=tmp_path, epochs=2, **SETTINGS)
    handle.remove()
    pv.fit(model, small_data(), out=tmp_path, epochs=2, resume=True, max_rows=4, **SETTINGS)
    assert read_config(tmp_path / "config.toml").train.max_rows == 4


# ---- data and learning rates that make no sense ------------------------------------------------------------------------------------


def test_a_learning_rate_that_diverges_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^training: .*lower lr"):
        pv.fit(small_model(), small_data(), epochs=5, **(SETTINGS | {"lr": 10.0}))


def test_a_bound_that_fell_is_a_warning() -> None:
    settings = SETTINGS | {"lr": 0.5, "validation": 0.0}
    with pytest.warns(
        UserWarning, match=r"^training: the bound is -.* expected it to rise; lower lr \(it is 0\.5\)"
    ):
        pv.fit(small_model(), small_data(), epochs=6, **settings)


@pytest.mark.parametrize(
    ("values", "params", "warned"),
    [
        (lambda g: torch.randint(0, 256, (40, 4), generator=g).float(), {}, True),
        (lambda g: 500 + torch.randn(40, 4, generator=g), {}, True),
        (lambda g: torch.randn(40, 4, generator=g), {"scale": 0.001}, True),
        (lambda g: torch.randn(40, 4, generator=g), {}, False),
        (lambda g: torch.rand(40, 4, generator=g), {"scale": 0.05}, False),
        (lambda g: 3 * torch.randn(40, 4, generator=g), {"scale": "learned"}, False),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_data_far_from_their_likelihood_are_one_warning(
    values: Any, params: dict[str, Any], warned: bool, stream: bool
) -> None:
    x = values(torch.Generator().manual_seed(0))
    specs = [pv.Modality("a", (4,), params={"hidden": [4], **params})]
    data: Any = pv.MultimodalData({"a": x}, modalities=specs)
    given = pv.data.SliceLoader(data, 8) if stream else data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pv.fit(pv.VAE(specs, latent=2), given, epochs=2, **(SETTINGS | {"lr": 1e-6, "validation": 0.0}))
    found = [str(w.message) for w in caught if "root mean square" in str(w.message)]
    assert len(found) == warned
    if warned:
        assert "'a'" in found[0]
        assert "MultimodalData(..., scale={'a': " in found[0]


def test_images_of_bytes_are_to_be_divided_by_255() -> None:
    images = torch.randint(
        0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    specs = [pv.Modality("a", (1, 8, 8), network="mlp", params={"hidden": [4]})]
    with pytest.warns(UserWarning, match=r"scale=\{'a': 1/255\}"):
        pv.fit(
            pv.VAE(specs, latent=2),
            pv.MultimodalData({"a": images}, modalities=specs),
            epochs=1,
            **(SETTINGS | {"lr": 1e-6, "validation": 0.0}),
        )


def test_counts_and_scaled_bytes_are_no_warning() -> None:
    draws = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 5000, (40, 4), generator=draws)
    data = pv.MultimodalData(
        {"a": counts.float(), "b": (counts % 256).to(torch.uint8)},
        modalities=[pv.Modality("a", (4,), likelihood="poisson"), pv.Modality("b", (4,))],
        scale={"b": 1 / 255},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.fit(pv.MVAE(data.modalities(), latent=2), data, epochs=1, **(SETTINGS | {"lr": 1e-5}))


# ---- frozen parameters -------------------------------------------------------------------------------------------------------------


def test_a_frozen_part_stays_as_it_is_and_resumes(tmp_path: Path) -> None:
    def frozen() -> pv.MMVAEPlus:
        model = small_model()
        for x in model.modalities["a"].parameters():
            x.requires_grad_(False)
        return model

    straight, stopped = frozen(), frozen()
    before = [x.clone() for x in straight.modalities["a"].parameters()]
    pv.fit(straight, small_data(), epochs=3, clip=1.0, **SETTINGS)
    assert all(torch.equal(x, y) for x, y in zip(before, straight.modalities["a"].parameters(), strict=True))
    pv.fit(stopped, small_data(), out=tmp_path, epochs=1, clip=1.0, **SETTINGS)
    pv.fit(stopped, small_data(), out=tmp_path, epochs=3, clip=1.0, resume=True, **SETTINGS)
    for one, other in zip(straight.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_without_anything_to_train_is_one_line() -> None:
    model = small_model().requires_grad_(False)
    with pytest.raises(pv.InputError, match=r"^fit: got a model without parameters that require a gradient"):
        pv.fit(model, small_data(), epochs=1, **SETTINGS)
    model = small_model().requires_grad_(False)
    model.register_parameter("unused", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(pv.InputError, match=r"^fit: got a bound without a gradient at step 0"):
        pv.fit(model, small_data(), epochs=1, **SETTINGS)


def test_a_pruned_model_can_be_trained_on(tmp_path: Path) -> None:
    """Weights of pruned clusters are -inf before training; that is no failure, and the run resumes."""
    torch.manual_seed(0)
    model = pv.build("cmvae", small_model().specs, latent=2, clusters=4)
    with torch.no_grad():
        model.prior.logits[2] = -torch.inf  # type: ignore[union-attr, index]
    settings = {"batch_size": 20, "show": False, "lr": 1e-3}
    pv.fit(model, small_data(), out=tmp_path, epochs=1, **settings)  # type: ignore[arg-type]
    pv.fit(model, small_data(), out=tmp_path, epochs=2, resume=True, **settings)  # type: ignore[arg-type]
    assert float(model.prior.logits[2].detach()) == -torch.inf  # type: ignore[union-attr, index]

"""What is missing from an evaluation: labels, modalities, a test part, a second judge. It is left out, and a note says so."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from polyvae import InputError, Modality, MultimodalData, build, evaluate, fit_prior
from polyvae.metrics import Context, Judges, evaluation, judges_for, judges_of, train_judges
from polyvae.metrics.coherence import coherence
from polyvae.metrics.conflict import conflict
from polyvae.metrics.latents import latents
from polyvae.metrics.reconstruction import within_classes
from tests.helpers.judged import Bright, Signs
from tests.helpers.probed import reader, told

QUICK = {"epochs": 1, "least": 40, "width": 4, "batch_size": 32}
COUNT = 400


def images(labels: torch.Tensor, mask: torch.Tensor | None = None) -> MultimodalData:
    """a and b are bright on the side that the true class says; ``labels`` are what is known of it."""
    truth, draws = torch.arange(COUNT) % 2, torch.Generator().manual_seed(0)
    x = 0.3 * torch.rand(2, COUNT, 1, 8, 8, generator=draws)
    x[:, truth == 1, :, :, :4] += 0.5
    x[:, truth == 0, :, :, 4:] += 0.5
    return MultimodalData(
        {"a": x[0], "b": x[1]},
        labels=labels,
        mask=mask,
        splits={"train": range(200), "test": range(200, COUNT)},
    )


def half(labels: torch.Tensor) -> torch.Tensor:
    """Every second pair of labels is missing."""
    return torch.where(torch.arange(len(labels)) // 2 % 2 == 0, labels, -1)


def of_signs(names: str = "ab"):
    specs = [
        Modality(
            name,
            (1, 8, 8),
            private=1,
            encoder=lambda shape, out: Signs(0, out),
            decoder=lambda shape, out: Signs(0, out),
        )
        for name in names
    ]
    return build("mmvae+", specs, latent=1, family="normal").eval()


def signs(labels: torch.Tensor, names: str = "ab") -> MultimodalData:
    truth = torch.arange(len(labels)) % 2
    x = (2.0 * truth - 1)[:, None, None, None].expand(-1, 1, 8, 8)
    count = len(labels) // 2
    return MultimodalData(
        dict.fromkeys(names, x),
        labels=labels,
        splits={"train": range(count), "test": range(count, 2 * count)},
    )


def by_hand(names: str = "ab") -> Judges:
    return Judges(
        {name: Bright() for name in names}, torch.arange(2), dict.fromkeys(names, 1.0), 1.0, "by hand", 0.0
    )


# ---- labels ------------------------------------------------------------------------------------------------------------------------


def test_judges_neither_learn_nor_count_a_missing_label():
    labels = torch.arange(COUNT) % 2
    judges = train_judges(images(half(labels)), cache=False, **QUICK)
    assert judges.classes.tolist() == [0, 1]
    assert min(judges.accuracy.values()) > 0.95
    known = images(labels).rows((half(labels) >= 0).nonzero()[:, 0])
    same = train_judges(
        MultimodalData(
            {name: known.values(name) for name in "ab"},
            labels=known.labels,
            splits={"train": range(100), "test": range(100, 200)},
        ),
        cache=False,
        **QUICK,
    )
    assert same.accuracy == judges.accuracy
    assert all(
        torch.equal(x, y) for x, y in zip(same["a"].parameters(), judges["a"].parameters(), strict=True)
    )


def test_coherence_is_that_of_the_samples_with_a_label():
    labels = torch.arange(2000) % 2
    whole, part = (
        coherence(Context.of(of_signs(), signs(given).test, by_hand(), draws=200))
        for given in (labels, half(labels))
    )
    assert part["conditional_coherence"] == whole["conditional_coherence"] == 1
    assert part["unconditional_coherence"] == whole["unconditional_coherence"]
    none = coherence(Context.of(of_signs(), signs(torch.full((40,), -1)).test, by_hand(), draws=20))
    assert "conditional_coherence" not in none
    assert none["coherence_by_observed"] == {}


def test_probes_leave_out_samples_without_a_label():
    data = told()
    labels = half(data.labels)
    part = MultimodalData(
        {name: data.values(name) for name in "ab"},
        labels=labels,
        factors=data.factors,
        splits={"train": range(400), "test": range(400, 600)},
    )
    result = latents(Context.of(reader(), part.test, train=part.train))
    assert result["probe_z_shared"] == 1
    probes = result["probes"]["z"]["a,b"]
    assert (probes["label"]["rows"], probes["a/site"]["rows"]) == (int((labels[400:] >= 0).sum()), 200)


def test_real_diversity_is_within_known_classes():
    x = torch.tensor([[0.0], [3], [1000], [5000], [9000]])
    assert within_classes(MultimodalData({"x": x}, labels=[0, 0, -1, -1, -1]), "x") == pytest.approx(3)


def test_an_evaluation_counts_the_labels_that_are_missing():
    labels = half(torch.arange(80) % 2)
    found = evaluate(
        of_signs(),
        signs(labels),
        judges=by_hand(),
        metrics=["coherence"],
        fitted_prior={"components": 0},
        draws=20,
        show=False,
    )
    lines = [note for note in found["notes"] if note.startswith("labels: ")]
    assert [line.split(";")[0].partition(" (")[0] for line in lines] == [
        "labels: 20 of 40 judged samples have none",
        "labels: 20 of 40 training samples have none",
    ]


# ---- judges ------------------------------------------------------------------------------------------------------------------------


def test_a_modality_without_training_samples_has_no_judge_and_one_without_test_samples_no_accuracy(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("POLYVAE_CACHE", str(tmp_path))
    monkeypatch.setattr(evaluation, "judges_for", partial(judges_for, **QUICK))
    labels, mask = torch.arange(COUNT) % 2, torch.ones(2, COUNT, dtype=torch.bool)
    mask[1, :200] = False
    said: list[str] = []
    for _ in range(2):  # trained, then from the cache
        judges = judges_of(images(labels, mask), said.append)
        assert judges is not None
        assert (judges.names, set(judges.accuracy)) == (("a",), {"a"})
        assert said[-1].startswith("no judge for 'b': no training sample with a label contains it")
        assert "none for b" in judges.source
    mask[1, :200], mask[1, 200:] = True, False
    for _ in range(2):
        judges = judges_of(images(labels, mask), said.append)
        assert judges is not None
        assert (judges.names, set(judges.accuracy), judges.agreement) == (("a", "b"), {"a"}, None)
        assert said[-1].startswith("judge of 'b': no held-out sample with a label contains it")
    result = coherence(Context.of(of_signs(), images(labels, mask).test, judges, draws=20))
    assert "judge_agreement" not in result
    assert not any(isinstance(value, float) and math.isnan(value) for value in result.values())
    mask[0, :200] = mask[1, :200] = False
    assert judges_of(images(labels, mask), said.append) is None
    with pytest.raises(
        InputError, match="judges: got no training sample with a label and an image of a, b; "
    ) as caught:
        train_judges(images(labels, mask), cache=False, **QUICK)
    assert "\n" not in str(caught.value)


def test_one_judged_modality_agrees_with_nothing():
    """Its share of agreement would be 1 for any model: the three numbers are absent, and the classes are still counted."""
    data = signs(torch.arange(80) % 2)
    found = evaluate(
        of_signs(),
        data,
        judges=by_hand("a"),
        metrics=["coherence"],
        fitted_prior={"components": 2},
        draws=40,
        show=False,
    )
    assert set(found.headline()) == {
        "conditional_coherence",
        "unconditional_entropy",
        "unconditional_entropy_fitted",
    }
    assert sum(found["unconditional_histogram"].values()) == 40
    assert any(
        note.startswith("unconditional coherence: 'a' is the only judged modality") for note in found["notes"]
    )


# ---- parts and modalities ----------------------------------------------------------------------------------------------------------


def test_without_a_test_part_it_is_said_which_samples_are_judged():
    x = torch.randn(30, 3)
    data = MultimodalData({"a": x, "b": x})
    model = build("mmvae+", data.modalities(), latent=2).eval()
    split = data.split({"train": 0.5, "test": 0.5})
    for given, part, said in (
        (data, "given", True),
        (split, "held-out", False),
        (split.test, "held-out", False),
    ):
        found = evaluate(model, given, metrics=["conflict"], show=False)
        assert found["part"] == part
        assert f"{part} samples" in str(found.table().title)
        assert (
            any("the data have no test part: all 30 samples are judged" in note for note in found["notes"])
            is said
        )
        assert bool(found.table().caption) is said


def test_a_modality_that_no_sample_contains_is_said():
    x = torch.randn(30, 3)
    mask = torch.ones(3, 30, dtype=torch.bool)
    mask[1, :20] = False
    mask[2, 20:] = False
    data = MultimodalData(
        {"a": x, "b": x, "c": x}, mask=mask, splits={"train": range(20), "test": range(20, 30)}
    )
    model = build("mmvae+", [*data.modalities(), Modality("d", (2,))], latent=2).eval()
    found = evaluate(model, data, metrics=["conflict"], show=False)
    assert [note.partition(",")[0] for note in found["notes"]] == [
        "modality 'c': no judged sample contains it",
        "modality 'd': no judged sample contains it",
        "modality 'b': no training sample contains it",
        "modality 'd': no training sample contains it",
    ]


# ---- weights and gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["latents", "quality", "conflict"])
def test_weights_that_are_no_numbers_get_one_line(metric):
    data, model = told(), reader()
    next(model.modalities["b"].parameters()).data.fill_(math.nan)
    with pytest.raises(
        InputError, match="evaluate: got 2 weights with values that are NaN or infinite, such as 'modal"
    ) as caught:
        evaluate(model, data, metrics=[metric], show=False)
    assert "\n" not in str(caught.value)
    for call in (
        lambda: fit_prior(model, data),
        lambda: latents(Context.of(model, data.test, train=data.train)),
    ):
        with pytest.raises(InputError, match="got latents that are NaN or infinite for "):
            call()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_where_the_caller_has_switched_them_off(mode):
    data, model = told(), reader()
    expected = conflict(Context.of(model, data.test))
    with mode():
        assert conflict(Context.of(model, data.test)) == expected
        assert (
            evaluate(model, data, metrics=["conflict"], show=False)["gradient_cosine"]
            == expected["gradient_cosine"]
        )


@pytest.mark.parametrize(
    ("swap", "words"),
    [
        (lambda model, data: ("runs/mine", data), r"got str as the model; [^\n]*pv\.load_model\(path\)"),
        (lambda model, data: (data, model), "got MultimodalData as the model; [^\n]*exchange the two"),
        (lambda model, data: (model, [data]), "got data of type list; expected MultimodalData"),
        (
            lambda model, data: (model, {"a": data.values("a")}),
            "got data of type dict; expected MultimodalData",
        ),
    ],
)
def test_what_is_no_model_and_what_are_no_data_are_one_line(swap, words):
    with pytest.raises(InputError, match=f"^evaluate: {words}[^\n]*$"):
        evaluate(*swap(of_signs(), signs(torch.arange(20) % 2)), metrics=["conflict"], show=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8])
def test_images_of_any_type_are_judged(dtype):
    """0 and 255 in bytes; judges are networks of single precision."""
    plain = images(torch.arange(COUNT) % 2)
    values = {name: plain.values(name) for name in plain.names}
    if dtype == torch.uint8:
        values = {name: (255 * x).round() for name, x in values.items()}
    data = MultimodalData(
        {name: x.to(dtype) for name, x in values.items()},
        labels=plain.labels,
        splits={"train": range(200), "test": range(200, COUNT)},
    )
    judges = train_judges(data, cache=False, **QUICK)
    assert min(judges.accuracy.values()) > 0.9
    found = evaluate(
        of_signs(),
        data,
        judges=judges,
        metrics=["coherence", "quality", "reconstruction"],
        draws=50,
        show=False,
    )
    assert all(math.isfinite(value) for value in found.headline().values())
    assert "real_frechet_distance" in found

"""Judges: what they get right, that they repeat, and that a spoilt cache costs no more than time."""

import logging
import os
from pathlib import Path

import pytest
import torch

from polyvae.data import MultimodalData, load_dataset
from polyvae.data.sets.polydigits import held_out_digits
from polyvae.metrics.judge_training import Judge, Recipe, moved
from polyvae.metrics.judges import measured, train_judges
from polyvae.metrics.released import judges_for, released
from polyvae.utils.errors import InputError

QUICK = {"epochs": 1, "least": 20, "width": 8, "batch_size": 32}


@pytest.fixture(scope="module")
def data():
    return load_dataset("polydigits", train=640, test=200)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("judges")


@pytest.fixture(scope="module")
def judges(data, cache):
    return train_judges(data, cache=cache, **QUICK)


def same(one, other) -> bool:
    weights, others = (
        [x for judge in judges.values() for x in judge.state_dict().values()] for judges in (one, other)
    )
    return all(torch.equal(x, y) for x, y in zip(weights, others, strict=True))


def test_a_judge_learns_to_read():
    data = load_dataset("polydigits", train=4_000, test=1_000)
    one = MultimodalData(
        {"m0": data._stored.data["m0"]},
        labels=data.labels,
        scale={"m0": 1 / 255},
        splits={"train": range(4_000), "test": range(4_000, 5_000)},
    )
    judges = train_judges(one, cache=False, epochs=2, least=1)
    assert judges.accuracy["m0"] >= 0.95
    assert judges.agreement == 1


@pytest.mark.slow
def test_the_judges_of_polydigits_are_right_about_handwriting_they_never_saw():
    judges = train_judges(load_dataset("polydigits"), cache=False)
    assert min(judges.accuracy.values()) >= 0.97
    assert judges.agreement >= 0.9
    held = held_out_digits()
    assert (
        min((judges.predict(name, held.values(name)) == held.labels).float().mean() for name in judges)
        >= 0.965
    )


def test_accuracy_and_agreement_are_counted_on_the_test_part(data, judges):
    said = {name: judges.predict(name, data.test.values(name)) for name in judges}
    for name in judges:
        assert judges.accuracy[name] == pytest.approx(float((said[name] == data.test.labels).double().mean()))
    alike = torch.stack([labels == said["m0"] for labels in said.values()]).all(0)
    assert judges.agreement == pytest.approx(float(alike.double().mean()))


def test_what_was_not_observed_is_neither_learnt_nor_counted(data):
    hidden = data.hide(0.5, seed=1)
    masked = MultimodalData(
        {name: hidden._stored.data[name] for name in ("m0", "m1")},
        mask=hidden.mask[:2],
        labels=data.labels,
        scale={"m0": 1 / 255, "m1": 1 / 255},
        splits={"train": range(640), "test": range(640, 840)},
    )
    judges = train_judges(masked, cache=False, **QUICK)
    seen = masked.test.mask
    said = torch.stack([judges.predict(name, masked.test.values(name)) for name in judges])
    right = (said == masked.test.labels) & seen
    assert [judges.accuracy[name] for name in judges] == pytest.approx((right.sum(1) / seen.sum(1)).tolist())
    assert judges.agreement == pytest.approx(float((said[0] == said[1])[seen.all(0)].double().mean()))


def test_judges_answer_with_the_labels_of_the_data(data):
    shifted = MultimodalData(
        {"m0": data._stored.data["m0"]},
        labels=data.labels * 7 + 3,
        scale={"m0": 1 / 255},
        splits={"train": range(640), "test": range(640, 840)},
    )
    said = train_judges(shifted, cache=False, **QUICK).predict("m0", shifted.test.values("m0"))
    assert set(said.tolist()) <= {7 * digit + 3 for digit in range(10)}
    assert len(set(said.tolist())) > 1


def test_the_same_seed_gives_the_same_judges_and_touches_no_generator(data, judges):
    state = torch.get_rng_state()
    again, other = train_judges(data, cache=False, **QUICK), train_judges(data, cache=False, seed=1, **QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(judges, again)
    assert not same(judges, other)


def test_the_number_of_threads_changes_no_bit_and_is_left_as_it_was(data, judges):
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert same(judges, train_judges(data, cache=False, **QUICK))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)


def test_a_judge_judges_in_eval_mode_whatever_was_done_to_it(data, judges):
    images = data.test.values("m2")
    expected, before = judges.predict("m2", images), judges["m2"].body[1].running_mean.clone()
    judges["m2"].train()
    assert torch.equal(judges.predict("m2", images, batch_size=3), expected)
    assert torch.equal(judges["m2"].body[1].running_mean, before)
    assert not judges["m2"].training


def test_leading_axes_stay(data, judges):
    images = data.test.values("m1")[:12]
    assert torch.equal(
        judges.predict("m1", images.reshape(2, 3, 2, 3, 16, 16)),
        judges.predict("m1", images).reshape(2, 3, 2),
    )


# The cache


def test_the_cache_gives_back_the_same_bits(data, cache, judges):
    calls = []
    again = train_judges(data, cache=cache, progress=lambda name, share: calls.append(name), **QUICK)
    assert calls == []
    assert same(judges, again)
    assert (again.accuracy, again.agreement, again.source, again.seconds) == (
        judges.accuracy,
        judges.agreement,
        judges.source,
        judges.seconds,
    )
    assert again.classes.tolist() == list(range(10))


def spoil_the_end(path):
    path.write_bytes(path.read_bytes()[:-100])


def spoil_a_weight(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def spoil_everything(path):
    path.write_bytes(b"not a judge")


@pytest.mark.parametrize("spoil", [spoil_the_end, spoil_a_weight, spoil_everything])
def test_a_spoilt_cache_is_made_anew_with_one_line_in_the_log(data, judges, cache, tmp_path, caplog, spoil):
    (original,) = cache.glob("judges-*.safetensors")
    path = tmp_path / original.name
    path.write_bytes(original.read_bytes())
    spoil(path)
    with caplog.at_level(logging.INFO, "polyvae"):
        again = train_judges(data, cache=tmp_path, **QUICK)
    assert same(judges, again)
    assert len(caplog.messages) == 1
    assert "cannot be used, so judges are trained again" in caplog.text
    assert path.read_bytes()[-2000:] == original.read_bytes()[-2000:]


def test_a_cache_that_cannot_be_written_costs_nothing_but_a_line(data, judges, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.INFO, "polyvae"):
        assert same(judges, train_judges(data, cache=tmp_path / "file", **QUICK))
    assert "not cached at" in caplog.text


def test_other_data_seeds_and_settings_have_other_judges(data, cache, judges, monkeypatch, tmp_path):
    monkeypatch.setenv("POLYVAE_CACHE", str(tmp_path))
    small = data.train.rows(range(96)).split({"train": 0.5, "test": 0.5}, seed=0)
    quickest = {"epochs": 1, "least": 1, "width": 4, "batch_size": 48}
    train_judges(small, **quickest)
    train_judges(small, seed=1, **quickest)
    train_judges(small, **{**quickest, "width": 5})
    train_judges(small.split({"train": 0.5, "test": 0.5}, seed=1), **quickest)
    train_judges(small, **quickest)
    assert len(list(tmp_path.glob("judges-*.safetensors"))) == 4


# Training


def test_progress_runs_to_one_for_every_modality(data):
    seen: dict[str, list[float]] = {}
    train_judges(
        data, cache=False, progress=lambda name, share: seen.setdefault(name, []).append(share), **QUICK
    )
    assert sorted(seen) == ["m0", "m1", "m2", "m3", "m4"]
    assert all(shares == sorted(shares) and shares[-1] == 1 for shares in seen.values())


def test_an_image_that_may_not_move_stays_and_a_shift_is_in_pixels():
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    still = Recipe(turn=0, stretch=0, shift=0)
    assert torch.allclose(moved(x, still, torch.Generator().manual_seed(0)), x, atol=1e-5)
    dot = torch.zeros(200, 1, 16, 16)
    dot[:, :, 8, 8] = 1
    spread = moved(dot, still._replace(shift=1.0), torch.Generator().manual_seed(0))[:, 0]
    centre = (spread.sum(1) * torch.arange(16)).sum(1) / spread.sum((1, 2))
    assert (centre - 8).abs().max() <= 1 + 1e-4
    assert (centre - 8).abs().max() >= 0.95


@pytest.mark.parametrize("side", [8, 12, 16, 28, 32])
def test_judges_read_images_of_8_to_32_pixels(side):
    """Which of two corners is bright: what any net that sees the whole image tells apart."""
    draws = torch.Generator().manual_seed(side)
    labels = torch.arange(240) % 2
    x = torch.rand(240, 1, side, side, generator=draws) * 0.3
    x[labels == 1, :, : side // 2, : side // 2] += 0.5
    x[labels == 0, :, side // 2 :, side // 2 :] += 0.5
    data = MultimodalData({"x": x}, labels=labels, splits={"train": range(160), "test": range(160, 240)})
    assert train_judges(data, cache=False, least=80, width=8, batch_size=16).accuracy["x"] >= 0.95


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda data, judges: train_judges(data, epoch=3), ["'epoch'", "did you mean 'epochs'"]),
        (lambda data, judges: train_judges(MultimodalData({"x": torch.zeros(4, 1, 8, 8)})), ["no labels"]),
        (
            lambda data, judges: train_judges(MultimodalData({"x": torch.zeros(4, 9)}, labels=[0] * 4)),
            ["no modality of shape (C, H, W)"],
        ),
        (lambda data, judges: train_judges(data.train, **QUICK), ["no split 'train'"]),
        (lambda data, judges: judges.predict("m9", torch.zeros(1, 3, 16, 16)), ["'m9'", "did you mean"]),
        (lambda data, judges: judges.predict("m0", torch.zeros(1, 768)), ["(1, 768)", "(3, 16, 16)"]),
    ],
)
def test_what_cannot_be_judged_gets_one_line(data, judges, call, words):
    with pytest.raises(InputError) as caught:
        call(data, judges)
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_judge_sees_the_whole_image():
    judge = Judge.seeded((1, 16, 16), 2, 8, 0).eval()
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    judge(x)[0, 0].backward()
    touched = x.grad[0, 0] != 0
    assert touched.any(0).sum() >= 14
    assert touched.any(1).sum() >= 14


# Released judges


@pytest.fixture(scope="module")
def polymnist():
    folder = os.environ.get("POLYVAE_DATA")
    needed = ["mnist/t10k-images-idx3-ubyte.gz"] + [f"polymnist/{number}.jpg" for number in (1, 4, 5)]
    needed += [f"polymnist/pretrained_img_to_digit_clf_m{view}" for view in (0, 3, 4)]
    missing = [file for file in needed if not folder or not (Path(folder) / file).is_file()]
    if missing:
        pytest.skip(f"POLYVAE_DATA does not hold {missing[0]}")
    return load_dataset("polymnist", folder, train=100)


@pytest.mark.data
def test_released_judges_score_what_they_are_known_to(polymnist):
    judges = released(polymnist)
    assert set(judges) >= {"m0", "m3", "m4"}
    found = measured(judges, torch.arange(10), polymnist.test.rows(range(2_000)), "", 0.0)
    # In samples of 2,000, because m3 is off by exactly .006, which 0.967 - 0.961 is not in floating point.
    right = [round(2_000 * found.accuracy[name]) for name in ("m0", "m3", "m4")]
    assert right == pytest.approx([1_914, 1_934, 1_906], abs=12)


def of_noise(root, **judged):
    """Labelled noise whose card names these published judges."""
    x = torch.rand(240, 3, 28, 28, generator=torch.Generator().manual_seed(3))
    return MultimodalData(
        {"m0": x, "m1": x.flip(0)},
        labels=torch.arange(240) % 10,
        root=root,
        card={"released_judges": judged},
        splits={"train": range(160), "test": range(160, 240)},
    )


def weights(seed: int) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    shapes = {
        "encoder.0.weight": (10, 3, 4, 4),
        "encoder.0.bias": (10,),
        "encoder.3.weight": (20, 10, 4, 4),
        "encoder.3.bias": (20,),
        "encoder.7.weight": (128, 980),
        "encoder.7.bias": (128,),
        "encoder.10.weight": (10, 128),
        "encoder.10.bias": (10,),
    }
    return {name: torch.randn(shape, generator=draws) / 10 for name, shape in shapes.items()}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "polymnist").mkdir()
    torch.save(weights(1), tmp_path / "polymnist" / "clf")
    return tmp_path


def test_released_judges_are_used_where_they_are_and_others_trained(root):
    data = of_noise(root, m0="clf", m1="not-there")
    judges = judges_for(data, cache=False, **QUICK)
    assert judges.kinds == {"m0": "released", "m1": "trained"}
    own = train_judges(data, names=["m1"], cache=False, **QUICK)
    assert same({"m1": judges["m1"]}, own)
    assert judges.source == f"published with PolyMNIST for m0; trained for m1: {own.source}"
    said = torch.stack([judges.predict(name, data.test.values(name)) for name in judges])
    assert list(judges.accuracy.values()) == pytest.approx(
        (said == data.test.labels).double().mean(1).tolist()
    )
    assert judges.agreement == pytest.approx(float((said[0] == said[1]).double().mean()))


def test_a_released_judge_is_the_published_net_without_dropout(root):
    """Against the formula, with torch's functions."""
    judges, w = judges_for(of_noise(root, m0="clf", m1="clf")), weights(1)
    x = torch.rand(7, 3, 28, 28)
    h = torch.conv2d(x, w["encoder.0.weight"], w["encoder.0.bias"], 2, 1).relu()
    h = torch.conv2d(h, w["encoder.3.weight"], w["encoder.3.bias"], 2, 1).relu().flatten(1)
    logits = (h @ w["encoder.7.weight"].T + w["encoder.7.bias"]).relu() @ w["encoder.10.weight"].T + w[
        "encoder.10.bias"
    ]
    judges["m0"].train()
    assert torch.equal(judges.predict("m0", x), logits.argmax(1))
    assert judges.kinds == {"m0": "released", "m1": "released"}
    assert judges.seconds == 0


def test_without_a_folder_or_a_word_in_the_card_all_judges_are_trained(root):
    for data in (of_noise(None, m0="clf"), of_noise(root)):
        assert released(data) == {}
        assert judges_for(data, cache=False, **QUICK).kinds == {"m0": "trained", "m1": "trained"}


def test_a_file_that_holds_no_such_weights_is_refused(root):
    path = root / "polymnist" / "clf"
    torch.save({"encoder.0.weight": torch.zeros(3)}, path)
    for content in (path.read_bytes(), b"something else"):
        path.write_bytes(content)
        with pytest.raises(
            InputError, match="expected the weights of a published PolyMNIST classifier"
        ) as caught:
            released(of_noise(root, m0="clf"))
        assert "\n" not in str(caught.value)


def test_judges_of_some_modalities_have_a_cache_of_their_own(data, tmp_path):
    quickest = {"epochs": 1, "least": 1, "most": 2, "width": 4, "batch_size": 48}
    small = data.train.rows(range(96)).split({"train": 0.5, "test": 0.5}, seed=0)
    whole = train_judges(small, cache=tmp_path, **quickest)
    some = train_judges(small, names=["m3", "m1"], cache=tmp_path, **quickest)
    again = train_judges(small, names=["m1", "m3"], cache=tmp_path, **quickest)
    assert (some.names, len(whole.names)) == (("m1", "m3"), 5)
    assert same(some, again)
    assert len(list(tmp_path.glob("judges-*.safetensors"))) == 2
    with pytest.raises(InputError, match="'m7' is not an image modality"):
        train_judges(small, names=["m7"], cache=False)

"""The door: what is filled, what is refused and in which words; conditioning is the mask. What a user says of a modality."""

from __future__ import annotations

import pytest
import torch

from polyvae import Batch, InputError, Modality, build

DATA = {"a": torch.arange(1.0, 9).view(4, 2), "b": torch.ones(4, 3)}


@pytest.fixture
def batch():
    """Four data: both, a alone, b alone, nothing; the first entry of a is a gap in the first datum."""
    gaps = torch.ones(4, 2, dtype=torch.bool)
    gaps[0, 0] = False
    return Batch.of(
        DATA,
        torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool),
        {"a": gaps},
        id=list("wxyz"),
        label=torch.arange(4),
    )


def test_what_is_missing_is_zero_and_only_that(batch):
    assert batch.data["a"].tolist() == [[0, 2], [3, 4], [0, 0], [0, 0]]
    assert batch.data["b"].sum(1).tolist() == [3, 0, 3, 0]
    assert batch.entries["a"].tolist() == [[False, True], [True, True], [False, False], [False, False]]
    assert (batch.names, batch.size, batch.complete) == (("a", "b"), 4, False)
    assert DATA["a"][0, 0] == 1  # what was given is as it was


def test_complete_data_is_an_all_true_mask():
    batch = Batch.of(DATA)
    assert batch.mask.tolist() == [[True] * 4] * 2
    assert batch.complete
    assert torch.equal(batch.data["a"], DATA["a"])


def test_anything_may_stand_under_a_false():
    data = {"a": torch.tensor([[torch.nan, 1.0], [torch.inf, 2.0]])}
    batch = Batch.of(data, torch.tensor([[True, False]]), {"a": torch.tensor([[False, True], [True, True]])})
    assert batch.data["a"].tolist() == [[0, 1], [0, 0]]


def test_masks_by_name():
    batch = Batch.of(DATA, {"b": [True, False, True, False]})
    assert batch.mask.tolist() == [[True] * 4, [True, False, True, False]]


def test_to_observe_is_to_mask(batch):
    only = batch.observe("a")
    assert only.mask.tolist() == [[True, True, False, False], [False] * 4]
    assert (only.data["b"] == 0).all()
    dropped = batch.drop("a")
    assert dropped.mask.tolist() == [[False] * 4, [True, False, True, False]]
    assert (dropped.data["a"] == 0).all()
    assert not dropped.entries["a"].any()
    assert batch.observe().mask.sum() == 0
    assert Batch.of(DATA).observe("b", "a").complete
    assert not Batch.of(DATA).observe("a").complete
    assert batch.only(~batch.mask).mask.sum() == 0
    assert batch.mask.sum() == 4  # what was given is as it was


def test_rows_take_everything_along(batch):
    some = batch.rows(torch.tensor([2, 0]))
    assert some.data["b"].sum(1).tolist() == [3, 3]
    assert some.mask.tolist() == [[False, True], [True, True]]
    assert some.entries["a"][1].tolist() == [False, True]
    assert some.extra["label"].tolist() == [2, 0]


def test_to_another_dtype(batch):
    double = batch.to("cpu", torch.float64)
    assert double.data["a"].dtype == torch.float64
    assert double.mask.dtype == torch.bool


def one_line(problem, *words):
    message = str(problem.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (({},), ["no modality", "pass at least one"]),
        (({"a": torch.zeros(0, 2)},), ["zero rows"]),
        (
            ({"a": torch.zeros(3, 2), "b": torch.zeros(4, 2)},),
            ["different numbers of rows", "{'a': 3, 'b': 4}"],
        ),
        (({"a": torch.tensor([[1.0], [torch.nan]])},), ["'a'", "1 values", "NaN", "mask="]),
        (({"a": torch.tensor([[1.0], [torch.inf]])},), ["'a'", "infinite"]),
        (({"a": ["x", "y"]},), ["'a'", "list", "expected numbers"]),
        (({"a": torch.zeros(2, 1, dtype=torch.complex64)},), ["'a'", "complex64"]),
        ((DATA, torch.ones(4, 2, dtype=torch.bool)), ["(4, 2)", "(2, 4)", "[modalities, samples]"]),
        ((DATA, torch.ones(2, 4)), ["torch.float32", "torch.bool"]),
        ((DATA, {"aa": [True] * 4}), ["'aa'", "did you mean 'a'"]),
        ((DATA, {"a": [True] * 3}), ["(3,)", "'a'", "(4,)"]),
        ((DATA, None, {"bb": torch.ones(4, 3, dtype=torch.bool)}), ["'bb'", "did you mean 'b'"]),
        ((DATA, None, {"b": torch.ones(4, 2, dtype=torch.bool)}), ["(4, 2)", "'b'", "(4, 3)"]),
        ((DATA, None, {"b": torch.ones(4, 3)}), ["torch.float32", "torch.bool"]),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(given, words):
    with pytest.raises(InputError) as problem:
        Batch.of(*given)
    one_line(problem, *words)


def test_unknown_names_get_the_nearest_known_one(batch):
    for use in (batch.observe, batch.drop):
        with pytest.raises(InputError) as problem:
            use("aa")
        one_line(problem, "'aa'", "did you mean 'a'")
        for given in (["a", "b"], 0, None, ("a",)):
            with pytest.raises(InputError) as problem:
                use(given)
            one_line(problem, type(given).__name__, "observe(*names)")


# ---- modalities ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": ""}, ["name ''", "non-empty"]),
        ({"shape": ()}, ["'a'", "shape ()"]),
        ({"shape": (3, 0)}, ["(3, 0)", "positive sizes"]),
        ({"likelihood": "laplac"}, ["'laplac'", "did you mean 'laplace'"]),
        ({"role": "sauce"}, ["'sauce'", "known: both, input, target"]),
        ({"private": -1}, ["private=-1"]),
        ({"weight": -1.0}, ["weight=-1.0"]),
        ({"weight": float("nan")}, ["weight=nan"]),
    ],
)
def test_modalities_that_cannot_be_are_refused(given, words):
    with pytest.raises(InputError) as problem:
        Modality(**{"name": "a", "shape": (2,), **given})
    one_line(problem, *words)


@pytest.mark.parametrize(
    ("name", "given", "options", "words"),
    [
        ("vae", {"network": "mpl"}, {}, ["'mpl'", "did you mean 'mlp'"]),
        ("vae", {"params": {"widht": 2}}, {}, ["'widht'", "did you mean 'width'"]),
        ("vae", {"encoder": "resnett"}, {}, ["'resnett'", "did you mean 'resnet'"]),
        ("vae", {"encoder": "nowhere.at_all:net"}, {}, ["'nowhere.at_all:net'", "cannot import"]),
        ("vae", {"network": "resnet"}, {}, ["'resnet'", "(2,)", "use 'mlp'"]),
        ("vae", {"role": "target"}, {}, ["only targets"]),
        ("mmvae", {"private": 3}, {}, ["MMVAE", "'a'", "private=3", "no private latents"]),
        ("mmvae", {}, {"lattent": 3}, ["'lattent'", "did you mean 'latent'"]),
        ("mmvae", {}, {"latent": 0}, ["latent=0"]),
        ("mmvae", {}, {"beta": -1}, ["beta=-1"]),
        ("mmvae", {}, {"family": "laplac"}, ["'laplac'", "did you mean 'laplace'"]),
        ("mmvae", {}, {"scale_map": "softmx"}, ["'softmx'", "did you mean 'softmax'"]),
        ("mmvae", {}, {"tight": True}, ["tight=True", "'iwae'"]),
        ("mmvae", {}, {"K": 0}, ["K=0"]),
        ("mopoe", {}, {"K": 0}, ["K=0"]),
        ("mopoe", {}, {"prior_expert": "all"}, ["'all'", "'full'"]),
        ("mvae", {}, {"subsets": -1}, ["subsets=-1"]),
        ("mmvae+", {}, {"cross": "auxilary"}, ["'auxilary'", "did you mean 'auxiliary'"]),
        ("mmvae+", {}, {"source_experts": "any"}, ["'any'"]),
        ("mmvae+", {}, {"cross": "prior", "corrected": True}, ["cross='prior'", "auxiliary"]),
        ("mmvae++", {}, {}, ["'mmvae++'", "did you mean 'mmvae+'"]),
    ],
)
def test_models_that_cannot_be_are_refused(name, given, options, words):
    with pytest.raises(InputError) as problem:
        build(name, [Modality(**{"name": "a", "shape": (2,), **given})], **options)
    one_line(problem, *words)


def test_names_must_differ():
    with pytest.raises(InputError, match="each name once"):
        build("vae", [Modality("a", (2,)), Modality("a", (3,))])


@pytest.fixture
def model():
    small = {"hidden": (4,)}
    return build(
        "mmvae+",
        [Modality("a", (2,), params=small), Modality("b", (3,), "categorical", params=small)],
        latent=2,
    )


def test_batches_that_do_not_fit_the_model_are_refused(model):
    for data, words in (
        ({"aa": torch.zeros(2, 2)}, ["'aa'", "did you mean 'a'"]),
        ({"a": torch.zeros(2, 3)}, ["'a'", "(3,)", "(2,)"]),
    ):
        with pytest.raises(InputError) as problem:
            model(Batch.of(data))
        one_line(problem, *words)
    with pytest.raises(InputError) as problem:
        model.embed(Batch.of({"b": torch.full((2, 3), 0.3)}))
    one_line(problem, "'b'", "categorical", "fractions")


def test_modalities_that_a_batch_lacks_are_unobserved(model):
    """And its order, and its dtype, are of no importance."""
    a, b = torch.randn(3, 2), torch.eye(3)
    torch.manual_seed(0)
    alone = model(Batch.of({"a": a})).value
    torch.manual_seed(0)
    assert torch.equal(model(Batch.of({"b": b.double(), "a": a.double()}).observe("a")).value, alone)


def test_a_modality_is_found_by_its_name(model):
    assert list(model.modalities) == ["a", "b"]
    with pytest.raises(KeyError, match="did you mean 'a'"):
        model.modalities["aa"]
    with pytest.raises(InputError, match="target, which is decoded and never encoded"):
        build("vae", [Modality("a", (2,)), Modality("b", (2,), role="target")]).modalities["b"].encode(
            torch.zeros(1, 2)
        )
    with pytest.raises(InputError, match="input, which is encoded and never decoded"):
        build("vae", [Modality("a", (2,), role="input"), Modality("b", (2,))]).modalities["a"].mean(
            torch.zeros(1, 32)
        )

"""Attributes of what is generated, where the answer is known: generators that are right, constant, or drawn uniformly."""

from __future__ import annotations

import pytest
import torch

from polyvae import Modality, MultimodalData, build, load_dataset
from polyvae.core.fitted import FittedMixture
from polyvae.data.sets.shapes import VOCABULARY
from polyvae.data.sets.shapes_grammar import LENGTH
from polyvae.metrics import Context, Judges, evaluate, generation, train_judges
from polyvae.metrics.attributes import attributes, disagreements, entropies, most_frequent, references
from polyvae.metrics.coherence import coherence
from polyvae.metrics.generation import Given
from polyvae.metrics.judge_training import Heads, Reader
from polyvae.metrics.reading import Readers

SIZES = {"shape": 2, "colour": 4}


class Pixels(Reader):
    """The class of the shape is the value of the first pixel, that of the colour the value of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = (1, 8, 8)
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.flatten(1)
        return torch.cat(
            [
                -(pixels[:, [place]] - torch.arange(size)).square()
                for place, size in enumerate(SIZES.values())
            ],
            1,
        )


def images(shape: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """[...] classes -> [..., 1, 8, 8]."""
    x = torch.zeros(*shape.shape, 64)
    x[..., 0], x[..., 1] = shape, colour
    return x.unflatten(-1, (1, 8, 8))


@pytest.fixture(scope="module")
def data():
    rows = torch.arange(800)
    shape, colour = rows % 2, rows // 2 % 4
    return MultimodalData(
        {
            "a": images(shape, colour),
            "b": images(shape, colour),
            "hint": torch.stack([shape, colour], 1).float(),
        },
        attributes={"shape": shape, "colour": colour},
        said={"hint": {"shape": torch.ones(800, dtype=torch.bool), "colour": rows // 8 % 2 == 0}},
        splits={"train": range(400), "test": range(400, 800)},
    )


@pytest.fixture(scope="module")
def judges():
    stated = dict.fromkeys("ab", tuple(SIZES))
    return Judges(
        dict.fromkeys("ab", Pixels()),
        torch.zeros(0, dtype=torch.int64),
        dict.fromkeys("ab", 1.0),
        None,
        "by hand",
        0.0,
        attributes=SIZES,
        stated=stated,
    )


@pytest.fixture(scope="module")
def model():
    specs = [Modality(name, (1, 8, 8), network="mlp", params={"hidden": [4]}) for name in "ab"]
    return build("mvae", [*specs, Modality("hint", 2)], latent=2).eval()


def generator(monkeypatch, make) -> None:
    """Replace conditional generation: ``make(shape, colour, said, K)`` -> classes [K, B] of shape and colour for each target."""

    def conditional(context, members, targets, seed, K=1, data=None, prior=None):
        data = context.data if data is None else data
        draws = torch.Generator().manual_seed(seed)
        said = (
            data.said["hint"]["colour"] if members == ("hint",) else torch.ones(len(data), dtype=torch.bool)
        )
        made = make(data.attributes["shape"], data.attributes["colour"], said, K, draws)
        found = {name: images(*made[name]) for name in targets if name in made}
        yield Given(data.take(slice(None)), found, torch.arange(len(data)))

    monkeypatch.setattr(generation, "conditional", conditional)


def alike(shape, colour):
    return dict.fromkeys("ab", (shape, colour))


def uniform(shape, colour, said, K, draws):
    drawn = torch.randint(4, (K, len(shape)), generator=draws)
    return alike(shape.expand(K, -1), torch.where(said, colour, drawn))


def apart(shape, colour, said, K, draws):
    return {name: uniform(shape, colour, said, K, draws)["a"] for name in "ab"}


def constant(shape, colour, said, K, draws):
    return alike(shape.expand(K, -1), torch.where(said, colour, 2).expand(K, -1))


def constant_per_input(shape, colour, said, K, draws):
    return alike(shape.expand(K, -1), torch.where(said, colour, torch.arange(len(shape)) % 4).expand(K, -1))


def half_uniform(shape, colour, said, K, draws):
    """Two of four colours, which are 1/2 of the entropy and 2/3 of the disagreement of four."""
    drawn = torch.randint(2, (K, len(shape)), generator=draws)
    return alike(shape.expand(K, -1), torch.where(said, colour, drawn))


def test_chance_is_the_share_of_the_class_most_frequent_in_training(monkeypatch, data, judges, model):
    """In training, shape 1 and colour 3 are the most frequent. In the test part, their shares are 1/2 and 1/4."""
    generator(monkeypatch, constant)
    keep = torch.tensor([row for row in range(400) if row % 8 not in (0, 2, 4)])
    train = data.train.rows(keep)
    assert most_frequent(train) == {"shape": 1, "colour": 3}
    found = attributes(Context.of(model, data.test, judges, train=train))
    assert found["attributes"]["a"]["b"]["chance"]["shape"]["share"] == 1 / 2
    assert found["attributes"]["a"]["b"]["chance"]["colour"]["share"] == 1 / 4
    # Of the four pairs of input and target, a and b state both attributes, and the hint states the colour in half of its samples.
    whole, half = (1 / 2 + 1 / 4) / 2, (1 / 2 + 1 / 4 / 2) / (1 + 1 / 2)
    assert found["attribute_chance"] == pytest.approx((2 * whole + 2 * half) / 4)


@pytest.mark.parametrize(
    ("make", "entropy", "diversity"),
    [
        (uniform, 1, 1),
        (half_uniform, 1 / 2, 2 / 3),
        (constant, 0, 0),
        (constant_per_input, 0, 0),
    ],
)
def test_diversity_of_what_was_not_said(monkeypatch, data, judges, model, make, entropy, diversity):
    generator(monkeypatch, make)
    found = attributes(Context.of(model, data.test, judges, train=data.train))
    near = {"abs": 0.02 if entropy else 1e-12}
    assert found["unsaid_entropy"] == pytest.approx(entropy, **near)
    assert found["unsaid_diversity"] == pytest.approx(diversity, **near)
    low, high = found["intervals"]["unsaid_diversity"]
    assert low <= found["unsaid_diversity"] <= high
    assert found["unsaid_accuracy"] == 1
    # Only the colour is left open, and only in half of the samples.
    assert set(found["unsaid"]) == {"hint"}
    assert found["unsaid"]["hint"]["a"]["colour"]["samples"] == 200
    assert "shape" not in found["unsaid"]["hint"]["a"]


def test_a_prior_with_conditional_draws_has_numbers_of_its_own(monkeypatch, data, judges, model):
    """With the fitted prior the colour varies, else it is constant."""
    kinds = []

    def conditional(context, members, targets, seed, K=1, data=None, prior=None):
        kinds.append(prior)
        generator(monkeypatch, constant if prior is None else uniform)
        made = generation.conditional(context, members, targets, seed, K, data)
        monkeypatch.setattr(generation, "conditional", conditional)
        return made

    prior = FittedMixture(torch.ones(1), torch.zeros(1, 6), torch.eye(6)[None], blocks=(2, 2, 2)).of_each()
    monkeypatch.setattr(generation, "conditional", conditional)
    found = attributes(Context.of(model, data.test, judges, train=data.train, prior=prior))
    assert found["unsaid_entropy"] == pytest.approx(0, abs=1e-12)
    assert found["unsaid_entropy_fitted"] == pytest.approx(1, abs=0.02)
    assert found["unsaid_accuracy_fitted"] == found["attribute_accuracy_fitted"] == 1
    assert "attribute_chance" in found
    assert "attribute_chance_fitted" not in found
    assert {"unsaid_entropy", "unsaid_entropy_fitted"} <= set(found["intervals"])
    assert set(found["unsaid_fitted"]) == {"hint"}
    assert {id(kind) for kind in kinds} == {id(None), id(prior)}


def test_accuracy_counts_what_was_said_and_all(monkeypatch, data, judges, model):
    generator(monkeypatch, constant)
    found = attributes(Context.of(model, data.test, judges, train=data.train))
    assert (found["attribute_accuracy"], found["attribute_exact"]) == (1, 1)
    given_hint = found["attributes"]["hint"]["a"]
    assert given_hint["said"]["colour"]["share"] == given_hint["all"]["shape"]["share"] == 1
    assert given_hint["all"]["colour"]["share"] == pytest.approx(0.5 + 0.5 / 4)
    # Given an image everything is stated: two of four pairs are right in all, two in 7/8 of two attributes.
    assert found["attribute_accuracy_all"] == pytest.approx((2 + 2 * (1 + 0.625) / 2) / 4)


def test_wrong_attributes_are_wrong(monkeypatch, data, judges, model):
    """The shape is wrong in every fourth sample."""

    def make(shape, colour, said, K, draws):
        return alike(
            (shape + (torch.arange(len(shape)) // 2 % 4 == 0)) % 2 + torch.zeros(K, 1), colour.expand(K, -1)
        )

    generator(monkeypatch, make)
    context = Context.of(model, data.test, judges, train=data.train, draws=10)
    found, other = attributes(context), coherence(context)
    assert found["attributes"]["a"]["b"]["said"]["shape"]["share"] == 0.75
    assert found["attribute_exact"] == 0.75
    assert other["coherence_matrix"]["a"]["b"] == 0.875  # one of two attributes, in a quarter of the samples
    # From the hint, the colour counts in half of the samples.
    assert other["coherence_matrix"]["hint"]["a"] == pytest.approx((300 + 200) / 600)
    low, high = other["coherence_intervals"]["a"]["b"]
    assert low < 0.875 < high
    assert set(other["intervals"]) >= {
        "conditional_coherence",
        "unconditional_coherence",
        "coherence_1_inputs",
    }


@pytest.mark.parametrize(("make", "share", "entropy"), [(uniform, 1, 1), (apart, 1 / 4, 1), (constant, 1, 0)])
def test_joint_coherence_is_agreement_on_what_the_input_leaves_open(
    monkeypatch, data, judges, model, make, share, entropy
):
    generator(monkeypatch, make)
    found = coherence(Context.of(model, data.test, judges, draws=10))
    assert found["joint_coherence"] == pytest.approx(share, abs=0.08 if share < 1 else 0)
    assert found["joint_entropy"] == pytest.approx(entropy, abs=0.06 if entropy else 0)
    assert set(found["joint_by_input"]) == {"hint"}
    assert set(found["joint_by_input"]["hint"]) == {"colour"}


@pytest.mark.parametrize("make", [uniform, apart])
def test_unconditional_agreement_counts_attributes_and_draws(monkeypatch, data, judges, model, make):
    def unconditional(context, prior, seed):
        draws = torch.Generator().manual_seed(seed)
        shape = torch.randint(2, (4000,), generator=draws)
        made = make(shape, shape, torch.zeros(4000, dtype=torch.bool), 1, draws)
        yield {name: images(*(x[0] for x in own)) for name, own in made.items()}

    monkeypatch.setattr(generation, "unconditional", unconditional)
    found = coherence(Context.of(model, data.test, judges, draws=4000))
    colour = 1 if make is uniform else 1 / 4
    assert found["unconditional_coherence"] == pytest.approx((1 + colour) / 2, abs=0.02)
    assert found["unconditional_exact"] == pytest.approx(colour, abs=0.03)
    assert found["unconditional_by_attribute"]["shape"]["agreement"] == 1
    assert found["unconditional_entropy"] == pytest.approx(1, abs=0.01)
    assert "unconditional_histogram" not in found
    # One modality alone agrees with itself in any model.
    alone = Judges({"a": Pixels()}, torch.zeros(0, dtype=torch.int64), {"a": 1.0}, None, "", 0.0)
    alone.attributes, alone.stated = dict(SIZES), {"a": tuple(SIZES)}
    own = coherence(Context.of(model, data.test, alone, draws=4000))["unconditional_by_attribute"]["shape"]
    assert own["entropy"] == pytest.approx(1, abs=0.01)
    assert not {"agreement", "interval"} & set(own)


def test_entropy_and_disagreement_are_their_formulas():
    counts = torch.tensor([[5, 5, 0], [10, 0, 0], [0, 0, 0], [1, 0, 0]])
    assert entropies(counts).tolist() == pytest.approx([torch.tensor(2.0).log().item() + 1 / 20, 0, 0, 0])
    assert disagreements(counts).tolist() == pytest.approx([2 * 5 * 5 / (10 * 9), 0, 0, 0])


def test_disagreement_has_no_bias():
    draws = torch.Generator().manual_seed(0)
    p = torch.tensor([0.5, 0.3, 0.2])
    rows = torch.multinomial(p, 5 * 20_000, True, generator=draws).view(-1, 5)
    counts = torch.stack([(rows == label).sum(1) for label in range(3)], 1)
    assert float(disagreements(counts).mean()) == pytest.approx(float(1 - p.square().sum()), abs=0.004)


def test_a_reference_is_of_the_samples_that_agree_in_what_was_said(data):
    truth, stated = torch.tensor([[1, 3], [1, 3]]), torch.tensor([[True, False], [False, False]])
    found = references(data.train, truth, stated, 1, 4)
    assert found.tolist() == [[50] * 4, [100] * 4]
    assert references(data.train, truth, torch.tensor([[False, True]] * 2), 0, 2).tolist() == [[50, 50]] * 2


# ---- sentences -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes():
    return load_dataset("shapes_captions", train=40, test=40, unseen=0, judges=0)


def sentences(monkeypatch, shapes, change) -> dict:
    """The metric where the sentence generated for each image is its caption, changed."""

    def conditional(context, members, targets, seed, K=1, data=None, prior=None):
        data = context.data if data is None else data
        own = [change(caption) for caption in VOCABULARY.decode(data.values("caption").numpy())]
        ids = torch.from_numpy(VOCABULARY.encode(own, LENGTH))[None].float()
        made = {"caption": ids} if "caption" in targets else {}
        yield Given(data.take(slice(None)), made, torch.arange(len(data)))

    monkeypatch.setattr(generation, "conditional", conditional)
    model = build("mvae", shapes.modalities(), latent=2).eval()
    return attributes(Context.of(model, shapes.test))


def test_the_captions_themselves_are_exact(monkeypatch, shapes):
    found = sentences(monkeypatch, shapes, lambda caption: caption)
    assert (found["sentence_accuracy"], found["sentence_exact"], found["sentence_grammatical"]) == (1, 1, 1)
    said = torch.stack([*shapes.test.said["caption"].values()]).double().mean()
    assert found["sentence_stated"] == pytest.approx(float(said))


def test_an_error_of_grammar_or_of_fact_is_counted_as_what_it_is(monkeypatch, shapes):
    found = sentences(monkeypatch, shapes, lambda caption: caption.removeprefix("a "))
    starts = [
        caption.startswith("a ") for caption in VOCABULARY.decode(shapes.test.values("caption").numpy())
    ]
    assert found["sentence_accuracy"] == 1
    assert found["sentence_grammatical"] == found["sentence_exact"] == pytest.approx(1 - sum(starts) / 40)
    found = sentences(monkeypatch, shapes, lambda caption: "there is a circle")
    circles = float((shapes.test.attributes["shape"] == 0).double().mean())
    assert found["sentence_accuracy"] == found["sentence_exact"] == pytest.approx(circles)
    assert (found["sentence_grammatical"], found["sentence_stated"]) == (1, pytest.approx(1 / 6))


def test_sentences_that_state_nothing_leave_nothing_to_agree_on(monkeypatch, data, judges, model):
    def unconditional(context, prior, seed):
        yield dict.fromkeys("ab", images(*torch.zeros(2, 5)))

    monkeypatch.setattr(generation, "unconditional", unconditional)
    monkeypatch.setattr(
        Readers, "read", lambda self, name, x: {key: torch.full((len(x),), -1) for key in SIZES}
    )
    monkeypatch.setattr(generation, "conditional", lambda *given, **named: iter(()))
    found = coherence(Context.of(model, data.test, judges, draws=5))
    assert [name for name, value in found.items() if isinstance(value, float)] == []


# ---- judges --------------------------------------------------------------------------------------------------------------------------


def test_judges_learn_a_head_for_each_attribute_that_a_modality_states(tmp_path):
    draws = torch.Generator().manual_seed(0)
    shape, colour = (torch.randint(size, (600,), generator=draws) for size in (2, 3))
    x = 0.2 * torch.rand(600, 3, 8, 8, generator=draws)
    x[torch.arange(600), colour] += 0.5
    x[shape == 1, :, :4] += 0.3
    data = MultimodalData(
        {"x": x, "grey": x.mean(1, keepdim=True)},
        attributes={"shape": torch.where(torch.arange(600) % 5 == 0, -1, shape), "colour": colour},
        said={"grey": {"shape": torch.ones(600, dtype=torch.bool)}},
        splits={"train": range(400), "test": range(400, 600)},
    )
    quick = {"epochs": 1, "least": 50, "width": 6, "batch_size": 32, "cache": tmp_path}
    judges = train_judges(data, **quick)
    assert judges.stated == {"x": ("shape", "colour"), "grey": ("shape",)}
    accuracy = judges.attribute_accuracy
    assert min(accuracy["x"].values()) > 0.95
    assert accuracy["grey"]["shape"] > 0.95
    read = judges.read("x", data.test.values("x"))
    known = data.test.attributes["shape"] >= 0
    share = (read["shape"] == data.test.attributes["shape"])[known].double().mean()
    assert accuracy["x"]["shape"] == pytest.approx(float(share))
    assert judges.accuracy["x"] == pytest.approx(sum(accuracy["x"].values()) / 2)
    again = train_judges(data, **quick, progress=lambda name, share: pytest.fail("not read from the cache"))
    assert (again.stated, again.attribute_accuracy, again.attributes) == (
        judges.stated,
        accuracy,
        SIZES | {"colour": 3},
    )
    assert all(
        torch.equal(x, y) for x, y in zip(judges["x"].parameters(), again["x"].parameters(), strict=True)
    )
    assert judges.agreement is None


def test_the_right_answers_of_heads(data):
    heads = Heads.of(data)
    assert heads.sizes == [0, 2, 4]
    truth = heads.truth(data, "hint")
    assert bool((truth[:, 0] == -1).all())
    assert torch.equal(truth[:, 2] >= 0, data.said["hint"]["colour"])
    assert torch.equal(heads.truth(data, "a")[:, 2], data.attributes["colour"])


def test_a_judge_that_reads_no_attribute_is_none(data, judges):
    """That of an image whose said attributes are none, such as a plain background, and which has labels."""
    own = Judges(dict(judges), judges.classes, {}, None, "", 0.0, attributes=SIZES)
    own.stated = {"a": tuple(SIZES), "b": ()}
    assert Readers(data, own).names == ("a",)


def test_data_with_labels_alone_have_one_attribute(data, judges):
    plain = MultimodalData({"a": data.values("a")}, labels=data.attributes["shape"])
    own = Judges({"a": Pixels()}, torch.arange(2), {"a": 1.0}, None, "by hand", 0.0)
    readers = Readers(plain, own)
    assert (readers.plain, readers.names, [*readers.attributes]) == (True, ("a",), ["label"])
    assert readers.truth(plain.take([0, 1]))["label"].tolist() == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 32, 64])
def test_the_judges_of_shapes_are_right_in_every_attribute_also_of_unseen_pairs(side):
    shapes = load_dataset("shapes_captions", mask=side == 16, side=side)
    found = train_judges(shapes, cache=False)
    for part in ("test", "unseen"):
        for name in found:
            read = found.read(name, shapes.part(part).values(name))
            for attribute, answer in read.items():
                assert float((answer == shapes.part(part).attributes[attribute]).double().mean()) >= 0.98


@pytest.mark.slow
def test_an_evaluation_of_images_and_captions_has_its_numbers():
    shapes = load_dataset("shapes_captions", train=400, test=100, unseen=0, judges=0, mask=True)
    model = build("mmvae+", shapes.modalities(), latent=4).eval()
    quick = train_judges(shapes, cache=False, epochs=1, least=20, most=20, width=8)
    found = evaluate(
        model,
        shapes,
        judges=quick,
        metrics=["coherence", "attributes", "quality"],
        measures="frechet",
        draws=100,
        fitted_prior={"components": 2},
        show=False,
    )
    names = {"attribute_accuracy", "sentence_exact", "unsaid_entropy", "unsaid_diversity", "joint_coherence"}
    names |= {"unconditional_coherence_fitted", "unconditional_exact_fitted", "conditional_frechet_distance"}
    assert names <= set(found.headline())
    assert set(found["intervals"]) <= set(found.headline())
    assert {"conditional_coherence", "unconditional_coherence_fitted", "joint_coherence"} <= set(
        found["intervals"]
    )
    for name, (low, high) in found["intervals"].items():
        assert low - 1e-9 <= found[name] <= high + 1e-9

"""One meaning of missing: masks and entry masks agree, encoders know which entries are missing, batch normalisation without a batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import polyvae as pv
from polyvae import Batch, InputError, Modality, MultimodalData, build
from polyvae.models.bundles import describe_modality, load_model, read_modality, save_model
from polyvae.testing import example_data, example_model, law_agree
from tests.helpers.likelihoods import NUMBERS, required

SMALL = {"hidden": (4,)}


def two(size: int = 8) -> dict[str, torch.Tensor]:
    return {"a": torch.randn(size, 3), "b": torch.randn(size, 2)}


# ---- masks and entry masks agree


def test_a_row_without_entries_lacks_the_modality():
    gaps = torch.ones(8, 2, dtype=torch.bool)
    gaps[0] = False
    batch = Batch.of(two(), None, {"b": gaps})
    assert batch.mask.tolist() == [[True] * 8, [False] + [True] * 7]
    assert not batch.entries  # the mask contains all of it
    assert not batch.complete
    gaps[1, 0] = False
    assert Batch.of(two(), None, {"b": gaps}).entries["b"].tolist() == gaps.tolist()


@pytest.mark.parametrize("how", ["mask", "entries", "masked array"])
def test_a_row_of_which_nothing_was_observed_is_counted_and_refused_however_it_was_said(how):
    x, seen = np.ones((6, 2)), np.ones((6, 2), dtype=bool)
    seen[2] = False
    given = {
        "mask": lambda: MultimodalData({"b": x}, mask={"b": seen[:, 0]}),
        "entries": lambda: MultimodalData({"b": x}, entries={"b": seen}),
        "masked array": lambda: MultimodalData({"b": np.ma.array(x, mask=~seen)}),
    }
    data = given[how]()
    assert data.unobserved_rows == 1
    model = build("mvae", data.modalities(params=SMALL), latent=2)
    with pytest.raises(InputError, match="nothing was observed in 1 of 6 rows"):
        pv.fit(model, data, epochs=1, show=False)


@pytest.mark.parametrize("likelihood", NUMBERS)
def test_entries_that_are_all_missing_are_a_missing_modality(likelihood):
    shape = (6,) if likelihood == "mixed" else (2, 3)
    first = Modality("x", shape, likelihood, params=SMALL | required(likelihood, shape[-1]))
    for entries in (False, True):
        specs = [replace(first, entries=entries), Modality("y", 2, params=SMALL)]
        law_agree(lambda specs: build("mmvae", specs, latent=2), specs)


# ---- what other libraries mark as missing


class Nullable:
    """A column as pandas has it, without pandas."""

    def __init__(self, values):
        self.values = values

    def isna(self):
        return np.array([[value is None for value in row] for row in self.values])

    def to_numpy(self, dtype=None, copy=False, na_value=None):
        return np.array(self.values, dtype=object)


def test_masked_and_nullable_values_are_missing_entries():
    masked = np.ma.array([[1.0, np.nan], [3.0, 4.0]], mask=[[False, True], [False, False]])
    for x in (masked, Nullable([[1, None], [3, 4]])):
        batch = Batch.of({"x": x})
        assert batch.data["x"].tolist() == [[1, 0], [3, 4]]
        assert batch.entries["x"].tolist() == [[True, False], [True, True]]
    both = Batch.of({"x": masked}, None, {"x": np.array([[True, True], [False, True]])})
    assert both.entries["x"].tolist() == [[True, False], [False, True]]
    with pytest.raises(InputError, match="mask of 'x': got 1 values that are marked as missing"):
        Batch.of({"x": np.ones((2, 1))}, {"x": np.ma.array([True, False], mask=[False, True])})


def test_labels_that_are_marked_as_missing_are_minus_one():
    for labels in (np.ma.array([1, 7, 0], mask=[0, 1, 0]), Nullable([[1], [None], [0]])):
        if isinstance(labels, Nullable):
            labels.isna = lambda: np.array([False, True, False])
            labels.to_numpy = lambda dtype=None: np.array([1, None, 0], dtype=object)
        assert MultimodalData({"x": np.ones((3, 1))}, labels=labels).labels.tolist() == [1, -1, 0]
    with pytest.raises(InputError, match="groups: got 1 values that are marked as missing"):
        MultimodalData({"x": np.ones((3, 1))}, groups=np.ma.array([1, 7, 0], mask=[0, 1, 0]))


def test_pandas_itself():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"u": [1.0, None], "v": pandas.array([2, 3], dtype="Int64")})
    data = MultimodalData({"x": frame}, labels=pandas.Series([1, None], dtype="Int64"))
    assert data.take([0, 1]).entries["x"].tolist() == [[True, True], [False, True]]
    assert data.labels.tolist() == [1, -1]


def test_data_that_hang_on_a_graph_are_cut_from_it():
    x = (torch.ones(8, 3, requires_grad=True) * 2).requires_grad_()
    assert not Batch.of({"x": x}).data["x"].requires_grad
    data = MultimodalData({"x": x})
    model = build("vae", data.modalities(params=SMALL), latent=2)
    pv.fit(model, data, epochs=2, batch_size=4, validation=0.0, show=False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"x": torch.eye(3).to_sparse()}, "got a sparse tensor; .*to_dense"),
        ({"x": torch.ones(2, 2, device="meta")}, "got a tensor without values"),
        ({"x": torch.ones(2, 2, dtype=torch.complex64)}, "got dtype torch.complex64"),
        ({"x": [["u"], ["v"]]}, "got list; expected numbers"),
        ([torch.ones(2, 2)], "got list; expected a mapping from names to arrays"),
        (torch.ones(2, 2), "got Tensor; expected a mapping from names to arrays"),
    ],
)
def test_arrays_that_are_none_get_one_line(given, words):
    for make in (Batch.of, MultimodalData):
        with pytest.raises(InputError, match=words) as problem:
            make(given)
        assert "\n" not in str(problem.value)


def test_half_precision_times_a_scale_does_not_overflow():
    data = MultimodalData({"x": np.full((2, 1), 300.0, dtype=np.float16)}, scale={"x": 1000.0})
    assert data.take([0]).data["x"].item() == 300_000


def test_columns_whose_variance_single_precision_loses_are_named():
    x = np.random.default_rng(0).normal(size=(64, 3))
    MultimodalData({"x": x})
    x[:, 1] = 1.7e9 + 10 * x[:, 1]
    with pytest.warns(UserWarning, match=r"modality 'x': column 1 \(mean 1.7e\+09.*subtract the mean"):
        MultimodalData({"x": x})


# ---- encoders know which entries are missing


def incomplete(mean: float, rows: int = 60) -> MultimodalData:
    draws = np.random.default_rng(0)
    x = (draws.normal(size=(rows, 4)) + mean).astype("f4")
    return MultimodalData({"x": x, "y": x[:, :2]}, entries={"x": draws.random(x.shape) < 0.7})


def test_missing_entries_are_declared_by_the_data_and_centred_by_fit(tmp_path):
    data = incomplete(5.0)
    specs = data.modalities(params=SMALL)
    assert [spec.entries for spec in specs] == [True, False]
    assert [spec.entries for spec in data.modalities(entries=False)] == [False, False]
    assert [read_modality(describe_modality(spec)) for spec in specs] == specs
    assert "entries" not in describe_modality(specs[1])
    model = build("mvae", specs, latent=2)
    pv.fit(model, data, epochs=1, validation=0.0, show=False)
    net, batch = model.modalities["x"], data.take(slice(None))
    x, seen = batch.data["x"], batch.entries["x"]
    torch.testing.assert_close(net.centre, (x * seen).sum(0) / seen.sum(0))
    # Training goes on with the centres that the encoder has learnt with.
    before = net.centre.clone()
    pv.fit(model, incomplete(9.0), epochs=1, validation=0.0, show=False)
    assert torch.equal(net.centre, before)
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert torch.equal(again.embed(batch), model.embed(batch))


def test_the_encoder_input_has_the_centre_and_the_indicator():
    net = build("vae", [Modality("x", (2, 3), params=SMALL, entries=True)], latent=1).modalities["x"]
    net.centre.fill_(5.0)
    x, seen = torch.full((1, 2, 3), 7.0), torch.tensor([[[True, False, True], [True, True, False]]])
    features = net.features(x, seen)
    assert features.tolist() == [[[7, 5, 7], [7, 7, 5]]]
    assert net.encoder_input(features, seen).tolist() == [[[2, 0, 2], [2, 2, 0], [1, 0, 1], [1, 1, 0]]]
    assert net.encoder_input(x, None)[0, 2:].tolist() == [[1] * 3] * 2
    hidden = Batch.of({"x": x}, None, {"x": seen})
    model = build("vae", [net.spec], latent=1)
    assert not torch.equal(model.embed(hidden), model.embed(Batch.of({"x": torch.where(seen, x, 0.0)})))


def test_the_mean_of_a_column_costs_the_encoder_nothing():
    """The first steps are the same for any mean, given a decoder that starts there."""
    embedded = []
    for mean in (0.0, 5.0):
        torch.manual_seed(0)
        data = incomplete(mean).select("x")
        model = build("vae", data.modalities(params=SMALL), latent=2)
        model.modalities.centre(data.batches(7))
        embedded.append(model.embed(data.take(slice(None))))
    torch.testing.assert_close(*embedded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 8, 8), (5,)])
@pytest.mark.parametrize("name", ["jmvae", "meme", "mmvae+"])
def test_every_encoder_gets_the_wider_input(shape, name):
    specs = [
        Modality("x", shape, entries=True, params={"width": 0.1}),
        Modality("y", 2, entries=True, params=SMALL),
    ]
    model = build(name, specs, latent=2)
    x = torch.randn(4, *shape)
    batch = Batch.of({"x": x, "y": torch.randn(4, 2)}, None, {"x": torch.rand(x.shape) < 0.5})
    assert bool(model(batch).value.isfinite().all())
    assert "centre" not in str(
        list(build(name, [replace(spec, entries=False) for spec in specs]).state_dict())
    )


# ---- batch normalisation


def normalised(in_shape, out):
    return nn.Sequential(nn.Linear(in_shape[0], 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, out))


@pytest.mark.parametrize("name", ["mmvae", "jmvae", "mopoe"])
def test_batch_normalisation_trains_where_a_batch_has_one_row_or_none(name):
    """9 rows in batches of 4: the last has one row; b is observed in the first rows of some batches alone, or never."""
    mask = {"b": torch.arange(9) < 2}
    data = MultimodalData(two(9), mask=mask)
    specs = data.modalities(encoder=normalised, decoder=lambda shape, out: normalised(shape, out[0]))
    model = build(name, specs, latent=2)
    history = pv.fit(model, data, epochs=3, batch_size=4, validation=0.0, show=False)
    assert history.stopped == "done"
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_the_row_that_stands_in_does_not_move_running_statistics():
    specs = [Modality(name, size, encoder=normalised, params=SMALL) for name, size in (("a", 3), ("b", 2))]
    model = build("mmvae", specs, latent=2).train()
    norm = model.modalities["b"].encoder[1]
    for rows, moves in ((0, False), (1, False), (2, True)):
        before = norm.running_mean.clone()
        model(Batch.of(two(), {"b": torch.arange(8) < rows})).value.sum().backward()
        assert (not torch.equal(norm.running_mean, before)) == moves
        assert norm.training
        assert not norm._forward_pre_hooks
    assert all(parameter.grad is not None for parameter in model.parameters())


# ---- networks of a user


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"encoder": lambda shape, out: nn.Linear(shape[0], 7)},
            r"'a': got an encoder output of shape \(8, 7\)",
        ),
        (
            {"decoder": lambda shape, out: nn.Linear(shape[0], 7)},
            r"'a': got a decoder output of shape \(16, 7\)",
        ),
        ({"encoder": lambda shape, out: None}, "got NoneType from the factory of its encoder"),
    ],
)
def test_a_network_of_the_wrong_size_names_its_modality(given, words):
    def run():
        model = build("mmvae", [Modality("a", 3, **given), Modality("b", 2, params=SMALL)], latent=2)
        return model(Batch.of(two()))

    with pytest.raises(InputError, match=words):
        run()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Modality("a", 3, encoder=nn.Linear(3, 4)), "got Linear as encoder; expected"),
        (lambda: Modality("a", 3, private=2.5), "got private=2.5; expected a whole number"),
        (lambda: Modality("a", 3, private=[2, 3]), r"got private=\[2, 3\]; expected a whole number"),
        (lambda: Modality("a", 3, weight=float("inf")), "got weight=inf; expected a finite number"),
        (lambda: Modality("a", 3, weight=True), "got weight=True; expected a finite number"),
        (lambda: Modality("a", 3, entries="yes"), "got entries='yes'; expected True"),
        (lambda: Modality("a", 3, params=3), "got params=3; expected a mapping"),
        (lambda: build("vae", [Modality("a", 3, params={"hidden": 64})]), "got hidden=64; expected a list"),
        (
            lambda: build("vae", [Modality("a", 3, params={"width": -1})]),
            "got width=-1; expected a finite number",
        ),
        (lambda: build("vae", [Modality("a", 3, params={"scale": float("inf")})]), "got scale=inf; expected"),
        (lambda: build("vae", [Modality("a", 3, params={"scale": True})]), "got scale=True; expected"),
        (lambda: build("vae", [Modality("a", 3)], beta=True), "got beta=True; expected a finite number"),
        (
            lambda: build("vae", [Modality("a", 3)], beta=float("inf")),
            "got beta=inf; expected a finite number",
        ),
        (
            lambda: pv.MMVAEPlus([Modality("a", 3)], latnt=3),
            "MMVAEPlus: unknown option 'latnt'; did you mean 'latent'",
        ),
        (lambda: build("mmvaeplus", []), r"did you mean 'mmvae\+'"),
        (lambda: build("MMVAE+", []), r"did you mean 'mmvae\+'"),
        (
            lambda: pv.fit(MultimodalData(two()), build("vae", [Modality("a", 3)])),
            "fit: got MultimodalData as the model",
        ),
        (
            lambda: build("vae", [Modality("a", 3)]).generate(Batch.of({"a": torch.ones(1, 3)}), 0),
            "generate: got K=0",
        ),
        (lambda: build("vae", [Modality("a", 3)]).sample(0), "sample: got n=0"),
    ],
)
def test_one_line_for_what_cannot_be(make, words):
    with pytest.raises(InputError, match=words) as problem:
        make()
    assert "\n" not in str(problem.value)


def test_a_subclass_may_pass_any_keyword_on():
    class Mine(pv.MVAE):
        def __init__(self, modalities, **options):
            super().__init__(modalities, **options)

    assert Mine([Modality("a", 3)], latent=3).latent == 3


def test_an_input_alone_is_not_pulled_into_the_prior():
    """An ELBO in which nothing is decoded is 0, and so is its gradient."""
    specs = [Modality("a", 3, role="input", params=SMALL), Modality("b", 2, params=SMALL)]
    for name in ("mvae", "telbo", "crmvae"):
        model = example_model(lambda specs, name=name: build(name, specs, latent=2), specs)
        value = model(Batch.of(example_data(model, 4)).observe("a")).value
        if name == "crmvae":  # the coordination term of a product of one expert is 0, too
            assert value.abs().max() < 1e-12
        else:
            assert value.tolist() == [0.0] * 4


def test_missing_entries_are_at_the_centre_of_their_column():
    """The encoder is given values less their means, 0 where missing, and which entries were observed."""
    model = build("mvae", [Modality("a", 3, entries=True, params=SMALL)], latent=2)
    net = model.modalities["a"]
    net.centre.copy_(torch.tensor([5.0, -2.0, 1.0]))
    x = torch.tensor([[6.0, 0.0, 4.0]])
    entries = torch.tensor([[True, False, True]])
    assert net.features(x, entries).tolist() == [[6.0, -2.0, 4.0]]
    assert net.encoder_input(net.features(x, entries), entries).tolist() == [[1.0, 0.0, 3.0, 1.0, 0.0, 1.0]]

"""Likelihoods of sentences: normalised, drawn as they are scored, and blind to padding."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional

import polyvae as pv
from polyvae import InputError, Modality
from polyvae.core import noise
from polyvae.core.likelihoods import LIKELIHOODS
from polyvae.core.modality import ModalityNet
from polyvae.testing import check_model

pytestmark = pytest.mark.usefixtures("double")
TEXTS = ("sequence", "tokens")
WORDS = ["a", "b", "c"]


def sentences(length: int, words: int) -> torch.Tensor:
    """All admissible rows: [N, length]."""
    rows = [
        (*middle, 1, *[0] * (length - 1 - n))
        for n in range(length)
        for middle in product(range(2, words + 3), repeat=n)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def made(name: str, length: int = 4, **options):
    torch.manual_seed(3)
    options = {"units": 12, "embedding": 6} | options if name == "sequence" else options
    likelihood = LIKELIHOODS[name]((length,), words=WORDS, **options)
    for parameter in likelihood.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return likelihood


@pytest.mark.parametrize("name", TEXTS)
def test_the_probabilities_of_all_sentences_sum_to_one(name):
    likelihood, x = made(name), sentences(4, 3)
    out = 2 * torch.randn(2, 3, 1, *likelihood.output)
    log_p = likelihood.log_prob(out, x)  # [2, 3, 85]
    assert log_p.shape == (2, 3, 85)
    assert torch.allclose(log_p.exp().sum(-1), torch.ones(2, 3))
    assert likelihood.invalid(x, torch.ones_like(x, dtype=torch.bool)) == ""


@pytest.mark.parametrize("name", TEXTS)
def test_draws_have_the_frequencies_of_the_density(name):
    likelihood, x = made(name, 3), sentences(3, 3)
    out = torch.randn(*likelihood.output)
    count = 20_000
    drawn = likelihood.sample(out.expand(count, *out.shape)).long()
    chance = likelihood.log_prob(out[None], x).exp()
    seen = (drawn[:, None] == x.long()).all(-1).sum(0) / count
    assert float(seen.sum()) == 1  # nothing but admissible rows
    assert bool(((seen - chance).abs() <= 5 * (chance * (1 - chance) / count).sqrt() + 1e-3).all())


@pytest.mark.parametrize("name", TEXTS)
def test_the_mean_takes_the_most_probable_word_at_each_position(name):
    likelihood = made(name)
    out = 2 * torch.randn(5, *likelihood.output)
    found = likelihood.mean(out)
    for row in range(5):
        ids: list[int] = []
        while 1 not in ids and len(ids) < 3:
            options = [[*ids, word, *[1] * (3 - len(ids))] for word in range(1, 6)]
            each = likelihood.entries(out[row : row + 1], torch.tensor(options, dtype=torch.float64))
            ids.append(1 + int(each[:, len(ids)].argmax()))
        ids = (ids if 1 in ids else [*ids, 1])[:4]
        assert found[row].tolist() == ids + [0] * (4 - len(ids))


def test_a_sequence_is_the_product_of_its_words_by_hand():
    likelihood = made("sequence", units=6, embedding=5)
    out, x = torch.randn(2, 6), torch.tensor([[4.0, 2, 1, 0], [5.0, 5, 3, 1]])
    gru, expected = likelihood.recurrent, torch.zeros(2, 4)
    for row in range(2):
        h, before = out[row].tanh(), 0
        for step, word in enumerate(x[row].long().tolist()[:3]):
            if word == 0:
                break
            i = (
                gru.weight_ih_l0 @ (likelihood.embedding.weight[before] + likelihood.context(out[row]))
                + gru.bias_ih_l0
            )
            r, z, n = i.chunk(3)
            hr, hz, hn = (gru.weight_hh_l0 @ h + gru.bias_hh_l0).chunk(3)
            z = (z + hz).sigmoid()
            h = (1 - z) * (n + (r + hr).sigmoid() * hn).tanh() + z * h
            expected[row, step] = likelihood.logits(h).log_softmax(-1)[word - 1]
            before = word
    assert torch.allclose(likelihood.entries(out, x), expected)
    assert torch.allclose(likelihood.log_prob(out, x), expected.sum(-1))


@pytest.mark.parametrize("name", TEXTS)
def test_padding_and_other_rows_have_no_influence(name):
    """A sentence scores the same in longer rows and beside other sentences; its encoder input aside, nothing follows the end."""
    short, x = made(name, 4), sentences(4, 3)[[0, 3, 15, 84]]
    out = torch.randn(4, *short.output, requires_grad=True)
    alone = torch.cat([short.log_prob(out[row : row + 1], x[row : row + 1]) for row in range(4)])
    assert torch.allclose(short.log_prob(out, x), alone)
    assert short.log_prob(out[:0], x[:0]).shape == (0,)
    blank = short.log_prob(out, torch.zeros_like(x))
    assert blank.tolist() == [0] * 4
    if name == "sequence":
        long = made(name, 9)
        long.load_state_dict(short.state_dict())
        ends = x[:3]  # those whose end is not forced in the short form
        assert torch.allclose(long.log_prob(out[:3], functional.pad(ends, (0, 5))), alone[:3])


@pytest.mark.parametrize("name", TEXTS)
def test_all_leading_axes_are_broadcast(name):
    likelihood, x = made(name), sentences(4, 3)[40:45]
    out = torch.randn(2, 3, 5, *likelihood.output)
    together = likelihood.log_prob(out, x)
    each = torch.stack([torch.stack([likelihood.log_prob(out[k, v], x) for v in range(3)]) for k in range(2)])
    assert torch.allclose(together, each)
    assert torch.allclose(
        likelihood.log_prob(out[0, 0, :1], x), likelihood.log_prob(out[0, 0, :1].expand(5, *out.shape[3:]), x)
    )
    assert likelihood.sample(out).shape == (2, 3, 5, 4)
    with noise.record() as draws:
        drawn = likelihood.sample(out)
    with noise.feed({name: draw.value for name, draw in draws.items()}):
        assert torch.equal(likelihood.sample(out), drawn)


@pytest.mark.parametrize("name", TEXTS)
def test_every_parameter_gets_a_gradient(name):
    likelihood, x = made(name), sentences(4, 3)
    out = torch.randn(len(x), *likelihood.output, requires_grad=True)
    likelihood.log_prob(out, x).sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in likelihood.parameters())
    assert bool((out.grad.flatten(1) != 0).any(0).all())


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([[2.5, 1, 0, 0]], "1 value of 4 that cannot occur, such as 2.5"),
        ([[6, 1, 0, 0]], "such as 6; expected ids, whole numbers from 0 to 5"),
        ([[-1, 1, 0, 0]], "such as -1"),
        ([[3, 3, 3, 3], [3, 1, 0, 0]], "1 of 2 sentences without an end"),
        ([[3, 1, 3, 0]], "with ids after the end"),
        ([[3, 1, 1, 0]], "with ids after the end"),
        ([[3, 0, 1, 0]], "with padding before the end"),
    ],
)
def test_rows_that_are_no_sentences_are_refused(name, rows, says):
    x = torch.tensor(rows, dtype=torch.float64)
    assert says in made(name).invalid(x, torch.ones_like(x, dtype=torch.bool))


def test_a_text_is_observed_as_a_whole():
    x = sentences(4, 3)[:3]
    likelihood, gaps = made("sequence"), torch.ones(3, 4, dtype=torch.bool)
    gaps[1, 0] = False
    assert "whole sentences" in likelihood.invalid(x, gaps)
    assert likelihood.invalid(x, torch.ones(3, 1, dtype=torch.bool).expand(3, 4)) == ""
    out = torch.randn(3, *likelihood.output)
    assert float(likelihood.log_prob(out, torch.where(gaps, x, 1e30), gaps)[1].detach()) == 0
    with pytest.raises(InputError, match=r"entries=True.*observed as a whole"):
        pv.MVAE([Modality("t", 4, "sequence", params={"words": WORDS}, entries=True)], latent=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "got no 'words' for likelihood 'sequence'"),
        ({"words": WORDS, "units": 0}, "units=0"),
        ({"words": ["b", "b"]}, "more than once"),
        ({"words": WORDS, "length": 3}, "unknown parameter 'length'"),
    ],
)
def test_wrong_parameters_are_answered_in_one_line(options, says):
    with pytest.raises(InputError, match=says):
        pv.MVAE([Modality("t", 4, "sequence", params=options)], latent=2)


def test_networks_of_numbers_do_not_read_ids():
    with pytest.raises(InputError, match="ids are no quantities"):
        pv.MVAE([Modality("t", 4, "tokens", "mlp", params={"words": WORDS})], latent=2)
    own = Modality("t", 4, "tests.helpers.own_likelihood:sentence", params={"words": WORDS})
    with pytest.raises(InputError, match=r"got network 'mlp' for likelihood 'tests.* ids are no quantities"):
        pv.MVAE([own], latent=2)
    assert pv.MVAE([replace(own, network="text")], latent=2).modalities["t"].likelihood.ids
    with pytest.raises(InputError, match="network 'text'"):
        pv.MVAE([Modality("t", 4, "normal", "text")], latent=2)
    with pytest.raises(InputError, match="meme: got modality 't'"):
        pv.build("meme", [Modality("t", 4, "tokens", params={"words": WORDS}), Modality("a", 3)])


def net(**options) -> ModalityNet:
    spec = Modality("t", 6, "sequence", params={"words": WORDS, **options})
    return ModalityNet(spec, seen=3, private=2, posterior="normal", scale="softplus")


def test_the_encoder_reads_words_and_their_order():
    x = torch.tensor([[3.0, 4, 5, 1, 0, 0], [5, 4, 3, 1, 0, 0]])
    ordered, bag = net(), net(order=False)
    assert not torch.allclose(*ordered.encode(x).z.loc)
    assert torch.allclose(*bag.encode(x).z.loc)
    assert net().spec.network == "auto"
    assert ordered.encode(torch.zeros(2, 6)).z.loc.isfinite().all()


def test_ids_are_exact_in_every_precision():
    """Under autocast ids above 256 keep their meaning; a model in bf16, where they would not, is refused."""
    words = [f"w{i}" for i in range(600)]
    spec = Modality("t", 3, "sequence", params={"words": words, "units": 8})
    model = pv.MVAE([spec, Modality("a", (2,))], latent=2).float().eval()
    batch = pv.Batch.of({"t": torch.tensor([[301, 1, 0], [302, 1, 0]]), "a": torch.zeros(2, 2)})
    with torch.autocast("cpu", torch.bfloat16):
        first, second = model.embed(batch.observe("t"))
    assert not torch.equal(first, second)
    with pytest.raises(InputError, match="got whole numbers up to 602 for a model"):
        model.bfloat16().embed(batch)


def test_ids_of_a_role_that_is_never_decoded_train_nothing():
    spec = Modality("t", 4, "sequence", role="input", params={"words": WORDS})
    source = ModalityNet(spec, seen=3, private=0, posterior="normal", scale="softplus")
    assert not any(p.requires_grad for p in source.likelihood.parameters())


def tiny(rows: int = 24) -> pv.MultimodalData:
    said = ["a red dot.", "a blue dot.", "one green square"]
    ids, caption = pv.text([said[row % 3] for row in range(rows)], name="caption")
    image = (
        torch.nn.functional.one_hot(torch.arange(rows) % 3, 3).float()[:, :, None, None].expand(rows, 3, 8, 8)
    )
    return pv.MultimodalData(
        {"image": np.ascontiguousarray(image), "caption": ids},
        modalities=[Modality("image", (3, 8, 8)), caption],
    )


@pytest.mark.parametrize("name", ["mmvae+", "mvae", "mopoe", "jmvae"])
def test_models_train_on_images_and_captions(name, tmp_path):
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    data = tiny()
    image, caption = data.modalities()
    caption = replace(caption, params={**caption.params, "units": 16, "embedding": 8, "width": 0.1})
    model = pv.build(name, [replace(image, params={"width": 0.2}), caption], latent=4)
    before = model(model.admit(data.take(slice(0, 24)))).value.mean()
    pv.fit(model, data, epochs=20, batch_size=24, lr=1e-2, show=False)
    model.eval()
    assert model(model.admit(data.take(slice(0, 24)))).value.mean() > before + 1
    pv.save_model(model, tmp_path / "model.safetensors")
    again = pv.load_model(tmp_path / "model.safetensors")
    made = []
    for one in (model, again):
        torch.manual_seed(1)
        made.append(one.generate(data.take([0, 1]).observe("image"), K=2, sample=True)["caption"])
    assert torch.equal(*made)
    decoded = again.modalities["caption"].likelihood.vocabulary.decode(made[1])
    assert [len(row) for row in decoded] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [("mmvae+", {}), ("mopoe", {}), ("mmvae+", {"K": 3, "objective": "dreg"}), ("idmvae", {})],
)
def test_the_laws_of_all_models_hold_with_sentences(name, options):
    small = {"words": WORDS, "width": 0.03, "embedding": 4}
    specs = [
        Modality("n", (3,), params={"hidden": (6,)}),
        Modality("said", (4,), "sequence", params={**small, "units": 5}),
        Modality("other", (3,), "tokens", weight=0.7, params=small),
    ]
    check_model(name, modalities=specs, latent=2, **options)

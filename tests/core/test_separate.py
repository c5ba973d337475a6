"""Priors over the latents of each modality: what they are fitted to, what is drawn from them, and what each modality is decoded from."""

from __future__ import annotations

import pytest
import torch

from polyvae import InputError, Modality, MultimodalData, build, evaluate, fit_prior, load_dataset
from polyvae.core.fitted import FittedFlow, FittedMixture, FittedScore
from polyvae.core.separate import blocks_of_each, complete_each, decode_each, describe_each, infer_each
from polyvae.core.vocabulary import FIRST
from polyvae.metrics.context import posterior_samples
from polyvae.runs import fitted_prior
from polyvae.training.directory import RunDirectory
from polyvae.utils.files import save_tensors

NAMES = ("a", "b")


def some(name: str, private: int = 0):
    own = {"private": private} if private else {}
    specs = [Modality("a", (3,), **own), Modality("b", (2,), **own)]
    torch.manual_seed(0)
    model = build(name, specs, latent=2).eval()
    return model, MultimodalData({"a": torch.randn(40, 3), "b": torch.randn(40, 2)})


def a_mixture(blocks) -> FittedMixture:
    D = sum(blocks)
    torch.manual_seed(1)
    tril = (0.5 * torch.randn(2, D, D)).tril(-1) + torch.eye(D)
    return FittedMixture(torch.tensor([0.3, 0.7]), torch.randn(2, D), tril, blocks=blocks).of_each()


@pytest.mark.parametrize(("name", "private"), [("mmvae+", 3), ("vae", 0), ("jmvae", 0), ("mopoe", 0)])
def test_each_modality_is_inferred_from_itself_and_decoded_from_its_own_latents(name, private):
    model, data = some(name, private)
    batch, columns = data.take(slice(0, 5)), model.columns
    sizes = blocks_of_each(model)
    assert sizes == tuple(model.shared + span.stop - span.start for span in columns)
    torch.manual_seed(2)
    latents = infer_each(model, batch, 3)
    torch.manual_seed(2)
    expected = {}
    for m, part in enumerate(latents.split(sizes, -1)):
        draws = model.draw(batch.observe(NAMES[m]), 3)
        assert torch.equal(part, torch.cat([draws.z, draws.w[..., columns[m]]], -1))
        expected[NAMES[m]] = model.decode(draws.z, draws.w)[NAMES[m]]
    made = decode_each(model, latents)
    assert set(made) == set(NAMES)
    assert all(torch.allclose(made[key], expected[key]) for key in NAMES)
    for m, part in enumerate(describe_each(model, batch)):
        both = model.embed(batch.observe(NAMES[m]), private=True)
        own = both[:, model.shared :][:, columns[m]]
        assert torch.equal(part, torch.cat([both[:, : model.shared], own], -1))


def test_sentences_are_described_by_their_words():
    data = load_dataset("shapes_captions", train=20, test=10, unseen=0, judges=0)
    model = build("mopoe", data.modalities(), latent=2).eval()
    batch = data.train.take(slice(0, 20))
    image, words = describe_each(model, batch)
    vocabulary = model.modalities["caption"].likelihood.vocabulary
    assert (image.shape, words.shape) == ((20, 2), (20, vocabulary.size))
    for row, caption in zip(words, vocabulary.decode(batch.data["caption"].numpy()), strict=True):
        for id_ in range(2, vocabulary.size):
            assert int(row[id_]) == caption.split().count(
                vocabulary.words[id_ - FIRST] if id_ >= FIRST else ""
            )
    assert not words[:, 0].any()
    prior = fit_prior(model, data.train, kind="mld", latents="each", steps=1, hidden=2, layers=1)
    assert prior.known == (2, vocabulary.size)
    made = model.generate(batch.observe("caption"), 2, prior=prior, targets=["image"])["image"]
    assert made.shape == (2, 20, 3, 16, 16)


def test_what_was_observed_keeps_its_posterior_draws_and_the_rest_follows_the_prior_given_these():
    model, data = some("mmvae+", 3)
    prior, batch = a_mixture(blocks_of_each(model)), data.take(slice(0, 4))
    torch.manual_seed(3)
    found = complete_each(model, batch.observe("a"), 2, prior)
    torch.manual_seed(3)
    latents = infer_each(model, batch.observe("a"), 2).flatten(0, 1)
    drawn = prior.complete(latents, torch.tensor([[True, False]]).expand(8, -1))
    assert torch.equal(found.flatten(0, 1), drawn)
    torch.manual_seed(3)
    made = model.generate(batch.observe("a"), 2, prior=prior)
    assert all(torch.equal(x, made[key]) for key, x in decode_each(model, found).items())
    torch.manual_seed(3)
    assert set(model.generate(batch.observe("a"), 2, prior=prior, targets=["b"])) == {"b"}
    torch.manual_seed(3)
    assert torch.equal(complete_each(model, batch, 2, prior), _seeded(3, infer_each, model, batch, 2))
    torch.manual_seed(4)
    fresh = model.sample(6, prior)
    assert torch.equal(fresh["b"], decode_each(model, _seeded(4, prior.draw, 6))["b"])


def _seeded(seed, call, *given):
    torch.manual_seed(seed)
    return call(*given)


def test_it_is_fitted_to_samples_in_which_every_modality_is_observed():
    model, data = some("jmvae")
    part = MultimodalData(
        {name: data.values(name) for name in NAMES},
        mask={"a": torch.arange(40) >= 10, "b": torch.ones(40) > 0},
    )
    assert posterior_samples(model, part, latents="each", K=2).shape == (60, 4)
    result = evaluate(
        model,
        part,
        train=part,
        metrics=["attributes"],
        fitted_prior={"latents": "each", "components": 1},
        show=False,
    )
    assert (result.prior.blocks, result.prior.latents, result.prior.known) == ((2, 2), "each", None)
    assert result["fitted_prior"].endswith("full, over the latents of each modality")
    assert any("30 of 40 training samples in which the latents of each" in note for note in result["notes"])
    score = fit_prior(model, data, kind="mld", latents="each", steps=2, hidden=4, layers=1, design="guided")
    assert (score.latents, score.known, score.design) == ("each", (2, 2), "guided")
    with pytest.raises(InputError, match="samples in which every modality is observed"):
        fit_prior(model, part.rows(slice(0, 10)), latents="each")
    only = build("mmvae+", [Modality("a", (3,)), Modality("b", (2,), role="target")], latent=2).eval()
    with pytest.raises(InputError, match="a modality that is not encoded"):
        fit_prior(only, data, latents="each")


@pytest.mark.parametrize("kind", ["gmm", "mld", "flow"])
def test_what_was_stored_is_the_same_prior(kind, tmp_path):
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    prior = {
        "gmm": lambda: FittedMixture.fit(x, 2, blocks=(2, 2)),
        "mld": lambda: FittedScore.fit(
            x, 2, 0, (2, 2), 4, 1, design="guided", guidance=1.5, known=[x, x[:, :1]]
        ),
        "flow": lambda: FittedFlow.fit(x, 1, epochs=1, blocks=(2, 2)),
    }[kind]().of_each()
    run = RunDirectory(tmp_path)
    save_tensors(run.fitted_prior, prior.state_dict(), prior.settings)
    again = fitted_prior(run)
    assert (again.latents, again.known, again.summary) == ("each", prior.known, prior.summary)
    assert (again.settings, again.blocks) == (prior.settings, (2, 2))
    save_tensors(run.fitted_prior, prior.state_dict(), prior.settings | {"each": 3})
    with pytest.raises(InputError, match="got each=3; expected true or false"):
        fitted_prior(run)


def test_a_prior_that_does_not_fit_is_refused_in_one_line():
    model, data = some("mmvae+", 3)
    batch = data.take(slice(0, 3)).observe("a")
    prior = a_mixture(blocks_of_each(model))
    for call, says in (
        (
            lambda: model.draw_latents(batch, 1, prior),
            "draw_latents: got a fitted prior over the latents of each",
        ),
        (lambda: model.draw_prior(3, prior), "call sample, or fit one with latents='all'"),
        (
            lambda: model.sample(3, a_mixture((4, 4))),
            "expected [5, 5], those of the latents of each modality",
        ),
        (
            lambda: model.generate(
                batch, prior=FittedFlow(torch.zeros(10), torch.ones(10), 1, blocks=(5, 5)).of_each()
            ),
            "has no conditional draws",
        ),
        (lambda: model.generate(batch, prior=prior, targets=["c"]), "got target 'c', which is not decoded"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)

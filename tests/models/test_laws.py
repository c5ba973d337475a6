"""Every model obeys the laws, with every option; and the laws catch models that do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import polyvae.core.aggregate as aggregate
from polyvae import MODELS, Batch, InputError, Modality, MoPoE, build
from polyvae.models import model_class
from polyvae.testing import (
    LAWS,
    check_model,
    default_worlds,
    example_model,
    labels_world,
    law_nested,
    plain_world,
    roles_world,
)
from tests.helpers.cases import CASES, OPTIONS

NAMES = [f"{name}-{'-'.join(map(str, options.values()))}" for name, options in CASES]
FIRST = [options is OPTIONS.get(name, [options])[0] for name, options in CASES]


@pytest.mark.parametrize(
    ("name", "options", "first"), zip(*zip(*CASES, strict=True), FIRST, strict=True), ids=NAMES
)
def test_laws(name, options, first):
    """In all worlds with a model's first options; else in the last one, of which the others are simpler cases."""

    def make(specs):
        return build(name, specs, latent=2, **options)

    for world in default_worlds(make)[0 if first else -1 :]:
        check_model(make, modalities=world)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [case for case, first in zip(CASES, FIRST, strict=True) if not first],
    ids=[name for name, first in zip(NAMES, FIRST, strict=True) if not first],
)
def test_laws_with_further_options_in_the_simpler_worlds(name, options):
    """Slow: the same code as with other options of the model and in the last world."""

    def make(specs):
        return build(name, specs, latent=2, **options)

    for world in default_worlds(make)[:-1]:
        check_model(make, modalities=world)


@pytest.mark.parametrize("name", ["mopoe", "mmjsd"])
@pytest.mark.parametrize("stratified", [False, True])
def test_laws_with_private_codes_where_the_modalities_say(name, stratified):
    specs = tuple(replace(spec, private=size) for spec, size in zip(roles_world(), (3, 0, 1, 2), strict=True))
    check_model(name, modalities=specs, latent=2, stratified=stratified)


@pytest.mark.parametrize(
    "options",
    [
        {"subsets": "singles", "cross": "auxiliary", "objective": "dreg", "K": 2},
        {"subsets": "pairs", "cross": "prior"},
        {"subsets": "powerset", "objective": "dreg", "K": 2},
        {"subsets": "random", "cross": "auxiliary", "agreement": "mean", "prior_expert": True},
    ],
)
def test_laws_of_the_free_combination_with_private_codes(options):
    specs = tuple(replace(spec, private=size) for spec, size in zip(plain_world(), (3, 0, 1, 2), strict=True))
    check_model("composed", modalities=specs, latent=2, **options)


@pytest.mark.parametrize("stratified", [False, True])
def test_laws_with_drawn_subsets(stratified, monkeypatch):
    """The road for more views than the limit, with the limit lowered so that the model without one modality takes it, too."""
    monkeypatch.setattr(aggregate, "POWERSET_LIMIT", 5)
    check_model("mopoe", modalities=plain_world(), latent=2, stratified=stratified)


@pytest.mark.slow
def test_laws_with_more_than_255_subsets():
    """Nine modalities; without one of them the subsets are no longer drawn, so nesting holds in distribution only."""
    specs = [Modality(f"m{m}", (2,), params={"hidden": (3,)}) for m in range(9)]
    for law in LAWS:
        if law is not law_nested:
            law(lambda modalities: MoPoE(modalities, latent=2, stratified=True), specs)


@pytest.mark.parametrize("name", MODELS)
def test_laws_with_one_modality(name):
    if model_class(name).requires.least > 1:
        with pytest.raises(InputError, match=f"^{name}: got [^\n]*modalities[^\n]*; expected [^\n]*$"):
            build(name, plain_world()[1:2], latent=2)
        return
    without_r = {"cross": "prior"} if name in ("mmvae+", "cmvae", "holder", "idmvae") else {}
    wide = replace(
        plain_world()[1], params={"hidden": (12,)}
    )  # of six units all may be dead in the two rows that are observed
    check_model(
        name,
        modalities=labels_world()[:2] if model_class(name).requires.labels else (wide,),
        latent=2,
        **without_r,
    )


@pytest.mark.parametrize("name", MODELS)
def test_what_the_table_says_of_missing_data_is_so(name):
    """What was observed moves what is generated of another modality, unless the model says that it infers nothing."""
    options = OPTIONS.get(name, [{}])[0]
    world = default_worlds(lambda specs: build(name, specs, latent=2, **options))[0]
    model = example_model(lambda specs: build(name, specs, latent=2, **options), world).eval()
    source = next(spec for spec in world if spec.role != "target")
    target = next(spec for spec in reversed(world) if spec.role != "input")
    made = []
    for size in (0.0, 1.0):
        given = Batch.of({source.name: torch.full((1, *source.shape), size)})
        torch.manual_seed(0)
        made.append(model.generate(given, K=20)[target.name])
    infers = not torch.allclose(*made)
    assert model.requires.missing.startswith("trains and infers" if infers else "trains; infers nothing")

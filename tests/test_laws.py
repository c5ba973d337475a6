"""Every model obeys the laws, with every option; and the laws catch models that do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import polyvae.core.aggregate as aggregate
from polyvae import MMVAE, MODELS, Batch, InputError, Modality, MoPoE, build
from polyvae.core import noise
from polyvae.core.aggregate import Experts, joint, product_of_experts, singles
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Mixture
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

OPTIONS = {
    "vae": [
        {},
        {"objective": "iwae", "K": 3, "beta": 2.5},
        {"objective": "dreg", "K": 2, "family": "laplace"},
    ],
    "mvae": [{}, {"subsets": 0, "beta": 2.5}, {"subsets": 2, "K": 2, "scale_map": "exp"}],
    "mmvae": [
        {},
        {"objective": "iwae", "K": 3, "tight": True},
        {"objective": "dreg", "K": 3, "tight": True, "learn_prior": True},
        {"objective": "dreg", "K": 2, "beta": 2.5, "scale_map": "softmax"},
    ],
    "mopoe": [{}, {"stratified": True, "K": 2, "beta": 2.5}, {"prior_expert": "full", "K": 2}],
    "mmvae+": [
        {},
        {"cross": "prior", "objective": "iwae", "K": 3},
        {"cross": "posterior", "beta": 2.5},
        {"cross": "posterior-published"},
        {"corrected": True, "objective": "dreg", "K": 3},
        {"source_experts": "random", "K": 2},
        {"prior_components": 3},
        {
            "family": "laplace",
            "scale_map": "softmax",
            "objective": "dreg",
            "K": 3,
            "beta": 2.5,
            "source_experts": "random",
        },
        {"private_prior": "auxiliary", "objective": "iwae", "K": 3},
    ],
    "mmjsd": [{}, {"stratified": True, "K": 2, "beta": 2.5}],
    "mvtcae": [{}, {"alpha": 0.0, "K": 2}],
    "crmvae": [{}, {"variant": "multivae", "K": 2}],
    "mmvm": [{}, {"divergence": "pairwise", "K": 2, "prior_share": 0.2}, {"anneal": True, "beta": 2.5}],
    "jmvae": [{}, {"alpha": 0.5, "K": 2, "beta": 2.5}],
    "telbo": [{}, {"gamma": 3.0, "K": 2, "beta": 2.5}],
    "dmvae": [
        {},
        {"total_correlation": 3.0, "n": 50, "K": 2, "beta": 2.5},
        {"variant": "published", "total_correlation": 0.0},
    ],
    "nexus": [{"message": 8, "hidden": (6,)}, {"drop": 0.7, "K": 2, "gamma": 2.0, "beta": 2.5, "hidden": ()}],
    "deepimv": [{}, {"alpha": 0.3, "beta": 2.5, "K": 2}],
    "relational": [{}, {"K": 2, "beta": 2.5, "hidden": ()}],
    "hmvae": [{}, {"K": 2, "beta": 2.5, "hidden": ()}],
    "code-vae": [{}, {"entropy": 0.0, "correlation": -0.2, "K": 2, "beta": 2.5}],
    "scmm": [{}, {"learn_prior": True, "K": 2, "beta": 2.5, "family": "normal", "scale_map": "softplus"}],
    "hellinger": [{}, {"K": 2, "beta": 2.5, "scale_map": "exp"}],
    "holder": [
        {},
        {"hierarchical": False, "K": 2, "objective": "iwae"},
        {"cross": "prior", "K": 2, "beta": 2.5, "hidden": 5},
    ],
    "idmvae": [{}, {"cross": "prior", "K": 2, "temperature": 0.5, "objective": "iwae"}],
    "u-hved": [{}, {"variant": "published", "levels": [1, 1], "K": 2, "beta": 2.5}],
    "composed": [
        {},
        {"subsets": "pairs", "agreement": "mean", "K": 2, "beta": 2.5},
        {"subsets": "everything", "prior_expert": True},
        {"subsets": "random", "objective": "iwae", "K": 2},
        {"subsets": "singles", "prior_components": 3, "objective": "dreg"},
    ],
    "mmvae-contrastive": [
        {},
        {"base": "mvae", "K": 2, "negatives": 2, "unrelated": "cubo"},
        {"base": "jmvae", "K": 1, "gamma": 0.5},
        {"base": "mmvae+", "K": 2, "beta": 2.5, "base_options": {"objective": "iwae", "family": "laplace"}},
    ],
    "meme": [
        {"pseudo": 5},
        {"pseudo": 3, "K": 2, "alpha": 1.0, "beta": 2.5},
        {"pseudo": 3, "K": 2, "variant": "published"},
    ],
    "vcca-private": [{}, {"K": 2, "beta": 2.5, "scale_map": "exp"}],
    "bivcca": [{}, {"mu": 0.8, "K": 2, "beta": 2.5}],
    "mfm": [{}, {"kernel": "published", "K": 2, "beta": 2.5, "surrogate": 0.5}],
    "cmvae": [
        {"clusters": 3},
        {"clusters": 5, "objective": "dreg", "K": 2, "family": "normal", "scale_map": "softplus"},
    ],
}
CASES = [(name, options) for name in MODELS for options in OPTIONS.get(name, [{}])]


@pytest.mark.parametrize(
    ("name", "options"),
    CASES,
    ids=[f"{name}-{'-'.join(map(str, options.values()))}" for name, options in CASES],
)
def test_laws(name, options):
    check_model(name, latent=2, **options)


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
    if model_class(name).facts.least > 1:
        with pytest.raises(InputError, match=f"^{name}: got [^\n]*modalities[^\n]*; expected [^\n]*$"):
            build(name, plain_world()[1:2], latent=2)
        return
    without_r = {"cross": "prior"} if name in ("mmvae+", "cmvae", "holder", "idmvae") else {}
    wide = replace(
        plain_world()[1], params={"hidden": (12,)}
    )  # of six units all may be dead in the two rows that are observed
    check_model(
        name,
        modalities=labels_world()[:2] if model_class(name).facts.labels else (wide,),
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
    target = next(spec for spec in reversed(world) if spec.role != "source")
    made = []
    for size in (0.0, 1.0):
        given = Batch.of({source.name: torch.full((1, *source.shape), size)})
        torch.manual_seed(0)
        made.append(model.generate(given, K=20)[target.name])
    infers = not torch.allclose(*made)
    assert model.facts.missing.startswith("trains and infers" if infers else "trains; infers nothing")


# ---- models that are wrong -------------------------------------------------------------------------------------------------------


class MultipliesByTheMask(MMVAE):
    def log_likelihood(self, batch, z, w, wanted=None, **options):
        each = [
            net.log_prob(batch.data[name], self.code(m, z, w))
            for m, (name, net) in enumerate(self.modalities.items())
        ]
        return torch.stack(each) * batch.mask[:, None, None]


class OneExpertPerBatch(MMVAE):
    def posterior(self, batch, experts):
        chosen = noise.choice(experts.mask.double().mean(1, keepdim=True), 1, "expert", "KB")[0]
        everybody = singles(experts.mask)
        return joint(experts.z[chosen], everybody[chosen])


class NormalisesOverTheBatch(MMVAE):
    def bound(self, batch, experts, warm):
        value, terms = super().bound(batch, experts, warm)
        return Bound(torch.where(batch.mask.any(0), value - value.mean(), 0), terms)


class DrawsElsewhere(MMVAE):
    def bound(self, batch, experts, warm):
        shaken = experts.z.loc + 0.1 * torch.randn_like(experts.z.loc)
        return super().bound(batch, experts._replace(z=type(experts.z)(shaken, experts.z.scale)), warm)


class DecodesEveryView(MMVAE):
    def log_likelihood(self, batch, z, w, wanted=None, **options):
        if z.ndim < 4:
            return super().log_likelihood(batch, z, w, wanted, **options)
        views = [slice(v, v + 1) for v in range(z.shape[-3])]
        return torch.cat(
            [
                super(DecodesEveryView, self).log_likelihood(
                    batch, z[:, v], w[:, v], None if wanted is None else wanted[v]
                )
                for v in views
            ],
            2,
        )


class CountsFromTheLeft(MMVAE):
    """Weights that go by position; its facts own up to half of it."""

    facts = MMVAE.facts._replace(nested=False)

    def posterior(self, batch, experts):
        q = super().posterior(batch, experts)
        weights = q.weights * torch.arange(1, len(q.weights) + 1)[:, None]
        return q._replace(weights=weights / weights.sum(0).clamp(min=1e-9))


class DividesByAll(MMVAE):
    """1/M where 1/|A| belongs."""

    def posterior(self, batch, experts):
        q = super().posterior(batch, experts)
        return q._replace(weights=q.active.double() / len(q.weights))


class SubsetsCountedTwice(MMVAE):
    """A view counts where any of its members is there, so {a, b} without b is {a} again."""

    def posterior(self, batch, experts):
        pairs = torch.eye(len(experts.mask), dtype=torch.bool) | torch.eye(
            len(experts.mask), dtype=torch.bool
        ).roll(1, 0)
        membership = torch.cat([singles(experts.mask), pairs[:, :, None] & experts.mask])
        precise = product_of_experts(experts.z, membership)
        return joint(type(experts.z)(precise.loc, precise.scale), membership)


class SomethingForNothing(MMVAE):
    def bound(self, batch, experts, warm):
        value, terms = super().bound(batch, experts, warm)
        return Bound(value + 1, terms)


class SomethingForNothingLearnt(MMVAE):
    """The prior's KL is charged also where nothing was observed; its value is 0 there, its gradient is not."""

    def bound(self, batch, experts, warm):
        value, terms = super().bound(batch, experts, warm)
        return Bound(value + (self.prior.raw_scale - self.prior.raw_scale.detach()).sum(), terms)


class ForgetsBeta(MMVAE):
    def bound(self, batch, experts, warm):
        return super().bound(batch, experts, 1.0)


class EncodesWhatIsNotThere(MMVAE):
    """The unobserved are encoded as zeros and take part."""

    def experts(self, batch):
        given = super().experts(batch._replace(mask=torch.ones_like(batch.mask)))
        return Experts(given.z, given.w, batch.mask.any(0).expand_as(batch.mask))


class TrainsNoExpert(MMVAE):
    """An expert that is in the mixture but is not trained."""

    def posterior(self, batch, experts):
        q = super().posterior(batch, experts)
        return Mixture(q.components.detach(), q.weights, q.membership)


class SumsOverTheBatch(MMVAE):
    def bound(self, batch, experts, warm):
        value, terms = super().bound(batch, experts, warm)
        return Bound(value.sum()[None], terms)


WRONG = [
    ("missing", MultipliesByTheMask, {}),
    ("per_sample", OneExpertPerBatch, {}),
    ("per_sample", NormalisesOverTheBatch, {}),
    ("noise", DrawsElsewhere, {}),
    ("decodes", DecodesEveryView, {}),
    ("symmetric", CountsFromTheLeft, {}),
    ("posterior", DividesByAll, {}),
    ("nested", SubsetsCountedTwice, {"family": "normal"}),
    ("empty", SomethingForNothing, {}),
    ("empty", SomethingForNothingLearnt, {"learn_prior": True}),
    ("terms", ForgetsBeta, {"beta": 2.0}),
    ("missing", EncodesWhatIsNotThere, {}),
    ("gradients", TrainsNoExpert, {}),
    ("shape", SumsOverTheBatch, {}),
]


@pytest.mark.parametrize(("law", "wrong", "options"), WRONG, ids=[wrong.__name__ for _, wrong, _ in WRONG])
def test_a_wrong_model_is_caught(law, wrong, options):
    with pytest.raises(AssertionError, match=rf"^law '{law}': [^\n]+$"):
        check_model(wrong, modalities=plain_world(), latent=2, **options)

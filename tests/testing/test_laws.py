"""The laws catch models that are wrong."""

from __future__ import annotations

import pytest
import torch

from polyvae import MMVAE, InputError
from polyvae.core import noise
from polyvae.core.aggregate import Experts, joint, product_of_experts, singles
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Mixture
from polyvae.testing import (
    check_model,
    plain_world,
)


class MultipliesByTheMask(MMVAE):
    def decode_components(self, batch, weights, z, w=None):
        w = z[..., :0] if w is None else w
        each = [
            net.log_prob(batch.data[name], self.modalities.latents(m, z, w))
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


class DecodesEveryComponent(MMVAE):
    def decode_components(self, batch, weights, z, w=None):
        each = [slice(v, v + 1) for v in range(len(weights))]
        return torch.cat(
            [super(DecodesEveryComponent, self).decode_components(batch, weights[v], z[:, v]) for v in each],
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


class ChargesNothing(MMVAE):
    """The likelihood of what was drawn, without any KL divergence."""

    def bound(self, batch, experts, warm):
        value, terms = super().bound(batch, experts, 0.0)
        return Bound(value, {name: term for name, term in terms.items() if not name.startswith("kl/")})


class ForgetsAKeyword(MMVAE):
    def __init__(self, modalities, *, latent=2, strength=1.0):
        super().__init__(modalities, latent=latent)


class TakesAnyKeyword(MMVAE):
    def __init__(self, modalities, *, latent=2, **options):
        super().__init__(modalities, latent=latent, **options)


WRONG = [
    ("missing", MultipliesByTheMask, {}),
    ("per_sample", OneExpertPerBatch, {}),
    ("per_sample", NormalisesOverTheBatch, {}),
    ("noise", DrawsElsewhere, {}),
    ("decodes", DecodesEveryComponent, {}),
    ("symmetric", CountsFromTheLeft, {}),
    ("posterior", DividesByAll, {}),
    ("nested", SubsetsCountedTwice, {"family": "normal"}),
    ("empty", SomethingForNothing, {}),
    ("empty", SomethingForNothingLearnt, {"learn_prior": True}),
    ("terms", ForgetsBeta, {"beta": 2.0}),
    ("missing", EncodesWhatIsNotThere, {}),
    ("gradients", TrainsNoExpert, {}),
    ("shape", SumsOverTheBatch, {}),
    ("bound", ChargesNothing, {"objective": "elbo", "K": 1}),
]


@pytest.mark.parametrize(("law", "wrong", "options"), WRONG, ids=[wrong.__name__ for _, wrong, _ in WRONG])
def test_a_wrong_model_is_caught(law, wrong, options):
    with pytest.raises(AssertionError, match=rf"^law '{law}': [^\n]+$"):
        check_model(wrong, modalities=plain_world(), latent=2, **options)


@pytest.mark.parametrize(("wrong", "word"), [(ForgetsAKeyword, "strength"), (TakesAnyKeyword, "options")])
def test_a_keyword_that_is_no_attribute_is_one_line(wrong, word):
    for use in (lambda: wrong(plain_world()).options, lambda: check_model(wrong)):
        with pytest.raises(InputError, match=rf"^{wrong.__name__}: got [^\n]*{word}[^\n]*; expected [^\n]+$"):
            use()

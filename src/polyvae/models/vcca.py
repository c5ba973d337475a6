"""VCCA: two views of one thing, whose shared code is told by one of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from polyvae.core.aggregate import Experts, everything, joint, singles
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Mixture
from polyvae.core.facts import Facts, Requirements
from polyvae.core.modality import Modality, unless_target
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.models.parts.elbos import mean_of_elbos
from polyvae.utils.errors import InputError, check_count


class VCCAPrivate(MultimodalVAE):
    """Two views x and y, in this order: the shared z is inferred from x alone, and each view has a private code.

        L = E_{q(z|x) q(h_x|x) q(h_y|y)} [s_x log p(x | z, h_x) + s_y log p(y | z, h_y)]
            − β [KL(q(z | x) || p(z)) + KL(q(h_x | x) || p(h_x)) + KL(q(h_y | y) || p(h_y))]

    Wang, Yan, Lee & Livescu, Deep Variational Canonical Correlation Analysis, 2016 (arXiv 1610.03454).
    h_x and h_y are the private codes w. The encoder of y says nothing of z. y as a target (role="target", without h_y where it does not
    ask for one) and ``private=0`` for x give VCCA, the paper's first model.

    Missing views, which the paper does not train with: where y is missing, what is left is the ELBO of x. Where x is missing, nothing tells
    z, so z ~ p(z): y then bounds its own likelihood, by E_{p(z) q(h_y|y)} log p(y | z, h_y) − β KL(q(h_y | y) || p(h_y)). That is sound,
    but teaches p(y | z, h_y) to do without z: data whose x is missing are better left out of training; and x generated from y alone is a
    sample of its prior. (A target alone teaches nothing: its bound is 0.)

    Differs from the paper: no dropout of its own (networks may have it), and β.
    Exempt: not nested, for it takes two modalities, and not symmetric, for the first tells z.
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=False, symmetric=False)
    requires = Requirements(
        text="exactly two modalities",
        least=2,
        most=2,
        missing="trains and infers from the first modality; z is from the prior where that is missing",
    )
    name = "vcca-private"
    citation = "Wang et al. 2016"
    private_latents = "yes"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        scale_map: str = "softplus",
    ) -> None:
        _check_order(modalities)
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family="normal",
            scale_map=scale_map,
            seen=latent,
            private=unless_target(modalities, latent),
            inferring=[0],
        )
        check_count(self.name, "K", K)
        self.K = K

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return joint(
            experts.z[:1], everything(experts.mask)
        )  # where x was not observed, its expert is the unit normal, p(z)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        return mean_of_elbos(self, batch, experts, self.posterior(batch, experts), warm * self.beta)


class BiVCCA(MultimodalVAE):
    """Two views x and y, each of which tells the shared z in a bound of its own; the two bounds are weighed.

        L = μ ELBO_{q(z|x)}(x, y) + (1 − μ) ELBO_{q(z|y)}(x, y)
        ELBO_q(x, y) = E_q [s_x log p(x | z, h_x) + s_y log p(y | z, h_y)] − β [KL(q || p(z)) + KL(q(h_x|x) || p) + KL(q(h_y|y) || p)]

    Wang, Yan, Lee & Livescu, Deep Variational Canonical Correlation Analysis, 2016 (arXiv 1610.03454). Without private codes, or with
    them where Modality says so, drawn from their own posteriors in both bounds. At inference q(z | x, y) is the mixture
    μ q(z | x) + (1 − μ) q(z | y), for which L is also a bound, by convexity.

    Missing views, which the paper does not train with: the bound of the view that was observed has weight 1 and counts what was observed.
    A target tells no z, so beside one L is VCCA's.

    Differs from the paper: no dropout of its own (networks may have it), and β.
    Exempt: not nested, for it takes two modalities, and not symmetric, for μ is the first one's.
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=False, symmetric=False)
    requires = Requirements(text="exactly two modalities", least=2, most=2)
    name = "bivcca"
    citation = "Wang et al. 2016"
    private_latents = "optional"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        mu: float = 0.5,
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(
            modalities, latent=latent, beta=beta, family="normal", scale_map=scale_map, seen=latent, private=0
        )
        check_count(self.name, "K", K)
        if not isinstance(mu, int | float) or not 0 < mu < 1:
            raise InputError(
                f"bivcca: got mu={mu!r}; expected a number between 0 and 1, the weight of the first modality's bound; for the "
                "ends, choose vcca-private"
            )
        self.K, self.mu = K, mu

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        membership = singles(experts.mask)
        share = torch.tensor([self.mu, 1 - self.mu], dtype=experts.z.loc.dtype, device=experts.z.loc.device)[
            self.modalities.encoded_rows
        ]
        weights = torch.where(membership.any(1), share[:, None], 0)  # [V, B]
        total = weights.sum(0)
        return Mixture(experts.z, weights / torch.where(total > 0, total, 1), membership)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        return mean_of_elbos(self, batch, experts, self.posterior(batch, experts), warm * self.beta)


def _check_order(modalities: Sequence[Modality]) -> None:
    """Raises InputError where the first modality cannot tell z, or the second is encoded for nothing. Their number, the base checks."""
    for spec in modalities[:1]:
        if spec.role == "target":
            raise InputError(
                f"vcca-private: got the target {spec.name!r} as the first modality; expected the one that z is inferred from; "
                "put the target second"
            )
    for spec in modalities[1:2]:
        if spec.role == "input" or (spec.role == "both" and spec.private == 0):
            raise InputError(
                f"vcca-private: got {spec.name!r} with role={spec.role!r} and private={spec.private} as the second modality, "
                "which is encoded for its private code alone; expected a private code that is decoded, or role='target'"
            )

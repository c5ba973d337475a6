"""VCCA: two modalities with a shared latent, inferred from one of them or from each."""

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
from polyvae.utils.devices import to_device
from polyvae.utils.errors import InputError, check_count, is_number


class VCCAPrivate(MultimodalVAE):
    """Two modalities x and y, in this order: z is inferred from x alone, and each has a private latent.

        L = E_{q(z|x) q(h_x|x) q(h_y|y)} [s_x log p(x | z, h_x) + s_y log p(y | z, h_y)]
            − β [KL(q(z | x) || p(z)) + KL(q(h_x | x) || p(h_x)) + KL(q(h_y | y) || p(h_y))]

    Wang, Yan, Lee & Livescu, Deep Variational Canonical Correlation Analysis, 2016 (arXiv 1610.03454).

    h_x and h_y are the private latents w. The encoder of y has no expert of z. With y as a target
    (role="target", without h_y unless it sets ``private``) and ``private=0`` for x, the model is VCCA,
    the paper's first model.

    The paper does not train with missing modalities. Where y is missing, the objective is the ELBO of x.
    Where x is missing, z is not inferred, so z ~ p(z), and the objective is a bound on the likelihood of
    y, E_{p(z) q(h_y|y)} log p(y | z, h_y) − β KL(q(h_y | y) || p(h_y)). This bound is valid, but it
    trains p(y | z, h_y) to ignore z, so samples without x are better left out of training. x generated
    from y alone is a draw from its prior. (A target alone trains nothing: its bound is 0.)

    Differs from the paper: there is no dropout of its own (networks may have it), and there is a β.

    Exempt from the laws of ``polyvae.testing``:
    not nested, because the model takes two modalities. Not symmetric, because z is inferred from
    the first.

    Args:
        modalities: The specifications of exactly two modalities, x first.
        latent: Columns of z, and of h_x and h_y unless their modalities set ``private``.
        beta: The factor β.
        K: Draws of the latents per sample.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: Another number of modalities, a first one without an expert, a second one that is
            encoded for nothing, or a number out of range.
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
            scale_map=scale_map,
            private=unless_target(modalities, latent),
            inferring=[0],
        )
        check_count(self.name, "K", K)
        self.K = K

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        # Where x is missing, its expert is the standard normal, which is p(z).
        return joint(experts.z[:1], everything(experts.observed))

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        return mean_of_elbos(self, batch, experts, self.posterior(batch, experts), warm * self.beta)


class BiVCCA(MultimodalVAE):
    """Two modalities x and y, each of which infers the shared z in its own bound; L weights the two bounds.

        L = μ ELBO_{q(z|x)}(x, y) + (1 − μ) ELBO_{q(z|y)}(x, y)
        ELBO_q(x, y) = E_q [s_x log p(x | z, h_x) + s_y log p(y | z, h_y)] − β [KL(q || p(z)) + KL(q(h_x|x) || p) + KL(q(h_y|y) || p)]

    Wang, Yan, Lee & Livescu, Deep Variational Canonical Correlation Analysis, 2016 (arXiv 1610.03454).

    Private latents h_x and h_y exist where the modality sets ``private``. Both bounds draw them from
    their own posteriors. At inference q(z | x, y) is the mixture μ q(z | x) + (1 − μ) q(z | y), for
    which L is also a bound, by convexity.

    The paper does not train with missing modalities. Here the bound of the only observed modality has
    weight 1 and contains the terms of that modality. A target has no expert of z, so with a target L is
    that of VCCA.

    Differs from the paper: there is no dropout of its own (networks may have it), and there is a β.

    Exempt from the laws of ``polyvae.testing``:
    not nested, because the model takes two modalities. Not symmetric, because μ belongs to the
    first.

    Args:
        modalities: The specifications of exactly two modalities, x first.
        latent: Columns of z.
        beta: The factor β.
        K: Draws of the latents per expert.
        mu: The weight μ of the first modality's bound, between 0 and 1.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: Another number of modalities, or a number out of range.
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
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=0)
        check_count(self.name, "K", K)
        if not is_number(mu) or not 0 < mu < 1:
            raise InputError(
                f"bivcca: got mu={mu!r}; expected a number between 0 and 1, the weight of the first "
                "modality's bound; for 0 or 1, choose vcca-private"
            )
        self.K, self.mu = K, mu

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        table = singles(experts.observed)
        membership = to_device(table, experts.mask.device)
        each = [(self.mu, 1 - self.mu)[m] for m in self.encoded]
        share = to_device(torch.tensor(each, dtype=experts.z.loc.dtype), membership.device)
        weights = torch.where(membership.any(1), share[:, None], 0)  # [V, B]
        total = weights.sum(0)
        return Mixture(experts.z, weights / torch.where(total > 0, total, 1), membership, table)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        return mean_of_elbos(self, batch, experts, self.posterior(batch, experts), warm * self.beta)


def _check_order(modalities: Sequence[Modality]) -> None:
    """Check what each of the two modalities is used for. Their number is checked by the base class.

    Raises:
        InputError: The first modality has no expert of z, or the second is encoded for nothing.
    """
    for spec in modalities[:1]:
        if spec.role == "target":
            raise InputError(
                f"vcca-private: got the target {spec.name!r} as the first modality; expected the one that "
                "z is inferred from; put the target second"
            )
    for spec in modalities[1:2]:
        if spec.role == "input" or (spec.role == "both" and spec.private == 0):
            raise InputError(
                f"vcca-private: got {spec.name!r} with role={spec.role!r} and private={spec.private} as the "
                "second modality, which is encoded for its private latent only; expected a private latent "
                "that is decoded, or role='target'; give the modality one"
            )

"""MVAE: products of experts, trained on sub-sampled sets of modalities."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from polyvae.core.aggregate import Experts, everything, mixture_of_products, random_sizes, singles
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Mixture
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.models.parts.elbos import sum_of_elbos
from polyvae.utils.errors import check_count


class MVAE(MultimodalVAE):
    """A product of experts and the prior, trained on sub-sampled sets of modalities.

    q(z | x_A) ∝ p(z) Π_{m∈A} q_m(z | x_m),  ELBO(A) = E_q Σ_{m∈A} s_m log p(x_m | z) − β KL(q(z | x_A) || p(z)):

        L = ELBO(all observed) + Σ_m ELBO({m}) + Σ_{j≤subsets} ELBO(A_j),   A_j with |A_j| uniform, then uniform among the observed

    Wu & Goodman, Multimodal Generative Models for Scalable Weakly-Supervised Learning, NeurIPS 2018,
    section 2.

    A set of inputs alone, without an observed target, has no term (``sum_of_elbos``): nothing is decoded from
    it. The expert of an input is then trained in products with others only. To predict a modality from an
    input alone, give that modality the role "target", which is decoded from every set.

    With missing modalities, all sets are subsets of what was observed. Each ELBO(A) is a bound on
    log p(x_A), but their sum is not a bound on any single likelihood.

    Differs from the authors' code (mhw32/multimodal-vae-public): likelihood weights are part of every
    term (their CelebA code omits them in some). Every product has one prior expert (one version of their
    MNIST code counts it once per modality). Subsets are drawn per sample.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z.
        beta: The factor β.
        K: Draws of z per set.
        subsets: How many random sets A_j each step adds per sample.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.

    Example:
        >>> import polyvae as pv
        >>> modalities = [pv.Modality("image", (1, 28, 28)), pv.Modality("label", 10, "categorical")]
        >>> pv.MVAE(modalities, latent=8).private_latents
        'none'
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=True, symmetric=True)
    name = "mvae"
    citation = "Wu & Goodman 2018"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 64,
        beta: float = 1.0,
        K: int = 1,
        subsets: int = 1,
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=None)
        check_count(self.name, "K", K)
        check_count(self.name, "subsets", subsets, 0)
        self.K, self.subsets = K, subsets

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_products(experts, everything(experts.observed), self.p_z)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        membership = torch.cat(
            [
                everything(experts.observed),
                singles(experts.observed),
                random_sizes(experts.observed, self.subsets),
            ]
        )
        q = mixture_of_products(experts, membership, self.p_z)  # [V, B, D], V = 1 + E + subsets
        return sum_of_elbos(self, batch, q, warm * self.beta)

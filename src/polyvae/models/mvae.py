"""MVAE: products of experts, sub-sampled."""

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
    """A product of experts with the prior among them, trained on sub-sampled sets of modalities.

    q(z | x_A) ∝ p(z) Π_{m∈A} q_m(z | x_m),  ELBO(A) = E_q Σ_{m∈A} s_m log p(x_m | z) − β KL(q(z | x_A) || p(z)):

        L = ELBO(all observed) + Σ_m ELBO({m}) + Σ_{j≤subsets} ELBO(A_j),   A_j with |A_j| uniform, then uniform among the observed

    Wu & Goodman, Multimodal Generative Models for Scalable Weakly-Supervised Learning, NeurIPS 2018, section 2.

    Differs from the authors' code (mhw32/multimodal-vae-public): likelihood weights count in every term (their CelebA code forgets them
    in some); one prior expert in every product (one version of their MNIST code counts it once per modality); subsets are drawn per datum.
    Missing modalities: all sets are subsets of what was observed. A sum of ELBOs of different sets: no bound of one likelihood, though
    each term is one of log p(x_A).
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
        """``subsets``: how many random sets a step adds per datum."""
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family="normal",
            scale_map=scale_map,
            seen=latent,
            private=None,
        )
        check_count(self.name, "K", K)
        check_count(self.name, "subsets", subsets, 0)
        self.K, self.subsets = K, subsets

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_products(experts, everything(experts.mask), self.p_z)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        membership = torch.cat(
            [everything(experts.mask), singles(experts.mask), random_sizes(experts.mask, self.subsets)]
        )
        q = mixture_of_products(experts, membership, self.p_z)  # [V, B, D], V = 1 + M + subsets
        return sum_of_elbos(self, batch, q, warm * self.beta)

"""CRMVAE: a product of experts that is coordinated with unimodal experts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyvae.core.aggregate import Experts, everything, mixture_of_products, singles
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Mixture
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.models.parts.elbos import decodes
from polyvae.utils.errors import InputError, check_count, nearest

VARIANTS = ("paper", "multivae")


class CRMVAE(MultimodalVAE):
    """A product of experts without a prior expert, to which every unimodal expert is aligned.

    Every expert is also trained as the posterior of a VAE of its own modality.

    q(z | X) ∝ Π_m q_m(z | x_m), ELBO(q, A) = E_q Σ_{m∈A} s_m log p(x_m | z) − β KL(q || p(z)):

        L = 1/(M+1) [ELBO(q(z | X), all) + Σ_m (ELBO(q_m, {m}) − β KL(q(z | X) || q_m(z | x_m)))]

    Suzuki & Matsuo, Mitigating the Limitations of Multimodal VAEs with Coordination-based Approach,
    submitted to ICLR 2023. The authors have published no code.

    ``variant="multivae"`` is the port in AgatheSenellart/MultiVae, without the KL(q_m || p(z)) and with
    half of all likelihoods:

        L = 1/(M+1) [½ E_{q(z|X)} Σ_m s_m log p(x_m | z) + ½ Σ_m E_{q_m} s_m log p(x_m | z)
                     − β (KL(q(z | X) || p(z)) + Σ_m KL(q(z | X) || q_m(z | x_m)))]

    L is a mean of bounds of different sets less the coordination term, so it is not a bound of one
    likelihood.

    An ELBO in which nothing is decoded (of an input, without an observed target) has no term: the ELBO of no
    data is 0, and −β KL alone would pull the expert into the prior. The coordination term remains.

    Differs from the port: the number of observed modalities replaces M, also in 1/(M+1). A target, which
    has no expert, is decoded from the product and from every expert.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z.
        beta: The factor β.
        K: Draws of z per component.
        variant: "paper" or "multivae".
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=True, symmetric=True)
    name = "crmvae"
    citation = "Suzuki & Matsuo 2023"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 0.1,
        K: int = 1,
        variant: str = "paper",
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=None)
        check_count(self.name, "K", K)
        if variant not in VARIANTS:
            raise InputError(f"crmvae: unknown variant {variant!r}; {nearest(variant, VARIANTS)}")
        self.K, self.variant = K, variant

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_products(experts, everything(experts.observed))

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        membership = torch.cat([everything(experts.observed), singles(experts.observed)])
        q = mixture_of_products(experts, membership)  # [V, B, D], V = 1 + E
        z = q.stratified(self.K)  # [K, V, B, D]
        log_x = self.decode_members(batch, q, z)  # [M, K, V, B]
        active = decodes(self, batch, q)
        kl = torch.where(active, q.components.kl(self.p_z), 0)  # [V, B]
        to_experts = torch.where(experts.mask, q.components[0].kl(experts.z), 0).sum(0)  # [B]
        likelihood = torch.where(active, self.weighted(log_x).mean(0), 0).sum(0)
        if self.variant == "paper":
            total = likelihood - warm * self.beta * (kl.sum(0) + to_experts)
        else:
            total = likelihood / 2 - warm * self.beta * (kl[0] + to_experts)
        terms = self.terms(active[:1].to(kl.dtype), log_x[:, :, :1], {"kl/z": kl[None, :1]})
        return Bound(total / (1 + experts.mask.sum(0)), terms | self._expert_terms(to_experts, log_x, kl))

    def _expert_terms(self, to_experts: Tensor, log_x: Tensor, kl: Tensor) -> dict[str, Tensor]:
        """The coordination term, and the ELBOs of the single experts, summed over experts."""
        alone = self.weighted(log_x[:, :, 1:]).mean(0).sum(0)
        return {
            "experts": to_experts.detach(),
            "experts/log_likelihood": alone.detach(),
            "experts/kl": kl[1:].sum(0).detach(),
        }

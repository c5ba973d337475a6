"""mmJSD: a mixture of experts with a Jensen-Shannon divergence and a dynamic prior."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyvae.core.aggregate import Experts, everything, geometric_mean, mixture_of_experts
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Mixture, Normal
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import check_count


class MMJSD(MultimodalVAE):
    """A mixture of experts, regularised towards the geometric mean of experts and prior: a dynamic prior f.

    q(z | X) = (1/M) Σ_m q_m(z | x_m),  f(z | X) ∝ [p(z) Π_m q_m(z | x_m)]^{1/(M+1)}:

        L = E_{q(z|X) Π q(w_n|x_n)} Σ_n s_n log p(x_n | z, w_n)
            − β [1/(M+1) (KL(p || f) + Σ_m KL(q_m || f)) + Σ_n KL(q(w_n | x_n) || p(w_n))]

    Sutter, Daunhawer & Vogt, Multimodal Generative Learning Utilizing Jensen-Shannon-Divergence, NeurIPS
    2020, section 3 (with private latents: mmJSD-s). All weights of the divergence are equal.

    The objective is not a bound, because f depends on the data. Likelihoods are those under p(z).

    Differs from the authors' code (thomassutter/mmjsd): the expert is drawn per sample and draw (theirs
    depends on the position in the batch, so that a small batch trains only one expert). One β multiplies
    the divergences of shared and private latents (theirs weights the latter by 2 to 3). |A|, the number
    of observed modalities, replaces M, and the weights sum to 1 (theirs do not where a modality is
    missing).

    Args:
        modalities: The specifications of the modalities. Those that set ``private`` have a private
            latent.
        latent: Columns of z.
        beta: Multiplies the divergences.
        K: Draws of the mixture per sample, or of each expert.
        stratified: Decode K draws of every expert, not of the mixture.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=True, symmetric=True)
    name = "mmjsd"
    citation = "Sutter et al. 2020"
    private_latents = "optional"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        stratified: bool = False,
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=0)
        check_count(self.name, "K", K)
        self.K, self.stratified = K, stratified

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_experts(experts)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)
        z, weights = self.draw_components(q, self.stratified)  # [K, V, B, D], [V, B]
        p_w = self.prior.w(z)
        q_w = self.private(batch, experts, z, p_w)  # [K, V, B, W]
        log_x = self.decode_components(batch, weights, z, q_w.rsample(name="w"))  # [M, K, V, B]
        kl_w = q_w.kl(p_w)  # [K, V, B]
        kl_z = self._divergence(experts).expand_as(kl_w)
        return self.bound_of(weights, log_x, {"kl/z": kl_z, "kl/w": kl_w}, warm * self.beta)

    def dynamic_prior(self, experts: Experts) -> Normal:
        """f(z | what was observed): [B, D]. It is the prior where nothing was observed."""
        return geometric_mean(experts.z, everything(experts.mask), self.p_z)[0]

    def _divergence(self, experts: Experts) -> Tensor:
        """The mean over the prior and the experts of what was observed of their KL divergences to f: [B]."""
        f = self.dynamic_prior(experts)
        each = torch.where(experts.mask, experts.z.kl(f), 0)  # [E, B]
        return (self.p_z.kl(f) + each.sum(0)) / (1 + experts.mask.sum(0))

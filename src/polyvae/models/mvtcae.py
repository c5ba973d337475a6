"""MVTCAE: a product of experts, regularised towards each of its experts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyvae.core.aggregate import Experts, everything, mixture_of_products
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, over_components
from polyvae.core.distributions import Mixture
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import InputError, check_count, is_number


class MVTCAE(MultimodalVAE):
    """A product of experts that is also regularised towards each expert, by the total correlation.

    q(z | X) ∝ Π_m q_m(z | x_m), without a prior expert. α in [0, 1] lies between the joint information
    bottleneck and the M conditional ones:

        L = (M − α)/M E_{q(z|X)} Σ_m s_m log p(x_m | z) − β [(1 − α) KL(q(z | X) || p(z)) + (α/M) Σ_m KL(q(z | X) || q_m(z | x_m))]

    Hwang, Kim, Hong & Kim, Multi-View Representation Learning via Total Correlation Objective, NeurIPS
    2021, section 4. The defaults of α and β are those of the public code for PolyMNIST.

    With α = 0 and β ≥ 1, L is a bound. With any other α it is not, and ``facts.bound`` is False.

    Differs from the authors' code (gr8joo/MVTCAE): values are in nats per sample. |A|, the number of
    observed modalities, replaces M, so with one modality L is (1 − α) times its own ELBO. A target has
    no expert: all M bottlenecks predict it, so its likelihood counts in full, not by (M − α)/M.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z.
        beta: The factor β.
        K: Draws of z per sample.
        alpha: The weight α of the conditional bottlenecks, from 0 to 1.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=True, symmetric=True)
    name = "mvtcae"
    citation = "Hwang et al. 2021"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 2.5,
        K: int = 1,
        alpha: float = 5 / 6,
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=None)
        check_count(self.name, "K", K)
        if not is_number(alpha) or not 0 <= alpha <= 1:
            raise InputError(
                f"mvtcae: got alpha={alpha!r}; expected a number from 0 (a bound) to 1 (conditional "
                "bottlenecks only); such as 0.9"
            )
        self.K, self.alpha = K, alpha
        self.facts = self.facts._replace(bound=alpha == 0)

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_products(experts, everything(experts.observed))

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)
        z = q.stratified(self.K)  # [K, 1, B, D]
        log_x = self.decode_components(batch, q.weights, z)  # [M, K, 1, B]
        count = experts.mask.sum(0).clamp(min=1).to(z.dtype)  # [B], |A|
        kl = q.components.kl(self.p_z)  # [1, B]
        to_experts = torch.where(experts.mask, q.components.kl(experts.z), 0).sum(0) / count  # [B]
        divergence = (1 - self.alpha) * kl + self.alpha * to_experts
        likelihood = self.weighted(self._share(count) * log_x)
        value = over_components(q.weights, (likelihood - warm * self.beta * divergence).mean(0))
        terms = {"kl/z": kl[None], "experts": to_experts[None, None]}
        return Bound(value, self.terms(q.weights, log_x, terms))

    def _share(self, count: Tensor) -> Tensor:
        """The factors of the likelihoods, (|A| − α)/|A|, and 1 for targets: [B] -> [M, 1, 1, B]."""
        part = 1 - self.alpha / count
        share = [part if m in self.encoded else torch.ones_like(part) for m in range(len(self.modalities))]
        return torch.stack(share)[:, None, None]

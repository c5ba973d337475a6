"""MVTCAE: a product of experts from which every expert can be told."""

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
from polyvae.utils.errors import InputError, check_count


class MVTCAE(MultimodalVAE):
    """A product of experts without a prior expert, which is also drawn to each of its experts: total correlation, kept.

    q(z | X) ∝ Π_m q_m(z | x_m),  α in [0, 1] between the joint and the M conditional information bottlenecks:

        L = (M − α)/M E_{q(z|X)} Σ_m s_m log p(x_m | z) − β [(1 − α) KL(q(z | X) || p(z)) + (α/M) Σ_m KL(q(z | X) || q_m(z | x_m))]

    Hwang, Kim, Hong & Kim, Multi-View Representation Learning via Total Correlation Objective, NeurIPS 2021, section 4 (α and β after the
    public code's PolyMNIST). α = 0 is a bound for β ≥ 1; any other is not, hence ``facts.bound`` is False.

    Differs from the authors' code (gr8joo/MVTCAE): nats per datum; what was observed takes M's place, so with one modality L is (1 − α)
    times its own ELBO. A target has no expert: all M bottlenecks predict it, so its likelihood counts in full, not (M − α)/M of it.
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
        if not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise InputError(
                f"mvtcae: got alpha={alpha!r}; expected a number from 0 (a bound) to 1 (conditional bottlenecks only)"
            )
        self.K, self.alpha = K, alpha
        self.facts = self.facts._replace(bound=alpha == 0)

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_products(experts, everything(experts.mask))

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
        """[M, 1, 1, B]: (|A| − α)/|A| of an expert's own modality, all of a target."""
        part = 1 - self.alpha / count
        share = [part if m in self.encoded else torch.ones_like(part) for m in range(len(self.modalities))]
        return torch.stack(share)[:, None, None]

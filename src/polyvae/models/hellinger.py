"""HELVAE: the Hellinger pool of experts, as one normal distribution."""

from __future__ import annotations

from collections.abc import Sequence

from polyvae.core.aggregate import Experts, hoelder_pool, moment_matched
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, over_components
from polyvae.core.distributions import Mixture, Normal
from polyvae.core.modality import Modality
from polyvae.core.vae import Facts, MultimodalVAE, own_or_prior
from polyvae.utils.errors import check_count


class Hellinger(MultimodalVAE):
    """The experts' Hölder pool of order 1/2, between a mixture and a product, matched in mean and variance by one normal distribution.

    h(z) ∝ (Σ_m √q_m(z | x_m))² = Σ_m q_m + 2 Σ_{m<n} √(q_m q_n),  q(z | X) = N(E_h z, diag Var_h z):

        L = E_{q(z|X)} Σ_n s_n log p(x_n | z) − β KL(q(z | X) || p(z))

    Vo & Valera, Hellinger Multimodal Variational Autoencoders, AISTATS 2026 (arXiv 2601.06572). No modality is sub-sampled: one view. The
    experts weigh the same. Missing modalities: the pool of what was observed; one alone is itself.

    Differs from the authors' code: none is public, so this is after the description; variances only, where they may match covariances.
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=True, symmetric=True)
    name = "hellinger"
    citation = "Vo & Valera 2026"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        scale_map: str = "softplus",
        max_rows: int | None = None,
    ) -> None:
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family="normal",
            scale_map=scale_map,
            seen=latent,
            private=None,
            max_rows=max_rows,
        )
        check_count(self.name, "K", K)
        self.K = K

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return moment_matched(hoelder_pool(experts))

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q, p = self.posterior(batch, experts), self.prior.z()
        assert isinstance(p, Normal)
        z = q.stratified(self.K)  # [K, 1, B, D]
        log_x = self.log_likelihood(batch, z, z[..., :0], wanted=self.active(batch, q))  # [M, K, 1, B]
        kl = q.components.kl(p).expand(self.K, -1, -1)  # [K, 1, B]
        value = over_components(q.weights, (self.weighted(log_x) - warm * self.beta * kl).mean(0))
        return Bound(value, self.terms(q.weights, log_x, **{"kl/z": kl}))

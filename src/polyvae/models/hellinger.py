"""HELVAE: the Hellinger pool of experts, approximated by one normal distribution."""

from __future__ import annotations

from collections.abc import Sequence

from polyvae.core.aggregate import Experts, hoelder_pool, moment_matched
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Diagonal, Mixture
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import check_count


class Hellinger(MultimodalVAE):
    """The Hölder pool of order 1/2 of the experts, approximated by moment matching.

    The pool lies between a mixture and a product. One normal distribution matches its mean and
    variances.

        h(z) ∝ (Σ_m √q_m(z | x_m))² = Σ_m q_m + 2 Σ_{m<n} √(q_m q_n),  q(z | X) = N(E_h z, diag Var_h z)

        L = E_{q(z|X)} Σ_n s_n log p(x_n | z) − β KL(q(z | X) || p(z))

    Vo & Valera, Hellinger Multimodal Variational Autoencoders, AISTATS 2026 (arXiv 2601.06572).
    Modalities are not sub-sampled: there is one component. The experts have equal weights. With missing
    modalities, the pool contains what was observed; a single expert is unchanged.

    Differs from the authors' code: none is public, so this follows the description. Only variances are
    matched, where the authors may match covariances.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z.
        beta: The factor β.
        K: Draws of z.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.
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
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=None)
        check_count(self.name, "K", K)
        self.K = K

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return moment_matched(hoelder_pool(experts))

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q, p = self.posterior(batch, experts), self.prior.z()
        assert isinstance(p, Diagonal)
        z = q.stratified(self.K)  # [K, V, B, D]
        log_x = self.decode_components(batch, q.weights, z)  # [M, K, V, B]
        kl = q.components.kl(p).expand(self.K, -1, -1)  # [K, V, B]
        return self.bound_of(q.weights, log_x, {"kl/z": kl}, warm * self.beta)

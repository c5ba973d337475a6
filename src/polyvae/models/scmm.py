"""scMM: a mixture of experts for single-cell counts."""

from __future__ import annotations

from collections.abc import Sequence

from polyvae.core.aggregate import Experts, mixture_of_experts
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Diagonal, Mixture
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import check_count


class ScMM(MultimodalVAE):
    """A mixture of Laplace experts for count data, where each expert has its own ELBO.

    q(z | X) = (1/M) Σ_m q_m(z | x_m),  z^m ~ q_m:

        L = (1/M) Σ_m [Σ_n s_n log p(x_n | z^m) − β KL(q_m(z | x_m) || p(z))]

    Minoura, Abe, Nam, Nishikawa & Shimamura, A mixture-of-experts deep generative model for integrated
    analysis of single-cell multiomics data, Cell Reports Methods 2021.

    Each KL is exact. By convexity L is at most MMVAE's ELBO, hence a bound. The paper warms β up over 50
    epochs. It gives RNA and protein counts the likelihood "negative_binomial", and chromatin peaks
    "zero_inflated_negative_binomial".

    Differs from the authors' code (kodaim1115/scMM): values are in nats per sample, not summed over the
    batch. Missing modalities are left out of the mixture, and |A|, the number of observed modalities,
    replaces M. The likelihood's mean is the library size times softmax proportions, and its dispersion
    is learnt for every entry (their decoder returns the negative binomial's size and probability for
    every entry and cell, and the library size multiplies the size). Encoders take log(1 + counts per
    10,000) and have no BatchNorm (theirs take counts per 10,000 and have it). ``learn_prior`` learns the
    prior's scales independently (theirs sum to D). Likelihood weights are 1 (theirs can balance numbers
    of entries, as ``Modality.weight`` can).

    Exempt from the laws of ``polyvae.testing``:
    with one column of z the softmax map makes every scale 1, so the raw scale gets no gradient.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z.
        beta: The factor β.
        K: Draws per expert.
        family: The family of experts and prior, "normal" or "laplace".
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".
        learn_prior: Learn the scales of p(z), which start at 1.

    Raises:
        InputError: An unknown option or a number out of range.
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=True, symmetric=True)
    name = "scmm"
    citation = "Minoura et al. 2021"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 10,
        beta: float = 1.0,
        K: int = 1,
        family: str = "laplace",
        scale_map: str = "softmax",
        learn_prior: bool = False,
    ) -> None:
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family=family,
            scale_map=scale_map,
            private=None,
            learn_prior=learn_prior,
        )
        check_count(self.name, "K", K)
        self.K, self.learn_prior = K, learn_prior

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_experts(experts)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q, p = self.posterior(batch, experts), self.prior.z()
        assert isinstance(p, Diagonal)
        z = q.stratified(self.K)  # [K, V, B, D]
        log_x = self.decode_components(batch, q.weights, z)  # [M, K, V, B]
        kl = q.components.kl(p).expand(self.K, -1, -1)  # [K, V, B]
        return self.bound_of(q.weights, log_x, {"kl/z": kl}, warm * self.beta)

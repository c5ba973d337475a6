"""CoDE-VAE: a consensus of dependent experts for every subset, with learnt weights of the subsets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polyvae.core.aggregate import Experts, consensus, powerset
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, over_components
from polyvae.core.distributions import Mixture
from polyvae.core.facts import Facts, Requirements
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import InputError, check_count, is_number

LIMIT = 10  # encoded modalities: 1023 subsets, all decoded in every step


class CoDEVAE(MultimodalVAE):
    """A mixture over the subsets of experts; the errors of the experts in a subset are correlated.

        q_A(z) = N(1'Σ⁻¹μ / 1'Σ⁻¹1, 1 / 1'Σ⁻¹1) per column, Σ = diag(σ_A) R diag(σ_A), R = (1 − ρ) I + ρ 11',  q(z | X) = Σ_A π_A q_A

        L = Σ_A π_A [E_{q_A Π q(w_n|x_n)} Σ_n s_n log p(x_n | z, w_n) − β KL(q_A || p)] − β Σ_n KL(q(w_n | x_n) || p(w_n)) + c H(π)

    The weights π are learnt. Every subset is decoded in every step, so that π gets its gradient. For
    this reason at most ten modalities can be encoded. With c = 0, L is a bound for β ≥ 1. A positive c,
    the default, adds to it, hence ``facts.bound`` is False.

    Mancisidor, Jenssen, Yu & Kampffmeyer, Aggregation of Dependent Expert Distributions in Multimodal
    Variational Autoencoders, ICML 2025, sections 3 and 4.

    With missing modalities, π is renormalised over the subsets of what was observed.

    Differs from the authors' code (rogelioamancisidor/codevae): missing modalities are supported. The KL
    of every private latent counts in full (theirs is weighted by π of its single subset and by a
    separate β). The entropy is counted per sample. Logits start at 0 (theirs at 100; both are uniform).

    Exempt from the laws of ``polyvae.testing``:
    with one encoded modality there is one subset, and no π is learnt.

    Args:
        modalities: The specifications of the modalities. A modality has a private latent if it sets
            ``private``.
        latent: Columns of z.
        beta: The factor β.
        K: Draws of z per subset.
        correlation: ρ, the correlation of the errors of any two experts.
        entropy: c, the weight of the entropy of π.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: More than ten encoded modalities, or a number out of range.
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=True, symmetric=True)
    requires = Requirements(text="at most 10 encoded modalities")
    name = "code-vae"
    citation = "Mancisidor et al. 2025"
    private_latents = "optional"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        correlation: float = 0.5,
        entropy: float = 1000.0,
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=0)
        count = len(self.encoded)
        if count > LIMIT:
            raise InputError(
                f"code-vae: got {count} modalities that are encoded; expected at most {LIMIT}, because all "
                f"{2**LIMIT - 1} subsets are decoded in every step; choose 'mopoe', which draws subsets"
            )
        check_count(self.name, "K", K)
        if not is_number(correlation) or not -1 / max(1, count - 1) < correlation < 1:
            raise InputError(
                f"code-vae: got correlation={correlation!r}; expected a number above "
                f"{-1 / max(1, count - 1):.3g} and below 1, at which {count} experts can all correlate; such as 0"
            )
        if not is_number(entropy) or not entropy >= 0:
            raise InputError(
                f"code-vae: got entropy={entropy!r}; expected a number, 0 (a bound) or more; such as 1000.0"
            )
        self.K, self.correlation, self.entropy = K, correlation, entropy
        self.facts = self.facts._replace(bound=entropy == 0)
        self.logits = nn.Parameter(torch.zeros(2**count - 1)) if count > 1 else None

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        membership = powerset(experts.mask)
        pi = torch.where(membership.any(1), self._log_pi(membership, experts.z.loc).exp(), 0)  # [V, B]
        return Mixture(consensus(experts.z, membership, self.correlation), pi, membership)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)
        z = q.stratified(self.K)  # [K, V, B, D]
        p_w = self.prior.w(z)
        q_w = self.private(batch, experts, z, p_w)
        log_x = self.decode_components(batch, q.weights, z, q_w.rsample(name="w"))  # [M, K, V, B]
        kl_z, kl_w = q.components.kl(self.p_z).expand(self.K, -1, -1), q_w.kl(p_w)  # [K, V, B]
        elbo, terms = self.bound_of(q.weights, log_x, {"kl/z": kl_z, "kl/w": kl_w}, warm * self.beta)
        if not self.entropy:
            return Bound(elbo, terms)
        entropy = over_components(q.weights, -self._log_pi(q.membership, z))  # [B], H(π)
        return Bound(elbo + self.entropy * entropy, {**terms, "entropy": entropy.detach()})

    def _log_pi(self, membership: Tensor, like: Tensor) -> Tensor:
        """log π, renormalised over the subsets of what was observed: [V, B].

        It is 0 for all other subsets, which have weight 0.
        """
        active = membership.any(1)  # [V, B]
        logits = like.new_zeros((1, 1)) if self.logits is None else self.logits[:, None]
        total = torch.where(active, logits, torch.where(active.any(0), -torch.inf, 0)).logsumexp(0)  # [B]
        return torch.where(active, logits - total, 0)

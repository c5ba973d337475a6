"""HMVAE: variation within a modality that depends on what the modalities share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from polyvae.core.aggregate import Experts, everything, mixture_of_products
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Diagonal, Mixture, Normal
from polyvae.core.facts import Facts, Requirements
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE
from polyvae.models.parts.elbos import mean_of_elbos
from polyvae.models.parts.levels import sizes, top_down
from polyvae.utils.errors import check_count


class HMVAE(MultimodalVAE):
    """Experimental, after the description only: private codes w_m that depend on the shared z, inferred as in a ladder.

    The description: variation within a modality is a latent of its own that depends on a shared one at the top. As that:

        p(X, z, w) = p(z) Π_m p(w_m | z) p(x_m | z, w_m),  p(z) = N(0, I),  p(w_m | z) = N(g_m(z), I)

    Any other scale of w_m is the last layer of g_m and the first of a decoder. The posterior factorises as the model does, top down. Given
    z the exact p(w_m | z, x_m) ∝ p(w_m | z) p(x_m | z, w_m) is the prior times a factor of x_m, and p(z | X) ∝ p(z) Π_m p(x_m | z), too. So
    what was observed, O, says factors ("experts"), normal and multiplied by precision, to both levels:

        q(z | X) ∝ p(z) Π_{m∈O} q_m(z | x_m),   q(w_m | z, x_m) ∝ p(w_m | z) q_m(w_m | x_m),   q(w_m | z) = p(w_m | z) for m ∉ O

    The bound is Jensen's inequality. In log p(x_O) ≥ E_q log [p(x_O, z, w)/q(z, w | X)] the w_m of m ∉ O cancel, and what is left of the
    logarithm, for β = 1 and weights s_m = 1, is

        L = E_q Σ_{m∈O} s_m log p(x_m | z, w_m) − β [KL(q(z | X) || p(z)) + E_{q(z|X)} Σ_{m∈O} KL(q(w_m | z, x_m) || p(w_m | z))]

    both KLs exact. β > 1 takes more away. Where decoders do not look at z, all is linear and the exact
    posteriors are diagonal, the right experts make L log p(x_O).

    Wolff, Krishnan, Ruff, Morshuis, Klein, Nakajima & Nabi, Hierarchical Multimodal Variational Autoencoders, 2022.

    Written without its text or code, so families, sizes, what decoders see and how experts agree are ours. Nothing but what is missing in
    the data trains the product of fewer experts: on complete data z given one modality is of little worth. A target has no expert; its code
    is drawn from p(w | z).
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=True, symmetric=True)
    requires = Requirements(text="private codes (experimental: after the description only)")
    name = "hmvae"
    citation = "Wolff et al. 2022"
    private_latents = "yes"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        hidden: Sequence[int] = (256,),
        scale_map: str = "softplus",
    ) -> None:
        """``latent``: columns of z, and of w_m where a Modality does not say. ``hidden``: sizes inside g_m, from the last to the first."""
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family="normal",
            scale_map=scale_map,
            seen=latent,
            private=latent,
        )
        check_count(self.name, "K", K)
        self.K, self.hidden = K, sizes(self.name, hidden)
        self.prior = top_down(self, latent, self.hidden, "its variation is a level of the model")

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_products(experts, everything(experts.mask), self.p_z)

    def private(self, batch: Batch, experts: Experts, z: Tensor, p_w: Diagonal) -> Diagonal:
        """p(w | z) multiplied by the experts of w."""
        strong, weak = experts.w.scale.pow(-2), p_w.scale.pow(-2)
        total = strong + weak
        both = Normal((strong * experts.w.loc + weak * p_w.loc) / total, total.rsqrt())
        return both.where(self.own(experts), p_w)

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        return mean_of_elbos(self, batch, experts, self.posterior(batch, experts), warm * self.beta)

"""Multimodal relational VAE: a code per modality, and a relation that every subset of them tells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from polyvae.core.aggregate import Experts, mixture_of_products, subsets
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, over_components
from polyvae.core.distributions import Mixture, Normal
from polyvae.core.facts import Facts, Requirements
from polyvae.core.modality import Modality
from polyvae.core.networks.mlp import layers
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.models.parts.levels import sizes, top_down
from polyvae.utils.errors import check_count


class Relational(MultimodalVAE):
    """Experimental, after the description only: a code w_m for each modality, and the relation z of codes, told by all their subsets.

    The description: two levels, with the relation of the modalities' latents inferred by a mixture over subsets. As that: a decoder sees
    its own code alone, and z, which no decoder sees, is how codes go together:

        p(X, z, w) = p(z) Π_m p(w_m | z) p(x_m | w_m),  p(z) = N(0, I),  p(w_m | z) = N(g_m(z), I)

    Any other scale of w_m is the last layer of g_m and the first of a decoder. The posterior, given what was observed, O: each code from
    its modality, the relation from what codes are on average, by experts h_m, whose products over the non-empty A ⊆ O are mixed:

        q(w_m | x_m) = N(μ_m, σ_m²),   q_A(z) ∝ Π_{m∈A} N(z; h_m(μ_m)),   q(z | X) = mean over A of q_A,   q(w_m | z) = p(w_m | z) for m ∉ O

    The bound is Jensen's inequality. In log p(x_O) ≥ E_q log [p(x_O, z, w)/q(z, w | X)] the w_m of m ∉ O cancel; what is left is
    E_q Σ_O log p(x_m | w_m) − KL(q(z | X) || p(z)) − E_q Σ_O KL(q(w_m | x_m) || p(w_m | z)). The mixture's KL is at most the mean of its
    components' (convexity), so, for β ≥ 1 and weights s_m = 1, this is a bound, too:

        L = E_q Σ_{m∈O} s_m log p(x_m | w_m) − β [mean_A KL(q_A || p(z)) + E_{q(z|X)} Σ_{m∈O} KL(q(w_m | x_m) || p(w_m | z))]

    all KLs exact, the subset drawn per datum and sample.

    Sutter & Vogt, Multimodal Relational VAE, Bayesian Deep Learning Workshop at NeurIPS 2021.

    Written without its text or code, so families, sizes and the form of g_m and h_m are ours. A target has no expert; its code is drawn
    from p(w | z). Above 255 subsets, 255 are drawn per datum, anew at every call.
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=True, symmetric=True)
    requires = Requirements(text="private codes (experimental: after the description only)")
    name = "relational"
    citation = "Sutter & Vogt 2021"
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
        """``latent``: columns of z, and of w_m where a Modality does not say. ``hidden``: sizes inside h_m, and backwards inside g_m."""
        super().__init__(
            modalities, latent=latent, beta=beta, family="normal", scale_map=scale_map, seen=0, private=latent
        )
        check_count(self.name, "K", K)
        self.K, self.hidden = K, sizes(self.name, hidden)
        self.prior = top_down(self, latent, self.hidden, "its decoder sees nothing else")
        for net in self.modalities.values():
            if net.encoder is not None:
                net.parts["relation"] = nn.Sequential(*layers([net.private, *self.hidden, 2 * latent]))

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_products(experts._replace(z=self._relation(experts)), subsets(experts.mask))

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)
        z, weights = self.draw_components(q, stratified=False)  # [K, 1, B, D], [1, B]
        p_w = self.prior.w(z)  # [K, 1, B, W]
        q_w = self.private(batch, experts, z, p_w)
        log_x = self.decode_components(batch, weights, z, q_w.rsample(name="w"))  # [M, K, 1, B]
        kl_w = torch.where(self.own(experts), q_w.kl_columns(p_w), 0).sum(-1)  # [K, 1, B]
        kl_z = over_components(q.weights, q.components.kl(self.p_z)).expand_as(kl_w)
        return self.bound_of(weights, log_x, {"kl/z": kl_z, "kl/w": kl_w}, warm * self.beta)

    def _relation(self, experts: Experts) -> Normal:
        """The experts h_m of z given the mean of each private latent: [E, B, D]; standard normal where there is none."""
        nets = [
            (net, self.columns[m])
            for m, net in enumerate(self.modalities.values())
            if net.encoder is not None
        ]
        out = torch.stack(
            [net.parts["relation"](experts.w.loc[:, span]).to(experts.w.loc.dtype) for net, span in nets]
        )
        loc, raw = out.chunk(2, -1)  # [E, B, D]
        unit = Normal.unit(tuple(loc.shape), loc)
        return Normal(loc, nets[0][0].scale(raw)).where(experts.mask[..., None], unit)

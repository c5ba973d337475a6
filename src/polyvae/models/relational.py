"""Multimodal relational VAE: a private latent per modality, and a shared latent for their relation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polyvae.core.aggregate import Experts, fixed_subsets, mixture_of_products, subsets
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
    """Experimental: a latent w_m per modality, and their relation z, inferred from all subsets of them.

    The model is written after the description of the paper only: two levels, with the relation of the
    modalities' latents inferred by a mixture over subsets. Accordingly, a decoder sees only its own
    latent, and no decoder sees z, the relation between the latents:

        p(X, z, w) = p(z) Π_m p(w_m | z) p(x_m | w_m),  p(z) = N(0, I),  p(w_m | z) = N(g_m(z), I)

    Any other scale of w_m can be absorbed by the last layer of g_m and the first of a decoder. Given
    what was observed, O, each latent is inferred from its modality, and z from the means of the latents
    by experts h_m, whose products over the non-empty A ⊆ O form a mixture:

        q(w_m | x_m) = N(μ_m, σ_m²),   q_A(z) ∝ Π_{m∈A} N(z; h_m(μ_m)),   q(z | X) = mean over A of q_A,   q(w_m | z) = p(w_m | z) for m ∉ O

    The bound follows from Jensen's inequality. In log p(x_O) ≥ E_q log [p(x_O, z, w)/q(z, w | X)] the
    w_m of m ∉ O cancel, and what remains is

        E_q Σ_O log p(x_m | w_m) − KL(q(z | X) || p(z)) − E_q Σ_O KL(q(w_m | x_m) || p(w_m | z))

    By convexity the mixture's KL is at most the mean of its components' KLs. So, for β ≥ 1 and weights
    s_m = 1, this is also a bound:

        L = E_q Σ_{m∈O} s_m log p(x_m | w_m) − β [mean_A KL(q_A || p(z)) + E_{q(z|X)} Σ_{m∈O} KL(q(w_m | x_m) || p(w_m | z))]

    All KLs are exact, and the subset is drawn per sample and draw. If the modalities have more than 255
    subsets, training draws 255 per sample and step, and inference uses 255 fixed ones
    (``fixed_subsets``). A target has no expert, so its latent is drawn from p(w_m | z).

    Sutter & Vogt, Multimodal Relational VAE, Bayesian Deep Learning Workshop at NeurIPS 2021.

    Neither the paper's text nor its code was available, so families, sizes and the form of g_m and h_m
    are ours.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z, and of each w_m unless its modality sets ``private``.
        beta: The factor β.
        K: Draws of the latents per sample.
        hidden: Widths of the hidden layers of the h_m, and in reverse order of the g_m.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: A modality without a private latent, or a number out of range.
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=True, symmetric=True)
    requires = Requirements(text="private latents (experimental: after the description only)")
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
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, seen=0, private=latent)
        check_count(self.name, "K", K)
        self.K, self.hidden = K, sizes(self.name, hidden)
        self.prior = top_down(self, latent, self.hidden, "its decoder sees nothing else")
        for net in self.modalities.values():
            if net.encoder is not None:
                net.parts["relation"] = nn.Sequential(*layers([net.private, *self.hidden, 2 * latent]))

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return self._mixture(experts, fixed_subsets(experts.observed))

    def _mixture(self, experts: Experts, membership: Tensor) -> Mixture:
        return mixture_of_products(experts._replace(z=self._relation(experts)), membership)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self._mixture(experts, subsets(experts.observed))
        z, weights = self.draw_components(q, stratified=False)  # [K, 1, B, D], [1, B]
        p_w = self.prior.w(z)  # [K, 1, B, W]
        q_w = self.private(batch, experts, z, p_w)
        log_x = self.decode_components(batch, weights, z, q_w.rsample(name="w"))  # [M, K, 1, B]
        kl_w = torch.where(self.own(experts), q_w.kl_columns(p_w), 0).sum(-1)  # [K, 1, B]
        kl_z = over_components(q.weights, q.components.kl(self.p_z)).expand_as(kl_w)
        return self.bound_of(weights, log_x, {"kl/z": kl_z, "kl/w": kl_w}, warm * self.beta)

    def _relation(self, experts: Experts) -> Normal:
        """The experts h_m of z, given the means of the w_m: [E, B, D]; N(0, I) where x_m is missing."""
        nets, mean = [(self.modalities.at(m), self.columns[m]) for m in self.encoded], experts.w.loc
        out = torch.stack([net.parts["relation"](mean[:, span]).to(mean.dtype) for net, span in nets])
        loc, raw = out.chunk(2, -1)  # [E, B, D]
        unit = Normal.unit(tuple(loc.shape), loc)
        return Normal(loc, nets[0][0].scale(raw)).where(experts.mask[..., None], unit)

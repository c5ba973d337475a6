"""Hölder+ and Hölder++: the exact Hölder pool of experts, shared and private codes, auxiliary priors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polyvae.core.aggregate import Experts, hoelder_pool
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Diagonal, Mixture, softplus_scale
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.networks.mlp import layers
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.models.mmvaeplus import auxiliary_priors
from polyvae.utils.errors import InputError, check_count, nearest


class Hoelder(MultimodalVAE):
    """The experts' Hölder pool of order 1/2, sampled exactly, with a private code per modality that explains it in its own components only.

    q(z | X) ∝ (Σ_m √q_m(z | x_m))² = Σ_S π_S q_S(z): S runs over the single experts, of weight ∝ 1, and over the pairs, of weight ∝ 2 BC,
    BC their Bhattacharyya coefficient and q_S their normalised geometric mean. For component S, sample k: z ~ q_S, w_n ~ q(w_n | x_n, z)
    for n ∈ S, else w_n ~ r_n(w_n):

        l^{Sk} = Σ_n s_n log p(x_n | z, w_n) + β [log p(z) − log q(z | X) + Σ_{n∈S} (log p(w_n) − log q(w_n | x_n, z))]
        L = Σ_S π_S log (1/K) Σ_k exp l^{Sk}                                        ("elbo": the mean over k)

    Vo, Martínez-García & Valera, Hölder++: Improving the Quality-Coherence Trade-off in Multimodal VAEs, ICML 2026 (arXiv 2606.13381).
    ``hierarchical`` is Hölder++: z moves the location of q(w_n | x_n, z) and multiplies its scale; without, Hölder+: q(w_n | x_n).
    ``cross="prior"``: r = p. Missing modalities leave the pool; private codes of what was not observed are the prior's.

    Differs from the authors' code: none is public, so this is after the description. How z enters q(w_n | x_n, z) is ours (a network of one
    hidden layer, ``hidden`` wide). Every component is decoded in every step, M(M + 1)/2 of them. With learnt r, as in MMVAE+, L
    is no bound, hence ``facts.bound`` is False; with r = p it is.
    Exempt: the scales of r get no gradient with one modality, or with one column under the softmax map.
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=True, symmetric=True)
    name = "holder"
    citation = "Vo et al. 2026"
    private_latents = "yes"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        K: int = 1,
        beta: float = 1.0,
        objective: str = "elbo",
        hierarchical: bool = True,
        hidden: int = 64,
        cross: str = "auxiliary",
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family="normal",
            scale_map=scale_map,
            seen=latent,
            private=latent,
        )
        for key, value, known in (
            ("objective", objective, ("elbo", "iwae")),
            ("cross", cross, ("auxiliary", "prior")),
        ):
            if value not in known:
                raise InputError(f"holder: unknown {key} {value!r}; {nearest(value, known)}")
        check_count(self.name, "K", K)
        check_count(self.name, "hidden", hidden)
        self.K, self.objective, self.cross, self.hierarchical, self.hidden = (
            K,
            objective,
            cross,
            hierarchical,
            hidden,
        )
        self.facts = self.facts._replace(bound=cross == "prior")
        self.raw_r = nn.Parameter(torch.zeros(len(self.owner))) if cross == "auxiliary" else None
        for net in self.modalities.values():
            if hierarchical and net.private and net.encoder is not None:
                net.parts["top_down"] = nn.Sequential(*layers([latent, hidden, 2 * net.private]))

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return hoelder_pool(experts)

    def private(self, batch: Batch, experts: Experts, z: Tensor, p_w: Diagonal) -> Diagonal:
        q_w = own_or_prior(self, batch, experts, z, p_w)
        return self._given(q_w, z).where(self.own(experts), q_w) if self.hierarchical else q_w

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)
        z = q.stratified(self.K)  # [K, V, B, D]
        p_w = self.prior.w(z)  # [K, V, B, W]
        q_w, own = self.private(batch, experts, z, p_w), self.own(q)
        w = q_w.where(own, auxiliary_priors(self, self.raw_r, p_w)).rsample(name="w")
        log_x = self.decode_components(batch, q.weights, z, w)  # [M, K, V, B]
        kl_z = q.log_prob(z) - self.prior.z().log_prob(z)  # [K, V, B]
        kl = {"kl/z": kl_z, "kl/w": self.sampled_kl(q_w, p_w, w, own)}
        return self.bound_of(q.weights, log_x, kl, warm * self.beta)

    def _given(self, q_w: Diagonal, z: Tensor) -> Diagonal:
        """q(w | x, z): q(w | x) with its location moved and its scale multiplied by functions of z."""
        moves, stretches = [], []
        for net, span in zip(self.modalities.values(), self.columns, strict=True):
            nothing = z.new_zeros((*z.shape[:-1], span.stop - span.start))
            move, stretch = (
                net.parts["top_down"](z).to(z.dtype).chunk(2, -1)
                if "top_down" in net.parts
                else (nothing, nothing)
            )
            moves.append(move)
            stretches.append(stretch)
        return type(q_w)(q_w.loc + torch.cat(moves, -1), q_w.scale * softplus_scale(torch.cat(stretches, -1)))

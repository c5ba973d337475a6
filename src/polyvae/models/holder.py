"""Hölder+ and Hölder++: the exact Hölder pool of experts, shared and private latents, auxiliary priors."""

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
    """The Hölder pool of order 1/2 of the experts, sampled exactly, with private latents.

    The posterior of a private latent is used only in the components that contain its modality.

    q(z | X) ∝ (Σ_m √q_m(z | x_m))² = Σ_S π_S q_S(z). S runs over the single experts, with weights ∝ 1,
    and over the pairs, with weights ∝ 2 BC, where BC is their Bhattacharyya coefficient and q_S their
    normalised geometric mean. For component S and draw k: z ~ q_S, w_n ~ q(w_n | x_n, z) for n ∈ S, else
    w_n ~ r_n(w_n):

        l^{Sk} = Σ_n s_n log p(x_n | z, w_n) + β [log p(z) − log q(z | X) + Σ_{n∈S} (log p(w_n) − log q(w_n | x_n, z))]
        L = Σ_S π_S log (1/K) Σ_k exp l^{Sk}                                        ("elbo": the mean over k)

    Vo, Martínez-García & Valera, Hölder++: Improving the Quality-Coherence Trade-off in Multimodal VAEs,
    ICML 2026 (arXiv 2606.13381).

    Every component is decoded in every step, M(M + 1)/2 of them. Missing modalities are left out of the
    pool; their private latents have the distribution of the prior. With learnt r, as in MMVAE+, L is not
    a bound, hence ``facts.bound`` is False. With r = p it is a bound.

    Differs from the authors' code: none is public, so this follows the description. How z enters
    q(w_n | x_n, z) is our choice: a network of one hidden layer.

    Exempt from the laws of ``polyvae.testing``:
    the scales of r get no gradient with one modality, or with one column under the softmax map.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z, and of each w_m unless its modality sets ``private``.
        K: Draws per component.
        beta: The factor β.
        objective: "elbo" or "iwae".
        hierarchical: Hölder++: z shifts the location of q(w_n | x_n, z) and multiplies its scale.
            Otherwise Hölder+, with q(w_n | x_n).
        hidden: Width of the hidden layer of the network of z.
        cross: "auxiliary": r_n with learnt scales. "prior": r = p.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.
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
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=latent)
        for key, value, known in (
            ("objective", objective, ("elbo", "iwae")),
            ("cross", cross, ("auxiliary", "prior")),
        ):
            if value not in known:
                raise InputError(f"holder: unknown {key} {value!r}; {nearest(value, known)}")
        check_count(self.name, "K", K)
        check_count(self.name, "hidden", hidden)
        self.K, self.objective, self.cross = K, objective, cross
        self.hierarchical, self.hidden = hierarchical, hidden
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
        """q(w | x, z): the location of q(w | x) is shifted and its scale multiplied, as functions of z."""
        shifts, factors = [], []
        for net, span in zip(self.modalities.values(), self.columns, strict=True):
            if "top_down" in net.parts:
                shift, factor = net.parts["top_down"](z).to(z.dtype).chunk(2, -1)
            else:
                shift = factor = z.new_zeros((*z.shape[:-1], span.stop - span.start))
            shifts.append(shift)
            factors.append(factor)
        return type(q_w)(q_w.loc + torch.cat(shifts, -1), q_w.scale * softplus_scale(torch.cat(factors, -1)))

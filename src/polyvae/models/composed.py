"""A free combination for research: any table of subsets, rule of combination, bound and private latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from polyvae.core.aggregate import (
    POWERSET_LIMIT,
    Experts,
    barycentre,
    everything,
    fixed_subsets,
    geometric_mean,
    joint,
    pairs,
    powerset,
    product_of_experts,
    random_subsets,
    singles,
)
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, check_objective
from polyvae.core.distributions import Diagonal, Mixture
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.models.mmvaeplus import auxiliary_priors
from polyvae.utils.errors import InputError, check_count, nearest

SUBSETS: dict[str, Callable[[Tensor], Tensor]] = {
    "everything": everything,
    "singles": singles,
    "pairs": lambda mask: torch.cat([singles(mask), pairs(mask)]),
    "powerset": powerset,
}
AGREEMENTS: dict[str, Callable[[Diagonal, Tensor, Diagonal | None], Diagonal]] = {
    "product": product_of_experts,
    "mean": geometric_mean,
    "barycentre": barycentre,
}
CROSS = ("posterior", "prior", "auxiliary")


class Composed(MultimodalVAE):
    """A uniform mixture over subsets of the experts, composed from options.

    q(z | X) = (1/V) Σ_A q_A(z), A over a table of subsets of what was observed. With z ~ q_A and w_n ~
    v_n(w_n) for every n:

        l^{Ak} = Σ_n s_n log p(x_n | z, w_n) + β [log p(z) − log q(z | X) + Σ_{n charged} (log p(w_n) − log q(w_n | x_n))]
        L = (1/V) Σ_A log (1/K) Σ_k exp l^{Ak}                                      ("elbo": the mean over k)

    With ``cross="auxiliary"``, L is not a bound. There is no paper for this model; cite the sources of
    what you combine. "singles" with "auxiliary" is MMVAE+, and with "posterior" it is MMVAE_f, from the
    same paper. "powerset" is a stratified MoPoE with a sampled KL. ``agreement="barycentre"`` with
    "everything" has the joint posterior of WB-VAE, and with "powerset" that of MWB-VAE (Wasserstein
    barycentres with equal weights, arXiv 2412.20487, AAAI 2025).

    Exempt from the laws of ``polyvae.testing``:
    the scales of r get no gradient with one modality, or with one column under the softmax map.

    Args:
        modalities: The specifications of the modalities. A modality has a private latent if it sets
            ``private``.
        latent: Columns of z.
        beta: The factor β.
        K: Draws per component.
        objective: "elbo", "iwae" or "dreg".
        subsets: The table of subsets. "everything": one component. "singles". "pairs": singles and
            pairs. "powerset": at most 255 subsets. "random": training draws ``drawn`` subsets per sample
            and step. Inference draws none; it uses the mean of that mixture over the draws, the mixture
            over all subsets, or over 255 fixed ones (``fixed_subsets``).
        drawn: Number of subsets with ``subsets="random"``.
        agreement: How the experts of a component are combined: "product"; "mean", their geometric mean;
            "barycentre", their Wasserstein barycentre, whose location and scale are the means of theirs.
        prior_expert: Whether p(z) is one of the experts of every component.
        cross: The distributions v_n, and which w_n are charged. "posterior": q(w_n | x_n), all charged.
            "prior": q(w_n | x_n) for n ∈ A, charged, and p(w_n) for the others. "auxiliary":
            q(w_n | x_n) for n ∈ A, charged, and a learnt r_n(w_n) for the others.
        prior_components: Components of a learnt mixture p(z); 0: the standard prior.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option, a number out of range, or options that cannot be combined.
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=True, symmetric=True)
    name = "composed"
    citation = "no paper; cite what is combined"
    private_latents = "optional"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        objective: str = "elbo",
        subsets: str = "powerset",
        drawn: int = 3,
        agreement: str = "product",
        prior_expert: bool = False,
        cross: str = "posterior",
        prior_components: int = 0,
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            scale_map=scale_map,
            private=0,
            prior_components=prior_components,
        )
        check_objective(self.name, objective, K)
        check_count(self.name, "drawn", drawn)
        for key, value, known in (
            ("subsets", subsets, (*SUBSETS, "random")),
            ("agreement", agreement, tuple(AGREEMENTS)),
            ("cross", cross, CROSS),
        ):
            if value not in known:
                raise InputError(f"composed: unknown {key} {value!r}; {nearest(value, known)}")
        if cross == "auxiliary" and (subsets == "everything" or not len(self.owner)):
            raise InputError(
                f"composed: got cross='auxiliary' with subsets={subsets!r} and {len(self.owner)} private "
                "columns; expected private latents and subsets that leave a modality out, because auxiliary "
                "priors are not used otherwise; choose cross='posterior'"
            )
        if subsets == "powerset" and 2 ** len(self.encoded) - 1 > POWERSET_LIMIT:
            raise InputError(
                f"composed: got {len(self.encoded)} encoded modalities with subsets='powerset'; expected at "
                f"most {POWERSET_LIMIT} subsets, all decoded in every step; choose 'random'"
            )
        if prior_expert and prior_components:
            raise InputError(
                f"composed: got prior_expert=True with prior_components={prior_components}; expected one of "
                "the two, because a mixture cannot be an expert of a product; choose one"
            )
        self.K, self.objective, self.subsets, self.drawn = K, objective, subsets, drawn
        self.agreement, self.prior_expert = agreement, prior_expert
        self.cross, self.prior_components = cross, prior_components
        self.facts = self.facts._replace(bound=cross != "auxiliary")
        self.raw_r = nn.Parameter(torch.zeros(len(self.owner))) if cross == "auxiliary" else None

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return self._mixture(experts, SUBSETS.get(self.subsets, fixed_subsets)(experts.mask))

    def _mixture(self, experts: Experts, membership: Tensor) -> Mixture:
        p = self.prior.z()
        prior = p if self.prior_expert and isinstance(p, Diagonal) else None
        return joint(AGREEMENTS[self.agreement](experts.z, membership, prior), membership)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        drawn = self.subsets == "random"
        q = (
            self._mixture(experts, random_subsets(experts.mask, self.drawn))
            if drawn
            else self.posterior(batch, experts)
        )
        z = q.stratified(self.K)  # [K, V, B, D]
        p_w = self.prior.w(z)  # [K, V, B, W]
        q_w, own = self.private(batch, experts, z, p_w), self.own(q)
        charged = torch.ones_like(own) if self.cross == "posterior" else own
        v_w = q_w.where(charged, auxiliary_priors(self, self.raw_r, p_w))
        w = v_w.rsample(name="w")
        log_x = self.decode_components(batch, q.weights, z, w)  # [M, K, V, B]
        kl_z = self.scored(q).log_prob(z) - self.prior.z().log_prob(z)  # [K, V, B]
        kl = {"kl/z": kl_z, "kl/w": self.sampled_kl(v_w, p_w, w, charged)}
        return self.bound_of(q.weights, log_x, kl, warm * self.beta, {z: None, w: charged})

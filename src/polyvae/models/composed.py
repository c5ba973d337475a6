"""The free combination, for research: any table of subsets, any way to agree, any bound, any policy for private codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from polyvae.core.aggregate import (
    POWERSET_LIMIT,
    Experts,
    everything,
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
}
CROSS = ("posterior", "prior", "auxiliary")


class Composed(MultimodalVAE):
    """A uniform mixture over views of ``subsets`` whose experts agree by ``agreement``, with the bound and private codes of one's choice.

    q(z | X) = (1/V) Σ_A q_A(z), A over a table of subsets of what was observed; z ~ q_A, w_n ~ v_n(w_n) for every n:

        l^{Ak} = Σ_n s_n log p(x_n | z, w_n) + β [log p(z) − log q(z | X) + Σ_{n charged} (log p(w_n) − log q(w_n | x_n))]
        L = (1/V) Σ_A log (1/K) Σ_k exp l^{Ak}                                      ("elbo": the mean over k)

    ``subsets``    "everything" (one view), "singles", "pairs" (singles and pairs), "powerset", or "random": ``drawn`` subsets per datum.
    ``agreement``  of a view's experts: "product", or "mean", their geometric mean. ``prior_expert``: p(z) is one of them.
    ``cross``      v_n: q(w_n | x_n), all of them charged ("posterior"); or that for n ∈ A, alone charged, and for the others p(w_n)
                   ("prior") or a learnt r_n(w_n) ("auxiliary", where L is no bound).

    No paper: "singles" with "auxiliary" is MMVAE+, with "posterior" its MMVAE_f; "powerset" is a stratified MoPoE with a sampled KL. Cite
    what a combination comes from. Above 255 subsets take "random".
    Exempt: the scales of r get no gradient with one modality, or with one column under the softmax map.
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
            family="normal",
            scale_map=scale_map,
            seen=latent,
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
                "columns; expected private codes and views that leave a modality out, else no auxiliary "
                "prior is ever used"
            )
        if subsets == "powerset" and 2 ** len(self.encoded) - 1 > POWERSET_LIMIT:
            raise InputError(
                f"composed: got {len(self.encoded)} encoded modalities with subsets='powerset'; expected at "
                f"most {POWERSET_LIMIT} subsets, all decoded in every step; choose 'random'"
            )
        if prior_expert and prior_components:
            raise InputError(
                "composed: got prior_expert=True with prior_components, but a mixture is no expert of a "
                "product; choose one"
            )
        self.K, self.objective, self.subsets, self.drawn, self.agreement = (
            K,
            objective,
            subsets,
            drawn,
            agreement,
        )
        self.prior_expert, self.cross, self.prior_components = prior_expert, cross, prior_components
        self.facts = self.facts._replace(bound=cross != "auxiliary")
        self.raw_r = nn.Parameter(torch.zeros(len(self.owner))) if cross == "auxiliary" else None

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        mask, p = experts.mask, self.prior.z()
        membership = (
            random_subsets(mask, self.drawn) if self.subsets == "random" else SUBSETS[self.subsets](mask)
        )
        return joint(
            AGREEMENTS[self.agreement](
                experts.z, membership, p if self.prior_expert and isinstance(p, Diagonal) else None
            ),
            membership,
        )

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)
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

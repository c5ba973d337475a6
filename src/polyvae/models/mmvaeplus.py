"""MMVAE+: shared and private codes, and auxiliary priors that stop the shortcut."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polyvae.core.aggregate import Experts, mixture_of_experts
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, check_objective
from polyvae.core.distributions import Diagonal, Mixture
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import InputError, nearest

CROSS = ("auxiliary", "prior", "posterior", "posterior-published")


class MMVAEPlus(MultimodalVAE):
    """A mixture of experts over a shared code z, and a private code w_m per modality that never explains another's cross-reconstruction.

    q(z | X) = (1/M) Σ_m q_m(z | x_m).  For expert m: z^{mk} ~ q_m(z | x_m), w_m^{mk} ~ q(w_m | x_m), and for n ≠ m w̃_n^{mk} ~ r_n(w_n):

        l^{mk} = s_m log p(x_m | z^{mk}, w_m^{mk}) + Σ_{n≠m} s_n log p(x_n | z^{mk}, w̃_n^{mk})
                 + β [log p(z^{mk}) + log p(w_m^{mk}) − log q(z^{mk} | X) − log q(w_m^{mk} | x_m)]
        L = (1/M) Σ_m log (1/K) Σ_k exp l^{mk}                                      ("elbo": the mean over k)

    Palumbo, Daunhawer & Vogt, MMVAE+: Enhancing the Generative Quality of Multimodal VAEs without Compromises, ICLR 2023 (objective after
    the public code, epalu/mmvaeplus, objectives.py). Missing modalities leave the mixture and the sums; |A| takes M's place.

    Options: ``cross`` says where the private codes of the other modalities come from: "auxiliary" priors r_n with learnt scale (the paper);
    "prior", r = p; "posterior", q(w_n | x_n), each KL counted (MMVAE_f, the formula); "posterior-published", the same with only w_m's ratio
    in expert m's weight (MMVAE_f, the authors' code). ``corrected`` adds β [log p(w̃_n) − log r_n(w̃_n)], which makes L a bound for any r.
    ``source_experts="random"``: one source expert per datum, shared by its K samples, unbiased for L at a fraction of the decoding.
    ``private_prior="auxiliary"``: r_n, not p, also where a modality is generated from others (``sample`` draws from p(w) all the same).
    ``prior_components``: a learnable mixture as p(z), instead of the standard prior.

    Differs from the authors' code: nats per datum, not a sum over the batch; the gradient of "dreg" is the doubly reparametrised one, with
    a small bias for K > 1 (theirs is that of "iwae", the tensor of their hook is not in the loss); p, q and r have scale exactly 1 at raw 0
    (theirs .693 for normals); the defaults are normal posteriors with softplus scales, the paper's choice for CUB (``family="laplace"``,
    ``scale_map="softmax"``, β 2.5 is its choice for PolyMNIST); at generation the expert is drawn per datum and sample.
    With learnt r and without the correction L is no bound on log p(X), hence ``facts.bound`` is False.
    Exempt: the scales of r get no gradient with one modality, or with one column under the softmax map.
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=True, symmetric=True)
    name = "mmvae+"
    citation = "Palumbo et al. 2023"
    private_latents = "yes"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        K: int = 1,
        beta: float = 1.0,
        objective: str = "elbo",
        cross: str = "auxiliary",
        corrected: bool = False,
        source_experts: str = "all",
        private_prior: str = "prior",
        prior_components: int = 0,
        family: str = "normal",
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family=family,
            scale_map=scale_map,
            seen=latent,
            private=latent,
            prior_components=prior_components,
        )
        check_objective(self.name, objective, K)
        for key, value, known in (
            ("cross", cross, CROSS),
            ("source_experts", source_experts, ("all", "random")),
            ("private_prior", private_prior, ("prior", "auxiliary")),
        ):
            if value not in known:
                raise InputError(f"mmvae+: unknown {key} {value!r}; {nearest(value, known)}")
        if cross != "auxiliary" and (corrected or private_prior == "auxiliary"):
            raise InputError(
                f"mmvae+: got cross={cross!r} with corrected or private_prior='auxiliary', which need the auxiliary priors; "
                "expected 'auxiliary'"
            )
        self.K, self.objective, self.cross, self.corrected = K, objective, cross, corrected
        self.source_experts, self.private_prior, self.prior_components = (
            source_experts,
            private_prior,
            prior_components,
        )
        self.facts = self.facts._replace(bound=corrected or cross in ("prior", "posterior"))
        self.raw_r = nn.Parameter(torch.zeros(len(self.owner))) if cross == "auxiliary" else None

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_experts(experts)

    def private(self, batch: Batch, experts: Experts, z: Tensor, p_w: Diagonal) -> Diagonal:
        q_w = own_or_prior(self, batch, experts, z, p_w)
        return q_w if self.private_prior == "prior" else q_w.where(self.own(experts), self.r(p_w))

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)
        decoded = self._one_component(q) if self.source_experts == "random" else q
        z = decoded.stratified(self.K)  # [K, V, B, D]
        p_w = self.prior.w(z)  # [K, V, B, W]
        q_w, own = self.private(batch, experts, z, p_w), self.own(decoded)
        v_w = q_w.where(
            own, {"auxiliary": self.r(p_w), "prior": p_w}.get(self.cross, q_w)
        )  # w_m ~ q, w̃_n ~ r_n
        w = v_w.rsample(name="w")
        log_x = self.decode_components(batch, decoded.weights, z, w)  # [M, K, V, B]
        charged = self._charged(batch, own)
        kl_z = self.scored(q).log_prob(z) - self.prior.z().log_prob(z)  # [K, V, B]
        kl = {"kl/z": kl_z, "kl/w": self.sampled_kl(v_w, p_w, w, charged)}
        return self.bound_of(decoded.weights, log_x, kl, warm * self.beta, {z: None, w: charged})

    def r(self, p_w: Diagonal) -> Diagonal:
        """The auxiliary priors r_n(w_n), side by side as the columns of w are: [..., B, W]; p where there are none."""
        return auxiliary_priors(self, self.raw_r, p_w)

    def _charged(self, batch: Batch, own: Tensor) -> Tensor:
        """The private columns whose density counts in a component's weight: [V, B, W]."""
        if self.cross == "posterior":
            return torch.ones_like(own)
        return own | batch.mask[self.owner].T if self.corrected else own

    def _one_component(self, q: Mixture) -> Mixture:
        choice = q.choose(1)  # [1, B]
        return Mixture(q.pick(choice), q.observed[None].to(q.weights.dtype), q.memberships(choice))


def auxiliary_priors(model: MultimodalVAE, raw_r: Tensor | None, p_w: Diagonal) -> Diagonal:
    """r_n(w_n) of location 0 and the scales of ``raw_r`` [W], as the private columns are: [..., B, W]; p(w | z) for None."""
    if raw_r is None:
        return p_w
    nets = zip(model.modalities.values(), model.columns, strict=True)
    scale = torch.cat([net.scale(raw_r[span]) for net, span in nets])
    return type(p_w)(p_w.loc, scale.expand_as(p_w.loc))

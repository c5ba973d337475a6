"""MMVAE+: shared and private codes, and auxiliary priors that stop the shortcut."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polyvae.core.aggregate import Experts, mixture_of_experts
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, check_objective, estimate, over_components
from polyvae.core.distributions import Diagonal, Mixture
from polyvae.core.modality import Modality
from polyvae.core.vae import Facts, MultimodalVAE, own_or_prior
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
        max_rows: int | None = None,
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
            max_rows=max_rows,
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
        self.raw_r = nn.Parameter(torch.zeros(len(self.owner))) if cross == "auxiliary" else None

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_experts(experts)

    def private(self, batch: Batch, experts: Experts, z: Tensor) -> Diagonal:
        q_w = own_or_prior(self, batch, experts, z)
        return (
            q_w
            if self.private_prior == "prior"
            else q_w.where(self.own(experts.mask[None])[0], self.auxiliary(z))
        )

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        beta = warm * self.beta
        q = self.posterior(batch, experts)
        views = self._one_view(q) if self.source_experts == "random" else q
        z = views.stratified(self.K)  # [K, V, B, D]
        q_w, p_w, r = self.private(batch, experts, z), self.prior.w(z), self.auxiliary(z)  # [K, V, B, W]
        own = self.own(views.membership)  # [V, B, W]
        others = {"auxiliary": r, "prior": p_w}.get(self.cross, q_w)
        w = q_w.where(own, others).rsample(None, "w", "KVBW")
        log_x = self.log_likelihood(
            batch, z, w, self.active(batch, views), importance=self.objective != "elbo"
        )  # [M, K, V, B]
        density, density_w = (q.detach(), q_w.detach()) if self.objective == "dreg" else (q, q_w)
        charged = own if self.cross != "posterior" else torch.ones_like(own)
        kl_z = density.log_prob(z) - self.prior.z().log_prob(z)  # [K, V, B]
        kl_w = torch.where(charged, density_w.columns(w) - p_w.columns(w), 0).sum(-1)
        if self.corrected:
            foreign = batch.mask[self.owner].T & ~own
            density_r = r.detach() if self.objective == "dreg" else r
            kl_w = kl_w + torch.where(foreign, density_r.columns(w) - p_w.columns(w), 0).sum(-1)
            charged = own | foreign
        log_weight = self.weighted(log_x) - beta * (kl_z + kl_w)
        value = over_components(
            views.weights, estimate(self.objective, log_weight, {z: None, w: charged}, beta)
        )
        return Bound(value, self.terms(views.weights, log_x, **{"kl/z": kl_z, "kl/w": kl_w}))

    def auxiliary(self, z: Tensor) -> Diagonal:
        """The auxiliary priors r_n(w_n), side by side as w's columns are: [..., B, W]; p where there are none."""
        return auxiliary_priors(self, self.raw_r, z)

    def _one_view(self, q: Mixture) -> Mixture:
        choice = q.choose(1)  # [1, B]
        return Mixture(q.pick(choice), q.observed[None].to(q.weights.dtype), q.memberships(choice))


def auxiliary_priors(model: MultimodalVAE, raw_r: Tensor | None, z: Tensor) -> Diagonal:
    """r_n(w_n), location 0 and the scales that ``raw_r`` [W] says, as the model's private columns are: [..., B, W]; p(w | z) for None."""
    p_w = model.prior.w(z)
    if raw_r is None:
        return p_w
    scale = torch.cat(
        [net.scale(raw_r[span]) for net, span in zip(model.modalities.values(), model.columns, strict=True)]
    )
    return type(p_w)(p_w.loc, scale.expand_as(p_w.loc))

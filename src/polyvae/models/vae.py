"""Independent VAEs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from polyvae.core.aggregate import Experts, everything, joint
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, check_objective, estimate, over_components
from polyvae.core.distributions import FAMILIES, Mixture
from polyvae.core.facts import Facts, Requirements
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior


class VAE(MultimodalVAE):
    """One VAE per modality, independent of one another: the reference for quality.

    With w_m ~ q(w_m | x_m), l_m = s_m log p(x_m | w_m) − β [log q(w_m | x_m) − log p(w_m)]:

        L = Σ_m log (1/K) Σ_k exp l_m^k     ("elbo": the mean over k, with the exact KL)

    Kingma & Welling, Auto-Encoding Variational Bayes, ICLR 2014.

    There is no shared latent (D = 0), so modalities that are generated together do not agree (no
    coherence).

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of each w_m unless its modality sets ``private``.
        beta: The factor β.
        K: Draws of the latents per sample.
        objective: "elbo", "iwae" or "dreg".
        family: The family of posteriors and priors, "normal" or "laplace".
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.

    Example:
        >>> import polyvae as pv
        >>> modalities = [pv.Modality("image", (1, 28, 28)), pv.Modality("label", 10, "categorical")]
        >>> pv.VAE(modalities, latent=8).shared
        0
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=True, symmetric=True)
    requires = Requirements(missing="trains; infers nothing, because modalities are independent")
    name = "vae"
    citation = "Kingma & Welling 2014"
    private_latents = "only private"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        objective: str = "elbo",
        family: str = "normal",
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(
            modalities, latent=latent, beta=beta, family=family, scale_map=scale_map, seen=0, private=latent
        )
        check_objective(self.name, objective, K)
        self.K, self.objective = K, objective

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        membership = everything(experts.observed)
        return joint(FAMILIES[self.family].unit((1, batch.size, 0), experts.w.loc), membership)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)
        z = q.stratified(self.K)  # [K, 1, B, 0]
        p_w = self.prior.w(z)
        q_w = self.private(batch, experts, z, p_w)
        w = q_w.rsample(name="w")  # [K, 1, B, W]
        log_x = self.modalities.log_likelihood(batch, z, w)  # [M, K, 1, B]
        exact = self.objective == "elbo"
        columns = q_w.kl_columns(p_w) if exact else self.scored(q_w).columns(w) - p_w.columns(w)
        kl_w = self.modalities.by_owner(columns)  # [M, K, 1, B]
        log_weight = self.modalities.weigh(log_x) - warm * self.beta * kl_w
        each = [
            estimate(self.objective, log_weight[m], {w: self.owner == m}, warm * self.beta)
            for m in range(len(log_weight))
        ]
        value = over_components(q.weights, torch.stack(each).sum(0))
        return Bound(value, self.terms(q.weights, log_x, {"kl/w": kl_w.sum(0)}))

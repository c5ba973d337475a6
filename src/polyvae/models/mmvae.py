"""MMVAE: a mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyvae.core.aggregate import Experts, mixture_of_experts
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, check_objective, dreg, iwae, log_over_components
from polyvae.core.distributions import Mixture
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import InputError


class MMVAE(MultimodalVAE):
    """A mixture of experts over one shared latent: the draws of each expert reconstruct all modalities.

    q(z | X) = (1/M) Σ_m q_m(z | x_m),  z^{mk} ~ q_m,  l^{mk} = Σ_n s_n log p(x_n | z^{mk}) + β [log p(z^{mk}) − log q(z^{mk} | X)]:

        looser:  L = (1/M) Σ_m log (1/K) Σ_k exp l^{mk}           tight:  L = log (1/MK) Σ_{m,k} exp l^{mk}

    Shi, Siddharth, Paige & Torr, Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep
    Generative Models, NeurIPS 2019.

    Differs from the authors' code (iffsid/mmvae): the gradient of "dreg" is the doubly reparametrised
    one (their hook is on a tensor that is not part of the loss, so it never runs). With several experts
    and K > 1 it is biased, by 32 % of its norm for K = 5 in a linear world, and more for larger K;
    "iwae" is not. Values are in nats
    per sample, not summed over the batch. Missing modalities are left out of the mixture, and |A|, the
    number of observed modalities, replaces M. Their posteriors have softmax scales and their prior learnt ones; here
    these are ``scale_map="softmax"`` and ``learn_prior=True``.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z.
        beta: The factor β.
        K: Draws per expert.
        objective: "elbo" (the mean of l^{mk} over k), "iwae" or "dreg".
        tight: Average the weights over experts, too. Requires "iwae" or "dreg".
        family: The family of experts and prior, "normal" or "laplace".
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".
        learn_prior: Learn the scales of p(z), which start at 1.

    Raises:
        InputError: An unknown option, a number out of range, or ``tight`` with "elbo".

    Example:
        >>> import polyvae as pv
        >>> modalities = [pv.Modality("image", (1, 28, 28)), pv.Modality("label", 10, "categorical")]
        >>> pv.MMVAE(modalities, latent=8, K=10, objective="dreg").facts.bound
        True
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=True, symmetric=True)
    name = "mmvae"
    citation = "Shi et al. 2019"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        objective: str = "elbo",
        tight: bool = False,
        family: str = "laplace",
        scale_map: str = "softplus",
        learn_prior: bool = False,
    ) -> None:
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family=family,
            scale_map=scale_map,
            private=None,
            learn_prior=learn_prior,
        )
        check_objective(self.name, objective, K)
        if tight and objective == "elbo":
            raise InputError(
                "mmvae: got tight=True with objective='elbo', which averages no weights; "
                "expected objective='iwae' or 'dreg'; choose one"
            )
        self.K, self.objective, self.tight, self.learn_prior = K, objective, tight, learn_prior

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_experts(experts)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)
        z = q.stratified(self.K)  # [K, V, B, D]
        log_x = self.decode_components(batch, q.weights, z)  # [M, K, V, B]
        kl = self.scored(q).log_prob(z) - self.prior.z().log_prob(z)  # [K, V, B]
        if self.tight:
            return self._tight(q, z, log_x, kl, warm * self.beta)
        return self.bound_of(q.weights, log_x, {"kl/z": kl}, warm * self.beta, {z: None})

    def _tight(self, q: Mixture, z: Tensor, log_x: Tensor, kl: Tensor, beta: float) -> Bound:
        """The bound whose weights are averaged over experts and draws."""
        log_weight, terms = self.weighted(log_x) - beta * kl, self.terms(q.weights, log_x, {"kl/z": kl})
        if self.objective == "iwae":
            return Bound(log_over_components(q.weights, iwae(log_weight)), terms)
        # Weights of components are uniform and cancel in the softmax; inactive components get no share. Where nothing was
        # observed, all stay, because a softmax of -inf alone would be NaN.
        active = torch.where(q.active | ~q.observed, log_weight, -torch.inf)
        share = active.flatten(0, 1).softmax(0).view_as(log_weight)
        return Bound(log_over_components(q.weights, dreg(log_weight, {z: None}, beta, share)), terms)

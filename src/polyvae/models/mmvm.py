"""MMVM: a VAE per modality, whose prior is the mixture of all their posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from polyvae.core.aggregate import Experts, everything, joint, singles
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import FAMILIES, Diagonal, Mixture
from polyvae.core.facts import Facts, Requirements
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import InputError, check_count, is_number, nearest

DIVERGENCES = ("mixture", "pairwise")


class MMVM(MultimodalVAE):
    """One latent per modality, regularised towards the mixture of the posteriors of all modalities.

    There is no shared latent, no joint density and no unconditional generation. All latents have one
    size.

    z_m ~ q_m(z_m | x_m),  h(z | X) = (1/M) Σ_n q_n(z | x_n), the prior that the data define ("mixture of posteriors"):

        L = Σ_m E_{q_m} s_m log p(x_m | z_m) − β Σ_m KL(q_m || h)              ("mixture": the KL at the draw that is decoded)
        L = Σ_m E_{q_m} s_m log p(x_m | z_m) − (β/M) Σ_m Σ_n KL(q_m || q_n)    ("pairwise": never more, by convexity; the authors' code)

    Sutter et al., Unity by Diversity: Improved Representation Learning in Multimodal VAEs, NeurIPS 2024,
    section 3.

    Here z_m is the private latent w_m, and D = 0. A latent that was not inferred is drawn from the
    expert of one random observed modality, per sample and draw: to generate n given m is to decode z_m
    with decoder n. ``embed`` returns the mean of these experts in its place. In training, targets, which
    have no expert, are decoded in the same way. ``sample`` draws unrelated latents from p(w), towards
    which only ``prior_share`` regularises q_m.

    With one observed modality h is q_m itself. The KL is then 0, and nothing keeps q_m from becoming a
    point, unless N(0, I) has a share of h.

    Differs from the authors' code (thomassutter/mmvmvae): "mixture" is the default, as in the paper.
    ``warm`` multiplies β in addition to the annealing, which is off by default. (In theirs it is on and
    linear over 150,000 steps, and β counts in full from the first of them.)

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of each w_m. Modalities may set ``private``, but all to the same number.
        beta: The factor β.
        K: Draws of the latents per sample.
        divergence: "mixture" or "pairwise".
        prior_share: The weight of N(0, I) in h, from 0 to 1; the experts share the rest. 1 is the model
            ``vae``, and 1/(M+1) makes N(0, I) one of M + 1 equal members.
        anneal: Let the share fall from 1 to ``prior_share`` as ``warm`` rises: (1 − warm)
            (1 − prior_share) is added.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: Private latents of several sizes, an unknown option or a number out of range.
    """

    facts = Facts(bound=False, density=False, per_sample=True, nested=True, symmetric=True)
    requires = Requirements(text="private latents of one size")
    name = "mmvm"
    citation = "Sutter et al. 2024"
    private_latents = "only private"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        divergence: str = "mixture",
        prior_share: float = 0.0,
        anneal: bool = False,
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, seen=0, private=latent)
        check_count(self.name, "K", K)
        sizes = {name: net.private for name, net in self.modalities.items()}
        if len(set(sizes.values())) > 1:
            raise InputError(
                f"mmvm: got private latents of sizes {sizes}; expected one size, because every decoder takes "
                "every latent; leave private out and set latent, which applies to all"
            )
        if divergence not in DIVERGENCES:
            raise InputError(f"mmvm: unknown divergence {divergence!r}; {nearest(divergence, DIVERGENCES)}")
        if not is_number(prior_share) or not 0 <= prior_share <= 1:
            raise InputError(
                f"mmvm: got prior_share={prior_share!r}; expected a number from 0 to 1, the weight of "
                "N(0, I) in the prior; such as 0.1"
            )
        self.K, self.divergence, self.prior_share, self.anneal = K, divergence, prior_share, anneal

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return joint(
            FAMILIES[self.family].unit((1, batch.size, 0), experts.w.loc), everything(experts.observed)
        )

    def private(self, batch: Batch, experts: Experts, z: Tensor, p_w: Diagonal) -> Diagonal:
        h, own = self._mixture_of_posteriors(experts), own_or_prior(self, batch, experts, z, p_w)
        if z.ndim == 2:  # z is a posterior mean, not a draw, so w is a mean, too
            chosen: Diagonal = FAMILIES[self.family](h.mean, torch.ones_like(h.mean))
        else:
            chosen = h.pick(h.choose(prod(z.shape[:-2])))
            chosen = chosen.map(lambda x: x.view(*z.shape[:-1], -1))  # [..., B, W_m]
        repeated = type(chosen).cat([chosen] * len(self.modalities))
        missing = h.observed[:, None] & ~self.own(experts)  # [B, W]
        return repeated.where(missing, own)

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)
        z = q.stratified(self.K)[:, 0]  # [K, B, 0]
        w = self.private(batch, experts, z, self.prior.w(z)).rsample(name="w")  # [K, B, W]
        log_x = self.decode_components(batch, q.weights, z[:, None], w[:, None])  # [M, K, 1, B]
        h = self._mixture_of_posteriors(experts)
        share = self.prior_share + (1 - self.prior_share) * (1 - warm) * self.anneal
        w_m = torch.stack([w[..., self.columns[m]] for m in self.encoded], 1)  # [K, E, B, W_m]
        kl = self._mixture_kl(h, w_m, share) if self.divergence == "mixture" else self._pairwise_kl(h, share)
        kl_w = torch.where(experts.mask, kl, 0).sum(-2).expand(self.K, -1)[:, None]  # [K, 1, B]
        return self.bound_of(q.weights, log_x, {"kl/w": kl_w}, warm * self.beta)

    def _mixture_of_posteriors(self, experts: Experts) -> Mixture:
        """h without N(0, I): a component per observed modality, [E, B, W_m]."""
        parts = [experts.w[:, self.columns[m]] for m in self.encoded]
        return joint(FAMILIES[self.family].stack(parts), singles(experts.observed))

    def _mixture_kl(self, h: Mixture, w_m: Tensor, share: float) -> Tensor:
        """log q_m(z_m) − log [(1 − share) h(z_m) + share N(z_m; 0, I)]: [K, E, B]."""
        q = h.components
        unit = type(q).unit((1, *q.loc.shape[1:]), w_m)
        weights = torch.cat([(1 - share) * h.weights, share * h.observed[None].to(h.weights.dtype)])
        mixed = Mixture(type(q).cat([q, unit], 0), weights, h.membership)
        return q.log_prob(w_m) - mixed.log_prob(w_m)

    def _pairwise_kl(self, h: Mixture, share: float) -> Tensor:
        """(1 − share) Σ_n weight_n KL(q_m || q_n) + share KL(q_m || N(0, I)): [E, B]."""
        q = h.components
        pairs = q[:, None].kl(q[None])  # [E, E, B]
        among = torch.where(h.active, h.weights * pairs, 0).sum(1)
        return (1 - share) * among + share * q.kl(type(q).unit(tuple(q.loc.shape), q.loc))

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
from polyvae.utils.errors import InputError, check_count, nearest

DIVERGENCES = ("mixture", "pairwise")


class MMVM(MultimodalVAE):
    """A code per modality, all of one size and drawn to one another; no shared code, no joint density, no unconditional generation.

    z_m ~ q_m(z_m | x_m),  h(z | X) = (1/M) Σ_n q_n(z | x_n), the prior that the data choose ("mixture of posteriors"):

        L = Σ_m E_{q_m} s_m log p(x_m | z_m) − β Σ_m KL(q_m || h)              ("mixture": the KL at the sample that is decoded)
        L = Σ_m E_{q_m} s_m log p(x_m | z_m) − (β/M) Σ_m Σ_n KL(q_m || q_n)    ("pairwise": never more, by convexity; the authors' code)

    Sutter et al., Unity by Diversity: Improved Representation Learning in Multimodal VAEs, NeurIPS 2024, section 3.

    Here z_m is the private code w_m, and D = 0. A code that was not inferred is drawn from the expert of one random observed modality, per
    datum and sample (to condition n on m is to decode z_m with decoder n), and ``embed`` takes the mean of them all. In training that is
    how targets, which have no expert, are decoded. ``sample`` draws unrelated codes from p(w), to which only ``prior_share`` draws q_m.

    ``prior_share``: N(0, I)'s weight in h, the others have the rest (1: ``vae``; 1/(M+1): one of M + 1). ``anneal``: the share falls from 1
    to ``prior_share`` as ``warm`` rises, (1 − warm) (1 − prior_share) being added to it.

    With one observed modality h is q_m itself: the KL is 0 and nothing keeps q_m from becoming a point, unless there is a share of N(0, I).

    Differs from the authors' code (thomassutter/mmvmvae): "mixture" is the default, as in the paper; ``warm`` multiplies β beside the
    annealing, which is off by default (theirs: on, linear over 150,000 steps, from the first of which β counts in full).
    """

    facts = Facts(bound=False, density=False, per_sample=True, nested=True, symmetric=True)
    requires = Requirements(text="private codes of one size")
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
        super().__init__(
            modalities, latent=latent, beta=beta, family="normal", scale_map=scale_map, seen=0, private=latent
        )
        check_count(self.name, "K", K)
        sizes = {name: net.private for name, net in self.modalities.items()}
        if len(set(sizes.values())) > 1:
            raise InputError(
                f"mmvm: got private codes of sizes {sizes}; expected one size, for every decoder takes every code; "
                "leave private out, latent says it for all"
            )
        if divergence not in DIVERGENCES:
            raise InputError(f"mmvm: unknown divergence {divergence!r}; {nearest(divergence, DIVERGENCES)}")
        if not isinstance(prior_share, int | float) or not 0 <= prior_share <= 1:
            raise InputError(
                f"mmvm: got prior_share={prior_share!r}; expected a number from 0 to 1, the weight of N(0, I) in the prior"
            )
        self.K, self.divergence, self.prior_share, self.anneal = K, divergence, prior_share, anneal

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return joint(FAMILIES[self.family].unit((1, batch.size, 0), experts.w.loc), everything(experts.mask))

    def private(self, batch: Batch, experts: Experts, z: Tensor, p_w: Diagonal) -> Diagonal:
        h, own = self._codes(experts), own_or_prior(self, batch, experts, z, p_w)
        if z.ndim == 2:  # not samples are asked for, but a mean
            chosen: Diagonal = FAMILIES[self.family](h.mean, torch.ones_like(h.mean))
        else:
            chosen = h.pick(h.choose(prod(z.shape[:-2]))).map(
                lambda x: x.view(*z.shape[:-1], -1)
            )  # [..., B, D]
        borrowed = type(chosen).cat([chosen] * len(self.modalities))
        missing = h.observed[:, None] & ~self.own(experts)  # [B, W]
        return borrowed.where(missing, own)

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)
        z = q.stratified(self.K)[:, 0]  # [K, B, 0]
        w = self.private(batch, experts, z, self.prior.w(z)).rsample(name="w")  # [K, B, W]
        log_x = self.decode_components(batch, q.weights, z[:, None], w[:, None])  # [M, K, 1, B]
        h = self._codes(experts)
        share = self.prior_share + (1 - self.prior_share) * (1 - warm) * self.anneal
        codes = torch.stack([w[..., self.columns[m]] for m in self.encoded], 1)  # [K, S, B, D]
        kl = self._to_mixture(h, codes, share) if self.divergence == "mixture" else self._to_pairs(h, share)
        kl_w = torch.where(experts.mask, kl, 0).sum(-2).expand(self.K, -1)[:, None]  # [K, 1, B]
        return self.bound_of(q.weights, log_x, {"kl/w": kl_w}, warm * self.beta)

    def _codes(self, experts: Experts) -> Mixture:
        """h, without N(0, I): the posteriors of the observed modalities' codes, [S, B, D]."""
        parts = [experts.w[:, self.columns[m]] for m in self.encoded]
        return joint(FAMILIES[self.family].stack(parts), singles(experts.mask))

    def _to_mixture(self, h: Mixture, codes: Tensor, share: float) -> Tensor:
        """log q_m(z_m) − log [(1 − share) h(z_m) + share N(z_m; 0, I)]: [K, S, B]."""
        q = h.components
        unit = type(q).unit((1, *q.loc.shape[1:]), codes)
        weights = torch.cat([(1 - share) * h.weights, share * h.observed[None].to(h.weights.dtype)])
        mixed = Mixture(type(q).cat([q, unit], 0), weights, h.membership)
        return q.log_prob(codes) - mixed.log_prob(codes)

    def _to_pairs(self, h: Mixture, share: float) -> Tensor:
        """(1 − share) Σ_n weight_n KL(q_m || q_n) + share KL(q_m || N(0, I)): [S, B]."""
        q = h.components
        pairs = q[:, None].kl(q[None])  # [S, S, B]
        among = torch.where(h.active, h.weights * pairs, 0).sum(1)
        return (1 - share) * among + share * q.kl(type(q).unit(tuple(q.loc.shape), q.loc))

"""DMVAE: private latents, and a shared latent inferred from all modalities and from each of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyvae.core.aggregate import Experts, everything, joint, mixture_of_products, singles
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Diagonal, Mixture
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import InputError, check_count, is_number, nearest

VARIANTS = ("paper", "published")


class DMVAE(MultimodalVAE):
    """Private latents w_m, and a shared latent z that is inferred from all modalities and from each alone.

    Each posterior of z is one component and decodes all modalities.

    The components v are everything, q(z | X) ∝ p(z) Π_m q_m(z | x_m), and the single modalities,
    q_m(z | x_m). One draw of every w_n serves all components:

        L = Σ_v [E Σ_n s_n log p(x_n | z_v, w_n) − β KL(q_v(z) || p(z)) − β Σ_n KL(q(w_n | x_n) || p(w_n))] − β (τ − 1) Σ_v Σ_n TC(z_v, w_n)
        TC(u) = log q(u) − Σ_d log q(u_d),  q(u) = 1/N q(u | x_b) + (N − 1)/(N (B − 1)) Σ_{b'≠b} q(u | x_b'),  KL at the draw

    Lee & Pavlovic, Private-Shared Disentangled Multimodal VAE for Learning of Latent Representations,
    CVPR Workshops 2021, section 3.

    TC is the total correlation of (z_v, w_n) under the aggregate density, which is estimated from the
    batch. With τ = 1, the default of the authors, the decomposed KL is the KL itself, and no sample
    depends on another. Likelihood weights are ``Modality.weight`` (the authors' λ: 50 and 1). L is a sum
    of ELBOs, not a bound of one likelihood. With τ = 1, the ELBO of each component is a bound.

    With missing modalities, components and sums run over what was observed, also in the other samples of
    the batch. Where one modality was observed, q(z | X) is its expert.

    Differs from the authors' code (seqam-lab/DMVAE): the weights of q(u) add up to 1 (theirs to
    N (B − 1)/(B (N − 1)), which changes L by a constant). Any number of modalities is possible.

    Exempt from the laws of ``polyvae.testing``:
    with τ ≠ 1, the objective of a batch is not that of its samples.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z, and of each w_m unless its modality sets ``private``.
        beta: The factor β.
        K: Draws of z per component.
        total_correlation: τ, the weight of the total correlation.
        n: N, the size of the data set; None: that of the batch.
        variant: "paper", or "published", the authors' code: KL(z_v) counts once for every n (theirs is
            per pair of component and decoder), and the component of everything decodes nothing, though
            its KL is charged.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.
    """

    facts = Facts(bound=False, density=True, per_sample=False, nested=True, symmetric=True)
    name = "dmvae"
    citation = "Lee & Pavlovic 2021"
    private_latents = "yes"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 10,
        beta: float = 1.0,
        K: int = 1,
        total_correlation: float = 1.0,
        n: int | None = None,
        variant: str = "paper",
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=latent)
        check_count(self.name, "K", K)
        if n is not None:
            check_count(self.name, "n", n)
        if not is_number(total_correlation) or not total_correlation >= 0:
            raise InputError(
                f"dmvae: got total_correlation={total_correlation!r}; expected a number, 0 or more; 1 is the "
                "ELBO"
            )
        if variant not in VARIANTS:
            raise InputError(f"dmvae: unknown variant {variant!r}; {nearest(variant, VARIANTS)}")
        self.K, self.total_correlation, self.n, self.variant = K, total_correlation, n, variant

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        membership = everything(experts.observed)
        several = (experts.mask.sum(0) > 1)[:, None]
        with_prior, alone = (mixture_of_products(experts, membership, p) for p in (self.p_z, None))
        return alone._replace(components=with_prior.components.where(several, alone.components))

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        beta = warm * self.beta
        membership = torch.cat(
            [everything(experts.observed), singles(experts.observed)]
        )  # [V, E, B], V = 1 + E
        components = type(experts.z).cat([self.posterior(batch, experts).components, experts.z], 0)
        q = joint(components, membership)  # [V, B, D]
        z = q.stratified(self.K)  # [K, V, B, D]
        q_w = self.private(batch, experts, z[:, 0], self.prior.w(z[:, 0]))
        w = q_w.rsample(name="w")  # [K, B, W]
        own = self.own(experts)  # [B, W]
        decoded = q.table.any(1)  # [V, B]
        if self.variant == "published":
            decoded = decoded & (torch.arange(len(decoded), device=decoded.device) > 0)[:, None]
        w_v = w[:, None].expand(-1, len(q.active), -1, -1)  # [K, V, B, W]
        log_x = self.modalities.log_likelihood(batch, z, w_v, decoded)  # [M, K, V, B]
        times = 1 if self.variant == "paper" else experts.mask.sum(0)
        kl_z = times * (q.components.log_prob(z) - self.p_z.log_prob(z))  # [K, V, B]
        kl_w = torch.where(own, q_w.columns(w) - self.prior.w(w).columns(w), 0).sum(-1)  # [K, B]
        kl_w = kl_w[:, None].expand_as(kl_z)
        elbo = torch.where(q.active, (self.weighted(log_x) - beta * (kl_z + kl_w)).mean(0), 0)  # [V, B]
        rest = elbo[1:].sum(0)
        if self.total_correlation != 1:
            rest = rest - beta * (self.total_correlation - 1) * self._correlations(q, q_w, z, w, experts.mask)
        kl = {"kl/z": kl_z[:, :1], "kl/w": kl_w[:, :1]}
        terms = self.terms(q.active[:1].to(z.dtype), log_x[:, :, :1], kl)
        return Bound(elbo[0] + rest, terms | {"subsets": rest.detach()})

    def _correlations(self, q: Mixture, q_w: Diagonal, z: Tensor, w: Tensor, mask: Tensor) -> Tensor:
        """Σ_v Σ_n TC(z_v, w_n) over the observed n: [B]. z [K, V, B, D], w [K, B, W], mask [E, B]."""
        pairs_z = q.components[:, None].columns(z[..., None, :])  # [K, V, B, B', D]
        pairs_w = q_w[:, None].columns(w[..., None, :])[:, None]
        pairs_w = pairs_w.expand(*pairs_z.shape[:-1], -1)  # [K, V, B, B', W]
        total = torch.zeros_like(z[0, 0, :, 0])
        for m, observed in zip(self.encoded, mask, strict=True):
            both = q.active & observed  # [V, B]
            pairs = torch.cat([pairs_z, pairs_w[..., self.columns[m]]], -1)
            weights = _aggregate_weights(both, self.n).to(z.dtype)[..., None]  # [V, B, B', 1]
            whole, parts = pairs.sum(-1, keepdim=True) + weights, pairs + weights
            correlation = whole.logsumexp(-2)[..., 0] - parts.logsumexp(-2).sum(-1)  # [K, V, B]
            total = total + torch.where(both, correlation.mean(0), 0).sum(0)
        return total


def _aggregate_weights(active: Tensor, n: int | None) -> Tensor:
    """Log-weights of the samples in the aggregate density of each sample: active [V, B] -> [V, B, B'].

    The weights sum to 1 over the active samples. Of N samples, the sample's own posterior has weight
    1/N, and the B − 1 others of the batch represent the remaining N − 1. A sample that is alone in its
    batch has weight 1. So does a sample that is not active, in place of all others, which keeps all
    values finite.
    """
    itself = torch.eye(active.shape[1], dtype=torch.bool, device=active.device)
    count = active.sum(-1)[:, None, None].double()  # [V, 1, 1]
    size = count if n is None else torch.full_like(count, n).maximum(count)
    others = active[:, None] & active[..., None]  # [V, B, B']
    share = torch.where(itself, 1 / size.clamp(min=1), (size - 1) / (size * (count - 1)).clamp(min=1))
    share = torch.where(count > 1, share, 1.0)
    share = torch.where(itself & ~active[..., None], 1.0, share)
    return torch.where(others | itself, share.log(), -torch.inf)

"""DMVAE: private codes, and a shared one that every modality, and all of them together, can tell."""

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
from polyvae.utils.errors import InputError, check_count, nearest

VARIANTS = ("paper", "published")


class DMVAE(MultimodalVAE):
    """Private codes w_m beside a shared z, which is inferred from everything and from each modality alone, and decodes all each time.

    q_v(z) for the views v = everything, q(z | X) ∝ p(z) Π_m q_m(z | x_m), and v = m, q_m(z | x_m); one draw of every w_n serves all views:

        L = Σ_v [E Σ_n s_n log p(x_n | z_v, w_n) − β KL(q_v(z) || p(z)) − β Σ_n KL(q(w_n | x_n) || p(w_n))] − β (τ − 1) Σ_v Σ_n TC(z_v, w_n)
        TC(u) = log q(u) − Σ_d log q(u_d),  q(u) = 1/N q(u | x_b) + (N − 1)/(N (B − 1)) Σ_{b'≠b} q(u | x_b'),  KL at the sample

    Lee & Pavlovic, Private-Shared Disentangled Multimodal VAE for Learning of Latent Representations, CVPR Workshops 2021, section 3.
    τ (``total_correlation``) weighs the total correlation of (z_v, w_n) under the aggregate density, estimated from the batch; at 1, the
    authors' default, the parts of the KL add up to itself and no datum depends on another. N is ``n``, the size of the data set; None: the
    batch's own. Likelihood weights are Modality's ``weight`` (the authors' λ: 50 and 1). A sum of ELBOs: no bound of one likelihood, though
    with τ = 1 each view's is one.

    ``variant="published"`` is the authors' code: KL(z_v) counts once for every n (theirs is per pair of view and decoder), and the view of
    everything decodes nothing, though its KL is charged.

    Missing modalities: views and sums over what was observed, also of the batch's other data; where one alone was observed, q(z | X) is its
    expert. Differs from the authors' code (seqam-lab/DMVAE): the weights of q(u) add up to 1 (theirs to N (B − 1)/(B (N − 1)),
    which changes L by a constant); any number of modalities.
    Exempt: a batch does not equal its rows where τ ≠ 1.
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
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family="normal",
            scale_map=scale_map,
            seen=latent,
            private=latent,
        )
        check_count(self.name, "K", K)
        if n is not None:
            check_count(self.name, "n", n)
        if not isinstance(total_correlation, int | float) or not total_correlation >= 0:
            raise InputError(
                f"dmvae: got total_correlation={total_correlation!r}; expected a number, 0 or more; 1 is the "
                "ELBO"
            )
        if variant not in VARIANTS:
            raise InputError(f"dmvae: unknown variant {variant!r}; {nearest(variant, VARIANTS)}")
        self.K, self.total_correlation, self.n, self.variant = K, total_correlation, n, variant

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        membership = everything(experts.mask)
        several = (experts.mask.sum(0) > 1)[:, None]
        with_prior, alone = (mixture_of_products(experts, membership, p) for p in (self.p_z, None))
        return alone._replace(components=with_prior.components.where(several, alone.components))

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        beta = warm * self.beta
        membership = torch.cat([everything(experts.mask), singles(experts.mask)])  # [V, M, B], V = 1 + M
        q = joint(
            type(experts.z).cat([self.posterior(batch, experts).components, experts.z], 0), membership
        )  # [V, B, D]
        z = q.stratified(self.K)  # [K, V, B, D]
        q_w = self.private(batch, experts, z[:, 0], self.prior.w(z[:, 0]))
        w = q_w.rsample(name="w")  # [K, B, W]
        own = self.own(experts)  # [B, W]
        decoded = (
            q.active
            if self.variant == "paper"
            else q.active & (torch.arange(len(q.active), device=z.device) > 0)[:, None]
        )
        log_x = self.modalities.log_likelihood(
            batch, z, w[:, None].expand(-1, len(q.active), -1, -1), decoded
        )  # [M, K, V, B]
        times = 1 if self.variant == "paper" else experts.mask.sum(0)
        kl_z = times * (q.components.log_prob(z) - self.p_z.log_prob(z))  # [K, V, B]
        kl_w = (
            torch.where(own, q_w.columns(w) - self.prior.w(w).columns(w), 0).sum(-1)[:, None].expand_as(kl_z)
        )
        elbo = torch.where(q.active, (self.weighted(log_x) - beta * (kl_z + kl_w)).mean(0), 0)  # [V, B]
        rest = elbo[1:].sum(0)
        if self.total_correlation != 1:
            rest = rest - beta * (self.total_correlation - 1) * self._correlations(q, q_w, z, w, experts.mask)
        terms = self.terms(
            q.active[:1].to(z.dtype), log_x[:, :, :1], {"kl/z": kl_z[:, :1], "kl/w": kl_w[:, :1]}
        )
        return Bound(elbo[0] + rest, terms | {"subsets": rest.detach()})

    def _correlations(self, q: Mixture, q_w: Diagonal, z: Tensor, w: Tensor, mask: Tensor) -> Tensor:
        """Σ_v Σ_n TC(z_v, w_n) over the observed n: [B]. z [K, V, B, D], w [K, B, W], mask [M_sources, B]."""
        pairs_z = q.components[:, None].columns(z[..., None, :])  # [K, V, B, B', D]
        pairs_w = (
            q_w[:, None].columns(w[..., None, :])[:, None].expand(*pairs_z.shape[:-1], -1)
        )  # [K, V, B, B', W]
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
    """Log-weights of the other data in each datum's aggregate density: live [V, B] -> [V, B, B']; they sum to 1 over the live ones.

    Of N data, the datum's own posterior weighs 1/N, and the B − 1 others of the batch stand for the N − 1 that are left. Alone in its
    batch, it weighs 1; so does a datum that is not live, in place of all others, which keeps everything finite.
    """
    itself = torch.eye(active.shape[1], dtype=torch.bool, device=active.device)
    count = active.sum(-1)[:, None, None].double()  # [V, 1, 1]
    size = count if n is None else torch.full_like(count, n).maximum(count)
    others = active[:, None] & active[..., None]  # [V, B, B']
    share = torch.where(itself, 1 / size.clamp(min=1), (size - 1) / (size * (count - 1)).clamp(min=1))
    share = torch.where(count > 1, share, 1.0)
    share = torch.where(itself & ~active[..., None], 1.0, share)
    return torch.where(others | itself, share.log(), -torch.inf)

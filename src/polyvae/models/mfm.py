"""MFM: what tells the labels is shared, what is left of each modality is its own; codes match the prior in the mean over data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyvae.core.aggregate import Experts, product_of_experts, random_sizes
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, over_components
from polyvae.core.distributions import Mixture
from polyvae.core.facts import Facts, Requirements
from polyvae.core.modality import Modality, unless_target
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.models.parts.joint import JointNetwork, joint_or_product
from polyvae.utils.errors import InputError, check_count, nearest

KERNELS = ("scaled", "published")


class MFM(MultimodalVAE):
    """A discriminative code z of all inputs, which alone tells the labels, and a generative code w_m of each modality; a Wasserstein VAE.

    With z ~ q(z | X), w_m ~ q(w_m | x_m), and labels y (modalities with role="target"; there need be none):

        L = Σ_m s_m log p(x_m | z, w_m) + Σ_y s_y log p(y | z) − β [MMD²(z) + Σ_m MMD²(w_m)] − γ KL(q(z | X) || Φ(z | X_S))
        MMD²(u) = E k(u, u') − 2 E k(u, v) + E k(v, v'),   u, u' of two data of the batch,   v, v' ~ N(0, I)

    Tsai, Liang, Zadeh, Morency & Salakhutdinov, Learning Factorized Multimodal Representations, ICLR 2019, sections 2.2 and 2.3. MMD² holds
    the codes' density over all data to the prior (not each datum's, as a KL does), with k(a, b) = exp(−|a − b|²/2v): v is the number of
    columns D ("scaled"), or D²/2 (kernel="published", the authors' code: so wide that it hardly sees more than means and variances). The
    expectations over N(0, I) are exact, those over data leave out u' = u, so that a batch's mean is unbiased: a datum's share is

        E_{u'} k(u, u') − 2 (v/(v + 1))^{D/2} exp(−|u|²/2(v + 1)) + (v/(v + 2))^{D/2},   and 0 where it is the only one.

    Φ, the paper's surrogate for missing modalities, is the product of the observed modalities' experts. γ (``surrogate``) teaches it, on
    a random proper part X_S of what was observed, to tell what all of it tells; nothing flows from it into q(z | X). The joint network is
    ``jmvae``'s. Missing modalities: Φ stands for q(z | X), w_m of a missing modality is the prior's, and MMD² and sums are over what was
    observed. A missing label is a term less.

    Differs from the authors' code (pliang279/factorized): nats, not means of squares; codes are drawn from q, not points (nothing charges
    for a small scale, so points are where they may end); any networks (theirs: memory fusion, then layers from each code to its factor);
    one Φ for all patterns (theirs: networks for each pattern in which one is missing; squared error), no Φ for w_m; MMD² as above (theirs:
    drawn v, and u' = u counted, which adds a constant).
    No bound, and no density of data: the codes have none of their own, for which their aggregate alone is held to the prior.
    Exempt: a batch does not equal its rows (MMD² is a statistic of the batch); not nested, for the joint network takes all modalities.
    """

    facts = Facts(bound=False, density=False, per_sample=False, nested=False, symmetric=True)
    requires = Requirements(text="labels, if any, as targets")
    name = "mfm"
    citation = "Tsai et al. 2019"
    private_latents = "yes"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 10.0,
        K: int = 1,
        surrogate: float = 1.0,
        kernel: str = "scaled",
        joint_width: int = 256,
        scale_map: str = "softplus",
    ) -> None:
        for spec in modalities:
            if spec.role == "target" and spec.private:
                raise InputError(
                    f"mfm: got the target {spec.name!r} with private={spec.private}; expected 0, for z alone tells labels; "
                    "leave it out"
                )
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family="normal",
            scale_map=scale_map,
            seen=latent,
            private=unless_target(modalities, latent),
        )
        check_count(self.name, "K", K)
        if not isinstance(surrogate, int | float) or not surrogate >= 0:
            raise InputError(f"mfm: got surrogate={surrogate!r}; expected a number, 0 or more")
        if kernel not in KERNELS:
            raise InputError(f"mfm: unknown kernel {kernel!r}; {nearest(kernel, KERNELS)}")
        self.K, self.surrogate, self.kernel, self.joint_width = K, surrogate, kernel, joint_width
        self.joint = JointNetwork(self, latent, joint_width)

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return joint_or_product(self, self.joint, batch, experts)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)
        z = q.stratified(self.K)  # [K, 1, B, D]
        w = self.private(batch, experts, z, self.prior.w(z)).rsample(name="w")  # [K, 1, B, W]
        log_x = self.decode_components(batch, q.weights, z, w)  # [M, K, 1, B]
        mmd = self._discrepancy(z, q.observed)
        for m, observed in zip(self.encoded, experts.mask, strict=True):
            mmd = mmd + self._discrepancy(w[..., self.columns[m]], observed)  # [K, 1, B]
        part = product_of_experts(experts.z, random_sizes(experts.mask, 1, proper=True))
        missed = q.components.detach().kl(part)  # [1, B]
        value = over_components(
            q.weights, (self.weighted(log_x) - warm * self.beta * mmd).mean(0) - self.surrogate * missed
        )
        return Bound(value, self.terms(q.weights, log_x, {"mmd": mmd, "surrogate": missed[None]}))

    def _discrepancy(self, codes: Tensor, observed: Tensor) -> Tensor:
        """Each datum's share of MMD² among the ``observed`` [B]: codes [..., B, C] -> [..., B]; 0 for the others, and for a single one."""
        count, columns = observed.sum(), codes.shape[-1]
        if not columns:
            return codes.new_zeros(codes.shape[:-1])
        v = columns if self.kernel == "scaled" else columns**2 / 2
        square = codes.square().sum(-1)  # [..., B]
        with torch.autocast(codes.device.type, enabled=False):  # a distance, not a network
            apart = square[..., None] + square[..., None, :] - 2 * codes @ codes.mT  # [..., B, B]
        pairs = (observed[:, None] & observed).fill_diagonal_(False)
        among = torch.where(pairs, (-apart / (2 * v)).exp(), 0).sum(-1) / (count - 1).clamp(min=1)
        to_prior = (v / (v + 1)) ** (columns / 2) * (-square / (2 * (v + 1))).exp()
        share = among - 2 * to_prior + (v / (v + 2)) ** (columns / 2)
        return torch.where(observed & (count > 1), share, 0)

"""MFM: a shared latent that predicts the labels, private latents, and MMD² to their priors."""

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
from polyvae.utils.errors import InputError, check_count, is_number, nearest

KERNELS = ("scaled", "published")


class MFM(MultimodalVAE):
    """A latent z that alone predicts the labels, and private latents w_m: a Wasserstein VAE.

    The discriminative latent z is inferred from all inputs, the generative latent w_m from modality m.
    With z ~ q(z | X), w_m ~ q(w_m | x_m), and labels y (modalities with role="target"; there may be
    none):

        L = Σ_m s_m log p(x_m | z, w_m) + Σ_y s_y log p(y | z) − β [MMD²(z) + Σ_m MMD²(w_m)] − γ KL(q(z | X) || Φ(z | X_S))
        MMD²(u) = E k(u, u') − 2 E k(u, v) + E k(v, v'),   u, u' of two samples of the batch,   v, v' ~ N(0, I)

    Tsai, Liang, Zadeh, Morency & Salakhutdinov, Learning Factorized Multimodal Representations, ICLR
    2019, sections 2.2 and 2.3.

    MMD² matches the density of a latent over all data to the prior, where a KL would match that of each
    sample. The kernel is k(a, b) = exp(−|a − b|²/2v). Its v is the number of columns D ("scaled"), or
    D²/2 ("published", the authors' code), which is so wide that the kernel is sensitive to little more
    than means and variances. The expectations over N(0, I) are exact. Those over data leave out u' = u,
    so that the mean over a batch is unbiased. The share of a sample is

        E_{u'} k(u, u') − 2 (v/(v + 1))^{D/2} exp(−|u|²/2(v + 1)) + (v/(v + 2))^{D/2},   and 0 where it is the only one.

    Φ, the paper's surrogate for missing modalities, is the product of the experts of the observed
    modalities. The last term trains it, given a random proper part X_S of what was observed, to match
    q(z | X). No gradient flows from this term into q(z | X). The joint network is that of ``jmvae``.

    Missing modalities: Φ replaces q(z | X). The w_m of a missing modality has the prior's distribution.
    MMD² and the sums are over what was observed. A missing label removes one term.

    Differs from the authors' code (pliang279/factorized): likelihoods are in nats, not means of squares.
    Latents are drawn from q, where theirs are points. (No term penalises a small scale, so q may shrink
    to points.) The networks are free (theirs: memory fusion, then layers from each latent to its
    factor). One Φ serves all patterns of missing modalities (theirs: a network for each pattern with one
    missing, trained by squared error), and there is no Φ for w_m. MMD² is as above (theirs draws v and
    counts u' = u, which adds a constant).

    The objective is not a bound, and there is no density of the data: only the aggregate of the latents,
    not each sample's posterior, is matched to the prior.

    Exempt from the laws of ``polyvae.testing``:
    the objective of a batch is not that of its samples, because MMD² is a statistic of the
    batch. Not nested, because the joint network takes all modalities.

    Args:
        modalities: The specifications of the modalities, with labels as targets.
        latent: Columns of z, and of each w_m unless its modality sets ``private``. Targets have no w_m.
        beta: The factor β of MMD².
        K: Draws of the latents per sample.
        surrogate: The factor γ of the surrogate's KL divergence.
        kernel: "scaled" or "published", the kernel's width.
        joint_width: Width of the joint network.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: A target with a private latent, an unknown option or a number out of range.
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
                    f"mfm: got the target {spec.name!r} with private={spec.private}; expected 0, because z "
                    "alone predicts labels; leave private out"
                )
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            scale_map=scale_map,
            private=unless_target(modalities, latent),
        )
        check_count(self.name, "K", K)
        if not is_number(surrogate) or not surrogate >= 0:
            raise InputError(f"mfm: got surrogate={surrogate!r}; expected a number, 0 or more; such as 1.0")
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
        phi = product_of_experts(experts.z, random_sizes(experts.mask, 1, proper=True))
        kl_phi = q.components.detach().kl(phi)  # [1, B]
        value = over_components(
            q.weights, (self.weighted(log_x) - warm * self.beta * mmd).mean(0) - self.surrogate * kl_phi
        )
        return Bound(value, self.terms(q.weights, log_x, {"mmd": mmd, "surrogate": kl_phi[None]}))

    def _discrepancy(self, latents: Tensor, observed: Tensor) -> Tensor:
        """Each sample's share of MMD² among the ``observed`` [B] samples.

        Args:
            latents: z, or w_m: [..., B, C].
            observed: [B] bool.

        Returns:
            [..., B], 0 for samples that were not observed, and where only one was.
        """
        count, columns = observed.sum(), latents.shape[-1]
        if not columns:
            return latents.new_zeros(latents.shape[:-1])
        v = columns if self.kernel == "scaled" else columns**2 / 2
        square = latents.square().sum(-1)  # [..., B]
        with torch.autocast(latents.device.type, enabled=False):  # a distance requires full precision
            distance = square[..., None] + square[..., None, :] - 2 * latents @ latents.mT  # [..., B, B]
        pairs = (observed[:, None] & observed).fill_diagonal_(False)
        among = torch.where(pairs, (-distance / (2 * v)).exp(), 0).sum(-1) / (count - 1).clamp(min=1)
        to_prior = (v / (v + 1)) ** (columns / 2) * (-square / (2 * (v + 1))).exp()
        share = among - 2 * to_prior + (v / (v + 2)) ** (columns / 2)
        return torch.where(observed & (count > 1), share, 0)

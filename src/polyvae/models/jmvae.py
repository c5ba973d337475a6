"""JMVAE: a joint encoder, and an encoder per modality that is aligned to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from polyvae.core.aggregate import Experts
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Mixture
from polyvae.core.facts import Facts, Requirements
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.models.parts.joint import JointNetwork, joint_or_product
from polyvae.utils.errors import InputError, check_count, is_number


class JMVAE(MultimodalVAE):
    """A joint encoder q(z | X), and unimodal encoders q_m(z | x_m) that are trained to cover it (JMVAE-kl).

        L = E_{q(z|X)} Σ_m s_m log p(x_m | z) − β [KL(q(z | X) || p(z)) + α Σ_m KL(q(z | X) || q_m(z | x_m))]

    Suzuki, Nakayama & Matsuo, Joint Multimodal Learning with Deep Generative Models, 2016 (arXiv
    1611.01891), section 3.3.

    The joint network contains a second copy of each encoder. The features of all copies are added and passed
    to two linear heads. With α ≥ 0 and β ≥ 1, L is a lower bound on the log-likelihood.

    The paper does not train with missing modalities. Here, the product of the observed q_m replaces
    q(z | X) in every term of an incomplete sample. Such a sample thus has a bound of the likelihood of
    what was observed.

    Differs from the authors' code (masa-su/jmvae): any number of modalities is possible. ``warm`` also
    anneals the α term. Values are in nats per sample.

    Exempt from the laws of ``polyvae.testing``:
    not nested, because the joint network takes all modalities.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z.
        beta: The factor β.
        K: Draws of z.
        alpha: α, the weight of the alignment.
        joint_width: Number of features that the joint network takes from each encoder.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=False, symmetric=True)
    requires = Requirements(missing="trains and infers; the joint encoder, on complete data only")
    name = "jmvae"
    citation = "Suzuki et al. 2016"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 64,
        beta: float = 1.0,
        K: int = 1,
        alpha: float = 0.1,
        joint_width: int = 256,
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=None)
        check_count(self.name, "K", K)
        if not is_number(alpha) or not alpha >= 0:
            raise InputError(f"jmvae: got alpha={alpha!r}; expected a number, 0 or more; such as 0.1")
        self.K, self.alpha, self.joint_width = K, alpha, joint_width
        self.joint = JointNetwork(self, latent, joint_width)

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return joint_or_product(self, self.joint, batch, experts)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)
        z = q.stratified(self.K)  # [K, 1, B, D]
        log_x = self.decode_components(batch, q.weights, z)  # [M, K, 1, B]
        kl_z = q.components.kl(self.p_z)  # [1, B]
        to_experts = torch.where(experts.mask, q.components.kl(experts.z), 0).sum(0, keepdim=True)  # [1, B]
        kl = {"kl/z": kl_z[None], "kl/experts": self.alpha * to_experts[None]}
        return self.bound_of(q.weights, log_x, kl, warm * self.beta)

"""TELBO: a joint encoder and an encoder per modality, each with its own ELBO."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from polyvae.core.aggregate import Experts, everything, joint, singles
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Mixture
from polyvae.core.facts import Facts, Requirements
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.models.parts.elbos import sum_of_elbos
from polyvae.models.parts.joint import JointNetwork, joint_or_product
from polyvae.utils.devices import to_device
from polyvae.utils.errors import InputError, check_count, is_number


class TELBO(MultimodalVAE):
    """A joint encoder q(z | X) and encoders q_m(z | x_m), with M + 1 ELBOs that share the decoders.

    For two modalities these are the three ELBOs of the name:

        L = E_{q(z|X)} Σ_m s_m log p(x_m | z) − β KL(q(z | X) || p(z)) + Σ_m [γ E_{q_m} s_m log p(x_m | z) − β KL(q_m(z | x_m) || p(z))]

    Vedantam, Fischer, Huang & Murphy, Generative Models of Visually Grounded Imagination, ICLR 2018,
    section 3.1.

    The ELBO of an input alone, without an observed target, has no term (``sum_of_elbos``): nothing is decoded
    from it, and complete data do not train its expert. To predict a modality from an input alone, give that
    modality the role "target", which is decoded from every encoder.

    The joint network is that of ``jmvae``. With missing modalities, the product of the observed q_m
    replaces q(z | X). Of several encoded modalities, a sample with one observed has only the ELBO of that
    one (the paper's unpaired data); a model of one encoded modality has the ELBO of the joint encoder and
    that of its expert for every sample. With γ = 1 each ELBO is a bound on log p(x_A), but their sum is not a bound on any
    single likelihood.

    Differs from the authors' code (google/joint_vae): the number of modalities is free. There is one γ
    (theirs: one per modality). Decoders learn from every term (theirs can stop the gradient into
    p(y | z)). The product that replaces q(z | X) has no prior expert (theirs is a product over
    attributes, which share one). Targets have no expert; they are decoded from every component.

    Exempt from the laws of ``polyvae.testing``:
    not nested, because the joint network takes all modalities.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z.
        beta: The factor β.
        K: Draws of z per encoder.
        gamma: The factor γ of the likelihoods in the unimodal ELBOs.
        joint_width: Width of the joint network.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=False, symmetric=True)
    requires = Requirements(missing="trains and infers; the joint encoder, on complete data only")
    name = "telbo"
    citation = "Vedantam et al. 2018"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 64,
        beta: float = 1.0,
        K: int = 1,
        gamma: float = 1.0,
        joint_width: int = 256,
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=None)
        check_count(self.name, "K", K)
        if not is_number(gamma) or not gamma >= 0:
            raise InputError(f"telbo: got gamma={gamma!r}; expected a number, 0 or more; such as 1.0")
        self.K, self.gamma, self.joint_width = K, gamma, joint_width
        self.joint = JointNetwork(self, latent, joint_width)

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return joint_or_product(self, self.joint, batch, experts)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        together = self.posterior(batch, experts).components  # [1, B, D]
        observed = experts.observed
        several = observed.all(0) | (observed.sum(0) > 1)  # [B]
        membership = torch.cat([everything(observed & several), singles(observed)])  # [V, E, B]
        q = joint(type(together).cat([together, experts.z], 0), membership)  # [V, B, D], V = 1 + E
        gamma = torch.tensor([1.0] + [self.gamma] * len(observed), dtype=q.weights.dtype)[:, None]  # [V, 1]
        gamma = to_device(gamma, q.weights.device)
        return sum_of_elbos(self, batch, q, warm * self.beta, gamma)

"""HMVAE: variation within a modality that depends on what the modalities share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from polyvae.core.aggregate import Experts, everything, mixture_of_products
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Diagonal, Mixture, Normal
from polyvae.core.facts import Facts, Requirements
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE
from polyvae.models.parts.elbos import mean_of_elbos
from polyvae.models.parts.levels import sizes, top_down
from polyvae.utils.errors import check_count


class HMVAE(MultimodalVAE):
    """Private latents w_m that depend on the shared latent z, inferred as in a ladder (experimental).

    The model follows a description of the paper: variation within a modality has its own latent, which
    depends on a shared latent at the top.

        p(X, z, w) = p(z) Π_m p(w_m | z) p(x_m | z, w_m),  p(z) = N(0, I),  p(w_m | z) = N(g_m(z), I)

    Any other scale of w_m can be expressed by the last layer of g_m and the first layer of a decoder.
    The posterior factorises as the model does, from the top down. Given z, the exact p(w_m | z, x_m) ∝
    p(w_m | z) p(x_m | z, w_m) is the prior times a factor of x_m. Likewise p(z | X) ∝ p(z) Π_m
    p(x_m | z). So the observed modalities O contribute normal factors ("experts") at both levels, which
    are multiplied:

        q(z | X) ∝ p(z) Π_{m∈O} q_m(z | x_m),   q(w_m | z, x_m) ∝ p(w_m | z) q_m(w_m | x_m),   q(w_m | z) = p(w_m | z) for m ∉ O

    The bound is Jensen's inequality. In log p(x_O) ≥ E_q log [p(x_O, z, w)/q(z, w | X)] the w_m of m ∉ O
    cancel. For β = 1 and weights s_m = 1, the rest of the logarithm is

        L = E_q Σ_{m∈O} s_m log p(x_m | z, w_m) − β [KL(q(z | X) || p(z)) + E_{q(z|X)} Σ_{m∈O} KL(q(w_m | z, x_m) || p(w_m | z))]

    Both KLs are exact, and β > 1 subtracts more. If decoders do not depend on z, everything is linear
    and the exact posteriors are diagonal, then L = log p(x_O) for the right experts.

    Wolff, Krishnan, Ruff, Morshuis, Klein, Nakajima & Nabi, Hierarchical Multimodal Variational
    Autoencoders, 2022.

    Products of fewer experts are trained only by samples with missing modalities. If all training data
    are complete, z given one modality is of little use. A target has no expert; its private latent is
    drawn from p(w | z).

    Differs from the authors' code: this was written without the text or the code of the paper. The
    families, the sizes, the inputs of the decoders and the combination of the experts are our choices.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z, and of each w_m unless its modality sets ``private``.
        beta: The factor β.
        K: Draws of z.
        hidden: Sizes of the hidden layers of g_m, from the last to the first.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: A modality without private columns, or a number out of range.
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=True, symmetric=True)
    requires = Requirements(text="private latents (experimental: after a description only)")
    name = "hmvae"
    citation = "Wolff et al. 2022"
    private_latents = "yes"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        hidden: Sequence[int] = (256,),
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=latent)
        check_count(self.name, "K", K)
        self.K, self.hidden = K, sizes(self.name, hidden)
        self.prior = top_down(self, latent, self.hidden, "its variation is a level of the model")

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_products(experts, everything(experts.observed), self.p_z)

    def private(self, batch: Batch, experts: Experts, z: Tensor, p_w: Diagonal) -> Diagonal:
        """p(w | z) multiplied by the experts of w."""
        expert, prior = experts.w.scale.pow(-2), p_w.scale.pow(-2)  # precisions
        total = expert + prior
        product = Normal((expert * experts.w.loc + prior * p_w.loc) / total, total.rsqrt())
        return product.where(self.own(experts), p_w)

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        return mean_of_elbos(self, batch, experts, self.posterior(batch, experts), warm * self.beta)

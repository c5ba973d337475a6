"""MoPoE: a mixture of products of experts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from polyvae.core.aggregate import Experts, fixed_subsets, mixture_of_products, subsets
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, over_components
from polyvae.core.distributions import Mixture
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import InputError, check_count


class MoPoE(MultimodalVAE):
    """A uniform mixture over the products of all subsets of experts.

    q_A(z) ∝ Π_{m∈A} q_m(z | x_m),  q(z | X) = mean over the non-empty A of q_A:

        L = E_{q(z|X) Π q(w_n|x_n)} Σ_n s_n log p(x_n | z, w_n) − β [mean_A KL(q_A || p) + Σ_n KL(q(w_n | x_n) || p(w_n))]

    Sutter, Daunhawer & Vogt, Generalized Multimodal ELBO, ICLR 2021. Private latents (MoPoE-s) are as in
    their mmJSD, NeurIPS 2020.

    With missing modalities, A runs over the non-empty subsets of what was observed. If the modalities have
    more than 255 subsets, training draws 255 per sample and step, and inference uses 255 fixed ones, which
    are all subsets of up to 8 observed modalities, and represent those of more (``fixed_subsets``).

    Differs from the authors' code (thomassutter/MoPoE): the subset is drawn per sample and draw (theirs
    depends on the position in the batch, so that a small batch trains only one subset).
    ``prior_expert="full"`` multiplies the prior into the product of everything that was observed. Their
    code does so for the full set, and the paper does not mention it.

    Args:
        modalities: The specifications of the modalities. Those that set ``private`` have a private
            latent.
        latent: Columns of z.
        beta: The factor β.
        K: Draws of the mixture per sample, or of each subset's product.
        stratified: Decode K draws of every subset's product, not of the mixture.
        prior_expert: "none", or "full": the prior is an expert in the product of everything that was
            observed.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.

    Example:
        >>> import polyvae as pv
        >>> modalities = [pv.Modality("rna", 200, private=4), pv.Modality("protein", 20, private=2)]
        >>> pv.MoPoE(modalities, latent=8).options["stratified"]
        False
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=True, symmetric=True)
    name = "mopoe"
    citation = "Sutter et al. 2021"
    private_latents = "optional"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        stratified: bool = False,
        prior_expert: str = "none",
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=0)
        if prior_expert not in ("none", "full"):
            raise InputError(
                f"mopoe: got prior_expert={prior_expert!r}; expected 'none' or 'full'; choose one"
            )
        check_count(self.name, "K", K)
        self.K, self.stratified, self.prior_expert = K, stratified, prior_expert

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return self._mixture(experts, fixed_subsets(experts.observed))

    def _mixture(self, experts: Experts, membership: Tensor) -> Mixture:
        q = mixture_of_products(experts, membership)
        if self.prior_expert == "none":
            return q
        full = (q.membership == experts.mask).all(1)[..., None]  # [V, B, 1]
        with_prior = mixture_of_products(experts, q.membership, self.p_z).components
        return q._replace(components=with_prior.where(full, q.components))

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self._mixture(experts, subsets(experts.observed))
        z, weights = self.draw_components(q, self.stratified)  # [K, V, B, D], [V, B]
        p_w = self.prior.w(z)
        q_w = self.private(batch, experts, z, p_w)  # [K, V, B, W]
        log_x = self.decode_components(batch, weights, z, q_w.rsample(name="w"))  # [M, K, V, B]
        kl_w = q_w.kl(p_w)  # [K, V, B]
        # The mean over all subsets, not the KL of the drawn one.
        kl_z = over_components(q.weights, q.components.kl(self.p_z)).expand_as(kl_w)
        return self.bound_of(weights, log_x, {"kl/z": kl_z, "kl/w": kl_w}, warm * self.beta)

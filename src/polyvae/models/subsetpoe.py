"""Subset-PoE: a product of experts, trained to decode everything from random subsets."""

from __future__ import annotations

from collections.abc import Sequence

from polyvae.core.aggregate import Experts, everything, mixture_of_products, thinned
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, over_components
from polyvae.core.distributions import Mixture
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import InputError, check_count, is_number


class SubsetPoE(MultimodalVAE):
    """A product of experts and the prior that decodes all that was observed from a random subset of it.

    For each sample a subset A of the observed modalities O is drawn; every modality is a member with
    probability π, and one is where none would be:

        q(z | x_A) ∝ p(z) Π_{m∈A} q_m(z | x_m)
        L = E_A [ E_{q(z | x_A)} Σ_{m∈O} s_m log p(x_m | z) − β KL(q(z | x_A) || p(z)) ]

    For β = 1 each term of the mean over A is a bound on log p(x_O), and so is L. Inference uses the product
    of all that was observed. The experts are trained in products, and each modality is predicted from subsets
    that lack it, which is the task of imputation. There is no paper for exactly this objective. The product is
    that of MVAE (Wu & Goodman 2018), which decodes only the members of each subset; leaving modalities out of
    the input at random is modality dropout (Neverova et al., ModDrop, TPAMI 2016).

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z.
        beta: The factor β.
        K: Draws of z per sample.
        keep: The probability π.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.

    Example:
        >>> import polyvae as pv
        >>> modalities = [pv.Modality("rna", 200, network="table"), pv.Modality("protein", 30, network="table")]
        >>> pv.build("subset-poe", modalities, latent=8).keep
        0.75
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=True, symmetric=True)
    name = "subset-poe"
    citation = "no paper; the product of Wu & Goodman 2018"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 48,
        beta: float = 1.0,
        K: int = 1,
        keep: float = 0.75,
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=None)
        check_count(self.name, "K", K)
        if not is_number(keep) or not 0 < keep <= 1:
            raise InputError(
                f"{self.name}: got keep={keep!r}; expected a probability above 0; 0.75 leaves out a quarter"
            )
        self.K, self.keep = K, keep

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_products(experts, everything(experts.observed), self.p_z)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = mixture_of_products(experts, thinned(experts.mask, self.keep), self.p_z)  # A, [1, B, D]
        z = q.stratified(self.K)  # [K, 1, B, D]
        log_x = self.decode_components(batch, q.weights, z)  # log p(x_m | z) for m in O, [M, K, 1, B]
        kl = q.components.kl(self.p_z)[None]  # KL(q(z | x_A) || p(z)), [1, 1, B]
        each = (self.weighted(log_x) - warm * self.beta * kl).mean(0)  # the mean over K, [1, B]
        return Bound(over_components(q.weights, each), self.terms(q.weights, log_x, {"kl/z": kl}))

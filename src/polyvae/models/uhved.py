"""U-HVED: completion and segmentation of images and volumes from latents at every resolution."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from polyvae.core.aggregate import (
    Experts,
    everything,
    mixture_of_products,
    product_of_experts,
    random_sizes,
    subsets,
)
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, over_components
from polyvae.core.distributions import Diagonal, Mixture
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.networks.volume import level_shapes
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import InputError, check_count, nearest

VARIANTS = ("paper", "published")
_PIECE = 2**20  # the most numbers among the latents of those subsets that are processed together


class UHVED(MultimodalVAE):
    """Products of experts and the prior at every level of an encoder-decoder, to complete and segment images.

    z = (z_1, ..., z_L) contains the levels, and q_A(z) ∝ p(z) Π_{m∈A} q_m(z | x_m), level by level. S is a
    random subset of what was observed: its size is uniform, then its members are. 𝒫 contains all
    non-empty subsets of what was observed:

        L = E_{q_S} Σ_m s_m log p(x_m | z) − β Σ_l [mean_{A∈𝒫} KL(q_A(z_l) || p(z_l)) + mean_{A∈𝒫, A≠S} KL(q_S(z_l) || q_A(z_l))]

    Dorent, Joutard, Modat, Ourselin & Vercauteren, Hetero-Modal Variational Encoder-Decoder for Joint
    Modality Completion and Segmentation, MICCAI 2019, section 2.

    Whatever was observed completes and segments all modalities. A segmentation is a modality with
    ``role="target"`` and the likelihood "segmentation" (cross-entropy and Dice). It may be missing, too.
    Images and volumes take ``network="volume"``, whose decoders see the latents of all levels. These
    latents are the skip connections, and nothing else connects encoder and decoder. Other networks have
    one level, or ``levels``.

    All subsets are regularised towards one another around one random reconstruction, so the objective is
    not a bound on any single likelihood. The joint density is p(z) Π_m p(x_m | z). Subsets are processed
    a few at a time, and recomputed in the backward pass, so that memory does not grow with their number.
    Above 255 of them, 255 are drawn per sample.

    Differs from the authors' code (ReubenDo/U-HVED): the terms are sums over columns and pixels, hence
    nats per sample, where theirs are means. ``variant="published"`` weights the levels as they do, by
    the mean over a level's columns, then over levels, here times D. For images of scale 1 with weight
    0.2/M each, and β = 0.1 N/D, their loss CE + Dice + 0.1 MSE + 0.1 KLD, times the number of pixels N,
    is then −L up to a constant. One random subset is drawn per sample, not per step. 𝒫 contains the
    subsets of what was observed (theirs requires all four modalities).

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z, over all levels; None: the sum of the levels, or 32.
        beta: The factor β.
        K: Draws of z per sample.
        levels: Columns of each level; None: the levels of the "volume" networks, or else one level.
        variant: "paper": the formula above; "published": the authors' weights of the levels.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: Modalities whose levels have different shapes, levels that do not add up to
            ``latent``, an unknown option or a number out of range.
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=True, symmetric=True)
    name = "u-hved"
    citation = "Dorent et al. 2019"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int | None = None,
        beta: float = 0.1,
        K: int = 1,
        levels: Sequence[int] | None = None,
        variant: str = "paper",
        scale_map: str = "softplus",
    ) -> None:
        if levels is not None and (not isinstance(levels, Sequence) or not levels):
            raise InputError(
                f"u-hved: got levels={levels!r}; expected a list with the size of each level, such as [16, 8]"
            )
        sizes = _levels(modalities, latent) if levels is None else list(levels)
        for size in sizes:
            check_count(self.name, "levels", size)
        latent = sum(sizes) if latent is None else latent
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=None)
        check_count(self.name, "K", K)
        if sum(sizes) != latent:
            raise InputError(
                f"u-hved: got latent={latent} and levels of {sizes} columns, {sum(sizes)} together; expected "
                "the same number; leave latent out, because it follows from the levels"
            )
        if variant not in VARIANTS:
            raise InputError(f"u-hved: unknown variant {variant!r}; {nearest(variant, VARIANTS)}")
        self.K, self.levels, self.variant = K, sizes, variant

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_products(experts, everything(experts.observed), self.p_z)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = mixture_of_products(experts, random_sizes(experts.mask, 1), self.p_z)  # [1, B, D], q_S
        z = q.stratified(self.K)  # [K, 1, B, D]
        log_x = self.decode_components(batch, q.weights, z)  # [M, K, 1, B]
        to_prior, to_subsets = self._divergences(experts, q)  # [B]
        each = self.weighted(log_x) - warm * self.beta * (to_prior + to_subsets)  # [K, 1, B]
        terms = {"kl/z": to_prior[None, None], "kl/subsets": to_subsets[None, None]}
        return Bound(over_components(q.weights, each.mean(0)), self.terms(q.weights, log_x, terms))

    def _divergences(self, experts: Experts, q: Mixture) -> tuple[Tensor, Tensor]:
        """The mean of KL(q_A || p) over all subsets A, and of KL(q_S || q_A) over all but S: [B] each."""
        membership = subsets(experts.mask, "subsets")  # [V, E, B]
        parts = torch.split(membership, max(1, _PIECE // q.components.loc.numel()))
        if len(parts) == 1:
            sums = self._sums(experts, q, membership)
        else:
            each = [checkpoint(self._sums, experts, q, part, use_reentrant=False) for part in parts]
            sums = torch.stack(each).sum(0)
        active = membership.any(1)
        counts = torch.stack([active.sum(0), (active & (membership != q.membership).any(1)).sum(0)])  # [2, B]
        to_prior, to_subsets = sums / counts.clamp(min=1)
        return to_prior, to_subsets

    def _sums(self, experts: Experts, q: Mixture, membership: Tensor) -> Tensor:
        """The sums of KL(q_A || p) and of KL(q_S || q_A) over some subsets A: [V, E, B] -> [2, B]."""
        q_A = product_of_experts(experts.z, membership, self.p_z)  # [V, B, D]
        each = torch.stack([self._kl(q_A, self.p_z), self._kl(q.components, q_A)])  # [2, V, B]
        return torch.where(membership.any(1), each, 0).sum(1)

    def _kl(self, a: Diagonal, b: Diagonal) -> Tensor:
        """KL(a || b) over all levels, weighted as ``variant`` states: [..., D] -> [...]."""
        if self.variant == "paper":
            return a.kl(b)
        means = [level.mean(-1) for level in torch.split(a.kl_columns(b), self.levels, -1)]
        return self.latent * torch.stack(means).mean(0)


def _levels(modalities: Sequence[Modality], latent: int | None) -> list[int]:
    """The columns of each level: those of the modalities' "volume" networks, or else one level."""
    keys = ("width", "levels")
    found = {
        spec.name: level_shapes(spec.shape, **{key: spec.params[key] for key in keys if key in spec.params})
        for spec in modalities
        if spec.network == "volume"
    }
    if not found:
        return [32 if latent is None else latent]
    first, *others = found.values()
    if any(shapes != first for shapes in others):
        raise InputError(
            f"u-hved: got levels of different shapes, {found}; expected the same in every modality, because "
            "they are fused pixel by pixel; bring all to one grid, width and number of levels"
        )
    return [prod(shape) for shape in first]

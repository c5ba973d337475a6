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
_PIECE = 2**20  # numbers: so many latents of subsets are looked at together, the others one after another


class UHVED(MultimodalVAE):
    """Products of experts with a prior at every level of an encoder-decoder; whatever is observed completes and segments everything.

    z = (z_1, ..., z_L), the levels side by side; q_A(z) ∝ p(z) Π_{m∈A} q_m(z | x_m), level by level; S a random subset of what was
    observed, its size uniform, then its members; 𝒫 all non-empty subsets of what was observed:

        L = E_{q_S} Σ_m s_m log p(x_m | z) − β Σ_l [mean_{A∈𝒫} KL(q_A(z_l) || p(z_l)) + mean_{A∈𝒫, A≠S} KL(q_S(z_l) || q_A(z_l))]

    Dorent, Joutard, Modat, Ourselin & Vercauteren, Hetero-Modal Variational Encoder-Decoder for Joint Modality Completion and
    Segmentation, MICCAI 2019, section 2. A segmentation is a modality with ``role="target"`` and the likelihood "segmentation"
    (cross-entropy and Dice); it, too, may be missing. Images and volumes take ``network="volume"``, whose decoders see the latents of all
    levels: those are the skip connections, and nothing else goes from encoder to decoder. Other networks have one level, or ``levels``.

    All subsets are drawn together around one random reconstruction: no bound of one likelihood. The joint density is p(z) Π_m p(x_m | z).
    Subsets are looked at few at a time, and once more in the backward pass, so that memory does not grow with their number; above 255 of
    them, 255 are drawn per datum.

    Differs from the authors' code (ReubenDo/U-HVED): sums over columns and pixels, hence nats per datum, where theirs takes means;
    ``variant="published"`` weights the levels as theirs, by the mean over a level's columns, then over levels, here times D. Their loss,
    CE + Dice + 0.1 MSE + 0.1 KLD, times the number of pixels N is then −L, up to a constant, for images of scale 1 that weigh 0.2/M each
    and β = 0.1 N/D. One random subset per datum, not per step; 𝒫 has the subsets of what was observed (theirs needs all four).
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
        """``levels``: columns of each level, ``latent`` together. None: those of the "volume" networks, or one level, of 32 columns."""
        if levels is not None and (not isinstance(levels, Sequence) or not levels):
            raise InputError(
                f"u-hved: got levels={levels!r}; expected a list of sizes, one for each level, such as [16, 8]"
            )
        sizes = _levels(modalities, latent) if levels is None else list(levels)
        for size in sizes:
            check_count(self.name, "levels", size)
        latent = sum(sizes) if latent is None else latent
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family="normal",
            scale_map=scale_map,
            seen=latent,
            private=None,
        )
        check_count(self.name, "K", K)
        if sum(sizes) != latent:
            raise InputError(
                f"u-hved: got latent={latent} and levels of {sizes} columns, {sum(sizes)} together; expected the same number; "
                "leave latent out, the levels say it"
            )
        if variant not in VARIANTS:
            raise InputError(f"u-hved: unknown variant {variant!r}; {nearest(variant, VARIANTS)}")
        self.K, self.levels, self.variant = K, sizes, variant

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_products(experts, everything(experts.mask), self.p_z)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = mixture_of_products(experts, random_sizes(experts.mask, 1), self.p_z)  # [1, B, D], q_S
        z = q.stratified(self.K)  # [K, 1, B, D]
        log_x = self.decode_components(batch, q.weights, z)  # [M, K, 1, B]
        to_prior, to_subsets = self._divergences(experts, q)  # [B]
        value = over_components(
            q.weights, (self.weighted(log_x) - warm * self.beta * (to_prior + to_subsets)).mean(0)
        )
        return Bound(
            value,
            self.terms(
                q.weights, log_x, {"kl/z": to_prior[None, None], "kl/subsets": to_subsets[None, None]}
            ),
        )

    def _divergences(self, experts: Experts, q: Mixture) -> tuple[Tensor, Tensor]:
        """The means over subsets A of KL(q_A || p) and, of those that are not S, of KL(q_S || q_A): [B] each."""
        table = subsets(experts.mask, "subsets")
        parts = torch.split(table, max(1, _PIECE // q.components.loc.numel()))
        if len(parts) == 1:
            sums = self._summed(experts, q, table)
        else:
            sums = torch.stack(
                [checkpoint(self._summed, experts, q, part, use_reentrant=False) for part in parts]
            ).sum(0)
        active = table.any(1)
        counts = torch.stack([active.sum(0), (active & (table != q.membership).any(1)).sum(0)])  # [2, B]
        to_prior, to_subsets = sums / counts.clamp(min=1)
        return to_prior, to_subsets

    def _summed(self, experts: Experts, q: Mixture, table: Tensor) -> Tensor:
        """[2, B]: the sums of KL(q_A || p) and of KL(q_S || q_A) over these subsets A, [V, M, B]."""
        q_A = product_of_experts(experts.z, table, self.p_z)  # [V, B, D]
        each = torch.stack([self._kl(q_A, self.p_z), self._kl(q.components, q_A)])  # [2, V, B]
        return torch.where(table.any(1), each, 0).sum(1)

    def _kl(self, a: Diagonal, b: Diagonal) -> Tensor:
        """KL(a || b), the levels added up, or for "published" averaged: [..., D] -> [...]."""
        if self.variant == "paper":
            return a.kl(b)
        means = [level.mean(-1) for level in torch.split(a.kl_columns(b), self.levels, -1)]
        return self.latent * torch.stack(means).mean(0)


def _levels(modalities: Sequence[Modality], latent: int | None) -> list[int]:
    """The levels of the modalities' "volume" networks, else one."""
    dials = ("width", "levels")
    found = {
        spec.name: level_shapes(spec.shape, **{key: spec.params[key] for key in dials if key in spec.params})
        for spec in modalities
        if spec.network == "volume"
    }
    if not found:
        return [32 if latent is None else latent]
    first, *others = found.values()
    if any(shapes != first for shapes in others):
        raise InputError(
            f"u-hved: got levels of different shapes, {found}; expected the same in every modality, for they are fused pixel "
            "by pixel; bring all to one grid, width and number of levels"
        )
    return [prod(shape) for shape in first]

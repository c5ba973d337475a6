"""IDMVAE: MMVAE+ with two contrastive terms that separate shared and private latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from polyvae.core.aggregate import Experts
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.facts import Calls, Facts
from polyvae.core.modality import Encoded, Modality
from polyvae.models.mmvaeplus import MMVAEPlus
from polyvae.utils.devices import to_device
from polyvae.utils.errors import InputError


class Regularisers(NamedTuple):
    """The terms that are subtracted from the bound, per sample and unweighted.

    Attributes:
        cross_view: c, [B].
        augmentation: g, [B].
    """

    cross_view: Tensor
    augmentation: Tensor


class IDMVAE(MMVAEPlus):
    """MMVAE+ with a cross-view term and a generative augmentation term.

    The first term makes the experts agree about z. The second makes z (w) recoverable from data that
    were generated with the w (z) of another sample.

    L is the objective of MMVAE+, c the cross-view and g the generative augmentation term of a batch, and
    μ are means of experts:

        L − γ_c c − γ_g g,   c = 1/(M − 1) Σ_{i≠j} X(μ^z_i, μ^z_j),   g = Σ_i ½ [X(μ^z_i, μ^z(x̃_i)) + X(μ^w_i, μ^w(x̂_i))]

    X(a, b) is the normalised temperature-scaled cross-entropy of pairs (a_n, b_n) among all 2B vectors:
    cosine similarity over τ, no vector with itself, and the mean of both directions. x̃_i =
    E[x_i | z, w'] with z ~ q_i(z | x_i) of the sample and w' ~ q(w_i | x_i) of the sample before it in
    the batch. x̂_i is the reverse. Both are encoded again.

    Zhang, Shen & Wang, Disentanglement of Variations with Multimodal Generative Modeling, ICLR 2026.
    γ_c, γ_g, τ and β are the paper's choice for PolyMNIST-Quadrant (with 128 private columns:
    ``Modality.private``).

    The terms of a sample depend on the other samples of its batch, hence ``facts.per_sample`` is False.
    They do not change the definition of a likelihood. With missing modalities, |A| replaces M, and only
    samples with both modalities (in g, with this modality) are negatives and partners of each other.

    Differs from the authors' code (chatzikon/IDMVAE): missing modalities are supported. Their diffusion
    prior is not included; fit a prior after training. Sentences are encoded again as the most probable words, through
    which no gradient flows to their decoder.

    Exempt from the laws of ``polyvae.testing``:
    as in MMVAE+, the scales of r get no gradient with one modality, or with one column under the
    softmax map.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z, and of each w_m unless its modality sets ``private``.
        K: Draws per expert.
        beta: The factor β.
        objective: "elbo", "iwae" or "dreg".
        cross: The distribution of the private latents in cross-reconstruction, as in MMVAE+.
        cross_view: γ_c, the weight of the cross-view term.
        augmentation: γ_g, the weight of the augmentation term.
        temperature: τ.
        family: The family of experts and priors, "normal" or "laplace".
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.
    """

    facts = Facts(bound=False, density=True, per_sample=False, nested=True, symmetric=True)
    calls = Calls(encode_again=1)
    name = "idmvae"
    citation = "Zhang et al. 2026"
    private_latents = "yes"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        K: int = 1,
        beta: float = 2.5,
        objective: str = "elbo",
        cross: str = "auxiliary",
        cross_view: float = 80.0,
        augmentation: float = 20.0,
        temperature: float = 1.0,
        family: str = "normal",
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(
            modalities,
            latent=latent,
            K=K,
            beta=beta,
            objective=objective,
            cross=cross,
            family=family,
            scale_map=scale_map,
        )
        self.facts = type(self).facts
        for key, value in (("cross_view", cross_view), ("augmentation", augmentation)):
            if not value >= 0:
                raise InputError(
                    f"idmvae: got {key}={value!r}; expected a weight, 0 (without the term) or more; such as 1.0"
                )
        if not temperature > 0:
            raise InputError(
                f"idmvae: got temperature={temperature!r}; expected a positive number; such as 1.0"
            )
        self.cross_view, self.augmentation, self.temperature = cross_view, augmentation, temperature

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        value, terms = super().bound(batch, experts, warm)
        c, g = self.regularisers(batch, experts)
        return Bound(
            value - self.cross_view * c - self.augmentation * g,
            {**terms, "cross_view": c.detach(), "augmentation": g.detach()},
        )

    def regularisers(self, batch: Batch, experts: Experts) -> Regularisers:
        """c and g as shares of the samples; their mean over a complete batch is the term of the authors."""
        cross_view = augmentation = experts.z.loc.new_zeros(batch.size)
        mask = experts.observed
        others = (experts.mask.sum(0) - 1).clamp(min=1)
        for i, mean in enumerate(experts.z.loc):
            for j in range(i):
                rows = to_device((mask[i] & mask[j]).nonzero()[:, 0], mean.device)
                # (i, j) and (j, i)
                pair = 2 * self._contrast(mean[rows], experts.z.loc[j, rows]) / others[rows]
                cross_view = cross_view.index_put((rows,), pair, accumulate=True)
        z = experts.z.rsample(None, "augmentation.z", "EBD")
        w = experts.w.rsample(None, "augmentation.w", "BW")
        for i, m in enumerate(self.encoded):
            name, span = self.specs[m].name, self.columns[m]
            rows = to_device(mask[i].nonzero()[:, 0], experts.mask.device)
            if self.specs[m].role == "both" and len(rows):
                mixed = self._encode_mixed(name, z[i, rows], w[rows, span], batch, rows)
                x_z = self._contrast(experts.z.loc[i, rows], mixed.z.loc[: len(rows)])
                x_w = self._contrast(experts.w.loc[rows, span], mixed.w.loc[len(rows) :])
                augmentation = augmentation.index_put((rows,), 0.5 * (x_z + x_w), accumulate=True)
        return Regularisers(cross_view, augmentation)

    def _encode_mixed(self, name: str, z: Tensor, w: Tensor, batch: Batch, rows: Tensor) -> Encoded:
        """The experts of generated data in which z and w come from different samples.

        The first N rows are those of E[x | z, w'], where w' belongs to the sample before. The last N
        rows are those of E[x | z', w]. All are computed in one call: rows [N, ...] -> [2N, ...].
        Covariates are those of each row's own sample.
        """
        return self.modalities.encode_mean(
            name,
            torch.cat([z, z.roll(1, 0)]),
            torch.cat([w.roll(1, 0), w]),
            batch,
            torch.cat([rows, rows]),
        )

    def _contrast(self, a: Tensor, b: Tensor) -> Tensor:
        """The share of each sample in X(a, b): rows [N, D], [N, D] -> [N]; 0 for a single pair."""
        unit = functional.normalize(torch.cat([a, b]), dim=-1)  # [2N, D]
        # Similarities are computed in full precision, also under autocast.
        with torch.autocast(unit.device.type, enabled=False):
            similar = unit @ unit.T / self.temperature
        others = similar.masked_fill(torch.eye(len(unit), dtype=torch.bool, device=unit.device), -torch.inf)
        match = similar.diagonal(len(a))  # [N]
        return torch.stack(others.logsumexp(-1).chunk(2)).mean(0) - match

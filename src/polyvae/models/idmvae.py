"""IDMVAE: MMVAE+ with two contrastive terms that keep shared and private codes apart."""

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
from polyvae.utils.errors import InputError


class Regularisers(NamedTuple):
    """What is subtracted from the bound, per datum [B], unweighted."""

    cross_view: Tensor
    augmentation: Tensor


class IDMVAE(MMVAEPlus):
    """MMVAE+ whose experts agree about z, and whose z (w) comes back from what was generated with another datum's w (z).

    L is MMVAE+'s, c the cross-view and g the generative augmentation term of a batch, all experts' means μ:

        L − γ_c c − γ_g g,   c = 1/(M − 1) Σ_{i≠j} X(μ^z_i, μ^z_j),   g = Σ_i ½ [X(μ^z_i, μ^z(x̃_i)) + X(μ^w_i, μ^w(x̂_i))]

    X(a, b) is the normalised temperature-scaled cross-entropy of pairs (a_n, b_n) among all 2B vectors (cosine similarity over τ, no vector
    with itself), the mean of both directions. x̃_i = E[x_i | z, w'] with the datum's z ~ q_i(z | x_i), and w' ~ q(w_i | x_i) of the one
    before it in the batch; x̂_i the reverse; both are encoded again.

    Zhang, Shen & Wang, Disentanglement of Variations with Multimodal Generative Modeling, ICLR 2026. The weights ``cross_view`` γ_c and
    ``augmentation`` γ_g, τ and β are theirs for PolyMNIST-Quadrant (with 128 private columns: ``Modality.private``).

    A datum's terms depend on the others in its batch, hence ``facts.per_sample`` is False; they do not change what a likelihood is. Missing
    modalities: |A| for M, and only data with both modalities (with this one) are each other's negatives and partners.

    Differs from the authors' code (chatzikon/IDMVAE): missing modalities. Their diffusion prior is not here: fit a prior after training. As
    in MMVAE+ the scales of r get no gradient with one modality, or with one column under the softmax map.
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
                    f"idmvae: got {key}={value!r}; expected a weight, 0 (without the term) or more"
                )
        if not temperature > 0:
            raise InputError(f"idmvae: got temperature={temperature!r}; expected a positive number")
        self.cross_view, self.augmentation, self.temperature = cross_view, augmentation, temperature

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        value, terms = super().bound(batch, experts, warm)
        c, g = self.regularisers(batch, experts)
        return Bound(
            value - self.cross_view * c - self.augmentation * g,
            {**terms, "cross_view": c.detach(), "augmentation": g.detach()},
        )

    def regularisers(self, batch: Batch, experts: Experts) -> Regularisers:
        """c and g, as shares of the data: their mean over a complete batch is the authors' term."""
        cross_view = augmentation = experts.z.loc.new_zeros(batch.size)
        others = (experts.mask.sum(0) - 1).clamp(min=1)
        for i, mean in enumerate(experts.z.loc):
            for j in range(i):
                rows = (experts.mask[i] & experts.mask[j]).nonzero()[:, 0]
                pair = (
                    2 * self._contrast(mean[rows], experts.z.loc[j, rows]) / others[rows]
                )  # (i, j) and (j, i)
                cross_view = cross_view.index_put((rows,), pair, accumulate=True)
        z = experts.z.rsample(None, "augmentation.z", "MBD")
        w = experts.w.rsample(None, "augmentation.w", "BW")
        for i, m in enumerate(self.encoded):
            name, span = self.specs[m].name, self.columns[m]
            rows = experts.mask[i].nonzero()[:, 0]
            if self.specs[m].role == "both" and len(rows):
                again = self._encode_mixed(name, z[i, rows], w[rows, span])
                lost_z = self._contrast(experts.z.loc[i, rows], again.z.loc[: len(rows)])
                lost_w = self._contrast(experts.w.loc[rows, span], again.w.loc[len(rows) :])
                augmentation = augmentation.index_put((rows,), 0.5 * (lost_z + lost_w), accumulate=True)
        return Regularisers(cross_view, augmentation)

    def _encode_mixed(self, name: str, z: Tensor, w: Tensor) -> Encoded:
        """The experts of E[x | z, another's w], then of E[x | another's z, w]: rows [N, ...] -> [2N, ...] in one call."""
        return self.modalities.encode_mean(name, torch.cat([z, z.roll(1, 0)]), torch.cat([w.roll(1, 0), w]))

    def _contrast(self, a: Tensor, b: Tensor) -> Tensor:
        """X(a, b), each datum's share of it: rows [N, D], [N, D] -> [N]; 0 for a single pair."""
        unit = functional.normalize(torch.cat([a, b]), dim=-1)  # [2N, D]
        with torch.autocast(unit.device.type, enabled=False):  # a comparison of codes, not a network
            similar = unit @ unit.T / self.temperature
        others = similar.masked_fill(torch.eye(len(unit), dtype=torch.bool, device=unit.device), -torch.inf)
        match = similar.diagonal(len(a))  # [N]
        return torch.stack(others.logsumexp(-1).chunk(2)).mean(0) - match

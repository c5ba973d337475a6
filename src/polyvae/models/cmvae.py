"""CMVAE: MMVAE+ whose shared code lives in clusters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from polyvae.core.batch import Batch
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.priors import MixturePrior
from polyvae.models.mmvaeplus import MMVAEPlus
from polyvae.utils.errors import InputError, check_count, nearest

CRITERIA = ("penalised", "entropy")


class CMVAE(MMVAEPlus):
    """MMVAE+ with p(z) = Σ_c π_c p(z | c), p(z | c) of location μ_c and scale 1; π and μ are learnt, and clusters pruned after training.

    L is MMVAE+'s. In the paper its prior's part is an expectation over the exact posterior of the cluster, q(c | z) ∝ π_c p(z | c):

        β Σ_c q(c | z) [log π_c + log p(z | c) − log q(c | z)] = β log Σ_c π_c p(z | c)

    Palumbo, Manduchi, Laguna, Chopard & Vogt, Deep Generative Clustering with Multimodal Diffusion Variational Autoencoders, ICLR 2024,
    without the diffusion decoders. The defaults are its choice for PolyMNIST.

    ``prune(batches)`` removes the smallest cluster again and again and keeps the number of clusters at which assignments are clearest.
    ``cluster(batch)``: where the modalities' assignments are most often.

    Differs from the public port (MultiVae's; the authors' repository is empty): nats per datum, not a sum over the batch; assignments of a
    missing modality count nothing; a pruned cluster's π is 0, so nothing changes its shape. As in MMVAE+ L is no bound, and the scales of r
    get no gradient with one modality, or with one column under the softmax map.
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=True, symmetric=True)
    name = "cmvae"
    citation = "Palumbo et al. 2024"
    private_latents = "yes"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        clusters: int = 40,
        beta: float = 2.5,
        K: int = 1,
        objective: str = "elbo",
        cross: str = "auxiliary",
        family: str = "laplace",
        scale_map: str = "softmax",
    ) -> None:
        check_count(self.name, "clusters", clusters)
        super().__init__(
            modalities,
            latent=latent,
            K=K,
            beta=beta,
            objective=objective,
            cross=cross,
            prior_components=clusters,
            family=family,
            scale_map=scale_map,
        )
        self.clusters = clusters

    @torch.no_grad()
    def cluster(self, batch: Batch) -> Tensor:
        """The cluster of every datum [B]: the vote of its observed modalities, each by its posterior mean; the prior's if there is none."""
        log_joint, mask = self._assign(self.admit(batch, values=True), False)
        return _vote(log_joint, mask, self._prior.logits > -torch.inf)

    @torch.no_grad()
    def prune(self, batches: Batch | Iterable[Batch], criterion: str = "penalised") -> dict[int, float]:
        """Keep as many clusters as the criterion is lowest at, and return it by their number; the π of all others become 0.

        From all clusters down to two, the one that fewest data vote for goes. With z ~ q_m(z | x_m), H the entropy of q(c | z) and C the
        number of clusters left, the criterion is the mean over observed modalities and data of H / log C ("entropy"), or of
        β H / log C − log p(z) / D ("penalised", the port's: clear assignments that still explain the code).

        ``batches``: one batch, or several, such as ``data.train.batches(500)``. Raises InputError: an unknown criterion, no observed data.
        """
        if criterion not in CRITERIA:
            raise InputError(f"cmvae: unknown criterion {criterion!r}; {nearest(criterion, CRITERIA)}")
        parts = [
            self._assign(self.admit(batch, values=True), True)
            for batch in ([batches] if isinstance(batches, Batch) else batches)
        ]
        if not any(bool(mask.any()) for _, mask in parts):
            raise InputError(
                "cmvae: got no observed modality to prune by; expected batches of data, such as "
                "data.train.batches(500)"
            )
        log_joint, mask = torch.cat([part for part, _ in parts], 2), torch.cat([part for _, part in parts], 1)
        kept = self._prior.logits > -torch.inf  # [C]
        values, tables = {}, {}
        while int(kept.sum()) >= 2:
            count = int(kept.sum())
            tables[count] = kept.clone()
            values[count] = self._criterion(log_joint, mask, kept, criterion)
            mass = functional.one_hot(_vote(log_joint, mask, kept)[mask.any(0)], len(kept)).sum(0)
            kept[torch.where(kept, mass, mass.sum() + 1).argmin()] = False
        if values:
            best = min(values, key=lambda count: values[count])
            self._prior.logits[~tables[best]] = -torch.inf
        return values

    def _assign(self, batch: Batch, sample: bool) -> tuple[Tensor, Tensor]:
        """log p(z | c) + log π_c for a draw of every expert, or for its location: [C, M, B]; and what of M was observed [M, B]."""
        experts = self.experts(batch)
        z = experts.z.rsample(None, "z", "MBD") if sample else experts.z.loc  # [M, B, D]
        clusters, log_pi = self._prior.z().components, self._prior.logits.log_softmax(0)
        return torch.stack([clusters[c].log_prob(z) + log_pi[c] for c in range(self.clusters)]), experts.mask

    def _criterion(self, log_joint: Tensor, mask: Tensor, kept: Tensor, criterion: str) -> float:
        """Of the kept clusters [C], among which π is renormalised."""
        log_joint = log_joint[kept]  # [C', M, B]
        log_q = log_joint.log_softmax(0)
        value = -(log_q.exp() * log_q).sum(0) / math.log(len(log_joint))  # [M, B]
        if criterion == "penalised":
            log_p = log_joint.logsumexp(0) - self._prior.logits.log_softmax(0)[kept].logsumexp(0)
            value = self.beta * value - log_p / self.latent
        share = mask.to(value.dtype) / mask.sum(0).clamp(min=1)
        return float(torch.where(mask, share * value, 0).sum() / mask.any(0).sum())

    @property
    def _prior(self) -> MixturePrior:
        assert isinstance(self.prior, MixturePrior)
        return self.prior


def _vote(log_joint: Tensor, mask: Tensor, kept: Tensor) -> Tensor:
    """What most observed modalities say is the best of the kept clusters, the lowest number if several: [C, M, B] -> [B]."""
    best = torch.where(kept[:, None, None], log_joint, -torch.inf).argmax(0)  # [M, B]
    votes = functional.one_hot(best, len(kept)) * mask[..., None]
    return votes.sum(0).argmax(-1)

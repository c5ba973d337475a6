"""CMVAE: MMVAE+ with clusters in the shared latent space."""

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
    """MMVAE+ whose prior of the shared latent is a learnt mixture, with one component per cluster.

        p(z) = Σ_c π_c p(z | c)

    p(z | c) has location μ_c and scale 1; π and μ are learnt, and clusters are pruned after training.

    The objective L is that of MMVAE+. In the paper, the prior term is an expectation over the exact
    posterior of the cluster, q(c | z) ∝ π_c p(z | c). Both are equal:

        β Σ_c q(c | z) [log π_c + log p(z | c) − log q(c | z)] = β log Σ_c π_c p(z | c)

    Palumbo, Manduchi, Laguna, Chopard & Vogt, Deep Generative Clustering with Multimodal Diffusion
    Variational Autoencoders, ICLR 2024, without the diffusion decoders. The defaults are the paper's
    choice for PolyMNIST.

    ``prune(batches)`` removes the smallest cluster repeatedly and keeps the number of clusters at which
    assignments are clearest. ``cluster(batch)`` returns the cluster that most modalities of a sample are
    assigned to.

    Differs from the public port in MultiVae (the authors' repository is empty): values are in nats per
    sample, not summed over the batch. Missing modalities do not count in assignments. A pruned cluster
    has π = 0, so no tensor changes its shape. As in MMVAE+, L is not a bound.

    Exempt from the laws of ``polyvae.testing``:
    the scales of r get no gradient with one modality, or with one column under the softmax map.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z, and of each w_m unless its modality sets ``private``.
        clusters: Number of clusters before pruning.
        beta: The factor β.
        K: Draws per expert.
        objective: "elbo", "iwae" or "dreg".
        cross: The distribution of the private latents in cross-reconstruction, as in MMVAE+.
        family: The family of experts and priors, "normal" or "laplace".
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.
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
        """The cluster of every sample, [B]: the vote of its observed modalities, each by its posterior mean.

        Where nothing was observed, it is the cluster with the largest weight in the prior.
        """
        log_joint, mask = self._assign(self.admit(batch, values=True), False)
        votes = _vote(log_joint, mask, self._prior.logits > -torch.inf)
        return torch.where(mask.any(0), votes, self._prior.logits.argmax())

    @torch.no_grad()
    def prune(self, batches: Batch | Iterable[Batch], criterion: str = "penalised") -> dict[int, float]:
        """Prune clusters to the number at which a criterion is lowest.

        The clusters are removed one by one, from all of them down to two. The cluster that the fewest
        samples are assigned to is removed first. The π of the clusters that are not kept becomes 0.

        Let z ~ q_m(z | x_m), H the entropy of q(c | z), and C the number of remaining clusters. The
        criteria are means over samples and their observed modalities:

            "entropy"      H / log C
            "penalised"    β H / log C − log p(z) / D

        "penalised" is the criterion of the port: assignments are to be clear and are still to explain
        the latents.

        Args:
            batches: One batch, or several, such as ``data.train.batches(500)``.
            criterion: "penalised" or "entropy".

        Returns:
            Number of clusters -> criterion.

        Raises:
            InputError: An unknown criterion, or no observed data.
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
        """Joint log-densities of latents and clusters, and what was observed.

        Args:
            batch: The data.
            sample: Draw z from every expert; otherwise use its location.

        Returns:
            log p(z | c) + log π_c, [C, E, B], and the mask of the experts, [E, B].
        """
        experts = self.experts(batch)
        z = experts.z.rsample(None, "z", "EBD") if sample else experts.z.loc  # [E, B, D]
        clusters, log_pi = self._prior.z().components, self._prior.logits.log_softmax(0)
        return torch.stack([clusters[c].log_prob(z) + log_pi[c] for c in range(self.clusters)]), experts.mask

    def _criterion(self, log_joint: Tensor, mask: Tensor, kept: Tensor, criterion: str) -> float:
        """The criterion for the kept clusters [C], over which π is renormalised."""
        log_joint = log_joint[kept]  # [C', E, B]
        log_q = log_joint.log_softmax(0)
        value = -(log_q.exp() * log_q).sum(0) / math.log(len(log_joint))  # [E, B]
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
    """The best kept cluster of the largest number of observed modalities: [C, E, B] -> [B].

    The lowest number wins a tie.
    """
    best = torch.where(kept[:, None, None], log_joint, -torch.inf).argmax(0)  # [E, B]
    votes = functional.one_hot(best, len(kept)) * mask[..., None]
    return votes.sum(0).argmax(-1)

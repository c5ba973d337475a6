"""Relating by contrasting: a multimodal VAE that also separates related from unrelated pairs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polyvae.core.aggregate import Experts
from polyvae.core.batch import Batch, OnHost
from polyvae.core.bounds import Bound, iwae, log_over_components
from polyvae.core.distributions import Diagonal, Mixture
from polyvae.core.facts import Calls, Facts, Requirements
from polyvae.core.modalities import Modalities
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE
from polyvae.models.jmvae import JMVAE
from polyvae.models.mmvae import MMVAE
from polyvae.models.mmvaeplus import MMVAEPlus
from polyvae.models.mvae import MVAE
from polyvae.utils.devices import to_device
from polyvae.utils.errors import LABELS, SELECT, InputError, check_count, is_number, nearest

BASES: dict[str, Callable[..., MultimodalVAE]] = {
    "mmvae": MMVAE,
    "mvae": MVAE,
    "jmvae": JMVAE,
    "mmvae+": MMVAEPlus,
}
_OWN_OPTIONS = ("modalities", "latent", "beta", "K", "scale_map")


class Block(NamedTuple):
    """Pairs of values x_m and x_n, related and unrelated.

    Row 0 contains the related pairs: each of the R samples that have both modalities, paired with
    itself. Row s pairs each of these samples with the one s places further on.

    Attributes:
        m: Index of the first modality.
        n: Index of the second modality.
        first: [1 + N, R], the samples that x_m is taken from.
        second: [1 + N, R], the samples that x_n is taken from.
    """

    m: int
    n: int
    first: Tensor
    second: Tensor


class Gathered(Mapping[str, Tensor]):
    """A mapping name -> x[rows], gathered on access.

    The values of pairs are needed only by a posterior that depends on the data itself.
    """

    def __init__(self, data: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        self.data, self.rows = data, rows

    def __getitem__(self, name: str) -> Tensor:
        return self.data[name][self.rows[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


class Contrastive(MultimodalVAE):
    """A base model whose bound is extended by a contrast of related and unrelated pairs of modalities.

    Related pairs come from one sample, unrelated pairs from two. For modalities m, n and sample i, with
    j running over ``negatives`` other samples of the batch and p̂ an importance estimate under the base
    model:

        c_i^{mn} = log p̂(x_m^i, x_n^i) − ½ [log Σ_j p̂(x_m^i, x_n^j) + log Σ_j p̂(x_m^j, x_n^i)]
        L_i = L_held,i + γ · mean of c_i^{mn} over the pairs m < n that i observed
        p̂(x_m, x_n) = Σ_v π_v (1/K) Σ_k Π s-weighted p(x | z_vk, w_vk) p(z_vk) p(w_vk) / q(z_vk) q(w_vk),   given x_m, x_n alone

    L_held is the bound of the base model.

    Shi, Paige, Torr & Siddharth, Relating by Contrasting: A Data-efficient Framework for Multimodal
    Generative Models, ICLR 2021. The pointwise mutual information of related pairs is to exceed that of
    unrelated pairs; the marginals cancel or are constant.

    With more than two modalities, the contrast is the mean over pairs (the paper has two modalities).
    With missing modalities, a pair counts where the sample has both, and its partners are the samples
    that have both. The j-th partner is j places further on among them, so the same pairs serve both
    directions; shuffle the data. Both modalities of a pair must be decoded, and one of them encoded.
    With private latents, p̂ draws each from its own posterior. ``log_marginal`` of a pair less those of
    its halves measures how related it is.

    The term of a sample depends on other samples, hence ``facts.per_sample`` is False. c is unbounded,
    because unrelated pairs can become arbitrarily unlikely. A small γ lets L_held limit it (the paper
    gives the related term a larger weight).

    The pairs are decoded as one batch, in one call per modality: 1 + ``negatives`` pairs for each two
    modalities and sample. The experts are those of the batch. The values are not copied where the last
    layer computes squared distances. "jmvae" encodes the pairs if it has exactly two encoded modalities.

    Differs from the authors' code: none is public, so this follows the paper. There is one weight γ,
    where the paper has a weight on the related term (here the related and unrelated terms have the ratio
    1/γ + 1 to 1).

    Exempt from the laws of ``polyvae.testing``:
    with the base "jmvae", the objective is not nested. As in MMVAE+, the scales of r get no gradient with one column under the softmax map.

    Args:
        modalities: The specifications of the modalities.
        base: The base model, "mmvae", "mvae", "jmvae" or "mmvae+".
        latent: Columns of z.
        beta: The factor β of the base.
        K: Draws per component.
        gamma: γ, the weight of the contrast.
        negatives: Number of unrelated partners per sample and direction.
        unrelated: The estimate for unrelated pairs. "iwae": log p̂. "cubo": ½ log of the mean squared
            weight, whose exact value is above log p (Dieng et al. 2017). Minimising a lower bound, as
            with "iwae", gives no guarantee.
        base_options: Further keywords of the base; {"objective": "iwae"} is the choice of the paper.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option, a number out of range, or modalities without a pair to contrast.
    """

    facts = Facts(bound=False, density=True, per_sample=False, nested=False, symmetric=True)
    requires = Requirements(text="at least two modalities that are decoded, one of them encoded", least=2)
    calls = Calls(decode=2)
    name = "mmvae-contrastive"
    citation = "Shi et al. 2021"
    private_latents = "optional"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        base: str = "mmvae",
        latent: int = 32,
        beta: float = 1.0,
        K: int = 4,
        gamma: float = 1.0,
        negatives: int = 4,
        unrelated: str = "iwae",
        base_options: Mapping[str, Any] | None = None,
        scale_map: str = "softplus",
    ) -> None:
        for key, value, known in (("base", base, tuple(BASES)), ("unrelated", unrelated, ("iwae", "cubo"))):
            if value not in known:
                raise InputError(f"mmvae-contrastive: unknown {key} {value!r}; {nearest(value, known)}")
        further = [key for key in inspect.signature(BASES[base]).parameters if key not in _OWN_OPTIONS]
        for key in base_options or {}:
            if key not in further:
                raise InputError(
                    f"mmvae-contrastive: unknown key {key!r} of base_options for base={base!r}; "
                    f"{nearest(key, further)}"
                )
        nn.Module.__init__(self)
        self.held = BASES[base](
            modalities, latent=latent, beta=beta, K=K, scale_map=scale_map, **(base_options or {})
        )
        check_count(self.name, "negatives", negatives)
        if not is_number(gamma) or not gamma >= 0:
            raise InputError(
                f"mmvae-contrastive: got gamma={gamma!r}; expected a weight, 0 (the base alone) or more; such as 1.0"
            )
        # Sorted by name, so that the pairs do not depend on the order of the modalities.
        order = sorted(range(len(modalities)), key=lambda m: modalities[m].name)
        roles = [spec.role for spec in modalities]
        self.pairs = [
            (m, n)
            for m, n in combinations(order, 2)
            if "input" not in (roles[m], roles[n]) and "both" in (roles[m], roles[n])
        ]
        if not self.pairs:
            raise InputError(
                f"mmvae-contrastive: got modalities with roles {roles}; expected two that are decoded, one "
                f"of them encoded, for a pair to contrast; give them role='both'; {SELECT}, {LABELS}"
            )
        self.base, self.gamma, self.negatives, self.unrelated = base, gamma, negatives, unrelated
        self.facts = self.facts._replace(nested=self.held.facts.nested)
        self.base_options = base_options

    # The networks, the prior and the options of the base are registered once, under ``held``.

    @property
    def modalities(self) -> Modalities:  # type: ignore[override]
        return self.held.modalities

    @property
    def prior(self) -> Any:  # type: ignore[override]
        return self.held.prior

    @property
    def latent(self) -> int:  # type: ignore[override]
        return self.held.latent

    @property
    def beta(self) -> float:
        return self.held.beta

    @beta.setter
    def beta(self, value: float) -> None:
        self.held.beta = value

    @property
    def K(self) -> int:
        return self.held.K

    @K.setter
    def K(self, value: int) -> None:
        self.held.K = value

    @property
    def seen(self) -> int:  # type: ignore[override]
        return self.held.seen

    @property
    def family(self) -> str:  # type: ignore[override]
        return self.held.family

    @property
    def scale_map(self) -> str:  # type: ignore[override]
        return self.held.scale_map

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return self.held.posterior(batch, experts)

    def private(self, batch: Batch, experts: Experts, z: Tensor, p_w: Diagonal) -> Diagonal:
        return self.held.private(batch, experts, z, p_w)

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        value, terms = self.held.bound(batch, experts, warm)
        c = self.contrast(batch, experts)
        return Bound(value + self.gamma * c, {**terms, "contrast": c.detach()})

    def contrast(self, batch: Batch, experts: Experts) -> Tensor:
        """The mean of c^{mn} over the pairs of modalities that each sample has: [B], in nats.

        It is 0 where there is no such pair, or no partner.
        """
        blocks = [block for block in self._blocks(batch) if block.first.numel()]
        total = experts.z.loc.new_zeros(batch.size)
        if not blocks:
            return total
        log_weight, weights = self._log_weights(batch, experts, blocks)
        log_p = log_over_components(weights, iwae(log_weight))  # [P]
        other = (
            log_p if self.unrelated == "iwae" else 0.5 * log_over_components(weights, iwae(2 * log_weight))
        )
        counted = torch.stack([batch.mask[m] & batch.mask[n] for m, n in self.pairs]).sum(0)  # [B]
        sizes = [block.first.numel() for block in blocks]
        for block, related, mixed in zip(
            blocks, torch.split(log_p, sizes), torch.split(other, sizes), strict=True
        ):
            rows, shape = to_device(block.first[0], total.device), block.first.shape
            if shape[0] > 1:
                mixed = mixed.view(shape)[1:]  # [N, R]
                # Rolled, column i contains the pairs with x_n of sample i.
                reverse = torch.stack([line.roll(s) for s, line in enumerate(mixed, 1)])
                c = related.view(shape)[0] - 0.5 * (mixed.logsumexp(0) + reverse.logsumexp(0))
                total = total.index_put((rows,), c / counted[rows], accumulate=True)
        return total

    def _blocks(self, batch: Batch) -> Iterator[Block]:
        """The pairs of samples, on the host."""
        mask = self.modalities.observed(batch)
        for m, n in self.pairs:
            rows = (mask[m] & mask[n]).nonzero()[:, 0]  # [R]
            shifts = range(min(self.negatives + 1, max(1, len(rows))))
            yield Block(m, n, rows.expand(len(shifts), -1), torch.stack([rows.roll(-s) for s in shifts]))

    def _log_weights(self, batch: Batch, experts: Experts, blocks: Sequence[Block]) -> tuple[Tensor, Tensor]:
        """Log importance weights of all pairs as one batch, [K, V, P], and the component weights [V, P]."""
        count = sum(block.first.numel() for block in blocks)
        # The sample that each value of a pair is taken from, [M, P].
        rows = torch.zeros(len(batch.mask), count, dtype=torch.long)
        mask = torch.zeros_like(rows, dtype=torch.bool)
        start = 0
        for m, n, first, second in blocks:
            span = slice(start, start := start + first.numel())
            rows[m, span], rows[n, span] = first.flatten(), second.flatten()
            mask[[m, n], span] = True
        here = to_device(rows, batch.device)
        by_name = dict(zip(batch.data, here, strict=True))
        pairs = Batch(
            Gathered(batch.data, by_name),
            to_device(mask, batch.device),
            Gathered(batch.entries, by_name),
            complete=batch.complete and len(mask) == 2,
            covariates=batch.covariates._replace(rows=by_name),
            on_host=None if batch.device.type == "cpu" else OnHost(mask),
        )
        encoded = to_device(rows[self.encoded], batch.device)
        position = torch.arange(len(encoded), device=batch.device)[:, None]
        columns = torch.arange(len(self.owner), device=batch.device)
        own = Experts(
            experts.z[position, encoded],
            experts.w[here[self.owner].T, columns],
            to_device(mask[self.encoded], batch.device),
            mask[self.encoded],
        )
        q = self.posterior(pairs, own).compact()
        z = q.stratified(self.K)  # [K, V, P, D]
        p_w = self.prior.w(z)
        q_w = self.private(pairs, own, z, p_w)
        w = q_w.rsample(name="w")
        decoded = None if pairs.complete else mask[:, None, None].to(q.table.device) & q.table.any(1)
        log_x = self.modalities.log_likelihood(batch, z, w, decoded, rows)  # [M, K, V, P]
        log_p, log_q = self.prior.z().log_prob(z) + p_w.log_prob(w), q.log_prob(z) + q_w.log_prob(w)
        return self.weighted(log_x) + log_p - log_q, q.weights

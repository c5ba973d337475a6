"""Relating by contrasting: a multimodal VAE that also tells pairs of one datum from pairs of two."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polyvae.core.aggregate import Experts
from polyvae.core.batch import Batch
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
from polyvae.utils.errors import LABELS, SELECT, InputError, check_count, nearest

BASES: dict[str, Callable[..., MultimodalVAE]] = {
    "mmvae": MMVAE,
    "mvae": MVAE,
    "jmvae": JMVAE,
    "mmvae+": MMVAEPlus,
}
_OURS = ("modalities", "latent", "beta", "K", "scale_map")


class Block(NamedTuple):
    """Pairs (x_m of one datum, x_n of another): ``m`` and ``n``, and whose value of each, ``first`` and ``second`` [1 + N, R].

    Row 0 is related: R data that have both modalities, each with itself. Row s pairs each with the one s places on among the R.
    """

    m: int
    n: int
    first: Tensor
    second: Tensor


class Gathered(Mapping[str, Tensor]):
    """name -> x[rows]: the values of pairs, which only a posterior that looks at data asks for."""

    def __init__(self, data: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        self.data, self.rows = data, rows

    def __getitem__(self, name: str) -> Tensor:
        return self.data[name][self.rows[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


class Contrastive(MultimodalVAE):
    """A model's bound, and that pairs of modalities of one datum are likelier under it than pairs mixed from two data.

    For modalities m, n and datum i, j running over ``negatives`` other data of the batch, p̂ an importance estimate under the held model:

        c_i^{mn} = log p̂(x_m^i, x_n^i) − ½ [log Σ_j p̂(x_m^i, x_n^j) + log Σ_j p̂(x_m^j, x_n^i)]
        L_i = L_held,i + γ · mean of c_i^{mn} over the pairs m < n that i observed
        p̂(x_m, x_n) = Σ_v π_v (1/K) Σ_k Π s-weighted p(x | z_vk, w_vk) p(z_vk) p(w_vk) / q(z_vk) q(w_vk),   given x_m, x_n alone

    Shi, Paige, Torr & Siddharth, Relating by Contrasting: A Data-efficient Framework for Multimodal Generative Models, ICLR 2021: the
    pointwise mutual information of related pairs is to exceed that of unrelated ones, whose marginals cancel or are constant.

    ``base``: the model held, "mmvae", "mvae", "jmvae" or "mmvae+"; ``base_options`` its further keywords: {"objective": "iwae"} is the
    paper's choice. ``unrelated``: "iwae" as above, or "cubo": for unrelated pairs ½ log of the mean squared weight, whose exact value is
    above log p (Dieng et al. 2017), takes log p̂'s place, for to push a lower bound down proves nothing.
    With private codes p̂ takes each from its own posterior. ``log_marginal`` of a pair less those of its halves tells how related it is.

    More than two modalities: the mean over pairs, the paper having two. Missing modalities: a pair counts where the datum observed both,
    and its partners are data that did; the j-th partner is j places on among them, so the same pairs serve both directions (shuffle the
    data). Pairs need both decoded and one encoded. A datum's term depends on others, hence ``facts.per_sample`` is False. c is unbounded,
    as unrelated pairs can get ever less likely: γ small enough lets L_held hold it (the paper weighs the related term up).
    Pairs are a batch of their own, decoded in one call, 1 + ``negatives`` pairs for each two modalities and datum. Experts are the
    batch's own, and so are values where the last layer gives squared distances; "jmvae" over two encoded modalities alone encodes pairs.

    No code of the authors is public: this is after the paper, with one weight γ where it has one on the related term (here 1/γ + 1 to 1).
    Exempt: nested unless the base is "jmvae", and so not by ``facts``; as in MMVAE+ the scales of r get no gradient with one column under
    the softmax map.
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
        further = [key for key in inspect.signature(BASES[base]).parameters if key not in _OURS]
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
        if not isinstance(gamma, int | float) or not gamma >= 0:
            raise InputError(
                f"mmvae-contrastive: got gamma={gamma!r}; expected a weight, 0 (the base alone) or more"
            )
        # In the order of the names, so that the order of the modalities does not say who is paired with whom.
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
                f"of them encoded, else there is no pair to contrast; give them role='both'; {SELECT}, "
                f"{LABELS}"
            )
        self.base, self.gamma, self.negatives, self.unrelated = base, gamma, negatives, unrelated
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
    def beta(self) -> float:  # type: ignore[override]
        return self.held.beta

    @property
    def K(self) -> int:  # type: ignore[override]
        return self.held.K

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
        """The mean of c^{mn} over the pairs that each datum observed: [B], in nats; 0 where there is none, or no partner."""
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
            rows, shape = block.first[0], block.first.shape
            if shape[0] > 1:
                mixed = mixed.view(shape)[1:]  # [N, R]
                turned = torch.stack(
                    [line.roll(s) for s, line in enumerate(mixed, 1)]
                )  # the pair whose x_n is i's
                c = related.view(shape)[0] - 0.5 * (mixed.logsumexp(0) + turned.logsumexp(0))
                total = total.index_put((rows,), c / counted[rows], accumulate=True)
        return total

    def _blocks(self, batch: Batch) -> Iterator[Block]:
        for m, n in self.pairs:
            rows = (batch.mask[m] & batch.mask[n]).nonzero()[:, 0]  # [R]
            shifts = range(min(self.negatives + 1, max(1, len(rows))))
            yield Block(m, n, rows.expand(len(shifts), -1), torch.stack([rows.roll(-s) for s in shifts]))

    def _log_weights(self, batch: Batch, experts: Experts, blocks: Sequence[Block]) -> tuple[Tensor, Tensor]:
        """Log importance weights of all pairs as one batch, [K, V, P], and the views' weights [V, P]."""
        count = sum(block.first.numel() for block in blocks)
        # Which sample's value of each modality a pair has, [M, P].
        rows = torch.zeros(len(batch.mask), count, dtype=torch.long, device=batch.device)
        mask = torch.zeros_like(rows, dtype=torch.bool)
        start = 0
        for m, n, first, second in blocks:
            span = slice(start, start := start + first.numel())
            rows[m, span], rows[n, span] = first.flatten(), second.flatten()
            mask[[m, n], span] = True
        by_name = dict(zip(batch.data, rows, strict=True))
        pairs = Batch(
            Gathered(batch.data, by_name),
            mask,
            Gathered(batch.entries, by_name),
            complete=batch.complete and len(mask) == 2,
        )
        encoded = rows[self.encoded]
        mine = torch.arange(len(encoded), device=batch.device)[:, None]
        columns = torch.arange(len(self.owner), device=batch.device)
        own = Experts(experts.z[mine, encoded], experts.w[rows[self.owner].T, columns], mask[self.encoded])
        q = self.posterior(pairs, own).compact()
        z = q.stratified(self.K)  # [K, V, P, D]
        p_w = self.prior.w(z)
        q_w = self.private(pairs, own, z, p_w)
        w = q_w.rsample(name="w")
        decoded = None if pairs.complete else mask[:, None, None] & q.active
        log_x = self.modalities.log_likelihood(batch, z, w, decoded, rows)  # [M, K, V, P]
        log_p, log_q = self.prior.z().log_prob(z) + p_w.log_prob(w), q.log_prob(z) + q_w.log_prob(w)
        return self.weighted(log_x) + log_p - log_q, q.weights

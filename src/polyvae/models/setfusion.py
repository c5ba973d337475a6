"""Set fusion: a learnt, permutation-invariant function of the experts as joint posterior."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyvae.core import noise
from polyvae.core.aggregate import Experts, everything, joint
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import SCALES, Diagonal, Mixture, Normal
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.networks.mlp import layers
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.devices import to_device
from polyvae.utils.errors import InputError, check_count, nearest

POOLS = ("sum", "attention")
VARIANTS = ("conditional", "mixture")


class SetFusion(MultimodalVAE):
    """A joint posterior q(z | x_S) for every subset S, by a network that takes the set of its experts.

    Each encoder gives features h_m = (μ_m, log σ_m). The posterior is N(ρ(Σ_{m∈S} χ(h_m))) ("sum"), or the χ(h_m) of S
    first exchange information in blocks of self-attention ("attention"). χ, ρ and the blocks are common to all
    modalities and subsets, so the order of the modalities does not matter, and a missing modality is absent.

    A random S of what was observed, A, is encoded, and all of A once more. The rest of A is decoded from q(z | x_A):

        L = Σ over S of ρ(S) [L_S + L_{A∖S}]
        L_S = E_{q(z|x_S)} Σ_{m∈S} s_m log p(x_m | z) − β KL(q(z | x_S) || p(z))
        L_{A∖S} = E_{q(z|x_A)} Σ_{m∈A∖S} s_m log p(x_m | z) − β KL(q(z | x_A) || q(z | x_S))

    L_S is a bound on log p(x_S). L_{A∖S} is one on log p(x_{A∖S} | x_S) only if q(z | x_S) is the exact posterior, so L is
    not a bound in general. S has a uniform size from 0 to |A|, and uniform members. With S empty, q(z | x_S) is p(z), and
    L_{A∖S} the ELBO.

    ``variant="mixture"`` is the bound on log p(x_A) that mixture models have, in which the rest is decoded from
    q(z | x_S), too: E_{q(z|x_S)} Σ_{m∈A} s_m log p(x_m | z) − β KL(q(z | x_S) || p(z)).

    Hirt, Campolo, Leong & Ortega, Learning Multi-Modal Generative Models with Permutation-Invariant Encoders and
    Tighter Variational Objectives, TMLR 2024 (arXiv 2309.00380), read in the authors' code. A target has no expert and
    belongs to the rest of A.

    Differs from the authors' code (marcelah/MaskedMultimodalVAE): KLs are exact, not sampled. There, each modality is
    in S with probability 1/2. The posterior of the empty set is the prior; there, it is computed by the network. The
    features are those of normal experts, with 2 D columns. There is no mixture as posterior, and no learnt prior.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z.
        beta: The factor β.
        K: Draws of z.
        pool: "sum" or "attention".
        variant: "conditional" or "mixture".
        width: Width of the hidden layers and of the pooled features.
        depth: Blocks of self-attention, for "attention".
        heads: Heads of each; they divide the width.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option or a number out of range.
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=True, symmetric=True)
    name = "set-fusion"
    citation = "Hirt et al. 2024"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        pool: str = "sum",
        variant: str = "conditional",
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=None)
        for key, count in (("K", K), ("width", width), ("depth", depth), ("heads", heads)):
            check_count(self.name, key, count)
        for key, value, known in (("pool", pool, POOLS), ("variant", variant, VARIANTS)):
            if value not in known:
                raise InputError(f"set-fusion: unknown {key} {value!r}; {nearest(value, known)}")
        if pool == "attention" and width % heads:
            raise InputError(
                f"set-fusion: got width={width} with heads={heads}; expected heads that divide the width; "
                "change one of them"
            )
        self.K, self.pool, self.variant = K, pool, variant
        self.width, self.depth, self.heads = width, depth, heads
        self.facts = self.facts._replace(bound=variant == "mixture")
        self.fusion = _Fusion(latent, width, depth if pool == "attention" else 0, heads)

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return self._mixture(experts, everything(experts.mask))

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        subset, whole = self._subset(experts.observed), everything(experts.observed)  # [1, E, B]
        q = self._mixture(experts, torch.cat([subset, whole]))  # S, and A
        z = q.stratified(self.K)  # [K, 2, B, D]
        conditional = self.variant == "conditional"
        members = self.modalities.by_modality(subset, torch.zeros_like(subset[:, 0]))[:, 0]  # [M, B]
        decoded = torch.stack(
            [members, ~members] if conditional else [~members | members, members & ~members], 1
        )
        log_x = self.modalities.log_likelihood(batch, z, z[..., :0], decoded[:, None])  # [M, K, 2, B]
        kl = q.components[0].kl(self.p_z)  # [B]
        rest = q.components[1].kl(q.components[0])
        none = torch.zeros_like(kl)
        terms = {"kl/z": torch.stack([kl, none])[None]}  # [1, 2, B]
        if conditional:
            terms["kl/rest"] = torch.stack([none, rest])[None]
        # S may be empty: its term is then that of the prior, also where it decodes.
        weights = to_device(whole, z.device).any(1).to(z.dtype).expand(2, -1)  # [2, B]
        return self.bound_of(weights, log_x, terms, warm * self.beta)

    def _mixture(self, experts: Experts, membership: Tensor) -> Mixture:
        here = to_device(membership, experts.z.loc.device)
        loc, raw = self.fusion(experts.z, here)  # [V, B, D]
        q = Normal(loc, SCALES[self.scale_map](raw))
        return joint(q.where(here.any(1)[..., None], Normal.unit(tuple(loc.shape), loc)), membership)

    def _subset(self, mask: Tensor) -> Tensor:
        """A random subset of what was observed, of uniform size from 0: [E, B] -> [1, E, B]."""
        # Independent uniform numbers below a common one: their count is uniform.
        like = torch.empty((), device=mask.device)
        share = noise.uniform((mask.shape[1],), like, "share", "B")
        return mask & (noise.uniform((1, *mask.shape), like, "subset", "VEB") < share)


class _Fusion(nn.Module):
    """Experts [E, B, D], membership [V, E, B] -> the parameters of normal distributions, [V, B, D]."""

    def __init__(self, latent: int, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.of_loc, self.of_scale = nn.Linear(latent, width), nn.Linear(latent, width, bias=False)
        self.each = nn.Linear(width, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width) if blocks else nn.Identity()
        self.pooled = nn.Linear(width, width)
        self.loc, self.raw = nn.Linear(width, latent), nn.Linear(width, latent)

    def forward(self, experts: Diagonal, membership: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.each(
            (self.of_loc(experts.loc) + self.of_scale(experts.scale.log())).relu()
        )  # [E, B, F]
        member = membership.transpose(1, 2)  # [V, B, E]
        hidden = hidden.transpose(0, 1).expand(len(member), *member.shape[1:], -1)  # [V, B, E, F]
        for block in self.blocks:
            hidden = block(hidden, member)
        counted = torch.where(member[..., None], self.norm(hidden), 0)
        hidden = self.pooled(counted.sum(2)).relu()
        # Densities are computed in full precision, also under autocast.
        return self.loc(hidden).to(experts.loc.dtype), self.raw(hidden).to(experts.loc.dtype)


class _Block(nn.Module):
    """Self-attention among the members of a set, and a network for each of them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.each = nn.Sequential(*layers([width, width, width]))

    def forward(self, x: Tensor, member: Tensor) -> Tensor:
        """[V, B, E, F] of the members [V, B, E] -> [V, B, E, F]; values of others have no influence on members."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for part in self.project(self.before(x)).chunk(3, -1)
        )  # [V, B, heads, E, F / heads]
        # An empty set attends to everything, because attention to nothing is not defined; it is not used.
        seen = (member | ~member.any(-1, keepdim=True))[:, :, None, None]  # [V, B, 1, 1, E]
        attended = functional.scaled_dot_product_attention(
            query, key, value, seen.expand(-1, -1, -1, x.shape[2], -1)
        )
        x = x + self.merge(attended.transpose(-2, -3).flatten(-2))
        out: Tensor = x + self.each(self.after(x))
        return out

"""Nexus: a VAE per modality, and a shared latent above them, inferred from their messages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polyvae.core import noise
from polyvae.core.aggregate import Experts, everything, joint, random_sizes
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, over_components
from polyvae.core.distributions import Mixture, Normal
from polyvae.core.facts import Facts, Requirements
from polyvae.core.modality import Modality
from polyvae.core.networks.mlp import layers
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.models.parts.levels import sizes, top_down
from polyvae.utils.errors import InputError, check_count, is_number


class Nexus(MultimodalVAE):
    """Two levels: a VAE with latent w_m per modality, and above them z, inferred from messages f_m(w_m).

    p(X, w, z) = p(z) Π_m p(w_m | z) p(x_m | w_m),  p(w_m | z) = N(g_m(z), 1/(2γ)),  q(z | w) = N(h(mean_{m∈A} f_m(w_m))):

        L = Σ_m [E_{q_m} s_m log p(x_m | w_m) − β KL(q(w_m | x_m) || N(0, 1))] + E_{q(z|w̄)} Σ_m log p(w̄_m | z) − β KL(q(z | w̄) || p(z))

    with w̄ the same draw of w, from which no gradient flows.

    Vasco, Yin, Melo & Paiva, Leveraging Hierarchy in Multimodal Generative Models for Effective
    Cross-Modality Inference, Neural Networks 2022, sections 4 and 5.

    In training, with probability ``drop``, the messages of 1 to |A| − 1 modalities of a sample are
    dropped, drawn uniformly. z must predict their latents all the same. Evaluation drops nothing.

    The two levels are not fitted to one another, so the objective is not a bound. Likelihoods and
    generation are those of the joint density above. The posterior of z is computed from the means of the
    w_m, not from draws. A latent that was not inferred is drawn from p(w_m | z). A target, which has no
    expert, is decoded from such a draw in training, too.

    Differs from the authors' code (miguelsvasco/nexus_pytorch): missing modalities send no message, and
    z is not trained to predict their latents. One γ is the precision of a density, so its constant
    counts, too (theirs weights the squared error of w_m: 1 for images, 50 for labels). w_m is drawn
    around g_m(z), where theirs decodes g_m(z) itself, hence the larger default of γ. There is no
    BatchNorm. Likelihoods are those of the modalities.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z, and of each w_m unless its modality sets ``private``.
        beta: The factor β.
        K: Draws of the latents per sample.
        gamma: γ, half the precision of p(w_m | z).
        drop: The probability that a sample loses messages in training.
        message: Width of the messages f_m.
        hidden: Widths of the hidden layers of h, and in reverse order of the g_m.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: A modality without a private latent, or a number out of range.
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=True, symmetric=True)
    requires = Requirements(text="private latents")
    name = "nexus"
    citation = "Vasco et al. 2022"
    private_latents = "yes"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        gamma: float = 10.0,
        drop: float = 0.2,
        message: int = 512,
        hidden: Sequence[int] = (512, 512),
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, seen=0, private=latent)
        check_count(self.name, "K", K)
        check_count(self.name, "message", message)
        if not is_number(gamma) or not gamma > 0:
            raise InputError(
                f"nexus: got gamma={gamma!r}; expected a number above 0, half the precision of p(w | z); such as 10.0"
            )
        if not is_number(drop) or not 0 <= drop <= 1:
            raise InputError(f"nexus: got drop={drop!r}; expected a probability, from 0 to 1; such as 0.2")
        self.K, self.gamma, self.drop, self.message = K, gamma, drop, message
        self.hidden = sizes(self.name, hidden)
        self.prior = top_down(
            self, latent, self.hidden, "its decoder sees nothing else", 1 / math.sqrt(2 * gamma)
        )
        for net in self.modalities.values():
            if net.encoder is not None:
                net.parts["message"] = nn.Linear(net.private, message)
        self.nexus = nn.Sequential(nn.ReLU(), *layers([message, *self.hidden]), nn.ReLU())
        width = self.hidden[-1] if self.hidden else message
        self.loc, self.raw = nn.Linear(width, latent), nn.Linear(width, latent)

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return joint(self._from_messages(experts.w.loc, experts.mask)[None], everything(experts.observed))

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        own = self.own(experts)  # [B, W]
        inferred = experts.w.rsample(self.K, "w")  # [K, B, W]
        fixed = inferred.detach()  # w̄
        q = self._from_messages(fixed, self._kept(experts.mask))  # [K, B, D]
        z = q.rsample()
        p_w = self.prior.w(z)  # [K, B, W]
        w = torch.where(own, inferred, p_w.rsample(None, "top_down", "KBW"))
        weights = joint(experts.z[:1], everything(experts.observed)).weights  # [1, B]
        log_x = self.decode_components(batch, weights, z[:, None], w[:, None])  # [M, K, 1, B]
        unit = Normal.unit(tuple(experts.w.loc.shape), fixed)
        kl_w = torch.where(own, experts.w.kl_columns(unit), 0).sum(-1).expand(self.K, 1, -1)  # [K, 1, B]
        kl_z = q.kl(self.p_z)[:, None]
        log_w = torch.where(own, p_w.columns(fixed), 0).sum(-1)[:, None]
        each = self.weighted(log_x) + log_w - warm * self.beta * (kl_z + kl_w)
        terms = self.terms(weights, log_x, {"kl/z": kl_z, "kl/w": kl_w, "codes": log_w})
        return Bound(over_components(weights, each.mean(0)), terms)

    def _from_messages(self, w: Tensor, kept: Tensor) -> Normal:
        """q(z | w) from the private latents [..., B, W] of the ``kept`` modalities [E, B]: [..., B, D]."""
        nets = [(self.modalities.at(m), self.columns[m]) for m in self.encoded]
        messages = [net.parts["message"](w[..., span]).to(w.dtype) for net, span in nets]
        each = [torch.where(row[:, None], message, 0) for row, message in zip(kept, messages, strict=True)]
        total = torch.stack(each).sum(0)  # [..., B, message]
        hidden = self.nexus(total / kept.sum(0).clamp(min=1)[:, None])
        return Normal(self.loc(hidden).to(w.dtype), nets[0][0].scale(self.raw(hidden).to(w.dtype)))

    def _kept(self, mask: Tensor) -> Tensor:
        """The modalities whose messages are used: [E, B] bool.

        All that were observed; in training, with probability ``drop``, a random proper subset of them.
        """
        if not self.training or not self.drop:
            return mask
        dropped = noise.uniform((1, mask.shape[1]), self.loc.weight, "drop", "VB") < self.drop  # [1, B]
        return torch.where(dropped, random_sizes(mask, 1, proper=True)[0], mask)

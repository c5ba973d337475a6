"""What models share whose objective is a sum of ELBOs, each of another set of modalities."""

from __future__ import annotations

import torch
from torch import Tensor

from polyvae.batch import Batch
from polyvae.bounds import Bound
from polyvae.distributions import Mixture
from polyvae.vae import MultimodalVAE


def sum_of_elbos(model: MultimodalVAE, batch: Batch, q: Mixture, K: int, beta: float, gamma: Tensor | float = 1.0) -> Bound:
    """Σ_v [γ_v E_{q_v} Σ_{m∈v} s_m log p(x_m | z) − β KL(q_v || p)] over the live views v of q, without private codes.

    q [V, B, D], ``gamma`` [V, 1]. The terms are those of the first view; "subsets" is the sum of all others.
    """
    z = q.stratified(K)                                                                                 # [K, V, B, D]
    log_x = model.log_likelihood(batch, z, z[..., :0], wanted=model.members(q.include))                 # [M, K, V, B]
    kl = q.components.kl(model._p_z)                                                                     # [V, B]
    elbo = torch.where(q.live, gamma * model.weighted(log_x).mean(0) - beta * kl, 0)
    terms = model.terms(q.live[:1].to(kl.dtype), log_x[:, :, :1], **{"kl/z": kl[None, :1]})
    return Bound(elbo.sum(0), terms | {"subsets": elbo[1:].sum(0).detach()})

"""What models share whose objective is a sum or a mean of ELBOs, each of another view."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from polyvae.core.aggregate import Experts
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, over_components
from polyvae.core.distributions import Diagonal, Mixture
from polyvae.core.vae import MultimodalVAE


def sum_of_elbos(
    model: MultimodalVAE, batch: Batch, q: Mixture, K: int, beta: float, gamma: Tensor | float = 1.0
) -> Bound:
    """Σ_v [γ_v E_{q_v} Σ_{m∈v} s_m log p(x_m | z) − β KL(q_v || p)] over the live views v of q, without private codes.

    q [V, B, D], ``gamma`` [V, 1]. A target is decoded in every live view. The terms are those of the first view; "subsets" is the sum of
    all others.
    """
    z = q.stratified(K)  # [K, V, B, D]
    log_x = model.log_likelihood(batch, z, z[..., :0], wanted=model.members(q.membership))  # [M, K, V, B]
    kl = q.components.kl(model.p_z)  # [V, B]
    elbo = torch.where(q.active, gamma * model.weighted(log_x).mean(0) - beta * kl, 0)
    terms = model.terms(q.active[:1].to(kl.dtype), log_x[:, :, :1], **{"kl/z": kl[None, :1]})
    return Bound(elbo.sum(0), terms | {"subsets": elbo[1:].sum(0).detach()})


def mean_of_elbos(
    model: MultimodalVAE,
    batch: Batch,
    experts: Experts,
    q: Mixture,
    K: int,
    beta: float,
    private: Callable[[MultimodalVAE, Batch, Experts, Diagonal], Diagonal],
) -> Bound:
    """Σ_v π_v {E Σ_m s_m log p(x_m | z, w_m) − β [KL(q_v || p) + E KL(q(w | z, X) || p(w | z))]}, z ~ q_v, w ~ q(w | z, X), KLs exact.

    A private code of what was not observed is the prior's, and costs nothing. ``private``: the model's q(w | z, X), given p(w | z),
    which is asked for once.
    """
    z = q.stratified(K)  # [K, V, B, D]
    p_w = model.prior.w(z)
    q_w = private(model, batch, experts, p_w)  # [K, V, B, W]
    log_x = model.log_likelihood(
        batch, z, q_w.rsample(None, "w", "KVBW"), wanted=model.active(batch, q)
    )  # [M, K, V, B]
    kl_z, kl_w = q.components.kl(model.p_z).expand(K, -1, -1), q_w.kl(p_w)  # [K, V, B]
    value = over_components(q.weights, (model.weighted(log_x) - beta * (kl_z + kl_w)).mean(0))
    return Bound(value, model.terms(q.weights, log_x, **{"kl/z": kl_z, "kl/w": kl_w}))

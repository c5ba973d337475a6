"""Objectives that are a sum or a mean of ELBOs, one per component."""

from __future__ import annotations

import torch
from torch import Tensor

from polyvae.core.aggregate import Experts
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Mixture
from polyvae.core.vae import MultimodalVAE
from polyvae.utils.devices import to_device


def sum_of_elbos(
    model: MultimodalVAE, batch: Batch, q: Mixture, beta: float, gamma: Tensor | float = 1.0
) -> Bound:
    """A sum of ELBOs over the active components v, without private latents.

        Σ_v [γ_v E_{q_v} Σ_{m∈v} s_m log p(x_m | z) − β KL(q_v || p)]

    A target is decoded in every component. A component of which nothing is decoded (only inputs were
    observed of its modalities, and no target) has no term: the ELBO of no data is 0, and −β KL alone would
    pull its experts into the prior. The terms are those of the first component; "subsets" is the
    sum of all others.

    Args:
        model: The model.
        batch: The data.
        q: The mixture, components [V, B, D].
        beta: Multiplies the KL divergences.
        gamma: [V, 1], the factors γ_v.
    """
    z = q.stratified(model.K)  # [K, V, B, D]
    log_x = model.decode_members(batch, q, z)  # [M, K, V, B]
    kl = q.components.kl(model.p_z)  # [V, B]
    active = decodes(model, batch, q)
    elbo = torch.where(active, gamma * model.weighted(log_x).mean(0) - beta * kl, 0)
    terms = model.terms(active[:1].to(kl.dtype), log_x[:, :, :1], {"kl/z": kl[None, :1]})
    return Bound(elbo.sum(0), terms | {"subsets": elbo[1:].sum(0).detach()})


def decodes(model: MultimodalVAE, batch: Batch, q: Mixture) -> Tensor:
    """Components from which something that was observed is decoded, their members or a target: [V, B] bool."""
    decoded = to_device(
        torch.tensor([net.decoder is not None for net in model.modalities.values()]), batch.device
    )
    return (model.modalities.members(q.membership)[:, 0] & (batch.mask & decoded[:, None])[:, None]).any(0)


def mean_of_elbos(model: MultimodalVAE, batch: Batch, experts: Experts, q: Mixture, beta: float) -> Bound:
    """A weighted mean of ELBOs over components, with exact KL divergences.

        Σ_v π_v {E Σ_m s_m log p(x_m | z, w_m) − β [KL(q_v || p) + E KL(q(w | z, X) || p(w | z))]}, z ~ q_v, w ~ q(w | z, X)

    The private latent of a missing modality has the distribution of the prior and a KL of 0.

    Args:
        model: The model.
        batch: The data.
        experts: The experts of the encoded modalities.
        q: The mixture, components [V, B, D] with weights π_v.
        beta: Multiplies the KL divergences.
    """
    z = q.stratified(model.K)  # [K, V, B, D]
    p_w = model.prior.w(z)
    q_w = model.private(batch, experts, z, p_w)  # [K, V, B, W]
    log_x = model.decode_components(batch, q.weights, z, q_w.rsample(name="w"))  # [M, K, V, B]
    kl_z, kl_w = q.components.kl(model.p_z).expand(model.K, -1, -1), q_w.kl(p_w)  # [K, V, B]
    return model.bound_of(q.weights, log_x, {"kl/z": kl_z, "kl/w": kl_w}, beta)

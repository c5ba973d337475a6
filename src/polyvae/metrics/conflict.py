"""Gradient conflict: whether the log-likelihoods of the modalities have gradients in the same direction.

g_m = ∂/∂z s_m log p(x_m | z, w_m), at a posterior draw of z and w given all observed modalities (Javaloy, Meghdadi & Valera, Mitigating
Modality Collapse in Multimodal VAEs via Impartial Optimization, ICML 2022, who study these gradients in training). A modality with a
small share of the norm may be ignored; a negative cosine is a conflict.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.vae import MultimodalVAE
from polyvae.metrics.context import Context


@torch.inference_mode(False)
@torch.enable_grad()  # also where the caller has switched gradients off
def conflict(context: Context, *, rows: int = 1000, batch_size: int = 250) -> dict[str, Any]:
    """``gradient_conflict``, the share of pairs with a negative cosine, and ``gradient_cosine``, the mean; then by modality and by pair.

    A cosine is taken per sample, over the dimensions of z, for pairs that are both observed and have gradients that are not zero.
    ``gradients`` contains the mean norm of each modality (nats per unit of z), its share of their sum, the mean cosines, and the shares of
    negative cosines. The first ``rows`` held-out samples are used. Empty without a shared latent, or with fewer than two decoded
    modalities.
    """
    model, data = context.model, context.data.rows(slice(0, rows))
    names = [name for name, net in model.modalities.items() if net.decoder is not None and name in data.names]
    if not model.seen or len(names) < 2:
        return {}
    batch_size = min(batch_size, context.step())
    context.report.start("gradient conflict", -(-len(data) // batch_size))
    norms = torch.zeros(len(names), dtype=torch.float64)
    counts = torch.zeros_like(norms)
    cosines = torch.zeros(len(names), len(names), dtype=torch.float64)
    negative, pairs = torch.zeros_like(cosines), torch.zeros_like(cosines)
    with torch.random.fork_rng():
        torch.manual_seed(context.seed("conflict"))
        for batch in data.batches(batch_size):
            gradients, seen = pulls(model, batch, names)  # [N, B, D], [N, B]
            norm = gradients.norm(dim=-1)
            norms += norm.sum(1)
            counts += seen.sum(1)
            both = (norm > 0)[:, None] & (norm > 0)[None]
            unit = gradients / torch.where(norm > 0, norm, 1)[..., None]
            cosine = torch.einsum("mbd,nbd->mnb", unit, unit)
            cosines += cosine.sum(-1)
            negative += (cosine < 0).sum(-1)
            pairs += both.sum(-1)
            context.report.advance()
    return _summary(names, norms / counts.clamp(min=1), cosines, negative, pairs)


def pulls(model: MultimodalVAE, batch: Batch, names: list[str]) -> tuple[Tensor, Tensor]:
    """Gradients of the weighted log-likelihoods of these modalities with respect to z [N, B, D], and which are observed [N, B].

    The gradient of a modality that is not observed is zero.
    """
    batch = model.admit(batch)
    with torch.no_grad():
        draws = model.draw(batch)
    z = draws.z.requires_grad_()  # [1, B, D]
    gradients = []
    for name in names:
        m = list(model.modalities).index(name)
        if not bool(batch.mask[m].any()):
            gradients.append(torch.zeros_like(z[0]))
            continue
        # One modality at a time, because otherwise every backward pass would visit all decoders.
        decoded = torch.zeros(len(model.modalities), *z.shape[:-1], dtype=torch.bool, device=z.device)
        decoded[m] = True
        pull = model.weighted(model.log_likelihood(batch, z, draws.w, decoded)).sum()
        gradients.append(torch.autograd.grad(pull, z)[0][0])
    index = [list(model.modalities).index(name) for name in names]
    return torch.stack(gradients).double().cpu(), batch.mask[index].cpu()


def _summary(
    names: list[str], norm: Tensor, cosines: Tensor, negative: Tensor, pairs: Tensor
) -> dict[str, Any]:
    """From the norms [N], and from sums over samples [N, N] of cosines, negative cosines and pairs."""
    total = float(pairs.triu(1).sum())
    if not total:
        return {}

    def matrix(values: Tensor) -> dict[str, dict[str, float]]:
        mean = values / pairs
        return {
            a: {b: float(mean[i, j]) for j, b in enumerate(names) if i != j and pairs[i, j]}
            for i, a in enumerate(names)
        }

    gradients = {
        "norm": dict(zip(names, norm.tolist(), strict=True)),
        "share": dict(zip(names, (norm / norm.sum()).tolist(), strict=True)),
        "cosine": matrix(cosines),
        "negative": matrix(negative),
    }
    return {
        "gradient_conflict": float(negative.triu(1).sum()) / total,
        "gradient_cosine": float(cosines.triu(1).sum()) / total,
        "gradients": gradients,
    }

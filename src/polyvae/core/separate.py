"""The latents of each modality: z as it is inferred from this modality alone, and its private latents.

A prior that is fitted to the latents of each modality is a density of [z_1, w_1], ..., [z_M, w_M] with z_m ~ q(z | x_m). Each modality is
decoded from its own. So what one modality does not state about another is a conditional density, and not an average of the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.fitted import FittedPrior
from polyvae.core.fitted.base import columns_of

if TYPE_CHECKING:
    from polyvae.core.inference import Inference


def blocks_of_each(model: Inference) -> tuple[int, ...]:
    """Columns of z and w_m together, for each modality."""
    return tuple(model.shared + span.stop - span.start for span in model.modalities.columns)


@torch.no_grad()
def infer_each(model: Inference, batch: Batch, K: int = 1, mean: bool = False) -> Tensor:
    """Posterior draws of the latents of each modality, given it alone; where it was not observed, draws from the prior of the model.

    Args:
        model: The model.
        batch: The data.
        K: Draws per sample.
        mean: Return posterior means in place of draws.

    Returns:
        [K, B, D + W_1 + ... + D + W_M].
    """
    batch, parts = model.admit(batch), []
    for name, span in zip(model.modalities, model.modalities.columns, strict=True):
        alone = batch.observe(name)
        if mean:
            both = model.embed(alone, private=True).expand(K, -1, -1)
            z, w = both[..., : model.shared], both[..., model.shared :]
        else:
            z, w, _ = model.draw(alone, K)
        parts += [z, w[..., span]]
    return torch.cat(parts, -1)


@torch.no_grad()
def complete_each(model: Inference, batch: Batch, K: int, prior: FittedPrior) -> Tensor:
    """The latents of each modality: posterior draws of those observed, and draws from ``prior`` given these of the others.

    Args:
        model: The model.
        batch: The data.
        K: Draws per sample.
        prior: A prior that was fitted to the latents of each modality.

    Returns:
        [K, B, D + W_1 + ... + D + W_M].
    """
    batch = model.admit(batch)
    latents = infer_each(model, batch, K)
    given = infer_each(model, batch, K, mean=True) if prior.means else latents
    known = batch.mask.T  # [B, M]
    rows = (~known).any(1).nonzero()[:, 0]
    if not len(rows):
        return latents
    each = known[rows].expand(K, -1, -1).flatten(0, 1)
    drawn = prior.complete(given[:, rows].flatten(0, 1), each)
    drawn = torch.where(columns_of(each, prior.blocks), latents[:, rows].flatten(0, 1), drawn)
    return latents.index_copy(1, rows, drawn.view(K, len(rows), -1))


def decode_each(
    model: Inference,
    latents: Tensor,
    sample: bool = False,
    like: Batch | None = None,
    targets: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Decode each modality from its own latents.

    Args:
        model: The model.
        latents: [..., D + W_1 + ... + D + W_M].
        sample: Draw from the likelihood; otherwise return its mean.
        like: Samples whose covariates and library sizes are used; None: the first levels and means.
        targets: The modalities to decode; None: all that have a decoder.

    Returns:
        name -> [..., *shape].

    Raises:
        InputError: A target without a decoder.
    """
    modalities, made = model.modalities, {}
    parts = latents.split(blocks_of_each(model), -1)
    decoded = [name for name, net in modalities.items() if net.decoder is not None]
    for name in decoded if targets is None else targets:
        m = list(modalities).index(name)
        z, own = parts[m][..., : model.shared], parts[m][..., model.shared :]
        w = own.new_zeros(*own.shape[:-1], modalities.columns[-1].stop)
        w[..., modalities.columns[m]] = own
        made |= modalities.decode(z, w, sample, like, [name])
    return made

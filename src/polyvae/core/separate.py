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
from polyvae.core.likelihoods.sequence import Text
from polyvae.core.vocabulary import PADDING

if TYPE_CHECKING:
    from polyvae.core.inference import Inference


def blocks_of_each(model: Inference) -> tuple[int, ...]:
    """Columns of z and w_m together, for each modality."""
    return tuple(model.shared + span.stop - span.start for span in model.modalities.columns)


@torch.no_grad()
def infer_each(model: Inference, batch: Batch, K: int = 1) -> Tensor:
    """Posterior draws of the latents of each modality, given it alone; where it was not observed, draws from the prior of the model.

    Args:
        model: The model.
        batch: The data.
        K: Draws per sample.

    Returns:
        [K, B, D + W_1 + ... + D + W_M].
    """
    batch, parts = model.admit(batch), []
    for name, span in zip(model.modalities, model.modalities.columns, strict=True):
        z, w, _ = model.draw(batch.observe(name), K)
        parts += [z, w[..., span]]
    return torch.cat(parts, -1)


@torch.no_grad()
def describe_each(model: Inference, batch: Batch) -> list[Tensor]:
    """What stands for each modality where it is given to a score network: the counts of its words, or the posterior means of its latents.

    An expert is trained to decode, and what its posterior mean has of others can be hard to read after short training. The words
    of a sentence are not, and the score network learns to read them.

    Args:
        model: The model.
        batch: The data; values where a modality was not observed have no meaning.

    Returns:
        [B, C_m] for each modality.
    """
    batch, parts = model.admit(batch), []
    for (name, net), span in zip(model.modalities.items(), model.modalities.columns, strict=True):
        if isinstance(net.likelihood, Text):
            parts.append(word_counts(batch.data[name], net.likelihood.vocabulary.size))
        else:
            both = model.embed(batch.observe(name), private=True)
            parts.append(torch.cat([both[:, : model.shared], both[:, model.shared :][:, span]], -1))
    return parts


def word_counts(x: Tensor, size: int) -> Tensor:
    """How often each id above that of padding occurs: [B, L] -> [B, size]."""
    ids = x.nan_to_num().clamp(0, size - 1).long()
    counts = x.new_zeros(len(x), size).scatter_add_(1, ids, torch.ones_like(x))
    counts[:, PADDING] = 0
    return counts


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
    observed = batch.mask.T  # [B, M]
    rows = (~observed).any(1).nonzero()[:, 0]
    if not len(rows):
        return latents
    known = None
    if prior.known is not None:
        known = torch.cat(describe_each(model, batch), -1)[rows].expand(K, -1, -1).flatten(0, 1)
    each = observed[rows].expand(K, -1, -1).flatten(0, 1)
    drawn = prior.complete(latents[:, rows].flatten(0, 1), each, known)
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
    parts = torch.split(latents, list(blocks_of_each(model)), -1)
    for name in modalities.targets(targets):
        m = list(modalities).index(name)
        z, own = parts[m][..., : model.shared], parts[m][..., model.shared :]
        w = own.new_zeros(*own.shape[:-1], modalities.columns[-1].stop)
        w[..., modalities.columns[m]] = own
        made[name] = modalities.decode_one(name, z, w, sample, like)
    return made

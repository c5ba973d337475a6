"""Conditional and unconditional generation for coherence, quality and reconstruction, one batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.fitted import FittedPrior
from polyvae.core.likelihoods.counts import Counts
from polyvae.core.priors import ConditionalPrior, TopDownPrior
from polyvae.core.separate import complete_each, decode_each
from polyvae.core.vae import MultimodalVAE
from polyvae.data import MultimodalData
from polyvae.metrics.context import Context
from polyvae.utils.seeds import fold_in


class Given(NamedTuple):
    """Some samples in which all inputs are observed, and what is generated for them.

    Attributes:
        batch: The samples, complete.
        made: name -> [K, B, *shape].
        rows: Their places in the data, on the host: [B].
    """

    batch: Batch
    made: dict[str, Tensor]
    rows: Tensor


@torch.no_grad()
def conditional(
    context: Context,
    members: Sequence[str],
    targets: Sequence[str],
    seed: int,
    K: int = 1,
    data: MultimodalData | None = None,
    prior: FittedPrior | None = None,
) -> Iterator[Given]:
    """K means of the likelihood of ``targets`` given ``members``, for each sample of ``data`` (None: the held-out data).

    There is one posterior draw for each mean. The private latents of ``members`` are from the posterior, the others from p(w | z), or with
    ``prior`` from that fitted prior given the former and z. Counts have the library size of their sample, to which they are compared.
    """
    model, data = context.model, context.data if data is None else data
    lines = [data.names.index(name) for name in members]
    start = 0
    for number, batch in enumerate(data.batches(context.step(K))):
        index = batch.mask[lines].all(0).nonzero()[:, 0]
        rows, start = start + index.cpu(), start + batch.size
        batch = batch.rows(index)
        if not batch.size:
            continue
        like, given = model.admit(batch), batch.observe(*members)
        with torch.random.fork_rng():
            torch.manual_seed(fold_in(seed, "conditional", number))
            if prior is not None and prior.latents == "each":
                made = decode_each(model, complete_each(model, given, K, prior), like=like, targets=targets)
            else:
                z, w = model.draw_latents(given, K, prior)
                if context.config.protocol == "published" and prior is None:
                    w = _shared(model, w, members)
                made = {name: model.modalities.decode_one(name, z, w, like=like) for name in targets}
        yield Given(batch, made, rows)


@torch.no_grad()
def unconditional(context: Context, prior: FittedPrior | None, seed: int) -> Iterator[dict[str, Tensor]]:
    """Means of the likelihood of every modality for unconditional draws, in batches: name -> [n, *shape].

    z is drawn from ``prior`` (None: that of the model), w from it as well if it is over all latents, else from p(w | z). Counts have the
    library sizes of held-out samples, one after the other, because a judge has learnt to read counts of these sizes.
    """
    model, step = context.model, context.step()
    counts = any(isinstance(net.likelihood, Counts) for net in model.modalities.values())
    for start in range(0, context.config.draws, step):
        with torch.random.fork_rng():
            torch.manual_seed(fold_in(seed, "unconditional", start))
            n = min(step, context.config.draws - start)
            rows = (start + torch.arange(n)) % len(context.data)
            like = model.admit(context.data.take(rows)) if counts else None
            if prior is not None and prior.latents == "each":
                made = decode_each(model, prior.draw(n), like=like)
            else:
                z, w = model.draw_prior(n, prior)
                if context.config.protocol == "published" and (prior is None or prior.latents == "z"):
                    w = _shared(model, w, ())
                made = model.modalities.decode(z, w, like=like)
        yield made


def conditional_prior(context: Context) -> FittedPrior | None:
    """The fitted prior, if it draws latents of missing modalities given others; else None.

    A prior of all latents does not, if the model has no private latents, because z is inferred.
    """
    prior = context.prior
    if prior is None or prior.latents == "z" or (prior.latents == "all" and not len(context.model.owner)):
        return None
    if not prior.conditional:
        context.note(
            f"conditional generation with the fitted prior: {prior.kind!r} has no conditional draws; it is left out"
        )
        return None
    return prior


def even(model: MultimodalVAE) -> bool:
    """Whether the private latents of all modalities have the same prior, so that one draw can be used for all."""
    same_size = len({span.stop - span.start for span in model.columns}) == 1
    return same_size and not isinstance(model.prior, ConditionalPrior | TopDownPrior)


def _shared(model: MultimodalVAE, w: Tensor, members: Sequence[str]) -> Tensor:
    """One draw of w for all unobserved modalities, as in the code of the authors (2023); unchanged if their priors differ."""
    others = [span for name, span in zip(model.modalities, model.columns, strict=True) if name not in members]
    if not others or not even(model):
        return w
    w = w.clone()
    for span in others[1:]:
        w[..., span] = w[..., others[0]]
    return w

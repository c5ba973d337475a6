"""extend(): a trained model with a new level of a covariate, or a new modality; only what is new is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor

from polyvae.core.covariates import Covariate
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE
from polyvae.data.multimodal import MultimodalData
from polyvae.training.inputs import check_model
from polyvae.training.loop import fit
from polyvae.training.settings import TrainSettings
from polyvae.utils.errors import InputError
from polyvae.utils.seeds import fold_in


def extend(
    model: MultimodalVAE,
    data: MultimodalData,
    *,
    modalities: Sequence[Modality] = (),
    show: bool = True,
    **settings: Unpack[TrainSettings],
) -> MultimodalVAE:
    """Add to a trained model the levels of its covariates, and the modalities, that occur in ``data`` alone.

    New are the columns of the first layers that read a new level, and the networks of a new modality. These are trained on
    ``data``; every other parameter stays as it is, bit for bit, so that earlier data have the embeddings that they had. A new
    batch is mapped so in seconds, without the earlier data. Columns of a new level begin at 0, the effect of no level.

    Args:
        model: A trained model, which is not changed.
        data: The new samples. With a new modality, samples that also have earlier ones relate it to these.
        modalities: Specifications of new modalities; by default those of the data.
        show: Show progress on standard error.
        **settings: Those of ``fit``, such as ``epochs`` and ``lr``.

    Returns:
        A new model with the parameters of the old one, in evaluation mode.

    Raises:
        InputError: Nothing in the data is new; a new modality for a model whose bound without it is another
            (``model.facts.nested`` is False) or with another number of modalities; and what ``fit`` refuses.

    Example:
        >>> import torch
        >>> import polyvae as pv
        >>> def data_of(*batches):
        ...     rows = 20 * len(batches)
        ...     return pv.MultimodalData({"rna": torch.randn(rows, 6)}, covariates={"batch": list(batches) * 20})
        >>> data = data_of("a", "b")
        >>> model = pv.MVAE(data.modalities(covariates=("batch",)), latent=2)
        >>> history = pv.fit(model, data, epochs=1, show=False)
        >>> more = pv.extend(model, data_of("c"), epochs=2, show=False)
        >>> bool((more.embed(data.take([0])) - model.embed(data.take([0]))).abs().max() < 1e-6)
        True
    """
    check_model(model, data)
    specs = _specs(model, data, modalities)
    seed = settings.get("seed", 0)
    with torch.random.fork_rng():
        torch.manual_seed(fold_in(seed, "initial weights"))
        larger = type(model)(specs, **model.options)
    like = next(model.parameters())
    larger.to(like.device, like.dtype)
    before = {name: x.detach() for name, x in model.state_dict().items()}
    _insert(larger, before, {spec.name for spec in specs[len(model.specs) :]})
    with _only_new(larger, before):
        fit(larger, data, show=show, **settings)
    # Statistics that a network updates by itself, such as those of batch normalisation, are parameters of the old model too.
    _insert(larger, before, set(), keep=True)
    return larger.eval()


def _specs(model: MultimodalVAE, data: MultimodalData, given: Sequence[Modality]) -> list[Modality]:
    """The specifications of the model with new levels, then the new ones."""
    known = [_with_new_levels(spec, data) for spec in model.specs]
    found = {spec.name: spec for spec in (*data.modalities(), *data.resolved(given))}
    added = [spec for name, spec in found.items() if name not in model.modalities]
    if known == model.specs and not added:
        raise InputError(
            f"extend: got data with the modalities and the levels that {model.name} has; expected a new level of a covariate, or a new "
            "modality; embed them with the model as it is"
        )
    if added and not model.facts.nested:
        raise InputError(
            f"extend: got new modality {added[0].name!r} for {model.name}, which treats a missing modality differently from one that it "
            "was built without; expected a model whose facts are nested, such as mmvae+ or mvae; train a model of all modalities"
        )
    return [*known, *added]


def _with_new_levels(spec: Modality, data: MultimodalData) -> Modality:
    levels: dict[str, set[str]] = {}
    for one in spec.covariates:
        if isinstance(one, Covariate) and one.levels is not None:
            levels.setdefault(one.name, set()).update(one.levels)
    added = []
    for name, known in levels.items():
        own = data.resolved([dataclasses.replace(spec, covariates=(name,))])[0].covariates[0]
        new = tuple(
            level for level in (isinstance(own, Covariate) and own.levels) or () if level not in known
        )
        if new:
            added.append(Covariate(name, new))
    return dataclasses.replace(spec, covariates=(*spec.covariates, *added)) if added else spec


def _block(name: str, old: Tensor, new: Tensor) -> tuple[slice, ...]:
    """Where the old tensor is inside the new one: at the beginning of the one axis that is longer."""
    longer = [a < b for a, b in zip(old.shape, new.shape, strict=False)]
    if (
        old.ndim != new.ndim
        or sum(longer) > 1
        or any(a > b for a, b in zip(old.shape, new.shape, strict=True))
    ):
        raise InputError(
            f"extend: got a model whose {name!r} of shape {tuple(old.shape)} would be {tuple(new.shape)}; expected networks whose first "
            "layers have a column for each input; train a model of all data"
        )
    return tuple(slice(size) for size in old.shape)


@torch.no_grad()
def _insert(larger: MultimodalVAE, before: Mapping[str, Tensor], added: set[str], keep: bool = False) -> None:
    """Copy the old tensors into the larger ones, whose new columns become 0 unless ``keep``.

    Networks of ``added`` modalities, and columns that only belong to these, keep their initial values.
    """
    for name, x in larger.state_dict().items():
        if name in before:
            block = _block(name, before[name], x)
            if not keep and not added and before[name].shape != x.shape:
                x.zero_()
            x[block] = before[name]


@contextmanager
def _only_new(larger: MultimodalVAE, before: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, only parameters, and columns of parameters, that are not in ``before`` have a gradient."""
    handles: list[Any] = []
    learnt = {name: x.requires_grad for name, x in larger.named_parameters()}
    for name, x in larger.named_parameters():
        if name not in before or not x.requires_grad:
            continue
        if before[name].shape == x.shape:
            x.requires_grad_(False)
            continue
        new = torch.ones_like(x, dtype=torch.bool)
        new[_block(name, before[name], x)] = False
        handles.append(x.register_hook(partial(_masked, new)))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name, x in larger.named_parameters():
            x.requires_grad_(learnt[name])


def _masked(new: Tensor, gradient: Tensor) -> Tensor:
    return torch.where(new, gradient, 0)

"""extend(): a trained model with a new level of a covariate, or a new modality; only what is new is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor

from polyvae.config import TrainConfig
from polyvae.core.covariates import Covariate
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE
from polyvae.data.multimodal import MultimodalData
from polyvae.training.inputs import check_model
from polyvae.training.loop import fit
from polyvae.training.settings import TrainSettings
from polyvae.utils.errors import InputError
from polyvae.utils.seeds import fold_in

STEPS = 500
"""Steps that ``extend`` takes at least, unless ``epochs`` is given."""
_RATE = 1e-2  # of columns that begin at 0, of which few steps of the usual size are not enough


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
        **settings: Those of ``fit``. By default 500 steps or more are taken; the learning rate of new levels alone is 0.01.

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
    given: dict[str, Any] = {**_defaults(len(data), settings, len(specs) > len(model.specs)), **settings}
    train = TrainConfig.check(given)
    with torch.random.fork_rng():
        torch.manual_seed(fold_in(train.seed, "initial weights"))
        larger = type(model)(specs, **model.options)
    like = next(model.parameters())
    larger.to(like.device, like.dtype)
    larger.max_rows = model.max_rows
    before = {name: x.detach() for name, x in model.state_dict().items()}
    _insert(larger, before, new_columns=0.0)
    with _only_new(larger, before):
        fit(larger, data, show=show, **given)
    # Statistics that a network updates by itself, such as those of batch normalisation, are parameters of the old model too.
    _insert(larger, before)
    for name, x in model.named_parameters():
        larger.get_parameter(name).requires_grad_(x.requires_grad)
    return larger.eval()


def _defaults(rows: int, settings: Mapping[str, Any], networks: bool) -> dict[str, Any]:
    """Epochs that take ``STEPS`` steps, since one of a small batch is one step; without new ``networks`` a rate for columns."""
    size = settings.get("batch_size", TrainConfig().batch_size)
    steps = -(-rows // size) if isinstance(size, int) and size > 0 else 1
    return {"epochs": -(-STEPS // steps)} | ({} if networks else {"lr": _RATE})


def _specs(model: MultimodalVAE, data: MultimodalData, given: Sequence[Modality]) -> list[Modality]:
    """The specifications of the model with new levels, then the new ones."""
    for spec in given:
        if spec.name in model.modalities or spec.name not in data.names:
            what = "the model has" if spec.name in model.modalities else "the data lack"
            raise InputError(
                f"extend: got modalities with {spec.name!r}, which {what}; expected new modalities of the data; leave it out"
            )
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
        assert isinstance(own, Covariate)
        if own.levels is None:
            raise InputError(
                f"extend: got numbers as covariate {name!r}; expected levels, such as {min(known)!r}; give levels as texts"
            )
        new = tuple(level for level in own.levels if level not in known)
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
def _insert(larger: MultimodalVAE, before: Mapping[str, Tensor], new_columns: float | None = None) -> None:
    """Copy the old tensors into the larger ones, of whose networks the new columns get one value; None: they keep theirs.

    Parameters outside the networks of modalities, such as those of a prior, have columns of new modalities, which keep their values.
    """
    for name, x in larger.state_dict().items():
        if name in before:
            block = _block(name, before[name], x)
            if new_columns is not None and name.startswith("modalities.") and before[name].shape != x.shape:
                x.fill_(new_columns)
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

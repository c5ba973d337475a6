"""The data of a training: checked, with validation data set aside, as batches."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from polyvae.config import TrainConfig
from polyvae.core.batch import Batch
from polyvae.core.vae import MultimodalVAE
from polyvae.data.loaders import Loader, SliceLoader
from polyvae.data.multimodal import MultimodalData
from polyvae.data.suitable import unsuited
from polyvae.training.processes import Ranks
from polyvae.utils.arrays import rows_within
from polyvae.utils.errors import InputError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Inputs(NamedTuple):
    """What a training reads: ``rows`` and ``digest`` identify its data; batches of ``streamed`` data are checked as they come."""

    loader: Loader
    validation: MultimodalData | None
    rows: int
    digest: str
    streamed: bool


def check_model(model: object, data: object) -> None:
    """Raises InputError unless ``model`` is a model, such as for fit(data, model)."""
    if not isinstance(model, MultimodalVAE):
        swapped = isinstance(data, MultimodalVAE)
        raise InputError(
            f"fit: got {type(model).__name__} as the model; expected a MultimodalVAE, fit(model, data); "
            f"{'exchange the two' if swapped else 'build one, such as pv.MVAE(data.modalities())'}"
        )


def inputs_of(
    data: MultimodalData | Loader,
    validation: MultimodalData | None,
    model: MultimodalVAE,
    train: TrainConfig,
    fabric: Fabric,
) -> Inputs:
    """Check the data, set validation data aside and make the loader of this rank.

    Raises InputError: data of another type, rows in which nothing was observed, values outside the support of a likelihood.
    """
    if not isinstance(data, MultimodalData):
        if isinstance(data, Mapping) or not isinstance(data, Loader):
            raise InputError(
                f"fit: got data of type {type(data).__name__}; expected MultimodalData or a Loader; "
                "MultimodalData({name: array}) makes one"
            )
        return Inputs(data, validation, data.size, "", streamed=True)
    if "train" in data.splits:  # complete data are no reason to train on what is held out
        validation = data.validation if validation is None and "validation" in data.splits else validation
        data = data.train
    for part in (data, validation):
        if part is not None and part.unobserved_rows:
            raise InputError(
                f"fit: nothing was observed in {part.unobserved_rows} of {len(part)} rows; expected at least one modality "
                "in each; drop them first"
            )
    if validation is None and train.validation > 0:
        if len(data) * train.validation < 0.5:
            raise InputError(
                f"fit: got {len(data)} rows and validation={train.validation}, which leaves none to validate on; "
                "expected a larger share, or 0 to go without; set validation="
            )
        data, validation = data.carve(train.validation, train.seed)
    step = rows_within((spec.shape for spec in data.modalities()), 4096)
    for part in (data, validation):
        for number, batch in enumerate(() if part is None else part.batches(step)):
            admitted = model.admit(batch, values=True)
            if number == 0 and part is data and fabric.is_global_zero:
                warn_of_values(model, admitted)
    model.modalities.centre(model.admit(batch) for batch in data.batches(step))
    loader = SliceLoader(
        data,
        train.batch_size,
        seed=train.seed,
        device=fabric.device,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )
    return Inputs(loader, validation, len(data), data.digest(), streamed=False)


def alike(inputs: Inputs, model: MultimodalVAE, train: TrainConfig) -> dict[str, Any]:
    """What has to be the same in all processes of a training."""
    return {
        "data_with_digest": inputs.digest,
        "number_of_training_rows": inputs.rows,
        "number_of_validation_rows": None if inputs.validation is None else len(inputs.validation),
        "steps_in_an_epoch": len(inputs.loader),
        "model": (model.name, model.options),
        "settings": train.model_dump(),
    }


def check_batch(model: MultimodalVAE, batch: Batch, values: bool = False) -> None:
    """Check a batch of a stream in the first epoch, as MultimodalData is checked before training.

    Args:
        model: The model.
        batch: The batch.
        values: Also warn of values that do not suit their likelihood.

    Raises:
        InputError: As ``inputs_of``.
    """
    admitted = model.admit(batch, values=True)
    if values:
        warn_of_values(model, admitted)
    empty = int((~batch.mask.any(0)).sum())
    if empty:
        raise InputError(
            f"fit: nothing was observed in {empty} of {batch.size} rows of a batch; expected at least one modality in "
            "each; drop them first"
        )


def check_shares(ranks: Ranks, batch: Batch) -> None:
    """Raises InputError: a stream gives two processes the same first batch, so that each trains on all of it."""
    if ranks.count == 1:
        return
    digest = hashlib.blake2b(batch.mask.cpu().numpy().tobytes())
    for x in batch.data.values():
        digest.update(x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    different = len({*ranks.gathered(digest.digest())})
    with ranks.together():
        if different < ranks.count:
            raise InputError(
                f"fit: got the same first batch in several of {ranks.count} processes; expected another share of the samples in each; "
                "give the DataLoader a DistributedSampler with the rank of the process"
            )


def warn_of_values(model: MultimodalVAE, batch: Batch) -> None:
    """Warn of each modality whose values are possible but improbable under its likelihood, or on another scale."""
    for row, (name, net) in zip(batch.mask, model.modalities.items(), strict=True):
        x = batch.data[name][row]
        entries = batch.entries.get(name)
        observed = torch.ones_like(x, dtype=torch.bool) if entries is None else entries[row]
        problem = unsuited(name, net.likelihood, x, observed, net.decoder is not None)
        if problem:
            warnings.warn(f"fit: {problem}", stacklevel=2)

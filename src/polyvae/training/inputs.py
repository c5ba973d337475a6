"""The data of a training: checked, with validation data set aside, as batches."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from polyvae.config import TrainConfig
from polyvae.core.batch import Batch
from polyvae.core.likelihoods.continuous import Scaled
from polyvae.core.vae import MultimodalVAE
from polyvae.data.loaders import Loader, SliceLoader
from polyvae.data.multimodal import MultimodalData
from polyvae.utils.errors import InputError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


_LARGE = 20  # of values, absolutely
_WIDE = 300  # of values, in scales of the likelihood


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
    for part in (data, validation):
        for number, batch in enumerate(() if part is None else part.batches(4096)):
            admitted = model.admit(batch, values=True)
            if number == 0 and part is data:
                warn_of_scale(model, admitted)
    model.modalities.centre(model.admit(batch) for batch in data.batches(4096))
    loader = SliceLoader(
        data,
        train.batch_size,
        seed=train.seed,
        device=fabric.device,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )
    return Inputs(loader, validation, len(data), data.digest(), streamed=False)


def check_batch(model: MultimodalVAE, batch: Batch, scale: bool = False) -> None:
    """Check a batch of a stream in the first epoch, as MultimodalData is checked before training; its ``scale`` is checked once."""
    admitted = model.admit(batch, values=True)
    if scale:
        warn_of_scale(model, admitted)
    empty = int((~batch.mask.any(0)).sum())
    if empty:
        raise InputError(
            f"fit: nothing was observed in {empty} of {batch.size} rows of a batch; expected at least one modality in "
            "each; drop them first"
        )


def warn_of_scale(model: MultimodalVAE, batch: Batch) -> None:
    """Warn once where real values are far from the scale of their likelihood and of untrained networks, such as images in 0..255."""
    far: dict[str, float] = {}
    factors: dict[str, str] = {}
    for m, (name, net) in enumerate(model.modalities.items()):
        if not isinstance(net.likelihood, Scaled):
            continue
        x = batch.data[name][batch.mask[m]]
        x = x if name not in batch.entries else x[batch.entries[name][batch.mask[m]]]
        size = float(x.double().square().mean().sqrt()) if x.numel() else 0.0
        if size > _LARGE or size > _WIDE * (net.likelihood.fixed or 1.0):
            far[name] = size
            factors[name] = "1/255" if _bytes(x) else f"{1 / size:.2g}"
    if far:
        found = ", ".join(f"{name!r} {size:.3g}" for name, size in far.items())
        scale = ", ".join(f"{name!r}: {factor}" for name, factor in factors.items())
        warnings.warn(
            f"fit: got values whose root mean square is {found}, far from the scale of their likelihood; expected about 1, because "
            f"networks start near 0; standardise them, give MultimodalData(..., scale={{{scale}}}), or choose a likelihood of counts",
            stacklevel=2,
        )


def _bytes(x: Tensor) -> bool:
    """Whether these are images of 8 bits: [N, *shape] of two axes or more, with whole numbers from 0 to 255."""
    return x.ndim > 2 and bool(((x >= 0) & (x <= 255) & (x % 1 == 0)).all())

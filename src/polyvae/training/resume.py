"""Whether a run may continue from a checkpoint: bit for bit only where everything that decides its bits is the same."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from polyvae.config import TrainConfig
from polyvae.core.vae import MultimodalVAE
from polyvae.models.bundles import check_storable
from polyvae.utils.errors import InputError
from polyvae.utils.renamed import moved

_FREE = {"epochs", "max_seconds", "checkpoint_every", "device", "devices", "patience", "threads", "max_rows"}
"""Settings that may differ when a run is resumed; with other ``devices``, ``batch_size`` as well."""

_REMEDIES = {"lr", "clip", "precision"}
"""Settings that may differ after a TrainingError as well."""


def check_same(
    kept: Mapping[str, Any],
    model: MultimodalVAE,
    train: TrainConfig,
    precision: str,
    rows: int,
    digest: str,
    failed: bool,
) -> list[str]:
    """Compare a training with the checkpoint that it continues from.

    Args:
        kept: The metadata of the checkpoint.
        model: The model.
        train: The settings.
        precision: The precision that was chosen.
        rows: The number of training rows.
        digest: The digest of the data.
        failed: Whether the run ended with a TrainingError, so that its remedies are accepted.

    Returns:
        The settings that were changed as a remedy, in words.

    Raises:
        InputError: A setting, the model or the data differ.
    """
    now, then = train.model_dump(), kept["train"]
    pairs, notes = [], []
    free = _FREE | {"precision"} | ({"batch_size"} if train.devices != then.get("devices", 1) else set())
    changed = [key for key in now if key not in free and now[key] != then.get(key)]
    settings = [(key, now[key], then.get(key)) for key in changed]
    before = begun_with(kept, model)
    settings += [("precision", precision, before)] if precision != before else []
    for key, got, expected in settings:
        if failed and key in _REMEDIES:
            notes.append(f"train.{key} is {got!r} from here on (it was {expected!r})")
        else:
            pairs.append((f"train.{key}", got, expected))
    # A run that began before an option existed had what is now its default.
    options = {
        key: kept["options"].get(key, parameter.default)
        for key, parameter in inspect.signature(type(model)).parameters.items()
    }
    pairs += [
        (f"model.{key}", value, options.get(key))
        for key, value in model.options.items()
        if key != "max_rows" and value != options.get(key)
    ]
    pairs += [("model", model.name, kept["model"])] if model.name != kept["model"] else []
    pairs += _modalities(kept["modalities"], check_storable(model)["modalities"])
    pairs += [("number of training rows", rows, kept["rows"])] if rows != kept["rows"] else []
    pairs += [("data with digest", digest, kept["data"])] if digest != kept["data"] else []
    if pairs:
        key, got, expected = pairs[0]
        raise InputError(
            f"resume: got {key}={got!r}; expected {expected!r}, as the run began; keep it, or start another run"
        )
    return notes


def with_other_processes(
    kept: Mapping[str, Any], train: TrainConfig, rows: int, per_epoch: int
) -> tuple[int, str]:
    """Where a run continues with another number of processes, whose steps have other sizes.

    Args:
        kept: The metadata of the checkpoint.
        train: The settings.
        rows: The number of training rows.
        per_epoch: The steps in an epoch from here on.

    Returns:
        What is added to the number of steps for the place (``State.place``), and what changes, in words.
    """
    step, then = kept["step"], kept["train"]
    before, now = then.get("devices", 1), train.devices
    size, wanted = then["batch_size"] * before, train.batch_size * now
    steps = kept.get("per_epoch") or -(-rows // size)
    epoch, taken = divmod(step + kept.get("shift", 0), steps)
    seen = min(taken * size, rows)
    start = min(seen // wanted, per_epoch - 1)
    words = f"{now} {'process' if now == 1 else 'processes'} from here on (before: {before}): a step has {wanted} samples"
    words += (
        " as before"
        if wanted == size
        else f" (before: {size}) and an epoch {per_epoch} steps (before: {steps})"
    )
    words += ", in the same order of rows"
    again = seen - start * wanted
    words += f", and {again} rows of epoch {epoch + 1} are taken again" if again else ""
    if wanted != size and size % now == 0:
        words += f"; batch_size={size // now} would keep the size of a step"
    return epoch * per_epoch + start - step, words


def begun_with(kept: Mapping[str, Any], model: MultimodalVAE) -> str:
    """The precision of a run. Older checkpoints have the setting only, and a model in double precision stayed in it."""
    given: str = kept.get("precision", kept["train"]["precision"])
    if given == "auto":  # a setting, of which every checkpoint that can have it also records the choice
        raise InputError(
            "resume: got a checkpoint without the precision that was chosen; expected what polyvae wrote; set precision='fp32'"
        )
    return "fp64" if given == "fp32" and next(model.parameters()).dtype == torch.float64 else given


def _modalities(
    then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Any, Any]]:
    """What differs between the modalities of a run and those of the model, which weights belong to by position."""
    got, expected = ([spec["name"] for spec in specs] for specs in (now, then))
    if got != expected:
        return [("modalities", got, expected)]
    return [
        (f"modality.{spec['name']}.{key}", value, before.get(key))
        for spec, before in zip(map(_today, now), map(_today, then), strict=True)
        for key, value in spec.items()
        if value != before.get(key)
    ]


def _today(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A stored modality with the import paths and roles of today."""
    paths = {key: moved(value) if key in ("encoder", "decoder") else value for key, value in spec.items()}
    return {key: "input" if (key, value) == ("role", "source") else value for key, value in paths.items()}

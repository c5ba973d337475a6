"""Whether a run may continue from a checkpoint: bit for bit only where everything that decides its bits is the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyvae.config import TrainConfig
from polyvae.core.vae import MultimodalVAE
from polyvae.models.bundles import check_storable
from polyvae.utils.errors import InputError
from polyvae.utils.renamed import moved

_FREE = {"epochs", "max_seconds", "checkpoint_every", "device", "patience", "threads", "max_rows"}
"""Settings that may differ when a run is resumed."""


def check_same(
    kept: Mapping[str, Any], model: MultimodalVAE, train: TrainConfig, rows: int, digest: str
) -> None:
    """Raises InputError where a setting, the model or the data differ from those of the checkpoint whose metadata is ``kept``."""
    now, then = train.model_dump(), kept["train"]
    changed = [key for key in now if key not in _FREE and now[key] != then.get(key)]
    pairs = [(f"train.{key}", now[key], then.get(key)) for key in changed]
    pairs += [
        (f"model.{key}", value, kept["options"].get(key))
        for key, value in model.options.items()
        if key != "max_rows" and value != kept["options"].get(key)
    ]
    pairs += [("model", model.name, kept["model"])] if model.name != kept["model"] else []
    then_specs = {spec["name"]: _today(spec) for spec in kept["modalities"]}
    for spec in map(_today, check_storable(model)["modalities"]):
        before = then_specs.get(spec["name"], {})
        pairs += [
            (f"modality.{spec['name']}.{key}", value, before.get(key))
            for key, value in spec.items()
            if value != before.get(key)
        ]
    pairs += [("number of training rows", rows, kept["rows"])] if rows != kept["rows"] else []
    pairs += [("data with digest", digest, kept["data"])] if digest != kept["data"] else []
    if pairs:
        key, got, expected = pairs[0]
        raise InputError(
            f"resume: got {key}={got!r}; expected {expected!r}, as the run began; keep it, or start another run"
        )


def _today(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A stored modality with import paths as they are today."""
    return {key: moved(value) if key in ("encoder", "decoder") else value for key, value in spec.items()}

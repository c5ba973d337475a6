"""Laws of options, bundles and configurations."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from polyvae.config import RunConfig, read_config, write_config
from polyvae.core import noise
from polyvae.core.modality import Modality
from polyvae.models import MODELS
from polyvae.models.bundles import (
    describe_modality,
    load_bundle,
    load_model,
    read_modality,
    save_bundle,
    save_model,
)
from polyvae.testing.worlds import (
    Make,
    difference,
    example_batch,
    example_model,
    hold,
    record,
)


def law_options(make: Make, specs: Sequence[Modality]) -> None:
    """``options`` are the constructor's arguments: a model built from them is the same."""
    model = example_model(make, specs)
    again = type(model)(model.specs, **model.options)
    hold(
        again.options == model.options,
        "options",
        f"a model built from the options {model.options} has {again.options}",
    )
    hold(again.specs == list(specs), "options", "the specs of the model are not those of its constructor")
    here, there = ({name: tuple(p.shape) for name, p in each.named_parameters()} for each in (model, again))
    hold(here == there, "options", "a model built from its options has other parameters")


def law_storage(make: Make, specs: Sequence[Modality]) -> None:
    """A saved and loaded model is the same, bit for bit."""
    model = example_model(make, specs).eval()
    batch = example_batch(model)
    draws = record(model, batch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        if MODELS.get(model.name) is type(model):
            save_model(model, path)
            again = load_model(path)
        else:  # a class in a notebook has no import path
            save_bundle(
                path,
                model_name=model.name,
                config={"options": model.options},
                state=model.state_dict(),
                extra={},
            )
            again = make(specs).double().eval()
            again.load_state_dict(load_bundle(path).state)
    with torch.no_grad(), noise.feed(draws):
        before = model(batch).value
    with torch.no_grad(), noise.feed(draws):
        after = again(batch).value
    hold(
        torch.equal(before, after),
        "storage",
        f"the bound of the loaded model differs by {difference(before, after):.3g}",
    )
    hold(
        again.options == model.options, "storage", f"saved with {model.options}, loaded with {again.options}"
    )


def law_toml(make: Make, specs: Sequence[Modality]) -> None:
    """A model written to TOML and read again has the same options and modalities."""
    model = example_model(make, specs)
    tables = [
        json.loads(json.dumps(describe_modality(spec))) for spec in model.specs
    ]  # TOML and JSON have lists, not tuples
    config = RunConfig.check({"model": {"name": model.name, **model.options}, "modality": tables})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_text(write_config(config))
        read = read_config(path)
    again = type(model)(
        [read_modality(table.model_dump(exclude_none=True)) for table in read.modality], **read.model.options
    )
    hold(again.options == model.options, "toml", f"written with {model.options}, read with {again.options}")
    found = [describe_modality(spec) for spec in again.specs]
    hold(found == tables, "toml", f"written with modalities {tables}, read with {found}")

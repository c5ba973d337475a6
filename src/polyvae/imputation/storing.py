"""A fitted estimator as one file, without pickles: tensors in safetensors, all else as JSON in its header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyvae.data.schema import Schema
from polyvae.imputation.embedding import Embedding
from polyvae.imputation.imputer import Design, Imputer
from polyvae.imputation.scores import Scores
from polyvae.imputation.tables import Tables
from polyvae.imputation.target import TARGET, Target
from polyvae.utils.errors import InputError, reading
from polyvae.utils.files import load_tensors, save_tensors

_REMEDY = "write it again with Estimator.save"
_STORED = (
    "model", "latent", "members", "options", "network", "steps", "max_seconds", "id", "nan", "missing_columns", "target", "seed",
)  # fmt: skip


class Stored(NamedTuple):
    """What a file contains.

    Attributes:
        params: Parameters of the estimator.
        schema: Its schema.
        tables: The standardised training samples.
        target: What y was; None: there was none.
        embedding: Its embedding.
        scores: Its held-out scores.
        tensors: All tensors of the file.
    """

    params: dict[str, Any]
    schema: Schema
    tables: Tables
    target: Target | None
    embedding: Embedding
    scores: Scores
    tensors: Mapping[str, Tensor]

    def imputer(self, designs: Sequence[Design]) -> Imputer:
        """The imputer, with the stored members. Raises InputError: tensors of other names or shapes."""
        targets = () if self.target is None else (TARGET,)
        params = self.params
        with reading("estimator", "one that polyvae wrote", _REMEDY):
            made = Imputer(
                self.tables, designs, params["members"], params["seed"], torch.device("cpu"), targets
            )
            for label, members in made.ensembles.items():
                prefix = f"members.{label}."
                state = {
                    key.removeprefix(prefix): x for key, x in self.tensors.items() if key.startswith(prefix)
                }
                members.restore(state)
        return made


def save(
    path: str | Path,
    params: Mapping[str, Any],
    schema: Schema,
    imputer: Imputer,
    target: Target | None,
    embedding: Embedding,
    scores: Scores,
) -> None:
    """Write all that an estimator needs. Raises InputError, StorageError: see ``save_tensors``."""
    tensors = {
        "embedding.mean": torch.from_numpy(embedding.mean),
        "embedding.axes": torch.from_numpy(np.ascontiguousarray(embedding.axes)),
    }
    for number, name in enumerate(imputer.tables.names):
        tensors[f"values.{number}"] = torch.from_numpy(imputer.tables.values[name])
        tensors[f"observed.{number}"] = torch.from_numpy(imputer.tables.observed[name])
    for label, members in imputer.ensembles.items():
        tensors |= {f"members.{label}.{key}": x.cpu().contiguous() for key, x in members.state().items()}
    metadata: dict[str, Any] = {
        "kind": "estimator",
        "params": {key: params[key] for key in _STORED},
        "schema": schema.model_dump(),
        "tables": list(imputer.tables.names),
        "scores": scores.to_json(),
    }
    if target is not None:
        metadata["target"] = {
            "classes": target.classes, "center": target.center.tolist(), "scale": target.scale.tolist()
        }  # fmt: skip
    save_tensors(path, tensors, metadata)


def load(path: str | Path) -> Stored:
    """Read what ``save`` wrote. Raises InputError: another or a damaged file."""
    tensors, metadata = load_tensors(path)
    if metadata.get("kind") != "estimator":
        raise InputError(
            f"{path}: got a polyvae file that is not an estimator; expected one that Estimator.save wrote; choose another"
        )
    with reading(str(path), "an estimator that polyvae wrote", _REMEDY):
        names = metadata["tables"]
        given = metadata.get("target")
        target = None
        if given is not None:
            target = Target(given["classes"], np.array(given["center"]), np.array(given["scale"]))
        return Stored(
            {key: metadata["params"][key] for key in _STORED},
            Schema.check(metadata["schema"], f"{path}: schema", _REMEDY),
            Tables(
                {name: tensors[f"values.{number}"].numpy() for number, name in enumerate(names)},
                {name: tensors[f"observed.{number}"].numpy() for number, name in enumerate(names)},
            ),
            target,
            Embedding(tensors["embedding.mean"].numpy(), tensors["embedding.axes"].numpy()),
            Scores.from_json(metadata["scores"]),
            tensors,
        )

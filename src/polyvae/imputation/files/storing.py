"""A fitted estimator as one file, without pickles: tensors in safetensors, all else as JSON in its header."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from polyvae.core.modality import Modality
from polyvae.data.groups import leaders
from polyvae.data.schema import Features, Schema
from polyvae.imputation.covariates.effects import Effects
from polyvae.imputation.filling.fill import standardised
from polyvae.imputation.imputer import Design, Imputer, specs
from polyvae.imputation.methods.wide import WIDE, Wide
from polyvae.imputation.scoring.scores import Scores
from polyvae.imputation.tables import Floats, SparseRows, Tables
from polyvae.imputation.targets.cox import Survival
from polyvae.imputation.targets.hazards import COLUMNS, COVARIATES, EMBEDDING, EQUAL, STACK, Hazards
from polyvae.imputation.targets.risk import Linear
from polyvae.imputation.targets.target import TARGET, Target
from polyvae.imputation.understanding.embedding import Embedding
from polyvae.models import MODELS
from polyvae.models.bundles import check_params, outline
from polyvae.utils.errors import InputError, nearest, reading
from polyvae.utils.files import load_tensors, save_tensors, short
from polyvae.utils.records import Record, check_sizes

_REMEDY = "write it again with Estimator.save"
_Count = Annotated[int, Field(ge=1)]


class _Params(Record):
    """The parameters of an estimator that its file contains: all but those of the machine, device and verbose."""

    model: str
    latent: _Count
    members: Annotated[int, Field(ge=2)]
    options: dict[str, Any] | None
    network: dict[str, Any] | None
    steps: _Count | None
    max_seconds: Annotated[float, Field(gt=0)] | None
    id: str | int | bool | None
    nan: Literal["missing", "error"]
    missing_columns: Literal["error", "mask"]
    target: Literal["auto", "class", "number", "time"]
    units: dict[str, dict[str, str]] | None
    seed: int
    kinds: dict[str, dict[str, str | list[bool | int | float | str]]] | None = None
    covariates: list[str] | dict[str, Literal["categorical", "real"] | None] | None = None
    max_samples: Annotated[int, Field(ge=2)] | None = None
    unseen_classes: Literal["error", "mask"] = "error"
    log_scale: Literal["auto"] | list[str] = "auto"


class _Target(Record):
    """What y was."""

    classes: Annotated[list[str | int | float | bool], Field(min_length=2)] | None
    center: Annotated[list[float], Field(min_length=1)]
    scale: list[Annotated[float, Field(gt=0)]]


class _Hazards(Record):
    """The inputs of Cox regressions, and their weights in the combination."""

    inputs: Annotated[list[str], Field(min_length=1)]
    weights: list[Annotated[float, Field(ge=0)]]


class _Metadata(Record):
    """All that is not a tensor."""

    kind: Literal["estimator"]
    params: _Params
    features: Annotated[Schema, Field(alias="schema")]
    tables: list[str]
    scores: str
    target: _Target | None = None
    hazards: _Hazards | None = None


class Stored(NamedTuple):
    """What a file contains.

    Attributes:
        params: Parameters of the estimator.
        schema: Its schema.
        tables: The standardised training samples.
        target: What y was; None: there was none.
        embedding: Its embedding.
        scores: Its held-out scores.
        hazards: The model of time to event; None: y was something else.
        tensors: All tensors of the file.
        effects: What covariates add to features.
    """

    params: dict[str, Any]
    schema: Schema
    tables: Tables
    target: Target | None
    embedding: Embedding
    scores: Scores
    hazards: Hazards | None
    tensors: Mapping[str, Tensor]
    effects: Effects

    def imputer(self, designs: Sequence[Design], device: torch.device) -> Imputer:
        """The imputer, with the stored members on ``device``. Raises InputError: tensors of other names or shapes."""
        targets = () if self.target is None else (TARGET,)
        count, seed = self.params["members"], self.params["seed"]
        with reading("estimator", "one that polyvae wrote", _REMEDY):
            wide = Wide(self.tables)
            states = {
                design.label: self._state(design, count, specs(self.tables, design, targets, wide))
                for design in designs
            }
            together = leaders_of(self.schema)
            made = Imputer(self.tables, designs, count, seed, device, targets, wide, together, self.effects)
            for label, members in made.ensembles.items():
                members.restore(states[label])
        return made

    def _state(self, design: Design, count: int, modalities: Sequence[Modality]) -> dict[str, Tensor]:
        """The tensors of an ensemble, compared with the model that is described beside them before it takes memory."""
        prefix = f"members.{design.label}."
        state = {key.removeprefix(prefix): x for key, x in self.tensors.items() if key.startswith(prefix)}
        for modality in modalities:
            check_params(modality)
        empty = outline(design.model, modalities, design.options, len(state))
        expected = {**dict(empty.named_parameters()), **dict(empty.named_buffers())}
        for key in {**expected, **state}:
            if key not in state or key not in expected or not _fits(state[key], expected[key], count):
                raise InputError(
                    f"estimator: got tensors that do not fit the model ({prefix}{key}); expected those of {count} members; {_REMEDY}"
                )
        return state


def leaders_of(schema: Schema) -> dict[str, NDArray[np.intp]]:
    """Of the modalities with columns of classes, which columns are observed together; see ``Imputer``."""
    return {
        each.name: leaders(len(each.columns), each.groups)
        for each in schema.modalities
        if any(not group.ranks for group in each.groups)
    }


def _plain(value: Any) -> Any:
    """A whole number of NumPy as one of Python, and a tuple as a list, which JSON can hold."""
    return int(value) if isinstance(value, np.integer) else list(value) if isinstance(value, tuple) else value


def _fits(stacked: Tensor, one: Tensor, count: int) -> bool:
    return stacked.shape == (count, *one.shape) and stacked.dtype == one.dtype


def save(
    path: str | Path,
    params: Mapping[str, Any],
    schema: Schema,
    imputer: Imputer,
    target: Target | None,
    embedding: Embedding,
    scores: Scores,
    hazards: Hazards | None = None,
) -> None:
    """Write all that an estimator needs.

    Raises InputError: a model that ``load`` would have to import. InputError, StorageError: see ``save_tensors``.
    """
    if params["model"] not in MODELS:
        raise InputError(
            f"save: got an estimator with model {params['model']!r}, which would be imported from its file; expected a name in MODELS; "
            "choose one, or keep the estimator in memory"
        )
    tensors = {
        "embedding.mean": torch.from_numpy(embedding.mean),
        "embedding.axes": torch.from_numpy(np.ascontiguousarray(embedding.axes)),
    }
    for number, name in enumerate(imputer.tables.names):
        x = imputer.tables.values[name]
        if isinstance(x, SparseRows):
            tensors |= {
                f"sparse.{number}.{key}": torch.from_numpy(part) for key, part in _sparse_parts(x).items()
            }
        else:
            tensors[f"values.{number}"] = torch.from_numpy(x)
            tensors[f"observed.{number}"] = torch.from_numpy(imputer.tables.observed[name])
    if imputer.tables.covariates is not None:
        tensors["covariates"] = torch.from_numpy(imputer.tables.covariates)
    for number, name in enumerate(imputer.effects.shifts):
        tensors[f"effects.{number}"] = torch.from_numpy(imputer.effects.shifts[name])
        tensors[f"leverages.{number}"] = torch.from_numpy(imputer.effects.leverages[name])
        if name in imputer.effects.variances:
            tensors[f"variances.{number}"] = torch.from_numpy(imputer.effects.variances[name])
    for label, members in imputer.ensembles.items():
        tensors |= {f"members.{label}.{key}": x.cpu().contiguous() for key, x in members.state().items()}
    metadata: dict[str, Any] = {
        "kind": "estimator",
        "params": {key: _plain(params[key]) for key in _Params.model_fields},
        "schema": schema.model_dump(),
        "tables": list(imputer.tables.names),
        "scores": scores.to_json(),
    }
    if target is not None:
        metadata["target"] = {
            "classes": target.classes, "center": target.center.tolist(), "scale": target.scale.tolist()
        }  # fmt: skip
    if hazards is not None:
        metadata["hazards"], parts = _hazards_parts(hazards)
        tensors |= parts
    save_tensors(path, tensors, metadata)


def _sparse_parts(x: SparseRows) -> dict[str, NDArray[Any]]:
    matrix = x.matrix
    return {
        "data": matrix.data,
        "columns": matrix.indices.astype(np.int64),
        "starts": matrix.indptr.astype(np.int64),
        "seen": x.seen,
    }


def _effects(path: str | Path, schema: Schema, tensors: Mapping[str, Tensor]) -> Effects:
    """What covariates add to features. Raises InputError: other shapes or types than those of the schema."""
    rows = 1 + sum(one.covariate.columns + len(one.added) for one in schema.covariates)
    if rows == 1:
        return Effects()
    keys = {"effects": rows, "leverages": rows}
    if "variances.0" in tensors:  # files of older versions have none
        keys["variances"] = rows - 1
    found = (
        {
            each.name: _tensor(
                path, tensors, f"{key}.{number}", (height, len(each.columns)), torch.float32
            ).numpy()
            for number, each in enumerate(schema.modalities)
        }
        for key, height in keys.items()
    )
    return Effects(*found)


def _sparse(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    key: str,
    each: Features,
    shift: Callable[[NDArray[Any] | slice], Floats] | None,
) -> SparseRows:
    """A wide sparse table. Raises InputError: parts that are no matrix in compressed rows with the columns of the schema."""
    data = tensors.get(f"{key}.data", torch.empty(0))
    kind = torch.float64 if data.dtype == torch.float64 else torch.float32
    values = _tensor(path, tensors, f"{key}.data", (None,), kind).numpy()
    columns = _tensor(path, tensors, f"{key}.columns", (len(values),), torch.int64).numpy()
    seen = _tensor(path, tensors, f"{key}.seen", (None,), torch.bool).numpy()
    starts = _tensor(path, tensors, f"{key}.starts", (len(seen) + 1,), torch.int64).numpy()
    width, rises = len(each.columns), np.diff(starts)
    sound = starts[0] == 0 and starts[-1] == len(values) and bool((rises >= 0).all())
    inside = not len(columns) or (columns.min() >= 0 and columns.max() < width)
    if width <= WIDE or not sound or not inside:
        raise InputError(
            f"{path}: got a damaged sparse table {key!r}; expected that of a wide one; {_REMEDY}"
        )
    from scipy import sparse

    matrix = sparse.csr_array((values, columns, starts), shape=(len(seen), width))
    matrix.sum_duplicates()
    return SparseRows(matrix, seen, partial(standardised, each), shift)


def load(path: str | Path) -> Stored:
    """Read what ``save`` wrote. Raises InputError: another or a damaged file."""
    tensors, metadata = load_tensors(path)
    if metadata.get("kind") != "estimator":
        raise InputError(
            f"{path}: got a polyvae file that is not an estimator; expected one that Estimator.save wrote; choose another"
        )
    found = _Metadata.check(metadata, f"{path}: metadata", _REMEDY)
    params, y = found.params.model_dump(), found.target
    if found.params.model not in MODELS:
        raise InputError(
            f"{path}: got model {short(found.params.model, 80)!r}; {nearest(short(found.params.model, 80), MODELS)}; {_REMEDY}"
        )
    longest = max((max(x.shape, default=1) for x in tensors.values()), default=1)
    sized = {key: params[key] for key in ("latent", "members", "options", "network")}
    check_sizes(f"{path}: params", sized, longest)
    target = None
    if y is not None:
        if len(y.center) != len(y.scale) or len(y.center) != len(y.classes or [0]):
            raise InputError(
                f"{path}: got a target whose parts differ in length; expected one size; {_REMEDY}"
            )
        target = Target(y.classes, np.array(y.center), np.array(y.scale))
    effects = _effects(path, found.features, tensors)
    return Stored(
        params,
        found.features,
        _tables(path, found, tensors, effects),
        target,
        _embedding(path, found.features, tensors),
        Scores.from_json(found.scores),
        None if found.hazards is None else _hazards(path, found, tensors),
        tensors,
        effects,
    )


def _tables(path: str | Path, found: _Metadata, tensors: Mapping[str, Tensor], effects: Effects) -> Tables:
    """The training samples. Raises InputError: other modalities, shapes or types than the schema and the target say."""
    widths = {each.name: len(each.columns) for each in found.features.modalities}
    if found.target is not None:
        widths[TARGET] = len(found.target.center)
    if found.tables != list(widths):
        raise InputError(
            f"{path}: got tables that are not those of the schema; expected {len(widths)}; {_REMEDY}"
        )
    given = None
    if effects.shifts:
        columns = sum(one.covariate.columns for one in found.features.covariates)
        given = _tensor(path, tensors, "covariates", (None, columns), torch.float32).numpy()
    sparse = {
        name: _sparse(
            path,
            tensors,
            f"sparse.{number}",
            found.features[name],
            None if given is None else effects.shift_of(name, given),
        )
        for number, name in enumerate(widths)
        if f"sparse.{number}.data" in tensors and name != TARGET
    }
    first = next(iter(widths))
    of_first: Any = (
        sparse[first]
        if first in sparse
        else _tensor(path, tensors, "values.0", (None, widths[first]), torch.float32)
    )
    size = int(of_first.shape[0])
    sizes = [len(x) for x in sparse.values()] + ([] if given is None else [len(given)])
    if any(each != size for each in sizes):
        raise InputError(f"{path}: got tables of different sizes; expected {size} samples in each; {_REMEDY}")
    if size < 2:
        raise InputError(f"{path}: got {size} training samples; expected 2 or more; {_REMEDY}")
    values: dict[str, Any] = {}
    observed = {}
    for number, (name, width) in enumerate(widths.items()):
        if name in sparse:
            values[name], observed[name] = sparse[name], sparse[name].observed
            continue
        values[name] = _tensor(path, tensors, f"values.{number}", (size, width), torch.float32).numpy()
        observed[name] = _tensor(path, tensors, f"observed.{number}", (size, width), torch.bool).numpy()
    return Tables(values, observed, given)


def _hazards_parts(hazards: Hazards) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is stored of a model of time to event: JSON and tensors."""
    inputs = list(hazards.regressions)
    tensors = {
        "hazards.time": torch.from_numpy(hazards.given.time),
        "hazards.event": torch.from_numpy(hazards.given.event),
        "hazards.left_out": torch.from_numpy(np.stack([hazards.left_out[name] for name in (*inputs, STACK)])),
    }
    for number, each in enumerate(hazards.regressions.values()):
        tensors[f"hazards.{number}.centre"] = torch.from_numpy(each.centre)
        tensors[f"hazards.{number}.weights"] = torch.from_numpy(each.weights)
    return {"inputs": inputs, "weights": [hazards.weights[name] for name in inputs]}, tensors


def _hazards(path: str | Path, found: _Metadata, tensors: Mapping[str, Tensor]) -> Hazards:
    """The model of time to event. Raises InputError: other inputs, shapes or types than those of the schema, or no event."""
    assert found.hazards is not None
    widths = {each.name: len(each.columns) for each in found.features.modalities}
    if found.features.covariates:
        widths[COVARIATES] = sum(one.covariate.columns for one in found.features.covariates)
    total = sum(widths.values())
    if len(widths) > 1:
        widths = {COLUMNS: total, EQUAL: total, **widths}
    widths[EMBEDDING] = _embedding(path, found.features, tensors).width
    inputs, weights = found.hazards.inputs, found.hazards.weights
    if inputs != list(widths) or len(weights) != len(inputs) or found.target is not None:
        raise InputError(
            f"{path}: got Cox regressions of inputs that are not those of the schema; expected {len(widths)}; {_REMEDY}"
        )
    time = _tensor(path, tensors, "hazards.time", (None,), torch.float64).numpy()
    event = _tensor(path, tensors, "hazards.event", (len(time),), torch.bool).numpy()
    if not event.any() or (time < 0).any():
        raise InputError(f"{path}: got times without an event, or negative ones; expected others; {_REMEDY}")
    left_out = _tensor(path, tensors, "hazards.left_out", (len(inputs) + 1, len(time)), torch.float64).numpy()
    regressions = {
        name: Linear(
            *(
                _tensor(path, tensors, f"hazards.{number}.{part}", (width,), torch.float32).numpy()
                for part in ("centre", "weights")
            )
        )
        for number, (name, width) in enumerate(widths.items())
    }
    return Hazards(
        regressions,
        dict(zip(inputs, weights, strict=True)),
        Survival(time, event),
        dict(zip((*inputs, STACK), left_out, strict=True)),
    )


def _embedding(path: str | Path, schema: Schema, tensors: Mapping[str, Tensor]) -> Embedding:
    width = sum(len(each.columns) for each in schema.modalities)
    mean = _tensor(path, tensors, "embedding.mean", (width,), torch.float32)
    return Embedding(
        mean.numpy(), _tensor(path, tensors, "embedding.axes", (width, None), torch.float32).numpy()
    )


def _tensor(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    key: str,
    shape: tuple[int | None, ...],
    kind: torch.dtype,
) -> Tensor:
    """A tensor of this shape (None: any size), type and of finite numbers. Raises InputError: another."""
    x = tensors.get(key)
    fits = x is not None and x.dtype == kind and x.ndim == len(shape)
    if x is None or not fits or any(n not in (None, m) for n, m in zip(shape, x.shape, strict=True)):
        raise InputError(
            f"{path}: got no tensor {key!r} of the shape and type that fit the schema; {_REMEDY}"
        )
    if not bool(torch.isfinite(x).all()):
        raise InputError(
            f"{path}: got values in {key!r} that are not finite; expected finite ones; {_REMEDY}"
        )
    return x

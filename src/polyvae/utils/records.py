"""What files and callers may contain: types that are checked by pydantic before anything is built. Every error is one line."""

from __future__ import annotations

import inspect
import reprlib
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.errors import PydanticUserError

from polyvae.utils.errors import InputError

_LEAST = 100_000
"""A number in a file may be as large as this, or as a tensor beside it is long."""
LONGEST = 1000
"""Characters of a text in a file."""

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]


class Record(BaseModel):
    """An object in a file, with known keys. ``check`` reads one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def check(cls, values: Mapping[str, Any], where: str, remedy: str) -> Self:
        """Validate the contents of a file. Raises InputError, which begins with ``where`` and ends with ``remedy``."""
        try:
            return cls.model_validate(values)
        except ValidationError as problem:
            raise InputError(f"{where}: {_first(problem)}; {remedy}") from None


class StoredModality(Record):
    """A modality in a bundle."""

    name: Annotated[str, Field(min_length=1)]
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    likelihood: str = "normal"
    network: str = "auto"
    private: Count | None = None
    weight: Amount = 1.0
    params: dict[str, Any] = {}
    role: str = "both"
    encoder: str | None = None
    decoder: str | None = None
    entries: bool = False
    covariates: list[str | dict[str, Any]] = []


class StoredConfig(Record):
    """The options and modalities of a model in a bundle."""

    options: dict[str, Any]
    modalities: list[StoredModality]


class StoredModel(Record):
    """The metadata of a bundle."""

    kind: Literal["model"]
    name: str
    config: dict[str, Any]
    extra: dict[str, Any]


class StoredSettings(Record):
    """The settings in a checkpoint that are read before they are compared. Further keys are allowed."""

    model_config = ConfigDict(extra="allow")

    precision: Literal["auto", "fp32", "bf16", "fp64"]
    epochs: Count | None
    patience: Count | None
    devices: Count = 1
    batch_size: Count = 1


class StoredTraining(Record):
    """The metadata of a checkpoint. Further keys are allowed."""

    model_config = ConfigDict(extra="allow")

    step: Count
    shift: int = 0
    per_epoch: Count | None = None
    elapsed: Amount
    first: float | None = None
    best: float | None
    stale: Count
    stopped: str
    optimizer: dict[str, dict[str, Any]]
    model: str
    options: dict[str, Any]
    names: list[str]
    rows: Count
    data: str
    modalities: list[dict[str, Any]]
    train: StoredSettings
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"


class StoredLikelihood(Record):
    """An estimate of a log-likelihood in an evaluation."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)

    mean: float
    standard_error: float
    sampling_error: float
    effective_samples: float
    rows: Count


_Numbers = dict[str, float | None]
_Ends = Annotated[list[float], Field(min_length=2, max_length=2)]
_Table = dict[str, dict[str, float | None]]


class Agreed(Record):
    """On which share of the unconditional draws all modalities agree about an attribute."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)

    entropy: float
    agreement: float | None = None
    interval: _Ends | None = None


class StoredEvaluation(Record):
    """An evaluation: what the pages read of it. Further keys, and numbers that are not finite, are allowed."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)

    model: str
    rows: Count
    seed: int
    fitted_prior: str | None = None
    protocol: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    log_likelihood: float | None = None
    log_likelihood_samples: Count | None = None
    log_likelihood_joint: StoredLikelihood | None = None
    log_likelihood_by_modality: dict[str, StoredLikelihood] | None = None
    log_likelihood_by_condition: dict[str, Any] | None = None
    judge_accuracy: _Numbers | None = None
    judge_kind: dict[str, Any] | None = None
    coherence_matrix: _Table | None = None
    coherence_matrix_fitted: _Table | None = None
    coherence_by_observed: _Numbers | None = None
    coherence_intervals: dict[str, dict[str, _Ends]] | None = None
    intervals: dict[str, _Ends] | None = None
    attributes: dict[str, dict[str, dict[str, Any]]] | None = None
    unsaid: dict[str, dict[str, dict[str, Any]]] | None = None
    attributes_fitted: dict[str, dict[str, dict[str, Any]]] | None = None
    unsaid_fitted: dict[str, dict[str, dict[str, Any]]] | None = None
    coherence_by_observed_fitted: _Numbers | None = None
    unconditional_by_attribute: dict[str, Agreed] | None = None
    unconditional_by_attribute_fitted: dict[str, Agreed] | None = None
    unconditional_histogram: _Numbers | None = None
    unconditional_histogram_fitted: _Numbers | None = None
    quality: dict[str, Any] | None = None
    quality_settings: dict[str, Any] | None = None
    reconstruction: dict[str, Any] | None = None
    probes: dict[str, Any] | None = None
    units: dict[str, Any] | None = None
    gradients: dict[str, Any] | None = None


class StoredEpoch(Record):
    """A line of a history: an epoch, or a note. Further keys are allowed, and bounds that are not finite."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)

    step: Count | None = None
    epoch: Annotated[int, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    lr: float | None = None
    train: _Numbers | None = None
    validation: _Numbers | None = None
    watched: dict[str, Any] | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.train is None and self.validation is None and self.epoch is None:
            return self
        for key in ("step", "epoch", "seconds", "train"):
            if getattr(self, key) is None:
                raise ValueError(f"an epoch with {key!r}")
        for part in (self.train, self.validation):
            if part is not None and "bound" not in part:
                raise ValueError("a mean 'bound'")
        return self


class StoredCell(Record):
    """A cell in the results of a study."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)

    name: str
    error: str


class StoredResults(Record):
    """The results of a study."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)

    cells: list[StoredCell] = []


def check_keywords(where: str, call: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raises InputError where a value of ``given`` has another type than the keyword of ``call`` is annotated with.

    Keywords whose annotation pydantic does not know, as those of user-defined models may be, are not checked.
    """
    known = _annotations(call)
    for key, value in given.items():
        if key not in known:
            continue
        try:
            adapter = TypeAdapter(known[key], config=ConfigDict(strict=True, allow_inf_nan=False))
        except PydanticUserError:
            continue
        try:
            adapter.validate_python(value)
        except ValidationError as problem:
            raise InputError(f"{where}: {_first(problem, key)}; correct it") from None


def check_sizes(where: str, values: Any, most: int) -> None:
    """Raises InputError where a number anywhere in ``values`` is above ``most`` and 100,000, or a text is longer than 1,000 characters."""
    most = max(most, _LEAST)
    if isinstance(values, int) and abs(values) > most:
        raise InputError(
            f"{where}: got {reprlib.repr(values)}; expected at most {most:,}, as the tensors beside it are; "
            "write the file again"
        )
    if isinstance(values, str) and len(values) > LONGEST:
        raise InputError(
            f"{where}: got text of {len(values):,} characters; expected at most {LONGEST:,}; write the file again"
        )
    if isinstance(values, Mapping):
        for key, value in values.items():
            check_sizes(where, key, most)
            check_sizes(f"{where}: {key}", value, most)
    elif isinstance(values, list | tuple):
        for value in values:
            check_sizes(where, value, most)


def _annotations(call: Callable[..., Any]) -> dict[str, Any]:
    function = call.__init__ if isinstance(call, type) else inspect.unwrap(call)  # type: ignore[misc]
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def _first(problem: ValidationError, before: str = "") -> str:
    """The first error of pydantic: what was got, and what was expected."""
    first = problem.errors(include_url=False)[0]
    key = ".".join(str(part) for part in (*([before] if before else []), *_plain(first["loc"]))) or "value"
    key = textwrap.shorten(key, 100, placeholder=" ...")
    if first["type"] == "missing":
        return f"got no {key!r}; expected one"
    if first["type"] == "extra_forbidden":
        return f"got an unknown key {key!r}; expected none"
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"got {key}={reprlib.repr(first['input'])}; expected {expected}"


def _plain(loc: Iterable[int | str]) -> list[int | str]:
    """The keys and numbers in a location, without the alternatives of a union."""
    return [part for part in loc if isinstance(part, int) or part.replace("_", "").isalnum()]

"""A run's configuration, and TOML.

Unknown keys are errors that name the nearest known one; every error is one line. What is written reads back to the same configuration.
"""

from __future__ import annotations

import json
import os
import reprlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from polyvae.utils.errors import InputError, nearest

# TOML has no null; "none" also lets --set take a value back.
_Maybe = BeforeValidator(lambda value: None if value == "none" else value)
# Python callers may pass a tuple; TOML gives lists.
_Listed = BeforeValidator(lambda value: list(value) if isinstance(value, tuple) else value)
_Count = Annotated[int, Field(ge=1)]
_Seed = Annotated[int, Field(ge=0, lt=2**63)]
_Share = Annotated[float, Field(ge=0, lt=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ALIASES = {"private": "modality.*.private"}
_Section = TypeVar("_Section", bound="Section")


class Section(BaseModel):
    """A table whose keys are known. Immutable: ``model_copy(update=...)`` gives another."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def check(cls, values: Mapping[str, Any], source: str = "") -> Self:
        """Like the constructor, for values that a person wrote: raises InputError, one line, which begins with ``source``."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as problem:
            raise InputError(_line(cls, problem, source, ())) from None


class DataConfig(Section):
    """``name`` in DATASETS; ``root`` of its files; ``hide``: share of the modalities hidden at random in the training part.

    ``only`` these of its modalities; ``target``: a name under which its labels become a modality that is decoded, never encoded.
    """

    name: str = "polydigits"
    root: str | None = None
    only: list[str] | None = None
    target: str | None = None
    hide: _Share = 0.0
    hide_seed: _Seed = 0
    options: dict[str, Any] = {}


class ModelConfig(Section):
    """``name`` in MODELS, or an import path "package.module:Class".

    Every other key is a keyword of that model's constructor (see ``check_options``).
    """

    model_config = ConfigDict(extra="allow")

    name: str = "mmvae+"

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's keywords that were given."""
        return dict(self.model_extra or {})


class ModalityConfig(Section):
    """What to change about the modality ``name``: the other fields of Modality. None: as the data set says."""

    name: str
    shape: list[_Count] | None = None
    likelihood: str | None = None
    network: str | None = None
    private: Annotated[int | None, Field(ge=0), _Maybe] = None
    weight: Annotated[float | None, Field(ge=0)] = None
    params: dict[str, Any] | None = None
    role: Literal["both", "input", "source", "target"] | None = None
    encoder: str | None = None
    decoder: str | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of Modality that were given, without the name."""
        return self.model_dump(exclude_none=True, exclude={"name"})


class TrainConfig(Section):
    """How to train.

    ``epochs``           passes over the training part; None ("none" in TOML): until ``max_seconds``.
    ``schedule``         of the learning rate: "constant"; "cosine" to zero; "flat-cosine": flat for a share ``flat`` of the run first.
    ``warmup_epochs``    over which beta rises from 0 to its value.
    ``clip``             norm of the gradient above which it is scaled down; None: never.
    ``device``           of the Fabric: "auto", "cpu", "cuda", "mps"; ``devices``: how many.
    ``validation``       share of the training part that is set aside; ``patience``: epochs without a better bound there before stopping.
    ``checkpoint_every`` steps. ``max_seconds`` of training, after which it stops. ``threads`` of the CPU; None: torch's choice.
    """

    epochs: Annotated[_Count | None, _Maybe] = 100
    batch_size: _Count = 64
    lr: _Positive = 1e-3
    optimizer: Literal["adam"] = "adam"
    amsgrad: bool = False
    schedule: Literal["constant", "cosine", "flat-cosine"] = "constant"
    flat: _Share = 0.4
    warmup_epochs: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    clip: Annotated[_Positive | None, _Maybe] = None
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    device: str = "auto"
    devices: _Count = 1
    seed: _Seed = 0
    validation: _Share = 0.05
    patience: Annotated[_Count | None, _Maybe] = None
    checkpoint_every: _Count = 500
    max_seconds: Annotated[_Positive | None, _Maybe] = None
    threads: Annotated[_Count | None, _Maybe] = None

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.epochs is None and self.max_seconds is None:
            raise ValueError("got neither epochs nor max_seconds; expected at least one; training must end")
        return self


class FittedPriorConfig(Section):
    """The density that is fitted to posterior draws of z after training."""

    kind: Literal["gmm", "flow"] = Field(
        default="gmm", description='"gmm": a Gaussian mixture; "flow": a normalising flow (by zuko).'
    )
    components: int = Field(
        default=20,
        ge=0,
        description="Components of the Gaussian mixture; 0: no prior of either kind is fitted.",
    )
    covariance: Literal["full", "diag"] = Field(
        default="full", description="Covariance of each Gaussian component."
    )
    transforms: _Count = Field(default=3, description="Spline transforms of the flow.")
    seed: _Seed = Field(default=0, description="Seed of the posterior draws and of the fit.")


class EvaluateConfig(Section):
    """How a trained model is evaluated: the table ``[evaluate]``, and the keyword arguments of ``evaluate``."""

    metrics: Annotated[list[str], _Listed] = Field(
        default=["coherence", "likelihood"], description='Names in METRICS, or ["all"].'
    )
    likelihood_samples: int = Field(
        default=1000, ge=20, description="Importance samples of each log-likelihood."
    )
    likelihood_rows: _Count = Field(
        default=200, description="The number of test samples whose log-likelihood is estimated."
    )
    likelihood_conditional: Literal["none", "rest", "pairs"] = Field(
        default="none",
        description='Which conditional log-likelihoods are added: "rest": of each modality given all others; "pairs": also of each '
        "modality given each other one.",
    )
    inputs: Annotated[_Count | None, _Maybe] = Field(
        default=None,
        description="Coherence is computed given at most this number of modalities; None: given any number.",
    )
    measures: Literal["all", "frechet"] = Field(
        default="all",
        description="Measures of image quality: all, or only the Fréchet distances, which are fast to compute.",
    )
    draws: _Count = Field(default=10_000, description="The number of unconditional draws.")
    seed: _Seed = Field(default=0, description="Seed of all draws of the evaluation.")
    protocol: Literal["sound", "published"] = Field(
        default="sound",
        description='"published": as in the code of the authors of MMVAE+ (2023), with its deviations.',
    )
    features: str = Field(
        default="judges",
        description='Features for image quality: "judges", or "inception:PATH" with the path of the Inception weights.',
    )
    fitted_prior: FittedPriorConfig = Field(
        default=FittedPriorConfig(), description="The prior that is fitted after training."
    )
    curve_seconds: Annotated[_Positive | None, _Maybe] = Field(
        default=None,
        description="During training, coherence is measured after the first epoch that ends this number of seconds of training after "
        "the previous measurement (the time of measuring is not counted); None: it is not measured. Only training uses it.",
    )


class EvaluateSettings(TypedDict, total=False):
    """The fields of EvaluateConfig as keyword arguments."""

    metrics: Sequence[str]
    likelihood_samples: int
    likelihood_rows: int
    likelihood_conditional: Literal["none", "rest", "pairs"]
    inputs: int | None
    measures: Literal["all", "frechet"]
    draws: int
    seed: int
    protocol: Literal["sound", "published"]
    features: str
    fitted_prior: FittedPriorConfig | Mapping[str, Any]
    curve_seconds: float | None


class RunConfig(Section):
    """All that decides a run: ``[data]``, ``[model]``, ``[[modality]]``, ``[train]``, ``[evaluate]``; and the ``command``."""

    command: str | None = None
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    modality: list[ModalityConfig] = []
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


def read_config(path: str | os.PathLike[str] | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in a TOML file (None: the defaults), with overrides such as "train.epochs=5".

    A value is read as TOML, and as text where it is not; "modality.NAME.FIELD=..." reaches into ``[[modality]]``.

    Raises InputError, one line: missing file, a syntax error (with its line), unknown keys (with the nearest known one), wrong values.
    """
    table = {} if path is None else read_toml(path)
    keys = []
    for text in overrides:
        key, value = assignment(text)
        place(table, key, value)
        keys.append(key)
    try:
        return RunConfig.model_validate(table)
    except ValidationError as problem:
        raise InputError(_line(RunConfig, problem, str(path or ""), keys)) from None


def write_config(config: RunConfig) -> str:
    """The configuration as TOML, every default spelled out; ``read_config`` gives an equal one, whose TOML is the same text."""
    table = config.model_dump(exclude_none=True)
    if config.train.epochs is None:
        table["train"] = {"epochs": "none", **table["train"]}
    return tomli_w.dumps({key: value for key, value in table.items() if value != []})


def check_options(name: str, options: Iterable[str], accepted: Iterable[str]) -> None:
    """Raises InputError if model ``name``, whose constructor takes the keywords ``accepted``, does not know one of ``options``."""
    accepted = list(accepted)
    for key in options:
        if key not in accepted:
            raise InputError(f"model.{key}: unknown option of model {name!r}; {nearest(key, accepted)}")


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a TOML file says. Raises InputError, one line: missing file, a syntax error (with its line)."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        beside = sorted(file.name for file in path.parent.glob("*.toml"))
        raise InputError(
            f"{path}: no such file; expected a TOML configuration; {nearest(path.name, beside)}"
        ) from None
    except OSError as problem:
        raise InputError(
            f"{path}: cannot be read ({problem.strerror}); expected a TOML file; check path and permissions"
        ) from None
    except ValueError as problem:  # both TOMLDecodeError, which says line and column, and UnicodeDecodeError
        raise InputError(
            f"{path}: not TOML: {problem}; expected lines such as epochs = 5 under [train]; correct that line"
        ) from None


def assignment(text: str) -> tuple[str, Any]:
    """The key and the value of "key=value", which is read as TOML, and as text where it is not."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not all(key.split(".")):
        raise InputError(f"--set {text!r}: expected key=value, such as train.epochs=5")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def place(table: dict[str, Any], key: str, value: Any) -> None:
    """Put a value into ``table`` where a dotted key says; "modality.NAME.FIELD" reaches into ``[[modality]]``."""
    *way, last = key.split(".")
    row: Any = table
    if way[:1] == ["modality"] and way[1:]:
        row, way = (
            _modality(table, ".".join(way[1:])),
            [],
        )  # a modality's name may have dots, its fields have none
    for step in way:
        row = row.setdefault(step, {})
        if not isinstance(row, dict):
            raise InputError(
                f"--set {key}: {step!r} is a value, not a table; expected a key such as train.epochs"
            )
    row[last] = value


def flatten(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested settings, for ``place``; a field of a modality is one value, whatever it holds."""
    for key, value in settings.items():
        key = ALIASES.get(f"{before}{key}", f"{before}{key}")
        if key == "modality" and isinstance(value, list):
            for row in value:
                yield from (
                    (f"modality.{row.get('name', '*')}.{name}", x)
                    for name, x in row.items()
                    if name != "name"
                )
        elif isinstance(value, Mapping) and not (key.startswith("modality.") and key.count(".") > 1):
            yield from flatten(value, f"{key}.")
        else:
            yield key, value


def _modality(table: dict[str, Any], name: str) -> dict[str, Any]:
    """The ``[[modality]]`` table of that name, made where there is none."""
    rows = table.setdefault("modality", [])
    if not isinstance(rows, list):
        raise InputError(
            "modality: got one table; expected a list of them, each under [[modality]]; double the brackets"
        )
    for row in rows:
        if isinstance(row, dict) and row.get("name") == name:
            return row
    row = {"name": name}
    rows.append(row)
    return row


def _line(root: type[Section], problem: ValidationError, source: str, overrides: Sequence[str]) -> str:
    """pydantic's first complaint in one line: where, what, got, expected."""
    first = problem.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    where = (
        f"--set {key}"
        if key in overrides
        else f"{source}: {key}"
        if source and key
        else source or key or "configuration"
    )
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown key; {_hint(root, first['loc'])}"
    elif first["type"] == "missing":
        message = "got nothing; expected a value; add it"
    elif first["type"] == "list_type":
        message = f"got {reprlib.repr(first['input'])}; expected {_list(root, first['loc'], first['input'])}"
    elif first["type"] == "too_short":
        message = f"got {first['input']!r}; expected one value or more; add one"
    elif first["type"] != "value_error":
        message = f"got {reprlib.repr(first['input'])}; expected {message.removeprefix('Input should be ')}"
    return f"{where}: {message}"


def _hint(root: type[Section], loc: Sequence[int | str]) -> str:
    """The nearest known key in the section where an unknown one stands, or the section where it would be known."""
    sections = {name: field.annotation for name, field in root.model_fields.items()}
    here, key = _section(root, loc), str(loc[-1])
    for name, section in sections.items():
        if (
            isinstance(section, type)
            and issubclass(section, Section)
            and section is not here
            and key in section.model_fields
        ):
            return f"did you mean {name}.{key}?"
    return nearest(key, here.model_fields)


def _list(root: type[Section], loc: Sequence[int | str], got: object) -> str:
    """What a list looks like where there is none: its default, or one of what was given."""
    here, key = _section(root, loc), str(loc[-1])
    field = here.model_fields[key] if isinstance(here, type) and issubclass(here, Section) else None
    if field is None:  # an axis, whose name may have dots
        key, got = next(flatten(got, f"{key}."), (key, got)) if isinstance(got, dict) else (key, got)
        key, default = json.dumps(key) if "." in key else key, got
    else:
        default, (inner, *_) = field.default, get_args(field.annotation)
        if isinstance(inner, type) and issubclass(inner, Section):
            return f"a list of tables, each under [[{'.'.join(map(str, loc))}]]; double the brackets"
    example = (isinstance(default, list) and default) or [got]
    plain = not any(isinstance(value, dict | list) for value in example)  # TOML has these as JSON does
    return f"a list such as {key} = {json.dumps(example, default=str)}" if plain else "a list"


def _section(root: type[Section], loc: Sequence[int | str]) -> Any:
    """Where the last part of a place stands: a section, or the type of a plain table."""
    here: Any = root
    for part in loc[:-1]:
        if isinstance(part, str):
            field = here.model_fields[part].annotation
            here = next(iter(get_args(field)), field)  # of a list of tables, such a table
    return here

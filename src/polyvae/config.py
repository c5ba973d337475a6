"""The configuration of a run, and its TOML file.

An unknown key is an error that names the nearest known one; every error is one line. A configuration that is written and read is unchanged.
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
from polyvae.utils.files import check_depth, read_text, short

# TOML has no null; with "none", --set can also remove a value.
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
    """A table with known keys. It is immutable; ``model_copy(update=...)`` returns a changed copy."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def check(cls, values: Mapping[str, Any], source: str = "") -> Self:
        """Validate values that a person wrote. Raises InputError, one line, which begins with ``source``."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as problem:
            raise InputError(_line(cls, problem, source, ())) from None


class DataConfig(Section):
    """The data set.

    ``name`` in DATASETS, the path of a file, or an import path "package.module:function" (see ``load_dataset``); ``root``, the folder of
    its files; ``only``, the modalities to use; ``target``, the name of a modality that is made from the labels, decoded but not encoded;
    ``hide``, the fraction of the modalities that are hidden in the training part; ``hide_mechanism``, completely at random ("mcar"), at
    random given another modality ("mar"), or depending on their own values ("mnar"); ``options``, those of ``load_dataset``.
    """

    name: str = "polydigits"
    root: str | None = None
    only: list[str] | None = None
    target: str | None = None
    hide: _Share = 0.0
    hide_seed: _Seed = 0
    hide_mechanism: Literal["mcar", "mar", "mnar"] = "mcar"
    options: dict[str, Any] = {}


class ModelConfig(Section):
    """``name`` in MODELS, or an import path "package.module:Class".

    Every other key is a keyword argument of the constructor of that model (see ``check_options``).
    """

    model_config = ConfigDict(extra="allow")

    name: str = "mmvae+"

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the constructor."""
        return dict(self.model_extra or {})


class ModalityConfig(Section):
    """Changes to the modality ``name``: the other fields of Modality. None: as in the data set."""

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
    entries: bool | None = None
    covariates: list[str | dict[str, Any]] | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of Modality to change, without the name."""
        return self.model_dump(exclude_none=True, exclude={"name"})


class TrainConfig(Section):
    """How to train.

    Attributes:
        epochs: Passes over the training part. None ("none" in TOML): until ``max_seconds``.
        batch_size: Samples in a step, on each device.
        lr: Learning rate.
        optimizer: "adam".
        amsgrad: Use the AMSGrad variant of Adam.
        schedule: Of the learning rate: "constant"; "cosine" falls to zero; "flat-cosine" is constant for the share ``flat`` of the run
            and then falls to zero.
        flat: See ``schedule``.
        warmup_epochs: Epochs over which beta rises from 0 to its value.
        clip: Norm above which gradients are scaled down. None: never.
        precision: "auto", "fp32", "bf16" (mixed) or "fp64". "auto" is bf16 where the processor or GPU has instructions for it, and
            fp32 elsewhere; a model in double precision stays in it. The choice is kept when a run is resumed.
        device: "auto", "cpu", "cuda" or "mps".
        devices: How many of them, on all machines, each with a process of its own that runs the script from its beginning.
        seed: Of the initial weights, the order of the samples and all noise.
        validation: Share of the training part that is set aside for validation where there is no validation split.
        patience: Epochs without a better validation bound before training stops; the best weights are kept. None: no early stopping.
        checkpoint_every: Steps between checkpoints.
        max_seconds: Seconds of training after which it stops. None: no limit.
        threads: Threads of the CPU in each process, in all at most as many as it has processors. None: the default of torch, or this
            process's share of the processors.
        max_rows: Decode at most so many rows at a time, and recompute them in the backward pass: less memory, more time. None: all rows
            at once. It does not change results beyond rounding, and may differ when a run is resumed.
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
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    device: str = "auto"
    devices: _Count = 1
    seed: _Seed = 0
    validation: _Share = 0.05
    patience: Annotated[_Count | None, _Maybe] = None
    checkpoint_every: _Count = 500
    max_seconds: Annotated[_Positive | None, _Maybe] = None
    threads: Annotated[_Count | None, _Maybe] = None
    max_rows: Annotated[_Count | None, _Maybe] = None

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.epochs is None and self.max_seconds is None:
            raise ValueError("got neither epochs nor max_seconds; expected at least one; training must end")
        return self


class FittedPriorConfig(Section):
    """The distribution that is fitted to posterior draws of the latents after training."""

    kind: Literal["gmm", "flow", "mld"] = Field(
        default="gmm",
        description='"gmm": a Gaussian mixture; "flow": a normalising flow (by zuko); "mld": a score network (latent diffusion).',
    )
    latents: Literal["z", "all", "each"] = Field(
        default="z",
        description='"z": the shared latent; "all": also the private latents, with conditional draws of those that were not inferred '
        '(not with "flow"); "each": z and the private latents as inferred from each modality alone, from which it is decoded.',
    )
    components: int = Field(
        default=20,
        ge=0,
        description="Components of the Gaussian mixture; 0: no prior of any kind is fitted.",
    )
    covariance: Literal["full", "diag"] = Field(
        default="full",
        description="Covariance of each Gaussian component; over all latents, full ones are shrunk towards their diagonals.",
    )
    steps: _Count = Field(default=4000, description="Training steps of the score network.")
    hidden: _Count = Field(default=256, description="Hidden units of the score network.")
    layers: _Count = Field(default=3, description="Residual layers of the score network.")
    design: Literal["balanced", "published", "guided"] = Field(
        default="balanced",
        description='How the score network is trained: "balanced"; "published": as the authors; "guided": for conditional draws.',
    )
    guidance: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description='With the design "guided": larger values make conditional draws agree more with what is given, and vary less.',
    )
    given: Annotated[list[str], _Listed] = Field(
        default=[],
        description="Modalities whose latents are most often given to the score network; most of its training is for these.",
    )
    transforms: _Count = Field(default=3, description="Spline transforms of the flow.")
    seed: _Seed = Field(default=0, description="Seed of the posterior draws and of the fit.")


class EvaluateConfig(Section):
    """How a trained model is evaluated: the table ``[evaluate]``, and the keyword arguments of ``evaluate``."""

    metrics: Annotated[list[str], _Listed] = Field(
        default=["coherence", "attributes", "likelihood"],
        description='Names in METRICS, or ["all"]. Data without attributes have no numbers of "attributes".',
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
    """The configuration of a run: ``[data]``, ``[model]``, ``[[modality]]``, ``[train]``, ``[evaluate]``; and the ``command``."""

    command: str | None = None
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    modality: list[ModalityConfig] = []
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="before")
    @classmethod
    def _max_rows(cls, values: Any) -> Any:
        """Older configurations have max_rows under [model]; where train.max_rows is given too, it applies."""
        model = values.get("model") if isinstance(values, dict) else None
        if not isinstance(model, dict) or "max_rows" not in model:
            return values
        model, train = dict(model), values.get("train", {})
        if ":" in str(model.get("name", "")):  # a user-defined model may have an option of this name
            return values
        rows = model.pop("max_rows")
        if rows is None:
            return {**values, "model": model}
        train = train.model_dump(exclude_unset=True) if isinstance(train, TrainConfig) else train
        return {
            **values,
            "model": model,
            "train": {"max_rows": rows, **train} if isinstance(train, dict) else train,
        }


def read_config(path: str | os.PathLike[str] | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration from a TOML file.

    Args:
        path: The TOML file; None: the defaults.
        overrides: Settings such as "train.epochs=5". A value that is not valid TOML is text. "modality.NAME.FIELD=..." changes a field of
            a ``[[modality]]`` table.

    Returns:
        The configuration.

    Raises:
        InputError: If the file is missing or has a syntax error, a key is unknown, or a value is not valid.
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
    """The configuration as TOML, with all defaults; ``read_config`` returns an equal configuration from it."""
    table = config.model_dump(exclude_none=True)
    if config.train.epochs is None:
        table["train"] = {"epochs": "none", **table["train"]}
    return tomli_w.dumps({key: value for key, value in table.items() if value != []})


def check_options(name: str, options: Iterable[str], accepted: Iterable[str]) -> None:
    """Raises InputError if one of ``options`` is not among the keyword arguments ``accepted`` of model ``name``."""
    accepted = list(accepted)
    for key in options:
        if key not in accepted:
            raise InputError(f"model.{key}: unknown option of model {name!r}; {nearest(key, accepted)}")


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The contents of a TOML file. Raises InputError, one line, if it is missing or has a syntax error."""
    path = Path(path)
    if not os.path.exists(path):
        raise InputError(
            f"{path}: no such file; expected a TOML configuration; {nearest(path.name, _tables(path.parent))}"
        )
    try:
        table = tomllib.loads(read_text(path))
        check_depth(table)
        return table
    except InputError:
        raise
    except (
        ValueError,
        RecursionError,
    ) as problem:  # ValueError: TOMLDecodeError, with line and column, and UnicodeDecodeError
        why = (
            "values are nested too deeply"
            if isinstance(problem, RecursionError)
            else short(str(problem), 200)
        )
        raise InputError(
            f"{path}: not TOML: {why}; expected lines such as epochs = 5 under [train]; correct that line"
        ) from None


def _tables(folder: Path) -> list[str]:
    try:
        return sorted(file.name for file in folder.glob("*.toml"))
    except (OSError, ValueError):  # a name that no system accepts
        return []


def assignment(text: str) -> tuple[str, Any]:
    """The key and the value of "key=value". A value that is not valid TOML is text."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not all(key.split(".")):
        raise InputError(f"--set {text!r}: expected key=value, such as train.epochs=5")
    try:
        found = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
    except (ValueError, RecursionError):
        found = None
    try:
        check_depth(found)
    except ValueError:
        found = None
    if found is None:
        raise InputError(
            f"--set {short(text, 80)!r}: got a number of too many digits, or values nested too deeply; expected a "
            "value such as train.epochs=5"
        )
    return key, found


def place(table: dict[str, Any], key: str, value: Any) -> None:
    """Put a value into ``table`` at a dotted key; "modality.NAME.FIELD" is a field of a ``[[modality]]`` table."""
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
    """Dotted keys and values of nested settings, for ``place``. A field of a modality is one value, even if it is a table."""
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
    """The ``[[modality]]`` table of that name, which is created if there is none."""
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
    """The first error of pydantic in one line: where, what, got, expected."""
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
        expected = message.removeprefix("Input should be ")
        message = f"got {reprlib.repr(first['input'])}; expected {expected}; {_default(root, first['loc'])}"
    return f"{where}: {message}"


def _hint(root: type[Section], loc: Sequence[int | str]) -> str:
    """The nearest known key of the section with the unknown key, or another section that has this key."""
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
    """An example of the expected list: its default, or a list of the given value."""
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


def _default(root: type[Section], loc: Sequence[int | str]) -> str:
    """The remedy for a value that is not valid: the default of its key."""
    here = _section(root, loc)
    field = (
        here.model_fields.get(str(loc[-1])) if isinstance(here, type) and issubclass(here, Section) else None
    )
    if field is None or field.is_required():
        return "correct it"
    default = field.get_default(call_default_factory=True)
    return (
        "leave it out for the default"
        if default is None
        else f"the default is {json.dumps(default, default=str)}"
    )


def _section(root: type[Section], loc: Sequence[int | str]) -> Any:
    """The section that contains the last part of ``loc``, or the type of a plain table."""
    here: Any = root
    for part in loc[:-1]:
        if isinstance(part, str):
            field = here.model_fields[part].annotation
            here = next(iter(get_args(field)), field)  # for a list of tables, the type of a table
    return here

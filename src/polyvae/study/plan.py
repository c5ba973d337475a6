"""The cells of a study, and how many epochs fit into the time of each."""

from __future__ import annotations

import itertools
import json
import re
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from polyvae import runs
from polyvae.config import RunConfig, assignment, flatten, place, read_toml
from polyvae.metrics import available, judges_of
from polyvae.study.config import ContenderSection, StudyConfig
from polyvae.study.workers import Task
from polyvae.training.loop import fit
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.files import read_object, write_atomic

_STEPS = 10  # in each round of measuring; the first round is for warming up


@dataclass(frozen=True)
class Cell:
    """One run of the grid. ``settings``: those of the study, flat, without seed and planned epochs; ``config``: the full configuration."""

    label: str
    table: str
    at: Mapping[str, Any]
    seed: int
    settings: Mapping[str, Any]
    config: RunConfig = field(repr=False)

    @property
    def group(self) -> str:
        """The name of the cell without the seed."""
        return ",".join(
            re.sub(r"[^\w.+=-]", "_", part)
            for part in (self.label, *(f"{key}={value}" for key, value in self.at.items()))
        )

    @property
    def name(self) -> str:
        return f"{self.group},seed={self.seed}"


# ---- cells -----------------------------------------------------------------------------------------------------------------------


def read_study(path: str | Path, changes: Sequence[str] = ()) -> tuple[StudyConfig, list[Cell]]:
    """Read a study and its cells from a TOML file.

    [axes] take precedence over ``changes``, these over a contender, and a contender over [base].

    Args:
        path: The TOML file.
        changes: "key=value" for all cells, or "study.key=value" for [study].

    Returns:
        The study, and its cells.

    Raises:
        InputError: If the file is not valid, the settings of a cell are not valid for a run, or a plot names an unknown axis or contender.
    """
    table, base = read_toml(path), {}
    for key, value in map(assignment, changes):
        if key.startswith("study."):
            place(table, key, value)
        else:
            base[key] = value
    study = StudyConfig.check(table, str(path))
    cells = [
        cell
        for seed in study.study.seeds
        for contender in study.contender
        for cell in _cells(path, study, contender, base, seed)
    ]
    names = [cell.name for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"{path}: got two cells named {name!r}; expected a different label for each contender, and each value of an axis "
                "once; rename or remove one"
            )
    for key in dict(flatten(base)):
        if all(key in dict(flatten(cell.at)) for cell in cells):
            raise InputError(
                f"{path}: --set {key}: an axis sets it in every cell; expected a setting without an axis; change the axis"
            )
    for plot in study.study.plots:
        axes, labels = [axis for cell in cells for axis in cell.at], [cell.label for cell in cells]
        for key, value, known in (
            ("x", plot.x if plot.kind == "curve" else "", axes),
            ("along", plot.along, axes),
            ("reference_x", plot.reference_x, labels),
            ("reference_y", plot.reference_y, labels),
        ):
            if value and value not in known:
                raise InputError(
                    f"{path}: study.plots: {key}: got {value!r}; {nearest(value, dict.fromkeys(known))}"
                )
    return study, cells


def _cells(
    path: str | Path, study: StudyConfig, contender: ContenderSection, changes: Mapping[str, Any], seed: int
) -> Iterator[Cell]:
    axes = {**study.axes, **contender.axes}
    for axis in contender.skip:
        if axis not in axes:
            raise InputError(
                f"{path}: contender {contender.label!r}: skip: no axis {axis!r}; {nearest(axis, axes)}"
            )
    axes = {axis: values for axis, values in axes.items() if axis not in contender.skip}
    for values in itertools.product(*axes.values()):
        at = dict(zip(axes, values, strict=True))
        settings = {"train.threads": 1, "train.device": "cpu"}
        if study.study.epochs is not None:
            settings["train.epochs"] = study.study.epochs
        parts = {
            "[base]": study.base,
            f"contender {contender.label!r}": contender.model_extra or {},
            "--set": changes,
            "[axes]": at,
        }
        for where, part in parts.items():
            given = dict(flatten(part))
            if "train.seed" in given:
                raise InputError(
                    f"{path}: {where}: got train.seed; expected none; the seeds of cells are set by study.seeds"
                )
            if "train.epochs" in given and study.study.seconds is not None:
                raise InputError(
                    f"{path}: {where}: got train.epochs together with study.seconds, from which epochs are planned; expected one of "
                    "them; remove one"
                )
            settings |= given
        table: dict[str, Any] = {}
        for key, value in {**settings, "train.seed": seed}.items():
            place(table, key, value)
        name = ", ".join([contender.label, *(f"{key}={value}" for key, value in at.items())])
        yield Cell(
            contender.label,
            contender.table,
            at,
            seed,
            settings,
            RunConfig.check(table, f"{path}: cell {name!r}"),
        )


def check_cells(path: str | Path, cells: Sequence[Cell]) -> None:
    """Raises InputError with the name of a cell whose model cannot be built or whose evaluation is not possible, before any training."""
    data: dict[str, Any] = {}
    for cell in {cell.group: cell for cell in cells}.values():
        try:
            available(cell.config.evaluate)
            key = data_key(cell.config)
            if key not in data:
                data[key] = runs.data_of(cell.config)[0]
            runs.model_of(cell.config, data[key])
        except InputError as problem:
            raise InputError(f"{path}: cell {cell.group!r}: {problem}") from None


def data_key(config: RunConfig) -> str:
    data = config.data
    return json.dumps(
        data.model_dump(exclude={"hide", "hide_seed"}, exclude_none=True), sort_keys=True, default=str
    )


# ---- epochs ----------------------------------------------------------------------------------------------------------------------


class Plan:
    """How many epochs fit into ``seconds`` of processor time, measured once and stored in a file: group -> entries.

    An entry is valid for its ``seconds`` and training settings only. It is never replaced, so that the plan of an existing cell stays
    known. Without ``seconds``, nothing is planned. Raises InputError if the file is not a plan.
    """

    def __init__(self, path: Path, seconds: float | None) -> None:
        self.path, self.seconds = path, seconds
        remedy = "remove it to plan the epochs again; results.json next to it contains the last plan"
        self.entries: dict[str, list[dict[str, Any]]] = read_object(path, remedy, {})
        if not all(
            isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
            for entries in self.entries.values()
        ):
            raise InputError(
                f"{path}: got something that is not a plan; expected a file written by polyvae; {remedy}"
            )

    def entry(self, cell: Cell) -> dict[str, Any]:
        """The plan for the cell; empty if there is none."""
        known = self.entries.get(cell.group, []) if self.seconds is not None else []
        return next(
            (
                entry
                for entry in known
                if entry.get("seconds") == self.seconds
                and _trained(entry["settings"]) == _trained(through_json(cell.settings))
            ),
            {},
        )

    def known(self, cell: Cell) -> bool:
        """Whether the number of epochs of the cell is known."""
        return self.seconds is None or bool(self.entry(cell))

    def config(self, cell: Cell) -> RunConfig:
        """The configuration of the cell, with its planned number of epochs (None if it is not known yet)."""
        if self.seconds is None:
            return cell.config
        return cell.config.model_copy(
            update={"train": cell.config.train.model_copy(update={"epochs": self.entry(cell).get("epochs")})}
        )

    def tasks(self, cells: Sequence[Cell]) -> dict[str, tuple[Sequence[Cell], Task]]:
        """Tasks to do before cells are run, and the cells they serve: judges for each data set, and the time of an epoch."""
        made: dict[str, tuple[Sequence[Cell], Task]] = {}
        judged = [cell for cell in cells if needs_judges(cell.config)]
        for key in dict.fromkeys(data_key(cell.config) for cell in judged):
            these = [cell for cell in judged if data_key(cell.config) == key]
            made[f"judges {key}"] = (
                these,
                Task(partial(_judges, these[0].config), these[0].config, judges=True),
            )
        for group in dict.fromkeys(cell.group for cell in cells if not self.known(cell)):
            these = [cell for cell in cells if cell.group == group]
            made[group] = these, Task(partial(_measure, these[0].config), these[0].config)
        return made

    def add(self, cell: Cell, measured: float) -> None:
        """Store the time of one epoch of the cell, in processor seconds."""
        if self.seconds is None:
            return
        epochs = max(1, round(self.seconds / measured))
        self.entries.setdefault(cell.group, []).append(
            {
                "epochs": epochs,
                "seconds_per_epoch": measured,
                "seconds": self.seconds,
                "settings": through_json(cell.settings),
            }
        )
        write_atomic(self.path, (json.dumps(self.entries, indent=2) + "\n").encode())


def needs_judges(config: RunConfig) -> bool:
    """Whether a run of the configuration reads judges."""
    return (
        bool({"coherence", "attributes", "quality", "all"} & {*config.evaluate.metrics})
        or config.evaluate.curve_seconds is not None
    )


def _trained(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that affect the time of an epoch."""
    return {
        key: value
        for key, value in settings.items()
        if not key.startswith("evaluate.") and key != "data.root"
    }


def _judges(config: RunConfig) -> None:
    """Train the judges of a data set if the cache has none, because otherwise each of the parallel cells would do it."""
    judges_of(runs.data_of(config)[0])


def _measure(config: RunConfig) -> float:
    """Processor seconds of one epoch: the median of three rounds of a few steps, after one round for warming up."""
    data, train = runs.data_of(config)
    size, rows = config.train.batch_size, round(len(train) * (1 - config.train.validation))
    part, times = train.rows(slice(0, _STEPS * size)), []
    settings = config.train.model_copy(
        update={"epochs": 4, "validation": 0.0, "max_seconds": None, "patience": None}
    )
    fit(
        runs.model_of(config, data),
        part,
        run=config.model_copy(update={"train": settings}),
        show=False,
        watch=lambda model, record: times.append(time.process_time()),
    )
    turn = statistics.median(after - before for before, after in itertools.pairwise(times))
    return turn / -(-len(part) // size) * -(-rows // size)


def through_json(value: Any) -> Any:
    """The value as it is read back from JSON."""
    return json.loads(json.dumps(value, default=str))

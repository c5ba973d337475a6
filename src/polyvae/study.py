"""A study: a grid of runs from one TOML. Cells are trained side by side, resumed where they stopped, and told in tables and plots.

``[study]`` says what is asked, ``[base]`` what all runs share, ``[axes]`` which settings vary, each ``[[contender]]`` what competes (see
``StudyConfig``). Every cell is an ordinary run directory under cells/, and nothing else is needed to go on.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from polyvae import runs
from polyvae.config import ContenderSection, RunConfig, StudyConfig, assignment, flatten, place, read_config, read_toml
from polyvae.errors import InputError, nearest
from polyvae.evaluate import METRICS, judges_of
from polyvae.progress import reporter
from polyvae.report.study import Result, write_study
from polyvae.storage import RunDirectory, write_atomic
from polyvae.train import fit
from polyvae.workers import Workers, one_thread

_STEPS = 10                                   # per turn of measuring; the first turn is warming up


@dataclass(frozen=True)
class Cell:
    """One run of the grid. ``settings``: what the study says of it, flat, without its seed and epochs; ``config``: all of it."""

    label: str
    table: str
    at: Mapping[str, Any]
    seed: int
    settings: Mapping[str, Any]
    config: RunConfig = field(repr=False)

    @property
    def group(self) -> str:
        """The cell's name without the seed."""
        return ",".join(re.sub(r"[^\w.+=-]", "_", part) for part in (self.label, *(f"{key}={value}" for key, value in self.at.items())))

    @property
    def name(self) -> str:
        return f"{self.group},seed={self.seed}"

    def planned(self, epochs: int | None) -> Cell:
        """The cell with a number of epochs of its own; None: as it is."""
        if epochs is None:
            return self
        train = self.config.train.model_copy(update={"epochs": epochs})
        return Cell(self.label, self.table, self.at, self.seed, self.settings, self.config.model_copy(update={"train": train}))


class Done(NamedTuple):
    """``results`` of all cells, the ``page``, and how it ended."""

    results: list[Result]
    page: Path | None
    interrupted: bool = False

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.error]


# ---- what is asked ---------------------------------------------------------------------------------------------------------------


def read_study(path: str | Path, changes: Sequence[str] = ()) -> tuple[StudyConfig, list[Cell]]:
    """The study in a TOML file, and its cells. ``changes``: "key=value" of [base], or of [study] as "study.seconds=5".

    Raises InputError, one line: what ``read_config`` refuses, a cell that is not a run's configuration, a plot of what is not there.
    """
    table, base = read_toml(path), {}
    for key, value in map(assignment, changes):
        if key.startswith("study."):
            place(table, key, value)
        else:
            base[key] = value
    study = StudyConfig.check(table, str(path))
    cells = [cell for seed in study.study.seeds for contender in study.contender for cell in _cells(path, study, contender, base, seed)]
    names = [cell.name for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: got two cells named {name!r}; expected a label of its own for each contender; rename one")
    for plot in study.study.plots:
        axes, labels = [axis for cell in cells for axis in cell.at], [cell.label for cell in cells]
        for key, value, known in (("x", plot.x if plot.kind == "curve" else "", axes), ("along", plot.along, axes),
                                  ("reference_x", plot.reference_x, labels), ("reference_y", plot.reference_y, labels)):
            if value and value not in known:
                raise InputError(f"{path}: study.plots: {key}: got {value!r}; {nearest(value, dict.fromkeys(known))}")
    return study, cells


def _cells(path: str | Path, study: StudyConfig, contender: ContenderSection, changes: Mapping[str, Any], seed: int) -> Iterator[Cell]:
    axes = {**study.axes, **contender.axes}
    for axis in contender.skip:
        if axis not in axes:
            raise InputError(f"{path}: contender {contender.label!r}: skip: no axis {axis!r}; {nearest(axis, axes)}")
    axes = {axis: values for axis, values in axes.items() if axis not in contender.skip}
    for values in itertools.product(*axes.values()):
        at = dict(zip(axes, values, strict=True))
        settings = {"train.threads": 1, "train.device": "cpu"}
        if study.study.epochs is not None:
            settings["train.epochs"] = study.study.epochs
        for part in (study.base, changes, contender.model_extra or {}, at):
            settings |= dict(flatten(part))
        table: dict[str, Any] = {}
        for key, value in {**settings, "train.seed": seed}.items():
            place(table, key, value)
        where = ", ".join([contender.label, *(f"{key}={value}" for key, value in at.items())])
        yield Cell(contender.label, contender.table, at, seed, settings, RunConfig.check(table, f"{path}: cell {where!r}"))


def check_cells(path: str | Path, cells: Sequence[Cell]) -> None:
    """Raises InputError, before any training, with the cell's name: a model that cannot be built, a metric that there is not."""
    data: dict[str, Any] = {}
    for cell in {cell.group: cell for cell in cells}.values():
        try:
            for metric in cell.config.evaluate.metrics:
                if metric not in [*METRICS, "all"]:
                    raise InputError(f"evaluate.metrics: unknown metric {metric!r}; {nearest(metric, METRICS)}")
            key = _data_key(cell.config)
            if key not in data:
                data[key] = runs.data_of(cell.config)[0]
            runs.model_of(cell.config, data[key])
        except InputError as problem:
            raise InputError(f"{path}: cell {cell.group!r}: {problem}") from None


# ---- what is done ----------------------------------------------------------------------------------------------------------------


def run_study(
    path: str | Path, out: str | Path, *, jobs: int | None = None, changes: Sequence[str] = (), only: Sequence[str] = (),
    seeds: int | None = None, report: bool = False, force: bool = False, show: bool = True,
) -> Done:
    """Train and evaluate every cell that is not done, under ``out``/cells; write results.json, results.csv, study.md and study.html.

    ``only`` these labels. ``seeds``: 0, 1, ... so many, instead of the study's. ``report``: nothing is trained. ``force``: cells that were
    made with other settings are made anew. Raises InputError at the door; what goes wrong in a cell stands in its result.
    """
    changes = [*changes, *([f"study.seeds={list(range(seeds))}"] if seeds is not None else [])]
    study, cells = read_study(path, changes)
    out = Path(out)
    for label in only:
        if label not in [cell.label for cell in cells]:
            raise InputError(f"study: no contender {label!r}; {nearest(label, dict.fromkeys(cell.label for cell in cells))}")
    asked = [cell for cell in cells if not only or cell.label in only]
    plan, interrupted = _read_json(out / "plan.json"), False
    errors: dict[str, str] = {}
    if not report:
        check_cells(path, asked)
        with one_thread(), reporter(show) as told:
            workers = Workers(jobs or study.study.jobs)
            try:
                plan = _plan(study, asked, out, plan, workers, told)
                todo = _todo(asked, plan, out, force)
                told.start("study", len(asked), len(asked) - len(todo))
                tasks = {cell.name: partial(_run, cell.config, out / "cells" / cell.name, force) for cell in todo}
                for name, answer in workers.run(tasks):
                    errors |= {name: answer.error} if answer.error else {}
                    told.advance(note=name)
                    if answer.error:
                        told.say(f"{name}: {answer.error}")
            except KeyboardInterrupt:
                workers.stop()
                interrupted = True
            finally:
                workers.close()
    if interrupted:
        return Done(_results(cells, plan, out, errors), None, True)
    before = {cell["name"]: cell["error"] for cell in _read_json(out / "results.json").get("cells", ())}
    tried = {} if report else {cell.name: errors.get(cell.name, "") for cell in asked}
    results = _results(cells, plan, out, before | tried)
    page = write_study(out, study.study.title, results, study.study.columns, study.study.plots, about=study.study.about,
                       source=Path(path).read_text("utf-8"), plan=plan)
    return Done(results, page)


def _plan(study: StudyConfig, cells: Sequence[Cell], out: Path, plan: dict[str, Any], workers: Workers, told: Any) -> dict[str, Any]:
    """Judges, once for each data set; how many epochs of each configuration fit into ``seconds``. Kept in plan.json, and used again."""
    seconds, groups = study.study.seconds, {cell.group: cell for cell in cells}
    judged = {_data_key(cell.config): cell.config for cell in cells if {"coherence", "quality", "all"} & {*cell.config.evaluate.metrics}}
    tasks: dict[str, Callable[[], Any]] = {f"judges {key}": partial(_judges, config) for key, config in judged.items()}
    new = {name: cell for name, cell in groups.items() if seconds is not None
           and (plan.get(name, {}).get("seconds"), _trained(plan.get(name, {}))) != (seconds, _trained(_entry(cell)))}
    tasks |= {name: partial(_measure, cell.config) for name, cell in new.items()}
    told.start("planning", len(tasks))
    for name, answer in workers.run(tasks):
        if answer.error:
            raise InputError(f"study: planning {name}: {answer.error}")
        if name in new and seconds is not None:
            found = answer.value
            plan[name] = {"epochs": max(1, round(seconds / found)), "seconds_per_epoch": found, "seconds": seconds, **_entry(new[name])}
        told.advance(note=name)
    if new:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "plan.json", (json.dumps(plan, indent=2) + "\n").encode())
    return plan


def _entry(cell: Cell) -> dict[str, Any]:
    return {"settings": _jsonable(cell.settings)}


def _trained(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a plan's settings that training knows."""
    return {key: value for key, value in entry.get("settings", {}).items() if not key.startswith("evaluate.")}


def _todo(cells: Sequence[Cell], plan: Mapping[str, Any], out: Path, force: bool) -> list[Cell]:
    """The cells that are not done, as planned. Raises InputError: one was made with other settings, and ``force`` is not given."""
    todo = []
    for cell in (cell.planned(plan.get(cell.group, {}).get("epochs")) for cell in cells):
        run = RunDirectory(out / "cells" / cell.name)
        other = _other(run, cell.config)
        if other and not force:
            raise InputError(f"study: cell {run.path} was made with {other}; --force makes it anew, another --out keeps both")
        if other or not run.evaluation.exists():
            todo.append(cell)
    return todo


def _other(run: RunDirectory, wanted: RunConfig) -> str:
    """How the settings of the run that is there differ from those wanted: "" where they do not, or nothing is there."""
    if not run.config.exists():
        return ""
    then, now = (dict(flatten(config.model_dump(exclude={"command"}))) for config in (read_config(run.config), wanted))
    differ = (key for key in {**now, **then} if then.get(key) != now.get(key))
    return next((f"{key} = {then.get(key)!r}, and {now.get(key)!r} is wanted" for key in differ), "")


def _results(cells: Sequence[Cell], plan: Mapping[str, Any], out: Path, errors: Mapping[str, str]) -> list[Result]:
    found = []
    for cell in cells:
        known = plan.get(cell.group, {})
        cell = cell.planned(known.get("epochs"))
        run, numbers, error = RunDirectory(out / "cells" / cell.name), {}, errors.get(cell.name, "")
        other = _other(run, cell.config)
        if other:
            error = f"made with {other}"
        elif run.evaluation.exists():
            error, ends = "", [record["seconds"] / record["epoch"] for record in run.read_history() if "epoch" in record]
            numbers = {name: value for name, value in run.read_json("evaluation.json").items() if isinstance(value, float)}
            numbers |= {"seconds_per_epoch": ends[-1]} if ends else {}
            numbers |= {"processor_seconds_per_epoch": known["seconds_per_epoch"]} if known else {}
        found.append(Result(cell.name, cell.label, cell.table, cell.at, cell.seed, cell.config.train.epochs, numbers, error,
                            _jsonable(cell.settings)))
    return found


# ---- in a process of its own ------------------------------------------------------------------------------------------------------


def _run(config: RunConfig, out: Path, force: bool) -> None:
    run = RunDirectory(out)
    there = read_config(run.config) if run.config.exists() else None
    trained = there is not None and all(getattr(there, part) == getattr(config, part) for part in ("data", "model", "modality", "train"))
    if there is not None and there.evaluate != config.evaluate:
        run.evaluation.unlink(missing_ok=True)
    if runs.train_run(config, out, resume=trained, force=force and not trained, show=False).stopped == "interrupted":
        raise KeyboardInterrupt
    runs.evaluate_run(out, show=False)


def _judges(config: RunConfig) -> None:
    """Train the judges of a data set where there are none in the cache: cells side by side would each do it."""
    judges_of(runs.data_of(config)[0])


def _measure(config: RunConfig) -> float:
    """Processor seconds of one epoch: the median of three turns of a few steps, after one that warms up."""
    data, train = runs.data_of(config)
    size, rows = config.train.batch_size, round(len(train) * (1 - config.train.validation))
    part, times = train.rows(slice(0, _STEPS * size)), []
    settings = config.train.model_copy(update={"epochs": 4, "validation": 0.0, "max_seconds": None, "patience": None})
    fit(runs.model_of(config, data), part, run=config.model_copy(update={"train": settings}), show=False,
        watch=lambda model, record: times.append(time.process_time()))
    turn = statistics.median(after - before for before, after in itertools.pairwise(times))
    return turn / -(-len(part) // size) * -(-rows // size)


def _data_key(config: RunConfig) -> str:
    data = config.data
    return json.dumps(data.model_dump(exclude={"hide", "hide_seed"}, exclude_none=True), sort_keys=True, default=str)


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}

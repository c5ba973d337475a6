"""Run a study: a grid of runs from one TOML file (see ``StudyConfig``), with tables and plots.

Cells are trained in parallel and resumed where they stopped. Every cell is an ordinary run directory under cells/, which is all that is
needed to resume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from polyvae import runs
from polyvae.config import EvaluateConfig, RunConfig, flatten, read_config
from polyvae.study.cluster import check_address, ray_module
from polyvae.study.nodes import RayWorkers
from polyvae.study.page import write_study
from polyvae.study.plan import Cell, Plan, check_cells, needs_judges, read_study, through_json
from polyvae.study.tables import Result, write_numbers
from polyvae.study.workers import Task, Workers, one_thread, terminable
from polyvae.training.directory import RunDirectory
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.files import read_object
from polyvae.utils.locks import only_writer
from polyvae.utils.partial import sweep
from polyvae.utils.progress import Reporter, reporter
from polyvae.utils.records import StoredResults

_FREE = (
    "data.root",
    "train.device",
    "train.threads",
    "train.max_rows",
)  # settings of the machine, not of the result


class Done(NamedTuple):
    """``results`` of all cells, the ``page``, the names of the requested cells (``asked``), and whether the study was interrupted."""

    results: list[Result]
    page: Path | None
    asked: frozenset[str]
    interrupted: bool = False

    @property
    def failed(self) -> list[Result]:
        """The requested cells that failed."""
        return [result for result in self.results if result.error and result.name in self.asked]


def run_study(
    path: str | Path,
    out: str | Path,
    *,
    jobs: int | None = None,
    ray: str | None = None,
    changes: Sequence[str] = (),
    only: Sequence[str] = (),
    seeds: int | None = None,
    report: bool = False,
    force: bool = False,
    show: bool = True,
) -> Done:
    """Train and evaluate every cell that is not finished; write results.json, results.csv, study.md and study.html.

    Args:
        path: The TOML file of the study.
        out: The folder of the study; cells are in its folder cells/.
        jobs: Cells that run at the same time; None: as in the study, and on a cluster that exists one for each of its processors.
        ray: Run the cells on Ray: "local" starts it on this machine, HOST:PORT joins that cluster, "auto" that of this machine. None:
            processes of this machine.
        changes: "key=value" for all cells, or "study.key=value" for [study].
        only: Labels of the contenders to run; empty: all.
        seeds: This number of seeds (0, 1, ...) in place of those of the study.
        report: Do not train; write tables and page of the existing cells.
        force: Rerun cells that were made with other settings or cannot be resumed.
        show: Whether to show progress.

    Returns:
        The results of all cells. An error in a cell is part of its result.

    Raises:
        InputError: If the study is not valid, if a report is requested and no cell has the settings of the study, or if Ray is not
            installed, no cluster answers within the time limit, or its nodes have other versions of Python, Ray or polyvae.
    """
    if ray is not None:
        check_address(ray)
        ray_module()
    changes = [*changes, *([f"study.seeds={list(range(seeds))}"] if seeds is not None else [])]
    study, cells = read_study(path, changes)
    out = Path(out)
    for label in only:
        if label not in [cell.label for cell in cells]:
            raise InputError(
                f"study: no contender {label!r}; {nearest(label, dict.fromkeys(cell.label for cell in cells))}"
            )
    asked = [cell for cell in cells if not only or cell.label in only]
    if not report:
        check_cells(path, asked)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(
            f"study: --out {out}: cannot be created ({problem.strerror}); expected a writable folder, or a new path; "
            "choose another"
        ) from None
    tried = set() if report else {cell.name for cell in asked}
    before = StoredResults.check(
        read_object(out / "results.json", "remove it", {}), str(out / "results.json"), "remove it"
    )
    errors = {cell.name: cell.error for cell in before.cells if cell.name not in tried}
    interrupted = False
    if report:
        plan = Plan(out / "plan.json", study.study.seconds)
        _check_report(cells, plan, out)
    else:
        with only_writer(out), terminable(), one_thread(), reporter(show) as progress:
            plan = Plan(out / "plan.json", study.study.seconds)
            if not force:
                _check_existing(asked, plan, out)
            sweep(out / "cells")
            workers = (
                Workers(jobs or study.study.jobs) if ray is None else RayWorkers(ray, jobs, study.study.jobs)
            )
            try:
                for name, error in _train(asked, plan, out, force, workers, progress):
                    errors[name] = error
            except KeyboardInterrupt:
                interrupted = True
            finally:
                try:
                    workers.stop()
                finally:
                    workers.close()
    results, names = _results(cells, plan, out, errors), frozenset(cell.name for cell in asked)
    if interrupted:
        write_numbers(out, study.study.title, results, plan.entries)
        return Done(results, None, names, True)
    page = write_study(
        out,
        study.study.title,
        results,
        study.study.columns,
        study.study.plots,
        about=study.study.about,
        source=Path(path).read_text("utf-8"),
        plan=plan.entries,
        named="columns" in study.study.model_fields_set,
    )
    return Done(results, page, names)


def _train(
    asked: Sequence[Cell],
    plan: Plan,
    out: Path,
    force: bool,
    workers: Workers | RayWorkers,
    progress: Reporter,
) -> Iterator[tuple[str, str]]:
    """Plan, then run what is not finished. Yields the names of cells and their errors in the order of completion."""
    failed = set()
    before = plan.tasks(asked)
    progress.start("planning", len(before))
    for name, answer in workers.run({name: task for name, (_, task) in before.items()}):
        progress.advance(note=name)
        these = before[name][0]
        if answer.error:
            progress.say(f"planning {name}: {answer.error}")
            failed |= {cell.name for cell in these}
            yield from ((cell.name, f"planning: {answer.error}") for cell in these)
        elif answer.value is not None:
            plan.add(these[0], answer.value)
    asked = [cell for cell in asked if cell.name not in failed]
    if not force:
        _check_existing(asked, plan, out)
    todo = _todo(asked, plan, out, force)
    progress.start("study", len(asked), len(asked) - len(todo))
    for name, answer in workers.run(todo):
        progress.advance(note=name)
        if answer.error:
            progress.say(f"{name}: {answer.error}")
        yield name, answer.error


# ---- existing cells ---------------------------------------------------------------------------------------------------------------


def _check_existing(cells: Sequence[Cell], plan: Plan, out: Path) -> None:
    """Raises InputError if a cell was made with other settings. Its epochs are compared once they are planned."""
    for cell in cells:
        run = RunDirectory(out / "cells" / cell.name)
        for other in _other(run, plan.config(cell)):
            if plan.known(cell) or not other.startswith("train.epochs "):
                raise InputError(
                    f"study: cell {run.path} was made with {other}; --force reruns it, another --out keeps both"
                )


def _check_report(cells: Sequence[Cell], plan: Plan, out: Path) -> None:
    """Raises InputError if there are cells or tables, but no cell with the settings of the study: empty tables would replace the others."""
    others = []
    for cell in cells:
        run = RunDirectory(out / "cells" / cell.name)
        if run.config.exists():
            other = _other(run, plan.config(cell))
            if not other:
                return
            others.append(f"cell {run.path} was {_made(cell, other, plan)}")
    there = sorted(path.parent.name for path in out.glob("cells/*/config.toml"))
    if there or (out / "results.json").exists():
        got = (
            others[0]
            if others
            else f"got cells such as {there[0]!r} in {out}, and none of this study, such as {cells[0].name!r}"
            if there
            else f"got tables in {out}, and no cells"
        )
        raise InputError(
            f"study: --report: {got}; expected a cell with the settings of the study; the tables are unchanged: restore the study, or "
            "run it without --report"
        )


def _made(cell: Cell, other: Sequence[str], plan: Plan) -> str:
    """The settings with which the existing cell was made, in words."""
    unplanned = other[0].startswith("train.epochs ") and not plan.known(cell)
    return (
        f"made with {other[0].partition(', and ')[0] + ', and none are planned' if unplanned else other[0]}"
    )


def _todo(cells: Sequence[Cell], plan: Plan, out: Path, force: bool) -> dict[str, Task]:
    """The cells that are not finished as planned, with the task of each."""
    todo: dict[str, Task] = {}
    for cell in cells:
        run, config = RunDirectory(out / "cells" / cell.name), plan.config(cell)
        other = _other(run, config)
        if other or not _judged(run, config.evaluate)[0]:
            restart = any(not one.startswith("evaluate.") for one in other)
            act = partial(_run, config, restart=restart, force=force)
            todo[cell.name] = Task(act, config, run.path, needs_judges(config))
    return todo


def _other(run: RunDirectory, wanted: RunConfig) -> list[str]:
    """How the settings of the existing run differ from the expected ones; empty if they are equal, or there is no run."""
    if not run.config.exists():
        return []
    try:
        then = read_config(run.config)
    except InputError as problem:
        return [f"settings that cannot be read ({problem})"]
    return _differences(then.model_dump(exclude={"command"}), wanted.model_dump(exclude={"command"}))


def _judged(run: RunDirectory, wanted: EvaluateConfig) -> tuple[dict[str, Any], str]:
    """The existing evaluation if it has the expected settings; else empty, and the reason ("" if there is none)."""
    if not run.evaluation.exists():
        return {}, ""
    try:
        found = read_object(run.evaluation, "evaluate it again")
    except InputError as problem:
        return {}, str(problem)
    then, now = found.get("settings", {}), through_json(wanted.model_dump(exclude={"curve_seconds"}))
    for other in _differences({"evaluate": then}, {"evaluate": now}):
        return {}, f"evaluated with {other}; the same command without --report evaluates it again"
    return found, ""


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    before, after = dict(flatten(then)), dict(flatten(now))
    if (
        after.get("train.precision") == "auto"
    ):  # each machine chooses, and cells of earlier versions say what was chosen
        after["train.precision"] = before.get("train.precision", "auto")
    differ = [key for key in {**after, **before} if before.get(key) != after.get(key) and key not in _FREE]
    return [f"{key} = {before.get(key)!r}, and {after.get(key)!r} is expected" for key in differ]


def _results(cells: Sequence[Cell], plan: Plan, out: Path, errors: Mapping[str, str]) -> list[Result]:
    found = []
    for cell in cells:
        run, config, entry = RunDirectory(out / "cells" / cell.name), plan.config(cell), plan.entry(cell)
        other, (judged, error), numbers, epochs = _other(run, config), _judged(run, config.evaluate), {}, None
        if other:
            error = _made(cell, other, plan)
        elif judged:
            ends = [record for record in run.read_history() if "epoch" in record]
            numbers = {name: value for name, value in judged.items() if isinstance(value, float)}
            if ends:
                epochs = ends[-1]["epoch"]
                numbers["seconds_per_epoch"] = ends[-1]["seconds"] / epochs
            if entry:
                numbers["processor_seconds_per_epoch"] = entry["seconds_per_epoch"]
        else:
            error = error or errors.get(cell.name, "")
        found.append(
            Result(
                cell.name,
                cell.label,
                cell.table,
                cell.at,
                cell.seed,
                epochs,
                numbers,
                error,
                through_json(cell.settings),
            )
        )
    return found


# ---- in a separate process ------------------------------------------------------------------------------------------------------


def _run(config: RunConfig, out: Path, restart: bool, force: bool) -> None:
    """Train or resume, and evaluate. ``force``: a run that cannot be resumed is restarted."""
    run = RunDirectory(out)
    run.evaluation.unlink(missing_ok=True)  # it does not have the expected settings
    resume = run.config.exists() and not restart
    try:
        history = runs.train_run(config, out, resume=resume, force=restart, show=False)
    except InputError as problem:
        if not resume:
            raise
        if not force:
            raise InputError(f"{problem}; --force reruns the cell") from None
        history = runs.train_run(config, out, force=True, show=False)
    if history.stopped == "interrupted":
        raise KeyboardInterrupt
    # The author of the study trusts the modules that it names.
    runs.evaluate_run(
        out, show=False, trust=[given.partition(":")[0] for _, given in runs.imports_of(config)]
    )


__all__ = ["Cell", "Done", "check_cells", "read_study", "run_study"]

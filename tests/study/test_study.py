"""A study: what its TOML asks for, what is done again and what is not, what its tables and plots say."""

from __future__ import annotations

import csv
import html
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing import Pipe
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from polyvae import runs
from polyvae.config import read_config, write_config
from polyvae.models import MODELS
from polyvae.study import workers
from polyvae.study.config import Plot
from polyvae.study.page import write_study
from polyvae.study.plan import Cell, Plan, check_cells, read_study
from polyvae.study.plots import draw, hull, pareto
from polyvae.study.run import _run, run_study
from polyvae.study.tables import Result, Summary, leader, points, summarise, tables, text_of
from polyvae.study.workers import Answer, Worker, Workers
from polyvae.training.directory import RunDirectory
from polyvae.utils.errors import InputError
from polyvae.utils.locks import only_writer
from tests.helpers.cli import polyvae
from tests.helpers.processes import command, fork_server
from tests.helpers.studies import STUDY
from tests.helpers.tasks import Unreadable, lost

STUDIES = sorted((Path(__file__).parents[2] / "experiments" / "studies").glob("*.toml"))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(STUDY)
    return path


def bytes_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


class Here(Workers):
    """Runs the tasks in this process, for tests in which processes are not the point: one takes seconds to start."""

    def run(self, tasks: Mapping[str, Callable[[], Any]]) -> Iterator[tuple[str, Answer]]:
        numbers = signal.SIGINT, signal.SIGTERM
        stop, other = Pipe(duplex=False)
        with stop, other:
            for name, task in tasks.items():
                before = [signal.getsignal(number) for number in numbers]
                answer = workers._answer(ForkingPickler.dumps(task), stop)
                for number, handler in zip(numbers, before, strict=True):
                    signal.signal(number, handler)
                yield name, answer


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polyvae.study.run.Workers", Here)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are copies of a process that has imported what they need."""
    monkeypatch.setattr("polyvae.study.workers._SPAWN", fork_server())


# ---- what is asked ---------------------------------------------------------------------------------------------------------------


def test_the_grid_is_the_product_of_contenders_axes_and_seeds(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text("""
[study]
title = "grid"
seeds = [0, 5]
[base]
model = {latent = 8, beta = 3.0}
"data.hide" = 0.25
[axes]
"model.beta" = [0.5, 2.0]
private = [1, 4, 9]
[[contender]]
label = "A"
model.name = "mmvae+"
[[contender]]
label = "B"
model = {name = "vae", latent = 2}
skip = ["model.beta"]
private = 7
axes = {"train.lr" = [0.1, 0.2]}
""")
    _, cells = read_study(path, ["data.hide=0.5", "model.latent=6", "study.title=other"])
    assert len(cells) == 2 * (2 * 3 + 3 * 2)
    assert [cell.seed for cell in cells] == [0] * 12 + [5] * 12  # whole grids, seed by seed
    assert len({cell.name for cell in cells}) == 24
    first = cells[0].config
    assert (first.model.name, first.model.options, first.data.hide) == (
        "mmvae+",
        {"latent": 6, "beta": 0.5},
        0.5,
    )
    assert [(table.name, table.private) for table in first.modality] == [("*", 1)]
    assert (first.train.seed, first.train.threads, first.train.device) == (0, 1, "cpu")
    others = [
        (cell.config.model.options, cell.config.modality[0].private, cell.config.train.lr)
        for cell in cells[6:12]
    ]
    assert others == [({"latent": 6, "beta": 3.0}, private, lr) for private in (1, 4, 9) for lr in (0.1, 0.2)]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "model.latent = 3",
            "modle.latent = 3",
            "cell 'MMVAE+, private=1': modle: unknown key; did you mean 'model'?",
        ),
        ("epochs = 2", "epochz = 2", "study.epochz: unknown key; did you mean 'epochs'?"),
        (
            'x = "private", ',
            'x = "privat", ',
            "study.plots: x: got 'privat'; did you mean 'private'? (known: private)",
        ),
        ('kind = "curve", ', 'kind = "curve", colour = "red", ', "study.plots.0.colour: unknown key; "),
        (
            'model.name = "mopoe"',
            "model.latnt = 5",
            "cell 'MoPoE,private=1': model.latnt: unknown option of model 'mmvae+'; did you mean",
        ),
        (
            'model.name = "mopoe"',
            'model.name = "mopo"',
            "cell 'MoPoE,private=1': model: unknown name 'mopo'; did you mean 'mopoe'?",
        ),
        (
            'model.name = "mopoe"',
            'model.name = "mvae"',
            "cell 'MoPoE,private=1': ",
        ),  # which cannot have private codes
        (
            'label = "MoPoE"',
            'label = "MMVAE+"',
            "got two cells named 'MMVAE+,private=1,seed=0'; expected a different label",
        ),
        (
            'label = "MoPoE"',
            'label = "MoPoE"\nskp = ["private"]',
            "contender.1: unknown key 'skp'; did you mean 'skip'?",
        ),
        (
            'label = "MoPoE"',
            'label = "MoPoE"\nskip = ["privat"]',
            "contender 'MoPoE': skip: no axis 'privat'; did you mean 'private'?",
        ),
        ('"likelihood"]', '"likelyhood"]', "cell 'MMVAE+,private=1': evaluate: got metrics=['likelyhood']; "),
        ("epochs = 2", "epochs = 2\nseconds = 5", "study: got seconds and epochs; expected one of them"),
        ("[1, 2]\n", "[]\n", "axes.private: got []; expected"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "study: got seeds = [0, 0]; expected each once"),
        ("seeds = [0, 1]", "seeds = 1", "study.seeds: got 1; expected a list such as seeds = [0, 1, 2]"),
        ("private = [1, 2]\n", "private = 3\n", "axes.private: got 3; expected a list such as private = [3]"),
        (
            "private = [1, 2]\n",
            "train.lr = [0.1]\n",
            "axes.train: got {'lr': [0.1]}; expected a list such as \"train.lr\" = [0.1]",
        ),
        (
            'label = "MoPoE"',
            'label = "MoPoE"\naxes = {"train.lr" = 1}',
            'axes.train.lr: got 1; expected a list such as "train.lr" = [1]',
        ),
        (
            'label = "MoPoE"',
            'label = "MoPoE"\ntrain.seed = 3',
            "contender 'MoPoE': got train.seed; expected none",
        ),
    ],
)
def test_what_cannot_be_is_an_error_at_the_door(
    tiny: Path, tmp_path: Path, old: str, new: str, line: str
) -> None:
    assert old in STUDY
    tiny.write_text(STUDY.replace(old, new))
    with pytest.raises(InputError, match=re.escape(line)) as problem:
        run_study(tiny, tmp_path / "out", show=False)
    assert "\n" not in str(problem.value)
    assert str(problem.value).startswith(str(tiny))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            "train.epochs=3",
            "--set: got train.epochs together with study.seconds, from which epochs are planned",
        ),
        ("train.seed=3", "--set: got train.seed; expected none"),
        ("private=3", "--set modality.*.private: an axis sets it in every cell"),
    ],
)
def test_a_setting_that_would_say_nothing_is_an_error(tiny: Path, change: str, line: str) -> None:
    tiny.write_text(STUDY.replace("epochs = 2", "seconds = 2"))
    with pytest.raises(InputError, match=re.escape(line)):
        read_study(tiny, [change])


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_the_studies_can_be_built(file: Path) -> None:
    study, cells = read_study(file, ["data.options.train=50", "data.options.test=20", "study.seeds=[0]"])
    check_cells(file, cells)
    assert study.study.seconds is not None or study.study.epochs is not None


def test_the_comparison_has_every_model_that_takes_five_modalities_at_one_size() -> None:
    file = next(file for file in STUDIES if file.stem == "compare_polydigits")
    _, cells = read_study(file, ["data.options.train=50", "data.options.test=20", "study.seeds=[0]"])
    five = [cell for cell in cells if not cell.table]
    data = runs.data_of(five[0].config)[0]
    for cell in cells:
        model = runs.model_of(cell.config, runs.data_of(cell.config)[0])
        assert 95 <= model.shared + len(model.owner) <= 96, cell.label
    for name in set(MODELS) - {cell.config.model.name for cell in five}:  # it has a reason to be absent
        with pytest.raises(InputError):
            runs.model_of(read_config(None, [f"model.name={name}"]), data)


# ---- what is done ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
def test_a_study_from_end_to_end_is_resumed_where_it_stopped(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_study(tiny, out, jobs=1, show=False)
    assert [bool(result.numbers) for result in done.results] == [True] * 8
    assert not done.failed
    cells = bytes_of(out / "cells")
    # Every cell is an ordinary run; its number is the one in all the tables.
    name = "MoPoE,private=2,seed=1"
    value = json.loads((out / "cells" / name / "evaluation.json").read_text())["log_likelihood"]
    told_ = {cell["name"]: cell for cell in json.loads((out / "results.json").read_text())["cells"]}
    assert (told_[name]["numbers"]["log_likelihood"], told_[name]["epochs"], told_[name]["at"]) == (
        value,
        2,
        {"private": 2},
    )
    rows = {
        (row["contender"], row["private"], row["seed"]): row
        for row in csv.DictReader((out / "results.csv").open())
    }
    assert float(rows["MoPoE", "2", "1"]["log_likelihood"]) == value
    values = [told_[f"MoPoE,private=2,seed={seed}"]["numbers"]["log_likelihood"] for seed in (0, 1)]
    line = f"| MoPoE | 2 | 2 | 2 | {text_of(summarise(values))} |"
    assert line in (out / "study.md").read_text()
    page = (out / "study.html").read_text()
    assert text_of(summarise(values)) in page
    assert page.count("<figure>") == 1
    assert "nothing: no cell has it; known: " in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)  # nothing is loaded from elsewhere
    assert [path.name for path in (out / "figures").iterdir()] == ["1-curve-log_likelihood.svg"]

    # Once more: no cell is touched, and all that is told stays the same.
    before = bytes_of(out)
    run_study(tiny, out, jobs=1, show=False)
    assert bytes_of(out / "cells") == cells
    assert {name: text for name, (text, _) in bytes_of(out).items()} == {
        name: text for name, (text, _) in before.items()
    }

    # A cell whose evaluation is gone, one that stopped half way, and one that was never begun: those three are done, to the same bits.
    run = RunDirectory(out / "cells" / name)
    run.evaluation.unlink()
    half, gone = (RunDirectory(out / "cells" / f"MMVAE+,private=1,seed={seed}") for seed in (0, 1))
    config = read_config(half.config)
    for path in sorted(gone.path.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    runs.train_run(
        config.model_copy(update={"train": config.train.model_copy(update={"epochs": 1})}),
        half.path,
        force=True,
        show=False,
    )
    half.write_text("config.toml", half.config.read_text().replace("epochs = 1\n", "epochs = 2\n"))
    run_study(tiny, out, jobs=1, show=False)
    after = bytes_of(out / "cells")
    touched = {path.split("/")[0] for path in after if after[path] != cells.get(path)}
    assert touched == {run.path.name, half.path.name, gone.path.name}
    for path in (
        f"{one.path.name}/{file}"
        for one in (run, half, gone)
        for file in ("evaluation.json", "model.safetensors")
    ):
        assert (
            json.loads(after[path][0]) == json.loads(cells[path][0])
            if path.endswith("json")
            else after[path][0] == cells[path][0]
        )

    # Other settings: an error that says which; with --force the cell is made anew.
    with pytest.raises(
        InputError,
        match=r"MMVAE\+,private=1,seed=0 was made with train.lr = 0.001, and 0.01 is expected; --force",
    ):
        run_study(tiny, out, changes=["train.lr=0.01"], show=False)
    assert bytes_of(out / "cells") == after
    told_now = run_study(
        tiny, out, changes=["train.lr=0.01"], only=["MoPoE"], seeds=1, force=True, show=False
    )
    lr = {
        one.name: read_config(out / "cells" / one.name / "config.toml").train.lr for one in told_now.results
    }
    assert [name for name, value in lr.items() if value == 0.01] == [
        "MoPoE,private=1,seed=0",
        "MoPoE,private=2,seed=0",
    ]
    assert not told_now.failed  # of those asked for
    assert [result.error for result in told_now.results if result.error] == [
        "made with train.lr = 0.001, and 0.01 is expected"
    ] * 2


@pytest.mark.usefixtures("here")
def test_seconds_become_epochs_that_are_measured_once(tiny: Path, tmp_path: Path) -> None:
    tiny.write_text(STUDY.replace("epochs = 2", "seconds = 0.2").replace("private = [1, 2]", "private = [1]"))
    run_study(tiny, tmp_path / "out", jobs=1, seeds=1, only=["MoPoE"], show=False)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    ((name, (entry,)),) = plan.items()
    assert (name, entry["seconds"]) == ("MoPoE,private=1", 0.2)
    assert entry["epochs"] == max(1, round(0.2 / entry["seconds_per_epoch"]))
    assert 0 < entry["seconds_per_epoch"] < 1  # three small steps
    done = run_study(tiny, tmp_path / "out", jobs=1, seeds=1, only=["MoPoE"], show=False)
    assert json.loads((tmp_path / "out" / "plan.json").read_text()) == plan
    (result,) = (result for result in done.results if result.numbers)
    assert result.numbers["processor_seconds_per_epoch"] == entry["seconds_per_epoch"]
    assert (
        len(RunDirectory(tmp_path / "out" / "cells" / result.name).read_history())
        == entry["epochs"]
        == result.epochs
    )


@pytest.mark.parametrize(("time", "when"), [("epochs = 2", ""), ("seconds = 0.05", "planning: ")])
def test_a_cell_that_fails_stops_no_other(
    tiny: Path, tmp_path: Path, time: str, when: str, request: pytest.FixtureRequest
) -> None:
    """Steps so large that the bound is no longer finite, in training or already while an epoch is measured."""
    text = STUDY.replace("private = [1, 2]", "private = [1]").replace(
        'model.name = "mmvae+"', 'model.name = "mmvae+"\ntrain.lr = 1e18'
    )
    tiny.write_text(text.replace("epochs = 2", time))
    request.getfixturevalue("here" if when else "copies")
    out = str(tmp_path / "out")
    done = polyvae("study", tiny, "--out", out, "--seeds", "1", "--jobs", "1", "-q")
    assert done.returncode == 1, done.stderr
    assert f"failed: MMVAE+,private=1,seed=0: {when}training: the bound is " in done.stderr
    assert "Traceback" not in done.stderr
    cells = json.loads((tmp_path / "out" / "results.json").read_text())["cells"]
    assert [(bool(cell["numbers"]), bool(cell["error"])) for cell in cells] == [(False, True), (True, False)]
    # What went wrong is told again when nothing is trained.
    again = run_study(tiny, tmp_path / "out", seeds=1, report=True, show=False)
    assert [result.error for result in again.failed] == [cells[0]["error"]]
    assert (
        html.escape(cells[0]["error"]).replace("&#x27;", "&#39;")
        in (tmp_path / "out" / "study.html").read_text()
    )


@pytest.mark.parametrize(
    ("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)], ids=["ctrl-c", "sigterm"]
)
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(
    tiny: Path, tmp_path: Path, number: int, group: bool, request: pytest.FixtureRequest
) -> None:
    tiny.write_text(
        STUDY.replace("epochs = 2", "epochs = 1000000").replace("private = [1, 2]", "private = [1]")
    )
    out = tmp_path / "out"
    words = ("study", tiny, "--out", out, "--seeds", "1", "--jobs", "1", "--only", "MoPoE", "-q")
    run = RunDirectory(out / "cells" / "MoPoE,private=1,seed=0")
    with command(*words, errors=tmp_path / "errors") as process:
        while process.is_alive() and len(run.read_history()) <= 3:  # pytest's own limit ends this
            time.sleep(0.02)
        (os.killpg if group else os.kill)(process.pid, number)  # a terminal tells the group
        process.join(120)
    said = (tmp_path / "errors").read_text()
    assert process.exitcode == 130, said
    assert (
        said
        == "interrupted with 0 of 2 cells done; the same command resumes; with --report it writes tables of the finished cells\n"
    )
    assert run.model.exists()  # a checkpoint, and what there is
    steps = run.read_history()[-1]["step"]
    assert steps > 3
    tiny.write_text(tiny.read_text().replace("1000000", str(steps // 3 + 2)))
    run.write_text(
        "config.toml", run.config.read_text().replace("epochs = 1000000", f"epochs = {steps // 3 + 2}")
    )
    request.getfixturevalue("here")
    done = run_study(tiny, out, seeds=1, only=["MoPoE"], show=False)
    assert [bool(result.numbers) for result in done.results] == [False, True]
    assert [record["epoch"] for record in run.read_history()] == list(range(1, steps // 3 + 3))


@pytest.fixture
def cells(tiny: Path) -> list[Cell]:
    return read_study(tiny)[1]


def there(out: Path, cell: Cell, plan: Plan | None = None, **numbers: float) -> RunDirectory:
    """A cell that is done, without training."""
    run = RunDirectory.create(out / "cells" / cell.name)
    config = cell.config if plan is None else plan.config(cell)
    run.write_text("config.toml", write_config(config))
    run.append_history({"step": 1, "epoch": config.train.epochs, "seconds": 1.0, "train": {"bound": -1.0}})
    run.write_json(
        "evaluation.json", {**numbers, "settings": config.evaluate.model_dump(exclude={"curve_seconds"})}
    )
    return run


def plan_of(path: Path, cell: Cell, seconds: float, epochs: int) -> None:
    """A plan of one entry."""
    entry = {
        "epochs": epochs,
        "seconds_per_epoch": seconds / epochs,
        "seconds": seconds,
        "settings": dict(cell.settings),
    }
    path.write_text(json.dumps({cell.group: [entry]}))


def test_a_plan_holds_for_its_seconds_and_settings_alone(tiny: Path, tmp_path: Path) -> None:
    tiny.write_text(STUDY.replace("epochs = 2", "seconds = 30"))
    cell, other = read_study(tiny)[1][0], read_study(tiny, ["model.beta=2"])[1][0]
    file = tmp_path / "plan.json"
    plan_of(file, cell, 30.0, 7)
    plan = Plan(file, 30.0)
    assert plan.config(cell).train.epochs == 7
    for same in (["data.root=elsewhere"], ["evaluate.seed=3"]):
        assert plan.config(read_study(tiny, same)[1][0]).train.epochs == 7
    assert not plan.known(other)
    assert not Plan(file, 20.0).known(cell)
    assert Plan(file, None).config(cell) == cell.config
    assert list(plan.tasks([cell, other])) == [cell.group]
    plan.add(other, 10.0)
    Plan(file, 20.0).add(cell, 0.5)
    assert [
        Plan(file, seconds).config(one).train.epochs
        for seconds, one in ((30.0, cell), (30.0, other), (20.0, cell))
    ] == [7, 3, 40]
    file.write_text("{")
    with pytest.raises(InputError, match="remove it to plan the epochs again"):
        Plan(file, 30.0)


def test_a_refused_command_leaves_all_as_it_was(tiny: Path, tmp_path: Path) -> None:
    tiny.write_text(STUDY.replace("epochs = 2", "seconds = 30"))
    cell = read_study(tiny)[1][0]
    plan_of(tmp_path / "plan.json", cell, 30.0, 7)
    there(tmp_path, cell, Plan(tmp_path / "plan.json", 30.0), log_likelihood=-3.0)
    before = bytes_of(tmp_path)
    with pytest.raises(InputError, match=r"seed=0 was made with model.beta = "):
        run_study(tiny, tmp_path, changes=["model.beta=2"], show=False)
    assert {name: text for name, text in bytes_of(tmp_path).items() if name != ".lock"} == before
    results = {one.name: one for one in run_study(tiny, tmp_path, report=True, show=False).results}
    assert (results[cell.name].numbers["log_likelihood"], results[cell.name].epochs) == (-3.0, 7)
    assert [one.epochs for one in results.values() if one.name != cell.name] == [None] * 7  # they never ran
    # What was planned for seconds says nothing of a study that has epochs, nor of other seconds.
    tiny.write_text(STUDY.replace("epochs = 2", "epochs = 9"))
    with pytest.raises(InputError, match=r"was made with train\.epochs = 7, and 9 is expected"):
        run_study(tiny, tmp_path, report=True, show=False)
    assert not run_study(
        tiny, tmp_path, changes=["study.epochs=7", "train.device=auto"], report=True, show=False
    ).failed
    tiny.write_text(STUDY.replace("epochs = 2", "seconds = 20"))
    with pytest.raises(InputError, match=r"was made with train\.epochs = 7, and none are planned"):
        run_study(tiny, tmp_path, report=True, show=False)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "model.latent = 3",
            "model.latent = 4",
            "MMVAE+,private=1,seed=0 was made with model.latent = 3, and 4 is expected; expected a cell ",
        ),
        (
            "epochs = 2",
            "seconds = 30",
            "MMVAE+,private=1,seed=0 was made with train.epochs = 2, and none are planned; expected a cell ",
        ),
        ("private = [1, 2]", "private = [5]", "got cells such as 'MMVAE+,private=1,seed=0' in "),
    ],
)
def test_a_report_of_cells_that_are_all_others_leaves_the_tables_as_they_are(
    tiny: Path,
    tmp_path: Path,
    cells: list[Cell],
    old: str,
    new: str,
    line: str,
) -> None:
    out = tmp_path / "out"
    for cell in cells[:2]:
        there(out, cell, log_likelihood=-3.0)
    run_study(tiny, out, report=True, show=False)
    before = bytes_of(out)
    tiny.write_text(STUDY.replace(old, new))
    with pytest.raises(InputError, match=re.escape(line)) as problem:
        run_study(tiny, out, report=True, show=False)
    assert "\n" not in str(problem.value)
    assert "the tables are unchanged: restore the study, or run it without --report" in str(problem.value)
    assert bytes_of(out) == before


def test_a_report_of_tables_whose_cells_are_gone_leaves_them_as_they_are(
    tiny: Path, tmp_path: Path, cells: list[Cell]
) -> None:
    there(tmp_path, cells[0], log_likelihood=-3.0)
    run_study(tiny, tmp_path, report=True, show=False)
    shutil.rmtree(tmp_path / "cells")
    before = bytes_of(tmp_path)
    with pytest.raises(
        InputError,
        match=r"got tables in .* and no cells; expected a cell with the settings of the study; the tables are unchanged",
    ):
        run_study(tiny, tmp_path, report=True, show=False)
    assert bytes_of(tmp_path) == before


def test_a_report_of_some_cells_that_are_others_tells_the_rest_and_why(
    tiny: Path, tmp_path: Path, cells: list[Cell]
) -> None:
    for cell in (cells[0], cells[2]):
        there(tmp_path, cell, log_likelihood=-3.0)
    tiny.write_text(STUDY.replace('model.name = "mopoe"', 'model.name = "mopoe"\nmodel.beta = 2.0'))
    done = run_study(tiny, tmp_path, report=True, show=False)
    assert [one.name for one in done.results if one.numbers] == [cells[0].name]
    assert [(one.name, one.error) for one in done.failed] == [
        (cells[2].name, "made with model.beta = None, and 2.0 is expected")
    ]


def test_an_evaluation_with_other_settings_is_not_the_one_wanted(
    tiny: Path, tmp_path: Path, cells: list[Cell]
) -> None:
    run = there(tmp_path, cells[0], log_likelihood=-3.0)
    wanted = cells[0].config.evaluate.model_dump(exclude={"curve_seconds"})
    run.write_json("evaluation.json", {"log_likelihood": -3.0, "settings": wanted})
    assert not run_study(tiny, tmp_path, report=True, show=False).failed
    run.write_json("evaluation.json", {"log_likelihood": -3.0, "settings": wanted | {"draws": 10}})
    (failed,) = run_study(tiny, tmp_path, report=True, show=False).failed
    assert (
        failed.numbers,
        failed.error.startswith("evaluated with evaluate.draws = 10, and 10000 is expected"),
    ) == ({}, True)
    there(tmp_path, cells[1])
    run.config.write_text("[")
    (failed,) = run_study(tiny, tmp_path, report=True, show=False).failed
    assert failed.error.startswith("made with settings that cannot be read (")
    with pytest.raises(InputError, match="--force reruns it"):
        run_study(tiny, tmp_path, show=False)


def test_a_folder_that_cannot_be_and_one_that_is_taken(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be created"):
        run_study(tiny, tmp_path / "file", show=False)
    with (
        only_writer(tmp_path),
        pytest.raises(InputError, match="is writing to; expected one writer at a time"),
    ):
        run_study(tiny, tmp_path, show=False)


def test_a_contender_from_elsewhere_is_trained_judged_and_made_anew(
    tmp_path: Path,
    cells: list[Cell],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "elsewhere_g.py").write_text(
        "from polyvae.models import MODELS\n\n\nclass Mine(MODELS['mopoe']):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = next(cell.config for cell in cells if cell.label == "MoPoE")
    config = config.model_copy(update={"model": config.model.model_copy(update={"name": "elsewhere_g:Mine"})})
    out = tmp_path / "cell"
    out.mkdir()
    (out / ".config.toml.0123abcd.partial").write_text("[da")  # killed as it began
    _run(config, out, restart=False, force=False)
    value = RunDirectory(out).read_json("evaluation.json")
    # With every checkpoint damaged, the cell can only be made anew: to the same numbers.
    for path in (out / "checkpoints").glob("*.safetensors"):
        path.write_bytes(b"torn")
    with pytest.raises(InputError, match=r"all damaged.*; --force reruns the cell"):
        _run(config, out, restart=False, force=False)
    _run(config, out, restart=False, force=True)
    assert RunDirectory(out).read_json("evaluation.json") == value


def until(found: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not found() and time.monotonic() < end:
        time.sleep(0.02)


@pytest.mark.usefixtures("copies")
def test_a_worker_lost_at_work_costs_its_task_alone() -> None:
    """The others go on, and to stop waits for no process that is dead."""
    workers = Workers(2)
    tasks = {"killed": partial(lost, signal.SIGKILL), "terminated": partial(lost, signal.SIGTERM)}
    try:
        found = dict(workers.run({**tasks, "left": partial(os._exit, 3), "fine": partial(abs, -3)}))
        assert found == {
            "killed": Answer(None, "worker killed by signal 9 (SIGKILL), perhaps out of memory"),
            "terminated": Answer(None, "worker ended by signal 15 (SIGTERM)"),
            "left": Answer(None, "worker ended with exit code 3"),
            "fine": Answer(3),
        }
        assert len(workers.idle) == 1
        workers.give("another", tasks["killed"])
    finally:
        began = time.monotonic()
        workers.stop()
        workers.close()
    assert time.monotonic() - began < 3


@pytest.mark.usefixtures("copies")
def test_a_worker_lost_before_its_task_began_is_replaced() -> None:
    """While it is idle. What cannot be read is an error of that task."""
    workers = Workers(1)
    ((_, first),) = workers.run({"a": os.getpid})
    os.kill(first.value, signal.SIGKILL)
    found = dict(workers.run({"b": os.getpid, "c": Unreadable()}))
    assert found["b"].value not in (None, first.value)
    assert found["c"].error == "ValueError: not to be read"
    (worker,) = workers.idle
    workers.close()
    assert worker.process.exitcode == 0


def test_a_task_that_no_worker_begins_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is killed while it starts."""
    started: list[Worker] = []

    def giving(self: Workers, name: str, task: Callable[[], object]) -> Worker:
        started.append(give(self, name, task))
        os.kill(started[-1].process.pid or 0, signal.SIGKILL)
        return started[-1]

    give, workers = Workers.give, Workers(1)
    monkeypatch.setattr(Workers, "give", giving)
    says = "worker killed by signal 9 (SIGKILL) before it began, perhaps out of memory"
    assert dict(workers.run({"never": partial(abs, -2)})) == {"never": Answer(None, says)}
    assert len(started) == 3
    assert (workers.busy, workers.idle) == ({}, [])


def test_stop_interrupts_what_comes_up_and_waits_for_no_worker_that_dies() -> None:
    workers = Workers(2)
    early, dead = (workers.give(name, partial(time.sleep, 60)) for name in "ab")
    os.kill(dead.process.pid or 0, signal.SIGKILL)  # while it is coming up
    workers.stop()
    assert (workers.busy, workers.idle) == ({}, [dead, early])
    assert early.begun
    workers.close()


def test_a_signal_to_the_group_ends_the_study_and_its_workers(tmp_path: Path) -> None:
    """As ``timeout`` and schedulers send it, here twice. The task ends as by Ctrl-C, so with a checkpoint."""
    script = """if __name__ == "__main__":
    import functools, pathlib, sys, time
    from polyvae.study.workers import Workers, terminable
    from tests.helpers.tasks import interruptible
    workers = Workers(1)
    with terminable():
        try:
            list(workers.run({"a": functools.partial(interruptible, pathlib.Path(sys.argv[1]))}))
        except KeyboardInterrupt:
            workers.stop()
        workers.close()
    print("ended")
"""
    words = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    until(lambda: (tmp_path / "begun").exists())
    for _ in range(2):
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.05)
    assert process.communicate(timeout=30)[0] == "ended\n"
    assert (tmp_path / "kept").exists()
    assert process.returncode == 0


def test_workers_end_with_the_process_that_began_them() -> None:
    script = """if __name__ == "__main__":
    import functools, time
    from polyvae.study.workers import Workers
    workers = Workers(1)
    print(workers.give("a", functools.partial(time.sleep, 600)).process.pid, flush=True)
    list(workers._answers())
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    time.sleep(0.3)
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: not _runs(worker))
    assert not _runs(worker)


def _runs(number: int) -> bool:
    """Is there such a process that has not ended?"""
    done = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(number)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()[:1] not in ("", "Z")


# ---- what is told ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_intervals_are_scipys(count: int) -> None:
    values = np.random.default_rng(count).normal(3, 2, count)
    found = summarise(list(values))
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high), rel=1e-12)
    assert math.isnan(summarise([1.0]).half)


def some(label: str, at: dict[str, float], *pairs: tuple[float, float], table: str = "") -> list[Result]:
    return [
        Result(
            f"{label}{at}{seed}", label, table, at, seed, 3, {"conditional_coherence": x, "log_likelihood": y}
        )
        for seed, (x, y) in enumerate(pairs)
    ]


def test_the_best_is_bold_only_where_no_interval_reaches_it() -> None:
    one, two, three = Summary(0.9, 0.01, 3), Summary(0.85, 0.03, 3), Summary(0.7, 0.05, 3)
    assert leader([three, one, two], "higher") == 1
    assert leader([three, one, two], "lower") == 0
    assert leader([Summary(0.9, 0.03, 3), two, three], "higher") is None  # .87 to .93 and .82 to .88
    assert leader([one, None, three], "higher") == 0
    assert leader([one, Summary(0.1, math.nan, 1)], "higher") is None  # one seed has no interval
    assert leader([one, two], "") is None


def test_tables_say_mean_interval_and_count() -> None:
    results = [
        *some("A", {"private": 2}, (0.5, -10.0), (0.6, -12.0), (0.7, -14.0)),
        *some("B", {}, (0.1, -10.5), (0.1, -11.5)),
        *some("C", {}, (0.2, 1.0), table="Others"),
    ]
    first, second = tables(results, ["conditional_coherence", "log_likelihood", "absent"])
    assert (first.title, second.title) == ("", "Others")
    assert list(first.header) == [
        "contender",
        "private",
        "epochs",
        "n",
        "conditional coherence",
        "log-likelihood",
    ]
    half = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert [cell.text for cell in first.rows[0]] == [
        "A",
        "2",
        "3",
        "3",
        f"0.600 ± {half:.3f}",
        f"−12.0 ± {half * 20:.1f}",
    ]
    assert [cell.text for cell in first.rows[1]][:5] == ["B", "–", "3", "2", "0.100 ± 0.000"]
    assert [[cell.best for cell in row] for row in first.rows] == [[False] * 4 + [True, False], [False] * 6]
    assert [cell.text for cell in second.rows[0]] == ["C", "3", "1", "0.200", "1.000"]


def test_the_front_and_its_hull_by_hand() -> None:
    """Left is better, up is better. (2, .5) is beaten by (2, .6); (3, .7) lies below the line from (2, .6) to (4, .9)."""
    places = [(1.0, 0.1), (2.0, 0.6), (2.0, 0.5), (3.0, 0.7), (4.0, 0.9), (5.0, 0.9)]
    front = pareto(places, (-1, 1))
    assert front == [(1.0, 0.1), (2.0, 0.6), (3.0, 0.7), (4.0, 0.9)]
    assert hull(front, (-1, 1), (float, float)) == [(1.0, 0.1), (2.0, 0.6), (4.0, 0.9)]
    assert pareto([(x, -y) for x, y in places], (-1, -1)) == [(x, -y) for x, y in front]
    assert hull([(x, -y) for x, y in front], (-1, -1), (float, float)) == [
        (1.0, -0.1),
        (2.0, -0.6),
        (4.0, -0.9),
    ]


def test_plots_draw_what_there_is(tmp_path: Path) -> None:
    results = [
        result
        for at in (1, 2, 4)
        for result in some("A", {"private": at}, (0.1 * at, at), (0.1 * at + 0.02, at + 0.1))
    ]
    results += [*some("B", {"private": 2}, (0.3, 2.0)), *some("ref", {}, (0.5, 3.0), (0.6, 3.5))]
    curve = draw(Plot(kind="curve", x="private", y="conditional_coherence", log_x=True), "curve", results)
    paths = draw(
        Plot(kind="tradeoff", x="log_likelihood", y="conditional_coherence", reference_x="ref", log_x=True),
        "paths",
        results,
    )
    assert curve is not None
    assert paths is not None
    assert "A from 0.110 to 0.410, spread 0.300" in curve.alt
    assert "ref from 0.550 to 0.550" in curve.alt
    # More is better in both: (4.05, .41) beats all others that are drawn.
    assert "on the Pareto front: A, private 4; on the hull: A, private 4; ref: 3.250 ± 3.177" in paths.alt
    assert draw(Plot(kind="curve", x="private", y="absent"), "none", results) is None
    written = write_study(
        tmp_path, "t", results, ["conditional_coherence"], [Plot(kind="curve", x="private", y="absent")]
    )
    assert "<figure>" not in written.read_text()
    assert len(points(results)) == 5


def test_plots_of_what_is_no_number_and_of_what_has_no_logarithm(tmp_path: Path) -> None:
    mixed = [
        result
        for at in ("none", 1.0, [2, 3])
        for result in some("A", {"private": at}, (0.1, 1.0), (0.2, 2.0))
    ]
    assert draw(Plot(kind="curve", x="private", y="log_likelihood", log_x=True), "mixed", mixed) is not None
    assert (
        draw(Plot(kind="tradeoff", x="log_likelihood", y="conditional_coherence"), "mixed", mixed) is not None
    )
    zero = [
        *some("A", {"private": 0}, (0.5, -1.0)),
        *some("A", {"private": 2}, (0.4, 1.0)),
        *some("A", {"private": 4}, (0.3, 2.0)),
    ]
    for plot in (
        Plot(kind="curve", x="private", y="conditional_coherence", log_x=True),
        Plot(kind="tradeoff", x="log_likelihood", y="conditional_coherence", log_x=True),
    ):
        figure = draw(plot, "zero", zero)
        assert figure is not None
        assert "left out, because a logarithmic axis needs values above 0: A, private 0." in figure.alt
        assert "eft out, because a logarithmic axis needs values above 0: A, private 0." in figure.caption
    # A plot that fails is a note, a name that nobody has is one; not-a-numbers are null; old plots go.
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "9-curve-old.svg").write_text("")
    results = [*zero, Result("bad", "A", "", {}, 0, None, {"log_likelihood": math.nan})]
    page = write_study(
        tmp_path, "t", results, [], [Plot(kind="curve", x="private", y="log_likelyhood")]
    ).read_text()
    assert (
        html.escape("log_likelyhood: no cell has it; did you mean 'log_likelihood'?").replace(
            "&#x27;", "&#39;"
        )
        in page
    )
    told_ = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert told_["cells"][-1]["numbers"] == {"log_likelihood": None}
    assert not list((tmp_path / "figures").iterdir())


@pytest.mark.parametrize(
    ("asked", "noted"),
    [
        ("", []),  # nobody asked for any by name
        ('columns = ["conditional_coherence", "log_likelihood"]', ["log_likelihood"]),
        ('plots = [{kind = "curve", x = "private", y = "log_likelihood"}]', ["log_likelihood"]),
    ],
)
def test_only_what_was_asked_for_by_name_is_noted_as_absent(
    tiny: Path, tmp_path: Path, asked: str, noted: list[str]
) -> None:
    tiny.write_text(re.sub(r"columns = .*\nplots = .*", asked, STUDY))
    there(tmp_path, read_study(tiny)[1][0], conditional_coherence=0.5)
    run_study(tiny, tmp_path, report=True, show=False)
    text = (tmp_path / "study.md").read_text()
    assert "| MMVAE+ | 1 | 2 | 1 | 0.500 |" in text
    assert re.findall(r"^\* (\w+): no cell has it; ", text, re.MULTILINE) == noted


def test_a_plot_that_fails_is_a_note_beside_the_tables_and_the_other_plots(tmp_path: Path) -> None:
    """An axis with a whole number that no floating-point number reaches."""
    results = [result for at in (1, 10**400) for result in some("A", {"private": at}, (0.5, 3.0))]
    plots = [
        Plot(kind="curve", x="private", y="log_likelihood"),
        Plot(kind="tradeoff", x="log_likelihood", y="conditional_coherence"),
    ]
    page = write_study(tmp_path, "t", results, ["conditional_coherence"], plots).read_text()
    note = "plot 1, log_likelihood over private: not drawn, OverflowError: "
    notes = re.findall(rf"^\* {re.escape(note)}.+$", (tmp_path / "study.md").read_text(), re.MULTILINE)
    assert len(notes) == 1
    assert note in page
    assert "| A | 1 | 3 | 1 | 0.500 |" in (tmp_path / "study.md").read_text()
    assert [path.name for path in (tmp_path / "figures").iterdir()] == [
        "2-tradeoff-conditional_coherence.svg"
    ]


def test_paths_and_references_pool_no_axis() -> None:
    results = [
        result
        for beta in (1, 2)
        for at in (1, 2)
        for result in some("A", {"private": at, "model.beta": beta}, (0.1 * at, beta))
    ]
    results += [result for beta in (1, 2) for result in some("ref", {"model.beta": beta}, (0.5, 10.0 * beta))]
    curve = draw(Plot(kind="curve", x="private", y="conditional_coherence"), "curve", results)
    assert curve is not None
    for beta in (1, 2):
        assert f"A, beta {beta} from 0.100 to 0.200" in curve.alt
    paths = draw(
        Plot(
            kind="tradeoff", x="log_likelihood", y="conditional_coherence", along="private", reference_x="ref"
        ),
        "paths",
        results,
    )
    assert paths is not None
    assert "ref, beta 1: 10.0; ref, beta 2: 20.0" in paths.alt
    assert "A, beta 2 reaches 0.200" in paths.alt


def test_small_intervals_are_not_rounded_away() -> None:
    assert text_of(Summary(0.6, 0.00012, 3)) == "0.6000 ± 0.0001"
    assert text_of(Summary(12.0, 0.031, 3)) == "12.00 ± 0.03"
    assert text_of(Summary(0.6, 0.248, 3)) == "0.600 ± 0.248"
    assert text_of(Summary(0.0004, math.nan, 1)) == "0.0004"
    assert text_of(Summary(0.1, 0.0, 2)) == "0.100 ± 0.000"

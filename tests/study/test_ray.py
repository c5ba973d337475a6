"""Studies on Ray: the same tables as on one machine, whatever happens to nodes, tasks and the study."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest

from polyvae.cli.commands import _with_address
from polyvae.config import RunConfig
from polyvae.metrics.judge_training import Recipe
from polyvae.study import cluster, nodes
from polyvae.study.packing import pack, unpack
from polyvae.study.plan import Plan, _judges, read_study
from polyvae.study.run import _run, _todo, run_study
from polyvae.study.workers import Answer, Task
from polyvae.training.directory import RunDirectory
from polyvae.utils.errors import InputError
from tests.helpers.cli import polyvae
from tests.helpers.studies import STUDY

TINY = STUDY.replace(', "seconds_per_epoch", "nothing"', "")  # which are the same in every run


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


# ---- what is asked ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ("study a.toml --ray", "study a.toml --ray local"),
        ("study --ray a.toml", "study --ray local a.toml"),
        ("study a.toml --ray -q", "study a.toml --ray local -q"),
        ("study a.toml --ray 10.0.0.1:6379 -q", "study a.toml --ray 10.0.0.1:6379 -q"),
        ("study a.toml --ray auto", "study a.toml --ray auto"),
        ("study a.toml --ray=auto", "study a.toml --ray=auto"),
        ("train --ray", "train --ray"),
    ],
)
def test_the_address_may_be_left_out(typed: str, means: str) -> None:
    assert _with_address(typed.split()) == means.split()


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "10.0.0.1", "host:", ":6379", "h:70000", ""])
def test_an_address_that_is_none_is_refused_before_anything_begins(
    tiny: Path, tmp_path: Path, address: str
) -> None:
    done = polyvae("study", tiny, "--out", tmp_path / "out", f"--ray={address}")
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: study: --ray .*: got no address of a cluster; expected HOST:PORT .*\n", done.stderr
    )
    assert not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = polyvae("study", tiny, "--out", tmp_path / "out", "--ray")
    assert (done.returncode, done.stderr) == (
        2,
        "error: study: --ray: ray is not installed; expected the extra cluster; pip install 'polyvae[cluster]'\n",
    )
    assert not (tmp_path / "out").exists()


def test_where_nothing_listens_or_something_else_does_the_study_ends_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "_JOIN", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as other:  # it accepts, and never answers
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(
            InputError, match=r"no Ray cluster could be joined within 0 s; expected the head node"
        ):
            cluster._check_reachable(address)
    with pytest.raises(InputError, match=rf"--ray {address}: nothing answers there \(Connection refused\); "):
        cluster._check_reachable(address)


def test_the_reason_that_ray_gives_is_one_line() -> None:
    found = cluster._refused(
        "h:1",
        "[2026] noise\nTraceback (most recent call last):\n  File x\n    raise RuntimeError(error_message)\nRuntimeError: Version "
        "mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.10.1\nThis process was started with:\n    Ray: 2.60.0\n",
    )
    assert found == (
        "study: --ray h:1: got a cluster with another version of Python or Ray (Version mismatch: The cluster was started with: Ray: 2.9.0 "
        "Python: 3.10.1 This process was started with: Ray: 2.60.0); expected the same on every machine; install the same"
    )
    found = cluster._refused("auto", "ConnectionError: Could not find any running Ray instance.\n")
    assert "(Could not find any running Ray instance.)" in found
    found = cluster._refused(
        "h:1", "W gcs_client: InvalidAuthToken: missing\nConnectionError: Failed to connect\n"
    )
    assert "got a cluster that expects another token" in found


# ---- on a node, here -------------------------------------------------------------------------------------------------------------


def sent(task: Task) -> bytes:
    return bytes(ForkingPickler.dumps(task))


def configured(**sections: object) -> RunConfig:
    return RunConfig.check(sections)


def test_a_cell_is_trained_where_it_is_sent_and_its_folder_returns(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cell = read_study(tiny)[1][-1]
    todo = _todo([cell], Plan(tmp_path / "plan.json", None), tmp_path, False)
    found = nodes.act(sent(todo[cell.name]), None, None, str(tmp_path))
    assert (found.answer, found.judges) == (Answer(None), None)
    assert not (tmp_path / "cells").exists()  # nothing but the bytes comes from there
    assert found.folder is not None
    unpack(found.folder, tmp_path / "cells" / cell.name)
    local = tmp_path / "local"
    local.mkdir()
    _run(cell.config, local, restart=False, force=False)
    there, here = RunDirectory(tmp_path / "cells" / cell.name), RunDirectory(local)
    assert there.model.read_bytes() == here.model.read_bytes()
    assert there.read_json("evaluation.json") == here.read_json("evaluation.json")


def _half(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "kept").write_text((folder / "given").read_text() if (folder / "given").exists() else "")
    raise InputError(f"{folder}/config.toml: got nothing")


def _interrupted(folder: Path) -> None:
    folder.mkdir()
    (folder / "checkpoint").touch()
    raise KeyboardInterrupt


def test_what_a_failed_or_interrupted_task_has_written_returns_with_its_error(tmp_path: Path) -> None:
    cell = tmp_path / "cell"
    cell.mkdir()
    (cell / "given").write_text("as before")
    found = nodes.act(sent(Task(_half, RunConfig(), cell)), pack(cell), None, str(tmp_path))
    assert found.answer.error == f"{cell}/config.toml: got nothing"  # the path here, not on the node
    assert found.folder is not None
    unpack(found.folder, tmp_path / "back")
    assert (tmp_path / "back" / "kept").read_text() == "as before"
    found = nodes.act(sent(Task(_interrupted, RunConfig(), cell)), None, None, str(tmp_path))
    assert found.answer.error == "interrupted"
    assert found.folder is not None


def test_judges_travel_to_the_cache_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYVAE_CACHE", str(tmp_path / "cache"))
    task = sent(Task(partial(abs, -3), RunConfig()))
    found = nodes.act(task, None, ("judges-0123.safetensors", b"weights"), str(tmp_path))
    assert found.answer == Answer(3)
    assert (tmp_path / "cache" / "judges-0123.safetensors").read_bytes() == b"weights"
    nodes.act(task, None, ("../outside", b"weights"), str(tmp_path))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cache", "judges-0123.safetensors"]


def test_judges_that_a_node_trains_return_and_are_used_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = {"epochs": 1, "least": 1, "most": 1, "width": 8, "batch_size": 32}
    monkeypatch.setattr(Recipe.__new__, "__defaults__", tuple((Recipe._field_defaults | brief).values()))
    config = configured(data={"only": ["m0", "m1"], "options": {"train": 60, "test": 20}})
    task = sent(Task(partial(_judges, config), config, judges=True))
    monkeypatch.setenv("POLYVAE_CACHE", str(tmp_path / "one"))
    trained = nodes.act(task, None, None, str(tmp_path)).judges
    assert trained is not None
    (file,) = (tmp_path / "one").iterdir()
    assert trained == (file.name, file.read_bytes())
    monkeypatch.setenv("POLYVAE_CACHE", str(tmp_path / "other"))
    assert nodes.act(task, None, trained, str(tmp_path)).judges == trained
    assert [path.name for path in (tmp_path / "other").iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"data": {"name": "polymnist", "root": "photos"}}, r"data\.root: got no {here}/photos there; "),
        ({"data": {"name": "a.csv"}}, r"data\.name: got no {here}/a\.csv there; "),
        (
            {"data": {"name": "a.csv", "root": "/no", "options": {"files": ["/no/b.csv"]}}},
            r"data\.root: got no /no there; ",
        ),
        ({"evaluate": {"features": "inception:/no/w"}}, r"evaluate\.features: got no /no/w there; "),
    ],
)
def test_data_that_a_node_does_not_have_are_named_with_the_node(
    tmp_path: Path, sections: dict[str, object], line: str
) -> None:
    task = Task(partial(abs, -3), configured(**sections))
    error = nodes.act(sent(task), None, None, str(tmp_path)).answer.error
    expected = line.format(here=re.escape(str(tmp_path)))
    assert re.match(
        rf"node \S+: {expected}expected the data of a cell under the same path on every node; ", error
    )


def test_data_made_by_code_need_no_folder(tmp_path: Path) -> None:
    nodes.check_data(configured(data={"name": "polydigits", "root": "/no"}), tmp_path)


def test_a_node_with_another_version_answers_with_one_line() -> None:
    (value, error), *rest = nodes._sent()("0.0.0", b"", None, None, "")
    assert (value, rest) == (None, [None, None, ()])
    assert re.fullmatch(
        r"node \S+: got polyvae \S+; expected 0\.0\.0, as where the study was started; .*", error
    )


# ---- with Ray --------------------------------------------------------------------------------------------------------------------


def same_tables(one: Path, other: Path) -> None:
    """All tables but the times, and the bits of every model and every number."""
    assert (one / "study.md").read_text() == (other / "study.md").read_text()
    rows = [
        [
            {key: value for key, value in row.items() if "seconds" not in key}
            for row in csv.DictReader((folder / "results.csv").open())
        ]
        for folder in (one, other)
    ]
    assert rows[0] == rows[1]
    names = sorted(path.name for path in (one / "cells").iterdir())
    assert names == sorted(path.name for path in (other / "cells").iterdir())
    for name in names:
        here, there = RunDirectory(one / "cells" / name), RunDirectory(other / "cells" / name)
        assert here.model.read_bytes() == there.model.read_bytes()
        assert here.read_json("evaluation.json") == there.read_json("evaluation.json")


def until(found: Callable[[], object], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextmanager
def study(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """``polyvae study`` in a process group of its own, which is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "polyvae", "study", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finished(out: Path) -> int:
    return len(list(out.glob("cells/[!.]*/evaluation.json")))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_raylet_killed_midway_changes_no_table(tiny: Path, tmp_path: Path) -> None:
    """Two nodes of one processor each beside a head without any."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'polyvae[cluster]'")
    from ray.cluster_utils import Cluster

    tiny.write_text(TINY.replace("epochs = 2", "epochs = 150").replace("seeds = [0, 1]", "seeds = [0]"))
    local, out = tmp_path / "local", tmp_path / "out"
    run_study(tiny, local, show=False)
    raylets = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        _, lost = (raylets.add_node(num_cpus=1) for _ in range(2))
        with study(tiny, "--out", out, "--ray", raylets.address) as process:
            until(lambda: finished(out) >= 1)
            time.sleep(1)  # by then the worker of each node is at work
            raylets.remove_node(lost, allow_graceful=False)
            said, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        assert said == f"written: {out / 'study.html'}\n"
        assert "its node was lost; it is run on another one" in errors
        same_tables(local, out)
        # Once more, nothing is run.
        before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*")}
        with study(tiny, "--out", out, "--ray", raylets.address, "-q") as process:
            process.communicate(timeout=300)
        assert process.returncode == 0
        assert before == {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*")}
    finally:
        raylets.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_and_kill_leave_finished_cells_and_the_same_command_goes_on(
    tiny: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'polyvae[cluster]'")
    tiny.write_text(TINY.replace("epochs = 2", "epochs = 60").replace("seeds = [0, 1]", "seeds = [0]"))
    local, out = tmp_path / "local", tmp_path / "out"
    run_study(tiny, local, show=False)
    words = (tiny, "--out", out, "--ray", "--jobs", "1", "-q")
    with study(*words) as process:
        until(lambda: finished(out) >= 1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all processes of the group
        said, errors = process.communicate(timeout=120)
    assert (process.returncode, said) == (130, "")
    assert re.fullmatch(r"interrupted with \d of 4 cells done; the same command resumes; .*\n", errors)
    assert json.loads((out / "results.json").read_text())["cells"][0]["numbers"]
    kept = finished(out)
    with study(*words) as process:
        until(lambda: finished(out) > kept)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=120)
    kept = finished(out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/evaluation.json")}
    with study(*words) as process:
        said, errors = process.communicate(timeout=600)
    assert (process.returncode, said, errors) == (0, f"written: {out / 'study.html'}\n", "")
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    same_tables(local, out)

"""Run directories: never overwritten without --force, nothing foreign touched, a history that survives a torn line."""

from __future__ import annotations

import logging

import pytest

from polyvae.training.checkpoints import Checkpoints
from polyvae.training.directory import RunDirectory
from tests.helpers.storage import message


def fill(run):
    run.write_text("config.toml", "[train]\n")
    run.append_history({"step": 1})
    Checkpoints(run.checkpoints).save(1, {}, {})
    run.write_figures({"grid.png": b"made"})
    for path in (
        run.model,
        run.report,
        run.evaluation,
        run.fitted_prior,
        run.checkpoints / "best.safetensors",
    ):
        path.write_bytes(b"made")


def test_a_run_is_never_overwritten_without_force_and_nothing_foreign_with_it(tmp_path):
    run = RunDirectory.create(tmp_path / "deep" / "run")
    assert RunDirectory.create(run.path).path == run.path  # still empty
    fill(run)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    text = message(RunDirectory.create, run.path)
    assert "--force" in text
    assert "--resume" in text
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    mine = [
        run.path / "notes.md",
        run.checkpoints / "mine.pt",
        run.path / "figures" / "deep" / "mine.png",
        run.path / "figures" / "mine.png",
        run.path / "data.csv",
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    RunDirectory.create(run.path, force=True)
    assert sorted(path for path in run.path.rglob("*") if path.is_file()) == sorted(mine)


def test_force_removes_nothing_through_a_link(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    fill(run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "grid.png").write_text("mine")
    (tmp_path / "mine" / ".written").write_text("grid.png\n../run/config.toml\n..\n/etc/passwd\n")
    (run.figures / "grid.png").unlink()
    (run.figures / ".written").unlink()
    run.figures.rmdir()
    run.figures.symlink_to(tmp_path / "mine")
    RunDirectory.create(run.path, force=True)
    assert (tmp_path / "mine" / "grid.png").read_text() == "mine"
    run.write_text("config.toml", "")
    (tmp_path / "elsewhere").mkdir()
    run.checkpoints.rmdir()
    run.checkpoints.symlink_to(tmp_path / "elsewhere")
    Checkpoints(run.checkpoints).save(1, {}, {})
    assert "checkpoints: got a link" in message(RunDirectory.create, run.path, force=True)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2


def test_a_record_of_figures_reaches_no_other_folder(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    fill(run)
    (tmp_path / "mine.png").write_text("mine")
    (run.figures / ".written").write_text("../../mine.png\n..\n.\n\n" + str(tmp_path / "mine.png") + "\n")
    RunDirectory.create(run.path, force=True)
    assert (tmp_path / "mine.png").read_text() == "mine"
    assert (run.figures / "grid.png").exists()


@pytest.mark.parametrize(
    "files",
    [
        ("thesis.tex",),
        ("config.toml", "figures/plot.png"),
        ("model.safetensors", "config.json"),
        ("checkpoints/mine.pt",),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_a_directory_that_is_not_a_run_is_never_touched(tmp_path, files, force):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    assert "not a run" in message(RunDirectory.create, tmp_path, force=force)
    assert "not a run" in message(RunDirectory.create, tmp_path / files[0], force=force)
    assert all((tmp_path / name).read_text() == "mine" for name in files)


def test_a_missing_run_is_answered_with_the_nearest(tmp_path):
    for name in ("first", "mmvae-plus"):
        RunDirectory.create(tmp_path / name).write_text("config.toml", "")
    assert "did you mean 'mmvae-plus'?" in message(RunDirectory.open, tmp_path / "mmvae_plus")
    assert "known: first, mmvae-plus" in message(RunDirectory.open, tmp_path / "zzz")
    assert "known: none" in message(RunDirectory.open, tmp_path / "no" / "such")
    (tmp_path / "other").mkdir()
    assert "not a run" in message(RunDirectory.open, tmp_path / "other")
    assert RunDirectory.open(tmp_path / "first").config.read_text() == ""


def test_history_survives_a_torn_line_and_is_cut_back_to_a_step(tmp_path, caplog):
    run = RunDirectory.create(tmp_path / "run")
    assert run.read_history() == []
    records = [{"step": step, "bound": -0.1 * step} for step in range(1, 6)]
    for record in records:
        run.append_history(record)
    run.history.write_bytes(run.history.read_bytes()[:-4])  # the last line is torn, as by kill -9
    with caplog.at_level(logging.WARNING, "polyvae"):
        assert run.read_history() == records[:4]
    assert "line 5 is torn" in caplog.text
    run.append_history({"note": "resumed"})
    assert run.read_history() == [*records[:4], {"note": "resumed"}]
    run.cut_history(2)
    assert run.read_history() == [*records[:2], {"note": "resumed"}]
    assert run.history.read_bytes().count(b"\n") == 3


def test_json_of_a_run_comes_back(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.write_json("evaluation.json", {"conditional_coherence": 0.1 + 0.2})
    assert run.read_json("evaluation.json") == {"conditional_coherence": 0.30000000000000004}
    assert "JSON cannot hold" in message(run.write_json, "evaluation.json", {"x": {1}})
    assert "No such file" in message(run.read_json, "other.json")
    run.evaluation.write_text("{")
    assert "not JSON" in message(run.read_json, "evaluation.json")

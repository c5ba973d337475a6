"""Progress: one moving line on a terminal, a few lines elsewhere."""

from __future__ import annotations

import itertools
from functools import partial
from types import SimpleNamespace

import pytest
from rich.console import Console

from polyvae.utils.progress import Shown, reporter


def test_a_pipe_gets_a_line_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A minute of one step each second: lines after 1, 2, 3, 5, 8, 12, ... seconds, and at last every ten."""
    clock = itertools.count()
    monkeypatch.setattr("polyvae.utils.progress.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    with reporter(True) as report:
        report.start("training vae", 60)
        for _ in range(60):
            report.advance(1, "unexplained variance 0.300")
    lines = capsys.readouterr().err.splitlines()
    assert [int(line.split()[2]) for line in lines] == [1, 2, 3, 5, 8, 12, 18, 27, 37, 47, 57]
    assert lines[0] == "training vae: 1 of 60, 59 s left unexplained variance 0.300"


def test_a_terminal_has_one_line_for_all_stages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("polyvae.utils.progress.Console", partial(Console, force_terminal=True, width=120))
    with Shown() as report:
        for stage in ("vae", "linear vae"):
            report.start(f"training {stage}", 10)
            report.advance(10, "unexplained variance 0.300")
        assert [task.description for task in report.bar.tasks] == ["training linear vae"]
        assert report.bar.tasks[0].completed == 10
    assert capsys.readouterr().err.count("\n") <= 1

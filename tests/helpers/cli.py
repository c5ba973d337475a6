"""The command line in this process, on data small enough for a step or two, with judges that are trained briefly."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from polyvae.cli import main
from polyvae.metrics.judge_training import Recipe

# Three of five modalities, and 1,000 of 10,000 tuples.
SMALL = [
    word
    for change in (
        'data.only=["m0", "m1", "m2"]',
        "data.options.train=1000",
        "data.options.test=200",
        "train.batch_size=500",
        "train.threads=1",
        "train.device=cpu",
    )
    for word in ("--set", change)
]
# Enough to read 19 in 20 of the digits of ``SMALL``.
BRIEF = {"least": 200, "most": 200, "width": 16, "batch_size": 32}


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def polyvae(*words: str | Path, cwd: Path | None = None) -> Done:
    """The command line in this process: to start Python for every call would take most of the time."""
    out, err = io.StringIO(), io.StringIO()
    here = Path.cwd()
    os.chdir(cwd or here)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as end,
        ):
            main([str(word) for word in words])
    finally:
        os.chdir(here)
    return Done(int(end.value.code or 0), out.getvalue(), err.getvalue())


def train_judges_briefly(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Judges take ``BRIEF`` for their recipe, and a cache of their own."""
    patch.setattr(Recipe.__new__, "__defaults__", tuple((Recipe._field_defaults | BRIEF).values()))
    patch.setenv("POLYVAE_CACHE", str(cache))

"""Forged bundles and damaged runs end in one line, soon, and with little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.forged import BYTES, SECONDS, a_run

ROOT = Path(__file__).parents[2]


def outcomes(kind: str, count: int) -> tuple[list[dict], int]:
    """The cases of bundles, or of copies of a run, and the peak memory of the process that tried them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.forged", kind, str(count)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]} {done.stderr[-2000:]}"
    *cases, last = map(json.loads, done.stdout.splitlines())
    return cases, last["peak"]


@pytest.mark.parametrize("kind", ["bundles", "runs"])
@pytest.mark.parametrize("count", [24, pytest.param(0, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_forged_and_damaged_files_end_in_one_line(kind, count, tmp_path):
    if kind == "runs":
        a_run(tmp_path / "sound")
        kind = str(tmp_path / "sound")
    cases, peak = outcomes(kind, count)
    assert len(cases) >= (count or 150)
    wrong = [case for case in cases if case["kind"] not in ("refused", "loaded")]
    assert not wrong, "\n".join(f"{case['kind']}: {case['case']}: {case['line']}" for case in wrong)
    assert sum(case["kind"] == "refused" for case in cases) > 0.6 * len(cases)
    assert max(case["seconds"] for case in cases) < SECONDS
    assert max(case["more"] for case in cases) < BYTES / 2
    assert peak < (1.0 if count else 1.5) * BYTES  # some 2,000 commands in one process

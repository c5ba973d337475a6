"""What metrics take of memory hardly depends on the number of samples."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is read from /proc")
def test_metrics_take_little_memory_for_many_samples():
    """Ten times as many samples may take 0.5 kB more for each: coherence keeps its answers for intervals."""
    few, many = 2_000, 20_000
    names = ["coherence", "reconstruction", "latents", "matching", "diagnosis"]
    found = {rows: measured(rows, names) for rows in (few, many)}
    for name in names:
        assert found[many][name] < found[few][name] + 64 + 0.5e-3 * (many - few), found


def measured(rows: int, names: list[str]) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.helpers.evaluated", str(rows), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["metric"]: line["memory"] for line in lines}

"""Data that are larger than memory: bounds on the anonymous memory of processes, and speed beside data in memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is read from /proc")


def run(kind, rows, features, folder):
    command = [sys.executable, "-m", "tests.helpers.bounded", kind, str(rows), str(features), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_training_on_a_file_takes_less_memory_than_its_size(tmp_path):
    found = run("file", 40_000, 2048, tmp_path)  # 328 MB; what is taken does not depend on the number of rows
    assert found["memory"] < 3 * found["limit"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_file_is_read_nearly_as_fast_as_memory(tmp_path):
    times = {"file": [], "memory": []}
    for _ in range(3):
        for kind, own in times.items():
            own.append(run(kind, 900_000, 1000, tmp_path)["epoch_s"])
    print(times)
    assert statistics.median(times["memory"]) >= 0.8 * statistics.median(times["file"])


@pytest.mark.parametrize(
    ("rows", "features"),
    [(1000, 2000), pytest.param(200_000, 20_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])],
)
def test_wide_counts_take_less_than_two_gigabytes(tmp_path, rows, features):
    found = run("counts", rows, features, tmp_path)
    print(found)
    bound = 300 if features == 2000 else 2000
    assert all(value < bound for name, value in found.items() if name != "epoch_s"), found

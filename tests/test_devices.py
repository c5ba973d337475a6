"""The tests of tests/devices, on a made-up device, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "which", ["not slow and not soak", pytest.param("slow", marks=pytest.mark.slow)], ids=["fast", "slow"]
)
def test_on_a_made_up_device(which: str) -> None:
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", which, str(HERE / "devices")]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=HERE.parent,
        env={**os.environ, "POLYVAE_FAKE_DEVICE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout or "[100%]" in done.stdout

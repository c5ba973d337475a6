"""Worker processes, and the separate environment of MultiVae."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.works import Work

ROOT = Path(__file__).parents[1]
MULTIVAE = "1.0.3"


class Died(RuntimeError):
    """A worker ended before it answered, most likely because memory ran out."""


class Process:
    """A worker process: ``ask("step")`` sends one command and waits for the answer."""

    def __init__(
        self, contender: str, work: Work, *, threads: int, device: str = "cpu", **options: Any
    ) -> None:
        self.contender = contender
        given = {"contender": contender, "work": work._asdict(), "device": device, **options}
        python = multivae_python() if contender.startswith("multivae") else Path(sys.executable)
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "PYTHONPATH": str(ROOT),
        }
        if not contender.startswith("multivae"):
            environment["PYTHONPATH"] += os.pathsep + str(ROOT / "src")
        self.popen = subprocess.Popen(
            [str(python), "-W", "ignore", "-m", "benchmarks.worker", json.dumps(given)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """The answer to one command. Raises Died if the process ended."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        try:
            print(json.dumps({"do": do, **options}), file=self.popen.stdin, flush=True)
            line = self.popen.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Died(
                f"{self.contender} ended with {self.popen.wait()} on the command {do!r}; its output is above"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        try:
            self.popen.wait(20)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


def multivae_python() -> Path:
    """The interpreter of MultiVae's environment, which is created on first use with the versions in ``constraints.txt``."""
    home = ROOT / "benchmarks" / ".envs" / "multivae"
    python, done = home / "bin" / "python", home / f".installed-{MULTIVAE}"
    if not done.exists():
        print(
            f"creating an environment for MultiVae {MULTIVAE} in {home.relative_to(ROOT)} (once, minutes)",
            flush=True,
        )
        venv.create(home, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, "torch"], check=True)
        subprocess.run([*pip, f"multivae=={MULTIVAE}"], check=True)
        done.touch()
    return python


def available() -> float:
    """MB of available memory."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return float("inf")
    return next(
        float(line.split()[1]) * 1024 / 1e6
        for line in path.read_text().splitlines()
        if line.startswith("MemAvailable:")
    )


def make_room(workers: Mapping[str, Process], megabytes: float) -> bool:
    """If less than this is available, have the workers release unused memory. Returns whether they were asked to."""
    if available() > megabytes:
        return False
    for worker in workers.values():
        worker.ask("trim")
    return True

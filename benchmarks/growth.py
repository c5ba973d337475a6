"""How time grows with what it can grow with, beside the expected law: python -m benchmarks.growth [NAME ...] [--out FILE] [--figure FILE].

Processor seconds of one thread, medians, and wall seconds for processes and workers; each curve is relative to its first point.
The model of steps is mmvae+: each of its M posteriors decodes all M modalities, K times each, so a step is expected to grow as M², K, the
batch, the features, and the squared share of what is observed.
A law is an upper bound: fixed costs of a step make small cases dearer than it, so that curves lie below it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch

import polyvae as pv
from benchmarks.bench import tidy

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

RESULTS = Path(__file__).parent / "results" / "cpu.json"
ROOT = Path(__file__).parent.parent
FIGURE = ROOT / "docs" / "growth.png"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SLACK = 1.25
"""From one value to the next, a ratio above SLACK times that of the law is growth faster than the law."""


class Curve(NamedTuple):
    """One quantity that is varied.

    Attributes:
        title: What it is.
        values: The values, increasing.
        seconds: Processor or wall seconds for a value.
        law: What they are expected to be proportional to, at most.
        formula: The law in words.
    """

    title: str
    values: tuple[float, ...]
    seconds: Callable[[Any], float]
    law: Callable[[float], float]
    formula: str


def step(
    modalities: int = 3, K: int = 1, batch: int = 128, missing: float = 0.0, features: int = 400
) -> float:
    """A step of training: forward, backward and Adam."""
    torch.manual_seed(0)
    names = [f"m{number}" for number in range(modalities)]
    specs = [pv.Modality(name, (features,), private=4) for name in names]
    model = pv.build("mmvae+", specs, latent=8, K=K).train()
    optimiser = torch.optim.Adam(model.parameters())
    mask = torch.rand(modalities, batch) >= missing
    mask[torch.arange(batch) % modalities, torch.arange(batch)] = True
    given = pv.Batch.of({name: torch.randn(batch, features) for name in names}, mask)

    def once() -> None:
        optimiser.zero_grad()
        (-model(given).value.mean()).backward()
        optimiser.step()

    return _median(once)


def epoch(rows: float) -> float:
    """``fit`` for one epoch, checks and digests of the data included."""
    rng = np.random.default_rng(0)
    data = pv.MultimodalData({name: rng.normal(size=(int(rows), 10)).astype(np.float32) for name in "ab"})
    model = pv.build("mopoe", data.modalities(), latent=2)
    start = time.process_time()
    pv.fit(model, data, epochs=1, batch_size=1024, show=False, device="cpu", precision="fp32")
    return time.process_time() - start


def embedding(rows: float) -> float:
    """``pv.embed`` of these rows."""
    rng = np.random.default_rng(0)
    data = pv.MultimodalData({name: rng.normal(size=(int(rows), 10)).astype(np.float32) for name in "ab"})
    model = pv.build("mopoe", data.modalities(), latent=2).eval()
    start = time.process_time()
    pv.embed(model, data, show=False)
    return time.process_time() - start


def generation(K: int) -> float:
    """``pv.generate`` with K draws of 2,000 samples."""
    torch.manual_seed(0)
    data = pv.MultimodalData({name: torch.randn(2000, 100) for name in "ab"})
    model = pv.build("mmvae+", data.modalities(private=4), latent=8).eval()
    start = time.process_time()
    pv.generate(model, data, K=int(K), show=False)
    return time.process_time() - start


TRAINING = """
import json, sys
import numpy as np
import polyvae as pv

if __name__ == "__main__":
    devices = int(sys.argv[1])
    rng = np.random.default_rng(0)
    data = pv.MultimodalData({name: rng.normal(size=(40_000, 400)).astype(np.float32) for name in "ab"})
    model = pv.build("mopoe", data.modalities(), latent=8)
    settings = {"device": "cpu", "precision": "fp32", "show": False, "validation": 0, "threads": 1}
    history = pv.fit(model, data, epochs=8, batch_size=4096 // devices, devices=devices, **settings)
    seconds = [record["seconds"] for record in history.records]
    print(json.dumps(sorted(b - a for a, b in zip(seconds, seconds[1:]))[3]))
"""
STUDY = """
[study]
title = "Growth"
seeds = [0, 1, 2, 3, 4, 5, 6, 7]
epochs = 8
columns = ["log_likelihood"]

[base]
data.options = {train = 4000, test = 20}
train = {batch_size = 128, validation = 0.0, precision = "fp32"}
evaluate = {metrics = ["likelihood"], likelihood_samples = 20, likelihood_rows = 5}
model.latent = 3

[[contender]]
label = "MoPoE"
model.name = "mopoe"
"""


def processes(devices: int) -> float:
    """An epoch of fit by so many processes of one thread each, with the same number of rows in a step; their start is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "training.py"
        script.write_text(TRAINING)
        return float(_output([str(script), str(int(devices))]).split()[-1])


def workers(jobs: int) -> float:
    """A study of eight cells by so many workers of Ray on this machine, from its start to its tables."""
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "growth.toml"
        study.write_text(STUDY)
        start = time.monotonic()
        _output(
            [
                "-m",
                "polyvae",
                "study",
                str(study),
                "--out",
                folder + "/out",
                "--jobs",
                str(int(jobs)),
                "--ray",
                "local",
                "-q",
            ]
        )
        return time.monotonic() - start


def _output(arguments: list[str]) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


CURVES = {
    "modalities": Curve(
        "modalities M", (2, 4, 6, 8, 10), lambda n: step(modalities=n), lambda n: n * n, "M²"
    ),
    "K": Curve("draws K", (1, 5, 10, 20, 50), lambda n: step(K=n), lambda n: n, "K"),
    "batch": Curve("batch", (32, 128, 512, 1024), lambda n: step(batch=n), lambda n: n, "batch"),
    "missing": Curve(
        "observed share 1 − q",
        (0.2, 0.4, 0.6, 0.8, 1.0),
        lambda share: step(modalities=5, batch=512, missing=1 - share),
        lambda share: _observed(share, 5) / _observed(0.2, 5),
        "E[n²], n observed of 5",
    ),
    "features": Curve("features", (100, 1000, 10_000, 100_000), lambda n: step(features=n), lambda n: n, "F"),
    "rows": Curve("rows, an epoch of fit", (1e3, 1e4, 1e5, 1e6), epoch, lambda n: n, "N"),
    "embedding": Curve("rows, pv.embed", (1e3, 1e4, 1e5, 1e6), embedding, lambda n: n, "N"),
    "generation": Curve("draws K, pv.generate", (1, 5, 10, 50), generation, lambda n: n, "K"),
    "processes": Curve(
        "processes P, an epoch of fit",
        (1, 2),
        processes,
        lambda n: 1 / min(n, CORES),
        f"1 / min(P, {CORES} cores)",
    ),
    "workers": Curve(
        "Ray workers W, a study",
        (1, 2, 4),
        workers,
        lambda n: 1 / min(n, CORES),
        f"1 / min(W, {CORES} cores)",
    ),
}


def _observed(share: float, modalities: int) -> float:
    """E[n²] of the number n of observed modalities, of which one always is."""
    rest = modalities - 1
    return 1 + 2 * rest * share + rest * share * (1 - share) + (rest * share) ** 2


def _median(once: Callable[[], None], times: int = 5) -> float:
    once()
    once()
    found = []
    for _ in range(times):
        start, count = time.process_time(), 0
        while not count or time.process_time() - start < 0.05:
            once()
            count += 1
        found.append((time.process_time() - start) / count)
    return statistics.median(found)


def measure(names: list[str]) -> dict[str, Any]:
    """Name -> values, seconds, the ratios to the first point, and those of the law."""
    torch.set_num_threads(1)
    found = {}
    for name in names:
        curve = CURVES[name]
        seconds = [curve.seconds(value) for value in curve.values]
        ratio = [each / seconds[0] for each in seconds]
        law = [curve.law(value) / curve.law(curve.values[0]) for value in curve.values]
        found[name] = {
            "title": curve.title,
            "formula": curve.formula,
            "values": list(curve.values),
            "seconds": seconds,
            "ratio": ratio,
            "law": law,
            # From each point to the next, because the fixed costs of the first would hide growth.
            "within": all(
                later / earlier <= SLACK * law[at + 1] / law[at]
                for at, (earlier, later) in enumerate(pairwise(seconds))
            ),
        }
        print(
            name,
            [f"{value:.3g}" for value in seconds],
            [f"{a:.2f}/{b:.2f}" for a, b in zip(ratio, law, strict=True)],
            flush=True,
        )
    return found


def draw(found: dict[str, Any], path: Path) -> None:
    """One panel for each curve: measured ratios and the law, on logarithmic axes."""
    columns = 4
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3 * columns, 2.6 * rows), squeeze=False)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for axis, one in zip(axes.flat, found.values(), strict=False):
        axis.plot(one["values"], one["law"], color="0.6", linestyle="--", label=f"law: {one['formula']}")
        axis.plot(one["values"], one["ratio"], marker="o", markersize=3.5, label="measured")
        axis.set(xscale="log", yscale="log", xlabel=one["title"], ylabel="time / first")
        axis.set_xticks(one["values"], [f"{value:g}".replace("e+0", "e") for value in one["values"]])
        axis.xaxis.set_minor_locator(NullLocator())
        falls = one["law"][-1] < 1
        if falls:
            axis.set(yscale="linear", ylim=(0, 1.1))
        else:
            axis.yaxis.set_major_locator(LogLocator(10, (1, 3)))
            axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.legend(fontsize=7, frameon=False, loc="lower left" if falls else "upper left")
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *CURVES])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    given = parser.parse_args()
    results = json.loads(given.out.read_text()) if given.out.exists() else {}
    found = {**results.get("growth", {}), **measure(list(given.names or CURVES))}
    found = {name: found[name] for name in CURVES if name in found}
    given.out.write_text(tidy({**results, "growth": found}))
    draw(found, given.figure)
    faster = [name for name, one in found.items() if not one["within"]]
    print("faster than the law:", ", ".join(faster) or "nothing")


if __name__ == "__main__":
    main()

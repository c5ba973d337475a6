"""Imputation of hidden modalities: simple methods, MOFA and polyvae's Estimator by one protocol.

    python -m benchmarks.imputation --data mfeat --missing 0 0.3 0.5
    python -m benchmarks.imputation --data nutrimouse --methods mean,ridge,stack --out runs/imputation.json

Every modality is hidden in turn in the test rows of each fold and predicted from all others. FVU is squared error over squared deviation
from the mean of the training rows, of standardised columns; the mean over modalities, then over folds, is printed with paired
differences. --intervals adds coverage and width of 90 % intervals per pattern of observed modalities, --probes accuracies of a linear
probe. The folder of the data is POLYVAE_DATA. --out FILE writes the measurements as JSON, and the page next to it, as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.imputation.calibration import calibrate
from benchmarks.imputation.methods import METHODS
from benchmarks.imputation.page import page
from benchmarks.imputation.probes import probe
from benchmarks.imputation.protocol import measure
from benchmarks.imputation.tables import FILES, load


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    methods = given.methods.split(",")
    for name in methods:
        if name not in METHODS:
            raise SystemExit(f"--methods: {name!r} is not one of {', '.join(METHODS)}")
    results: dict[str, Any] = {"conditions": conditions(given), "errors": [], "intervals": [], "probes": []}
    for data in FILES if given.data == "all" else [given.data]:
        table = load(data)
        for rate in given.missing:
            results["errors"] += measure(table, methods, given.folds, rate, given.seed, say)
            if given.intervals:
                both = [name for name in ("ridge", "stack") if name in methods]
                results["intervals"] += calibrate(table, both, given.folds, rate, given.seed, say)
            if given.probes:
                results["probes"] += probe(table, given.folds, rate, given.seed, say)
            if given.out:  # after every part, so that what was measured is not lost
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(results, indent=1))
                given.out.with_suffix(".md").write_text(page(results))
    print(page(results))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.imputation", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--data", choices=[*FILES, "all"], default="mfeat")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"of {','.join(METHODS)}")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument(
        "--missing", type=float, nargs="+", default=[0.0], help="rates of hidden training modalities"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the folds and of what is hidden")
    parser.add_argument(
        "--intervals", action="store_true", help="also coverage and width, for ridge and stack"
    )
    parser.add_argument("--probes", action="store_true", help="also linear probes of the embedding")
    parser.add_argument("--out", type=Path, help="a JSON file")
    return parser


def conditions(given: argparse.Namespace) -> dict[str, Any]:
    return {
        "folds": given.folds,
        "seed": given.seed,
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        **{name: metadata.version(name) for name in ("torch", "scikit-learn")},
    }


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

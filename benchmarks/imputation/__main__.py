"""Imputation of hidden modalities: simple methods, MOFA and polyvae's Estimator by one protocol.

    python -m benchmarks.imputation --data mfeat --missing 0 0.3 0.5
    python -m benchmarks.imputation --data nutrimouse --methods mean,ridge,stack --out runs/imputation.json

Every modality is hidden in turn in the test rows of each fold and predicted from all others. FVU is squared error over squared deviation
from the mean of the training rows, of standardised columns; the mean over modalities, then over folds, is printed with paired
differences. The folder of the data is POLYVAE_DATA. --out FILE writes the measurements as JSON, and the page next to it, as Markdown.

What is measured, by commands (--only 1 2 3 takes some of the folds, for a first look):

    errors, beside the simple methods            --data all --missing 0 0.3 0.5
    the same with MOFA (pip install mofapy2)     --data mfeat --methods mean,ridge,mofa,stack
    incomplete samples kept against dropped      --data mfeat --missing 0.3 0.5 --methods ridge,ridge-complete,stack,stack-complete
    coverage and width of 90 % intervals, of     --data mfeat --methods none --intervals --missing 0 0.3
      every modality and pattern
    accuracies of linear probes                  --data mfeat --methods none --probes
    seconds of Estimator.fit on all samples      --data all --methods none --time
    peak memory: 100,000 rows of 6 tables from   --methods none --memory --rows 100000
      files to files and in memory, and a fit of
      a sparse matrix of 20,000 x 10,000 counts
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.imputation.calibration import calibrate
from benchmarks.imputation.memory import measure as measure_memory
from benchmarks.imputation.methods import METHODS
from benchmarks.imputation.page import page
from benchmarks.imputation.probes import probe
from benchmarks.imputation.protocol import Folds, fit_time, measure
from benchmarks.imputation.tables import FILES, load

MEASURES = ("stream", "whole", "sparse")


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    methods = [] if given.methods == "none" else given.methods.split(",")
    if given.only and not all(1 <= number <= given.folds for number in given.only):
        raise SystemExit(f"--only: {given.only} are not all from 1 to {given.folds}, the number of folds")
    for name in methods:
        if name not in METHODS:
            raise SystemExit(f"--methods: {name!r} is not one of {', '.join(METHODS)}")
    results: dict[str, Any] = {
        "conditions": conditions(given), "errors": [], "intervals": [], "probes": [], "times": [], "memory": []
    }  # fmt: skip
    for data in FILES if given.data == "all" else [given.data]:
        if not methods and not (given.intervals or given.probes or given.time):
            break
        table = load(data)
        for rate in given.missing:
            folds = Folds(given.folds, rate, given.seed, tuple(given.only or ()))
            if methods:
                results["errors"] += measure(table, methods, folds, say)
            if given.intervals:
                both = [name for name in ("ridge", "stack") if name in (methods or METHODS)]
                results["intervals"] += calibrate(table, both, folds, say)
            if given.probes:
                results["probes"] += probe(table, folds, say)
            if given.time:
                results["times"] += fit_time(table, folds, say)
            store(results, given.out)
    if given.memory:
        for what in MEASURES:
            results["memory"] += [measure_memory(what, given.rows, Path(tempfile.gettempdir()))]
            say(f"memory: {results['memory'][-1]}")
            store(results, given.out)
    print(page(results))


def store(results: dict[str, Any], out: Path | None) -> None:
    """After every part, so that what was measured is not lost."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1))
        out.with_suffix(".md").write_text(page(results))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.imputation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", choices=[*FILES, "all"], default="mfeat")
    parser.add_argument(
        "--methods", default=",".join(METHODS), help=f"of {','.join(METHODS)}; or none, for the options below"
    )
    parser.add_argument("--folds", type=int, default=5, help="the number of folds")
    parser.add_argument("--only", type=int, nargs="+", metavar="FOLD", help="only these folds, of 1, 2, ...")
    parser.add_argument(
        "--missing", type=float, nargs="+", default=[0.0], help="rates of hidden training modalities"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the folds and of what is hidden")
    parser.add_argument(
        "--intervals", action="store_true", help="also coverage and width, for ridge and stack"
    )
    parser.add_argument("--probes", action="store_true", help="also linear probes of the embedding")
    parser.add_argument("--time", action="store_true", help="also seconds of Estimator.fit on all samples")
    parser.add_argument("--memory", action="store_true", help="also peak memory, whatever the data")
    parser.add_argument("--rows", type=int, default=100_000, help="of the 6 tables of 20 columns of --memory")
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

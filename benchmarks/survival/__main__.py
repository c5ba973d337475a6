"""Time to death in miniACC: polyvae's Estimator beside Cox models on the clinical columns and on principal components.

    python -m benchmarks.survival --repeats 2 --out runs/survival.json

Every method gets the same folds, drawn with the same share of deaths in each. The C-index is that of the log relative hazards of all
test samples of a repeat; the mean over repeats is printed, its 95 % interval by the infinitesimal jackknife, and the difference to the
Estimator with an interval from 1,000 bootstrap samples of patients. The folder of the data is POLYVAE_DATA. Imputation of the same
tables, and the coverage of its intervals:

    python -m benchmarks.imputation --data acc --methods mean,knn,ridge,stack --intervals
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.survival.cohort import CLINICAL, Cohort, load
from polyvae.imputation.estimator import Estimator
from polyvae.imputation.methods.simple import components
from polyvae.imputation.targets.cox import Partial, Survival, concordance, cox
from polyvae.imputation.targets.risk import cox_ridge, folds

Array = NDArray[np.float64]
Tables = Mapping[str, Array]
Method = Callable[[Tables, Survival, Tables], Mapping[str, Array]]
BOOTSTRAPS = 1000
FEW = 10  # principal components of the Cox regression without a choice of penalty among many


def plain(train: Tables, times: Survival, test: Tables) -> Mapping[str, Array]:
    """Cox regressions of columns with means filled in: of the clinical ones without a penalty, and by ridge; of all columns by ridge."""
    scaled, new = {}, {}
    for name, x in train.items():
        mean, std = np.nanmean(x, 0), np.nanstd(x, 0)
        std = np.where(std > 0, std, 1)
        scaled[name], new[name] = (np.nan_to_num((part - mean) / std) for part in (x, test[name]))
    repeats = folds(times, 0)

    def ridge(x: Array, y: Array) -> Array:
        return cox_ridge(x.astype(np.float32), times, repeats)[0].of(y.astype(np.float32))

    every, other = (np.concatenate(list(part.values()), 1) for part in (scaled, new))
    omics, others = (
        np.concatenate([x for name, x in part.items() if name != CLINICAL], 1) for part in (scaled, new)
    )
    pca = components(every, FEW)
    beta = cox(scaled[CLINICAL], Partial(times), 1e-6)
    return {
        "Cox, clinical columns": new[CLINICAL] @ beta,
        "Cox ridge, clinical columns": ridge(scaled[CLINICAL], new[CLINICAL]),
        f"Cox ridge, {FEW} principal components": ridge(pca.transform(every), pca.transform(other)),
        "Cox ridge, principal components": ridge(every, other),
        "Cox ridge, principal components of omics": ridge(omics, others),
    }


def estimator(train: Tables, times: Survival, test: Tables) -> Mapping[str, Array]:
    """``pv.Estimator(seed=0)`` with its defaults, and each of its regressions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        y = np.stack([times.time, times.event], 1)
        fitted = Estimator(seed=0, target="time", id=False).fit(dict(train), y)
    found = {"Estimator": np.asarray(fitted.predict(dict(test)))}
    own = fitted.risk_scores_.value("(target)", "stack", "c_index")
    print(
        f"held-out C-index in training: {own:.3f}; weights: {rounded(fitted._hazards.weights)}",
        file=sys.stderr,
    )
    return found


def rounded(weights: Mapping[str, float]) -> dict[str, float]:
    return {name: round(w, 2) for name, w in weights.items() if w > 0.005}


def measure(cohort: Cohort, repeats: int, out: Path | None) -> list[dict[str, Any]]:
    """One entry per repeat and method: the log relative hazards of all samples, each by the fit that left it out."""
    entries: list[dict[str, Any]] = []
    n = len(cohort.times.time)
    for repeat in range(repeats):
        fold, risks = folds(cohort.times, 1000 + repeat)[0], {}
        for k in np.unique(fold):
            rows, left = fold != k, fold == k
            train = {name: x[rows] for name, x in cohort.tables.items()}
            test = {name: x[left] for name, x in cohort.tables.items()}
            start = time.perf_counter()
            for method in (plain, estimator):
                for name, risk in method(train, cohort.times.rows(rows), test).items():
                    risks.setdefault(name, np.full(n, np.nan))[left] = risk
            seconds = time.perf_counter() - start
            print(f"repeat {repeat + 1}, fold {k + 1}: {seconds:.0f} s", file=sys.stderr, flush=True)
        entries += [
            {"repeat": repeat, "method": name, "risk": [round(float(x), 5) for x in risk]}
            for name, risk in risks.items()
        ]
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(entries))
    return entries


def page(entries: list[dict[str, Any]], times: Survival) -> str:
    """A table in Markdown: C-index, interval, and the difference to the Estimator."""
    risks: dict[str, list[Array]] = {}
    for entry in entries:
        risks.setdefault(entry["method"], []).append(np.array(entry["risk"]))
    rng, n = np.random.default_rng(0), len(times.time)
    draws = [rng.integers(n, size=n) for _ in range(BOOTSTRAPS)]

    def mean(name: str, rows: NDArray[np.intp]) -> float:
        return float(np.mean([concordance(times.rows(rows), risk[rows]).value for risk in risks[name]]))

    lines = [
        "| method | C-index | 95 % interval | sd over repeats | Estimator − method | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    drawn = {name: np.array([mean(name, rows) for rows in draws]) for name in risks}
    for name, given in risks.items():
        found = [concordance(times, risk) for risk in given]
        value = float(np.mean([each.value for each in found]))
        ends = np.mean([each.interval() for each in found], 0)
        ahead = mean("Estimator", np.arange(n)) - value
        low, high = np.quantile(drawn["Estimator"] - drawn[name], [0.025, 0.975])
        spread = float(np.std([each.value for each in found]))
        lines.append(
            f"| {name} | {value:.3f} | {ends[0]:.3f} to {ends[1]:.3f} | {spread:.3f} | {ahead:+.3f} | {low:+.3f} to {high:+.3f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.survival",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=2, help="of five folds")
    parser.add_argument("--out", type=Path, help="a JSON file of the hazards")
    given = parser.parse_args(arguments)
    cohort = load()
    events = cohort.times.events
    print(f"{len(cohort.times.time)} samples, {events} deaths, {given.repeats} repeats of 5 folds\n")
    print(page(measure(cohort, given.repeats, given.out), cohort.times))


if __name__ == "__main__":
    main()

"""docs/performance.md, made from the measurements.

python -m benchmarks.page [benchmarks/results/cpu.json] [-o docs/performance.md]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.summary import asked, overhead, passed, rows, seconds_in_words, sooner

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "cpu.json", ROOT / "docs" / "performance.md"

HOW = """\
Made by `python -m benchmarks.page` from the measurements in `benchmarks/results`; `make bench` measures. Do not edit.

A step is forward, backward and Adam (amsgrad, 1e-3, fused) on one random batch. Each contender lives in a process of its own and is told
"do one step" in turn (A B C A B C ...), one at a time, with the same number of threads; seconds are medians, the range stands beside them,
and ratios are within the one run. All have networks of the same sizes with the same initial parameters, and their first losses agree to
2 %. FLOPs are counted by torch on the step actually done (matrix products and convolutions, recomputation included); they stand beside a
2048 x 2048 matrix product of the same precision measured in the same rounds. Memory is the rise of the process's resident memory above its
level before the first step, at its highest in two steps, in a fresh process per contender that has done a toy step before.

With K = 10 polyvae goes backwards only through the samples whose normalised weight is more than a rounding (docs/design.md, "A gradient of
zero is not computed"). How many these are depends on the data: in (b) 11 to 16 % at the first steps; (c10) and (d10) go through all.

| contender | what it is |
|---|---|
| `polyvae` | the public API, fp32: `model(batch)`, loss, backward, step |
| `polyvae-bf16` | the same under bf16 autocast, as `fit(precision="bf16")` does it: densities in fp32 |
| `polyvae-rows` | fp32 with `max_rows`: decodes so many rows at a time and recomputes them in the backward pass |
| `multivae` | MultiVae 1.0.3 (no mixed precision in it), the networks written plainly in torch.nn |
| `multivae-nets` | MultiVae 1.0.3 around polyvae's network modules: what is left of the ratio is the library alone |
| `authors` | the authors' classes and objectives (epalu/mmvaeplus) around the plain networks; their "dreg" has IWAE's gradient |
"""


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)] + [""]


def _number(value: float | None, digits: int = 2, unit: str = "") -> str:
    return "–" if value is None else f"{value:.{digits}f}{unit}"


def _conditions(entry: Mapping[str, Any]) -> str:
    seen = entry["conditions"]
    return (
        f"{seen['date']}, commit {seen['commit']}, {seen['machine']}, torch {seen['torch']}, {seen['threads']} threads"
        f"{', toy sizes: these numbers mean nothing' if seen['quick'] else ''}."
    )


def _steps(entry: Mapping[str, Any]) -> list[str]:
    body = []
    for row in rows(entry):
        spread = (
            ""
            if row.lowest is None
            else f" ({seconds_in_words(row.lowest)} to {seconds_in_words(row.highest)})"
        )
        body.append(
            [
                f"`{row.contender}`",
                seconds_in_words(row.seconds) + spread,
                _number(row.times_faster, 2, "x"),
                _number(row.processor, 2, "x"),
                _number(row.gflop, 1 if (row.gflop or 0) < 100 else 0),
                _number(row.gflops_per_second, 0),
                _number(row.share_of_matmul),
                _number(row.megabytes, 0),
                _number(row.memory_share),
            ]
        )
    peaks = ", ".join(
        f"{precision} {median(found) / 1e9:.0f}" for precision, found in entry["matmul"].items() if found
    )
    count = max((len(one.get("seconds", [])) for one in entry["contenders"].values()), default=0)
    notes = [f"{count} rounds. Matrix product, GFLOP/s: {peaks}. {_conditions(entry)}"]
    state = max((one.get("state", 0) for one in entry["contenders"].values()), default=0)
    notes += [f"Of each peak, {state:.0f} MB are gradients and Adam's state."] if state else []
    notes += (
        [f"`max_rows` {entry['max_rows']}."] if any("rows" in name for name in entry["contenders"]) else []
    )
    notes += [f"Not measured: {name} ({why})." for name, why in entry.get("failed", {}).items()]
    return [
        *_table(
            [
                "contender",
                "median (range)",
                "times faster",
                "by processor seconds",
                "GFLOP a step",
                "GFLOP/s",
                "share of matmul",
                "peak MB",
                "share of MultiVae's",
            ],
            body,
        ),
        " ".join(notes),
        "",
    ]


def page(results: Mapping[str, Any]) -> str:
    """The whole page, Markdown."""
    lines = ["# Performance", "", HOW, "## What was asked", ""]
    lines += _table(
        ["", "floor", "target", "found", "met"],
        [
            [one.what, _number(one.floor), _number(one.target), _number(one.found), one.met]
            for one in asked(results)
        ],
    )
    lines += ["Times faster: larger is better; memory and overhead: smaller is better.", ""]
    for name, entry in results.get("works", {}).items():
        lines += [f"## ({name}) {entry['work']['says']}", "", *_steps(entry)]
    if results.get("likelihood"):
        lines += ["## Joint log-likelihood", ""]
        for name, entry in results["likelihood"].items():
            table = {row.contender: row for row in rows({"matmul": {}, **entry})}
            body = [
                [
                    f"`{who}`",
                    seconds_in_words(row.seconds),
                    _number(row.times_faster, 2, "x"),
                    _number(row.megabytes, 0),
                    _number(entry["contenders"][who]["value"], 1),
                ]
                for who, row in table.items()
            ]
            lines += [
                f"({name}), {entry['samples']} samples per datum, {entry['rows']} data. polyvae's proposal is defended and takes "
                "decoder rows in chunks; MultiVae takes datum by datum. Its `compute_joint_nll` leaves out the modality that it "
                "takes from the data to count the rows; here it is handed a spare entry to take, so both count all.",
                "",
                *_table(
                    ["contender", "per datum", "times faster", "peak MB", "nats per datum, before training"],
                    body,
                ),
                _conditions(entry),
                "",
            ]
    if results.get("overhead"):
        lines += [
            "## The loop of `fit`",
            "",
            "From one forward pass to the next, `fit` against the bare step, in turn in one process.",
            "",
        ]
        lines += _table(
            ["work", "bare step", "fit", "on top"],
            [
                [
                    f"({name})",
                    seconds_in_words(entry["seconds"]["bare"]),
                    seconds_in_words(entry["seconds"]["fit"]),
                    f"{100 * overhead(entry):.1f} %",
                ]
                for name, entry in results["overhead"].items()
            ],
        )
        lines += [*{_conditions(entry): None for entry in results["overhead"].values()}, ""]
    if results.get("coherence"):
        lines += _coherence(results["coherence"])
    return "\n".join(lines).rstrip() + "\n"


def _coherence(entry: Mapping[str, Any]) -> list[str]:
    body = []
    for name, curves in entry["curves"].items():
        times = ", ".join(_number(passed(curve), 0, " s") for curve in curves)
        steps = median(1000 * curve[-1][0] / curve[-1][1] for curve in curves if curve)
        last = ", ".join(f"{curve[-1][2]:.3f} after {curve[-1][0]:.0f} s" for curve in curves if curve)
        value, cut = sooner(entry, name)
        body.append(
            [f"`{name}`", times, "–" if value is None else f"{cut}{value:.2f}x", f"{steps:.0f} ms", last]
        )
    return [
        "## Time to conditional coherence .90 on polydigits",
        "",
        "MMVAE+, MLP 512-256, z 16 + w 16, normal posteriors, Laplace likelihood of scale 0.3, beta 1.5, batch 64, Adam (amsgrad) 2e-3 "
        f"constant; trained in turns of {entry['every']} s, judged after each by the same judges (their accuracy: "
        f"{', '.join(f'{value:.3f}' for value in entry['judges'].values())}) on {entry['rows']} held-out tuples; only training "
        "counts.",
        "",
        *_table(["contender", "seconds to .90, by seed", "times faster", "a step", "last"], body),
        _conditions(entry),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("-o", "--out", type=Path, default=PAGE)
    given = parser.parse_args()
    given.out.write_text(page(json.loads(given.results.read_text())))


if __name__ == "__main__":
    main()

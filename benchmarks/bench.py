"""Comparison with MultiVae and the authors' code: seconds per step, peak memory, FLOP/s; then likelihood, the loop, coherence.

    make bench                                        everything except --coherence; about an hour and a half on two idle cores
    python -m benchmarks.bench --quick                toy sizes, to check that everything runs
    python -m benchmarks.bench --work c,d --rounds 20 --parts steps,memory
    python -m benchmarks.bench --coherence            only time to conditional coherence .90 on polydigits; a quarter of an hour
    python -m benchmarks.bench --authors CHECKOUT     also the authors' repository

The measurements are written to benchmarks/results/{cpu,cuda}.json. A task that is measured again replaces its previous entry, memory and
steps together, so that one table is from one run. docs/performance.md is generated from this file. --out FOLDER writes both to
another folder, --quick to runs/benchmark.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.page import PAGE, RESULTS, ROOT, page
from benchmarks.processes import MULTIVAE, Died, Process, make_room
from benchmarks.summary import asked, overhead, rows, seconds_in_words
from benchmarks.works import DIGITS, WORKS, Work, chosen, tiny

CONTENDERS = ["polyvae", "polyvae-bf16", "polyvae-rows", "multivae", "multivae-nets"]
ROUNDS = {"a": 5, "b": 3, "c1": 40, "c10": 12, "d1": 40, "d10": 12}
PARTS = ["memory", "steps", "likelihood", "overhead"]
LIKELIHOOD = {"c1": 64, "a": 4}  # work -> data
AGREE = 0.02  # tolerance of the first losses: the same networks and data, other noise
_console = Console(highlight=False, soft_wrap=True)
_console.width = max(_console.width, 124)  # when the output is a file
say = _console.print


class Bench:
    """The measurements of one call; ``results`` is written to disk after every part."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        folder = given.out or (ROOT / "runs" / "benchmark" if given.quick else None)
        self.path = (folder or RESULTS.parent).resolve() / f"{given.device}.json"
        self.page = folder / f"{given.device}.md" if folder else PAGE
        self.results: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.contenders = given.contenders.split(",") + (["authors"] if given.authors else [])

    def process(self, name: str, work: Work, **options: Any) -> Process:
        if "rows" in name:
            options["max_rows"] = self.max_rows(work)
        if name == "authors":
            options["checkout"] = str(Path(self.given.authors).resolve())
        return Process(name, work, threads=self.given.threads, device=self.given.device, **options)

    def max_rows(self, work: Work) -> int:
        return self.given.max_rows or (work.batch if work.hidden else min(128, work.batch))

    def who(self, work: Work) -> list[str]:
        return [name for name in self.contenders if not (name == "authors" and work.hide)]

    def keep(self, section: str, key: str | None, entry: dict[str, Any]) -> None:
        entry["conditions"] = conditions(self.given)
        if key is None:
            self.results[section] = entry
        else:
            self.results.setdefault(section, {})[key] = entry
        if section == "works":
            self.results["works"] = {
                name: self.results["works"][name] for name in WORKS if name in self.results["works"]
            }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(tidy(self.results))
        self.page.parent.mkdir(parents=True, exist_ok=True)
        if self.page != PAGE or self.path == RESULTS:
            self.page.write_text(page(self.results))

    # ---- a step ----------------------------------------------------------------------------------------------------------------------

    def steps(self, work: Work) -> None:
        """Memory of each contender alone, then steps in turn."""
        entry = {
            "work": work._asdict(),
            "contenders": {name: {} for name in self.who(work)},
            "matmul": {"fp32": [], "bf16": []},
            "max_rows": self.max_rows(work),
            "failed": {},
        }
        if "memory" in self.given.parts:
            for name in self.who(work):
                self._alone(entry, name, work)
        if "steps" in self.given.parts:
            self._in_turn(entry, work)
        entry["contenders"] = {name: one for name, one in entry["contenders"].items() if one}
        self.keep("works", work.name, entry)
        say(steps_table(entry))

    def _alone(self, entry: dict[str, Any], name: str, work: Work) -> None:
        try:
            with self.process(name, work) as worker:
                entry["contenders"][name] |= worker.ask("memory")
            say(
                f"({work.name}) {name}: {entry['contenders'][name]['megabytes']:.0f} MB above the level before the first step"
            )
        except Died as problem:
            entry["failed"][name] = "its process ended"
            say(f"({work.name}) {problem}")

    def _in_turn(self, entry: dict[str, Any], work: Work) -> None:
        found, rounds = (
            entry["contenders"],
            self.given.rounds or (2 if self.given.quick else ROUNDS[work.name]),
        )
        with ExitStack() as stack:
            matmul = stack.enter_context(self.process("matmul", work))
            workers: dict[str, Process] = {}
            for name in self.who(work):
                if name not in entry["failed"]:
                    workers[name] = stack.enter_context(self.process(name, work))
            for name in list(workers):
                try:
                    found[name] |= {"seconds": [], "processor": []} | workers[name].ask("flops")
                except Died as problem:
                    entry["failed"][name] = "its process ended"
                    del workers[name]
                    say(f"({work.name}) {problem}")
            same_work(work, {name: found[name]["loss"] for name in workers})
            for number in range(rounds):
                for name, worker in workers.items():
                    make_room(workers, 1.2 * found[name].get("megabytes", 0))
                    answer = worker.ask("step")
                    for key in ("seconds", "processor"):
                        found[name][key].append(round(answer[key], 6))
                for precision, measured in entry["matmul"].items():
                    measured.append(round(matmul.ask("matmul", precision=precision)["flops_per_second"]))
                if found and (rounds <= 5 or number % 5 == 4):
                    latest = ", ".join(
                        f"{name} {seconds_in_words(found[name]['seconds'][-1])}" for name in workers
                    )
                    say(f"({work.name}) round {number + 1} of {rounds}: {latest}")

    # ---- other measurements ----------------------------------------------------------------------------------------------------------

    def likelihood(self, work: Work, data: int, samples: int) -> None:
        names = [name for name in self.who(work) if name in ("polyvae", "polyvae-bf16", "multivae")]
        found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in names}
        with ExitStack() as stack:
            workers = {name: stack.enter_context(self.process(name, work)) for name in names}
            for number in range(4):
                for name, worker in workers.items():
                    answer = worker.ask("likelihood", rows=data if number else 1, samples=samples)
                    if number:  # the first call, of one sample, warms up
                        found[name]["seconds"].append(answer["seconds"])
                        found[name] |= {
                            "value": answer["value"],
                            "megabytes": max(found[name].get("megabytes", 0), answer["megabytes"]),
                        }
        self.keep("likelihood", work.name, {"contenders": found, "samples": samples, "rows": data})
        say(
            f"joint likelihood ({work.name}): "
            + ", ".join(
                f"{row.contender} {seconds_in_words(row.seconds)} per sample ({row.times_faster or 0:.2f}x)"
                for row in rows({"contenders": found, "matmul": {}})
            )
        )

    def overhead(self, work: Work, steps: int, blocks: int) -> None:
        with self.process("polyvae", work) as worker:
            entry = worker.ask("overhead", steps=steps, blocks=blocks)
        self.keep("overhead", work.name, entry)
        say(f"({work.name}) overhead of the loop of fit: {100 * overhead(entry):.1f} % of the bare step")

    def coherence(self, seeds: int, every: float, limit: float) -> None:
        """Train in turns and evaluate after each, until all contenders have passed .90 or reached the time limit."""
        import polyvae as pv
        from polyvae.metrics import train_judges

        small = {"train": 400, "test": 100} if self.given.quick else {}
        data = pv.load_dataset("polydigits", **small)
        judges = train_judges(data)
        labels = data.test.labels
        names = [name for name in self.contenders if name in ("polyvae", "polyvae-bf16", "multivae")]
        curves: dict[str, list[list[list[float]]]] = {name: [] for name in names}
        for seed in range(seeds):
            with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
                for part, rows_of in (("train", data.train), ("test", data.test)):
                    batch = rows_of.take(range(len(rows_of)))
                    np.savez(
                        Path(folder) / f"{part}.npz",
                        **{  # type: ignore[arg-type]
                            name: (255 * x).round().byte().numpy() for name, x in batch.data.items()
                        },
                    )
                workers = {
                    name: stack.enter_context(self.process(name, DIGITS._replace(seed=seed), lr=2e-3))
                    for name in names
                }
                for name, worker in workers.items():
                    worker.ask("open", path=folder)
                    curves[name].append([])
                while workers:
                    for name, worker in list(workers.items()):
                        curve = curves[name][-1]
                        done = worker.ask("train", seconds=every)
                        worker.ask("generate", path=folder)
                        right = conditional(judges, labels, Path(folder), list(DIGITS.names))
                        before = curve[-1] if curve else [0.0, 0, 0.0]
                        curve.append([before[0] + done["seconds"], before[1] + done["steps"], right])
                        if right >= 0.9 or curve[-1][0] >= limit:
                            del workers[name]
                    say(
                        f"seed {seed}: "
                        + ", ".join(
                            f"{name} {curves[name][-1][-1][2]:.3f} after {curves[name][-1][-1][0]:.0f} s"
                            for name in names
                        )
                    )
        self.keep(
            "coherence",
            None,
            {"curves": curves, "every": every, "judges": judges.accuracy, "rows": len(data.test)},
        )


def tidy(results: dict[str, Any]) -> str:
    """JSON with every list of numbers on one line."""
    return (
        re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), json.dumps(results, indent=1))
        + "\n"
    )


def conditional(judges: Any, labels: Any, folder: Path, names: list[str]) -> float:
    """The share of generated images whose predicted label is that of the sample, over all pairs of different modalities."""
    shares = []
    for source in names:
        found = np.load(folder / f"{source}.npz")
        shares += [
            float(
                (judges.predict(name, torch.from_numpy(found[name])) == torch.as_tensor(labels))
                .float()
                .mean()
            )
            for name in names
            if name != source
        ]
    return sum(shares) / len(shares)


def same_work(work: Work, losses: dict[str, float]) -> None:
    """Check that contenders with the same networks and data start from the same loss. Raises SystemExit."""
    if not losses:
        return
    lowest, highest = min(losses.values()), max(losses.values())
    if not highest - lowest <= AGREE * abs(highest):
        raise SystemExit(f"({work.name}) the first losses are not of the same task: {losses}")


def steps_table(entry: dict[str, Any]) -> Table:
    table = Table(
        "contender",
        "seconds",
        "times faster",
        "by processor",
        "GFLOP",
        "GFLOP/s",
        "of matmul",
        "peak MB",
        "of MultiVae's",
        title=f"({entry['work']['name']}) {entry['work']['says']}",
    )
    for row in rows(entry):
        cells = (
            row.times_faster,
            row.processor,
            row.gflop,
            row.gflops_per_second,
            row.share_of_matmul,
            row.megabytes,
            row.memory_share,
        )
        digits = (2, 2, 1, 0, 2, 0, 2)
        table.add_row(
            row.contender,
            seconds_in_words(row.seconds),
            *("–" if value is None else f"{value:.{d}f}" for value, d in zip(cells, digits, strict=True)),
        )
    return table


def conditions(given: argparse.Namespace) -> dict[str, Any]:
    def git(*words: str) -> str:
        found = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return found.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    commit += " with changes" if git("status", "--porcelain", "--", "src") else ""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "machine": given.machine or machine(given.device),
        "torch": torch.__version__,
        "threads": given.threads,
        "multivae": MULTIVAE,
        "quick": given.quick,
        "load": round(os.getloadavg()[0], 2),
    }


def machine(device: str) -> str:
    """A description of the machine, without its name."""
    if device == "cuda":
        return f"one {torch.cuda.get_device_name()}"
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value}
    flags = [
        flag
        for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
        if flag in facts.get("flags", "").split()
    ]
    words = f"{os.cpu_count()} cores of an {facts.get('model name', platform.machine())}"
    return f"{words} ({flags[0]})" if flags else words


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", default="a,b,c,d", help="some of a, b, c, d (or c1, c10, d1, d10)")
    parser.add_argument(
        "--contenders",
        default=",".join(CONTENDERS),
        help=f"some of {', '.join(CONTENDERS)}, polyvae-bf16-rows",
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument(
        "--rounds", type=int, default=0, help="steps per contender; the default depends on the task"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--max-rows",
        type=int,
        default=0,
        help="for the contender polyvae-rows; by default the batch size, at most 128",
    )
    parser.add_argument("--authors", default="", help="a checkout of the authors' repository")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--machine", default="", help="a description of the machine, for the page")
    parser.add_argument(
        "--coherence", action="store_true", help="only time to conditional coherence .90 on polydigits"
    )
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds for --coherence")
    parser.add_argument(
        "--out", type=Path, default=None, help="a folder for JSON and page, instead of the committed ones"
    )
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    given = parser.parse_args()
    unknown = set(given.parts.split(",")) - set(PARTS)
    if unknown:
        raise SystemExit(f"bench: unknown part {unknown.pop()!r}; expected some of {', '.join(PARTS)}")
    bench, works = Bench(given), chosen(given.work)
    if given.coherence:
        bench.coherence(given.seeds, *((0.5, 1.0) if given.quick else (5.0, 300.0)))
    else:
        for work in works:
            sized = tiny(work) if given.quick else work
            if {"memory", "steps"} & set(given.parts.split(",")):
                bench.steps(sized)
            if "likelihood" in given.parts and work.name in LIKELIHOOD:
                bench.likelihood(
                    sized, 2 if given.quick else LIKELIHOOD[work.name], 50 if given.quick else 1000
                )
            if "overhead" in given.parts and work.name in ("a", "c1"):
                steps, blocks = (3, 1) if given.quick else (4, 2) if work.name == "a" else (40, 6)
                bench.overhead(sized, steps, blocks)
    for one in asked(bench.results):
        if one.found is not None:
            say(
                f"{one.met:>12}  {one.found:6.2f}  (floor {one.floor or '–'}, target {round(one.target or 0, 2) or '–'})  {one.what}"
            )
    say(f"results written to {bench.path}")


if __name__ == "__main__":
    main()

"""From measurements to tables: medians, ratios, shares. Nothing is measured here, so the page can be regenerated from the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

PEER = "multivae"
OURS = "polyvae"


class Row(NamedTuple):
    """One contender on one task. None: not measured.

    ``times_faster``, ``processor`` (the same for processor seconds, which depend less on other load on the machine) and ``memory_share``
    compare with MultiVae in the same run.
    """

    contender: str
    seconds: float | None
    lowest: float | None
    highest: float | None
    times_faster: float | None
    processor: float | None
    gflop: float | None
    gflops_per_second: float | None
    share_of_matmul: float | None
    megabytes: float | None
    memory_share: float | None


class Asked(NamedTuple):
    """A target for a measured number, and its value. ``at_least``: larger is better."""

    what: str
    floor: float | None
    target: float | None
    found: float | None
    at_least: bool

    @property
    def met(self) -> str:
        """ "target", "floor", "no" or "not measured"."""
        if self.found is None:
            return "not measured"
        for name, bar in (("target", self.target), ("floor", self.floor)):
            if bar is not None and (self.found >= bar if self.at_least else self.found <= bar):
                return name
        return "no"


# Targets for a step: (contender, task) -> (floor, target). Times faster than MultiVae.
FASTER = {
    ("polyvae", "a"): (1.1, 1.3),
    ("polyvae", "b"): (2.0, 2.8),
    ("polyvae", "c1"): (1.4, 1.7),
    ("polyvae", "c10"): (None, 1.5),
    ("polyvae", "d1"): (2.8, 3.2),
    ("polyvae", "d10"): (None, 5.0),
    ("polyvae-bf16", "a"): (None, 2.3),
    ("polyvae-bf16", "b"): (None, 5.0),
    ("polyvae-bf16", "c1"): (None, 2.7),
    ("polyvae-bf16", "c10"): (None, 2.3),
    ("polyvae-bf16", "d1"): (None, 5.0),
    ("polyvae-bf16", "d10"): (None, 8.0),
}
# Peak memory as a share of MultiVae's. Any variant may meet it; the table has the time of every variant.
SMALLER = {
    "a": (0.5, 1 / 4),
    "b": (0.5, 1 / 6),
    "c1": (None, 0.5),
    "c10": (None, 0.5),
    "d1": (None, 1 / 4),
    "d10": (None, 1 / 4),
}
LIKELIHOOD = {"polyvae": 1.8, "polyvae-bf16": 3.5}
OVERHEAD = {"a": 0.03, "c1": 0.10}
COHERENCE = {"polyvae": 2.5, "polyvae-bf16": 4.0}


def ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def rows(entry: Mapping[str, Any]) -> list[Row]:
    """The table of one task."""
    found: Mapping[str, Mapping[str, Any]] = entry["contenders"]
    seconds = {name: median(one["seconds"]) if one.get("seconds") else None for name, one in found.items()}
    busy = {name: median(one["processor"]) if one.get("processor") else None for name, one in found.items()}
    peer = found.get(PEER, {})
    table = []
    for name, one in found.items():
        peak = entry["matmul"].get("bf16" if "bf16" in name else "fp32")
        speed = ratio(one.get("flops"), seconds[name])
        table.append(
            Row(
                name,
                seconds[name],
                *((min(one["seconds"]), max(one["seconds"])) if one.get("seconds") else (None, None)),
                ratio(seconds.get(PEER), seconds[name]),
                ratio(busy.get(PEER), busy[name]),
                ratio(one.get("flops"), 1e9),
                ratio(speed, 1e9),
                ratio(speed, median(peak) if peak else None),
                one.get("megabytes"),
                ratio(one.get("megabytes"), peer.get("megabytes")),
            )
        )
    return table


def overhead(entry: Mapping[str, Any]) -> float:
    """The overhead of the loop of ``fit``, as a share of the bare step."""
    return float(entry["seconds"]["fit"] / entry["seconds"]["bare"] - 1)


def passed(curve: Sequence[Sequence[float]], bar: float = 0.9) -> float | None:
    """The seconds at which a curve of (seconds, steps, coherence) first reaches the bar."""
    return next((point[0] for point in curve if point[2] >= bar), None)


def to_bar(entry: Mapping[str, Any], name: str, at_least: bool = False) -> float | None:
    """Mean seconds over seeds to the bar. A seed that did not reach it gives None, or with ``at_least`` its last seconds, a lower bound."""
    times = [
        curve[-1][0] if at_least and passed(curve) is None else passed(curve)
        for curve in entry["curves"].get(name, [])
    ]
    return None if not times or None in times else sum(times) / len(times)  # type: ignore[arg-type]


def sooner(entry: Mapping[str, Any], name: str) -> tuple[float | None, str]:
    """How many times sooner than MultiVae a contender reaches the bar; "at least " if MultiVae was stopped before it did."""
    cut = "at least " if to_bar(entry, PEER) is None else ""
    return ratio(to_bar(entry, PEER, at_least=True), to_bar(entry, name)), cut


def asked(results: Mapping[str, Any]) -> list[Asked]:
    """Every floor and target, with the measured value."""
    works: Mapping[str, Any] = results.get("works", {})
    tables = {name: {row.contender: row for row in rows(entry)} for name, entry in works.items()}
    found = []
    for (contender, work), (floor, target) in FASTER.items():
        row = tables.get(work, {}).get(contender)
        found.append(
            Asked(
                f"({work}) {contender}: times faster than MultiVae",
                floor,
                target,
                row and row.times_faster,
                True,
            )
        )
    for work, (floor, target) in SMALLER.items():
        shares = {
            name: row.memory_share
            for name, row in tables.get(work, {}).items()
            if name.startswith(OURS) and "bf16" not in name
        }
        shares = {name: share for name, share in shares.items() if share is not None}
        least = min(shares, key=lambda name: shares[name] or 0, default=None)
        found.append(
            Asked(
                f"({work}) {least or OURS}: peak memory, share of MultiVae's",
                floor,
                target,
                shares[least] if least else None,
                False,
            )
        )
    row = tables.get("a", {}).get(OURS)
    found.append(
        Asked("(a) polyvae: share of the measured matmul peak", None, 0.9, row and row.share_of_matmul, True)
    )
    for work, entry in results.get("likelihood", {}).items():
        table = {one.contender: one for one in rows({"matmul": {}, **entry})}
        found += [
            Asked(
                f"joint likelihood ({work}), {name}: times faster than MultiVae",
                None,
                target,
                table[name].times_faster if name in table else None,
                True,
            )
            for name, target in LIKELIHOOD.items()
        ]
    for work, bar in OVERHEAD.items():
        entry = results.get("overhead", {}).get(work)
        found.append(
            Asked(
                f"({work}) overhead of the loop of fit",
                bar,
                bar,
                overhead(entry) if entry else None,
                False,
            )
        )
    entry = results.get("coherence")
    for name, target in COHERENCE.items():
        value, cut = sooner(entry, name) if entry else (None, "")
        found.append(
            Asked(
                f"time to conditional coherence .90, {name}: {cut}times faster than MultiVae",
                None,
                target,
                value,
                True,
            )
        )
    return found


def seconds_in_words(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"

"""A small cohort in csv files: three tables of shared factors with ids, rows in another order in each, and missing modalities."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

QUICK = [word for change in ("steps=30", "members=2", "latent=3") for word in ("--set", change)]


def tables(count: int = 60, seed: int = 0) -> dict[str, dict[str, list[float]]]:
    """Modality -> id -> values of five features, NaN where missing."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(count, 2))
    ids = [f"p{number:03d}" for number in range(count)]
    found = {}
    for at, name in enumerate(("rna", "protein", "lipid")):
        values = 3 + 2 * (z @ rng.normal(size=(2, 5))) + 0.3 * rng.normal(size=(count, 5))
        values[rng.random(values.shape) < 0.02] = np.nan
        kept = [row for row in range(count) if (row + at) % 4 or row < 4]
        found[name] = {
            ids[row]: values[row].tolist() for row in kept[::-1] if not np.isnan(values[row]).all()
        }
    return found


def write_csv(path: Path, header: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> Path:
    """A table with an id column; an empty cell where a value is NaN."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for name, values in rows.items():
            writer.writerow([name, *("" if value != value else value for value in values)])
    return path


def write_cohort(folder: Path, count: int = 60, seed: int = 0) -> dict[str, Path]:
    """Modality -> its file; "clinical" -> a table with a group, a number and a text."""
    folder.mkdir(parents=True, exist_ok=True)
    found = tables(count, seed)
    paths = {
        name: write_csv(folder / f"{name}.csv", ["patient", *(f"{name}_{i}" for i in range(5))], rows)
        for name, rows in found.items()
    }
    names = sorted({name for rows in found.values() for name in rows})
    clinical = {
        name: ["high" if found["rna"].get(name, [9])[0] > 3 else "low", i / 7, "a, b"]
        for i, name in enumerate(names)
    }
    paths["clinical"] = write_csv(folder / "clinical.csv", ["patient", "group", "age", "remark"], clinical)
    return paths


def read_csv(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """The header, and id -> cells."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, {row[0]: row[1:] for row in rows}

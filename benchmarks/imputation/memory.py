"""Peak memory above the level before: of imputing N rows of 6 tables in files and in memory, and of fitting a sparse matrix of counts.

    python -m benchmarks.imputation.memory --rows 300000 --what stream --folder /tmp

Every measurement is made in a process of its own, and printed as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

VIEWS, COLUMNS, TRAIN, PIECE = 6, 20, 1000, 20_000
MISSING = 0.3
SPARSE = (20_000, 10_000)


def rows(start: int, stop: int) -> dict[str, np.ndarray]:
    """Rows of 6 tables of shared factors: name -> [n, 20], NaN where the row has no such modality."""
    world, rng = np.random.default_rng(0), np.random.default_rng([1, start])
    z, found = rng.normal(size=(stop - start, 4)), {}
    for number in range(VIEWS):
        x = z @ world.normal(size=(4, COLUMNS)) + rng.normal(size=(stop - start, COLUMNS))
        x[(rng.random(len(x)) < MISSING) & (np.arange(len(x)) % VIEWS != number)] = np.nan
        found[f"view{number}"] = x.astype(np.float32)
    return found


def write_parquet(folder: Path, count: int) -> dict[str, Path]:
    """A parquet file for each table, without the rows that lack it; each second table has its blocks in reverse order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = {f"view{number}": folder / f"view{number}.parquet" for number in range(VIEWS)}
    for number, (name, path) in enumerate(paths.items()):
        schema = pa.schema([("id", pa.string()), *((f"{name}_{at}", pa.float32()) for at in range(COLUMNS))])
        starts = list(range(0, count, PIECE))
        with pq.ParquetWriter(path, schema) as writer:
            for start in starts[:: -1 if number % 2 else 1]:
                x = rows(start, min(start + PIECE, count))[name]
                kept = np.flatnonzero(~np.isnan(x[:, 0]))
                cells = [pa.array([f"s{start + row}" for row in kept])]
                cells += [pa.array(column) for column in np.ascontiguousarray(x[kept].T)]
                writer.write_table(pa.Table.from_arrays(cells, schema=schema))
    return paths


def counts() -> Any:
    """A sparse matrix of counts, 20,000 x 10,000, of which about 3 % are not zero, with 4 shared factors."""
    from scipy import sparse

    rng, (size, width) = np.random.default_rng(0), SPARSE
    loads, parts = np.exp(0.7 * rng.normal(size=(4, width))), []
    for _ in range(0, size, 1000):
        mean = rng.gamma(0.5, size=(1000, 4)) @ loads * 0.01
        parts.append(sparse.csr_array(rng.poisson(mean).astype(np.float32)))
    return sparse.csr_array(sparse.vstack(parts))


@contextmanager
def measured(say: Callable[[dict[str, Any]], None], **facts: Any) -> Iterator[None]:
    """Print the peak of the resident memory inside, above the level at entry."""
    base, start = level("VmRSS"), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins at the level of now
    yield
    say(
        facts
        | {
            "megabytes": round((level("VmHWM") - base) / 1024, 1),
            "seconds": round(time.perf_counter() - start, 1),
        }
    )


def level(key: str) -> int:
    """A number of KiB in the status of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0])


def measure(what: str, count: int = 0, folder: Path | None = None) -> dict[str, Any]:
    """One measurement in a process of its own.

    Args:
        what: "stream": files to files. "whole": arrays to arrays. "sparse": a fit of ``counts`` beside a table of 20 columns.
        count: Rows of 6 tables, of "stream" and "whole".
        folder: Where files are written; None: the folder for temporary files.
    """
    words = ["-m", "benchmarks.imputation.memory", "--what", what, "--rows", str(count)]
    done = subprocess.run(
        [sys.executable, *words, "--folder", str(folder or tempfile.gettempdir())],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.imputation.memory")
    parser.add_argument("--what", choices=("stream", "whole", "sparse"), default="stream")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        if given.what == "sparse":
            _sparse()
            return
        subprocess.run([sys.executable, "-c", _FIT.format(path=str(folder / "fitted"))], check=True)
        _impute(given.what, given.rows, folder)


_FIT = """
import polyvae as pv
from benchmarks.imputation.memory import TRAIN, rows
pv.Estimator(steps=100, members=2, latent=8, seed=0).fit(rows(0, TRAIN)).save({path!r})
"""


def _impute(what: str, count: int, folder: Path) -> None:
    import polyvae as pv

    estimator = pv.Estimator.load(folder / "fitted")
    few = rows(0, 5000)  # combinations of patterns are made once, at their first use
    estimator.impute(few)
    if what == "stream":
        files = write_parquet(folder, count)
        with measured(_say, what=what, rows=count):
            estimator.impute_to(folder / "out", files)
        return
    parts = [rows(start, min(start + PIECE, count)) for start in range(0, count, PIECE)]
    data = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    del parts
    with measured(_say, what=what, rows=count):
        estimator.impute(data)


def _sparse() -> None:
    import polyvae as pv

    x, rng = counts(), np.random.default_rng(1)
    beside = rng.normal(size=(SPARSE[0], 20)).astype(np.float32)
    data = pv.MultimodalData({"counts": x, "beside": beside}, mask={"counts": rng.random(SPARSE[0]) > 0.2})
    with measured(_say, what="sparse", rows=SPARSE[0]):
        pv.Estimator(steps=50, members=2, latent=8, seed=0).fit(data)


def _say(facts: dict[str, Any]) -> None:
    print(json.dumps(facts))


if __name__ == "__main__":
    main()

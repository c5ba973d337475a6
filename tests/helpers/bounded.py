"""What a training takes of memory and time: python -m tests.helpers.bounded counts|file|memory ROWS FEATURES FOLDER.

Memory is anonymous memory, which cannot be dropped and read again as mapped files can; Linux only.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from pathlib import Path

import numpy as np
from scipy import sparse


def anonymous() -> float:
    """MB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


class Peak:
    """The largest anonymous memory since the start, in MB above it."""

    def __init__(self) -> None:
        self.base = self.most = anonymous()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, anonymous())
            time.sleep(0.005)

    def taken(self) -> float:
        """MB since the last call, or the start."""
        most, self.most = max(self.most, anonymous()), anonymous()
        return most - self.base


def counts(rows: int, features: int) -> sparse.csr_array:
    """A matrix of which 3 % are counts from 1 to 5."""
    rng = np.random.default_rng(0)
    each = max(1, features * 3 // 100)
    gap = features // each
    columns = np.empty(rows * each, np.int32)
    for start in range(0, rows, 1000):
        part = rng.integers(0, gap, (min(1000, rows - start), each), dtype=np.int32)
        columns[start * each : (start + len(part)) * each] = (
            part + gap * np.arange(each, dtype=np.int32)
        ).ravel()
    values = rng.integers(1, 6, rows * each).astype(np.float32)
    kind = np.int32 if rows * each < 2**31 else np.int64
    return sparse.csr_array((values, columns, np.arange(rows + 1, dtype=kind) * each), shape=(rows, features))


def on_counts(rows: int, features: int, folder: Path) -> dict[str, float]:
    """An epoch, embedding and generation on sparse counts beside two small tables; a tenth of one of them is missing."""
    import polyvae as pv

    rng = np.random.default_rng(1)
    arrays = {
        "rna": counts(rows, features),
        "protein": rng.normal(size=(rows, 200)).astype(np.float32),
        "clinical": rng.normal(size=(rows, 20)).astype(np.float32),
    }
    small = pv.MultimodalData({"x": np.zeros((64, 8), np.float32)})
    pv.fit(
        pv.build("vae", small.modalities(), latent=2), small, epochs=1, show=False
    )  # loads what is imported where it is used
    peak, found = Peak(), {}
    data = pv.MultimodalData(arrays, mask={"protein": rng.random(rows) < 0.9})
    specs = [
        pv.Modality("rna", (features,), likelihood="poisson"),
        pv.Modality("protein", (200,)),
        pv.Modality("clinical", (20,)),
    ]
    model = pv.build("mvae", specs, latent=16)
    start = time.monotonic()
    pv.fit(model, data, epochs=1, validation=0.02, show=False, device="cpu", precision="fp32")
    found["epoch_s"] = time.monotonic() - start
    found["epoch"] = peak.taken()
    model.eval()
    pv.embed(model, data, out=folder / "z.npy", show=False)
    found["embed"] = peak.taken()
    pv.generate(
        model, data, given=["rna"], targets=["protein", "clinical"], K=10, out=folder / "made", show=False
    )
    found["generate"] = peak.taken()
    part = data.rows(slice(0, max(1, rows // 100)))
    pv.generate(model, part, given=["protein"], targets=["rna"], K=10, out=folder / "rna.npy", show=False)
    found["generate_counts"] = peak.taken()
    return found


def on_file(rows: int, features: int, folder: Path, limited: bool) -> dict[str, float]:
    """An epoch on a file, with a limit on the memory of the process that is a third of the file, or on the same values in memory."""
    import polyvae as pv

    path = folder / "x.npy"
    if not path.exists():
        rng = np.random.default_rng(0)
        x = np.lib.format.open_memmap(path, "w+", np.float32, (rows, features))
        for start in (
            range(0, rows, 10_000) if rows > 100_000 else ()
        ):  # a small file stays 0, which takes no time to write
            x[start : start + 10_000] = rng.normal(size=(min(10_000, rows - start), features))
        x.flush()
    y = np.random.default_rng(1).normal(size=(rows, 8)).astype(np.float32)
    # A warm-up starts the threads and loads the kernels of both cases.
    warm = pv.MultimodalData({"x": np.zeros((64, features), np.float32), "y": y[:64]})
    params = {} if rows > 100_000 else {"hidden": (32,)}
    specs = [pv.Modality("x", (features,), network="mlp", params=params), pv.Modality("y", (8,))]
    settings = {"epochs": 1, "batch_size": 512, "show": False, "device": "cpu", "precision": "fp32"}
    pv.fit(pv.build("mvae", specs, latent=8), warm, **settings)
    limit = path.stat().st_size // 3
    if limited and limit > 2**29:  # a process without data has some hundreds of MB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    x, peak = np.load(path, mmap_mode="r"), Peak()
    data = pv.MultimodalData(
        {"x": x if limited else np.asarray(x), "y": y}, mask={"x": np.arange(rows) % 9 > 0}
    )
    model = pv.build("mvae", specs, latent=8)
    start = time.monotonic()
    pv.fit(model, data, validation=0.01, **settings)
    return {"epoch_s": time.monotonic() - start, "limit": limit / 2**20, "memory": peak.taken()}


if __name__ == "__main__":
    kind, rows, features, place = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    result = (
        on_counts(rows, features, place)
        if kind == "counts"
        else on_file(rows, features, place, kind == "file")
    )
    print(json.dumps(result))

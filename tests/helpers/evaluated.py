"""What metrics take of memory and time: python -m tests.helpers.evaluated ROWS [METRIC|judges|prior ...].

So many held-out rows, and as many training rows, of three small modalities with labels, attributes, factors and a covariate. MB of
anonymous memory above the data; Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

import polyvae as pv
from polyvae.data import MultimodalData
from tests.helpers.bounded import Peak

SIDE, CLASSES, COLOURS = 12, 5, 3


def made(rows: int, seed: int = 0) -> MultimodalData:
    """``rows`` samples for each of the two parts. A tenth of the table and of the counts is missing."""
    rng = np.random.default_rng(seed)
    labels, colours = rng.integers(CLASSES, size=2 * rows), rng.integers(COLOURS, size=2 * rows)
    means = rng.normal(size=(CLASSES, 20)).astype(np.float32)
    bright = rng.integers(0, 128, (CLASSES, 1, SIDE, SIDE), np.uint8)
    image = bright[labels] + 40 * colours[:, None, None, None].astype(np.uint8)
    table = means[labels] + rng.standard_normal((2 * rows, 20), np.float32)
    counts = rng.poisson(np.exp(means[labels, :10] / 2)).astype(np.float32)
    observed = {name: rng.random(2 * rows) < 0.9 for name in ("table", "counts")}
    specs = [
        pv.Modality("image", (1, SIDE, SIDE), network="mlp", private=2, params={"hidden": (32,)}),
        pv.Modality("table", (20,), private=2, params={"hidden": (32,)}),
        pv.Modality("counts", (10,), "negative_binomial", private=2, params={"hidden": (32,)}),
        pv.Modality("kind", (CLASSES,), "categorical", role="target", params={"hidden": (32,)}),
    ]
    return MultimodalData(
        {"image": image, "table": table, "counts": counts, "kind": np.eye(CLASSES, dtype=np.float32)[labels]},
        mask=observed,
        scale={"image": 1 / 255},
        labels=labels,
        attributes={"class": labels, "colour": colours},
        said={"table": {"class": np.ones(2 * rows, bool)}, "counts": {"class": np.ones(2 * rows, bool)}},
        factors={"table": {"first": table[:, 0].astype(np.float64)}},
        covariates={"site": [("a", "b", "c")[row % 3] for row in range(2 * rows)]},
        modalities=specs,
        splits={"train": range(rows), "test": range(rows, 2 * rows)},
    )


def measured(names: Sequence[str], rows: int) -> Iterator[dict[str, Any]]:
    """For each name MB above the data and what came before, and seconds."""
    data, few = made(rows), made(300, seed=1)
    torch.manual_seed(0)
    model = pv.build("mmvae+", data.modalities(), latent=4).eval()
    recipe = {"cache": False, "epochs": 1, "least": 20, "most": 20, "width": 4}
    judges = pv.metrics.train_judges(few, **recipe)
    small = {"draws": 100, "likelihood_samples": 20}

    def once(name: str, given: MultimodalData, settings: dict[str, Any]) -> None:
        if name == "judges":
            pv.metrics.train_judges(given, **recipe)
        elif name == "prior":
            pv.fit_prior(model, given.train)
        else:
            prior = {"fitted_prior": {"components": 0}}
            pv.evaluate(model, given, judges=judges, metrics=[name], show=False, **prior, **settings)

    for name in names:
        once(name, few, small)  # libraries are loaded where they are used
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed would count as taken already
        peak, start, used = Peak(), time.monotonic(), time.process_time()
        once(name, data, {})
        yield {
            "metric": name,
            "rows": rows,
            "memory": round(peak.taken(), 1),
            "seconds": round(time.monotonic() - start, 1),
            "processor": round(time.process_time() - used, 1),
        }


if __name__ == "__main__":
    for found in measured(sys.argv[2:] or ["judges", "prior", *pv.METRICS], int(sys.argv[1])):
        print(json.dumps(found), flush=True)

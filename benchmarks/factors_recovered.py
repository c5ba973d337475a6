"""Which factor is active in which modality: a simulated cohort with known factors, recovered by polyvae and by MOFA.

    python -m benchmarks.factors_recovered [--mofa-python PATH] [--samples 400] [--seed 0] [--out runs/factors.json]

The cohort is made as in MOFA's own simulations (Argelaguet et al. 2018): x_m = z W_m' + noise, with normal factors z, normal loadings in
the modalities in which a factor is active, and zero loadings in the others. The truth about variance is exact: factor k explains Σ_f w_fk²
/ Σ_f (Σ_l w_fl² + s²) of a modality. A recovered factor is matched with a true one by their absolute correlation.

MOFA runs in its own interpreter (``--mofa-python``; by default this one), and a line states it where mofapy2 is not installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

import polyvae as pv
from polyvae.metrics import VarianceExplained, variance_explained

Array = NDArray[np.float64]
ACTIVE = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]], bool)
"""Factor by modality: whether it is active."""
NAMES = ("rna", "protein", "methylation")
SIZES = (60, 20, 40)
LEAST = 0.03
"""The share of the variance of a modality from which a factor counts as active in it."""
MOFA = """
import sys, numpy as np
from mofapy2.run.entry_point import entry_point
given = np.load(sys.argv[1])
names = [str(name) for name in given["names"]]
run = entry_point()
run.set_data_options(scale_views=False)
run.set_data_matrix([[given[name]] for name in names], views_names=names, likelihoods=["gaussian"] * len(names))
run.set_model_options(factors=int(sys.argv[3]), spikeslab_weights=True, ard_weights=True)
run.set_train_options(convergence_mode="slow", seed=0, quiet=True)
run.build()
run.run()
z = np.asarray(run.model.nodes["Z"].getExpectation())
r2 = []
for name, w in zip(names, run.model.nodes["W"].getExpectation()):
    x, w = given[name], np.asarray(w)
    x = x - np.nanmean(x, 0)
    total = np.nansum(x**2)
    r2.append([1 - np.nansum((x - np.outer(z[:, k], w[:, k])) ** 2) / total for k in range(z.shape[1])])
np.savez(sys.argv[2], z=z, r2=np.array(r2).T)
"""


class Cohort(NamedTuple):
    """A simulated cohort: x, name -> [N, F] with NaN where missing; the factors z [N, K]; and r2 [K, M], the truth."""

    x: dict[str, Array]
    z: Array
    r2: Array


class Recovered(NamedTuple):
    """What a method found: factors [N, L], R² [L, M], and its time in seconds."""

    z: Array
    r2: Array
    seconds: float


def simulate(samples: int = 400, seed: int = 0, missing: float = 0.1, noise: float = 1.0) -> Cohort:
    """Factors with standard normal loadings where they are active; a share of the samples lacks each modality."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(samples, len(ACTIVE)))
    x, r2 = {}, []
    for m, (name, size) in enumerate(zip(NAMES, SIZES, strict=True)):
        loadings = rng.normal(size=(size, len(ACTIVE))) * ACTIVE[:, m] * rng.uniform(0.6, 1.2, len(ACTIVE))
        x[name] = z @ loadings.T + noise * rng.normal(size=(samples, size))
        x[name][rng.permutation(samples)[: round(missing * samples)]] = np.nan
        squares = (loadings**2).sum(0)
        r2.append(squares / (squares.sum() + size * noise**2))
    lost = np.all([np.isnan(values).all(1) for values in x.values()], 0)
    return Cohort({name: values[~lost] for name, values in x.items()}, z[~lost], np.array(r2).T)


def by_estimator(cohort: Cohort, seed: int) -> dict[str, Recovered]:
    """The Estimator with its defaults: the columns of its embedding, and these rotated by varimax."""
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = pv.Estimator(seed=seed).fit(cohort.x)
        own = estimator.variance_explained(cohort.x)
        turned = estimator.variance_explained(cohort.x, rotation="varimax")
    seconds = time.monotonic() - start
    found = {"Estimator": own, "Estimator, varimax": turned}
    return {
        name: _recovered(each, each.factors, seconds)
        for name, each in found.items()
        if each.factors is not None
    }


def by_model(cohort: Cohort, seed: int, epochs: int) -> Recovered:
    """A product-of-experts model with linear decoders and eight latent dimensions."""
    start = time.monotonic()
    data = pv.MultimodalData(
        {name: (x - np.nanmean(x, 0)) for name, x in _masked(cohort.x).items()}, seed=seed
    )
    specs = data.modalities(params={"scale": "per_entry", "hidden": []}, network="mlp")
    torch.manual_seed(seed)
    model = pv.build("mvae", specs, latent=8)
    pv.fit(model, data, epochs=epochs, batch_size=64, lr=3e-3, seed=seed, show=False)
    model.eval()
    found = variance_explained(model, data)
    return _recovered(found, model.embed(data.take(slice(None))).double().numpy(), time.monotonic() - start)


def _masked(x: dict[str, Array]) -> dict[str, Any]:
    return {name: np.ma.masked_invalid(values) for name, values in x.items()}


def _recovered(found: VarianceExplained, z: Array, seconds: float) -> Recovered:
    r2 = np.array([[found.value(name, latent) for name in NAMES] for latent in found.latents])
    return Recovered(z[:, : len(r2)], r2, seconds)


def by_mofa(cohort: Cohort, python: str, factors: int = 8) -> Recovered | None:
    """mofapy2 in another interpreter, with sparse loadings; None where it is not installed there."""
    if subprocess.run([python, "-c", "import mofapy2"], capture_output=True, check=False).returncode:
        return None
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        np.savez(given, names=np.array(NAMES), **cohort.x)  # type: ignore[arg-type]
        subprocess.run(
            [python, "-c", MOFA, str(given), str(made), str(factors)], check=True, capture_output=True
        )
        with np.load(made) as found:
            return Recovered(found["z"], found["r2"], time.monotonic() - start)


def compared(cohort: Cohort, found: Recovered) -> dict[str, Any]:
    """Each true factor with the recovered one that it is matched with: correlation, R², and which modalities it is active in."""
    used = (found.r2 >= LEAST).any(1)
    z, r2 = found.z[:, used], found.r2[used]
    both = np.corrcoef(cohort.z.T, z.T)[: len(ACTIVE), len(ACTIVE) :]
    rows, columns = linear_sum_assignment(-np.abs(both))
    table, correlation = np.zeros_like(cohort.r2), np.zeros(len(ACTIVE))
    table[rows], correlation[rows] = r2[columns], np.abs(both[rows, columns])
    return {
        "correlation": correlation.tolist(),
        "r2": table.tolist(),
        "active": (table >= LEAST).tolist(),
        "cells right": int(((table >= LEAST) == ACTIVE).sum()),
        "error": float(np.abs(table - cohort.r2).mean()),
        "factors": int(used.sum()),
        "seconds": found.seconds,
    }


def shown(cohort: Cohort, results: dict[str, dict[str, Any]]) -> str:
    """Factor by method: in which modalities it is active, with R² in per cent, and the correlation with the true factor."""
    lines = [f"R² in per cent in {', '.join(NAMES)}; from {LEAST:.0%} a factor counts as active", ""]
    lines.append("factor  " + "truth".ljust(16) + "".join(name.ljust(26) for name in results))
    for k in range(len(ACTIVE)):
        cells = [" ".join(f"{100 * value:3.0f}" for value in cohort.r2[k]).ljust(16)]
        for each in results.values():
            values = " ".join(f"{100 * value:3.0f}" for value in each["r2"][k])
            cells.append(f"{values}  |r| {each['correlation'][k]:.2f}".ljust(26))
        lines.append(f"z{k}".ljust(8) + "".join(cells))
    total = ACTIVE.size
    for what, of in (
        ("cells right", lambda each: f"{each['cells right']} of {total}"),
        ("mean |r|", lambda each: f"{np.mean(each['correlation']):.3f}"),
        ("error of R²", lambda each: f"{each['error']:.3f}"),
        ("factors found", lambda each: f"{each['factors']}"),
        ("seconds", lambda each: f"{each['seconds']:.0f}"),
    ):
        lines.append(what.ljust(24) + "".join(of(each).ljust(26) for each in results.values()))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mofa-python", default=sys.executable, help="an interpreter with mofapy2")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=150, help="of the model")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    given = parser.parse_args(arguments)
    cohort = simulate(given.samples, given.seed)
    found: dict[str, Recovered | None] = {
        **by_estimator(cohort, given.seed),
        "mvae": by_model(cohort, given.seed, given.epochs),
        "mofapy2": by_mofa(cohort, given.mofa_python),
    }
    results = {name: compared(cohort, each) for name, each in found.items() if each is not None}
    print(shown(cohort, results))
    if found["mofapy2"] is None:
        print(f"mofapy2 is not installed for {given.mofa_python}; pip install mofapy2, or --mofa-python PATH")
    if given.out:
        given.out.write_text(json.dumps({"truth": cohort.r2.tolist(), "methods": results}, indent=1))


if __name__ == "__main__":
    main()

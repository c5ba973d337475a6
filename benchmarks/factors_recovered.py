"""Which factor is active in which modality: a simulated cohort with known factors, recovered by polyvae and by MOFA.

    python -m benchmarks.factors_recovered [--mofa-python PATH] [--seeds 0 1 2 3 4] [--cohort few]
        [--methods estimator mofapy2] [--out runs/factors.json]

The cohort is made as in MOFA's own simulations (Argelaguet et al. 2018): x_m = z W_m' + noise, with normal factors z, normal loadings in
the modalities in which a factor is active, and zero loadings in the others. The truth about variance is exact: factor k explains Σ_f w_fk²
/ Σ_f (Σ_l w_fl² + s²) of a modality. A recovered factor is matched with a true one by their absolute correlation. R² of a modality is that
of its features in units, pooled. "Posterior at the truth" has the mean of z given the observed values with the true loadings and noise: no
method can be expected to have higher correlations.

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
ALIKE = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1]], bool)
"""The same, with factors that are active in the same modalities."""
NAMES = ("rna", "protein", "methylation")
SIZES = (60, 20, 40)
LEAST = 0.03
"""The share of the variance of a modality from which a factor counts as active in it."""
METHODS = ("estimator", "mvae", "mofapy2")
COHORTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "few": {"samples": 100},
    "missing": {"missing": 0.3},
    "unequal": {"strengths": (0.3, 1.5)},
    "sparse": {"zeros": 0.5},
    "curved": {"curved": True},
    "alike": {"active": ALIKE, "zeros": 0.7},
}
"""Name -> options of ``simulate``."""
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
    """A simulated cohort: x, name -> [N, F] with NaN where missing; the factors z [N, K]; r2 [K, M], the truth; and the mean of z [N, K]
    given what was observed, with the true loadings and noise.
    """

    x: dict[str, Array]
    z: Array
    r2: Array
    best: Array


class Recovered(NamedTuple):
    """What a method found: factors [N, L], R² [L, M], and its time in seconds."""

    z: Array
    r2: Array
    seconds: float


def simulate(
    samples: int = 400,
    seed: int = 0,
    missing: float = 0.1,
    noise: float = 1.0,
    strengths: tuple[float, float] = (0.6, 1.2),
    zeros: float = 0.0,
    curved: bool = False,
    active: NDArray[np.bool_] = ACTIVE,
) -> Cohort:
    """Factors with normal loadings where they are active; a share of the samples lacks each modality.

    Args:
        samples: N, before those without any modality are removed.
        seed: Of all random numbers.
        missing: The share of the samples that lack each modality.
        noise: The standard deviation of the noise.
        strengths: The smallest and the largest standard deviation of the loadings of a factor in a modality.
        zeros: The share of the loadings that are zero where a factor is active.
        curved: Bend each feature: x = 2 sinh(y / 2) of the linear y without noise, whose shares of variance are kept as the truth.
        active: Factor by modality, whether it is active.
    """
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(samples, len(active)))
    x, r2, loaded = {}, [], []
    for m, (name, size) in enumerate(zip(NAMES, SIZES, strict=True)):
        loadings = rng.normal(size=(size, len(active))) * active[:, m] * rng.uniform(*strengths, len(active))
        if zeros:
            loadings *= rng.random(loadings.shape) >= zeros
        signal = z @ loadings.T
        x[name] = (2 * np.sinh(signal / 2) if curved else signal) + noise * rng.normal(size=(samples, size))
        x[name][rng.permutation(samples)[: round(missing * samples)]] = np.nan
        squares = (loadings**2).sum(0)
        r2.append(squares / (squares.sum() + size * noise**2))
        loaded.append(loadings)
    lost = np.all([np.isnan(values).all(1) for values in x.values()], 0)
    x = {name: values[~lost] for name, values in x.items()}
    return Cohort(x, z[~lost], np.array(r2).T, _posterior(np.concatenate(list(x.values()), 1), loaded, noise))


def _posterior(x: Array, loadings: list[Array], noise: float) -> Array:
    """E[z | x] of a linear cohort, with its true loadings and noise."""
    weights, seen = np.concatenate(loadings), ~np.isnan(x)
    precision = np.einsum("nf,fk,fl->nkl", seen, weights, weights) / noise**2 + np.eye(weights.shape[1])
    linear = np.where(seen, x, 0) @ weights / noise**2
    return np.asarray(np.linalg.solve(precision, linear[..., None])[..., 0], np.float64)


def by_estimator(cohort: Cohort, seed: int) -> dict[str, Recovered]:
    """The Estimator with its defaults: its factors, the columns of its embedding, and these rotated by varimax."""
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = pv.Estimator(seed=seed).fit(cohort.x)
        tables = {
            "Estimator, factors": estimator.factors(cohort.x),
            "embedding": estimator.variance_explained(cohort.x),
            "embedding, varimax": estimator.variance_explained(cohort.x, rotation="varimax"),
        }
    seconds = time.monotonic() - start
    return {
        name: _recovered(cohort, each, each.factors, seconds)
        for name, each in tables.items()
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
    z = model.embed(data.take(slice(None))).double().numpy()
    return _recovered(cohort, found, z, time.monotonic() - start)


def _masked(x: dict[str, Array]) -> dict[str, Any]:
    return {name: np.ma.masked_invalid(values) for name, values in x.items()}


def _recovered(cohort: Cohort, found: VarianceExplained, z: Array, seconds: float) -> Recovered:
    """R² of modalities in units, whatever the units of the table, so that they compare with the truth."""
    r2 = np.zeros((len(found.latents), len(NAMES)))
    for m, name in enumerate(NAMES):
        squares = np.nansum((cohort.x[name] - np.nanmean(cohort.x[name], 0)) ** 2, 0)
        r2[:, m] = np.nan_to_num(found.r2[name][: len(r2)]) @ squares / squares.sum()
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
        "multiple": _multiple(cohort.z, z),
        "r2": table.tolist(),
        "active": (table >= LEAST).tolist(),
        "cells right": int(((table >= LEAST) == (cohort.r2 >= LEAST)).sum()),
        "error": float(np.abs(table - cohort.r2).mean()),
        "factors": int(used.sum()),
        "seconds": found.seconds,
    }


def _multiple(truth: Array, z: Array) -> list[float]:
    """The multiple correlation of each true factor with all columns of z: what a rotation and a rescaling can reach."""
    x = np.concatenate([np.ones((len(z), 1)), z], 1)
    fit = x @ np.linalg.lstsq(x, truth, rcond=None)[0]
    return [float(np.corrcoef(*pair)[0, 1]) for pair in zip(truth.T, fit.T, strict=True)]


def best(cohort: Cohort) -> list[float]:
    """The absolute correlation of each factor with its posterior mean at the true loadings and noise."""
    return [abs(float(np.corrcoef(pair)[0, 1])) for pair in zip(cohort.z.T, cohort.best.T, strict=True)]


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
    return "\n".join(lines)


def summary(results: list[dict[str, dict[str, Any]]], most: list[float]) -> str:
    """Mean and standard deviation over seeds, by method.

    Args:
        results: What ``compared`` found by method, of each seed.
        most: The mean of ``best`` of each seed; none where it is not known.
    """
    lines = ["".ljust(22) + "".join(name.rjust(20) for name in results[0])]
    for what, of, digits in (
        (f"cells right of {ACTIVE.size}", lambda each: each["cells right"], 1),
        ("mean |r|", lambda each: np.mean(each["correlation"]), 3),
        ("smallest |r|", lambda each: np.min(each["correlation"]), 3),
        ("mean multiple r", lambda each: np.mean(each["multiple"]), 3),
        ("error of R²", lambda each: each["error"], 3),
        ("factors found", lambda each: each["factors"], 1),
        ("seconds", lambda each: each["seconds"], 0),
    ):
        cells = [_spread([of(each[name]) for each in results], digits).rjust(20) for name in results[0]]
        lines.append(what.ljust(22) + "".join(cells))
    return "\n".join(lines + ([f"posterior at the truth: mean |r| {_spread(most, 3)}"] if most else []))


def _spread(values: list[float], digits: int) -> str:
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mofa-python", default=sys.executable, help="an interpreter with mofapy2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cohort", choices=COHORTS, default="plain")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--epochs", type=int, default=150, help="of the model")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    given = parser.parse_args(arguments)
    results, most, truths = [], [], []
    for seed in given.seeds:
        cohort = simulate(seed=seed, **COHORTS[given.cohort])
        found: dict[str, Recovered | None] = {}
        if "estimator" in given.methods:
            found |= by_estimator(cohort, seed)
        if "mvae" in given.methods:
            found["mvae"] = by_model(cohort, seed, given.epochs)
        if "mofapy2" in given.methods:
            found["mofapy2"] = by_mofa(cohort, given.mofa_python)
        results.append({name: compared(cohort, each) for name, each in found.items() if each is not None})
        if given.cohort != "curved":  # there the posterior of the linear model is no limit
            most.append(float(np.mean(best(cohort))))
        truths.append(cohort.r2.tolist())
        print(f"seed {seed}\n{shown(cohort, results[-1])}\n", flush=True)
    if "mofapy2" in given.methods and "mofapy2" not in results[0]:
        print(f"mofapy2 is not installed for {given.mofa_python}; pip install mofapy2, or --mofa-python PATH")
    if results[0]:
        print(summary(results, most))
    if given.out:
        stored = {"seeds": given.seeds, "truth": truths, "methods": results, "posterior at the truth": most}
        given.out.write_text(json.dumps(stored, indent=1))


if __name__ == "__main__":
    main()

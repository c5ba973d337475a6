"""Write a simulated multi-omics cohort, shaped like TCGA's adrenocortical carcinoma: five omics, a clinical table, and survival.

    python docs/tutorials/make_multiomics.py FOLDER

cohort/ has 150 patients and new/ has 60: rna.csv, copy_number.csv, mutation.csv, protein.csv, mirna.csv and clinical.csv, with a row for each
patient who was measured, and survival.csv. truth/ has the new patients without gaps; no real cohort has such a folder. All tables depend on six
factors, the hazard of death on two of them and on the stage.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

PATIENTS, NEW, FACTORS, STAGES = 150, 60, 6, ("i", "ii", "iii", "iv")
SIZES = {"rna": 60, "copy_number": 30, "mutation": 15, "protein": 25, "mirna": 30}
MEASURED = {"rna": 0.86, "copy_number": 0.95, "mutation": 0.95, "protein": 0.5, "mirna": 0.85}  # the share of patients


def main(folder, seed=0):
    rng = np.random.default_rng(seed)
    count = PATIENTS + NEW
    ids = [f"P{number:03d}" for number in range(count)]
    factors = rng.normal(size=(count, FACTORS))
    tables = {}
    for name, size in SIZES.items():
        loadings = rng.normal(size=(FACTORS, size)) * (rng.random((FACTORS, size)) < 0.5)
        loadings *= (rng.random((FACTORS, 1)) < 0.8) * 0.8  # some factors are not active in a modality
        loadings[1] += 0.6 * rng.normal(size=size)  # one factor is active in all of them
        x = factors @ loadings + 0.3 * np.maximum(factors[:, :1] * factors[:, 1:2], 0) + rng.normal(size=(count, size))
        columns = [f"{name.upper()}_{number + 1}" for number in range(size)]
        cells = (x > 1.2).astype(int) if name == "mutation" else np.round(8 + x, 3) if name in ("rna", "mirna") else np.round(x, 3)
        tables[name] = pd.DataFrame(cells, ids, columns)
    severity = 0.7 * factors[:, 1] + rng.normal(size=count)
    stage = np.digitize(severity, [-0.8, 0.2, 1.0])
    tables["clinical"] = pd.DataFrame(
        {
            "age": np.round(np.clip(50 + 12 * rng.normal(size=count) + 4 * severity, 18, 90), 1),
            "sex": np.where(rng.random(count) < 0.6, "female", "male"),
            "stage": [STAGES[each] for each in stage],
            "nodes": rng.poisson(np.exp(0.2 + 0.5 * severity)),
            "hormones": np.where(factors[:, 2] + 0.7 * rng.normal(size=count) > 0, "yes", "no"),
        },
        ids,
    )
    risk = 0.9 * factors[:, 0] + 0.7 * factors[:, 1] + 0.5 * (stage - 1.5)
    death = rng.exponential(4000 / np.exp(risk))
    end = rng.uniform(200, 3000, count)
    survival = pd.DataFrame({"days": np.ceil(np.minimum(death, end)).astype(int), "died": (death <= end).astype(int)}, ids)
    folder = Path(folder)
    for part, rows in (("cohort", ids[:PATIENTS]), ("new", ids[PATIENTS:])):
        (folder / part).mkdir(parents=True, exist_ok=True)
        survival.loc[rows].to_csv(folder / part / "survival.csv", index_label="patient")
        for name, table in tables.items():
            table = table.loc[rows]
            if part == "new":
                (folder / "truth").mkdir(exist_ok=True)
                table.to_csv(folder / "truth" / f"{name}.csv", index_label="patient")
            failed = rng.random(table.shape) < (0.1 if name == "clinical" else 0.01)
            table = table.mask(failed).loc[rng.random(len(rows)) < MEASURED.get(name, 1.0)]
            if name == "mutation":
                table = table.astype("Int64")
            table.sample(frac=1, random_state=seed).to_csv(folder / part / f"{name}.csv", index_label="patient")


def draw(scores, curves, survival, group, file):
    """R² by modality and method; and the survival of three groups of new patients, as observed and as predicted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    names, methods = list(scores.index), [name for name in ("ridge", "k-NN", "vae", "stack") if name in scores]
    for place, (method, colour) in enumerate(zip(methods, ("#bbbbbb", "#ccbb44", "#66ccee", "#4477aa"))):
        left.bar(np.arange(len(names)) + 0.2 * (place - 1.5), scores[method], 0.2, label=method, color=colour)
    left.set_xticks(np.arange(len(names)), names, fontsize=8, rotation=20)
    left.axhline(0, color="black", lw=0.8)
    left.set_ylabel("R², held out", fontsize=8)
    left.legend(fontsize=7, frameon=False)
    for label, colour in (("low", "#228833"), ("medium", "#ccbb44"), ("high", "#ee6677")):
        own = survival[group == label].sort_values("days")
        at_risk = len(own) - np.arange(len(own))
        alive = np.cumprod(1 - own["died"].to_numpy() / at_risk)
        right.step([0, *own["days"]], [1, *alive], where="post", color=colour, label=f"{label} risk")
        right.plot(curves.columns.astype(float), curves[group == label].mean(), color=colour, ls=":")
    right.set(ylim=(0, 1.02), xlim=(0, 2500))
    right.set_xlabel("days", fontsize=8)
    right.set_ylabel("alive", fontsize=8)
    right.legend(fontsize=7, frameon=False)
    for axis in (left, right):
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=80)
    pyplot.close(figure)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "multiomics")

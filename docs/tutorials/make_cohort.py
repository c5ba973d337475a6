"""Write a simulated cohort in three CSV files, of which many patients lack a modality.

    python docs/tutorials/make_cohort.py FOLDER

mrna.csv, mirna.csv and protein.csv have a row for each patient that was measured; clinical.csv has a subtype for most patients. The data are
drawn from eight hidden factors that the modalities share, with noise, so it is known that a part of each can be predicted from the others.
new_mrna.csv contains patients of whom mRNA alone was measured. They were drawn too, and what a laboratory would find is in truth_protein.csv.
"""

import csv
import sys
from pathlib import Path

import numpy as np

SIZES = {"mrna": 40, "mirna": 25, "protein": 15}
MEASURED = {"mrna": 0.85, "mirna": 0.6, "protein": 0.5}  # the share of patients
PATIENTS, NEW, FACTORS, SUBTYPES = 200, 30, 8, ("basal", "luminal", "mixed")


def write(path, ids, columns, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient", *columns])
        for name, row in zip(ids, rows):
            writer.writerow([name, *("" if isinstance(x, float) and np.isnan(x) else x for x in row)])


def main(folder, seed=0):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    count = PATIENTS + NEW
    subtype = rng.integers(0, 3, count)
    centres = rng.normal(size=(3, FACTORS))
    factors = 0.8 * centres[subtype] + rng.normal(size=(count, FACTORS))
    ids = [f"P{number:03d}" for number in range(count)]
    old = list(range(PATIENTS))
    tables = {}
    for name, size in SIZES.items():
        loadings = rng.normal(size=(FACTORS, size)) / np.sqrt(FACTORS)
        loadings[:, -size // 5 :] *= 0.1  # a fifth of the features has little to do with the others
        values = factors @ loadings + 0.4 * np.tanh(factors[:, :1]) + 0.6 * rng.normal(size=(count, size))
        tables[name] = np.round(8 + 1.5 * values, 3) if name != "protein" else np.round(np.exp(0.4 * values), 4)
    measured = {name: rng.random(count) < share for name, share in MEASURED.items()}
    measured["mrna"] |= ~(measured["mirna"] | measured["protein"])  # every patient has something
    for name, size in SIZES.items():
        rows = [row for row in old if measured[name][row]]
        rng.shuffle(rows)  # each laboratory has its own order
        values = tables[name][rows]
        values[rng.random(values.shape) < 0.01] = np.nan  # failed measurements
        columns = [f"{name.upper()}_{number + 1}" for number in range(size)]
        write(folder / f"{name}.csv", [ids[row] for row in rows], columns, values.tolist())
    known = [row for row in old if rng.random() < 0.9]
    write(folder / "clinical.csv", [ids[row] for row in known], ["subtype"], [[SUBTYPES[subtype[row]]] for row in known])
    new = range(PATIENTS, count)
    for name, file in (("mrna", "new_mrna.csv"), ("protein", "truth_protein.csv")):
        columns = [f"{name.upper()}_{number + 1}" for number in range(SIZES[name])]
        write(folder / file, [ids[row] for row in new], columns, tables[name][list(new)].tolist())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cohort")

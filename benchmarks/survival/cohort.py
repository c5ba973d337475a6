"""miniACC (TCGA): five omics tables with really missing modalities, clinical columns, and time to death."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.targets.cox import Survival

Array = NDArray[np.float64]
STAGES = {"stage i": 1, "stage ii": 2, "stage iii": 3, "stage iv": 4}
SIZES = {"t1": 1, "t2": 2, "t3": 3, "t4": 4}
NODES = {"n0": 0, "n1": 1}
SEXES = {"female": 0, "male": 1}
CLINICAL = "clinical"


class Cohort(NamedTuple):
    """Modality -> [N, F] with NaN where nothing was measured, and the times."""

    tables: dict[str, Array]
    times: Survival


def load(root: str | Path | None = None) -> Cohort:
    """Read tcga_acc_mini under ``root`` (by default POLYVAE_DATA). Time: days to death, or to the last follow-up of the living."""
    folder = root or os.environ.get("POLYVAE_DATA")
    if folder is None or not (Path(folder) / "tcga_acc_mini" / "clinical.csv").is_file():
        raise SystemExit("set POLYVAE_DATA to the folder that contains tcga_acc_mini")
    folder = Path(folder) / "tcga_acc_mini"
    with (folder / "clinical.csv").open(newline="") as file:
        rows = {row[""]: row for row in csv.DictReader(file)}
    with np.load(folder / "tcga_acc_mini.npz") as file:
        tables = {key.removeprefix("x_"): file[key].astype(float) for key in file if key.startswith("x_")}
        ordered = [rows[str(name)] for name in file["patients"]]
    dead = np.array([row["vital_status"] == "1" for row in ordered])
    days = [
        row["days_to_death" if row["vital_status"] == "1" else "days_to_last_followup"] for row in ordered
    ]
    return Cohort({CLINICAL: clinical(ordered), **tables}, Survival(np.array([float(x) for x in days]), dead))


def clinical(rows: list[dict[str, str]]) -> Array:
    """Age, stage, size of the tumour, lymph nodes and sex: what is known at diagnosis. [N, 5]."""
    kinds = {
        "pathologic_stage": STAGES,
        "pathology_T_stage": SIZES,
        "pathology_N_stage": NODES,
        "gender": SEXES,
    }
    ages = [
        float(row["years_to_birth"]) if row["years_to_birth"] not in ("", "--") else np.nan for row in rows
    ]
    others = [[codes.get(row[column], np.nan) for row in rows] for column, codes in kinds.items()]
    return np.array([ages, *others], float).T

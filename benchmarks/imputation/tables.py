"""The data sets: one table per modality, what of it was observed, and labels where there are any."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

View = tuple[NDArray[np.float32], NDArray[np.bool_]]  # [N, F] each: values, and which were observed
Views = Mapping[str, View]


class Skipped(Exception):
    """A method that cannot run here, with the reason."""


class Table(NamedTuple):
    """A data set. ``labels`` [N] are used by the linear probe alone."""

    name: str
    views: dict[str, View]
    labels: NDArray[np.int64] | None

    @property
    def rows(self) -> int:
        return len(next(iter(self.views.values()))[0])


FILES = {"mfeat": "uci_mfeat", "nutrimouse": "nutrimouse", "acc": "tcga_acc_mini"}
LABELS = {"mfeat": "label", "nutrimouse": "genotype"}


def load(name: str, root: str | Path | None = None) -> Table:
    """Read FILE/FILE.npz under ``root`` (by default POLYVAE_DATA). Arrays named x_VIEW are the modalities; NaN was not observed."""
    folder = root or os.environ.get("POLYVAE_DATA")
    if folder is None:
        raise SystemExit(
            "set POLYVAE_DATA to the folder that contains uci_mfeat, nutrimouse and tcga_acc_mini"
        )
    path = Path(folder) / FILES[name] / f"{FILES[name]}.npz"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist; set POLYVAE_DATA to the folder that contains {FILES[name]}")
    with np.load(path) as file:
        arrays = {key.removeprefix("x_"): file[key] for key in file if key.startswith("x_")}
        labels = np.unique(file[LABELS[name]], return_inverse=True)[1] if name in LABELS else None
    return Table(name, {key: view(x) for key, x in arrays.items()}, labels)


def view(x: NDArray[np.floating]) -> View:
    """An array with NaN where nothing was observed as values (zero there) and a mask."""
    observed = np.isfinite(x)
    return np.where(observed, x, 0).astype(np.float32), observed


def present(one: View) -> NDArray[np.bool_]:
    """The rows of which anything was observed: [N]."""
    return one[1].any(1)


def pick(views: Views, rows: NDArray[np.int64]) -> dict[str, View]:
    return {name: (x[rows], observed[rows]) for name, (x, observed) in views.items()}


def without(views: Views, *names: str) -> dict[str, View]:
    return {name: one for name, one in views.items() if name not in names}


def blank(one: View) -> View:
    """The same rows with nothing observed."""
    return np.zeros_like(one[0]), np.zeros_like(one[1])

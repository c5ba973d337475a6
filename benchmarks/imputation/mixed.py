"""Tables with columns of several kinds, of which 30 % of the entries are hidden: the Estimator beside scikit-learn's imputers.

    python -m benchmarks.imputation.mixed --data wine diabetes acc --seeds 0 1 2

Entries are hidden at random, every method completes the table, and what was hidden is compared with what was filled in: numbers, counts and
ranks of ordinals by the root mean squared error, of columns divided by their standard deviation; classes and booleans by accuracy. The
mean over columns of a kind, then over seeds, with the standard deviation over seeds. Ordinals and classes are rounded to what the table may
contain. scikit-learn's imputers are given standardised columns, classes as columns of zeros and ones ("one-hot") or as ranks of their
names ("ranks"); IterativeImputer has its defaults apart from its estimator.

* wine: scikit-learn's wine. The class is text, flavanoids are an ordinal of four equal parts, magnesium a count, and malic acid a boolean:
  whether it is above its median.
* diabetes: scikit-learn's diabetes, not scaled, with its target. Sex is text, the body mass index an ordinal of four equal parts, age a
  count, and s6 a boolean: whether it is above its median.
* breast_cancer: scikit-learn's breast_cancer, its ten means. The diagnosis is text, mean radius an ordinal of four equal parts, and mean
  symmetry a boolean: whether it is above its median.
* acc: 92 patients of miniACC in POLYVAE_DATA/tcga_acc_mini: the clinical table without dates and columns of one value, with its stages as
  ordinals, beside the 10 columns of each of five omics that vary most. 30 % of what was measured is hidden.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.linear_model import BayesianRidge

RATE = 0.3
STAGES = {
    "pathologic_stage": ["stage i", "stage ii", "stage iii", "stage iv"],
    "pathology_T_stage": ["t1", "t2", "t3", "t4"],
    "MethyLevel": ["CIMP-low", "CIMP-intermediate", "CIMP-high"],
}
DROPPED = [
    "patientID",
    "date_of_initial_pathologic_diagnosis",
    "tumor_tissue_site",
    "days_to_death",
    "ethnicity",
]
KINDS = ("real", "count", "ordinal", "class")
Frames = dict[str, pd.DataFrame]


class Mixed(NamedTuple):
    """Tables with the kind of each of their columns: modality -> column -> one of ``KINDS``."""

    frames: Frames
    kinds: dict[str, dict[str, str]]


def quarters(values: pd.Series) -> pd.Series:
    """An ordinal of four parts with equally many samples."""
    return pd.qcut(values, 4, labels=["lowest", "low", "high", "highest"])


def wine() -> Mixed:
    given = datasets.load_wine(as_frame=True)
    table = given.data.copy()
    table["flavanoids"] = quarters(table["flavanoids"])
    table["magnesium"] = table["magnesium"].round().astype(int)
    table["malic_acid"] = table["malic_acid"] > table["malic_acid"].median()
    table["cultivar"] = given.target.map({0: "first", 1: "second", 2: "third"})
    return described({"table": table})


def diabetes() -> Mixed:
    given = datasets.load_diabetes(as_frame=True, scaled=False)
    table = given.data.copy()
    table["sex"] = table["sex"].map({1.0: "one", 2.0: "two"})
    table["bmi"] = quarters(table["bmi"])
    table["age"] = table["age"].round().astype(int)
    table["s6"] = table["s6"] > table["s6"].median()
    table["progression"] = given.target
    return described({"table": table})


def breast_cancer() -> Mixed:
    given = datasets.load_breast_cancer(as_frame=True)
    table = given.data[[name for name in given.data if name.startswith("mean")]].copy()
    table["mean radius"] = quarters(table["mean radius"])
    table["mean symmetry"] = table["mean symmetry"] > table["mean symmetry"].median()
    table["diagnosis"] = given.target.map({0: "malignant", 1: "benign"})
    return described({"table": table})


def acc() -> Mixed:
    root = os.environ.get("POLYVAE_DATA")
    if root is None:
        raise SystemExit("set POLYVAE_DATA to the folder that contains tcga_acc_mini")
    folder = Path(root) / "tcga_acc_mini"
    clinical = pd.read_csv(folder / "clinical.csv", index_col=0, na_values=["--"]).drop(columns=DROPPED)
    for name, levels in STAGES.items():
        if name in clinical:
            clinical[name] = pd.Categorical(clinical[name], levels, ordered=True)
    clinical = clinical[[name for name in clinical if clinical[name].nunique() > 1]]
    with np.load(folder / "tcga_acc_mini.npz") as file:
        ids = file["patients"].tolist()
        frames = {"clinical": clinical.loc[ids]}
        for key in (each.removeprefix("x_") for each in file if each.startswith("x_")):
            x, names = file[f"x_{key}"], file[f"feat_{key}"]
            chosen = np.sort(np.argsort(-np.nanvar(x, 0))[:10])
            frames[key] = pd.DataFrame(x[:, chosen].astype(float), ids, names[chosen].tolist())
    return described(frames)


TABLES: dict[str, Callable[[], Mixed]] = {
    "wine": wine, "diabetes": diabetes, "breast_cancer": breast_cancer, "acc": acc
}  # fmt: skip


def described(frames: Frames) -> Mixed:
    return Mixed(
        frames,
        {name: {str(column): kind(table[column]) for column in table} for name, table in frames.items()},
    )


def kind(values: pd.Series) -> str:
    if isinstance(values.dtype, pd.CategoricalDtype):
        return "ordinal" if values.dtype.ordered else "class"
    if values.dtype == bool or values.dtype == object or pd.api.types.is_string_dtype(values):
        return "class"
    known = values.dropna()
    whole = bool(((known == known.round()) & (known >= 0)).all())
    return "count" if whole and known.max() > 1 else "real"


def hidden(data: Mixed, seed: int) -> tuple[Frames, dict[str, NDArray[np.bool_]]]:
    """The tables with 30 % of the measured entries missing, and which these are. Every column and row keeps some."""
    rng, frames, masks = np.random.default_rng(seed), {}, {}
    for name, table in data.frames.items():
        seen = table.notna().to_numpy()
        mask = seen & (rng.random(table.shape) < RATE)
        alone = seen.any(1) & ~(seen & ~mask).any(1)
        mask[alone] = False
        masks[name] = mask
        plain = table.astype({c: object for c in table if table[c].dtype == bool})
        frames[name] = plain.mask(mask)
    return frames, masks


# ---- methods -----------------------------------------------------------------------------------------------------


class Coded(NamedTuple):
    """A matrix for imputers of numbers: standardised, NaN where missing, and how it is read back."""

    x: NDArray[np.float64]
    read: Callable[[NDArray[np.float64]], Frames]


def coded(data: Mixed, given: Frames, one_hot: bool) -> Coded:
    """Columns side by side; classes as columns of zeros and ones, or as ranks of their names."""
    parts, readers = list[NDArray[np.float64]](), list[tuple[str, str, Any, int]]()
    for name, table in given.items():
        for column in table:
            values, how = table[column], data.kinds[name][str(column)]
            levels: list[Any] | None = None
            if how in ("real", "count"):
                block = values.to_numpy(np.float64)[:, None]
            else:
                own = values.dtype.categories if how == "ordinal" else sorted(values.dropna().unique())
                levels = list(own)
                codes = np.array(
                    [levels.index(v) if v == v and v is not None else np.nan for v in values.astype(object)]
                )
                wide = how == "class" and one_hot and len(levels) > 2
                block = codes[:, None]
                if wide:
                    block = np.where(np.isnan(block), np.nan, codes[:, None] == np.arange(len(levels)))
            readers.append((name, str(column), levels, block.shape[1]))
            parts.append(block)
    x = np.concatenate(parts, 1)
    mean, scale = np.nanmean(x, 0), np.nanstd(x, 0)
    scale = np.where(scale > 0, scale, 1)

    def read(filled: NDArray[np.float64]) -> Frames:
        found, at = {name: pd.DataFrame(index=table.index) for name, table in given.items()}, 0
        raw = filled * scale + mean
        for name, column, levels, width in readers:
            block, at = raw[:, at : at + width], at + width
            if levels is None:
                found[name][column] = block[:, 0]
            else:
                codes = (
                    block.argmax(1)
                    if width > 1
                    else np.clip(np.rint(block[:, 0]), 0, len(levels) - 1).astype(int)
                )
                found[name][column] = pd.Series(
                    [levels[code] for code in codes], given[name].index, dtype=object
                )
        return found

    return Coded((x - mean) / scale, read)


def by_matrix(make: Callable[[int], Any], one_hot: bool = True) -> Callable[[Mixed, Frames, int], Frames]:
    def run(data: Mixed, given: Frames, seed: int) -> Frames:
        matrix = coded(data, given, one_hot)
        return matrix.read(make(seed).fit_transform(matrix.x))

    return run


def iterative(estimator: Callable[[int], Any]) -> Callable[[int], Any]:
    return lambda seed: IterativeImputer(estimator(seed), random_state=seed)


def ours(data: Mixed, given: Frames, seed: int) -> Frames:
    import polyvae as pv

    return dict(pv.Estimator(seed=seed, id=False).fit(given).impute(given))


def trees(seed: int) -> Any:
    return ExtraTreesRegressor(50, random_state=seed)


METHODS: dict[str, Callable[[Mixed, Frames, int], Frames]] = {
    "mean, majority": by_matrix(lambda _: SimpleImputer()),
    "k-NN": by_matrix(lambda _: KNNImputer()),
    "iterative, BayesianRidge, one-hot": by_matrix(iterative(lambda _: BayesianRidge())),
    "iterative, BayesianRidge, ranks": by_matrix(iterative(lambda _: BayesianRidge()), False),
    "iterative, ExtraTrees, one-hot": by_matrix(iterative(trees)),
    "iterative, ExtraTrees, ranks": by_matrix(iterative(trees), False),
    "polyvae": ours,
}


def errors(data: Mixed, filled: Frames, masks: dict[str, NDArray[np.bool_]]) -> dict[str, float]:
    """Kind -> the mean over its columns of the RMSE of standardised values, or of the accuracy."""
    found: dict[str, list[float]] = {each: [] for each in KINDS}
    for name, table in data.frames.items():
        for at, column in enumerate(table):
            mask, how = masks[name][:, at], data.kinds[name][str(column)]
            if not mask.any():
                continue
            true, guess = table[column], filled[name][column]
            if how == "class":
                same = true.astype(str).to_numpy()[mask] == guess.astype(str).to_numpy()[mask]
                found[how].append(float(same.mean()))
                continue
            if how == "ordinal":
                true, guess = ranks(true, true), ranks(guess, true)
            a, b = true.to_numpy(np.float64), guess.to_numpy(np.float64)
            scale = np.nanstd(a)
            if scale > 0:
                found[how].append(float(np.sqrt(np.mean((a - b)[mask] ** 2)) / scale))
    return {each: float(np.mean(values)) for each, values in found.items() if values}


def ranks(values: pd.Series, like: pd.Series) -> pd.Series:
    """The ranks of the levels of an ordinal."""
    places = {str(level): rank for rank, level in enumerate(like.dtype.categories)}
    return values.astype(object).map(lambda level: places.get(str(level), np.nan))


# ---- command -----------------------------------------------------------------------------------------------------


def page(entries: Sequence[dict[str, Any]]) -> str:
    """One table: data, method, and each kind with its standard deviation over seeds."""
    heads = ["real, RMSE", "count, RMSE", "ordinal, RMSE", "class, accuracy"]
    lines = [f"| data | method | {' | '.join(heads)} | seconds |", f"|{'---|' * 7}"]
    for data in dict.fromkeys(entry["data"] for entry in entries):
        for method in dict.fromkeys(entry["method"] for entry in entries if entry["data"] == data):
            own = [entry for entry in entries if (entry["data"], entry["method"]) == (data, method)]
            cells = []
            for each in KINDS:
                values = [entry["errors"][each] for entry in own if each in entry["errors"]]
                cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "–")
            seconds = np.mean([entry["seconds"] for entry in own])
            lines.append(f"| {data} | {method} | {' | '.join(cells)} | {seconds:.1f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.imputation.mixed", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--data", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, help="a JSON file; the table is written beside it, as Markdown")
    chosen = parser.parse_args(arguments)
    entries: list[dict[str, Any]] = []
    for name in chosen.data:
        data = TABLES[name]()
        for seed in chosen.seeds:
            given, masks = hidden(data, seed)
            for method in chosen.methods:
                start = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    filled = METHODS[method](data, given, seed)
                seconds = round(time.perf_counter() - start, 2)
                found = errors(data, filled, masks)
                entries.append(
                    {"data": name, "seed": seed, "method": method, "seconds": seconds, "errors": found}
                )
                print(f"{name}, seed {seed}, {method}: {found} in {seconds} s", file=sys.stderr, flush=True)
                if chosen.out is not None:
                    chosen.out.parent.mkdir(parents=True, exist_ok=True)
                    chosen.out.write_text(json.dumps(entries, indent=1))
                    chosen.out.with_suffix(".md").write_text(page(entries) + "\n")
    print(page(entries))


if __name__ == "__main__":
    main()

"""Batches as covariates: CITE-seq of two panels with partly shared proteins, and simulated cells with a known batch effect.

    python -m benchmarks.citeseq                 # POLYVAE_DATA/citeseq_pbmc_scvi, 200 cells of each of two batches
    python -m benchmarks.citeseq --simulated
    python -m benchmarks.citeseq --brief --seeds 8      # RNA -> protein by the Estimator and simple methods alone
    python -m benchmarks.citeseq --estimator     # also pv.Estimator with and without the covariate; no third batch
    python -m benchmarks.citeseq --third         # the third batch alone, also by pv.Estimator

RNA is 500 highly variable genes, normalised by library size, proteins are counts; both on a logarithmic scale, standardised with the
training cells. The first panel lacks 15 of the 29 proteins, which are missing entries. For each seed a fifth of the cells of each batch
is held out. ``pv.Estimator`` is given the counts of the same genes and of the proteins as they are, and the batch as a table of one column;
its medians of the proteins are compared on the logarithmic scale, as those of the others are. Simple methods are fitted on
both scales: "logs of counts" is log(1 + x) of the counts, with one scale for all genes, which is what the Estimator chooses. Printed, as
means and standard deviations over seeds:

    RNA -> protein   RMSE, in standard deviations, and Pearson correlation, means over proteins, of held-out cells, beside ridge
                     regression (with the batch as a column) and PCA with nearest neighbours; Pearson for each protein; and RMSE with its
                     difference to the ridge regression of the same seed
    mixing           iLISI of the batches in the embedding of all cells, with and without the covariate
    structure        NMI and ARI of k-means of the embedding with cell groups: clusters of the proteins that both panels have,
                     standardised within each batch (or, of simulated cells, their types)
    a third batch    a third of the cells of one batch, all of whose features are moved by constants of their own: left out of the
                     training, then mapped by ``polyvae.extend``, or ``Estimator.extend``, beside unmapped cells, a fit of all
                     three batches, and ridge regression (with the batch as a column)
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import polyvae as pv
from polyvae.core.vae import MultimodalVAE
from polyvae.metrics.mixing import agreement, ilisi

Array = NDArray[Any]
GENES, GROUPS, MOVED = (
    500,
    6,
    1.0,
)  # genes; groups of cells; standard deviation of the constants that move the third batch
_COMPONENTS, _NEIGHBOURS = 20, 15
_PENALTIES = np.logspace(-1, 4, 11)


class Cells(NamedTuple):
    """Cells of several batches.

    Attributes:
        rna: [N, G].
        protein: [N, P], NaN where a panel lacks a protein.
        batch: [N] names.
        group: [N] numbers of groups that do not depend on the batch.
        proteins: P names.
        counts: [N, G], of the genes; None: the cells are no counts.
        scale: Mean and standard deviation of each protein, by which ``protein`` was standardised; None: it was not.
    """

    rna: Array
    protein: Array
    batch: Array
    group: Array
    proteins: list[str]
    counts: Array | None = None
    scale: tuple[Array, Array] | None = None

    def at(self, rows: Array) -> Cells:
        counts = None if self.counts is None else self.counts[rows]
        return self._replace(
            rna=self.rna[rows],
            protein=self.protein[rows],
            batch=self.batch[rows],
            group=self.group[rows],
            counts=counts,
        )


def citeseq(root: Path) -> Cells:
    """The two batches, with the genes that both have."""
    import anndata
    from sklearn.cluster import KMeans

    files = {name: anndata.read_h5ad(root / f"pbmc_{name}_protein_v3.h5ad") for name in ("10k", "5k")}
    names = sorted({str(name) for file in files.values() for name in file.uns["protein_names"]})
    genes = sorted(set.intersection(*(set(file.var_names) for file in files.values())))
    rna, raw, protein, batch = [], [], [], []
    for name, file in files.items():
        counts = file[:, genes].X
        counts = np.asarray(counts.toarray() if is_sparse(counts) else counts, dtype=np.float64)
        raw.append(counts)
        rna.append(np.log1p(1e4 * counts / counts.sum(1, keepdims=True)))
        own = np.full((file.n_obs, len(names)), np.nan)
        own[:, [names.index(str(one)) for one in file.uns["protein_names"]]] = np.log1p(
            np.asarray(file.obsm["protein_expression"], dtype=np.float64)
        )
        protein.append(own)
        batch += [name] * file.n_obs
    whole, panel, batches = np.concatenate(rna), np.concatenate(protein), np.array(batch)
    shared = ~np.isnan(panel).any(0)
    within = np.concatenate([_standardised(x[:, shared]) for x in protein])
    group = KMeans(GROUPS, n_init=10, random_state=0).fit_predict(within)
    variable = np.argsort(-np.mean([x.var(0) for x in rna], 0))[:GENES]
    return Cells(
        whole[:, variable],
        panel,
        batches,
        group,
        [name.removesuffix("_TotalSeqB") for name in names],
        np.concatenate(raw)[:, variable],
    )


def is_sparse(x: object) -> bool:
    """Whether this is a matrix of SciPy."""
    from scipy.sparse import issparse

    return bool(issparse(x))


def simulated(cells: int = 600, seed: int = 0) -> Cells:
    """Four types of cells in two batches in other proportions, whose 120 genes and 20 proteins are moved by constants of their own."""
    draws = np.random.default_rng(seed)
    batch, place = np.repeat(["a", "b"], cells // 2), np.repeat([0, 1], cells // 2)
    shares = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    group = np.array([draws.choice(4, p=shares[at]) for at in place])
    factors = 2 * draws.normal(size=(4, 6))[group] + draws.normal(size=(cells, 6))
    views = []
    for size in (120, 20):
        moved = draws.normal(size=(2, size))
        x = factors @ draws.normal(size=(6, size)) / 6**0.5 + 2 * moved[place]
        views.append(x + draws.normal(size=(cells, size)))
    return Cells(views[0], views[1], batch, group, [f"p{number}" for number in range(20)])


def with_third(cells: Cells, seed: int) -> Cells:
    """The cells, of which a third of the first batch becomes batch "third": every gene and protein is moved by its own constant."""
    draws = np.random.default_rng(1000 + seed)
    own = np.flatnonzero(cells.batch == cells.batch[0])
    chosen = draws.choice(own, len(own) // 3, replace=False)
    rna, protein, batch = cells.rna.copy(), cells.protein.copy(), cells.batch.astype("U8")
    for x in (rna, protein):
        x[chosen] += MOVED * np.nanstd(x, 0) * draws.normal(size=x.shape[1])
    batch[chosen] = "third"
    return Cells(rna, protein, batch, cells.group, cells.proteins)  # moved cells are no counts


def split(batch: Array, seed: int) -> Array:
    """Which cells are held out: a fifth of each batch, [N] bool."""
    draws, held = np.random.default_rng(seed), np.zeros(len(batch), dtype=bool)
    for name in np.unique(batch):
        own = np.flatnonzero(batch == name)
        held[draws.choice(own, len(own) // 5, replace=False)] = True
    return held


def standardise(cells: Cells, train: Array) -> Cells:
    """RNA and proteins in standard deviations of the training cells."""
    both = (cells.rna, cells.protein)
    scales = [(np.nanmean(x[train], 0), np.maximum(np.nanstd(x[train], 0), 1e-3)) for x in both]
    scaled = [(x - mean) / width for x, (mean, width) in zip(both, scales, strict=True)]
    return cells._replace(rna=scaled[0], protein=scaled[1], scale=scales[1])


def data_of(cells: Cells) -> pv.MultimodalData:
    seen = ~np.isnan(cells.protein)
    entries = None if seen.all() else {"protein": seen}
    return pv.MultimodalData(
        {"rna": cells.rna.astype(np.float32), "protein": np.nan_to_num(cells.protein).astype(np.float32)},
        entries=entries,
        covariates={"batch": cells.batch},
    )


def trained(cells: Cells, given: argparse.Namespace, seed: int, covariates: tuple[str, ...]) -> MultimodalVAE:
    data = data_of(cells)
    specs = data.modalities(covariates=covariates, network="table", params={"scale": "learned"})
    import torch

    torch.manual_seed(seed)
    model = pv.build(given.model, specs, latent=given.latent)
    pv.fit(
        model, data, epochs=given.epochs, batch_size=32, lr=2e-3, seed=seed, validation=0.0, show=False,
        precision="fp32",
    )  # fmt: skip
    return model


def predicted(model: MultimodalVAE, cells: Cells, given: argparse.Namespace) -> Array:
    import torch

    torch.manual_seed(0)
    batch = data_of(cells).take(slice(None)).observe("rna")
    found: Array = model.generate(batch, K=given.draws)["protein"].mean(0).double().numpy()
    return found


def embedded(model: MultimodalVAE, cells: Cells) -> Array:
    found: Array = model.embed(data_of(cells).take(slice(None))).double().numpy()
    return found


def estimated(train: Cells, test: Cells, seed: int) -> Array:
    """Each protein of cells of which it is given RNA and the batch alone, by the Estimator with its defaults; of counts, where they are."""
    import warnings

    import pandas as pd

    assert train.scale is not None
    mean, width = train.scale

    def tables(cells: Cells) -> dict[str, Any]:
        protein = cells.protein if cells.counts is None else np.round(np.expm1(cells.protein * width + mean))
        rna = cells.rna if cells.counts is None else cells.counts
        batch = pd.DataFrame({"batch": pd.Categorical(cells.batch, np.unique(train.batch))})
        return {"rna": pd.DataFrame(rna), "protein": pd.DataFrame(protein), "batch": batch}

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # that proteins are missing, and on which scale counts are
        est = pv.Estimator(id=False, seed=seed).fit(tables(train))
        hidden = {name: x for name, x in tables(test).items() if name != "protein"}
        statistic = "mean" if test.counts is None else "median"
        found = np.asarray(est.impute(hidden, statistic=statistic)["protein"], np.float64)
    return found if test.counts is None else (np.log1p(found) - mean) / width


def on_one_scale(cells: Cells, train: Cells) -> Cells:
    """The cells with RNA as log(1 + count), less the means of the training cells, divided by one number."""
    assert cells.counts is not None
    assert train.counts is not None
    logs = np.log1p(train.counts)
    return cells._replace(rna=(np.log1p(cells.counts) - logs.mean(0)) / np.sqrt(logs.var(0).mean()))


def conditioned(
    train: Cells, test: Cells, whole: Cells, given: argparse.Namespace, seed: int, covariates: list[str]
) -> tuple[Array, Array]:
    """The proteins of the test cells by an Estimator, given their RNA, and its embedding of all cells."""
    est = pv.Estimator(latent=given.latent, seed=seed, covariates=covariates or None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est.fit(data_of(train))
        guess = est.impute(data_of(test).observe("rna")).values("protein").double().numpy()
        z = est.transform(data_of(whole))
    return guess, np.asarray(z, np.float64)


def ridge(train: Cells, test: Cells) -> Array:
    """Each protein by ridge regression on RNA and the batch, of the training cells that have it; the penalty by leave-one-out."""
    from sklearn.linear_model import RidgeCV

    levels = np.unique(train.batch)

    def inputs(cells: Cells) -> Array:
        return np.c_[cells.rna, cells.batch[:, None] == levels[None]]

    return _each_protein(lambda x, y: RidgeCV(_PENALTIES).fit(x, y), inputs(train), inputs(test), train)


def neighbours(train: Cells, test: Cells) -> Array:
    """Each protein by the mean of nearest neighbours in the principal components of RNA, of the training cells that have it."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KNeighborsRegressor

    axes = PCA(_COMPONENTS, random_state=0).fit(train.rna)
    return _each_protein(
        lambda x, y: KNeighborsRegressor(_NEIGHBOURS).fit(x, y),
        axes.transform(train.rna),
        axes.transform(test.rna),
        train,
    )


def _each_protein(fit: Callable[[Array, Array], Any], x: Array, at: Array, train: Cells) -> Array:
    columns = []
    for y in train.protein.T:
        seen = ~np.isnan(y)
        columns.append(fit(x[seen], y[seen]).predict(at))
    return np.stack(columns, 1)


def errors(guess: Array, truth: Array) -> tuple[float, Array]:
    """The mean RMSE of the proteins, and the Pearson correlation of each, [P]; NaN for those that were not measured."""
    seen, pearson, squares = ~np.isnan(truth), np.full(truth.shape[1], np.nan), []
    for place in np.flatnonzero(seen.any(0)):
        g, t = guess[seen[:, place], place], truth[seen[:, place], place]
        squares.append(np.sqrt(np.square(g - t).mean()))
        pearson[place] = np.corrcoef(g, t)[0, 1]
    return float(np.mean(squares)), pearson


def mapped(cells: Cells, given: argparse.Namespace, seed: int) -> dict[str, float]:
    """Errors of held-out cells of the third batch, and seconds."""
    whole = with_third(cells, seed)
    held, third = split(whole.batch, seed), whole.batch == "third"
    whole = standardise(whole, ~held & ~third)
    model = trained(whole.at(~held & ~third), given, seed, ("batch",))
    test = whole.at(held & third)
    start = time.perf_counter()
    more = pv.extend(
        model, data_of(whole.at(~held & third)), epochs=given.epochs, batch_size=32, lr=1e-2, seed=seed,
        validation=0.0, show=False, precision="fp32",
    )  # fmt: skip
    seconds = time.perf_counter() - start
    as_first = test._replace(batch=np.full(len(test.batch), whole.batch[~third][0]))
    start = time.perf_counter()
    again = trained(whole.at(~held), given, seed, ("batch",))
    retrained = time.perf_counter() - start
    return {
        "RMSE, as the batch it came from": errors(predicted(model, as_first, given), test.protein)[0],
        "RMSE, mapped": errors(predicted(more, test, given), test.protein)[0],
        "RMSE, trained on all three": errors(predicted(again, test, given), test.protein)[0],
        "iLISI, as the batch it came from": ilisi(
            embedded(model, whole._replace(batch=np.where(third, as_first.batch[0], whole.batch))),
            whole.batch,
        ),
        "iLISI, mapped": ilisi(embedded(more, whole), whole.batch),
        "iLISI, trained on all three": ilisi(embedded(again, whole), whole.batch),
        "seconds, mapping": seconds,
        "seconds, training on all three": retrained,
    }


def mapped_by_estimator(cells: Cells, given: argparse.Namespace, seed: int) -> dict[str, float]:
    """As ``mapped``, by an Estimator with its defaults and by ridge regression."""
    whole = with_third(cells, seed)
    held, third = split(whole.batch, seed), whole.batch == "third"
    whole = standardise(whole, ~held & ~third)
    known, new, test = (whole.at(rows) for rows in (~held & ~third, ~held & third, held & third))
    as_first = test._replace(batch=np.full(len(test.batch), whole.batch[~third][0]))

    def error(est: pv.Estimator, cells: Cells) -> float:
        guess = est.impute(data_of(cells).observe("rna")).values("protein").double().numpy()
        return errors(guess, test.protein)[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est = pv.Estimator(latent=given.latent, seed=seed, covariates=["batch"]).fit(data_of(known))
        start = time.perf_counter()
        more = est.extend(data_of(new))
        seconds = time.perf_counter() - start
        again = pv.Estimator(latent=given.latent, seed=seed, covariates=["batch"]).fit(
            data_of(whole.at(~held))
        )
        return {
            "RMSE, Estimator, as the batch it came from": error(est, as_first),
            "RMSE, Estimator, mapped": error(more, test),
            "RMSE, Estimator, fitted to all three": error(again, test),
            "RMSE, ridge, as the batch it came from": errors(ridge(known, as_first), test.protein)[0],
            "RMSE, ridge, fitted to all three": errors(ridge(whole.at(~held), test), test.protein)[0],
            "iLISI, Estimator, mapped": ilisi(
                np.asarray(more.transform(data_of(whole)), np.float64), whole.batch
            ),
            "iLISI, Estimator, fitted to all three": ilisi(
                np.asarray(again.transform(data_of(whole)), np.float64), whole.batch
            ),
            "seconds, Estimator, mapping": seconds,
            "seconds, Estimator, fitting to all three": again.seconds_,
        }


def measured(cells: Cells, given: argparse.Namespace, seed: int) -> tuple[dict[str, float], dict[str, Array]]:
    """Numbers by name, and the Pearson correlations of each method."""
    if given.third:
        by_estimator = mapped_by_estimator(cells, given, seed)
        return mapped_named({**mapped(cells, given, seed), **by_estimator}), {}
    held = split(cells.batch, seed)
    whole = standardise(cells, ~held)
    train, test = whole.at(~held), whole.at(held)
    guesses = {"ridge": ridge(train, test), "PCA + k-NN": neighbours(train, test)}
    if cells.counts is not None:
        logs = on_one_scale(train, train), on_one_scale(test, train)
        guesses |= {"ridge, logs of counts": ridge(*logs), "PCA + k-NN, logs of counts": neighbours(*logs)}
    guesses["Estimator"] = estimated(train, test, seed)
    found: dict[str, float] = {}
    for label, covariates in () if given.brief else (("with the covariate", ("batch",)), ("without", ())):
        model = trained(train, given, seed, covariates)
        guesses[f"{given.model} {label}"] = predicted(model, test, given)
        z = embedded(model, whole)
        nmi, ari = agreement(z, whole.group)
        found |= {f"iLISI, {label}": ilisi(z, whole.batch), f"NMI, {label}": nmi, f"ARI, {label}": ari}
        if given.estimator:
            guesses[f"Estimator {label}"], z = conditioned(train, test, whole, given, seed, list(covariates))
            nmi, ari = agreement(z, whole.group)
            found |= {f"iLISI, Estimator {label}": ilisi(z, whole.batch)}
            found |= {f"NMI, Estimator {label}": nmi, f"ARI, Estimator {label}": ari}
    pearson = {}
    for name, guess in guesses.items():
        rmse, each = errors(guess, test.protein)
        found |= {f"RMSE, {name}": rmse, f"Pearson, {name}": float(np.nanmean(each))}
        if name != "ridge":
            found[f"RMSE less that of ridge, {name}"] = rmse - found["RMSE, ridge"]
        pearson[name] = each
    if given.brief or given.estimator:
        return found, pearson
    return found | mapped_named(mapped(cells, given, seed)), pearson


def mapped_named(found: dict[str, float]) -> dict[str, float]:
    return {f"third batch: {name}": value for name, value in found.items()}


def _standardised(x: Array) -> Array:
    scaled: Array = (x - x.mean(0)) / np.maximum(x.std(0), 1e-3)
    return scaled


def main(arguments: list[str] | None = None) -> None:
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--simulated", action="store_true")
    reader.add_argument("--estimator", action="store_true", help="also pv.Estimator; no third batch")
    reader.add_argument("--third", action="store_true", help="the third batch alone, also by pv.Estimator")
    reader.add_argument("--model", default="mvae")
    reader.add_argument("--latent", type=int, default=16)
    reader.add_argument("--epochs", type=int, default=200)
    reader.add_argument("--seeds", type=int, default=3)
    reader.add_argument("--first", type=int, default=0, help="the first seed")
    reader.add_argument(
        "--brief", action="store_true", help="RNA -> protein by the Estimator and simple methods alone"
    )
    reader.add_argument("--draws", type=int, default=20)
    given = reader.parse_args(arguments)
    if given.simulated:
        cells = simulated()
    else:
        root = os.environ.get("POLYVAE_DATA")
        if root is None:
            raise SystemExit(
                "POLYVAE_DATA: not set; expected the folder with citeseq_pbmc_scvi; or pass --simulated"
            )
        cells = citeseq(Path(root) / "citeseq_pbmc_scvi")
    runs = [measured(cells, given, seed) for seed in range(given.first, given.first + given.seeds)]
    for name in runs[0][0]:
        values = np.array([run[0][name] for run in runs])
        print(f"{name:58}  {values.mean():7.3f} ± {values.std():.3f}")
    methods = list(runs[0][1])
    if not methods:
        return
    print(f"\n{'Pearson':10}" + "".join(f"{name:>28}" for name in methods))
    for place, protein in enumerate(cells.proteins):
        row = [np.mean([run[1][name][place] for run in runs]) for name in methods]
        print(f"{protein:10}" + "".join(f"{value:28.3f}" for value in row))


if __name__ == "__main__":
    main()

"""Write simulated CITE-seq of three batches: two panels of antibodies that share proteins, and a batch that is mapped later.

    python docs/tutorials/make_citeseq.py FOLDER

batch_a.h5mu, batch_b.h5mu and batch_c.h5mu have RNA and protein counts; panels a and c have 20 proteins, b has 18, of which 12 are in both. The batches
contain the same five cell types in other proportions, and each batch changes the capture of every gene and antibody. truth_b.csv has the counts that panel b
would have found of the proteins that it lacks. obs["type"] is the cell type, which no real data set knows.
"""

import sys
import warnings
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

GENES, TYPES = 300, ("B", "CD4 T", "CD8 T", "NK", "monocyte")
CELLS = {"a": 500, "b": 400, "c": 250}
SHARES = {"a": [0.15, 0.35, 0.2, 0.1, 0.2], "b": [0.3, 0.2, 0.15, 0.15, 0.2], "c": [0.2, 0.3, 0.25, 0.1, 0.15]}
PROTEINS = [f"P{number:02d}" for number in range(1, 27)]
PANELS = {"a": PROTEINS[:20], "b": PROTEINS[8:], "c": PROTEINS[:20]}


def main(folder, seed=0):
    rng = np.random.default_rng(seed)
    factors = 7
    centres = 1.3 * rng.normal(size=(len(TYPES), factors))
    genes = rng.normal(size=(factors, GENES)) * (rng.random((factors, GENES)) < 0.4) * 0.5
    level = rng.normal(-0.5, 1.0, GENES)
    proteins = rng.normal(size=(factors, len(PROTEINS))) * (rng.random((factors, len(PROTEINS))) < 0.5) * 0.6
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for batch, count in CELLS.items():
        kind = rng.choice(len(TYPES), count, p=SHARES[batch])
        state = centres[kind] + 0.6 * rng.normal(size=(count, factors))
        depth = np.exp(0.3 * rng.normal(size=(count, 1)))
        rate = np.exp(state @ genes + level + 0.35 * rng.normal(size=GENES)) * depth
        rna = rng.poisson(rate * rng.gamma(4, 1 / 4, rate.shape))
        shift = 0.5 * rng.normal(size=len(PROTEINS))
        bright = 8 * np.exp(state @ proteins + 0.3 * np.tanh(state[:, :1] * state[:, 1:2]) + shift) + 2  # and antibodies that stick
        protein = rng.poisson(bright * rng.gamma(6, 1 / 6, bright.shape) * np.exp(0.15 * rng.normal(size=(count, 1))))
        ids = [f"{batch}_{number:03d}" for number in range(count)]
        obs = pd.DataFrame({"batch": batch, "type": [TYPES[each] for each in kind]}, ids)
        panel = [PROTEINS.index(name) for name in PANELS[batch]]
        parts = {
            "rna": anndata.AnnData(
                csr_matrix(rna.astype(np.float32)), obs=obs, var=pd.DataFrame(index=[f"gene{number}" for number in range(GENES)])
            ),
            "protein": anndata.AnnData(
                protein[:, panel].astype(np.float32), obs=obs.copy(), var=pd.DataFrame(index=PANELS[batch])
            ),
        }
        with warnings.catch_warnings(), mudata.set_options(pull_on_update=False):
            warnings.simplefilter("ignore", FutureWarning)
            whole = mudata.MuData(parts)
            whole.obs = obs.copy()
            whole.write(folder / f"batch_{batch}.h5mu")
        if batch == "b":
            lacking = [name for name in PROTEINS if name not in PANELS["b"]]
            table = pd.DataFrame(protein, ids, PROTEINS)[lacking]
            table.to_csv(folder / "truth_b.csv", index_label="cell")


def draw(embeddings, batch, kind, guess, real, file):
    """Two principal components of each embedding, coloured by batch and by type; and imputed against true values of one protein."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from sklearn.decomposition import PCA

    figure, axes = pyplot.subplots(1, 4, figsize=(10, 2.7), layout="constrained")
    panels = [(f"{name}, by batch", z, batch) for name, z in embeddings.items()]
    last = list(embeddings)[-1]
    panels.append((f"{last}, by type", embeddings[last], kind))
    colours = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377")
    for axis, (title, z, labels) in zip(axes, panels):
        x = PCA(2).fit_transform(z)
        order = np.random.default_rng(0).permutation(len(x))
        levels = sorted(set(labels))
        axis.scatter(*x[order].T, s=3, c=[colours[levels.index(labels[row])] for row in order], linewidths=0)
        for level, colour in zip(levels, colours):
            axis.scatter([], [], s=12, color=colour, label=level)
        axis.legend(fontsize=6, frameon=False, handletextpad=0.1, borderpad=0, loc="best")
        axis.set_title(title, fontsize=8)
        axis.set(xticks=[], yticks=[])
    axes[-1].scatter(real, guess, s=3, color="#4477aa", linewidths=0)
    ends = [min(real.min(), guess.min()), max(real.max(), guess.max())]
    axes[-1].plot(ends, ends, color="black", lw=0.7)
    axes[-1].set_title(f"{real.name}, which panel b lacks", fontsize=8)
    axes[-1].set_xlabel("measured, log(1 + count)", fontsize=7)
    axes[-1].set_ylabel("imputed", fontsize=7)
    axes[-1].tick_params(labelsize=7)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=70)
    pyplot.close(figure)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "citeseq")

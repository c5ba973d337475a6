"""How far an embedding mixes batches, and how much of the classes it keeps, as scib-metrics computes them (Luecken et al. 2022).

Of k = 90 nearest neighbours, the sample itself among them, with perplexity 30. All numbers are scaled to 0 to 1; higher is better.
Neighbours are exact, and k-means is that of scikit-learn with 10 starts, so that numbers of scib-metrics differ where its own are
approximate or depend on the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from polyvae.metrics.context import Context, check_finite
from polyvae.utils.errors import InputError
from polyvae.utils.text import counted, named

NEIGHBOURS = 90
ROWS = 20_000  # samples, chosen at random
_MEGABYTES = 64  # of distances at a time
_TOLERANCE, _STEPS = 1e-5, 50  # of the entropy, and of the search for the width of a neighbourhood


def lisi(x: NDArray[Any], labels: ArrayLike, neighbours: int = NEIGHBOURS) -> NDArray[np.float64]:
    """The local inverse Simpson index (Korsunsky et al. 2019): how many labels there are around each sample.

    1 / Σ_l p_l², where p_l is the share of label l among the neighbours j ≠ i, weighted by exp(−β_i d_ij) with Euclidean distances d
    and the β_i at which the entropy of the weights is log(perplexity), perplexity = ⌊k / 3⌋.

    Args:
        x: [N, D].
        labels: [N].
        neighbours: k, the sample itself included; at most N.

    Returns:
        [N], from 1 to the number of labels.

    Raises:
        InputError: Fewer than six samples, or another number of labels.

    Example:
        >>> import numpy as np
        >>> from polyvae.metrics.mixing import lisi
        >>> x = np.linspace(0, 1, 40)[:, None]
        >>> lisi(x, np.arange(40) % 2, 30).round(1).max() <= 2
        True
    """
    from sklearn.neighbors import NearestNeighbors

    codes = _codes(x, labels)
    k = min(neighbours, len(x))
    if k < 6:
        raise InputError(
            f"lisi: got {len(x)} samples and neighbours={neighbours}; expected six or more; evaluate more samples"
        )
    distances, index = NearestNeighbors(n_neighbors=k).fit(x).kneighbors(x)
    others = index != np.arange(len(x))[:, None]
    weights = _weights(distances, others, np.log(k // 3))
    shares = np.stack([np.where(codes[index] == code, weights, 0).sum(1) for code in range(codes.max() + 1)])
    found: NDArray[np.float64] = 1 / np.square(shares).sum(0)
    return found


def ilisi(x: NDArray[Any], batches: ArrayLike, neighbours: int = NEIGHBOURS) -> float:
    """Mixing of batches: the median of LISI of the batches, less 1, divided by the number of batches less 1.

    Args:
        x: [N, D].
        batches: [N].
        neighbours: See ``lisi``.

    Raises:
        InputError: A single batch, and what ``lisi`` refuses.

    Example:
        >>> import numpy as np
        >>> from polyvae.metrics.mixing import ilisi
        >>> x = np.r_[np.linspace(0, 1, 40), np.linspace(50, 51, 40)][:, None]
        >>> ilisi(x, np.repeat([0, 1], 40), 30), round(ilisi(x, np.arange(80) % 2, 30), 2)
        (0.0, 1.0)
    """
    return (float(np.median(lisi(x, batches, neighbours))) - 1) / (_several(x, batches, "batch") - 1)


def clisi(x: NDArray[Any], labels: ArrayLike, neighbours: int = NEIGHBOURS) -> float:
    """Separation of classes: the number of classes less the median of their LISI, divided by the number of classes less 1.

    Args:
        x: [N, D].
        labels: [N].
        neighbours: See ``lisi``.

    Raises:
        InputError: A single class, and what ``lisi`` refuses.

    Example:
        >>> import numpy as np
        >>> from polyvae.metrics.mixing import clisi
        >>> clisi(np.r_[np.linspace(0, 1, 40), np.linspace(50, 51, 40)][:, None], np.repeat([0, 1], 40), 30)
        1.0
    """
    count = _several(x, labels, "class")
    return (count - float(np.median(lisi(x, labels, neighbours)))) / (count - 1)


def silhouettes(x: NDArray[Any], labels: ArrayLike) -> float:
    """Separation of classes: (1 + the mean silhouette width of the samples) / 2.

    Args:
        x: [N, D].
        labels: [N].

    Raises:
        InputError: A single class, or a class for every sample.

    Example:
        >>> import numpy as np
        >>> from polyvae.metrics.mixing import silhouettes
        >>> silhouettes(np.array([[0.0], [0.0], [1.0], [1.0]]), [0, 0, 1, 1])
        1.0
    """
    if not 1 < _several(x, labels, "class") < len(x):
        raise InputError("silhouettes: got a class for every sample; expected fewer; check the labels")
    return (1 + float(_widths(x, _codes(x, labels)).mean())) / 2


def silhouettes_of_batches(x: NDArray[Any], labels: ArrayLike, batches: ArrayLike) -> float:
    """Mixing of batches within classes: 1 − |silhouette width of the batches|, averaged over samples, then over classes.

    A class with one batch, or with a batch for every sample, does not count.

    Args:
        x: [N, D].
        labels: [N].
        batches: [N].

    Returns:
        The mean, or NaN if no class counts.

    Example:
        >>> import numpy as np
        >>> from polyvae.metrics.mixing import silhouettes_of_batches
        >>> silhouettes_of_batches(np.array([[0.0], [0.0], [1.0], [1.0]]), [0, 0, 0, 0], [0, 0, 1, 1])
        0.0
    """
    classes, codes, means = _codes(x, labels), _codes(x, batches), []
    for own in np.unique(classes):
        rows = classes == own
        if 1 < len(np.unique(codes[rows])) < rows.sum():
            means.append(float((1 - np.abs(_widths(x[rows], codes[rows]))).mean()))
    return float(np.mean(means)) if means else float("nan")


def agreement(x: NDArray[Any], labels: ArrayLike) -> tuple[float, float]:
    """Normalised mutual information and adjusted Rand index of the classes and as many clusters of k-means.

    Args:
        x: [N, D].
        labels: [N].

    Example:
        >>> import numpy as np
        >>> from polyvae.metrics.mixing import agreement
        >>> agreement(np.array([[0.0], [0.1], [5.0], [5.1]]), [0, 0, 1, 1])
        (1.0, 1.0)
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    codes = _codes(x, labels)
    clusters = KMeans(_several(x, labels, "class"), n_init=10, random_state=0).fit_predict(x)
    return float(normalized_mutual_info_score(codes, clusters)), float(adjusted_rand_score(codes, clusters))


def batches(context: Context) -> dict[str, Any]:
    """Mixing of the levels of each covariate, and classes, in the embedding of the held-out samples.

    ``ilisi_NAME`` for each covariate with levels; with labels also ``silhouette_batch_NAME``, and ``clisi``, ``silhouette_label``,
    ``nmi`` and ``ari`` of the labels. Empty for data without a covariate that has several levels, or with fewer than 6 samples; a note
    has the reason, where the metric was asked for by name or the data have covariates.

    Args:
        context: The evaluation context.
    """
    data = context.data
    levels = {name: np.asarray(x) for name, x in data.covariates.items() if not isinstance(x, torch.Tensor)}
    rows = data.mask.any(0).nonzero()[:, 0].cpu()
    if len(rows) > ROWS:
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(context.seed("batches")))
        rows = rows[chosen[:ROWS]].sort().values
    names = list(levels)
    levels = {name: x[rows.numpy()] for name, x in levels.items() if len(np.unique(x[rows.numpy()])) > 1}
    if not levels or len(rows) < 6:
        if data.covariates or "metrics" in context.config.model_fields_set:
            context.note(f"no mixing of batches: {_reason(names, len(data.covariates), len(rows))}")
        return {}
    step = context.step()
    z = torch.cat([context.model.embed(data.take(part)).cpu() for part in torch.split(rows, step)])
    check_finite("batches", z)
    x = z.double().numpy()
    found: dict[str, Any] = {f"ilisi_{name}": ilisi(x, own) for name, own in levels.items()}
    classes = None if data.labels is None else data.labels.cpu()[rows].numpy()
    if classes is None or len(np.unique(classes[classes >= 0])) < 2:
        return found
    known = classes >= 0
    x, classes = x[known], classes[known]
    for name, own in levels.items():
        width = silhouettes_of_batches(x, classes, own[known])
        found |= {} if np.isnan(width) else {f"silhouette_batch_{name}": width}
    nmi, ari = agreement(x, classes)
    return found | {
        "clisi": clisi(x, classes),
        "silhouette_label": silhouettes(x, classes),
        "nmi": nmi,
        "ari": ari,
    }


def _reason(names: Sequence[str], covariates: int, rows: int) -> str:
    """Why there is no mixing of batches, given the covariates with levels."""
    if rows < 6:
        return f"{counted(rows, 'sample', 'samples')} evaluated; six or more are needed"
    if names:
        return f"one level of {named(names)} among the samples evaluated; two or more are needed"
    if covariates:
        return "the covariates are numbers; one with levels is needed, such as the text of a batch"
    return "the data have no covariates; name them with covariates="


def _widths(x: NDArray[Any], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """The silhouette width of each sample, from some rows of the matrix of distances at a time."""
    from sklearn import config_context
    from sklearn.metrics import silhouette_samples

    with config_context(working_memory=_MEGABYTES):
        found: NDArray[np.float64] = silhouette_samples(x, codes)
    return found


def _codes(x: NDArray[Any], labels: ArrayLike) -> NDArray[np.int64]:
    given = np.asarray(labels)
    if given.shape != (len(x),):
        raise InputError(
            f"mixing: got labels of shape {given.shape}; expected ({len(x)},), one per sample; pass one for each sample"
        )
    return np.unique(given, return_inverse=True)[1].astype(np.int64)


def _several(x: NDArray[Any], labels: ArrayLike, what: str) -> int:
    count = int(_codes(x, labels).max()) + 1
    if count < 2:
        raise InputError(f"mixing: got a single {what}; expected two or more; there is nothing to compare")
    return count


def _weights(
    distances: NDArray[np.float64], others: NDArray[np.bool_], entropy: float
) -> NDArray[np.float64]:
    """exp(−β d), normalised over the others, with the β of each row found by bisection: [N, k] -> [N, k]."""
    beta = np.ones(len(distances))
    low, high = np.full(len(beta), -np.inf), np.full(len(beta), np.inf)
    for step in range(_STEPS + 1):
        raw = np.where(others, np.exp(-distances * beta[:, None]), 0)
        total = raw.sum(1)
        safe = np.where(total > 0, total, 1)
        found = np.where(total > 0, np.log(safe) + beta * (distances * raw).sum(1) / safe, 0)
        wide, open_ = found - entropy, np.abs(found - entropy) >= _TOLERANCE
        if step == _STEPS or not open_.any():
            break
        low, high = np.where(open_ & (wide > 0), beta, low), np.where(open_ & (wide <= 0), beta, high)
        with np.errstate(invalid="ignore"):
            middle = (low + high) / 2
        up = np.where(np.isinf(high), beta * 2, middle)
        down = np.where(np.isinf(low), beta / 2, middle)
        beta = np.where(open_, np.where(wide > 0, up, down), beta)
    weights: NDArray[np.float64] = raw / safe[:, None]
    return weights

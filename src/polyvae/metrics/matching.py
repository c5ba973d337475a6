"""Matching between modalities: whether a sample, encoded from one modality, is next to itself encoded from another.

FOSCTTM, the fraction of samples closer than the true match (Liu et al. 2019), is computed as in GLUE (Cao & Gao 2022): a mean over both
directions of the share of all samples of the other modality that are strictly closer to a sample than its own match. 0: every match is the
nearest; 0.5: at random. Here a sample at the same distance as the match counts as half a closer one. Without ties this is GLUE's number;
with ties theirs would be 0 for an embedding that is constant.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polyvae.metrics.context import Context, check_finite, subsample
from polyvae.utils.errors import InputError

ROWS = 2000
KS = (1, 5, 10)
_ROWS = 1000  # rows of the matrix of distances that are computed together


class Matching(NamedTuple):
    """How well two embeddings of the same samples match.

    Attributes:
        foscttm: The fraction of samples closer than the true match, 0 to 1.
        recall: k -> the share of samples whose match is among their k nearest, a mean over both directions.
        chance: k -> k / N, the recall at random.
        rows: N.
    """

    foscttm: float
    recall: dict[int, float]
    chance: dict[int, float]
    rows: int


def matching(context: Context, *, rows: int = ROWS) -> dict[str, Any]:
    """``foscttm`` and ``recall_at_10``, means over pairs of modalities, of the posterior means of z given each modality alone.

    ``matching`` has the details: modality -> modality -> the numbers of ``match``. Of each pair at most ``rows`` held-out samples that have
    both are used, chosen at random. Recall depends on their number, ``rows``; at random it is k / rows. Empty without a shared latent.
    """
    model = context.model
    names = [
        name
        for name, net in model.modalities.items()
        if net.encoder is not None and name in context.data.names
    ]
    if not model.shared or len(names) < 2:
        return {}
    pairs = list(combinations(names, 2))
    context.report.start("matching", len(pairs))
    found: dict[str, dict[str, Any]] = {}
    for number, (a, b) in enumerate(pairs):
        both = context.data.mask[[context.data.names.index(name) for name in (a, b)]].all(0).cpu()
        context.report.advance()
        if int(both.sum()) < 2:
            continue
        few = subsample(context.data, rows, context.seed("matching/rows", number), both)
        embedded = []
        for name in (a, b):
            parts = [model.embed(batch.observe(name)).cpu() for batch in few.batches(context.batch_size)]
            embedded.append(torch.cat(parts))
            check_finite("matching", embedded[-1])
        each = match(embedded[0], embedded[1])
        found.setdefault(a, {})[b] = {
            "foscttm": each.foscttm,
            "recall": {str(k): value for k, value in each.recall.items()},
            "rows": each.rows,
        }
    cells = [cell for row in found.values() for cell in row.values()]
    if not cells:
        return {}
    result = {"foscttm": sum(cell["foscttm"] for cell in cells) / len(cells)}
    recalls = [cell["recall"]["10"] for cell in cells if "10" in cell["recall"]]
    if recalls:
        result["recall_at_10"] = sum(recalls) / len(recalls)
    return result | {"matching": found}


def match(x: Any, y: Any, ks: tuple[int, ...] = KS) -> Matching:
    """FOSCTTM and recall@k of two embeddings of the same samples.

    Distances are Euclidean. A tie with the match counts as half a closer sample in FOSCTTM, and in recall as in a random order.

    Args:
        x: [N, D], sample i of one modality.
        y: [N, D], sample i of the other.
        ks: The numbers of nearest samples; those above N are left out.

    Returns:
        The numbers, means over both directions.

    Raises:
        InputError: Shapes that differ, fewer than two samples, or values that are not finite.

    References:
        Liu, J., et al. (2019). Jointly embedding multiple single-cell omics measurements. WABI.
        Cao, Z.-J., & Gao, G. (2022). Multi-omics single-cell data integration and regulatory inference with graph-linked embedding.
        Nature Biotechnology, 40, 1458-1466.

    Example:
        >>> import torch
        >>> from polyvae.metrics import match
        >>> x = torch.eye(4)
        >>> match(x, x).foscttm, match(x, x).recall[1]
        (0.0, 1.0)
        >>> match(x, x.roll(1, 0)).recall[1]
        0.0
    """
    x, y = (torch.as_tensor(part).double() for part in (x, y))
    if x.ndim != 2 or x.shape != y.shape or len(x) < 2:
        raise InputError(
            f"match: got shapes {tuple(x.shape)} and {tuple(y.shape)}; expected two of one shape [N, D], with 2 samples or more; sample i "
            "of one is sample i of the other"
        )
    check_finite("match", torch.cat([x, y], 1))
    size = len(x)
    closer, tied = (torch.cat(parts) for parts in zip(_ranks(x, y), _ranks(y, x), strict=True))
    used = [k for k in ks if k <= size]
    return Matching(
        float(((closer + tied / 2) / size).mean()),
        {k: float(((k - closer) / (tied + 1)).clamp(0, 1).mean()) for k in used},
        {k: k / size for k in used},
        size,
    )


def _ranks(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of x, how many rows of y are closer than its match, and how many others are at the same distance: [N], [N]."""
    closer, tied = [], []
    for start in range(0, len(x), _ROWS):
        part = x[start : start + _ROWS]
        distance = torch.cdist(part, y, compute_mode="donot_use_mm_for_euclid_dist")
        own = distance[torch.arange(len(part)), start + torch.arange(len(part))][:, None]
        closer.append((distance < own).sum(1).double())
        tied.append((distance == own).sum(1).double() - 1)
    return torch.cat(closer), torch.cat(tied)

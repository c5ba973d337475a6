"""Pairs of samples of equal label, drawn from several collections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyvae.utils.seeds import permutation


def pair_by_label(
    labels: Sequence[NDArray[Any]], count: int, *key: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``count`` tuples of one sample from each of M collections, all of the same label.

    Labels occur as often as in the first collection. The i-th tuple of a label takes the i-th of a random permutation of that label's
    samples in each collection; a permutation that runs out is followed by another one. So each sample is used equally often, up to one.

    Args:
        labels: M arrays of labels, [n_m] each. Labels that a collection lacks are left out.
        count: The number of tuples.
        key: What the permutations are a function of.

    Returns:
        The labels [count], and for each collection the row of the sample, [M, count].
    """
    known = sorted(set.intersection(*({int(x) for x in np.unique(own)} for own in labels)))
    first = np.flatnonzero(np.isin(labels[0], known))
    label = labels[0][first[_repeated(len(first), count, *key, 0)]].astype(np.int64)
    rows = np.empty((len(labels), count), dtype=np.int64)
    for value in known:
        places = np.flatnonzero(label == value)
        for number, own in enumerate(labels):
            members = np.flatnonzero(own == value)
            rows[number, places] = members[_repeated(len(members), len(places), *key, 1, value, number)]
    return label, rows


def pair_freely(sizes: Sequence[int], count: int, *key: int) -> NDArray[np.int64]:
    """``count`` tuples of one sample from each of M collections, whatever their labels: [M, count]."""
    return np.stack([_repeated(size, count, *key, 2, number) for number, size in enumerate(sizes)])


def _repeated(size: int, count: int, *key: int) -> NDArray[np.int64]:
    """The first ``count`` numbers of one permutation of 0 .. size - 1 after another."""
    rounds = max(1, -(-count // size))
    return np.concatenate([permutation(size, *key, turn) for turn in range(rounds)])[:count]

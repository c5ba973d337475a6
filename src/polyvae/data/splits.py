"""Splits: which rows belong to which part of the data. Groups (patients, writers) are never divided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.data.checks import one_each
from polyvae.utils.arrays import numpy_array
from polyvae.utils.errors import InputError
from polyvae.utils.seeds import fold_in

PARTS = {"train": 0.8, "validation": 0.1, "test": 0.1}
"""The shares of a random split where none are given."""


def drawn(
    fractions: Mapping[str, float] | None, count: int, groups: NDArray[Any] | None, seed: int
) -> dict[str, Tensor]:
    """Random splits of ``count`` rows: name -> row numbers.

    Raises InputError: fractions that are not positive shares that add to 1, or a split that would stay empty.
    """
    if not isinstance(fractions, Mapping | None):
        raise InputError(
            f"split: got fractions {fractions!r}; expected a mapping from names to shares, such as {PARTS}; an "
            "existing split is data.part(name)"
        )
    shares = dict(PARTS if fractions is None else fractions)
    if not shares or any(not share > 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise InputError(
            f"split: got fractions {shares}; expected positive shares that add to 1; such as {PARTS}"
        )
    return _deal(shares, count, groups, torch.Generator().manual_seed(fold_in(seed, "split")))


def check_groups(groups: Any, count: int) -> NDArray[Any] | None:
    """[N] group names."""
    if groups is None:
        return None
    given = numpy_array("groups", groups)
    one_each("groups", given.shape, count)
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        raise InputError(
            f"groups: got {int((~np.isfinite(given)).sum())} values that are NaN or infinite; expected a group per sample; "
            "give each sample without one a separate group"
        )
    return given.copy()


def check_splits(splits: Mapping[str, Any] | None, count: int) -> dict[str, Tensor]:
    """Name -> row numbers, int64; together every row exactly once."""
    if splits is None:
        return {}
    checked = {}
    for name, given in splits.items():
        rows = numpy_array(f"split {name!r}", given)
        if rows.ndim != 1 or not len(rows) or rows.dtype.kind not in "iu":
            raise InputError(
                f"split {name!r}: got {rows.dtype} of shape {rows.shape}; expected at least one row number, integers in one "
                "dimension; turn a mask into numbers with numpy.flatnonzero"
            )
        if rows.min() < 0 or rows.max() >= count:
            raise InputError(
                f"split {name!r}: got row numbers from {rows.min()} to {rows.max()}; expected 0 to {count - 1}; "
                "number the rows of this very data"
            )
        checked[name] = torch.from_numpy(rows.astype(np.int64))
    times = (
        np.bincount(np.concatenate([rows.numpy() for rows in checked.values()]), minlength=count)
        if checked
        else np.zeros(count)
    )
    for wrong, what in ((times > 1, "more than once"), (times == 0, "in no split")):
        if wrong.any():
            raise InputError(
                f"splits: got {int(wrong.sum())} rows {what}, such as row {int(wrong.argmax())}; expected each of "
                f"{count} rows in exactly one split; leave rows out with rows() first"
            )
    return checked


def check_straddling(splits: Mapping[str, Tensor], groups: NDArray[Any] | None) -> None:
    """Raises InputError: a group in two splits."""
    if groups is None:
        return
    home: dict[Any, str] = {}
    for name, rows in splits.items():
        for group in np.unique(groups[rows.numpy()]).tolist():
            if group in home:
                raise InputError(
                    f"splits: group {group!r} is in both {home[group]!r} and {name!r}; expected each group in one split; "
                    "let split() assign them"
                )
            home[group] = name


def _deal(
    shares: Mapping[str, float], count: int, groups: NDArray[Any] | None, draws: torch.Generator
) -> dict[str, Tensor]:
    """Row numbers per split: shuffled groups are laid end to end, and the middle of a group decides about its split."""
    member = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(member)
    order = torch.randperm(len(sizes), generator=draws).numpy()
    middle = sizes[order].cumsum() - sizes[order] / 2
    edges = np.cumsum(list(shares.values()))[:-1] * count
    where = np.empty(len(sizes), dtype=np.int64)
    where[order] = np.searchsorted(edges, middle, side="left")
    dealt = {
        name: torch.from_numpy(np.flatnonzero(where[member] == number)) for number, name in enumerate(shares)
    }
    for name, rows in dealt.items():
        if not len(rows):
            raise InputError(
                f"split: nothing is left for {name!r} of {count} samples in {len(sizes)} groups with shares {dict(shares)}; "
                "expected at least one sample in each; give it a larger share, or more groups"
            )
    return dealt

"""Data in memory: tensors, what of them was observed, and what is known about the rows."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.modality import Modality
from polyvae.data.checks import (
    check_factors,
    check_groups,
    check_ids,
    check_labels,
    check_scale,
    check_specs,
    check_splits,
    check_straddling,
)
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.seeds import mix

Rows = Tensor | NDArray[Any] | Sequence[int] | slice

PARTS = {"train": 0.8, "validation": 0.1, "test": 0.1}


class MultimodalData:
    """N samples in M modalities, in memory on one device. Nothing here changes: every method answers with new data.

    ``data``       name -> array [N, *shape]. Copied at the door, with zeros where missing; the order of names is that of the M axis.
                   Only files of integers mapped by ``numpy.load(..., mmap_mode="c")``, with nothing missing, stay where they are.
    ``mask``       [M, N] bool, or name -> [N], or None (all observed). A row may have nothing observed; ``fit`` refuses those.
    ``entries``    name -> [N, *shape] bool, for modalities with gaps inside.
    ``labels``     [N] integers, for evaluation only. ``ids``: N distinct names of rows. ``groups``: N group names (patients, writers);
                   no split divides a group.
    ``factors``    modality -> name -> [N], what varies in that modality alone (style, batch, site), for evaluation only: integers are
                   classes, floating-point numbers are amounts.
    ``splits``     "train", "validation", "test" -> row numbers; together every row exactly once.
    ``modalities`` the specifications; derived from the shapes (likelihood "normal") where not given.
    ``scale``      name -> factor that stored values are multiplied by when a batch is taken: images stay bytes with 1/255.
    ``card``       what is known about the data: name, source, licence. Anything that JSON can hold.
    ``seed``       what ``split``, ``hide`` and ``carve`` draw from where they are given no other.
    ``root``       the folder that the data were read from, for whoever looks for more that belongs to them; no part of the digest.

    Raises InputError: whatever Batch.of refuses, lengths that differ from N, ids or row numbers given twice, rows in no split, a group
    in two splits, labels that are not integers, factors of unknown modalities, specifications that do not fit the arrays.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        *,
        mask: Tensor | Mapping[str, Any] | None = None,
        entries: Mapping[str, Any] | None = None,
        labels: Any = None,
        ids: Any = None,
        groups: Any = None,
        splits: Mapping[str, Any] | None = None,
        modalities: Sequence[Modality] | None = None,
        scale: Mapping[str, float] | None = None,
        card: Mapping[str, Any] | None = None,
        seed: int = 0,
        factors: Mapping[str, Mapping[str, Any]] | None = None,
        root: Path | None = None,
    ) -> None:
        # Nothing is missing in a whole file of integers, so no zeros are filled in, and a copy would only take the memory twice.
        files = (
            {name: torch.as_tensor(x) for name, x in data.items() if _stays(x)}
            if mask is None and not entries
            else {}
        )
        stored = Batch.of({name: x[:, :0] if name in files else x for name, x in data.items()}, mask, entries)
        stored = stored._replace(data={name: files.get(name, x) for name, x in stored.data.items()})
        count, device = stored.size, stored.device
        extra = {} if labels is None else {"labels": check_labels(labels, count).to(device)}
        self._stored = stored._replace(extra=extra)
        self.ids = check_ids(ids, count)
        self.groups = check_groups(groups, count)
        self.factors = check_factors(factors, stored.names, count)
        self._splits = check_splits(splits, count)
        check_straddling(self._splits, self.groups)
        self._specs = check_specs(modalities, stored.data)
        self.scale = check_scale(scale, stored.names)
        self.card = dict(card or {})
        self.seed, self.root = seed, root
        self.source: MultimodalData | None = None  # of a part: the data it is a part of
        self._gaps = _gaps(stored)

    def __len__(self) -> int:
        return self._stored.size

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(x.shape[1:])}" for name, x in self._stored.data.items())
        parts = ", ".join(f"{name} {len(rows)}" for name, rows in self._splits.items()) or "none"
        return f"MultimodalData({len(self)} samples; {shapes}; splits: {parts})"

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, in the order of the M axis."""
        return self._stored.names

    @property
    def mask(self) -> Tensor:
        """[M, N] bool: was this modality of this sample observed?"""
        return self._stored.mask

    @property
    def labels(self) -> Tensor | None:
        """[N] int64, or None."""
        return self._stored.extra.get("labels")

    @property
    def device(self) -> torch.device:
        return self._stored.device

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits there are."""
        return tuple(self._splits)

    @property
    def unobserved_rows(self) -> int:
        """The number of samples of which nothing was observed."""
        return int((~self.mask.any(0)).sum())

    def modalities(self, **overrides: Any) -> list[Modality]:
        """The specifications, each with ``overrides`` applied: ``data.modalities(private=32)``."""
        fields = {field.name for field in dataclasses.fields(Modality)} - {"name", "shape"}
        for key in overrides:
            if key not in fields:
                raise InputError(
                    f"modalities: {key!r} is not a field that can be set for all; {nearest(key, fields)}"
                )
        return [dataclasses.replace(spec, **overrides) for spec in self._specs]

    # Rows

    def take(self, index: Rows) -> Batch:
        """The samples that ``index`` picks, as a batch: values scaled, ``extra`` with their labels (where there are any).

        The row numbers must lie on the host; no device is waited for.
        """
        if isinstance(index, slice):
            part = self._stored.rows(index)
            return self._scaled(part._replace(complete=not self._gaps[index].any()))
        rows = _row_numbers(index, len(self))
        return self.gather(rows.to(self.device, non_blocking=True), not bool(self._gaps[rows].any()))

    def gather(self, index: Tensor, whole: bool) -> Batch:
        """``take`` for a caller who has checked: ``index`` int64 on the data's device, ``whole`` as Batch means it."""
        stored = self._stored
        return self._scaled(
            Batch(
                {name: x.index_select(0, index) for name, x in stored.data.items()},
                stored.mask.index_select(1, index),
                {name: x.index_select(0, index) for name, x in stored.entries.items()},
                {name: x.index_select(0, index) for name, x in stored.extra.items()},
                whole,
            )
        )

    def values(self, name: str, index: Tensor | None = None) -> Tensor:
        """One modality of all samples, or of the rows ``index`` [B], scaled, zero where missing: [N, *shape] or [B, *shape]."""
        if name not in self.names:
            raise InputError(f"modality {name!r} is not in the data; {nearest(name, self.names)}")
        stored = self._stored.data[name]
        return _times(
            stored if index is None else stored.index_select(0, index.to(stored.device)), self.scale.get(name)
        )

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All samples in order, ``batch_size`` at a time; the last batch may be smaller."""
        if batch_size < 1:
            raise InputError(
                f"batches: got batch_size={batch_size}; expected 1 or more; a few hundred suit most models"
            )
        for start in range(0, len(self), batch_size):
            yield self.take(slice(start, start + batch_size))

    def rows(self, index: Rows) -> MultimodalData:
        """The samples that ``index`` picks, as data without splits. Adjacent rows share their memory with the original."""
        if isinstance(index, slice):
            index = range(*index.indices(len(self)))
        rows = _row_numbers(index, len(self))
        if not len(rows):
            raise InputError(
                "rows: got no row number; expected at least one sample; check what the data was filtered by"
            )
        first, last = int(rows[0]), int(rows[-1])
        adjacent = last - first + 1 == len(rows) and bool((rows.diff() == 1).all())
        part = self._like(self._stored.rows(slice(first, last + 1) if adjacent else rows.to(self.device)))
        part.ids = None if self.ids is None else [self.ids[row] for row in rows.tolist()]
        part.groups = None if self.groups is None else self.groups[rows.numpy()]
        part.factors = {name: {key: x[rows] for key, x in own.items()} for name, own in self.factors.items()}
        part._splits = {}
        return part

    def complete(self) -> MultimodalData:
        """The samples of which everything was observed, every entry of every modality."""
        whole = self.mask.all(0)
        for gap in self._stored.entries.values():
            whole = whole & gap.flatten(1).all(1)
        if not bool(whole.any()):
            raise InputError(
                f"complete: none of {len(self)} samples is observed in all of {', '.join(self.names)}; expected at least one; "
                "observe() fewer modalities first"
            )
        return self.rows(whole.nonzero()[:, 0].cpu())

    # What was observed

    def observe(self, *names: str) -> MultimodalData:
        """The same samples, of which only these modalities were observed."""
        return self._like(self._stored.observe(*names))

    def hide(self, rate: float, seed: int | None = None) -> MultimodalData:
        """The same samples with each observed modality of each hidden with probability ``rate``, all independently.

        A sample that would lose everything to look at keeps one of its modalities, chosen evenly; targets are not looked at. The same
        seed hides the same values.
        """
        if not 0 <= rate <= 1:
            raise InputError(f"hide: got rate={rate}; expected a probability between 0 and 1; 0.5 hides half")
        draws = torch.Generator().manual_seed(mix(self.seed if seed is None else seed, _HIDE))
        mask = self.mask.cpu()
        kept = mask & (torch.rand(mask.shape, generator=draws, dtype=torch.float64) >= rate)
        seen = mask & torch.tensor([spec.role != "target" for spec in self.modalities()])[:, None]
        # The largest of independent uniform numbers is an even choice among those that take part.
        lot = torch.rand(mask.shape, generator=draws, dtype=torch.float64).masked_fill(~seen, -1)
        spared = torch.zeros_like(mask).scatter_(0, lot.argmax(0, keepdim=True), True) & seen
        return self._like(
            self._stored.only(torch.where((kept & seen).any(0), kept, kept | spared).to(self.device))
        )

    def select(self, *names: str) -> MultimodalData:
        """The same samples in these modalities alone, in the order of the data; the others are not there at all."""
        for name in names or ("",):
            if name not in self.names:
                raise InputError(f"select: modality {name!r} is not in the data; {nearest(name, self.names)}")
        stored, kept = self._stored, [name for name in self.names if name in names]
        mask = stored.mask[[self.names.index(name) for name in kept]]
        other = self._like(
            Batch(
                {name: stored.data[name] for name in kept},
                mask,
                {name: gap for name, gap in stored.entries.items() if name in kept},
                stored.extra,
                bool(mask.all()),
            )
        )
        other._specs = tuple(spec for spec in self._specs if spec.name in kept)
        other.factors = {name: own for name, own in self.factors.items() if name in kept}
        other.scale = {name: factor for name, factor in self.scale.items() if name in kept}
        return other

    def with_labels_as(self, name: str) -> MultimodalData:
        """The same samples with their labels, one-hot, as a further modality, which is a target: decoded, never encoded.

        A label of −1 is missing.
        """
        if self.labels is None or name in self.names:
            what = "data without labels" if self.labels is None else "data that have such a modality"
            raise InputError(
                f"data: got target {name!r} for {what}; expected labels, and a new name; give another"
            )
        known = self.labels >= 0
        classes = int(self.labels.max()) + 1
        if classes < 2:
            raise InputError(
                f"data: got target {name!r} for labels up to {classes - 1}; expected two classes or more; label them"
            )
        x = (
            torch.nn.functional.one_hot(self.labels.clamp(min=0), classes).to(torch.get_default_dtype())
            * known[:, None]
        )
        stored = self._stored
        mask = torch.cat([stored.mask, known[None].to(stored.mask.device)])
        other = self._like(
            stored._replace(data={**stored.data, name: x}, mask=mask, complete=bool(mask.all()))
        )
        other._specs = (*self._specs, Modality(name, (classes,), likelihood="categorical", role="target"))
        return other

    # Parts

    @property
    def train(self) -> MultimodalData:
        return self.part("train")

    @property
    def validation(self) -> MultimodalData:
        return self.part("validation")

    @property
    def test(self) -> MultimodalData:
        return self.part("test")

    def part(self, name: str) -> MultimodalData:
        """The samples of one split."""
        if name not in self._splits:
            hint = nearest(name, self._splits) if self._splits else "there are none; make them with split()"
            raise InputError(f"data: there is no split {name!r}; {hint}")
        part = self.rows(self._splits[name])
        part.source = self
        return part

    def split(
        self, fractions: Mapping[str, float] | None = None, seed: int | None = None, groups: Any = None
    ) -> MultimodalData:
        """The same samples with fresh splits, drawn at random; no group straddles two of them.

        ``fractions`` maps names to shares of the rows that add to 1 (None: .8, .1, .1). Without groups the shares are exact to within
        a row; with groups, to within half of a group. Raises InputError where a split would stay empty.
        """
        if not isinstance(fractions, Mapping | None):
            raise InputError(
                f"split: got fractions {fractions!r}; expected a mapping from names to shares, such as {PARTS}; a split that "
                "is there is data.part(name)"
            )
        shares = dict(PARTS if fractions is None else fractions)
        if (
            not shares
            or any(not share > 0 for share in shares.values())
            or abs(sum(shares.values()) - 1) > 1e-6
        ):
            raise InputError(
                f"split: got fractions {shares}; expected positive shares that add to 1; such as {PARTS}"
            )
        fresh = self._like(self._stored)
        fresh.groups = check_groups(groups, len(self)) if groups is not None else self.groups
        draws = torch.Generator().manual_seed(mix(self.seed if seed is None else seed, _SPLIT))
        fresh._splits = _deal(shares, len(self), fresh.groups, draws)
        return fresh

    def carve(self, fraction: float, seed: int | None = None) -> tuple[MultimodalData, MultimodalData]:
        """(training, validation): a random ``fraction`` of the samples set apart, groups kept together."""
        if not 0 < fraction < 1:
            raise InputError(f"carve: got fraction={fraction}; expected a share between 0 and 1; such as 0.1")
        parted = self.split(
            {"train": 1 - fraction, "validation": fraction}, mix(self.seed if seed is None else seed, _CARVE)
        )
        return parted.train, parted.validation

    def to(self, device: torch.device | str) -> MultimodalData:
        """The same data on ``device``."""
        return self._like(self._stored.to(device))

    def digest(self) -> str:
        """32 hexadecimal digits that change with any value, mask, label, scale, split or word of the card.

        Not with factors: no training and no judge sees them, so data that gain one stay the data that a run was trained on.
        """
        state = hashlib.blake2b(digest_size=16)
        facts = {
            "card": self.card,
            "scale": self.scale,
            "splits": {name: rows.tolist() for name, rows in self._splits.items()},
        }
        state.update(json.dumps(facts, sort_keys=True, default=str).encode())
        stored = self._stored
        for name, x in [
            *stored.data.items(),
            ("mask", stored.mask),
            *stored.entries.items(),
            *stored.extra.items(),
        ]:
            state.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
            state.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return state.hexdigest()

    def _like(self, stored: Batch) -> MultimodalData:
        other = copy.copy(self)
        other._stored = stored
        other._gaps = _gaps(stored)
        return other

    def _scaled(self, batch: Batch) -> Batch:
        if not self.scale:
            return batch
        return batch._replace(data={name: _times(x, self.scale.get(name)) for name, x in batch.data.items()})


_HIDE, _SPLIT, _CARVE = 1, 2, 3  # so that one seed serves all three without their draws repeating one another


def _times(x: Tensor, factor: float | None) -> Tensor:
    if factor is None:
        return x
    return x * factor if x.is_floating_point() else x.to(torch.get_default_dtype()).mul_(factor)


def _stays(x: Any) -> bool:
    """Is it a file that can be neither written to nor hold what is not finite?"""
    return isinstance(x, np.memmap) and x.mode == "c" and x.dtype.kind in "iu" and x.ndim > 1


def _gaps(batch: Batch) -> Tensor:
    """Which rows lack a modality, on the host: [N] bool."""
    return ~batch.mask.all(0).cpu()


def _row_numbers(index: Tensor | NDArray[Any] | Sequence[int], count: int) -> Tensor:
    rows = torch.as_tensor(np.asarray(index) if not isinstance(index, Tensor) else index).cpu()
    if rows.dtype == torch.bool and rows.shape == (count,):
        return rows.nonzero()[:, 0]
    if rows.ndim != 1 or (rows.dtype.is_floating_point and len(rows)) or rows.dtype == torch.bool:
        raise InputError(
            f"rows: got {rows.dtype} of shape {tuple(rows.shape)}; expected row numbers [B], or bool ({count},); "
            "one integer per sample wanted"
        )
    rows = rows.long()
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        raise InputError(
            f"rows: got row numbers from {int(rows.min())} to {int(rows.max())}; expected 0 to {count - 1}; "
            "number the rows of this very data"
        )
    return rows


def _deal(
    shares: Mapping[str, float], count: int, groups: NDArray[Any] | None, draws: torch.Generator
) -> dict[str, Tensor]:
    """Row numbers per split: shuffled groups are laid end to end, and a group goes where its middle falls."""
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

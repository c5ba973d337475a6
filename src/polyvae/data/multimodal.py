"""Data in memory: tensors, what of them was observed, and what is known about the rows."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.core.batch import Batch, OnHost, check_mapping, check_name
from polyvae.core.modality import Modality
from polyvae.data import hiding
from polyvae.data.attributes import Attributed, check_attributes, facts, kept
from polyvae.data.automatic import changed
from polyvae.data.checks import (
    check_columns,
    check_factors,
    check_ids,
    check_labels,
    check_levels,
    check_precision,
    check_scale,
    check_specs,
    gaps_of,
    row_numbers,
)
from polyvae.data.covariates import Conditioned
from polyvae.data.digest import digest_of
from polyvae.data.kept import Kept, kept_of, stand_ins, with_gaps
from polyvae.data.sentences import unpacked
from polyvae.data.sources import Readers
from polyvae.data.splits import check_groups, check_splits, check_straddling, drawn
from polyvae.utils.arrays import scaled
from polyvae.utils.devices import to_device
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.seeds import fold_in
from polyvae.utils.text import counted, table

Rows = Tensor | NDArray[Any] | Sequence[int] | slice


class MultimodalData(Readers, Attributed, Conditioned):
    """N samples in M modalities, in memory on one device.

    An object is never modified: every method returns new data.

    Args:
        data: Name -> array [N, *shape]. The order of the names is that of the M axis. What a NumPy masked array or a pandas object marks
            as missing is a missing entry. Arrays are copied, with zeros where values are missing. SciPy sparse matrices, memory maps of
            NumPy, arrays of zarr and datasets of h5py and backed AnnData are shared and must not change: their rows are read, and become
            dense, as they are taken. What ``polyvae.text`` returns is a value too: its ids, with its specification.
        mask: Which modalities were observed: [M, N] bool, or name -> [N]. None: all. Rows of which nothing was observed are allowed
            here, and refused by ``fit``.
        entries: For modalities with missing entries, name -> [N, *shape] bool: which entries were observed. A row without any lacks the
            modality, as if the mask were False.
        labels: [N] integers, used for evaluation only. A label below 0, or marked as missing, is missing; it is −1 in ``data.labels``
            where it was marked.
        ids: N distinct names of rows.
        groups: [N] names of groups (patients, writers). No split divides a group.
        splits: Such as "train", "validation", "test" -> row numbers; together every row exactly once.
        modalities: The specifications. By default they follow from the shapes, with likelihood "normal".
        scale: Name -> factor by which stored values are multiplied when a batch is taken; 1/255 keeps images in memory as bytes.
        card: What is known about the data: name, source, licence. Anything that JSON can hold.
        seed: What ``split``, ``hide`` and ``carve`` draw from where they are given no other seed.
        factors: Modality -> name -> [N], what varies in that modality alone (style, batch, site), used for evaluation only. Integers
            are classes, floating-point numbers are amounts.
        root: The folder from which the data were read; no part of the digest.
        columns: Modality -> names of its features, for modalities of one axis. Modalities that are not named here have none.
        levels: Modality -> column of classes -> its classes. The classes of "stage" are stored as columns of zeros and ones, "stage=i",
            "stage=ii", ...; where ``columns`` has "stage" itself, as its ranks 0, 1, ...
        attributes: Name -> [N] integers, several labels of each sample, used for evaluation only; a negative one is missing.
        classes: Attribute -> names of its classes. By default their numbers.
        said: Modality -> attribute -> [N] bool, whether this modality of the sample states the attribute, as a caption may. An attribute
            that is not named is not stated. A modality that is not named states all attributes.
        parsers: Modality of text -> name of the function in ``polyvae.data.PARSERS`` that finds attributes in its sentences.
        covariates: Name -> [N], what modalities may be conditioned on (``modalities(covariates=...)``): texts, booleans or a Categorical
            of pandas are levels; other values, also integers, are numbers. None may be missing.

    Warns:
        UserWarning: Columns in double precision whose variance would be lost in the single precision of a model.

    Raises:
        InputError: What ``Batch.of`` refuses, lengths other than N, repeated ids or row numbers, rows in no split, a group in two
            splits, labels that are not integers, factors of unknown modalities, specifications that do not fit the arrays.

    Example:
        >>> import numpy as np
        >>> import polyvae as pv
        >>> data = pv.MultimodalData({"rna": np.ones((4, 3)), "atac": np.ones((4, 2))}, mask={"atac": [True, True, False, True]})
        >>> data
        MultimodalData: 4 samples, 2 modalities
          rna   (3,)  normal  0 % missing
          atac  (2,)  normal  25 % missing
          splits: none; labels: none
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
        columns: Mapping[str, Sequence[str]] | None = None,
        levels: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
        attributes: Mapping[str, Any] | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
        said: Mapping[str, Mapping[str, Any]] | None = None,
        parsers: Mapping[str, str] | None = None,
        covariates: Mapping[str, Any] | None = None,
    ) -> None:
        check_mapping("data", data)
        data, own = unpacked(data)
        named: dict[str, object] = {
            "entries": entries,
            "splits": splits,
            "scale": scale,
            "factors": factors,
            "card": card,
            "columns": columns,
            "levels": levels,
        }
        for what, given in named.items():
            if given is not None and not isinstance(given, Mapping):
                raise InputError(
                    f"{what}: got {type(given).__name__}; expected a mapping by name; pass a dictionary"
                )
        # Of what stays where it is, the batch contains the rows without columns.
        self._kept = kept_of(data)
        empty = stand_ins(self._kept, data)
        inside = {name: gap for name, gap in (entries or {}).items() if name not in self._kept}
        stored = Batch.of({**data, **empty}, mask, inside, covariates)
        masks = {name: gap for name, gap in (entries or {}).items() if name in empty}
        stored = with_gaps(stored, self._kept, masks, data)
        count, device = stored.size, stored.device
        extra = {} if labels is None else {"labels": check_labels(labels, count)}
        self._named, more = check_attributes(attributes, classes, said, parsers, stored.names, count)
        self._stored = stored._replace(extra={key: x.to(device) for key, x in {**extra, **more}.items()})
        self.ids = check_ids(ids, count)
        self.groups = check_groups(groups, count)
        self.factors = check_factors(factors, stored.names, count)
        self._splits = check_splits(splits, count)
        check_straddling(self._splits, self.groups)
        whole = {name: torch.empty(()).expand(one.shape) for name, one in self._kept.items()}
        self._specs = check_specs(modalities, {**stored.data, **whole}, own)
        check_precision(stored)
        self.scale = check_scale(scale, stored.names)
        self.columns = check_columns(columns, {spec.name: spec.shape for spec in self._specs})
        self.levels = check_levels(levels, self.columns)
        self.card = dict(card or {})
        self.seed, self.root = seed, root
        self.source: MultimodalData | None = None  # of a part: the data it is a part of
        self._gaps, self._on_host = gaps_of(stored)

    def __len__(self) -> int:
        return self._stored.size

    def __repr__(self) -> str:
        missing, rows = (~self.mask).sum(1).tolist(), []
        for spec, count in zip(self._specs, missing, strict=True):
            gaps = ", missing entries" if spec.name in self._stored.entries else ""
            share = f"{100 * count / len(self):.3g} % missing{gaps}"
            rows.append((spec.name, str(spec.shape), spec.likelihood, share))
        size = counted(len(self), "sample", "samples")
        head = f"MultimodalData: {size}, {counted(len(rows), 'modality', 'modalities')}"
        known = self._shown_covariates()
        parts = ", ".join(f"{name} {len(rows)}" for name, rows in self._splits.items()) or "none"
        labels = (
            "none"
            if self.labels is None
            else f"{np.unique(self.labels[self.labels >= 0].cpu().numpy()).size} classes"
        )
        return "\n".join([head, *table(rows), f"  splits: {parts}; labels: {labels}{known}"])

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, in the order of the M axis."""
        return self._stored.names

    @property
    def mask(self) -> Tensor:
        """Which modalities of which samples were observed: [M, N] bool."""
        return self._stored.mask

    @property
    def labels(self) -> Tensor | None:
        """[N] int64, or None."""
        return self._stored.extra.get("labels")

    @property
    def sparse(self) -> Mapping[str, Any]:
        """Modality -> SciPy matrix in compressed rows, for the modalities that are kept so."""
        return {name: one.matrix for name, one in self._kept.items() if one.sparse}

    @property
    def kept(self) -> Mapping[str, Kept]:
        """Modality -> where its rows are read, for sparse matrices and files."""
        return self._kept

    @property
    def entries(self) -> Mapping[str, Tensor]:
        """Modality -> [N, *shape] bool, which entries were observed, for the modalities with missing entries."""
        return self._stored.entries

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self._stored.device

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self._splits)

    @property
    def unobserved_rows(self) -> int:
        """The number of samples of which nothing was observed."""
        return int((~self.mask.any(0)).sum())

    def modalities(self, **overrides: Any) -> list[Modality]:
        """The specifications. Modalities with missing entries declare them (``entries=True``).

        Args:
            **overrides: Fields of Modality to set for all, such as ``data.modalities(private=32)``, or
                ``data.modalities(covariates=("batch",))``. The levels of a covariate, its mean and its standard deviation are those of
                the split "train", if there is one. ``likelihood="auto"`` chooses the likelihood of each by its values and its
                classes; see ``polyvae.data.automatic.changed``.

        Raises:
            InputError: An unknown field or covariate, with the nearest known one.
        """
        fields = {field.name for field in dataclasses.fields(Modality)} - {"name", "shape"}
        for key in overrides:
            if key not in fields:
                raise InputError(
                    f"modalities: {key!r} is not a field that can be set for all; {nearest(key, fields)}"
                )
        gaps = {name: {"entries": True} for name in self._stored.entries}
        alone = len(self._specs) == 1
        changes = {name: {**gaps.get(name, {}), **overrides} for name in self.names}
        return self.resolved([changed(self, spec, changes[spec.name], alone) for spec in self._specs])

    # Rows

    def take(self, index: Rows) -> Batch:
        """Some samples as a batch, with values scaled.

        Args:
            index: Row numbers [B], bool [N], or a slice, on the host; there is no synchronisation with a device.

        Returns:
            The batch. Its ``extra`` contains the labels [B], the attributes [B, A] and what is said of them where there are any.

        Raises:
            InputError: Row numbers out of range.
        """
        if isinstance(index, slice):
            part = self._filled(self._stored.rows(index), index)
            part = part._replace(complete=not self._gaps[index].any())
            return self._scaled(part._replace(on_host=self._host_mask(index, part.complete)))
        rows = row_numbers(index, len(self))
        return self.gather(to_device(rows, self.device), not bool(self._gaps[rows].any()), rows)

    def gather(self, index: Tensor, whole: bool, rows: Tensor) -> Batch:
        """``take`` without checks: ``index`` int64 on the data's device, ``rows`` on the host; ``whole`` is the batch's ``complete``."""
        stored = self._stored
        batch = Batch(
            {name: x.index_select(0, index) for name, x in stored.data.items()},
            stored.mask.index_select(1, index),
            {name: x.index_select(0, index) for name, x in stored.entries.items()},
            {name: x.index_select(0, index) for name, x in stored.extra.items()},
            whole,
            stored.covariates.at(index) if stored.covariates.values else stored.covariates,
            self._host_mask(rows, whole),
        )
        return self._scaled(self._filled(batch, rows))

    def _host_mask(self, rows: Tensor | slice, whole: bool) -> OnHost | None:
        """What the host knows of a batch on another device that is not ``whole``."""
        return None if whole or self._on_host is None else OnHost(self._on_host[:, rows])

    def values(self, name: str, index: Tensor | None = None) -> Tensor:
        """One modality, scaled, zero where missing.

        Args:
            name: The modality.
            index: Row numbers [B]. None: all samples.

        Returns:
            [B, *shape], or [N, *shape] for all samples.
        """
        if name not in self.names:
            raise InputError(f"modality {name!r} is not in the data; {nearest(name, self.names)}")
        stored = self._stored.data[name]
        if name in self._kept:
            mask, gap = self.mask[self.names.index(name)], self._stored.entries.get(name)
            if index is not None:
                rows = index.to(mask.device)
                mask, gap = mask[rows], None if gap is None else gap[rows]
            return scaled(self._kept[name].dense(index, mask, gap), self.scale.get(name))
        return scaled(
            stored if index is None else stored.index_select(0, index.to(stored.device)), self.scale.get(name)
        )

    def observed(self, name: str) -> Tensor:
        """Which entries of one modality were observed: [N, *shape] bool.

        Args:
            name: The modality.
        """
        if name not in self.names:
            raise InputError(f"modality {name!r} is not in the data; {nearest(name, self.names)}")
        stored = self._stored
        if name in stored.entries:
            return stored.entries[name]
        place = self.names.index(name)
        shape = self._specs[place].shape
        return stored.mask[place].view(-1, *[1] * len(shape)).expand(len(self), *shape)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Iterate over all samples in order, ``batch_size`` at a time; the last batch may be smaller."""
        if batch_size < 1:
            raise InputError(
                f"batches: got batch_size={batch_size}; expected 1 or more; a few hundred suit most models"
            )
        for start in range(0, len(self), batch_size):
            yield self.take(slice(start, start + batch_size))

    def rows(self, index: Rows) -> MultimodalData:
        """Some samples as data without splits. Adjacent rows share their memory with the original.

        Args:
            index: Row numbers [B], bool [N], or a slice.

        Raises:
            InputError: No row, or row numbers out of range.
        """
        if isinstance(index, slice):
            index = range(*index.indices(len(self)))
        rows = row_numbers(index, len(self))
        if not len(rows):
            raise InputError(
                "rows: got no row number; expected at least one sample; check what the data was filtered by"
            )
        first, last = int(rows[0]), int(rows[-1])
        adjacent = last - first + 1 == len(rows) and bool((rows.diff() == 1).all())
        part = self._like(self._stored.rows(slice(first, last + 1) if adjacent else rows.to(self.device)))
        part._kept = {name: one.part(rows.numpy()) for name, one in self._kept.items()}
        part.ids = None if self.ids is None else [self.ids[row] for row in rows.tolist()]
        part.groups = None if self.groups is None else self.groups[rows.numpy()]
        part.factors = {name: {key: x[rows] for key, x in own.items()} for name, own in self.factors.items()}
        part._splits = {}
        return part

    def complete(self) -> MultimodalData:
        """The samples of which every entry of every modality was observed.

        Raises:
            InputError: There is none.
        """
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

    def hide(
        self, rate: float, seed: int | None = None, mechanism: hiding.Mechanism = "mcar"
    ) -> MultimodalData:
        """The same samples with observed modalities hidden at random, independently given the values.

        A sample that would lose all modalities that can be encoded keeps one of them, chosen uniformly; targets are not encoded.

        Args:
            rate: The probability with which a modality of a sample is hidden, on average over the samples.
            seed: The same seed hides the same values. None: the seed of the data.
            mechanism: "mcar": the probability is the same for all samples. "mar": its log odds rise by 2 per standard deviation of the
                first principal component of another modality, the one observed most often (the first of several), which is never hidden.
                "mnar": they rise so with the first principal component of the hidden modality itself.

        Raises:
            InputError: ``rate`` is not a probability, or an unknown mechanism; values to depend on that are all equal, or "mar" for one
                modality.
        """
        encoded = torch.tensor([spec.role != "target" for spec in self.modalities()])
        given = self.seed if seed is None else seed
        mask = hiding.remaining(self._stored, encoded, rate, given, mechanism, self._kept)
        return self._like(self._stored.only(mask.to(self.device)))

    def select(self, *names: str) -> MultimodalData:
        """The same samples in these modalities alone, in the order of the data; the others are removed.

        Raises:
            InputError: An unknown modality, with the nearest known one.
        """
        for name in names or ("",):
            check_name(name)
            if name not in self.names:
                raise InputError(f"select: modality {name!r} is not in the data; {nearest(name, self.names)}")
        stored, chosen = self._stored, [name for name in self.names if name in names]
        mask = stored.mask[[self.names.index(name) for name in chosen]]
        named, extra = kept(self._named, stored.extra, chosen)
        other = self._like(
            Batch(
                {name: stored.data[name] for name in chosen},
                mask,
                {name: gap for name, gap in stored.entries.items() if name in chosen},
                extra,
                bool(mask.all()),
                stored.covariates,
            )
        )
        other._named = named
        other._specs = tuple(spec for spec in self._specs if spec.name in chosen)
        other.factors = {name: own for name, own in self.factors.items() if name in chosen}
        other.scale = {name: factor for name, factor in self.scale.items() if name in chosen}
        other.columns = {name: own for name, own in self.columns.items() if name in chosen}
        other.levels = {name: own for name, own in self.levels.items() if name in chosen}
        other._kept = {name: one for name, one in self._kept.items() if name in chosen}
        return other

    def with_labels_as(self, name: str) -> MultimodalData:
        """The same samples with their labels, one-hot, as a further modality ``name`` that is decoded, never encoded.

        A label of −1 is missing.

        Raises:
            InputError: Data without labels, fewer than two classes, or a name that is used already.
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
        present = torch.unique(self.labels).numel()
        if classes > 1000 + 10 * present:  # a column for each class
            raise InputError(
                f"data: got target {name!r} for {present} classes with numbers up to {classes - 1}; expected them numbered "
                "without large gaps; number them first, as numpy.unique(labels, return_inverse=True) does"
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
        """The samples of the split "train"."""
        return self.part("train")

    @property
    def validation(self) -> MultimodalData:
        """The samples of the split "validation"."""
        return self.part("validation")

    @property
    def test(self) -> MultimodalData:
        """The samples of the split "test"."""
        return self.part("test")

    def part(self, name: str) -> MultimodalData:
        """The samples of one split.

        Raises:
            InputError: There is no such split.
        """
        if name not in self._splits:
            hint = nearest(name, self._splits) if self._splits else "there are none; make them with split()"
            raise InputError(f"data: there is no split {name!r}; {hint}")
        part = self.rows(self._splits[name])
        part.source = self
        return part

    def split(
        self, fractions: Mapping[str, float] | None = None, seed: int | None = None, groups: Any = None
    ) -> MultimodalData:
        """The same samples with new random splits. No split divides a group.

        Args:
            fractions: Name -> share of the rows; shares add to 1. None: train .8, validation .1, test .1. Without groups they are exact to
                within a row; with groups, to within half of a group.
            seed: None: the seed of the data.
            groups: [N] names of groups. None: those of the data.

        Raises:
            InputError: Shares that are not positive or do not add to 1; a split that would be empty.
        """
        fresh = self._like(self._stored)
        fresh.groups = check_groups(groups, len(self)) if groups is not None else self.groups
        fresh._splits = drawn(fractions, len(self), fresh.groups, self.seed if seed is None else seed)
        return fresh

    def carve(self, fraction: float, seed: int | None = None) -> tuple[MultimodalData, MultimodalData]:
        """Set a random share of the samples apart; no group is divided.

        Args:
            fraction: The share, between 0 and 1.
            seed: None: the seed of the data.

        Returns:
            The training data and the validation data.
        """
        if not 0 < fraction < 1:
            raise InputError(f"carve: got fraction={fraction}; expected a share between 0 and 1; such as 0.1")
        parted = self.split(
            {"train": 1 - fraction, "validation": fraction},
            fold_in(self.seed if seed is None else seed, "carve"),
        )
        return parted.train, parted.validation

    def to(self, device: torch.device | str) -> MultimodalData:
        """The same data on ``device``."""
        return self._like(self._stored.to(device))

    def digest(self) -> str:
        """32 hexadecimal digits that change with any value, mask, label, scale, split or word of the card.

        They do not change with factors, which are used neither in training nor by judges.
        """
        about: dict[str, Any] = {
            "card": self.card,
            "scale": self.scale,
            "splits": {name: rows.tolist() for name, rows in self._splits.items()},
        }
        # Without names the digest is as it was before there were any.
        about |= {"columns": self.columns} if self.columns else {}
        about |= {"levels": self.levels} if self.levels else {}
        about |= facts(self._named) | self._facts_of_covariates()
        return digest_of(about, self._stored, self._kept)

    def replaced(
        self,
        stored: Batch,
        specs: Sequence[Modality],
        columns: Mapping[str, tuple[str, ...]],
        kept_so: Mapping[str, Kept],
        levels: Mapping[str, Mapping[str, tuple[Any, ...]]] | None = None,
    ) -> MultimodalData:
        """The same samples with other values, which are valid. Labels, ids, groups, splits and scales of what stays in place are kept."""
        named, extra = kept(self._named, self._stored.extra, stored.names)
        other = self._like(stored._replace(extra=extra, covariates=self._stored.covariates))
        other._named = named
        other._specs, other.columns, other._kept = tuple(specs), dict(columns), dict(kept_so)
        other.levels = {name: dict(own) for name, own in (levels or {}).items()}
        other.scale = {name: factor for name, factor in self.scale.items() if name in kept_so}
        other.factors = {name: own for name, own in self.factors.items() if name in stored.names}
        return other

    def _like(self, stored: Batch) -> MultimodalData:
        other = copy.copy(self)
        other._stored = stored
        other._gaps, other._on_host = gaps_of(stored)
        return other

    def _filled(self, batch: Batch, index: Tensor | slice) -> Batch:
        """The batch with its rows of the modalities that stay where they are."""
        if not self._kept:
            return batch
        rows = {
            name: one.dense(index, batch.mask[self.names.index(name)], batch.entries.get(name))
            for name, one in self._kept.items()
        }
        return batch._replace(data={name: rows.get(name, x) for name, x in batch.data.items()})

    def _scaled(self, batch: Batch) -> Batch:
        if not self.scale:
            return batch
        return batch._replace(data={name: scaled(x, self.scale.get(name)) for name, x in batch.data.items()})

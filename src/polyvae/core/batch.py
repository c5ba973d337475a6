"""Data of several modalities, and which of it was observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polyvae.core.covariates import Covariates, covariates_of
from polyvae.utils.arrays import observed_tensor, whole_tensor
from polyvae.utils.devices import to_device
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.text import counted, table


class OnHost:
    """The mask [M, B] of a batch on a device, as known on the host. As no tensor, nothing moves it to the device with the batch."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask


class Batch(NamedTuple):
    """B samples in M modalities. Missing data is expressed by the mask and the entry masks alone.

    The two agree: a modality without any observed entry is missing from the sample, and no entry of a
    missing modality is observed.

    ``Batch.of`` validates what it is given; use it to make a batch. A batch is never modified: every
    method returns a new one.

    Args:
        data: name -> [B, *shape], zero where missing. The order of the names is the order of every M
            axis.
        mask: [M, B] bool, True where the modality was observed.
        entries: name -> [B, *shape] bool, True where the entry was observed; only for modalities with
            missing entries.
        extra: Anything that belongs to the samples and is never an input: ids, labels.
        complete: Everything is observed, as known on the host. Then nothing has to be gathered, and no
            device is waited for.
        covariates: What the networks of modalities that declare it are conditioned on, known for every sample.
        on_host: The mask on the host, if the batch is on a device and the host knows it; then no device is
            waited for to find the rows that were observed.

    Example:
        >>> import torch
        >>> import polyvae as pv
        >>> data = {"rna": torch.randn(4, 3), "protein": torch.randn(4, 2)}
        >>> batch = pv.Batch.of(data, mask={"protein": [True, True, False, True]})
        >>> batch
        Batch: 4 samples, 2 modalities, on cpu
          rna      (3,)  float32  100 % observed
          protein  (2,)  float32  75 % observed
        >>> batch.observe("rna").mask.sum(1)  # conditions on RNA
        tensor([4, 0])
    """

    data: Mapping[str, Tensor]
    mask: Tensor
    entries: Mapping[str, Tensor] = {}
    extra: Mapping[str, Any] = {}
    complete: bool = False
    covariates: Covariates = Covariates()
    on_host: OnHost | None = None

    @classmethod
    def of(
        cls,
        data: Mapping[str, Any],
        mask: Tensor | Mapping[str, Any] | None = None,
        entries: Mapping[str, Any] | None = None,
        covariates: Mapping[str, Any] | Covariates | None = None,
        **extra: Any,
    ) -> Batch:
        """Validate data and set missing values to zero.

        Gradients do not pass from the batch to the data.

        Args:
            data: name -> array [B, *shape]. Values that the masks mark as missing are ignored. The
                values that a NumPy masked array or a pandas object marks as missing are missing entries.
            mask: [M, B] bool, with rows in the order of ``data``, or name -> [B]; None: all observed.
            entries: name -> array [B, *shape] of bool, True where the entry was observed. A sample in which
                none is True lacks the modality.
            covariates: name -> [B], or one value for all: texts, booleans or a Categorical of pandas, which are levels, or numbers.
            **extra: Anything that belongs to the samples.

        Returns:
            The batch: ``data`` name -> [B, *shape] and ``mask`` [M, B].

        Raises:
            InputError: No modality, no rows, different numbers of rows, a mask of the wrong shape or
                type, an observed value that is not finite, or a missing covariate.
        """
        check_mapping("batch", data)
        if not data:
            raise InputError(
                "batch: got no modality; expected a mapping from names to tensors [B, *shape]; pass at "
                "least one"
            )
        read = {name: observed_tensor(f"modality {name!r}", x) for name, x in data.items()}
        tensors = {name: x for name, (x, _) in read.items()}
        rows = {name: len(x) if x.ndim else 0 for name, x in tensors.items()}
        count = next(iter(rows.values()))
        if len(set(rows.values())) > 1:
            raise InputError(
                f"batch: got different numbers of rows, {rows}; expected one row per sample in every "
                "modality; give a missing sample any value and mark it as missing in mask"
            )
        if count == 0:
            raise InputError(
                "batch: got zero rows; expected at least one sample; check how the data was filtered"
            )
        device = next(iter(tensors.values())).device
        present = _mask(mask, tuple(tensors), count, device)
        own = {name: inside for name, (_, inside) in read.items() if inside is not None}
        present, entry_masks = agreeing(present, _entries(entries or {}, own, tensors), tuple(tensors))
        filled = {}
        for row, (name, x) in zip(present, tensors.items(), strict=True):
            observed = entry_masks[name] if name in entry_masks else _spread(row, x)
            if x.is_floating_point() and not bool((x.isfinite() | ~observed).all()):
                bad = int((~x.isfinite() & observed).sum())
                raise InputError(
                    f"modality {name!r}: got {bad} values that are NaN or infinite where the mask marks them "
                    "as observed; expected finite values; mark them as missing in mask= or entries="
                )
            filled[name] = torch.where(observed, x, torch.zeros((), dtype=x.dtype, device=x.device))
        given = covariates_of(covariates, count, device) if covariates else Covariates()
        return cls(filled, present, entry_masks, dict(extra), bool(present.all()), given)

    def __repr__(self) -> str:
        observed = self.mask.sum(1).tolist()
        rows = [
            (
                name,
                str(tuple(x.shape[1:])),
                str(x.dtype).removeprefix("torch."),
                f"{_percent(count, self.size)} observed{self._shown_entries(name, count)}",
            )
            for (name, x), count in zip(self.data.items(), observed, strict=True)
        ]
        size = counted(self.size, "sample", "samples")
        head = f"Batch: {size}, {counted(len(rows), 'modality', 'modalities')}, on {self.device}"
        more = {"covariates": self.covariates.values, "extra": self.extra}
        lines = [f"  {what}: {', '.join(names)}" for what, names in more.items() if names]
        return "\n".join([head, *table(rows), *lines])

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, in the order of the M axis."""
        return tuple(self.data)

    @property
    def size(self) -> int:
        """The number of samples, B."""
        return self.mask.shape[1]

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.mask.device

    def observe(self, *names: str) -> Batch:
        """Condition on these modalities: all others become missing. The number of samples stays B.

        Raises:
            InputError: An unknown modality, with the nearest known one.
        """
        self._check(names)
        keep = torch.tensor([name in names for name in self.data])[:, None]
        on_host = None if self.on_host is None else OnHost(keep & self.on_host.mask)
        complete = self.complete and len(set(names)) == len(self.data)
        return self._where(to_device(keep, self.device) & self.mask, complete)._replace(on_host=on_host)

    def drop(self, *names: str) -> Batch:
        """Condition on all modalities except these.

        Raises:
            InputError: An unknown modality, with the nearest known one.
        """
        self._check(names)
        return self.observe(*(name for name in self.data if name not in names))

    def with_covariates(self, covariates: Mapping[str, Any]) -> Batch:
        """The same samples with other values of these covariates; further covariates are kept.

        Args:
            covariates: name -> [B], or one value for all samples.

        Raises:
            InputError: Another number of values, or a missing value.
        """
        given, own = covariates_of(covariates, self.size, self.device), self.covariates
        kept = {name: levels for name, levels in own.levels.items() if name not in given.values}
        return self._replace(
            covariates=Covariates({**own.values, **given.values}, {**kept, **given.levels}, own.rows)
        )

    def only(self, mask: Tensor) -> Batch:
        """The batch with everything missing that ``mask`` [M, B] does not mark as observed."""
        return self._where(self.mask & mask, False)

    def rows(self, index: Tensor | slice) -> Batch:
        """The samples that ``index`` selects: row numbers [B'], bool [B] or a slice."""
        numbers = torch.arange(self.size, device=self.device)[index].tolist() if self.extra else []
        take = {
            name: value[index]
            if isinstance(value, Tensor)
            else [value[row] for row in numbers]
            if isinstance(value, list | tuple) and len(value) == self.size
            else value
            for name, value in self.extra.items()
        }
        return Batch(
            {name: x[index] for name, x in self.data.items()},
            self.mask[:, index],
            {name: x[index] for name, x in self.entries.items()},
            take,
            self.complete,
            self.covariates.at(index) if self.covariates.values else self.covariates,
            OnHost(self.on_host.mask[:, index])
            if self.on_host is not None and isinstance(index, slice)
            else None,
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """The batch on ``device``, with floating-point data in ``dtype`` if it is given."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, dtype, non_blocking=True)

        stays = self.device.type == "cpu" and not self.complete
        on_host = OnHost(self.mask) if stays else self.on_host
        return Batch(
            {name: move(x) for name, x in self.data.items()},
            self.mask.to(device, non_blocking=True),
            {name: x.to(device, non_blocking=True) for name, x in self.entries.items()},
            {
                name: x.to(device, non_blocking=True) if isinstance(x, Tensor) else x
                for name, x in self.extra.items()
            },
            self.complete,
            self.covariates.to(device, dtype) if self.covariates.values else self.covariates,
            None if torch.device(device).type == "cpu" else on_host,
        )

    def _shown_entries(self, name: str, count: int) -> str:
        """The share of entries that were observed in the ``count`` samples with this modality."""
        if name not in self.entries:
            return ""
        entries = self.entries[name]
        return f", {_percent(int(entries.sum()), count * entries[:1].numel())} of their entries"

    def _check(self, names: tuple[str, ...]) -> None:
        for name in names:
            check_name(name)
            if name not in self.data:
                raise InputError(f"modality {name!r} is not in the batch; {nearest(name, self.data)}")

    def _where(self, mask: Tensor, complete: bool) -> Batch:
        data, entries = {}, {}
        for row, (name, x) in zip(mask, self.data.items(), strict=True):
            observed = row.view(-1, *[1] * (x.ndim - 1))
            data[name] = torch.where(observed, x, torch.zeros((), dtype=x.dtype, device=x.device))
            if name in self.entries:
                entries[name] = self.entries[name] & observed
        return Batch(data, mask, entries, self.extra, complete, self.covariates)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.3g} %"


def check_name(name: object) -> None:
    """Raises InputError unless ``name`` can be the name of a modality, such as for ``observe(["a", "b"])``."""
    if not isinstance(name, str):
        raise InputError(
            f"batch: got {type(name).__name__} as the name of a modality; expected strings, one argument for each; "
            "such as observe('a', 'b'), or observe(*names) for a list of names"
        )


def check_mapping(where: str, data: object) -> None:
    """Raises InputError unless ``data`` is a mapping."""
    if not isinstance(data, Mapping):
        raise InputError(
            f"{where}: got {type(data).__name__}; expected a mapping from names to arrays, one for each modality; "
            "such as {'rna': array}"
        )


def _mask(
    mask: Tensor | Mapping[str, Any] | None, names: tuple[str, ...], count: int, device: torch.device
) -> Tensor:
    if mask is None:
        return torch.ones(len(names), count, dtype=torch.bool, device=device)
    if isinstance(mask, Mapping):
        for name in mask:
            if name not in names:
                raise InputError(f"mask: modality {name!r} is not in the data; {nearest(name, names)}")
        full = torch.ones(count, dtype=torch.bool, device=device)
        lines = [whole_tensor(f"mask of {name!r}", mask.get(name, full)).to(device) for name in names]
        for name, line in zip(names, lines, strict=True):
            if line.shape != (count,):
                raise InputError(
                    f"mask: got shape {tuple(line.shape)} for modality {name!r}; expected ({count},), "
                    "one per sample; give one flag for each sample"
                )
        mask = torch.stack(lines)
    mask = whole_tensor("mask", mask).to(device)
    if mask.dtype != torch.bool or mask.shape != (len(names), count):
        raise InputError(
            f"mask: got {mask.dtype} of shape {tuple(mask.shape)}; expected torch.bool of shape "
            f"({len(names)}, {count}), [modalities, samples]; transpose or compare it first"
        )
    return mask


def _entries(
    entries: Mapping[str, Any], own: Mapping[str, Tensor], data: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The entry masks that were given, and those of the arrays themselves."""
    check_mapping("entries", entries)
    masks = {name: mask.to(data[name].device) for name, mask in own.items()}
    for name, value in entries.items():
        if name not in data:
            raise InputError(f"entries: modality {name!r} is not in the data; {nearest(name, data)}")
        mask = whole_tensor(f"entries of {name!r}", value).to(data[name].device)
        if mask.dtype != torch.bool or mask.shape != data[name].shape:
            raise InputError(
                f"entries: got {mask.dtype} of shape {tuple(mask.shape)} for modality {name!r}; expected "
                f"torch.bool of shape {tuple(data[name].shape)}, True where observed; torch.isfinite(x) is such a mask"
            )
        masks[name] = masks[name] & mask if name in masks else mask
    return masks


def agreeing(
    mask: Tensor, entries: Mapping[str, Tensor], names: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mask, False where no entry was observed, and the entry masks that say more than the mask."""
    rows, kept = list(mask), {}
    for name, given in entries.items():
        m = names.index(name)
        rows[m] = rows[m] & given.flatten(1).any(1)
        whole = _spread(rows[m], given)
        if not torch.equal(given & whole, whole):
            kept[name] = given & whole
    return torch.stack(rows), kept


def _spread(row: Tensor, x: Tensor) -> Tensor:
    """[B] -> [B, *shape], the same for all entries of a sample."""
    return row.view(-1, *[1] * (x.ndim - 1)).expand_as(x)

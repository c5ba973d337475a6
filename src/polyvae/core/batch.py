"""Tensors, and what of them was observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polyvae.utils.errors import InputError, nearest


class Batch(NamedTuple):
    """B samples in M modalities. Missing data is the mask, and only the mask.

    ``data``    name -> [B, *shape], zero where missing; the order of the names is the order of all M axes.
    ``mask``    [M, B] bool: was this modality of this sample observed?
    ``entries`` name -> [B, *shape] bool, only for modalities with gaps inside: was this entry observed?
    ``extra``   what travels along and is never an input: ids, labels, covariates.
    ``complete``  the host knows that everything is observed, so nothing need be gathered (and no device waited for).
    """

    data: Mapping[str, Tensor]
    mask: Tensor
    entries: Mapping[str, Tensor] = {}
    extra: Mapping[str, Any] = {}
    complete: bool = False

    @classmethod
    def of(
        cls,
        data: Mapping[str, Any],
        mask: Tensor | Mapping[str, Any] | None = None,
        entries: Mapping[str, Any] | None = None,
        **extra: Any,
    ) -> Batch:
        """The door: check what was given, zero-fill what is missing.

        ``data`` maps names to arrays [B, *shape]. ``mask`` is [M, B] (rows in the order of ``data``), or name -> [B], or None:
        all observed. ``entries`` maps names to arrays [B, *shape] of bool. Anything may stand under a False.

        Raises InputError: no modality, no rows, unequal numbers of rows, masks of the wrong shape or type, a value that is not
        finite where the mask says observed.
        """
        if not data:
            raise InputError(
                "batch: got no modality; expected a mapping from names to tensors [B, *shape]; pass at least one"
            )
        tensors = {name: _tensor(f"modality {name!r}", x) for name, x in data.items()}
        rows = {name: len(x) if x.ndim else 0 for name, x in tensors.items()}
        count = next(iter(rows.values()))
        if len(set(rows.values())) > 1:
            raise InputError(
                f"batch: got different numbers of rows, {rows}; expected one row per sample in every modality; "
                "give a missing sample any value and say so in mask"
            )
        if count == 0:
            raise InputError(
                "batch: got zero rows; expected at least one sample; check what the data was filtered by"
            )
        device = next(iter(tensors.values())).device
        present = _mask(mask, tuple(tensors), count, device)
        gaps = _entries(entries or {}, tensors)
        filled = {}
        for row, (name, x) in zip(present, tensors.items(), strict=True):
            seen = row.view(-1, *[1] * (x.ndim - 1)).expand_as(x)
            if name in gaps:
                gaps[name] = gaps[name] & seen
                seen = gaps[name]
            if x.is_floating_point() and not bool((x.isfinite() | ~seen).all()):
                bad = int((~x.isfinite() & seen).sum())
                raise InputError(
                    f"modality {name!r}: got {bad} values that are NaN or infinite where the mask says observed; "
                    "expected finite values; mark them as missing in mask= or entries="
                )
            filled[name] = torch.where(seen, x, torch.zeros((), dtype=x.dtype, device=x.device))
        return cls(filled, present, gaps, dict(extra), bool(present.all()))

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
        return self.mask.device

    def observe(self, *names: str) -> Batch:
        """Condition on these modalities: of the others, nothing is observed."""
        self._known(names)
        keep = torch.tensor([name in names for name in self.data], device=self.device)
        return self._where(keep[:, None] & self.mask, self.complete and len(set(names)) == len(self.data))

    def drop(self, *names: str) -> Batch:
        """Condition on all modalities but these."""
        self._known(names)
        return self.observe(*(name for name in self.data if name not in names))

    def only(self, mask: Tensor) -> Batch:
        """Observe no more than ``mask`` [M, B] says."""
        return self._where(self.mask & mask, False)

    def rows(self, index: Tensor | slice) -> Batch:
        """The samples that ``index`` picks."""
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
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """On ``device``; floating-point data in ``dtype`` where one is given."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, dtype, non_blocking=True)

        return Batch(
            {name: move(x) for name, x in self.data.items()},
            self.mask.to(device, non_blocking=True),
            {name: x.to(device, non_blocking=True) for name, x in self.entries.items()},
            {name: x.to(device) if isinstance(x, Tensor) else x for name, x in self.extra.items()},
            self.complete,
        )

    def _known(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in self.data:
                raise InputError(f"modality {name!r} is not in the batch; {nearest(name, self.data)}")

    def _where(self, mask: Tensor, complete: bool) -> Batch:
        data, entries = {}, {}
        for row, (name, x) in zip(mask, self.data.items(), strict=True):
            seen = row.view(-1, *[1] * (x.ndim - 1))
            data[name] = torch.where(seen, x, torch.zeros((), dtype=x.dtype, device=x.device))
            if name in self.entries:
                entries[name] = self.entries[name] & seen
        return Batch(data, mask, entries, self.extra, complete)


def _tensor(what: str, x: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(x)
    except (
        TypeError,
        ValueError,
        RuntimeError,
        LookupError,
    ) as problem:  # LookupError: a DataFrame, asked for its row 0
        raise InputError(
            f"{what}: got {type(x).__name__}; expected numbers, [B, *shape]; convert it first, a DataFrame with .to_numpy() "
            f"({' '.join(str(problem).split())[:200]})"
        ) from None
    if tensor.is_complex():
        raise InputError(
            f"{what}: got dtype {tensor.dtype}; expected real numbers; split it into real and imaginary parts"
        )
    return tensor


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
        lines = [torch.as_tensor(mask.get(name, full), device=device) for name in names]
        for name, line in zip(names, lines, strict=True):
            if line.shape != (count,):
                raise InputError(
                    f"mask: got shape {tuple(line.shape)} for modality {name!r}; expected ({count},), one per sample"
                )
        mask = torch.stack(lines)
    mask = torch.as_tensor(mask, device=device)
    if mask.dtype != torch.bool or mask.shape != (len(names), count):
        raise InputError(
            f"mask: got {mask.dtype} of shape {tuple(mask.shape)}; expected torch.bool of shape "
            f"({len(names)}, {count}), [modalities, samples]; transpose or compare it first"
        )
    return mask


def _entries(entries: Mapping[str, Any], data: Mapping[str, Tensor]) -> dict[str, Tensor]:
    gaps = {}
    for name, value in entries.items():
        if name not in data:
            raise InputError(f"entries: modality {name!r} is not in the data; {nearest(name, data)}")
        gap = torch.as_tensor(value, device=data[name].device)
        if gap.dtype != torch.bool or gap.shape != data[name].shape:
            raise InputError(
                f"entries: got {gap.dtype} of shape {tuple(gap.shape)} for modality {name!r}; expected torch.bool of "
                f"shape {tuple(data[name].shape)}, True where observed"
            )
        gaps[name] = gap
    return gaps

"""Covariates: what is known about every sample and is conditioned on, such as its batch, site or age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polyvae.utils.devices import to_device
from polyvae.utils.errors import InputError, is_number, nearest
from polyvae.utils.levels import column


class Covariates(NamedTuple):
    """The covariates of the samples of a batch.

    Attributes:
        values: name -> [B], floating-point numbers, or int64 numbers of levels.
        levels: name -> names of its levels, for categorical covariates.
        rows: modality -> [P], the samples from which its covariates are taken, for a batch that combines modalities of different
            samples; empty: the samples in order.
    """

    values: Mapping[str, Tensor] = {}
    levels: Mapping[str, tuple[str, ...]] = {}
    rows: Mapping[str, Tensor] = {}

    def at(self, index: Tensor | slice) -> Covariates:
        """The covariates of the samples that ``index`` selects."""
        return self._replace(values={name: x[index] for name, x in self.values.items()})

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Covariates:
        """The covariates on ``device``, with numbers in ``dtype`` if it is given."""
        return self._replace(
            values={
                name: x.to(device, None if name in self.levels else dtype, non_blocking=True)
                for name, x in self.values.items()
            }
        )


@dataclass(frozen=True)
class Covariate:
    """A covariate as a network receives it: a column of zeros and ones for each level, or one standardised number.

    ``data.modalities(covariates=("batch", "age"))`` makes them from training data. Several of one name are columns
    of the same covariate; a level that none of them names is refused.

    Args:
        name: The name of the covariate in the data.
        levels: The names of its levels; None: a number.
        mean: Subtracted from a number.
        scale: A number is divided by this after that.

    Raises:
        InputError: No name, repeated levels, or a scale that is not above 0.

    Example:
        >>> import torch
        >>> from polyvae import Covariate
        >>> Covariate("batch", ("a", "b")).encode(torch.tensor([1, 0]), ("a", "b"), torch.float32)
        tensor([[0., 1.],
                [1., 0.]])
        >>> Covariate("age", mean=50.0, scale=10.0).encode(torch.tensor([45.0]), (), torch.float32)
        tensor([[-0.5000]])
    """

    name: str
    levels: tuple[str, ...] | None = None
    mean: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"covariate: got name {self.name!r}; expected a non-empty string; name it")
        where = f"covariate {self.name!r}"
        if self.levels is not None:
            if isinstance(self.levels, str) or not isinstance(self.levels, Sequence):
                raise InputError(
                    f"{where}: got levels={self.levels!r}; expected a list of names; such as ['a', 'b']"
                )
            levels = tuple(map(str, self.levels))
            if not levels or len(set(levels)) < len(levels):
                raise InputError(
                    f"{where}: got levels {list(levels)}; expected distinct names, one or more; correct them"
                )
            object.__setattr__(self, "levels", levels)
        if not is_number(self.mean) or not is_number(self.scale) or self.scale <= 0:
            raise InputError(
                f"{where}: got mean={self.mean!r} and scale={self.scale!r}; expected finite numbers, the scale above 0; correct them"
            )

    @property
    def columns(self) -> int:
        """The number of columns."""
        return 1 if self.levels is None else len(self.levels)

    def encode(self, values: Tensor, levels: Sequence[str], dtype: torch.dtype) -> Tensor:
        """The columns of a covariate.

        Args:
            values: [B], numbers of ``levels``, or numbers.
            levels: The names of the levels that the values number; not used for a number.
            dtype: The dtype of the result.

        Returns:
            [B, columns].
        """
        if self.levels is None:
            return ((values.to(dtype) - self.mean) / self.scale)[:, None]
        place = {level: at for at, level in enumerate(levels)}
        own = to_device(torch.tensor([place.get(level, -1) for level in self.levels]), values.device)
        return (values[:, None] == own).to(dtype)

    def reference(self) -> list[float]:
        """The columns at the first level, or at the mean."""
        return [0.0] if self.levels is None else [1.0] + [0.0] * (len(self.levels) - 1)

    def described(self) -> dict[str, Any]:
        """A table from which the covariate can be made again."""
        if self.levels is not None:
            return {"name": self.name, "levels": list(self.levels)}
        return {"name": self.name, "mean": float(self.mean), "scale": float(self.scale)}


def covariates_of(given: object, count: int, device: torch.device | str = "cpu") -> Covariates:
    """The covariates of ``count`` samples.

    Args:
        given: name -> [count] or one value for all: texts, booleans or a Categorical of pandas (levels), or numbers.
        count: The number of samples.
        device: Where the tensors are put.

    Raises:
        InputError: No mapping, another number of values, a missing value, or values that are neither texts nor numbers.
    """
    if isinstance(given, Covariates):
        for name, x in given.values.items():
            if x.shape != (count,):
                raise InputError(
                    f"covariate {name!r}: got shape {tuple(x.shape)}; expected ({count},), one per sample; check which rows they belong to"
                )
        return given.to(device)
    if not isinstance(given, Mapping):
        raise InputError(
            f"covariates: got {type(given).__name__}; expected a mapping from names to a value for each sample; "
            "such as {'batch': ['a', 'b', 'b']}"
        )
    values, levels = {}, {}
    for name, x in given.items():
        if not isinstance(name, str) or not name:
            raise InputError(f"covariates: got name {name!r}; expected a non-empty string; name it")
        found, names = column(f"covariate {name!r}", x, count)
        values[name] = torch.from_numpy(found).to(device)
        if names is not None:
            levels[name] = names
    return Covariates(values, levels)


def check_covariates(where: str, given: object) -> tuple[Covariate | str, ...]:
    """The covariates of a modality: names, tables with the arguments of Covariate, or Covariate.

    Raises InputError: anything else, or a covariate that is a number and occurs more than once.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InputError(
            f"{where}: got covariates={given!r}; expected a list of names; such as covariates=('batch',)"
        )
    found: list[Covariate | str] = []
    for one in given:
        if isinstance(one, Mapping):
            known = ("name", "levels", "mean", "scale")
            for key in one:
                if key not in known:
                    raise InputError(f"{where}: covariates: unknown key {key!r}; {nearest(str(key), known)}")
            if "name" not in one:
                raise InputError(
                    f"{where}: got a covariate without a name; expected one; add name to its table"
                )
            one = Covariate(**one)
        if not isinstance(one, Covariate | str) or not one:
            raise InputError(
                f"{where}: got {one!r} among its covariates; expected the name of a covariate; such as 'batch'"
            )
        found.append(one)
    _check_once(where, found)
    return tuple(found)


def _check_once(where: str, found: Sequence[Covariate | str]) -> None:
    seen: dict[str, tuple[str, ...] | None] = {}
    for one in found:
        name = one if isinstance(one, str) else one.name
        levels = None if isinstance(one, str) else one.levels
        before = seen.get(name)
        if name in seen and (levels is None or before is None or set(levels) & set(before)):
            raise InputError(
                f"{where}: got covariate {name!r} twice; expected each name once, or with other levels; remove one"
            )
        seen[name] = levels if name not in seen or levels is None or before is None else before + levels


def ready(where: str, given: Sequence[Covariate | str]) -> tuple[Covariate, ...]:
    """The covariates with their levels and scales. Raises InputError: one of which only the name is known."""
    found = []
    for one in given:
        if isinstance(one, str):
            raise InputError(
                f"{where}: got covariate {one!r} by name, without its levels or scale; expected a Covariate; build the model from "
                f"data.modalities(), which reads them from the data, or give Covariate({one!r}, levels=(...))"
            )
        found.append(one)
    return tuple(found)


def width(given: Sequence[Covariate | str]) -> int:
    """The number of columns of the covariates."""
    return sum(one.columns for one in given if isinstance(one, Covariate))


def columns(given: Sequence[Covariate], found: Covariates, dtype: torch.dtype) -> Tensor:
    """The columns of covariates of a batch that was admitted: [B, C]."""
    return torch.cat(
        [one.encode(found.values[one.name], found.levels.get(one.name, ()), dtype) for one in given], 1
    )


def reference(given: Sequence[Covariate], rows: int, like: Tensor) -> Tensor:
    """The columns of ``rows`` samples at the first level of each covariate, and at the mean: [rows, C].

    Of several of one name, which are levels that were added, the first has that level.
    """
    first = {one.name: one for one in reversed(given)}
    found = [x for one in given for x in (one.reference() if first[one.name] is one else [0.0] * one.columns)]
    return like.new_tensor(found).expand(rows, -1)


def check_names(given: Mapping[str, Any], declared: Sequence[Covariate]) -> None:
    """Raises InputError: a covariate that no modality declares, whose value would have no effect."""
    known = {one.name for one in declared}
    for name in given:
        if name not in known:
            hint = nearest(str(name), known) if known else "the model has none"
            raise InputError(f"covariates: no modality is conditioned on {name!r}; {hint}")


def check_known(model: str, declared: Mapping[str, Sequence[Covariate]], found: Covariates) -> None:
    """Check that a batch has the covariates that its model conditions on.

    Args:
        model: The name of the model, for errors.
        declared: modality -> its covariates.
        found: The covariates of the batch.

    Raises:
        InputError: A covariate that the batch lacks, one of another kind, or an unknown level.
    """
    for name, own in declared.items():
        for one in own:
            where = f"covariate {one.name!r} of modality {name!r}"
            if one.name not in found.values:
                hint = (
                    nearest(one.name, found.values)
                    if found.values
                    else f"give Batch.of(..., covariates={{{one.name!r}: ...}}), or MultimodalData the same"
                )
                raise InputError(
                    f"{model}: got a batch without {where}; expected a value for each sample; {hint}"
                )
            if (one.name in found.levels) != (one.levels is not None):
                expected = "numbers" if one.levels is None else f"levels, such as {one.levels[0]!r}"
                raise InputError(
                    f"{where}: got {'levels' if one.levels is None else 'numbers'}; expected {expected}; give numbers as numbers, "
                    "and levels as texts"
                )
        _check_levels(name, own, found)


def _check_levels(name: str, own: Sequence[Covariate], found: Covariates) -> None:
    known: dict[str, tuple[str, ...]] = {}
    for one in own:
        if one.levels is not None:
            known[one.name] = known.get(one.name, ()) + one.levels
    for covariate, levels in known.items():
        # Compared on the host; only where names differ, the values have to be looked at.
        unknown = [at for at, level in enumerate(found.levels[covariate]) if level not in levels]
        if unknown:
            values = found.values[covariate]
            present = values[torch.isin(values, torch.tensor(unknown, device=values.device))]
            if len(present):
                level = found.levels[covariate][int(present[0])]
                raise InputError(
                    f"covariate {covariate!r} of modality {name!r}: unknown level {level!r}; {nearest(level, levels)}; add a new level "
                    "to a trained model with polyvae.extend"
                )

"""The covariates of MultimodalData, and the specifications that are conditioned on them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.covariates import Covariate, Covariates, covariates_of
from polyvae.core.modality import Modality
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.records import Record
from polyvae.utils.text import counted


class Conditioned:
    """The covariates of MultimodalData, by name."""

    _stored: Batch
    _splits: Mapping[str, Tensor]

    @property
    def covariates(self) -> dict[str, NDArray[np.object_] | Tensor]:
        """Name -> [N]: the level of each sample as text, or floating-point numbers. Empty where there are none."""
        found = self._stored.covariates
        return {
            name: np.array(found.levels[name], dtype=object)[x.cpu().numpy()] if name in found.levels else x
            for name, x in found.values.items()
        }

    def resolved(self, specs: Sequence[Modality]) -> list[Modality]:
        """Specifications with levels and scales of the covariates that they name.

        They are those of the split "train", if there is one: a level without a training sample stays unknown.

        Args:
            specs: The specifications.

        Raises:
            InputError: A name that is no covariate of the data.
        """
        rows, found = self._splits.get("train"), self._stored.covariates
        return [
            dataclasses.replace(
                spec,
                covariates=tuple(
                    _resolved(f"modality {spec.name!r}", one, found, rows) if isinstance(one, str) else one
                    for one in spec.covariates
                ),
            )
            if spec.covariates
            else spec
            for spec in specs
        ]

    def _shown_covariates(self) -> str:
        found = self._stored.covariates
        shown = [
            f"{name} ({counted(len(found.levels[name]), 'level', 'levels') if name in found.levels else 'number'})"
            for name in found.values
        ]
        return f"; covariates: {', '.join(shown)}" if shown else ""

    def _facts_of_covariates(self) -> dict[str, object]:
        """What belongs to the digest of the data beside the values; empty where there are none."""
        return {"levels": self._stored.covariates.levels} if self._stored.covariates.values else {}


def _resolved(where: str, name: str, found: Covariates, rows: Tensor | None) -> Covariate:
    if name not in found.values:
        hint = (
            nearest(name, found.values)
            if found.values
            else "the data have none; pass covariates= to MultimodalData"
        )
        raise InputError(f"{where}: covariate {name!r} is not in the data; {hint}")
    values = found.values[name] if rows is None else found.values[name][rows.to(found.values[name].device)]
    if name in found.levels:
        present = torch.unique(values).tolist()
        return Covariate(name, tuple(found.levels[name][at] for at in present))
    constant = bool(values.min() == values.max())  # of which the standard deviation need not be exactly 0
    scale = 1.0 if constant else float(values.std(correction=0))
    return Covariate(name, mean=float(values.mean()), scale=scale)


# ---- columns of covariates, as a schema describes them -----------------------------------------------------------

Data = TypeVar("Data", bound=Conditioned)


class Known(Record):
    """A covariate of the training data.

    Args:
        name: Its name.
        levels: Its levels; None: it is a number.
        mean: The mean of a number.
        scale: The standard deviation of a number.
        added: Levels that were added after the training. They have columns of their own, after those of all covariates of the training.
    """

    name: Annotated[str, Field(min_length=1)]
    levels: Annotated[list[str], Field(min_length=1)] | None = None
    mean: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0
    added: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _distinct(self) -> Known:
        levels = (*(self.levels or ()), *self.added)
        if len(set(levels)) < len(levels) or (self.added and self.levels is None):
            raise ValueError("distinct levels")
        return self

    @property
    def covariate(self) -> Covariate:
        """What encodes it."""
        levels = None if self.levels is None else tuple(self.levels)
        return Covariate(self.name, levels, self.mean, self.scale)


def known_of(data: Conditioned, names: Sequence[str]) -> list[Known]:
    """What the data say about some of their covariates. Raises InputError: a name that is no covariate of the data."""
    found = [_resolved("estimator", name, data._stored.covariates, None) for name in names]
    return [
        Known(
            name=one.name,
            levels=None if one.levels is None else list(one.levels),
            mean=one.mean,
            scale=one.scale,
        )
        for one in found
    ]


def encoded(
    known: Sequence[Known], data: Conditioned, instead: Mapping[str, Any] | None = None
) -> NDArray[np.float32]:
    """The columns of covariates of samples: zeros and ones for the levels of each, and standardised numbers.

    Args:
        known: The covariates.
        data: The samples, N of them.
        instead: Name -> one value for all samples or [N], which takes the place of their own.

    Returns:
        [N, C], the columns of the training and then those of levels that were added.

    Raises:
        InputError: A covariate that the data lack, one of another kind, or an unknown level.
    """
    stored = data._stored
    names = [one.name for one in known]
    for name in instead or {}:
        if name not in names:
            raise InputError(
                f"covariates: got {name!r}, which the training data had no values of; {nearest(str(name), names)}"
            )
    given = covariates_of(instead, stored.size) if instead else Covariates()
    parts = [
        _encoded(one, given if one.name in given.values else stored.covariates, stored.size) for one in known
    ]
    own = [one.covariate.columns for one in known]
    parts = [x[:, :size] for x, size in zip(parts, own, strict=True)] + [
        x[:, size:] for x, size in zip(parts, own, strict=True)
    ]
    return np.concatenate(parts, 1) if parts else np.zeros((stored.size, 0), np.float32)


def _encoded(one: Known, found: Covariates, count: int) -> NDArray[np.float32]:
    where = f"covariate {one.name!r}"
    if one.name not in found.values:
        hint = nearest(one.name, found.values) if found.values else "the data have none"
        raise InputError(
            f"{where}: got data without it; expected a value for each sample, as in the training data; {hint}"
        )
    values = found.values[one.name].cpu()
    if (one.name in found.levels) != (one.levels is not None):
        got, expected = ("numbers", "levels") if one.levels is not None else ("levels", "numbers")
        shown = "" if one.levels is None else f", such as {one.levels[0]!r}"
        raise InputError(
            f"{where}: got {got}; expected {expected}{shown}, as in the training data; convert them"
        )
    names = found.levels.get(one.name, ())
    if one.levels is None:
        return one.covariate.encode(values, names, torch.float32).numpy().reshape(count, -1)
    levels = (*one.levels, *one.added)
    for at in torch.unique(values).tolist():
        if names[at] not in levels:
            raise InputError(
                f"{where}: unknown level {names[at]!r}; {nearest(names[at], levels)}; fit with samples of it, add it by extend, or give "
                "these samples a known level"
            )
    return (
        Covariate(one.name, levels).encode(values, names, torch.float32).numpy().reshape(count, len(levels))
    )


def with_levels_of(known: Sequence[Known], data: Conditioned) -> list[Known]:
    """The covariates, with the levels that occur in these data alone added to each. Raises InputError: there are none."""
    found, result = data._stored.covariates, list[Known]()
    for one in known:
        more = list[str]()
        if one.levels is not None and one.name in found.levels:
            present = [found.levels[one.name][at] for at in torch.unique(found.values[one.name]).tolist()]
            more = [level for level in present if level not in (*one.levels, *one.added)]
        result.append(one.model_copy(update={"added": [*one.added, *more]}))
    if result == list(known):
        names = [one.name for one in known if one.levels is not None]
        got = "no covariate with levels" if not names else f"no new level of {', '.join(names)}"
        raise InputError(
            f"extend: got {got}; expected samples of one; impute and transform take known levels"
        )
    return result


def is_levels(data: Conditioned, name: str) -> bool:
    """Whether a covariate of the data has levels rather than numbers."""
    return name in data._stored.covariates.levels


def conditioned_on(data: Data, names: Sequence[str], classes: Sequence[str] = ()) -> Data:
    """The same samples with some of their covariates alone; numbers of ``classes`` become levels: 1.0 is "1"."""
    found = data._stored.covariates
    values = {name: found.values[name] for name in names if name in found.values}
    levels = {name: own for name, own in found.levels.items() if name in values}
    for name in classes:
        if name in values and name not in levels:
            texts, numbers = np.unique(values[name].cpu().numpy(), return_inverse=True)
            levels[name] = tuple(f"{value:.15g}" for value in texts.tolist())
            values[name] = torch.from_numpy(numbers.reshape(-1).astype(np.int64)).to(values[name].device)
    other = copy.copy(data)
    other._stored = data._stored._replace(covariates=found._replace(values=values, levels=levels))
    return other

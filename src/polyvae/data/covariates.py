"""The covariates of MultimodalData, and the specifications that are conditioned on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.covariates import Covariate, Covariates
from polyvae.core.modality import Modality
from polyvae.utils.errors import InputError, nearest
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

"""One embedding for an ensemble: the principal components of the latents of all members."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.imputer import Imputer
from polyvae.imputation.simple import components
from polyvae.imputation.tables import Tables

_SAMPLES = 20_000


class Embedding(NamedTuple):
    """A linear map from the latents of all members to D columns.

    The latents of members have no common axes, so they are joined, and their principal components over the training samples are kept.

    Attributes:
        mean: [L], of the joined latents.
        axes: [L, D].
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]

    @classmethod
    def fit(cls, imputer: Imputer, width: int) -> Embedding:
        """The components of the training samples, at most ``width`` of them."""
        step = -(-imputer.tables.size // _SAMPLES)
        joined = _latents(imputer, imputer.tables.rows(slice(None, None, step)))[0]
        pca = components(joined, width)
        return cls(pca.mean_.astype(np.float32), pca.components_.T.astype(np.float32))

    @property
    def width(self) -> int:
        """D."""
        return int(self.axes.shape[1])

    def of(self, imputer: Imputer, tables: Tables) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Means and standard deviations of the columns, [N, D] each."""
        mean, scale = _latents(imputer, tables)
        variance = scale**2 @ self.axes**2
        return np.asarray((mean - self.mean) @ self.axes, np.float32), np.sqrt(variance, dtype=np.float32)


def _latents(imputer: Imputer, tables: Tables) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    tables = imputer.admit(tables)
    each = [members.embed(tables) for members in imputer.ensembles.values()]
    return np.concatenate([mean for mean, _ in each], 1), np.concatenate([scale for _, scale in each], 1)

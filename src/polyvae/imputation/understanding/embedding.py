"""One embedding for an ensemble: the principal components of what its members expect of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.imputation.imputer import Imputer
from polyvae.imputation.methods.members import Members
from polyvae.imputation.methods.simple import components
from polyvae.imputation.tables import Floats, Tables
from polyvae.utils.seeds import fold_in

_SAMPLES = 20_000  # from which the components are computed, at most
_CELLS = 2**25  # expected values of these samples, at most
_PIECE = 2048  # samples that are embedded at a time
_DRAWS = 4  # of each member, for the standard deviation


class Embedding(NamedTuple):
    """A linear map from the expected values of all modalities to D columns.

    The latents of members have no common axes. What they have in common is what they expect of every modality, given what was observed of
    a sample. Its principal components over the training samples are the embedding. Decoders are given the means of covariates there, so
    that samples which differ in their covariates alone have nearly the same embedding.

    Attributes:
        mean: [P], of the expected values of the training samples.
        axes: [P, D].
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]

    @classmethod
    def fit(cls, imputer: Imputer, width: int) -> Embedding:
        """The components of the training samples, at most ``width`` of them."""
        part = at_means(imputer, imputer.tables.rows(sampled(imputer)))
        expected = joined(imputer, members_of(imputer).predict(part))
        pca = components(expected, width)
        return cls(pca.mean_.astype(np.float32), pca.components_.T.astype(np.float32))

    @property
    def width(self) -> int:
        """D."""
        return int(self.axes.shape[1])

    def of(self, imputer: Imputer, tables: Tables) -> Floats:
        """The embedding of samples, [N, D]."""
        return self.of_admitted(imputer, imputer.admit(tables))

    def of_admitted(self, imputer: Imputer, tables: Tables) -> Floats:
        """The embedding of samples that the imputer admitted, or of its training samples, [N, D]."""
        tables = at_means(imputer, tables)
        return np.concatenate(
            [self.project(imputer, members_of(imputer).predict(part)) for part in _pieces(tables)]
        )

    def spread(self, imputer: Imputer, tables: Tables, seed: int) -> Floats:
        """The standard deviation of the embedding over members and draws from their posteriors, [N, D]."""
        tables = at_means(imputer, imputer.admit(tables))
        return np.concatenate([self._spread(imputer, part, seed) for part in _pieces(tables)])

    def _spread(self, imputer: Imputer, part: Tables, seed: int) -> Floats:
        drawn = [
            self.project(imputer, each)
            for number in range(_DRAWS)
            for each in members_of(imputer).expected(part, fold_in(seed, "embedding", number))
        ]
        return np.asarray(np.std(drawn, axis=0, ddof=1), np.float32)

    def project(self, imputer: Imputer, expected: Mapping[str, Floats]) -> Floats:
        """The embedding [N, D] of expected values of all modalities."""
        return np.asarray((joined(imputer, expected) - self.mean) @ self.axes, np.float32)


def at_means(imputer: Imputer, tables: Tables) -> Tables:
    """Samples of which predictions are made at the mean of each column of covariates of the training samples."""
    known = imputer.tables.covariates
    if known is None:
        return tables
    return tables._replace(wanted=np.repeat(known.mean(0, keepdims=True), tables.size, 0))


def sampled(imputer: Imputer) -> slice:
    """The training samples whose expected values are computed together: all, or every n-th of many."""
    columns = sum(x.shape[1] for x in imputer.tables.values.values())
    return slice(None, None, -(-imputer.tables.size // min(_SAMPLES, max(1000, _CELLS // columns))))


def members_of(imputer: Imputer) -> Members:
    """The ensemble whose expected values are embedded."""
    return next(iter(imputer.ensembles.values()))


def joined(imputer: Imputer, expected: Mapping[str, Floats]) -> Floats:
    """The expected values of all modalities that are encoded, side by side: [N, P]."""
    names = [name for name in imputer.tables.names if name not in imputer.targets]
    return np.concatenate([expected[name] for name in names], 1)


def _pieces(tables: Tables) -> list[Tables]:
    return [tables.rows(slice(start, start + _PIECE)) for start in range(0, tables.size, _PIECE)]

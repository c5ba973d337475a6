"""The table of variance explained: R² by latent dimension, modality and feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyvae.utils.errors import InputError, nearest

Array = NDArray[np.float64]
PARTS: Mapping[str, str] = {
    "all": "all latents",
    "shared": "z alone",
    "private": "w alone",
    "others": "given the others",
}
SHOWN = 0.01
"""A latent dimension that explains less than this share of the variance of every modality is not shown in tables."""


@dataclass(frozen=True, repr=False)
class VarianceExplained:
    """R² by latent dimension, modality and feature.

    R² of a modality is that of its features pooled: 1 − Σ_f residual variance / Σ_f variance. A feature that does not vary, or was not
    observed twice, has none (NaN), and has no weight.

    Attributes:
        latents: The names of the L latent dimensions.
        parts: Which sets of latents have an R² too, among the keys of ``PARTS``.
        features: Modality -> the names of its F features.
        r2: Modality -> [L + parts, F], the latent dimensions first. A dimension that the modality does not have is NaN.
        variance: Modality -> [F], the sum of squared deviations of each feature.
        factors: [N, L], the values of the latent dimensions; None: they were not kept.
        whole: Part -> modality -> the R² of the modality, where it was measured on other samples than ``variance``; in place of the
            pooled one.
        weights: Modality -> [F, L], where each feature is a linear function of the latent dimensions: of an ``Estimator``, of its
            standardised features.

    Example:
        >>> import numpy as np
        >>> from polyvae.metrics import VarianceExplained
        >>> table = VarianceExplained(
        ...     ("z0", "z1"), ("all",), {"rna": ("TP53", "MYC")}, {"rna": np.array([[0.6, 0], [0.1, 0.2], [0.7, 0.2]])}, {"rna": np.ones(2)}
        ... )
        >>> print(table.table())
        variance explained    rna
        z0                  0.300
        z1                  0.150
        all latents         0.450
        >>> table.value("rna", "z0", "TP53"), table.top("z0", 1)
        (0.6, [('rna', 'TP53', 0.6)])
    """

    latents: tuple[str, ...]
    parts: tuple[str, ...]
    features: Mapping[str, tuple[str, ...]]
    r2: Mapping[str, Array]
    variance: Mapping[str, Array]
    factors: Array | None = None
    whole: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    weights: Mapping[str, Array] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities, in order."""
        return tuple(self.features)

    def value(self, modality: str, what: str = "all", feature: str | None = None) -> float:
        """One R², NaN where it is undefined.

        Args:
            modality: The modality.
            what: A latent dimension, or one of ``parts``.
            feature: One of its features. None: all of them, pooled.

        Raises:
            InputError: An unknown name.
        """
        row = self.r2[self._known("modality", modality, self.modalities)][self._row(what)]
        if feature is not None:
            names = self.features[modality]
            return float(row[names.index(self._known("feature", feature, names))])
        if what in self.whole:
            return self.whole[what][modality]
        return pooled(row, self.variance[modality])

    def by_latent(self, modality: str) -> dict[str, float]:
        """The R² of each latent dimension that the modality has."""
        found = {name: self.value(modality, name) for name in self.latents}
        return {name: value for name, value in found.items() if not np.isnan(value)}

    def active(self, least: float = SHOWN) -> tuple[str, ...]:
        """The latent dimensions that explain at least this share of the variance of some modality."""
        return tuple(
            name
            for name in self.latents
            if any(self.value(modality, name) >= least for modality in self.modalities)
        )

    def top(self, latent: str, count: int = 5) -> list[tuple[str, str, float]]:
        """The features of which a latent dimension explains most: modality, feature and R², the highest first.

        Args:
            latent: The latent dimension.
            count: How many.
        """
        row = self._row(latent)
        found = [
            (modality, feature, float(value))
            for modality, names in self.features.items()
            for feature, value in zip(names, self.r2[modality][row], strict=True)
            if not np.isnan(value)
        ]
        return sorted(found, key=lambda each: -each[2])[:count]

    def table(self, least: float = SHOWN) -> str:
        """Latent dimensions by modality as text, and the parts below.

        Args:
            least: Leave out latent dimensions that explain less in every modality.
        """
        rows = [["variance explained", *self.modalities]]
        for name in (*self.active(least), *self.parts):
            cells = [self.value(modality, name) for modality in self.modalities]
            shown = ["–" if np.isnan(value) else f"{round(value, 3) or 0.0:.3f}" for value in cells]
            rows.append([PARTS[name] if name in self.parts else name, *shown])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            "  ".join(
                [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        )

    def to_columns(self, features: bool = False) -> dict[str, list[Any]]:
        """A long table: "modality", "feature", "latent" and "r2"; undefined values have no row.

        Args:
            features: One row for each feature, instead of one for each modality, whose "feature" is None.
        """
        rows: list[tuple[str, str | None, str, float]] = []
        for modality, names in self.features.items():
            for at, name in enumerate((*self.latents, *self.parts)):
                each = self.r2[modality][at].tolist() if features else [self.value(modality, name)]
                for feature, value in zip(names if features else (None,), each, strict=True):
                    if not np.isnan(value):
                        rows.append((modality, feature, name, value))
        keys = ("modality", "feature", "latent", "r2")
        return {key: [row[at] for row in rows] for at, key in enumerate(keys)}

    def to_frame(self, features: bool = False) -> Any:
        """``to_columns`` as a pandas DataFrame; without pandas, the columns.

        Args:
            features: One row for each feature.
        """
        try:
            import pandas
        except ModuleNotFoundError:
            return self.to_columns(features)
        return pandas.DataFrame(self.to_columns(features))

    def __repr__(self) -> str:
        return self.table()

    def _row(self, what: str) -> int:
        names = (*self.latents, *self.parts)
        return names.index(self._known("latent", what, names))

    def _known(self, kind: str, name: str, names: Sequence[str]) -> str:
        if name not in names:
            raise InputError(
                f"variance explained: {name!r} is not a {kind} of this table; {nearest(name, names)}"
            )
        return name


def pooled(r2: Array, variance: Array) -> float:
    """The R² of several features together, from their R² and sums of squared deviations: [F], [F]."""
    known = ~np.isnan(r2) & (variance > 0)
    total = float(variance[known].sum())
    return float((r2[known] * variance[known]).sum() / total) if total else float("nan")
